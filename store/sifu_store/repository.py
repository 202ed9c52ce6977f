"""Opening the Icechunk repository of a store: which snapshot is the current one, and whether it can be read.

It is the newest commit of the current branch if that can be read, else the last acknowledged snapshot (the last commit
that was reported as durable). This module knows snapshots, references, manifests and the root attributes; not pages and
not locks.
"""

from __future__ import annotations

import asyncio
import json
import os
import tempfile
import zlib
from collections.abc import Container, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import icechunk
import zarr
import zarr.api.asynchronous
from zarr.core.sync import sync

from sifu_store.durable import raise_resource_error
from sifu_store.errors import StoreDamagedError, StoreError, StoreVersionError, first_line
from sifu_store.history import Lineage, resolve, snapshot_beginning, snapshot_info
from sifu_store.layout import ARRAYS, FORMAT_VERSION, shape_fault
from sifu_store.names import ACKNOWLEDGED_NAME, REPOSITORY_NAME
from sifu_store.places import place_of
from sifu_store.refs import BRANCH, MAIN, References, assemble
from sifu_store.scratch_copies import linked_copy


@dataclass(frozen=True, slots=True)
class Acknowledged:
    """The content of the file `acknowledged`.

    Parameters
    ----------
    snapshot
        Id of the last commit that was reported as durable.
    previous
        Id of the commit before it; None: it is the first.
    branch
        The current branch.
    references
        Snapshot id of every reference, by the name of its directory. Written before a reference is deleted and after
        one is created, so that what is named here must be there.
    files
        CRC-32 of the snapshot file and of every manifest file, by path in the repository.
    """

    snapshot: str
    previous: str | None = None
    branch: str = MAIN
    references: dict[str, str] = field(default_factory=dict)
    files: dict[str, int] = field(default_factory=dict)


@dataclass(slots=True)
class OpenRepository:
    """A repository and the snapshot to read in it.

    Parameters
    ----------
    repository
        The open repository.
    snapshot
        Id of the snapshot to read.
    branch
        The current branch.
    recovered_from
        What was wrong with the branch, if an older snapshot is read instead.
    shadow
        A directory of links that replaces the repository's directory while its branch cannot be read. Delete it when
        the store is closed.
    """

    repository: icechunk.Repository
    snapshot: str
    branch: str
    recovered_from: str | None = None
    shadow: tempfile.TemporaryDirectory[str] | None = None


_started_in: list[int] = []
"""Id of the process that first used Icechunk, this one or one that it is a fork of; empty: none has."""


def check_process(directory: Path) -> None:
    """Check that Icechunk can be used in this process to open the store in `directory`.

    Raises
    ------
    StoreError
        The process is a fork of one that has used Icechunk. Its threads do not exist here: every call would wait for
        ever.
    """
    if _started_in and _started_in[0] != os.getpid():
        raise StoreError(
            f"{directory} cannot be opened in a fork of process {_started_in[0]}, which has opened a store: "
            "start workers with spawn or forkserver, and open the store there"
        )


def storage(directory: Path) -> icechunk.Storage:
    """The Icechunk storage of the store in `directory`."""
    if not _started_in:
        _started_in.append(os.getpid())
    if "ICECHUNK_LOG" not in os.environ:
        # Icechunk warns at every open that a local directory does not exclude a second writer; the writer lock does.
        icechunk.set_logs_filter("icechunk=off")
    return place_of(directory).storage()


def open_icechunk(directory: Path) -> icechunk.Repository:
    """Open the Icechunk repository of the store in `directory`.

    Its sessions load no manifest before it is needed. To apply Icechunk's own rule for that takes 20 ms in every
    session, longer than opening a small store.
    """
    never = icechunk.ManifestPreloadConfig(preload_if=icechunk.ManifestPreloadCondition.false())
    config = icechunk.RepositoryConfig(manifest=icechunk.ManifestConfig(preload=never))
    return icechunk.Repository.open(storage(directory), config=config)


def open_repository(directory: Path, *, write: bool, at: str | None) -> OpenRepository:
    """Open the repository and find the snapshot to read.

    Parameters
    ----------
    directory
        Directory of the store.
    write
        Repair branches that cannot be read; the caller holds the writer lock.
    at
        Name of the snapshot to read; None: the current one.

    Raises
    ------
    StoreDamagedError
        Neither the newest commit of the branch nor the acknowledged snapshot can be read (with `at`: that snapshot).
    StoreVersionError
        The store has a newer format version.
    OptionError
        `at` names no snapshot.
    StoreError
        A file is a symbolic link, a pipe or a device.
    """
    place_of(directory).check()
    acknowledged = read_acknowledged(directory)
    found = _open_head(directory, acknowledged, at)
    try:
        if at is not None:
            lineage = Lineage(found.repository, known_references(directory))
            found.snapshot = resolve(directory, lineage, at, head=found.snapshot)
            check_readable(found.repository, found.snapshot, directory, acknowledged)
            found.recovered_from = None
        elif found.recovered_from is not None:
            _fall_back(found, directory, acknowledged, found.recovered_from, write=write)
        else:
            try:
                check_readable(found.repository, found.snapshot, directory, acknowledged)
            except StoreDamagedError as error:
                _fall_back(found, directory, acknowledged, str(error), write=write)
            else:
                found.recovered_from = _lost_record(directory) if acknowledged is None else None
                if write:
                    restore_references(directory)
    except BaseException:
        if found.shadow is not None:
            found.shadow.cleanup()
        raise
    return found


def _open_head(directory: Path, acknowledged: Acknowledged | None, at: str | None) -> OpenRepository:
    """Open the repository at the newest commit of the current branch.

    If the branch cannot be read, the acknowledged snapshot takes its place, or without one the snapshot `at`.
    """
    place, branch = place_of(directory), MAIN if acknowledged is None else acknowledged.branch
    try:
        place.check_reference(BRANCH + branch)
        repository = open_icechunk(directory)
        return OpenRepository(repository, repository.lookup_branch(branch), branch)
    except Exception as error:
        raise_resource_error(error)
        place.require_reachable()
        problem = f"the branch {branch} cannot be read ({first_line(error)})"
        if place.whole_files or (acknowledged is None and at is None):
            raise StoreDamagedError(
                f"{directory}: {problem}, and no other commit was recorded as durable: "
                "restore the directory from a backup"
            ) from error
    head = acknowledged.snapshot if acknowledged is not None else snapshot_beginning(directory, at or "")
    names = {BRANCH + MAIN: head, **known_references(directory).by_directory(), BRANCH + branch: head}
    repository, shadow = _open_linked_copy(directory, names)
    return OpenRepository(repository, head, branch, problem, shadow)


def _fall_back(
    found: OpenRepository, directory: Path, acknowledged: Acknowledged | None, problem: str, *, write: bool
) -> None:
    """Read the acknowledged snapshot instead of a newest commit that cannot be read; with `write`, reset the branch.

    Raises
    ------
    StoreDamagedError
        There is no other acknowledged snapshot, or it cannot be read either.
    """
    if place_of(directory).whole_files:
        raise StoreDamagedError(problem)
    if acknowledged is None or (found.recovered_from is None and acknowledged.snapshot == found.snapshot):
        raise _unreadable(directory, problem, acknowledged)
    try:
        check_readable(found.repository, acknowledged.snapshot, directory, acknowledged)
    except StoreDamagedError as error:
        raise _unreadable(directory, f"{problem}; {error}", acknowledged) from error
    found.snapshot = acknowledged.snapshot
    found.recovered_from = f"{problem}: reading the last acknowledged snapshot {acknowledged.snapshot} instead"
    if write:
        place_of(directory).point({BRANCH + found.branch: acknowledged.snapshot})
        restore_references(directory)
        found.repository = open_icechunk(directory)
        if found.shadow is not None:
            found.shadow.cleanup()
            found.shadow = None


def check_readable(
    repository: icechunk.Repository, snapshot: str, directory: Path, acknowledged: Acknowledged | None
) -> None:
    """Check that everything needed to find the data of a snapshot can be read: metadata, settings, manifests.

    Raises
    ------
    StoreDamagedError
        A part cannot be read or fails its checksum, or shapes disagree.
    StoreVersionError
        The snapshot has a newer format version.
    """
    where = f"snapshot {snapshot} of {directory}"
    try:
        _check_files(repository, snapshot, directory, acknowledged)
        attributes, shapes = sync(_metadata(repository.readonly_session(snapshot_id=snapshot)))
        check_version(attributes, directory)
        fault = shape_fault(shapes)
        if fault is not None:
            raise StoreDamagedError(f"{where}: {fault}")
    except StoreError:
        raise
    except KeyError as error:
        raise StoreDamagedError(f"{where} lacks {first_line(error)}") from error
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:  # a panic in Icechunk is not an Exception
        raise_resource_error(error)
        place_of(directory).require_reachable()
        raise StoreDamagedError(f"{where} cannot be read ({first_line(error)})") from error


def _check_files(
    repository: icechunk.Repository, snapshot: str, directory: Path, acknowledged: Acknowledged | None
) -> None:
    """Check the checksums of an acknowledged snapshot, and the sizes of the manifests of any snapshot."""
    where = f"snapshot {snapshot} of {directory}"
    if place_of(directory).whole_files:
        return
    if acknowledged is not None and acknowledged.snapshot == snapshot:
        damaged = _first_damaged_file(directory, acknowledged)
        if damaged is not None:  # a garbage collection may have rewritten both in the meantime: read again
            damaged = _first_damaged_file(directory, read_acknowledged(directory) or acknowledged)
        if damaged is not None:
            raise StoreDamagedError(f"{where}: {damaged} fails its checksum")
    for manifest in snapshot_info(repository, snapshot).manifests:
        path = directory / REPOSITORY_NAME / "manifests" / manifest.id
        size_bytes = path.stat().st_size if path.exists() else 0
        if size_bytes != manifest.size_bytes:
            raise StoreDamagedError(f"{where}: manifest {path} has {size_bytes} bytes, expected {manifest.size_bytes}")


def check_version(attributes: dict[str, Any], directory: Path) -> None:
    """Check the format version in the root attributes.

    Raises
    ------
    StoreVersionError
        The version is newer than `FORMAT_VERSION`.
    StoreDamagedError
        The attributes have no version or no settings.
    """
    version = attributes.get("format_version")
    if not isinstance(version, int) or not isinstance(attributes.get("settings"), dict):
        raise StoreDamagedError(f"{directory}: the root attributes have no format_version or no settings")
    if version > FORMAT_VERSION:
        raise StoreVersionError(
            f"{directory} has format version {version}, this release reads up to {FORMAT_VERSION}: "
            "use a newer release of sifu"
        )


def read_acknowledged(directory: Path) -> Acknowledged | None:
    """Read the file `acknowledged`. Returns None if it is missing or damaged."""
    try:
        content = json.loads(place_of(directory).read(ACKNOWLEDGED_NAME))
        if content.pop("crc32") != zlib.crc32(_canonical(content)):
            return None
        branches = {BRANCH + name: head for name, head in content.get("branches", {}).items()}
        return Acknowledged(
            content["snapshot"],
            content["previous"],
            branch=content.get("branch", MAIN),
            references={**content.get("references", {}), **branches},
            files=content["files"],
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise_resource_error(error)
        return None


def acknowledge(
    directory: Path,
    repository: icechunk.Repository,
    snapshot: str,
    *,
    branch: str,
    checksums: bool = True,
    without: Container[str] = (),
) -> None:
    """Sync the files of a snapshot, then record it as durable, and its branch as the current one.

    Parameters
    ----------
    directory, repository
        The store.
    snapshot, branch
        The newest commit of the branch that becomes the current one.
    checksums
        Record checksums of the files. False: they will be rewritten.
    without
        References that are not recorded, because they will be deleted, by the names of their directories.
    """
    place = place_of(directory)
    if place.whole_files:  # nothing can be torn or lost
        _record_branch(directory, repository, snapshot, branch=branch)
        return
    place.sync()
    info = repository.lookup_snapshot(snapshot)
    references = known_references(directory)
    heads = {name: head for name, head in references.branches.items() if BRANCH + name not in without}
    others = {
        name: tip
        for name, tip in references.by_directory().items()
        if name not in without and name not in {BRANCH + each for each in references.branches}
    }
    names = [f"snapshots/{snapshot}", *(f"manifests/{manifest.id}" for manifest in info.manifests)]
    content = {
        "snapshot": snapshot,
        "previous": Lineage(repository, references).commit(snapshot).parent,
        "branch": branch,
        "branches": {**heads, branch: snapshot},
        "references": others,
        "files": {name: _checksum(directory, name) for name in names} if checksums else {},
    }
    place.write(ACKNOWLEDGED_NAME, _signed(content))


def _record_branch(directory: Path, repository: icechunk.Repository, snapshot: str, *, branch: str) -> None:
    """Record which branch is the current one, unless that is recorded; no other file of the store needs a record."""
    recorded = read_acknowledged(directory)
    if recorded is not None and recorded.branch == branch:
        return
    previous = Lineage(repository, known_references(directory)).commit(snapshot).parent
    content: dict[str, Any] = {
        "snapshot": snapshot, "previous": previous, "branch": branch, "branches": {}, "references": {}, "files": {},
    }  # fmt: skip
    place_of(directory).write(ACKNOWLEDGED_NAME, _signed(content))


def _signed(content: dict[str, Any]) -> bytes:
    return json.dumps({**content, "crc32": zlib.crc32(_canonical(content))}, indent=1).encode()


def _canonical(content: dict[str, Any]) -> bytes:
    return json.dumps(content, sort_keys=True, separators=(",", ":")).encode()


def _checksum(directory: Path, name: str) -> int | None:
    path = directory / REPOSITORY_NAME / name
    return zlib.crc32(path.read_bytes()) if path.exists() else None


def _first_damaged_file(directory: Path, acknowledged: Acknowledged) -> Path | None:
    for name, checksum in acknowledged.files.items():
        if _checksum(directory, name) != checksum:
            return directory / REPOSITORY_NAME / name
    return None


async def _metadata(session: icechunk.Session) -> tuple[dict[str, Any], dict[str, tuple[int, ...]]]:
    """The root attributes, and the shapes of the required arrays by name. Concurrent requests take less time."""
    group = await zarr.api.asynchronous.open_group(session.store, mode="r")
    names = [spec.name for spec in ARRAYS]
    shapes = {}
    for name, array in zip(names, await asyncio.gather(*map(group.getitem, names)), strict=True):
        if not isinstance(array, zarr.AsyncArray):
            raise KeyError(name)
        shapes[name] = array.shape
    return dict(group.attrs), shapes


def known_references(directory: Path) -> References:
    """All references of a store. Those that are recorded but missing or damaged are as the record says."""
    place = place_of(directory)
    for _ in range(2):  # a reference that was created between the two reads is recorded, but was not found
        found = assemble(*place.references(), {})
        acknowledged = read_acknowledged(directory)
        names = found.by_directory()
        if acknowledged is None or names.keys() >= acknowledged.references.keys():
            return found
        found = assemble(*place.references(), acknowledged.references)
        if not found.lost:
            return found
    return found


def restore_references(directory: Path) -> None:
    """Write the recorded references that are missing or damaged."""
    recorded = read_acknowledged(directory)
    if recorded is not None and recorded.references:
        place_of(directory).point(known_references(directory).lost)


def _open_linked_copy(
    directory: Path, names: Mapping[str, str]
) -> tuple[icechunk.Repository, tempfile.TemporaryDirectory[str]]:
    """Open the repository with these references instead of the unreadable ones, without changing the store."""
    shadow = linked_copy(directory, names)
    try:
        return open_icechunk(Path(shadow.name)), shadow
    except Exception as error:
        shadow.cleanup()
        raise StoreDamagedError(f"{directory} cannot be opened ({first_line(error)})") from error


def _lost_record(directory: Path) -> str | None:
    others = sorted(name for name in known_references(directory).branches if name != MAIN)
    if not others:
        return None
    return f"the record of the current branch is lost: reading {MAIN} (`switch()` changes to {', '.join(others)})"


def _unreadable(directory: Path, problem: str, acknowledged: Acknowledged | None) -> StoreDamagedError:
    previous = acknowledged.previous if acknowledged is not None else None
    older = f", or open the commit before it ({previous})" if previous else ""
    return StoreDamagedError(f"{problem}: restore {directory} from a backup{older}")
