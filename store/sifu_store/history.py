"""The commits of a store: what each was, which one came before it, and all of them as a tree.

Icechunk names the parent of a snapshot as long as it is there. Where commits were dropped in between, a reference
names the nearest one that is left (`refs.BEFORE`). This module knows commits, their metadata and their order; not
arrays, and not how commits are dropped.
"""

from __future__ import annotations

import heapq
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

import icechunk

from sifu_store.errors import OptionError, StoreDamagedError, first_line
from sifu_store.refs import EARLY, EMPTY, References, branch_heads, nearest, read_references
from sifu_store.staging import REPOSITORY_NAME

TRAIN = "train"


@dataclass(frozen=True, slots=True)
class Commit:
    """One commit: its snapshot, when and by which command it was made, and what it changed.

    `parent` is the commit before it, as far as it was kept (None: the first), `size_bytes` what it added to the
    chunks of the store (None: not recorded).
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


@dataclass(frozen=True, slots=True)
class History:
    """All commits of a store, the newest first and none before its children, and what names them.

    `branch` is the current branch; `redo` the newest commit that was undone on it, if it can be redone; `undone` are
    the commits that only a redo, or their id, brings back.
    """

    branch: str
    branches: dict[str, str]
    tags: dict[str, str]
    redo: str | None
    undone: frozenset[str]
    commits: tuple[Commit, ...]

    @property
    def head(self) -> str:
        """The newest commit of the current branch."""
        return self.branches[self.branch]


class Lineage:
    """Which commit came before which. Reads each snapshot once.

    Raises
    ------
    StoreDamagedError
        From every method: a snapshot cannot be read.
    """

    def __init__(self, repository: icechunk.Repository, references: References | None = None) -> None:
        self._repository = repository
        self.references = read_references(repository) if references is None else references
        self._commits: dict[str, Commit] = {}

    def commit(self, snapshot: str) -> Commit:
        """What a snapshot is."""
        found = self._commits.get(snapshot)
        if found is None:
            try:
                info = self._repository.lookup_snapshot(snapshot)
                found = self._commits[snapshot] = self._read(info)
            except icechunk.IcechunkError as error:
                raise StoreDamagedError(
                    f"snapshot {snapshot} of the history cannot be read ({first_line(error)}): "
                    "the current snapshot is not affected"
                ) from error
        return found

    def line(self, snapshot: str | None) -> Iterator[Commit]:
        """A commit and those before it, newest first."""
        while snapshot is not None:
            commit = self.commit(snapshot)
            yield commit
            snapshot = commit.parent

    def path(self, snapshot: str, ancestor: str) -> list[Commit] | None:
        """From a commit back to one before it, that one left out; None if it is not before it."""
        passed: list[Commit] = []
        for commit in self.line(snapshot):
            if commit.snapshot == ancestor:
                return passed
            passed.append(commit)
        return None

    def _read(self, info: icechunk.SnapshotInfo) -> Commit:
        changes, size_bytes = info.metadata.get("changes"), info.metadata.get("size_bytes")
        parent = info.parent_id
        if parent in (None, EMPTY):
            parent = self.references.before.get(info.id) or self._early(info)
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
        """Before there were branches, what was kept was ordered by time alone."""
        times = {
            self._repository.lookup_snapshot(snapshot).written_at: snapshot
            for snapshot in self.references.early.values()
        }
        older = [time for time in times if time < info.written_at]
        return times[max(older)] if older else None


def read_history(repository: icechunk.Repository, snapshot: str, limit: int | None) -> list[Commit]:
    """The commits from `snapshot` back to the first, newest first."""
    commits: list[Commit] = []
    if limit == 0:
        return commits
    for commit in Lineage(repository).line(snapshot):
        commits.append(commit)
        if len(commits) == limit:
            break
    return commits


def read_tree(repository: icechunk.Repository, branch: str, head: str) -> History:
    """Every commit that a branch, a tag or a redo reaches."""
    lineage = Lineage(repository)
    names = lineage.references
    branches = {**names.branches, branch: head}
    named = known(lineage, [*branches.values(), *names.tags.values()])
    everything = known(lineage, [*named, *names.redo.values(), *names.undone.values()])
    redo = names.redo.get(branch)
    if redo is not None and not lineage.path(redo, head):
        redo = None
    return History(
        branch=branch,
        branches=branches,
        tags=dict(names.tags),
        redo=redo,
        undone=frozenset(everything) - frozenset(named),
        commits=tuple(_ordered(everything)),
    )


def known(lineage: Lineage, tips: Iterable[str]) -> dict[str, Commit]:
    """Every commit that these reach, by its id."""
    found: dict[str, Commit] = {}
    for tip in tips:
        for commit in lineage.line(tip):
            if commit.snapshot in found:
                break
            found[commit.snapshot] = commit
    return found


def changed_chunks(repository: icechunk.Repository, first: str, second: str) -> dict[str, set[int]] | None:
    """By array, the chunks (along the first axis) that were written on the way from one snapshot to the other.

    None: it cannot be told, because the way is not there any more, or an array was made anew on it.
    """
    lineage = Lineage(repository)
    behind = {commit.snapshot for commit in lineage.line(first)}
    common = next((commit.snapshot for commit in lineage.line(second) if commit.snapshot in behind), None)
    if common is None:
        return None
    changed: dict[str, set[int]] = {}
    for snapshot in {first, second} - {common}:
        try:
            diff = repository.diff(from_snapshot_id=common, to_snapshot_id=snapshot)
        except icechunk.IcechunkError:
            return None
        made = {name.lstrip("/") for name in (diff.new_arrays | diff.deleted_arrays)}
        for name, chunks in diff.updated_chunks.items():
            changed.setdefault(name.lstrip("/"), set()).update(chunk[0] for chunk in chunks)
        if made & {"edges/weight", "edges/bias"}:
            return None
    return changed


def resolve(directory: Path, repository: icechunk.Repository, name: str, *, head: str) -> str:
    """The id of the snapshot that a name means.

    `HEAD` (the newest commit of the current branch), a branch, a tag, or the beginning of an id, in this order; with
    `~N` after it, the N-th commit before that one.

    Raises
    ------
    OptionError
        Nothing has that name, or too much.
    """
    text = name.strip()
    base, *steps = text.split("~")
    if not base or any(step and not step.isdecimal() for step in steps):
        raise OptionError(
            f"{name!r} names no snapshot: give HEAD, a branch, a tag or the beginning of an id, and ~N for the N-th "
            "commit before it (sifu log shows them)"
        )
    if base.upper() == "HEAD":
        snapshot = head
    else:
        branches = branch_heads(repository)
        tags = {tag for tag in repository.list_tags() if not tag.startswith(EARLY)}
        if base in branches:
            snapshot = branches[base]
        elif base in tags:
            snapshot = repository.lookup_tag(base)
        else:
            snapshot = snapshot_beginning(directory, base, known=[*branches, *tags, "HEAD"])
    back = sum(int(step or 1) for step in steps)
    if back == 0:
        return snapshot
    for passed, commit in enumerate(Lineage(repository).line(snapshot)):
        if passed == back:
            return commit.snapshot
    raise OptionError(f"{name!r} goes back too far: {base} has {passed} commits before it (sifu log)")


def snapshot_beginning(directory: Path, prefix: str, *, known: Collection[str] = ()) -> str:
    """The one snapshot whose id begins so."""
    wanted = prefix.strip().upper()
    snapshots = directory / REPOSITORY_NAME / "snapshots"
    names = sorted(path.name for path in snapshots.iterdir() if path.name != EMPTY)
    found = [name for name in names if name.startswith(wanted)] if wanted else []
    if len(found) > 1:
        some = ", ".join(name[: len(wanted) + 4] for name in found[:3])
        many = f"{len(found)} snapshots beginning with {prefix!r} ({some}, ...)"
        raise OptionError(f"{directory} has {many}: give more of the id (sifu log)")
    if not found:
        meant = f"{nearest(prefix, known)} (sifu log shows all)" if known else "see the list of commits (sifu log)"
        raise OptionError(f"{directory} has no branch, no tag and no snapshot {prefix!r}: {meant}")
    return found[0]


def metadata(command: str, changes: dict[str, Any], size_bytes: int) -> dict[str, Any]:
    """What is stored with a commit beside its message."""
    return {"command": command, "changes": changes, "size_bytes": size_bytes}


def _ordered(commits: dict[str, Commit]) -> Iterator[Commit]:
    """The newest first, but none before its children: a clock that was set back must not turn a line around."""
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
