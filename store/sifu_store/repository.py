"""Which snapshot is the current one, and can it be read: opening the Icechunk repository of a store.

The head of the current branch counts if it can be read, else the last acknowledged snapshot. This module knows
snapshots, their names, manifests and the root attributes; not pages, and not who writes.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import tempfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import icechunk
import zarr
import zarr.api.asynchronous
from zarr.core.sync import sync

from sifu_store import refs
from sifu_store.durable import sync_filesystem, write_durably
from sifu_store.errors import StoreDamagedError, StoreError, StoreVersionError, first_line
from sifu_store.history import resolve, snapshot_beginning
from sifu_store.layout import ARRAYS, FORMAT_VERSION, SOURCE, Sizes
from sifu_store.refs import EMPTY, MAIN
from sifu_store.staging import ACKNOWLEDGED_NAME, REPOSITORY_NAME


@dataclass(frozen=True, slots=True)
class Acknowledged:
    """What the file `acknowledged` says: the current branch, the last commit of it that was reported as saved, the
    commit before that one, and the newest commit of every branch."""

    snapshot: str
    previous: str | None = None
    branch: str = MAIN
    branches: dict[str, str] = field(default_factory=dict)
    files: dict[str, int] = field(default_factory=dict)
    """crc32 of the snapshot file and of every manifest file, by path in the repository."""


@dataclass(slots=True)
class OpenRepository:
    """A repository and the snapshot to read in it."""

    repository: icechunk.Repository
    snapshot: str
    branch: str
    recovered_from: str | None = None
    shadow: tempfile.TemporaryDirectory[str] | None = None
    """Stands in for the repository's directory while its branch cannot be read; delete at the end."""


def storage(directory: Path) -> icechunk.Storage:
    """The Icechunk storage of the store in `directory`."""
    if "ICECHUNK_LOG" not in os.environ:
        # It warns at every open that a local directory excludes no second committer: the writer lock does.
        icechunk.set_logs_filter("icechunk=off")
    return icechunk.local_filesystem_storage(str(directory / REPOSITORY_NAME))


def open_repository(directory: Path, *, write: bool, at: str | None) -> OpenRepository:
    """Find the snapshot to work with.

    Raises
    ------
    StoreDamagedError
        Neither the branch head nor the acknowledged snapshot can be read (or, with `at`, that snapshot).
    StoreVersionError
        The store has a newer format.
    """
    acknowledged = read_acknowledged(directory)
    branch = MAIN if acknowledged is None else acknowledged.branch
    problem: str | None = None
    shadow: tempfile.TemporaryDirectory[str] | None = None
    try:
        repository = icechunk.Repository.open(storage(directory))
        head = repository.lookup_branch(branch)
    except Exception as error:
        problem = f"the branch {branch} cannot be read ({first_line(error)})"
        if acknowledged is None and at is None:
            raise StoreDamagedError(
                f"{directory}: {problem}, and there is no acknowledged snapshot to fall back to: "
                "restore the directory from a backup"
            ) from error
        head = acknowledged.snapshot if acknowledged is not None else snapshot_beginning(directory, at or "")
        known = acknowledged.branches if acknowledged is not None else {}
        repository, shadow = _open_beside(directory, {MAIN: head, **known, branch: head})
    try:
        if at is not None:
            snapshot = resolve(directory, repository, at, head=head)
            probe(repository, snapshot, directory, acknowledged)
            return OpenRepository(repository, snapshot, branch, None, shadow)
        if problem is None:
            try:
                probe(repository, head, directory, acknowledged)
                lost = None if acknowledged is not None else _lost_note(repository)
                if write:
                    _mend_branches(directory, acknowledged)
                return OpenRepository(repository, head, branch, lost)
            except StoreDamagedError as error:
                problem = str(error)
                if acknowledged is None or acknowledged.snapshot == head:
                    raise _hopeless(directory, problem, acknowledged) from error
        assert acknowledged is not None
        try:
            probe(repository, acknowledged.snapshot, directory, acknowledged)
        except StoreDamagedError as error:
            raise _hopeless(directory, f"{problem}; {error}", acknowledged) from error
        message = f"{problem}: fell back to the last acknowledged snapshot {acknowledged.snapshot}"
        if write:
            refs.point(directory, {branch: acknowledged.snapshot})
            _mend_branches(directory, acknowledged)
            repository = icechunk.Repository.open(storage(directory))
            if shadow is not None:
                shadow.cleanup()
                shadow = None
        return OpenRepository(repository, acknowledged.snapshot, branch, message, shadow)
    except BaseException:
        if shadow is not None:
            shadow.cleanup()
        raise


def probe(repository: icechunk.Repository, snapshot: str, directory: Path, acknowledged: Acknowledged | None) -> None:
    """Read everything of a snapshot that is needed to find its data: metadata, settings, manifests.

    Raises
    ------
    StoreDamagedError, StoreVersionError
    """
    where = f"snapshot {snapshot} of {directory}"
    try:
        if acknowledged is not None and acknowledged.snapshot == snapshot:
            wrong = _first_wrong(directory, acknowledged)
            if wrong is not None:  # a collection of garbage may just have rewritten both: look again
                wrong = _first_wrong(directory, read_acknowledged(directory) or acknowledged)
            if wrong is not None:
                raise StoreDamagedError(f"{where}: {wrong} fails its checksum")
        for manifest in repository.lookup_snapshot(snapshot).manifests:
            path = directory / REPOSITORY_NAME / "manifests" / manifest.id
            size_bytes = path.stat().st_size if path.exists() else 0
            if size_bytes != manifest.size_bytes:
                raise StoreDamagedError(
                    f"{where}: manifest {path} has {size_bytes} bytes instead of {manifest.size_bytes}"
                )
        attributes, shapes = sync(_metadata(repository.readonly_session(snapshot_id=snapshot)))
        check_version(attributes, directory)
        sizes = Sizes(n=shapes["nodes/count"][0], d=shapes["default/bias"][0], slots=shapes[SOURCE][0])
        for spec in ARRAYS:
            expected = spec.shape(sizes)
            found = shapes[spec.name]
            if len(found) != len(expected) or any(
                e is not None and e != f for e, f in zip(expected, found, strict=True)
            ):
                raise StoreDamagedError(f"{where}: {spec.name} has shape {found}, expected {expected}")
    except StoreError:
        raise
    except KeyError as error:
        raise StoreDamagedError(f"{where} lacks {first_line(error)}") from error
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:  # a panic inside Icechunk is no Exception
        raise StoreDamagedError(f"{where} cannot be read ({first_line(error)})") from error


def check_version(attributes: dict[str, Any], directory: Path) -> None:
    """Refuse a store of a newer format; a store without a version or settings is damaged."""
    version = attributes.get("format_version")
    if not isinstance(version, int) or not isinstance(attributes.get("settings"), dict):
        raise StoreDamagedError(f"{directory}: the root attributes hold no format_version or no settings")
    if version > FORMAT_VERSION:
        raise StoreVersionError(
            f"{directory} has format version {version}, this release reads up to {FORMAT_VERSION}: "
            "use a newer release of sifu"
        )


def read_acknowledged(directory: Path) -> Acknowledged | None:
    """The file `acknowledged`, or None if it is missing or makes no sense (the head is tried first)."""
    try:
        content = json.loads((directory / ACKNOWLEDGED_NAME).read_text(encoding="utf-8"))
        if content.pop("crc32") != zlib.crc32(_canonical(content)):
            return None
        named = {"branch": content.get("branch", MAIN), "branches": content.get("branches", {})}
        return Acknowledged(content["snapshot"], content["previous"], files=content["files"], **named)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def acknowledge(
    directory: Path,
    repository: icechunk.Repository,
    snapshot: str,
    *,
    branch: str,
    checksums: bool = True,
    without: str | None = None,
) -> None:
    """Sync what the snapshot consists of, then note it as saved, and its branch as the current one.

    No `checksums`: the files are about to be rewritten. `without`: that branch is about to be dropped.
    """
    sync_filesystem(directory)
    info = repository.lookup_snapshot(snapshot)
    heads = {name: head for name, head in refs.branch_heads(repository).items() if name != without}
    names = [f"snapshots/{snapshot}", *(f"manifests/{manifest.id}" for manifest in info.manifests)]
    content = {
        "snapshot": snapshot,
        "previous": _before(repository, info),
        "branch": branch,
        "branches": {**heads, branch: snapshot},
        "files": {name: _checksum(directory, name) for name in names} if checksums else {},
    }
    text = json.dumps({**content, "crc32": zlib.crc32(_canonical(content))}, indent=1)
    write_durably(directory / ACKNOWLEDGED_NAME, text.encode())


def _canonical(content: dict[str, Any]) -> bytes:
    return json.dumps(content, sort_keys=True, separators=(",", ":")).encode()


def _checksum(directory: Path, name: str) -> int | None:
    path = directory / REPOSITORY_NAME / name
    return zlib.crc32(path.read_bytes()) if path.exists() else None


def _first_wrong(directory: Path, acknowledged: Acknowledged) -> Path | None:
    for name, checksum in acknowledged.files.items():
        if _checksum(directory, name) != checksum:
            return directory / REPOSITORY_NAME / name
    return None


async def _metadata(session: icechunk.Session) -> tuple[dict[str, Any], dict[str, tuple[int, ...]]]:
    """The root attributes, and the shapes of the arrays that every store has; all at once, which is cheaper."""
    group = await zarr.api.asynchronous.open_group(session.store, mode="r")
    names = [spec.name for spec in ARRAYS]
    shapes = {}
    for name, array in zip(names, await asyncio.gather(*map(group.getitem, names)), strict=True):
        if not isinstance(array, zarr.AsyncArray):
            raise KeyError(name)
        shapes[name] = array.shape
    return dict(group.attrs), shapes


def beside(directory: Path, branches: Mapping[str, str]) -> tempfile.TemporaryDirectory[str]:
    """A directory that can be opened as if it were the store, with these branches: links to the store's files.

    What is written there leaves the store as it is, as long as nothing is deleted.
    """
    shadow = tempfile.TemporaryDirectory(prefix="sifu-", ignore_cleanup_errors=True)
    original, links = (directory / REPOSITORY_NAME).resolve(), Path(shadow.name) / REPOSITORY_NAME
    for folder in ("snapshots", "refs"):
        (links / folder).mkdir(parents=True)
    for part in (*original.iterdir(), *original.glob("snapshots/*"), *original.glob("refs/tag.*")):
        link = links / part.relative_to(original)
        if not link.exists():
            link.symlink_to(part)
    refs.point(Path(shadow.name), branches)
    return shadow


def _open_beside(
    directory: Path, branches: Mapping[str, str]
) -> tuple[icechunk.Repository, tempfile.TemporaryDirectory[str]]:
    """Open the repository as if these were its branches, changing nothing."""
    shadow = beside(directory, {**branches, **_readable_branches(directory)})
    try:
        return icechunk.Repository.open(storage(Path(shadow.name))), shadow
    except Exception as error:
        shadow.cleanup()
        raise StoreDamagedError(f"{directory} cannot be opened ({first_line(error)})") from error


def _readable_branches(directory: Path) -> dict[str, str]:
    """What the branches say whose files can be read: Icechunk opens nothing if that of main cannot."""
    readable = {}
    for folder in (directory / REPOSITORY_NAME / "refs").glob("branch.*"):
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
            snapshot = json.loads((folder / "ref.json").read_text(encoding="utf-8"))["snapshot"]
            readable[folder.name.removeprefix("branch.")] = str(snapshot)
    return readable


def _mend_branches(directory: Path, acknowledged: Acknowledged | None) -> None:
    """Lets the branches that were acknowledged and cannot be read mean again what they meant."""
    if acknowledged is not None:
        readable = _readable_branches(directory)
        lost = {name: snapshot for name, snapshot in acknowledged.branches.items() if name not in readable}
        refs.point(directory, lost)


def _lost_note(repository: icechunk.Repository) -> str | None:
    others = [name for name in repository.list_branches() if name != MAIN and not name.startswith(refs.OWN)]
    if not others:
        return None
    return f"the note of the current branch is lost: took {MAIN} (sifu switch to go to {', '.join(sorted(others))})"


def _before(repository: icechunk.Repository, info: icechunk.SnapshotInfo) -> str | None:
    """The commit before one, as far as it was kept."""
    parent: str | None = info.parent_id
    if parent not in (None, EMPTY):
        return parent
    with contextlib.suppress(icechunk.IcechunkError):
        return str(repository.lookup_branch(refs.BEFORE + info.id))
    return None


def _hopeless(directory: Path, problem: str, acknowledged: Acknowledged | None) -> StoreDamagedError:
    previous = acknowledged.previous if acknowledged is not None else None
    older = f", or open the commit before it ({previous})" if previous else ""
    return StoreDamagedError(f"{problem}: restore {directory} from a backup{older}")
