"""The commits of a store: their metadata, the parent of each, and all of them as a tree.

A reference names the nearest kept ancestor where commits were deleted (`refs.BEFORE`). The module knows no arrays.
"""

from __future__ import annotations

import heapq
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

import icechunk

from sifu_store.checksums import CHECKSUMS
from sifu_store.errors import OptionError, StoreDamagedError, first_line
from sifu_store.layout import ARRAYS
from sifu_store.names import REPOSITORY_NAME
from sifu_store.places import place_of
from sifu_store.refs import BEFORE, BRANCH, EARLY, EMPTY, TAG, References, described, is_snapshot_id, nearest
from sifu_store.short_repr import short_repr

BETWEEN = (BRANCH + BEFORE, TAG + EARLY)
"""Beginnings of the names of the references that only connect commits."""
TRAIN = "train"  # the kind of the commits that training makes


@dataclass(frozen=True, slots=True)
class Commit:
    """One commit.

    Parameters
    ----------
    snapshot
        Its id.
    time
        When it was made.
    message
        One line for people.
    command
        The command that made it.
    changes
        The numbers that it changed (JSON).
    parent
        Id of the nearest kept commit before it; None: it is the first.
    size_bytes
        Size of the chunk files that it added; None: not recorded.
    """

    snapshot: str
    time: datetime
    message: str
    command: str
    changes: dict[str, Any] = field(default_factory=dict)
    parent: str | None = None
    size_bytes: int | None = None

    @property
    def kind(self) -> str:
        """First word of the command: "train", "build-graph", ..."""
        words = self.command.removeprefix("sifu ").split()
        return words[0] if words else ""


@short_repr
@dataclass(frozen=True, slots=True)
class History:
    """All commits of a store and their names.

    Parameters
    ----------
    branch
        The current branch.
    branches, tags
        Snapshot id by name.
    redo
        Ids of the commits that `redo` restores on the current branch, in the order in which it does.
    undone
        Ids of the commits that no branch and no tag reaches: only `redo` or their id does.
    commits
        Newest first; every commit comes after its children.
    faults
        What is wrong with references and with commits that they refer to, a line each.
    """

    branch: str
    branches: dict[str, str]
    tags: dict[str, str]
    redo: tuple[str, ...]
    undone: frozenset[str]
    commits: tuple[Commit, ...]
    faults: tuple[str, ...] = ()

    @property
    def head(self) -> str:
        """The newest commit of the current branch."""
        return self.branches[self.branch]


class Lineage:
    """The ancestry of commits. Reads each snapshot once.

    Raises
    ------
    StoreDamagedError
        From every method: a snapshot cannot be read, or is its own ancestor.
    """

    def __init__(self, repository: icechunk.Repository, references: References) -> None:
        self._repository = repository
        self.references = references
        self._commits: dict[str, Commit] = {}

    def commit(self, snapshot: str) -> Commit:
        """The commit of a snapshot id."""
        found = self._commits.get(snapshot)
        if found is None:
            try:
                found = self._commits[snapshot] = self._read(snapshot_info(self._repository, snapshot))
            except icechunk.IcechunkError as error:
                raise StoreDamagedError(
                    f"snapshot {snapshot} of the history cannot be read ({first_line(error)}); "
                    "the current snapshot is not affected"
                ) from error
        return found

    def ancestry(self, snapshot: str | None) -> Iterator[Commit]:
        """A commit and its ancestors, newest first; nothing for None."""
        passed: set[str] = set()
        while snapshot is not None:
            commit = self.commit(snapshot)
            if snapshot in passed:
                raise StoreDamagedError(f"{_loop(snapshot)}; the current snapshot is not affected")
            passed.add(snapshot)
            yield commit
            snapshot = commit.parent

    def path(self, snapshot: str, ancestor: str) -> list[Commit] | None:
        """The commits from `snapshot` back to `ancestor`, without the ancestor; None if it is not an ancestor."""
        passed: list[Commit] = []
        for commit in self.ancestry(snapshot):
            if commit.snapshot == ancestor:
                return passed
            passed.append(commit)
        return None

    def is_first(self, commit: Commit) -> bool:
        """Whether a commit without a parent is the first one: a build or an import.

        Otherwise the reference to the commit before it is lost.
        """
        if self.references.before.get(commit.snapshot) == EMPTY:  # a repair found no commit before it
            return True
        writes = writes_between(self._repository, EMPTY, commit.snapshot)
        if writes is None:
            return commit.kind != TRAIN
        return writes.replaced.issuperset(spec.name for spec in ARRAYS)

    def _read(self, info: icechunk.SnapshotInfo) -> Commit:
        changes, size_bytes = info.metadata.get("changes"), info.metadata.get("size_bytes")
        parent = info.parent_id
        if parent in (None, EMPTY):
            parent = self.references.before.get(info.id) or self._early(info)
            parent = None if parent == EMPTY else parent
        return Commit(
            snapshot=info.id,
            time=info.written_at,
            message=info.message,
            command=str(info.metadata.get("command", "")),
            changes=dict(changes) if isinstance(changes, dict) else {},
            parent=parent,
            size_bytes=size_bytes if isinstance(size_bytes, int) else None,
        )

    def _early(self, info: icechunk.SnapshotInfo) -> str | None:
        """The parent of a commit in a store written before branches existed: the next older kept commit by time."""
        times = {
            snapshot_info(self._repository, snapshot).written_at: snapshot
            for snapshot in self.references.early.values()
        }
        older = [time for time in times if time < info.written_at]
        return times[max(older)] if older else None


def snapshot_info(repository: icechunk.Repository, snapshot: str) -> icechunk.SnapshotInfo:
    """The metadata of a snapshot.

    Raises
    ------
    StoreDamagedError
        The file of the snapshot is that of another one. Icechunk does not check this, and follows parents without an
        end where a file was replaced by that of its child.
    icechunk.IcechunkError
        The file cannot be read.
    """
    info = repository.lookup_snapshot(snapshot)
    if info.id != snapshot:
        raise StoreDamagedError(
            f"the file of snapshot {snapshot} is that of snapshot {info.id}: "
            f"restore {REPOSITORY_NAME}/snapshots/{snapshot} from a backup"
        )
    return info


def read_history(lineage: Lineage, snapshot: str, limit: int | None) -> list[Commit]:
    """The commits from `snapshot` back to the first, newest first, at most `limit` of them (None: all)."""
    commits: list[Commit] = []
    if limit == 0:
        return commits
    for commit in lineage.ancestry(snapshot):
        commits.append(commit)
        if len(commits) == limit:
            break
    return commits


def read_tree(lineage: Lineage, branch: str, head: str) -> History:
    """Every commit that a branch, a tag or a redo reaches. `branch` is the current branch, `head` its newest commit.

    A name whose commit cannot be read is left out. The ancestry of a commit ends before one that cannot be read.
    """
    names = lineage.references
    commits, faults = read_all(lineage, [head])
    branches = {name: tip for name, tip in {**names.branches, branch: head}.items() if tip in commits}
    tags = {name: tip for name, tip in names.tags.items() if tip in commits}
    parents = {commit.snapshot: commit.parent for commit in commits.values()}
    named = _line(parents, [*branches.values(), *tags.values()])
    redo, at = dict[str, None](), names.redo.get(branch)
    while at is not None and at != head and at not in redo:  # a damaged history may have a loop
        redo[at], at = None, parents.get(at)
    return History(
        branch=branch,
        branches=branches,
        tags=tags,
        redo=tuple(reversed(redo)) if at == head else (),
        undone=frozenset(commits) - named,
        commits=tuple(_ordered(commits)),
        faults=faults.lines,
    )


@dataclass(frozen=True, slots=True)
class Faults:
    """What is wrong with a history, a line each.

    Parameters
    ----------
    lost
        References that are missing or damaged, and that the next writer restores.
    names
        Other damaged references, and lines of commits that lead back.
    commits
        Commits that cannot be read.
    ends
        Commits that are not the first one, and have no commit before them.
    """

    lost: tuple[str, ...]
    names: tuple[str, ...]
    commits: tuple[str, ...]
    ends: tuple[str, ...]

    @property
    def serious(self) -> tuple[str, ...]:
        """All but `lost`."""
        return self.names + self.commits + self.ends

    @property
    def lines(self) -> tuple[str, ...]:
        """All."""
        return self.lost + self.serious


def read_all(lineage: Lineage, tips: Iterable[str] = ()) -> tuple[dict[str, Commit], Faults]:
    """Every commit that a reference or one of `tips` reaches, by id, and what is wrong."""
    names = lineage.references
    lost = [
        f"{described(name)} is missing or damaged: the next command that writes sets it to {tip[:8]} again"
        for name, tip in names.lost.items()
    ]
    damaged = [f"{described(name)} cannot be read ({reason})" for name, reason in names.unreadable.items()]
    commits: dict[str, Commit] = {}
    unreadable: dict[str, list[str]] = {}
    starts = [(name, tip) for name, tip in names.by_directory().items() if not name.startswith(BETWEEN)]
    for name, tip in [*starts, *(("", tip) for tip in tips)]:
        at: str | None = tip
        passed = set[str]()
        while at is not None and at not in commits:
            passed.add(at)
            try:
                commits[at] = lineage.commit(at)
            except StoreDamagedError as error:
                unreadable.setdefault(str(error), []).append(described(name))
                break
            at = commits[at].parent
        else:
            damaged += [_loop(at)] if at is not None and at in passed else []
    ends = []
    for commit in (each for each in commits.values() if each.parent is None):
        try:
            if not lineage.is_first(commit):
                ends.append(f"the commit before {commit.snapshot[:8]} is not known: the reference to it is lost")
        except StoreDamagedError as error:  # the file of the empty snapshot is that of another one
            damaged.append(str(error))
    needed = (f"{reason} (needed by {', '.join(filter(None, of))})" for reason, of in unreadable.items())
    return commits, Faults(tuple(lost), tuple(dict.fromkeys(damaged)), tuple(needed), tuple(ends))


def _loop(snapshot: str) -> str:
    return f"the history returns to snapshot {snapshot}: a reference {BEFORE}* or a snapshot file is damaged"


def _line(parents: dict[str, str | None], tips: Iterable[str]) -> frozenset[str]:
    """Commits and all their ancestors, those that are in `parents`."""
    found: set[str] = set()
    for tip in tips:
        at: str | None = tip
        while at is not None and at in parents and at not in found:
            found.add(at)
            at = parents[at]
    return frozenset(found)


def reachable(lineage: Lineage, tips: Iterable[str]) -> dict[str, Commit]:
    """The commits `tips` and all their ancestors, by id."""
    found: dict[str, Commit] = {}
    for tip in tips:
        for commit in lineage.ancestry(tip):
            if commit.snapshot in found:
                break
            found[commit.snapshot] = commit
    return found


@dataclass(frozen=True, slots=True)
class Writes:
    """What was written between two snapshots.

    Parameters
    ----------
    chunks
        Chunk indices along the first axis, by array name.
    replaced
        Names of the arrays that were created or deleted.
    arrays
        Names of all arrays that were written, resized, created or deleted.
    """

    chunks: dict[str, set[int]]
    replaced: frozenset[str]
    arrays: frozenset[str]


def writes_between(repository: icechunk.Repository, older: str, newer: str) -> Writes | None:
    """What was written between a snapshot and a descendant of it.

    Returns None if Icechunk cannot compare the two: `older` is not an ancestor, or a commit between them was deleted.

    Raises
    ------
    StoreDamagedError
        The file of a snapshot between them is that of another one.
    """
    if not _descends(repository, newer, older):
        return None
    try:
        diff = repository.diff(from_snapshot_id=older, to_snapshot_id=newer)
    except icechunk.IcechunkError:
        return None
    chunks = {name.lstrip("/"): {int(index[0]) for index in indices} for name, indices in diff.updated_chunks.items()}
    replaced = frozenset(name.lstrip("/") for name in diff.new_arrays | diff.deleted_arrays)
    return Writes(chunks, replaced, replaced.union(chunks, (name.lstrip("/") for name in diff.updated_arrays)))


def _descends(repository: icechunk.Repository, newer: str, older: str) -> bool:
    """Whether `older` is an ancestor of `newer` by Icechunk's own parents, which must lead to an end."""
    passed: set[str] = set()
    snapshot: str | None = newer
    while snapshot is not None and snapshot not in passed:
        try:
            parent = snapshot_info(repository, snapshot).parent_id
        except icechunk.IcechunkError:
            return False
        if snapshot == older:
            return True
        passed.add(snapshot)
        snapshot = parent
    return False


def resolve(directory: Path, lineage: Lineage, name: str, *, head: str) -> str:
    """The id of the snapshot that a name stands for.

    Parameters
    ----------
    name
        `HEAD` (the newest commit of the current branch), a branch, a tag, or the first characters of an id, in this
        order of precedence. A suffix `~N` selects the N-th commit before it.
    head
        Id of the newest commit of the current branch.

    Raises
    ------
    OptionError
        The name stands for no snapshot, or for more than one.
    """
    text = name.strip()
    base, *steps = text.split("~")
    if not base or any(step and not step.isdecimal() for step in steps):
        raise OptionError(
            f"{name!r} names no snapshot: give HEAD, a branch, a tag or the first characters of an id, optionally "
            "followed by ~N for the N-th commit before it (`log()` lists them)"
        )
    if base.upper() == "HEAD":
        snapshot = head
    else:
        branches, tags = lineage.references.branches, lineage.references.tags
        if base in branches:
            snapshot = branches[base]
        elif base in tags:
            snapshot = tags[base]
        else:
            snapshot = snapshot_beginning(directory, base, known=[*branches, *tags, "HEAD"])
    back = sum(int(step or 1) for step in steps)
    if back == 0:
        return snapshot
    for passed, commit in enumerate(lineage.ancestry(snapshot)):
        if passed == back:
            return commit.snapshot
    raise OptionError(f"{name!r} goes back too far: {base} has {passed} commits before it (`log()` lists them)")


def snapshot_beginning(directory: Path, prefix: str, *, known: Collection[str] = ()) -> str:
    """The one snapshot whose id starts with `prefix`, in upper or lower case.

    `known` are other names, for the message of the error.

    Raises
    ------
    OptionError
        No snapshot, or more than one, has such an id.
    """
    wanted = prefix.strip().upper()
    names = [name for name in place_of(directory).snapshots() if is_snapshot_id(name) and name != EMPTY]
    found = [name for name in names if name.startswith(wanted)] if wanted else []
    if len(found) > 1:
        some = ", ".join(name[: len(wanted) + 4] for name in found[:3])
        many = f"{len(found)} snapshots with an id that starts with {prefix!r} ({some}, ...)"
        raise OptionError(f"{directory} has {many}: give more characters (`log()` lists the ids)")
    if not found:
        meant = f"{nearest(prefix, known)} (`log()` lists all)" if known else "`log()` lists the commits"
        raise OptionError(f"{directory} has no branch, no tag and no snapshot {prefix!r}: {meant}")
    return found[0]


def metadata(command: str, changes: dict[str, Any], size_bytes: int, checksums: int) -> dict[str, Any]:
    """The metadata that is stored with a commit, beside its message. `checksums` is the CRC-32 of their table."""
    return {"command": command, "changes": changes, "size_bytes": size_bytes, CHECKSUMS: checksums}


def _ordered(commits: dict[str, Commit]) -> Iterator[Commit]:
    """Newest first, and every commit after its children, even if the clock was set back between them."""
    children = dict.fromkeys(commits, 0)
    for commit in commits.values():
        if commit.parent in children:
            children[commit.parent] += 1
    ready = [
        (-commit.time.timestamp(), commit.snapshot) for commit in commits.values() if not children[commit.snapshot]
    ]
    heapq.heapify(ready)
    while ready:
        commit = commits[heapq.heappop(ready)[1]]
        yield commit
        if commit.parent in children:
            children[commit.parent] -= 1
            if not children[commit.parent]:
                heapq.heappush(ready, (-commits[commit.parent].time.timestamp(), commit.parent))
