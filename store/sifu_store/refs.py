"""The names of snapshots in an Icechunk repository: branches, tags, and what sifu keeps for itself.

Icechunk writes its references without a sync, so sifu writes them itself, in Icechunk's format: after a power cut a
name means what it meant before, or what it means now. Reading is Icechunk's. This module knows names; not commits,
and not which branch is the current one.
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
"""The branch of a new store. Icechunk opens no repository without it."""

EMPTY = "1CECHNKREP0F1RSTCMT0"
"""The snapshot that every repository of Icechunk begins with."""

OWN = "sifu."
BEFORE = "sifu.before."
"""Branch of this name and the id of a commit: the commit before it, where those between were dropped."""

REDO = "sifu.redo."
"""Branch of this name and that of a branch: the newest commit that was undone there."""

UNDONE = "sifu.undone."
"""Branch of this name and an id: a commit with that id that was undone and can no longer be redone."""

EARLY = "history."
"""Tag of this name and an id, in stores of before there were branches: a commit that is kept."""

_ALLOWED = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")


@dataclass(frozen=True, slots=True)
class References:
    """Every name and the id of its snapshot; those of sifu's own without their prefix."""

    branches: dict[str, str]
    tags: dict[str, str]
    before: dict[str, str]
    redo: dict[str, str]
    undone: dict[str, str]
    early: dict[str, str]
    unreadable: tuple[str, ...]
    """Branches whose file is damaged."""


def read_references(repository: icechunk.Repository) -> References:
    """All names. A damaged one is listed, not raised."""
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
    """The branches of the user and the ids of their newest commits; damaged ones are left out."""
    heads = {}
    for name in sorted(repository.list_branches()):
        if not name.startswith(OWN):
            try:
                heads[name] = repository.lookup_branch(name)
            except icechunk.IcechunkError:
                continue
    return heads


def check_name(name: str, what: str) -> None:
    """Refuses a name that a branch or tag cannot have.

    Raises
    ------
    OptionError
    """
    if not _ALLOWED.fullmatch(name):
        raise OptionError(
            f"a {what} cannot be named {name!r}: use letters, digits, '.', '_' and '-' (a to z, up to 100, the first a "
            "letter or a digit)"
        )
    if name.upper() == "HEAD" or name.lower().startswith((OWN, EARLY)):
        raise OptionError(f"a {what} cannot be named {name!r}: sifu uses that name itself; choose another")


def nearest(name: str, known: Iterable[str]) -> str:
    """`did you mean main?`, or which there are."""
    names = sorted(set(known))
    close = difflib.get_close_matches(name, names, n=3, cutoff=0.5)
    if close:
        return f"did you mean {' or '.join(close)}?"
    return f"there {'is' if len(names) == 1 else 'are'} {', '.join(names[:8])}{', ...' if len(names) > 8 else ''}"


def point(directory: Path, branches: Mapping[str, str], *, tag: bool = False) -> None:
    """Lets each name (branches, or with `tag` tags) mean a snapshot; after a crash each is the old or the new one."""
    if not branches:
        return
    refs = directory / REPOSITORY_NAME / "refs"
    with disk_errors(directory, "writing the names of branches"):
        temporary: dict[Path, Path] = {}
        try:
            for name, snapshot in branches.items():
                folder = refs / f"{'tag' if tag else 'branch'}.{name}"
                # Beside the folders: Icechunk takes whatever is in them for a reference.
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
    """Removes branches, durably."""
    refs = directory / REPOSITORY_NAME / "refs"
    with disk_errors(directory, "removing the names of branches"):
        for name in branches:
            shutil.rmtree(refs / f"branch.{name}", ignore_errors=True)
        fsync_directory(refs)
