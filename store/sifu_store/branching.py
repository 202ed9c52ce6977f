"""Moving about in the history: undo and redo, branches, tags.

A step back moves the branch to the commit before its newest one; a reference keeps the way forward until another step
back is made from elsewhere. Every function first reads and checks, then changes references in an order in which a
crash after any of them leaves the state before or the state after. Which branch is the current one is noted by the
caller. This module knows commits and references; not arrays, and not who holds the lock.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import icechunk

from sifu_store.errors import OptionError, StoreError
from sifu_store.history import Commit, Lineage, known
from sifu_store.refs import MAIN, REDO, UNDONE, check_name, drop, nearest, point
from sifu_store.staging import REPOSITORY_NAME


@dataclass(frozen=True, slots=True)
class Moved:
    """A branch that was moved, or would be: from one commit to another, over these (newest first)."""

    branch: str
    before: str
    snapshot: str
    commits: tuple[Commit, ...]


def back(lineage: Lineage, branch: str, head: str, steps: int) -> Moved:
    """Where `steps` steps back lead to.

    Raises
    ------
    StoreError
        There is nothing to undo, or less than that.
    """
    require_steps(steps)
    line = list(lineage.line(head))
    if len(line) == 1:
        raise StoreError(f"there is nothing to undo: {head[:8]} is the first commit of the graph ({line[0].message})")
    if steps >= len(line):
        raise StoreError(f"there are {len(line) - 1} commits to undo on {branch}, not {steps}: see sifu log")
    return Moved(branch, head, line[steps].snapshot, tuple(line[:steps]))


def forward(lineage: Lineage, branch: str, head: str, steps: int) -> Moved:
    """Where `steps` steps forward lead to, over what was undone.

    Raises
    ------
    StoreError
        There is nothing to redo, or less than that.
    """
    require_steps(steps)
    tip = lineage.references.redo.get(branch)
    path = None if tip is None else lineage.path(tip, head)
    if not path:
        why = "nothing was undone" if tip is None or path is not None else "other commits were made since the last undo"
        raise StoreError(f"there is nothing to redo on {branch}: {why}")
    if steps > len(path):
        raise StoreError(f"there are {len(path)} commits to redo on {branch}, not {steps}: see sifu log")
    return Moved(branch, head, path[-steps].snapshot, tuple(path[-steps:]))


def move(directory: Path, lineage: Lineage, moved: Moved) -> None:
    """Lets the branch name the other commit, and keeps the way to those that were undone."""
    tip = lineage.references.redo.get(moved.branch)
    names = {}
    if tip is None or lineage.path(tip, moved.before) is None:  # no step back was made from here
        names[REDO + moved.branch] = moved.before
        if tip is not None:
            names[UNDONE + tip] = tip
    point(directory, names)
    point(directory, {moved.branch: moved.snapshot})


def create_branch(directory: Path, lineage: Lineage, name: str, snapshot: str) -> None:
    """A new branch, at a snapshot.

    Raises
    ------
    OptionError
        The name is taken, or cannot be one.
    """
    _check_free(directory, lineage, name, "branch")
    point(directory, {name: snapshot})


def leave_branch(directory: Path, lineage: Lineage, name: str, *, current: str) -> Commit:
    """Makes ready to drop a branch: commits that nothing else names count as undone. Returns the newest of them.

    Raises
    ------
    OptionError
        There is none of that name, or it is the current one, or `main`.
    """
    branches = lineage.references.branches
    tip = lineage.commit(find_branch(lineage, name))
    if name == current:
        raise OptionError(f"{name} is the current branch: sifu switch to another one, then delete it")
    if name == MAIN:
        raise OptionError(f"the branch {MAIN} cannot be deleted: every store has it")
    others = [head for other, head in branches.items() if other != name]
    named = known(lineage, [*others, *lineage.references.tags.values()])
    left = {tip.snapshot, lineage.references.redo.get(name, tip.snapshot)} - set(named)
    point(directory, {UNDONE + snapshot: snapshot for snapshot in left})
    return tip


def drop_branch(directory: Path, name: str) -> None:
    """Drops a branch that was left. It must no longer be acknowledged: what was, the next writer puts back."""
    drop(directory, [name, REDO + name])


def find_branch(lineage: Lineage, name: str) -> str:
    """The newest commit of a branch.

    Raises
    ------
    OptionError
        There is none of that name.
    """
    names = lineage.references
    if name in names.branches:
        return names.branches[name]
    if name in names.tags:
        raise OptionError(f"{name} is a tag, which never moves: make a branch there with sifu branch NAME {name}")
    raise OptionError(f"there is no branch {name!r}: {nearest(name, names.branches)}")


def create_tag(directory: Path, lineage: Lineage, name: str, snapshot: str) -> None:
    """A name for a snapshot that never moves.

    Raises
    ------
    OptionError
        The name is taken, or was, or cannot be one.
    """
    _check_free(directory, lineage, name, "tag")
    point(directory, {name: snapshot}, tag=True)


def delete_tag(repository: icechunk.Repository, lineage: Lineage, name: str) -> str:
    """Drops a tag. Returns the snapshot that it named.

    Raises
    ------
    OptionError
        There is none of that name.
    """
    tags = lineage.references.tags
    if name not in tags:
        meant = nearest(name, tags) if tags else "there are none"
        raise OptionError(f"there is no tag {name!r}: {meant}")
    repository.delete_tag(name)
    return tags[name]


def require_steps(steps: int) -> None:
    if steps < 1:
        raise OptionError(f"steps is {steps}: it must be 1 or more")


def _check_free(directory: Path, lineage: Lineage, name: str, what: str) -> None:
    check_name(name, what)
    names = lineage.references
    for kind, taken in (("branch", names.branches), ("tag", names.tags)):
        if name in taken:
            raise OptionError(f"there is a {kind} {name} already, at {taken[name][:8]}: choose another name")
    if what == "tag" and (directory / REPOSITORY_NAME / "refs" / f"tag.{name}").exists():
        raise OptionError(f"there was a tag {name} once, and a tag's name is never given twice: choose another")
