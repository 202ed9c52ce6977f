"""The references of an Icechunk repository: branches, tags, and the references that sifu keeps for itself.

This module knows names; not where they are read and written (`Place`), not commits, and not which branch is the current
one.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Container, Iterable, Mapping
from dataclasses import dataclass, replace

from sifu_store.errors import OptionError

MAIN = "main"
"""The branch of a new store. Icechunk cannot open a repository without it."""

EMPTY = "1CECHNKREP0F1RSTCMT0"
"""Id of the first, empty snapshot of every Icechunk repository."""

OWN = "sifu."
"""Prefix of the branches that sifu keeps for itself."""

BEFORE = "sifu.before."
"""Prefix of a branch that is named after a commit id and refers to the nearest kept ancestor of that commit.

It refers to `EMPTY` where the commits before it are lost."""

REDO = "sifu.redo."
"""Prefix of a branch that is named after a user's branch and refers to the newest commit that was undone there."""

UNDONE = "sifu.undone."
"""Prefix of a branch that is named after a commit id and refers to that commit: undone, and no longer redoable."""

EARLY = "history."
"""Prefix of a tag that is named after the id of a kept commit, in stores written before branches existed."""

BRANCH, TAG = "branch.", "tag."
"""Prefixes of the directories of branches and tags."""

TEMPORARY = ".refs."
"""Prefix of the directories in a store that hold a reference while it is created or deleted."""

_ALLOWED = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
_ID = re.compile(r"[0-9A-HJKMNP-TV-Z]{20}")


@dataclass(frozen=True, slots=True)
class References:
    """All references: snapshot id by name. The names of sifu's own references are without their prefix.

    Parameters
    ----------
    branches, tags
        The user's.
    before, redo, undone, early
        Sifu's own: see `BEFORE`, `REDO`, `UNDONE` and `EARLY`.
    lost
        References that are recorded, but are missing or damaged on disk, by the name of their directory
        (`branch.main`). They are among the others too, with the recorded commit.
    unreadable
        The same of damaged references that are not recorded, with what is wrong. They are not among the others.
    """

    branches: dict[str, str]
    tags: dict[str, str]
    before: dict[str, str]
    redo: dict[str, str]
    undone: dict[str, str]
    early: dict[str, str]
    lost: dict[str, str]
    unreadable: dict[str, str]

    def with_branch(self, name: str, snapshot: str) -> References:
        """The same with a branch at this snapshot, whatever is wrong with its reference."""
        folder = BRANCH + name
        return replace(
            self,
            branches={**self.branches, name: snapshot},
            lost={each: tip for each, tip in self.lost.items() if each != folder},
            unreadable={each: reason for each, reason in self.unreadable.items() if each != folder},
        )

    def by_directory(self) -> dict[str, str]:
        """Snapshot id of every reference by the name of its directory."""
        kinds = (
            (BRANCH, self.branches),
            (BRANCH + BEFORE, self.before),
            (BRANCH + REDO, self.redo),
            (BRANCH + UNDONE, self.undone),
            (TAG, self.tags),
            (TAG + EARLY, self.early),
        )
        return {prefix + name: snapshot for prefix, found in kinds for name, snapshot in found.items()}


def assemble(
    found: Mapping[str, str], unreadable: Mapping[str, str], deleted: Container[str], recorded: Mapping[str, str]
) -> References:
    """All references of a store, from what is at its place and what is recorded.

    Parameters
    ----------
    found
        Snapshot id by the name of the reference's directory.
    unreadable
        What is wrong with the others, by the name of their directories.
    deleted
        Names of the directories of deleted tags.
    recorded
        Snapshot id of every reference that must be there, by the name of its directory.
    """
    lost = {name: snapshot for name, snapshot in recorded.items() if name not in found and name not in deleted}
    kinds: dict[str, dict[str, str]] = {
        prefix: {} for prefix in (BRANCH + BEFORE, BRANCH + REDO, BRANCH + UNDONE, TAG + EARLY, BRANCH, TAG)
    }
    for name, snapshot in sorted({**found, **lost}.items()):
        prefix = next(prefix for prefix in kinds if name.startswith(prefix))
        kinds[prefix][name.removeprefix(prefix)] = snapshot
    return References(
        branches=kinds[BRANCH],
        tags=kinds[TAG],
        before=kinds[BRANCH + BEFORE],
        redo=kinds[BRANCH + REDO],
        undone=kinds[BRANCH + UNDONE],
        early=kinds[TAG + EARLY],
        lost=lost,
        unreadable={name: reason for name, reason in sorted(unreadable.items()) if name not in lost},
    )


def is_snapshot_id(name: str) -> bool:
    """Whether a name is the id of a snapshot, a manifest or a chunk, as the files of the repository are named."""
    return _ID.fullmatch(name) is not None


def described(name: str) -> str:
    """What a reference is, by the name of its directory: `the branch main`."""
    for prefix, text in (
        (BRANCH + BEFORE, "the reference to the commit before {}"),
        (BRANCH + REDO, "the reference to the undone commits of {}"),
        (BRANCH + UNDONE, "the reference to the undone commit {}"),
        (TAG + EARLY, "the reference to the commit {}"),
        (BRANCH, "the branch {}"),
        (TAG, "the tag {}"),
    ):
        if name.startswith(prefix):
            rest = name.removeprefix(prefix)
            return text.format(rest[:8] if is_snapshot_id(rest) else rest)
    return name


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
