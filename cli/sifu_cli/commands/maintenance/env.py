"""``sifu env``: shows versions and properties of the machine."""

from __future__ import annotations

import platform
from pathlib import Path
from typing import Any

import click
from sifu_store.durable import format_bytes, resolved

import sifu_graph
from sifu_cli.options import common_options
from sifu_cli.output.results import print_json
from sifu_cli.output.terminal import echo, styled

PACKAGES = ("torch", "numpy", "scipy", "zarr", "icechunk", "tokenizers", "click", "rich")
WIDTH = 32


@click.command(
    "env",
    short_help="Show versions and properties of the machine, for a bug report.",
    epilog="""\b
Example:
  sifu env
""",
)
@common_options
def command(*, store: Path, quiet: bool, as_json: bool) -> None:
    """Show versions and properties of the machine, for a bug report. The first call compiles the native kernel."""
    import psutil
    import torch

    from sifu_graph.disk_arrays import cores
    from sifu_graph.kernels import native as kernel

    found: dict[str, Any] = {
        "sifu": sifu_graph.__version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        **{package: _version(package) for package in PACKAGES},
        "cpu": _cpu(),
        "cores": cores(),
        "memory_bytes": psutil.virtual_memory().total,
        "compiler": kernel.compiler(),
        "kernel": "native" if kernel.load(WIDTH, torch.float32) is not None else "torch",
        "store": str(resolved(store)),
        "store_exists": store.exists(),
        "disk_free_bytes": psutil.disk_usage(str(_existing(resolved(store)))).free,
    }
    if as_json:
        print_json(found)
        return
    for name, value in found.items():
        shown = (
            format_bytes(value)
            if name.endswith("_bytes")
            else {True: "yes", False: "no", None: "none"}.get(value, value)
        )
        label = name.removesuffix("_bytes").replace("_", " ")
        echo(styled(f"{label:<12}", dim=True), f"  {shown}")


def _version(package: str) -> str | None:
    from importlib import metadata

    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def _existing(path: Path) -> Path:
    """The path, or its nearest parent that exists."""
    return path if path.exists() else _existing(path.parent)
