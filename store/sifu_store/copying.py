"""Clones, and copies of a branch with its history between two stores, each in a folder or in a bucket.

Commits keep their ids, so a branch that was copied is the same branch: its values have the same bits, and later commits
can be copied in either direction. Only what is in the repository is copied; encoded text and the log of training stay
where they are. This module knows stores; not what they contain.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from sifu_store import history
from sifu_store.branching import find_branch
from sifu_store.errors import StoreConflictError, StoreDamagedError, StoreExistsError
from sifu_store.folder import Folder
from sifu_store.history import Lineage
from sifu_store.place import Place
from sifu_store.places import locate, place_of
from sifu_store.refs import BEFORE, BRANCH, MAIN, TAG
from sifu_store.repository import acknowledge, known_references, open_icechunk
from sifu_store.staging import Staging
from sifu_store.store import Store
from sifu_store.transfer import Copied, Progress, copy_files


@dataclass(frozen=True, slots=True)
class BranchCopy:
    """A branch that was copied.

    Parameters
    ----------
    branch
        Its name.
    before, snapshot
        Its newest commit at the target before and after; None: it was not there.
    commits
        Number of commits that were not there.
    files, size_bytes
        What was copied.
    """

    branch: str
    before: str | None
    snapshot: str
    commits: int
    files: int
    size_bytes: int


def clone(source: str | Path, target: str | Path, *, progress: Progress | None = None) -> Copied:
    """Copy a store with all its branches, tags and undone commits to a place where there is none.

    Parameters
    ----------
    source, target
        Path or URL.
    progress
        Called with the number of files copied so far and in all.

    Raises
    ------
    StoreExistsError
        There is something at the target.
    StoreDamagedError
        The source has damaged references or commits.
    StoreNotFoundError, StoreUnreachableError, DiskFullError
    """
    with Store.open(source) as store:
        lineage = Lineage(store._repository, known_references(store.path))
        serious = history.read_all(lineage)[1].serious
        if serious:
            raise StoreDamagedError(f"{place_of(store.path)}: {serious[0]}: nothing was copied")
        names = lineage.references.by_directory()
        return _create(place_of(store.path), locate(target), names, branch=store.branch, progress=progress)


def push(
    source: str | Path, target: str | Path, *, branch: str | None = None, progress: Progress | None = None
) -> BranchCopy:
    """Copy a branch with its history, and the tags on it, to another store. `pull` is the same from the other side.

    Parameters
    ----------
    source, target
        Path or URL. If there is no store at the target, one is created; it has the branch `main` too.
    branch
        Its name; None: the current branch of the source.
    progress
        Called with the number of files copied so far and in all.

    Raises
    ------
    StoreConflictError
        The branch at the target has commits that the source does not have, or changed meanwhile.
    OptionError
        The source has no such branch.
    StoreLockedError, StoreNotFoundError, StoreUnreachableError, DiskFullError
    """
    at = locate(target)
    with Store.open(source) as store:
        name = branch or store.branch
        lineage = Lineage(store._repository, known_references(store.path))
        tip = find_branch(lineage, name)
        if not place_of(at).references()[0]:
            names = {each: find_branch(lineage, each) for each in {name, MAIN}}
            wanted = {BRANCH + each: head for each, head in names.items()}
            for head in names.values():
                wanted |= _besides(lineage, head, {})
            copied = _create(place_of(store.path), at, wanted, branch=name, progress=progress)
            return BranchCopy(name, None, tip, len(list(lineage.ancestry(tip))), copied.files, copied.size_bytes)
        return _continue(place_of(store.path), lineage, at, name, tip, progress=progress)


def _continue(
    source: Place, lineage: Lineage, at: Path, name: str, tip: str, *, progress: Progress | None
) -> BranchCopy:
    """Copy a branch to a store."""
    with Store.open(at, write=True) as store:
        place, there = place_of(at), known_references(at)
        head = there.branches.get(name)
        line = [commit.snapshot for commit in lineage.ancestry(tip)]
        if head is not None and head not in line:
            raise StoreConflictError(
                f"the branch {name} of {place} has commits that {source} does not have (its newest is {head[:8]}): "
                f"copy them to {source} first, or copy a branch of another name (`branch()` makes one)"
            )
        new = line if head is None else line[: line.index(head)]
        copied = copy_files(source, place, progress=progress) if new else Copied(0, 0)
        place.point(_besides(lineage, tip, there.by_directory()))
        place.point({BRANCH + name: tip}, expected={BRANCH + name: head})
        store._acknowledge(snapshot=tip if name == store.branch else None)
    return BranchCopy(name, head, tip, len(new), copied.files, copied.size_bytes)


def _besides(lineage: Lineage, tip: str, there: dict[str, str]) -> dict[str, str]:
    """The references that go with the history of a commit, and are not there: those between commits, and tags."""
    known, line = lineage.references, {commit.snapshot for commit in lineage.ancestry(tip)}
    links = {BRANCH + BEFORE + each: before for each, before in known.before.items() if each in line}
    tags = {TAG + name: snapshot for name, snapshot in known.tags.items() if snapshot in line}
    return {name: snapshot for name, snapshot in {**links, **tags}.items() if name not in there}


def _create(source: Place, target: Path, names: dict[str, str], *, branch: str, progress: Progress | None) -> Copied:
    """Copy a store to a place where there is none. References come last, and the branch `main` last of them."""
    place = place_of(target)
    if place.references()[0]:
        raise StoreExistsError(f"{place} is already a sifu store: name another path")
    if place.whole_files:
        place.lock().release()
        copied = _fill(source, place, names, branch=branch, progress=progress)
        place.directory.mkdir(parents=True, exist_ok=True)
        return copied
    staging = Staging(target, force=False)
    try:
        copied = _fill(source, Folder(staging.directory), names, branch=branch, progress=progress)
        staging.publish().release()
    except BaseException:
        staging.abandon()
        raise
    return copied


def _fill(source: Place, place: Place, names: dict[str, str], *, branch: str, progress: Progress | None) -> Copied:
    copied = copy_files(source, place, progress=progress)
    main = BRANCH + MAIN
    place.point({name: snapshot for name, snapshot in names.items() if name != main})
    place.point({main: names[main]}, expected={main: None})
    acknowledge(place.directory, open_icechunk(place.directory), names[BRANCH + branch], branch=branch)
    return copied
