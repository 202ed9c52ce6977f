"""Garbage collection: deletes old training commits and the chunks that no kept commit uses.

A chunk stays on disk until no commit refers to it. Training commits take most of the space, because each one rewrites
the pages that it trained. The collection keeps the last few of each branch, and every build and every edit.

These commits are kept:

1. the newest commit of every branch, and every commit with a tag;
2. every commit other than training, on a branch, an ancestor of a tag, or undone;
3. the newest `keep_training` training commits of each branch, of the commits last undone on each branch, and of all
   other undone commits.

Icechunk can expire commits by age only, it cuts the ancestry of the commits that it keeps, and it replaces their files
in place without a sync. So the collection lets Icechunk work in a directory of links to the store's files
(`linked_copy`), and changes the store in this order, each step synced before the next:

1. references with the order of the kept commits, which also protect them (`refs.BEFORE`);
2. the snapshot files that lost their ancestry replace the old ones;
3. references that are not needed any more are deleted;
4. what no reference reaches is deleted.

A crash after any step leaves every kept commit readable, with its ancestry. On a full disk, step 4 comes first: what
only the dropped commits use is deleted, which makes room for the other steps.

In a bucket, Icechunk works in a directory with copies of the snapshots. Other processes may be writing to the bucket,
and no reference reaches what they have written: step 4 spares what is younger than `GRACE`. This module knows commits
and references; not arrays.
"""

from __future__ import annotations

import secrets
import shutil
import tempfile
from collections.abc import Callable, Container
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Self

import icechunk

from sifu_store.durable import few_addresses, fsync_directory, replace_durably, write_durably
from sifu_store.errors import DiskFullError, ResourceError, StoreDamagedError
from sifu_store.folder import COPIES_NAME
from sifu_store.folder_refs import drop, point, remove_temporary
from sifu_store.history import TRAIN, Commit, Lineage, reachable, read_all
from sifu_store.names import REPOSITORY_NAME, SNAPSHOTS
from sifu_store.places import place_of
from sifu_store.refs import BEFORE, BRANCH, EMPTY, OWN, REDO, UNDONE, is_snapshot_id
from sifu_store.repository import open_icechunk
from sifu_store.scratch_copies import copied_snapshots, linked_copy
from sifu_store.short_repr import short_repr

GRACE = timedelta(days=1)
"""In a bucket, what is younger than this is not deleted: another process may be about to commit it."""


@short_repr
@dataclass(frozen=True, slots=True)
class Garbage:
    """What a collection deleted, or would delete.

    Parameters
    ----------
    snapshots, chunks
        Numbers of snapshots and of chunk files.
    size_bytes
        Their size on disk.
    commits
        The commits among the snapshots, newest first. The other snapshots are remains of killed processes.
    builds
        Number of directories beside the store that killed builds and imports of it left.
    builds_bytes
        Their size on disk; part of `size_bytes`.
    """

    snapshots: int
    chunks: int
    size_bytes: int
    commits: tuple[Commit, ...] = ()
    builds: int = 0
    builds_bytes: int = 0

    def with_builds(self, builds: int, builds_bytes: int) -> Garbage:
        """The same, with what killed builds left."""
        return replace(self, builds=builds, builds_bytes=builds_bytes, size_bytes=self.size_bytes + builds_bytes)


@dataclass(frozen=True, slots=True)
class Plan:
    """What a collection does.

    Parameters
    ----------
    kept
        Kept commits by id.
    dropped
        Commits to delete, newest first.
    names
        References to write: snapshot id by the name of their directory.
    names_dropped
        Sifu's own references to delete.
    """

    kept: dict[str, Commit]
    dropped: tuple[Commit, ...]
    names: dict[str, str]
    names_dropped: tuple[str, ...]

    @property
    def until(self) -> datetime:
        """Icechunk expires commits up to this time, and cuts the ancestry of the kept ones among them."""
        return self.dropped[0].time + timedelta(microseconds=1)


def make_plan(lineage: Lineage, *, keep_training: int, keep_undone: bool) -> Plan:
    """Decide what to keep, by the rules at the head of this module. Nothing is changed."""
    names = lineage.references
    heads, tagged = set(names.branches.values()), set(names.tags.values())
    named = reachable(lineage, [*heads, *tagged])
    everything = reachable(lineage, [*named, *names.redo.values(), *names.undone.values()])
    on_branches = reachable(lineage, heads)
    groups = [list(lineage.ancestry(head)) for head in heads]
    if keep_undone:
        undone = [reachable(lineage, [tip]) for tip in names.redo.values()] + [
            reachable(lineage, names.undone.values())
        ]
        groups += [[c for c in commits.values() if c.snapshot not in on_branches] for commits in undone]
    kept = heads | tagged
    kept |= {each.snapshot for each in (everything if keep_undone else named).values() if each.kind != TRAIN}
    for group in groups:
        training = sorted((c for c in group if c.kind == TRAIN), key=lambda c: c.time, reverse=True)
        kept |= {commit.snapshot for commit in training[:keep_training]}
    dropped = [commit for commit in everything.values() if commit.snapshot not in kept]
    plan = Plan(
        kept={snapshot: everything[snapshot] for snapshot in kept},
        dropped=tuple(sorted(dropped, key=lambda c: c.time, reverse=True)),
        names={},
        names_dropped=(),
    )
    wanted = _links(lineage, plan) | (_undone(lineage, plan, named) if keep_undone else {})
    known = names.by_directory()
    own = [name for name in known if name.startswith(BRANCH + OWN)]
    return replace(
        plan,
        names={name: tip for name, tip in wanted.items() if known.get(name) != tip}
        | {name: known[name] for name in names.lost if name not in own or name in wanted},
        names_dropped=tuple(name for name in own if name not in wanted),
    )


def _links(lineage: Lineage, plan: Plan) -> dict[str, str]:
    """References to the nearest kept ancestors of commits whose ancestry is or will be cut."""
    links = {}
    for snapshot, commit in plan.kept.items():
        older = _nearest_kept(lineage, commit.parent, plan)
        if older is None:  # the first commit, unless those before it are lost or dropped
            if commit.parent is not None or lineage.references.before.get(snapshot) == EMPTY:
                links[BRANCH + BEFORE + snapshot] = EMPTY
            continue
        cut = bool(plan.dropped) and min(commit.time, plan.kept[older].time) < plan.until
        if cut or commit.parent != older or snapshot in lineage.references.before:
            links[BRANCH + BEFORE + snapshot] = older
    return links


def _undone(lineage: Lineage, plan: Plan, named: dict[str, Commit]) -> dict[str, str]:
    """References to the kept commits among the undone ones."""
    names = lineage.references
    wanted = {}
    for branch, tip in names.redo.items():
        left = _nearest_kept(lineage, tip, plan)
        if left is not None:
            wanted[BRANCH + REDO + branch] = left
    for tip in names.undone.values():
        left = _nearest_kept(lineage, tip, plan)
        if left is not None and left not in named:
            wanted[BRANCH + UNDONE + left] = left
    return wanted


def _nearest_kept(lineage: Lineage, snapshot: str | None, plan: Plan) -> str | None:
    return next((commit.snapshot for commit in lineage.ancestry(snapshot) if commit.snapshot in plan.kept), None)


def would_collect(directory: Path, lineage: Lineage, *, keep_training: int, keep_undone: bool) -> Garbage:
    """What `collect` would delete. The store does not change.

    Raises
    ------
    StoreDamagedError
        See `collect`.
    """
    with _collection(directory, lineage, keep_training=keep_training, keep_undone=keep_undone) as collection:
        return collection.delete(dry_run=True)


def collect(
    directory: Path,
    lineage: Lineage,
    *,
    keep_training: int,
    keep_undone: bool,
    acknowledge: Callable[[Container[str]], None],
) -> Garbage:
    """Delete the commits that the plan does not keep, and everything that no reference reaches.

    Parameters
    ----------
    directory, lineage
        The store.
    keep_training
        Number of training commits to keep of each branch.
    keep_undone
        Whether undone commits are kept by the same rules; False deletes all of them.
    acknowledge
        Records the last commit without the checksums of its files, and without these references.

    Raises
    ------
    StoreDamagedError
        A reference or a commit cannot be read, or the commit before another one is not known; nothing was deleted.
    DiskFullError
        The disk is full, and there was nothing to delete.
    ResourceError
        This process may take too few addresses (``ulimit -v``); nothing was deleted.
    """
    with _collection(directory, lineage, keep_training=keep_training, keep_undone=keep_undone) as collection:
        try:
            collection.replace(acknowledge)
        except DiskFullError:
            garbage = collection.delete()
            collection.replace(acknowledge)
            collection.delete_snapshots()
            return garbage
        garbage = collection.delete()
        collection.delete_snapshots()
        return garbage


class _Collection:
    """A collection that was computed in a directory of links, and is then made in the store."""

    def __init__(self, directory: Path, lineage: Lineage, *, keep_training: int, keep_undone: bool) -> None:
        if (lacking := few_addresses()) is not None:
            raise ResourceError(f"{lacking}, then collect garbage again; nothing was deleted")
        _check_complete(lineage)
        self._directory = directory
        self._plan = plan = make_plan(lineage, keep_training=keep_training, keep_undone=keep_undone)
        names = {**lineage.references.by_directory(), **plan.names}
        self._shadow = self._copy({name: tip for name, tip in names.items() if name not in plan.names_dropped})
        self._snapshots = Path(self._shadow.name) / REPOSITORY_NAME / "snapshots"
        self._linked = {path.name for path in self._snapshots.iterdir() if is_snapshot_id(path.name)}
        if plan.dropped:
            open_icechunk(Path(self._shadow.name)).expire_snapshots(plan.until)
        self._repository = open_icechunk(Path(self._shadow.name))  # its cache must not be from before the expiry

    def _copy(self, names: dict[str, str]) -> tempfile.TemporaryDirectory[str]:
        """The directory in which Icechunk works, with these references."""
        return linked_copy(self._directory, names)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self._shadow.cleanup()

    def replace(self, acknowledge: Callable[[Container[str]], None]) -> None:
        """Steps 1 to 3: references, and the snapshot files that the expiry replaced in the directory of links."""
        plan, directory = self._plan, self._directory
        point(directory, plan.names)
        replaced = [path for path in self._snapshots.iterdir() if not path.is_symlink() and path.name in plan.kept]
        if not replaced and not plan.names_dropped:
            return
        acknowledge(plan.names_dropped)
        replace_durably(directory / REPOSITORY_NAME / "snapshots", {path.name: path.read_bytes() for path in replaced})
        drop(directory, plan.names_dropped)

    def delete(self, *, dry_run: bool = False) -> Garbage:
        """Step 4, except the snapshot files."""
        # All that no reference reaches is garbage, whatever its time: no other process writes, and clocks can be wrong.
        return self._delete(self._repository, datetime.now(UTC) + timedelta(days=36500), dry_run=dry_run)

    def _delete(self, repository: icechunk.Repository, until: datetime, *, dry_run: bool) -> Garbage:
        """Delete what no reference of a repository reaches, if it is older than a time."""
        summary = repository.garbage_collect(until, dry_run=dry_run)
        return Garbage(
            snapshots=summary.snapshots_deleted,
            chunks=summary.chunks_deleted,
            size_bytes=summary.bytes_deleted,
            commits=self._plan.dropped,
        )

    def delete_snapshots(self) -> None:
        """Delete the snapshot files that `delete` deleted in the directory of links."""
        for name in self._linked - {path.name for path in self._snapshots.iterdir()}:
            (self._directory / REPOSITORY_NAME / "snapshots" / name).unlink(missing_ok=True)


class _BucketCollection(_Collection):
    """A collection in a bucket."""

    def _copy(self, names: dict[str, str]) -> tempfile.TemporaryDirectory[str]:
        self._before: dict[str, bytes] = {}
        return copied_snapshots(place_of(self._directory), names, self._before)

    def replace(self, acknowledge: Callable[[Container[str]], None]) -> None:
        """Steps 1 to 3."""
        plan, place = self._plan, place_of(self._directory)
        place.point(plan.names)
        for path in self._snapshots.iterdir():
            if path.name in plan.kept and (content := path.read_bytes()) != self._before[path.name]:
                place.write(f"{SNAPSHOTS}/{path.name}", content)
        place.drop(dict.fromkeys(plan.names_dropped))

    def delete(self, *, dry_run: bool = False) -> Garbage:
        """Step 4. Before step 1, what only the dropped commits use is still reached, and is not counted."""
        return self._delete(open_icechunk(self._directory), datetime.now(UTC) - GRACE, dry_run=dry_run)

    def delete_snapshots(self) -> None:
        """Step 4 has deleted them."""


def _collection(directory: Path, lineage: Lineage, *, keep_training: int, keep_undone: bool) -> _Collection:
    kind = _BucketCollection if place_of(directory).whole_files else _Collection
    return kind(directory, lineage, keep_training=keep_training, keep_undone=keep_undone)


def _check_complete(lineage: Lineage) -> None:
    """Check that all commits that must be kept are known: what no reference reaches will be deleted."""
    serious = read_all(lineage)[1].serious
    if serious:
        raise StoreDamagedError(
            f"{serious[0]}, so the data that is needed is unknown: nothing was deleted; `Store.verify()` lists all "
            "damage, and `Store.repair()` restores what can be restored"
        )


def restore(directory: Path) -> None:
    """Complete or undo what an interrupted process left: delete temporary files.

    Earlier releases let Icechunk replace snapshot files in place, and kept copies of them in the meantime.
    """
    copies = directory / COPIES_NAME
    if copies.is_dir():
        for copy in copies.iterdir():
            if is_snapshot_id(copy.name):
                write_durably(directory / REPOSITORY_NAME / "snapshots" / copy.name, copy.read_bytes())
        gone = copies.rename(directory / f".{COPIES_NAME}.{secrets.token_hex(4)}")
        fsync_directory(directory)
        shutil.rmtree(gone, ignore_errors=True)
    for left in directory.glob(f".{COPIES_NAME}.*"):
        shutil.rmtree(left, ignore_errors=True)
    remove_temporary(directory)
    for left in (*directory.glob(".*.tmp"), *(directory / REPOSITORY_NAME / "snapshots").glob(".*.tmp")):
        left.unlink(missing_ok=True)
