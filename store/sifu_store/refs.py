"""The references of an Icechunk repository: branches, tags, and the references that sifu keeps for itself.

Icechunk writes references without a sync, so sifu writes them itself, in Icechunk's format: after a power cut a name
refers to the old snapshot or to the new one. Icechunk reads them. This module knows names; not commits, and not which
branch is the current one.
"""

from __future__ import annotations

import difflib
import json
import re
import secrets
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import icechunk

from sifu_store.durable import disk_errors, fsync_directory, sync_filesystem
from sifu_store.errors import OptionError
from sifu_store.staging import REPOSITORY_NAME

MAIN = "main"
"""The branch of a new store. Icechunk cannot open a repository without it."""

EMPTY = "1CECHNKREP0F1RSTCMT0"
"""Id of the first, empty snapshot of every Icechunk repository."""

OWN = "sifu."
"""Prefix of the branches that sifu keeps for itself."""

BEFORE = "sifu.before."
"""Prefix of a branch that is named after a commit id and refers to the nearest kept ancestor of that commit."""

REDO = "sifu.redo."
"""Prefix of a branch that is named after a user's branch and refers to the newest commit that was undone there."""

UNDONE = "sifu.undone."
"""Prefix of a branch that is named after a commit id and refers to that commit: undone, and no longer redoable."""

EARLY = "history."
"""Prefix of a tag that is named after the id of a kept commit, in stores written before branches existed."""

_ALLOWED = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")


@dataclass(frozen=True, slots=True)
class References:
    """All references: snapshot id by name. The names of sifu's own references are without their prefix."""

    branches: dict[str, str]
    tags: dict[str, str]
    before: dict[str, str]
    redo: dict[str, str]
    undone: dict[str, str]
    early: dict[str, str]
    unreadable: tuple[str, ...]
    """Names of the branches whose file is damaged."""


def read_references(repository: icechunk.Repository) -> References:
    """Read all references. Damaged ones are listed in `unreadable`, without an error."""
    found: dict[str, dict[str, str]] = {prefix: {} for prefix in ("", BEFORE, REDO, UNDONE)}
    unreadable = []
    for name in sorted(repository.list_branches()):
        prefix = next((p for p in (BEFORE, REDO, UNDONE) if name.startswith(p)), "")
        try:
            found[prefix][name.removeprefix(prefix)] = repository.lookup_branch(name)
        except icechunk.IcechunkError:
            unreadable.append(name)
    tags = {name: repository.lookup_tag(name) for name in sorted(repository.list_tags())}
    return References(
        branches=found[""],
        tags={name: snapshot for name, snapshot in tags.items() if not name.startswith(EARLY)},
        before=found[BEFORE],
        redo=found[REDO],
        undone=found[UNDONE],
        early={name.removeprefix(EARLY): snapshot for name, snapshot in tags.items() if name.startswith(EARLY)},
        unreadable=tuple(unreadable),
    )


def branch_heads(repository: icechunk.Repository) -> dict[str, str]:
    """The user's branches and the ids of their newest commits, without damaged branches."""
    heads = {}
    for name in sorted(repository.list_branches()):
        if not name.startswith(OWN):
            try:
                heads[name] = repository.lookup_branch(name)
            except icechunk.IcechunkError:
                continue
    return heads


def check_name(name: str, what: str) -> None:
    """Check that a branch or tag can have a name. `what` is "branch" or "tag".

    Raises
    ------
    OptionError
        The name has other characters than allowed, or sifu reserves it.
    """
    if not _ALLOWED.fullmatch(name):
        raise OptionError(
            f"a {what} cannot be named {name!r}: use at most 100 of the characters a-z, A-Z, 0-9, '.', '_' and '-', "
            "starting with a letter or a digit"
        )
    if name.upper() == "HEAD" or name.lower().startswith((OWN, EARLY)):
        raise OptionError(f"a {what} cannot be named {name!r}: the name is reserved; choose another")


def nearest(name: str, known: Iterable[str]) -> str:
    """A hint for an unknown name: `did you mean main?` if a known name is similar, else a list of the known names."""
    names = sorted(set(known))
    close = difflib.get_close_matches(name, names, n=3, cutoff=0.5)
    if close:
        return f"did you mean {' or '.join(close)}?"
    return f"there {'is' if len(names) == 1 else 'are'} {', '.join(names[:8])}{', ...' if len(names) > 8 else ''}"


def point(directory: Path, branches: Mapping[str, str], *, tag: bool = False) -> None:
    """Make each branch (with `tag`, each tag) refer to a snapshot, durably. A crash leaves the old or the new one.

    Parameters
    ----------
    directory
        Directory of the store.
    branches
        Snapshot id by name, with the prefix of sifu's own branches.
    """
    if not branches:
        return
    refs = directory / REPOSITORY_NAME / "refs"
    with disk_errors(directory, "writing the names of branches"):
        temporary: dict[Path, Path] = {}
        try:
            for name, snapshot in branches.items():
                folder = refs / f"{'tag' if tag else 'branch'}.{name}"
                # Not in the folder: Icechunk reads every file there as a reference.
                temporary[folder] = directory / f".ref.{secrets.token_hex(8)}.tmp"
                temporary[folder].write_text(json.dumps({"snapshot": snapshot}), encoding="utf-8")
            sync_filesystem(directory)
            for folder, file in temporary.items():
                folder.mkdir(parents=True, exist_ok=True)
                file.replace(folder / "ref.json")
        finally:
            for file in temporary.values():
                file.unlink(missing_ok=True)
        sync_filesystem(directory)


def drop(directory: Path, branches: Iterable[str]) -> None:
    """Delete branches, durably."""
    refs = directory / REPOSITORY_NAME / "refs"
    with disk_errors(directory, "removing the names of branches"):
        for name in branches:
            shutil.rmtree(refs / f"branch.{name}", ignore_errors=True)
        fsync_directory(refs)
