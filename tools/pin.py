"""``python tools/pin.py``: writes ``constraints.txt``, the version of every package in this environment.

Run it with the Python of the environment in which the tests passed (``make pin``). Local version labels such as
``+cpu`` are left out, so that the file also fits other builds of the same release.
"""

from __future__ import annotations

from importlib.metadata import distributions
from pathlib import Path

TARGET = Path(__file__).parents[1] / "constraints.txt"
HEAD = """\
# The versions that the tests last passed with, Python 3.11 on Linux; written by `make pin`.
# torch: pip on Linux may take a CUDA build of this version. README, "Install", says how to take the CPU build.
"""
LEFT_OUT = {"pip", "setuptools", "sifu-graph", "wheel"}


def main() -> None:
    found = {
        distribution.metadata["Name"].lower().replace("_", "-"): distribution.version.partition("+")[0]
        for distribution in distributions()
    }
    lines = [f"{name}=={version}\n" for name, version in sorted(found.items()) if name not in LEFT_OUT]
    TARGET.write_text(HEAD + "".join(lines), encoding="utf-8")


if __name__ == "__main__":
    main()
