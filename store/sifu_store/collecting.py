"""Garbage collection: deletes old training commits and the chunks that no kept commit uses.

A chunk stays on disk until no commit refers to it. Training commits take most of the space, because each one rewrites
the pages that it trained. The collection keeps the last few of each branch, and every build and every edit.

These commits are kept:

1. the newest commit of every branch, and every commit with a tag;
2. every commit other than training, on a branch, an ancestor of a tag, or undone;
3. the newest `keep_training` training commits of each branch, of the commits last undone on each branch, and of all
   other undone commits.

Icechunk can expire commits by age only, and it cuts the ancestry of the commits that it keeps. So the collection first
writes the order of the kept commits into references, which also protect them; then it expires every commit as old as
the newest commit to delete; then it deletes what no reference reaches. This module knows commits and references; not
arrays.
"""

from __future__ import annotations

import secrets
import shutil
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import icechunk

from sifu_store.durable import fsync_directory, sync_filesystem, write_durably
from sifu_store.errors import StoreDamagedError
from sifu_store.history import TRAIN, Commit, Lineage, reachable
from sifu_store.refs import BEFORE, EARLY, EMPTY, REDO, UNDONE, drop, point, read_references
from sifu_store.repository import linked_copy, open_icechunk
from sifu_store.staging import REPOSITORY_NAME

COPIES_NAME = "collecting"
"""Directory in the store that holds copies of the snapshot files while Icechunk rewrites them in place, unsynced."""


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
        Sifu's own branches to write: snapshot id by name.
    names_dropped
        Sifu's own branches to delete.
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
    own = {BEFORE + k: v for k, v in names.before.items()}
    own |= {REDO + k: v for k, v in names.redo.items()} | {UNDONE + k: v for k, v in names.undone.items()}
    return replace(
        plan,
        names={name: snapshot for name, snapshot in wanted.items() if own.get(name) != snapshot},
        names_dropped=tuple(name for name in own if name not in wanted),
    )


def _links(lineage: Lineage, plan: Plan) -> dict[str, str]:
    """References to the nearest kept ancestors of commits whose ancestry is or will be cut."""
    links = {}
    for snapshot, commit in plan.kept.items():
        older = _nearest_kept(lineage, commit.parent, plan)
        if older is None:
            continue
        cut = bool(plan.dropped) and min(commit.time, plan.kept[older].time) < plan.until
        if cut or commit.parent != older or snapshot in lineage.references.before:
            links[BEFORE + snapshot] = older
    return links


def _undone(lineage: Lineage, plan: Plan, named: dict[str, Commit]) -> dict[str, str]:
    """References to the kept commits among the undone ones."""
    names = lineage.references
    wanted = {}
    for branch, tip in names.redo.items():
        left = _nearest_kept(lineage, tip, plan)
        if left is not None:
            wanted[REDO + branch] = left
    for tip in names.undone.values():
        left = _nearest_kept(lineage, tip, plan)
        if left is not None and left not in named:
            wanted[UNDONE + left] = left
    return wanted


def _nearest_kept(lineage: Lineage, snapshot: str | None, plan: Plan) -> str | None:
    return next((commit.snapshot for commit in lineage.ancestry(snapshot) if commit.snapshot in plan.kept), None)


def collect(
    directory: Path, repository: icechunk.Repository, *, keep_training: int, keep_undone: bool, dry_run: bool = False
) -> Garbage:
    """Delete the commits that the plan does not keep, and everything that no reference reaches.

    Parameters
    ----------
    directory, repository
        The store.
    keep_training
        Number of training commits to keep of each branch.
    keep_undone
        Whether undone commits are kept by the same rules; False deletes all of them.
    dry_run
        Run on a directory of links to the store's files instead: the same result, and the store does not change.

    Raises
    ------
    StoreDamagedError
        A reference cannot be read; nothing was deleted.
    """
    _check_names(directory, repository)
    if dry_run:
        heads = {name: repository.lookup_branch(name) for name in repository.list_branches()}
        with linked_copy(directory, heads) as shadow:
            return _collect(
                Path(shadow),
                open_icechunk(Path(shadow)),
                keep_training=keep_training,
                keep_undone=keep_undone,
                dry_run=True,
            )
    return _collect(directory, repository, keep_training=keep_training, keep_undone=keep_undone, dry_run=False)


def _collect(
    directory: Path, repository: icechunk.Repository, *, keep_training: int, keep_undone: bool, dry_run: bool
) -> Garbage:
    plan = make_plan(Lineage(repository), keep_training=keep_training, keep_undone=keep_undone)
    point(directory, plan.names)
    if plan.dropped:
        parents = {snapshot: repository.lookup_snapshot(snapshot).parent_id for snapshot in plan.kept}
        _copy(directory, [snapshot for snapshot, parent in parents.items() if parent not in (None, EMPTY)])
        try:
            repository.expire_snapshots(plan.until)
            sync_filesystem(directory)
        except BaseException:
            restore(directory)
            raise
        _drop_copies(directory)
    drop(directory, plan.names_dropped)
    repository = open_icechunk(directory)  # its cache does not show the expiry
    summary = repository.garbage_collect(datetime.now(UTC), dry_run=dry_run)
    return Garbage(
        snapshots=summary.snapshots_deleted,
        chunks=summary.chunks_deleted,
        size_bytes=summary.bytes_deleted,
        commits=plan.dropped,
    )


def _check_names(directory: Path, repository: icechunk.Repository) -> None:
    """Check that every reference can be read: Icechunk ignores a damaged tag and would delete its snapshot."""
    names = read_references(repository)
    folders = [folder for folder in (directory / REPOSITORY_NAME / "refs").glob("tag.*") if any(folder.iterdir())]
    tags = {each.name.removeprefix("tag.") for each in folders if not (each / "ref.json.deleted").exists()}
    damaged = [f"branch {name}" for name in names.unreadable]
    damaged += [f"tag {name}" for name in sorted(tags - {*names.tags, *(EARLY + each for each in names.early)})]
    if damaged:
        raise StoreDamagedError(
            f"the {damaged[0]} cannot be read, so the data that it needs is unknown: nothing was collected"
        )


def restore(directory: Path) -> None:
    """Restore the snapshot files after a collection that was interrupted, and delete its temporary files."""
    copies = directory / COPIES_NAME
    if copies.is_dir():
        for copy in copies.iterdir():
            write_durably(directory / REPOSITORY_NAME / "snapshots" / copy.name, copy.read_bytes())
        _drop_copies(directory)
    for left in directory.glob(f".{COPIES_NAME}.*"):
        shutil.rmtree(left, ignore_errors=True)
    for left in directory.glob(".*.tmp"):  # of an interrupted `write_durably`
        left.unlink(missing_ok=True)


def _copy(directory: Path, snapshots: Iterable[str]) -> None:
    """Copy the files of these snapshots. The directory gets its final name when the copies are complete."""
    temporary = Path(tempfile.mkdtemp(prefix=f".{COPIES_NAME}.", dir=directory))
    for snapshot in snapshots:
        shutil.copyfile(directory / REPOSITORY_NAME / "snapshots" / snapshot, temporary / snapshot)
    sync_filesystem(directory)
    temporary.rename(directory / COPIES_NAME)
    fsync_directory(directory)


def _drop_copies(directory: Path) -> None:
    gone = (directory / COPIES_NAME).rename(directory / f".{COPIES_NAME}.{secrets.token_hex(4)}")
    fsync_directory(directory)
    shutil.rmtree(gone, ignore_errors=True)
