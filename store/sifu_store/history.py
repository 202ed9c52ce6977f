"""The commits of a store, and the disk space of those that are no longer wanted.

Old chunks live until no branch and no tag reaches them. Every training commit rewrites the pages that it
trained, so they are what takes the space: all but the last few are dropped, while every build and every edit
stays readable. This module knows commits and their metadata; not arrays.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import icechunk

from sifu_store.errors import StoreDamagedError
from sifu_store.repository import first_line

TRAIN = "train"
TAG_PREFIX = "history."
"""Commits that outlive their place in the branch are held by a tag of this name and their id."""


@dataclass(frozen=True, slots=True)
class Commit:
    """One commit: its snapshot, when and by which command it was made, and what it changed."""

    snapshot: str
    time: datetime
    message: str
    command: str
    changes: dict[str, Any] = field(default_factory=dict)

    @property
    def kind(self) -> str:
        """First word of the command: "train", "build-graph", ..."""
        words = self.command.removeprefix("sifu ").split()
        return words[0] if words else ""


@dataclass(frozen=True, slots=True)
class Garbage:
    """What a collection removed."""

    snapshots: int
    chunks: int
    size_bytes: int


def read_history(repository: icechunk.Repository, snapshot: str, limit: int | None) -> list[Commit]:
    """The commits from `snapshot` back to the first, newest first, with those that only a tag still holds."""
    found: dict[str, Commit] = {}
    try:
        for info in repository.ancestry(snapshot_id=snapshot):
            if limit is not None and len(found) >= limit:
                break
            if info.parent_id is not None:  # the first snapshot of a repository is empty
                found[info.id] = _commit(info)
        newest = found[snapshot].time if snapshot in found else datetime.now(UTC)
        for tag in repository.list_tags():
            if tag.startswith(TAG_PREFIX):
                info = repository.lookup_snapshot(repository.lookup_tag(tag))
                if info.written_at <= newest:
                    found.setdefault(info.id, _commit(info))
    except icechunk.IcechunkError as error:
        raise StoreDamagedError(
            f"the history before snapshot {list(found)[-1] if found else snapshot} cannot be read "
            f"({first_line(error)}): the current snapshot is not affected"
        ) from error
    commits = sorted(found.values(), key=lambda commit: commit.time, reverse=True)
    return commits if limit is None else commits[:limit]


def collect(repository: icechunk.Repository, branch: str, keep_training: int) -> Garbage:
    """Drop all but the newest `keep_training` training commits, and whatever nothing reaches any more.

    Icechunk can only expire by age. So every other commit that is older than the oldest training commit to
    keep is tagged first; then all before that one is expired, which spares what a branch or a tag names.
    """
    ancestry = _ancestry(repository, repository.lookup_branch(branch))
    training = [info for info in ancestry if _commit(info).kind == TRAIN]
    if len(training) > keep_training:
        # With nothing to keep, the head itself still stays: it is named by the branch.
        oldest_kept = training[keep_training - 1] if keep_training > 0 else ancestry[0]
        place = ancestry.index(oldest_kept)
        # By place as well as by age: a clock that was set back must not cost an edit.
        older = [info for i, info in enumerate(ancestry) if i > place or info.written_at < oldest_kept.written_at]
        for name in repository.list_branches() - {branch}:
            older += _ancestry(repository, repository.lookup_branch(name))
        tags = repository.list_tags()
        for name in tags:
            if not name.startswith(TAG_PREFIX):
                older += _ancestry(repository, repository.lookup_tag(name))
        for info in {info.id: info for info in older}.values():
            if _commit(info).kind != TRAIN and TAG_PREFIX + info.id not in tags:
                repository.create_tag(TAG_PREFIX + info.id, info.id)
        repository.expire_snapshots(oldest_kept.written_at)
    summary = repository.garbage_collect(datetime.now(UTC))
    return Garbage(snapshots=summary.snapshots_deleted, chunks=summary.chunks_deleted, size_bytes=summary.bytes_deleted)


def metadata(command: str, changes: dict[str, Any]) -> dict[str, Any]:
    """What is stored with a commit beside its message."""
    return {"command": command, "changes": changes}


def _ancestry(repository: icechunk.Repository, snapshot: str) -> list[icechunk.SnapshotInfo]:
    return [info for info in repository.ancestry(snapshot_id=snapshot) if info.parent_id is not None]


def _commit(info: icechunk.SnapshotInfo) -> Commit:
    changes = info.metadata.get("changes")
    return Commit(
        snapshot=info.id,
        time=info.written_at,
        message=info.message,
        command=str(info.metadata.get("command", "")),
        changes=dict(changes) if isinstance(changes, dict) else {},
    )
