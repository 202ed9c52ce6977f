"""Undo and redo, branches, tags: the operations that move or create references to commits.

Undo moves the branch to the parent of its newest commit. A reference (`refs.REDO`) keeps the undone commits for redo,
until an undo from another commit replaces it. Every function reads and checks first, then changes references in such an
order that a crash after any change leaves the state before or after the operation. The caller records the current
branch. This module knows commits and references; not arrays and not locks.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import icechunk

from sifu_store.errors import OptionError, StoreConflictError, StoreDamagedError, StoreError
from sifu_store.history import Commit, Lineage, reachable
from sifu_store.names import DELETED_FILE, REFERENCES
from sifu_store.places import place_of
from sifu_store.refs import BRANCH, MAIN, REDO, TAG, UNDONE, check_name, described, nearest

LEAST_OF_AN_ID = 4
"""Characters of an id by which people name a commit, at least: a branch or a tag may not hide it."""


@dataclass(frozen=True, slots=True)
class Moved:
    """An undo or redo that was made or planned.

    Parameters
    ----------
    branch
        The branch that moves.
    before, snapshot
        Ids of its newest commit before and after.
    commits
        The commits that are undone or redone, newest first.
    """

    branch: str
    before: str
    snapshot: str
    commits: tuple[Commit, ...]


def plan_undo(lineage: Lineage, branch: str, head: str, steps: int) -> Moved:
    """Plan an undo of `steps` commits on a branch with the newest commit `head`.

    Raises
    ------
    StoreError
        There are fewer commits to undo.
    OptionError
        `steps` is less than 1.
    """
    require_steps(steps)
    line = list(lineage.ancestry(head))
    if steps >= len(line) and not lineage.is_first(line[-1]):
        raise StoreDamagedError(
            f"the commit before {line[-1].snapshot[:8]} is not known: the reference to it is lost; `Store.verify()` "
            "lists the damage, and `Store.repair()` restores what can be restored"
        )
    if len(line) == 1:
        raise StoreError(f"there is nothing to undo: {head[:8]} is the first commit of the graph ({line[0].message})")
    if steps >= len(line):
        raise StoreError(
            f"{_commits(len(line) - 1)} can be undone on {branch}, not {steps}: lower `steps` (`log()` lists them)"
        )
    return Moved(branch, head, line[steps].snapshot, tuple(line[:steps]))


def plan_redo(lineage: Lineage, branch: str, head: str, steps: int) -> Moved:
    """Plan a redo of `steps` undone commits on a branch with the newest commit `head`.

    Raises
    ------
    StoreError
        There are fewer commits to redo.
    OptionError
        `steps` is less than 1.
    """
    require_steps(steps)
    tip = lineage.references.redo.get(branch)
    path = None if tip is None else lineage.path(tip, head)
    if not path:
        why = "nothing was undone" if tip is None or path is not None else "other commits were made since the last undo"
        raise StoreError(f"there is nothing to redo on {branch}: {why}")
    if steps > len(path):
        raise StoreError(
            f"{_commits(len(path))} can be redone on {branch}, not {steps}: lower `steps` (`log()` lists them)"
        )
    return Moved(branch, head, path[-steps].snapshot, tuple(path[-steps:]))


def carry_out(directory: Path, lineage: Lineage, moved: Moved) -> None:
    """Make a planned undo or redo: move the branch, and keep a reference to the undone commits."""
    tip = lineage.references.redo.get(moved.branch)
    names = {}
    if tip is None or lineage.path(tip, moved.before) is None:  # the first undo from this commit
        names[BRANCH + REDO + moved.branch] = moved.before
        if tip is not None:
            names[BRANCH + UNDONE + tip] = tip
    place, branch = place_of(directory), BRANCH + moved.branch
    place.point(names)
    place.point({branch: moved.snapshot}, expected={branch: moved.before})


def advance(directory: Path, repository: icechunk.Repository, branch: str, before: str, snapshot: str) -> None:
    """Move a branch from the commit `before` to a new one.

    Raises
    ------
    StoreConflictError
        Another process moved the branch first. The new commit is kept as an undone one.
    """
    try:
        repository.reset_branch(branch, snapshot, from_snapshot_id=before)
    except icechunk.IcechunkError as error:
        head = repository.lookup_branch(branch)
        if head == snapshot:  # the reply to the request was lost
            return
        if head == before:
            raise
        place = place_of(directory)
        place.point({BRANCH + UNDONE + snapshot: snapshot})
        raise StoreConflictError(
            f"{place}: another process committed {head[:8]} to {branch} first: {branch} was not changed, and this "
            f"commit is kept as {snapshot[:8]} (`branch()` gives it a name); repeat the command to make it after the "
            "other one"
        ) from error


def create_branch(directory: Path, lineage: Lineage, name: str, snapshot: str) -> None:
    """Create a branch at a snapshot.

    Raises
    ------
    OptionError
        The name is taken or not allowed.
    """
    _check_free(directory, lineage, name, "branch")
    place_of(directory).point({BRANCH + name: snapshot}, expected={BRANCH + name: None})


def leave_branch(directory: Path, lineage: Lineage, name: str, *, current: str) -> Commit:
    """Prepare the deletion of a branch: commits that only this branch reaches become undone commits.

    Parameters
    ----------
    current
        Name of the current branch.

    Returns
    -------
    Commit
        The newest commit of the branch.

    Raises
    ------
    OptionError
        There is no branch of that name, or it is the current branch, or `main`.
    """
    branches = lineage.references.branches
    tip = lineage.commit(find_branch(lineage, name))
    if name == current:
        raise OptionError(f"{name} is the current branch: change to another one with `switch()`, then delete it")
    if name == MAIN:
        raise OptionError(f"the branch {MAIN} cannot be deleted: every store has it")
    others = [head for other, head in branches.items() if other != name]
    named = reachable(lineage, [*others, *lineage.references.tags.values()])
    left = {tip.snapshot, lineage.references.redo.get(name, tip.snapshot)} - set(named)
    place_of(directory).point({BRANCH + UNDONE + snapshot: snapshot for snapshot in left})
    return tip


def references_of(name: str, tip: str) -> dict[str, str | None]:
    """The references that go with a branch, for `Place.drop`. `tip` is its newest commit."""
    return {BRANCH + name: tip, BRANCH + REDO + name: None}


def find_branch(lineage: Lineage, name: str) -> str:
    """Id of the newest commit of a branch.

    Raises
    ------
    OptionError
        There is no branch of that name.
    """
    names = lineage.references
    if name in names.branches:
        return names.branches[name]
    if name in names.tags:
        raise OptionError(f"{name} is a tag, which never moves: create a branch there with `branch()`")
    raise OptionError(f"there is no branch {name!r}: {nearest(name, names.branches)}")


def create_tag(directory: Path, lineage: Lineage, name: str, snapshot: str) -> None:
    """Create a tag: a name that always refers to the same snapshot.

    Raises
    ------
    OptionError
        The name is taken, was the name of a deleted tag, or is not allowed.
    """
    _check_free(directory, lineage, name, "tag")
    place_of(directory).point({TAG + name: snapshot}, expected={TAG + name: None})


def find_tag(lineage: Lineage, name: str) -> str:
    """Id of the snapshot of a tag.

    Raises
    ------
    OptionError
        There is no tag of that name.
    """
    tags = lineage.references.tags
    if name not in tags:
        meant = nearest(name, tags) if tags else "there are none"
        raise OptionError(f"there is no tag {name!r}: {meant}")
    return tags[name]


def require_steps(steps: int) -> None:
    """Check a number of steps to undo or redo.

    Raises
    ------
    OptionError
        It is less than 1.
    """
    if steps < 1:
        raise OptionError(f"`steps` is {steps}: it must be 1 or more")


def _commits(count: int) -> str:
    return f"{count:,} commit{'s' * (count != 1)}"


def _check_free(directory: Path, lineage: Lineage, name: str, what: str) -> None:
    check_name(name, what)
    place = place_of(directory)
    known = place.snapshots() if len(name) >= LEAST_OF_AN_ID else []
    same = [each for each in known if each.startswith(name.upper())]
    if same:
        raise OptionError(f"a {what} cannot be named {name!r}: the id {same[0]} begins so; choose another name")
    names = lineage.references
    for kind, taken in (("branch", names.branches), ("tag", names.tags)):
        if name in taken:
            raise OptionError(f"there is a {kind} {name} already, at {taken[name][:8]}: choose another name")
    for prefix in (BRANCH, TAG):
        if prefix + name in names.unreadable:
            raise OptionError(f"{described(prefix + name)} is there already, but damaged: choose another name")
    if what == "tag" and place.has(f"{REFERENCES}/{TAG}{name}/{DELETED_FILE}"):
        raise OptionError(f"a tag {name} was deleted, and a tag's name cannot be reused: choose another name")
