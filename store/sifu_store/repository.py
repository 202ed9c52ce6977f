"""Which snapshot is the current one, and can it be read: opening the Icechunk repository of a store.

The branch head counts if it can be read, else the last acknowledged snapshot. This module knows snapshots,
manifests and the root attributes; not pages, and not who writes.
"""

from __future__ import annotations

import json
import os
import re
import tempfile
import zlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import icechunk
import zarr

from sifu_store.durable import sync_filesystem, write_durably
from sifu_store.errors import OptionError, StoreDamagedError, StoreError, StoreVersionError
from sifu_store.layout import ARRAYS, FORMAT_VERSION, SOURCE, Sizes
from sifu_store.staging import ACKNOWLEDGED_NAME, REPOSITORY_NAME

BRANCH = "main"
_EMPTY = "1CECHNKREP0F1RSTCMT0"  # the snapshot that every repository of Icechunk begins with


@dataclass(frozen=True, slots=True)
class Acknowledged:
    """What the file `acknowledged` says: the last commit reported as saved, and the one before it."""

    snapshot: str
    previous: str | None = None
    files: dict[str, int] = field(default_factory=dict)
    """crc32 of the snapshot file and of every manifest file, by path in the repository."""


@dataclass(slots=True)
class OpenRepository:
    """A repository and the snapshot to read in it."""

    repository: icechunk.Repository
    snapshot: str
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
    problem: str | None = None
    shadow: tempfile.TemporaryDirectory[str] | None = None
    try:
        repository = icechunk.Repository.open(storage(directory))
        head = repository.lookup_branch(BRANCH)
    except Exception as error:
        problem = f"the branch {BRANCH} cannot be read ({first_line(error)})"
        if acknowledged is None and at is None:
            raise StoreDamagedError(
                f"{directory}: {problem}, and there is no acknowledged snapshot to fall back to: "
                "restore the directory from a backup"
            ) from error
        head = acknowledged.snapshot if acknowledged is not None else ""
        repository, shadow = _open_beside(directory, head or _resolve(directory, at or ""))
    try:
        if at is not None:
            snapshot = _resolve(directory, at)
            probe(repository, snapshot, directory, acknowledged)
            return OpenRepository(repository, snapshot, None, shadow)
        if problem is None:
            try:
                probe(repository, head, directory, acknowledged)
                return OpenRepository(repository, head)
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
            reference = directory / REPOSITORY_NAME / "refs" / f"branch.{BRANCH}" / "ref.json"
            reference.parent.mkdir(parents=True, exist_ok=True)
            write_durably(reference, json.dumps({"snapshot": acknowledged.snapshot}).encode())
            repository = icechunk.Repository.open(storage(directory))
            if shadow is not None:
                shadow.cleanup()
                shadow = None
        return OpenRepository(repository, acknowledged.snapshot, message, shadow)
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
        group = zarr.open_group(repository.readonly_session(snapshot_id=snapshot).store, mode="r")
        check_version(dict(group.attrs), directory)
        shapes = {spec.name: _shape(group, spec.name) for spec in ARRAYS}
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
        return Acknowledged(content["snapshot"], content["previous"], content["files"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def acknowledge(directory: Path, repository: icechunk.Repository, snapshot: str, *, checksums: bool = True) -> None:
    """Sync what the snapshot consists of, then note it as saved (no `checksums`: about to be rewritten)."""
    sync_filesystem(directory)
    last = read_acknowledged(directory)
    previous = None if last is None else (last.snapshot if last.snapshot != snapshot else last.previous)
    manifests = repository.lookup_snapshot(snapshot).manifests if checksums else []
    names = [f"snapshots/{snapshot}"] * checksums + [f"manifests/{manifest.id}" for manifest in manifests]
    files = {name: _checksum(directory, name) for name in names}
    content = {"snapshot": snapshot, "previous": previous, "files": files}
    text = json.dumps({**content, "crc32": zlib.crc32(_canonical(content))}, indent=1)
    write_durably(directory / ACKNOWLEDGED_NAME, text.encode())


def first_line(error: BaseException) -> str:
    """What an error says in one line: Icechunk draws whole trees."""
    for line in str(error).splitlines():
        text = re.sub(r"^[\s|x×`>-]+", "", line).strip()
        if text:
            return text
    return type(error).__name__


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


def _shape(group: zarr.Group, name: str) -> tuple[int, ...]:
    array = group[name]
    if not isinstance(array, zarr.Array):
        raise KeyError(name)
    return array.shape


def _resolve(directory: Path, prefix: str) -> str:
    wanted = prefix.strip().upper()
    snapshots = directory / REPOSITORY_NAME / "snapshots"
    names = sorted(path.name for path in snapshots.iterdir() if path.name != _EMPTY)
    found = [name for name in names if name.startswith(wanted)] if wanted else []
    if len(found) != 1:
        what = "no snapshot" if not found else f"{len(found)} snapshots"
        raise OptionError(f"{directory} has {what} beginning with {prefix!r}: see the list of commits (sifu log)")
    return found[0]


def _open_beside(directory: Path, head: str) -> tuple[icechunk.Repository, tempfile.TemporaryDirectory[str]]:
    """Open the repository as if its branch pointed to `head`, changing nothing: by links to its files."""
    shadow = tempfile.TemporaryDirectory(prefix="sifu-", ignore_cleanup_errors=True)
    links = Path(shadow.name) / REPOSITORY_NAME
    reference = links / "refs" / f"branch.{BRANCH}" / "ref.json"
    reference.parent.mkdir(parents=True)
    reference.write_text(json.dumps({"snapshot": head}), encoding="utf-8")
    original = (directory / REPOSITORY_NAME).resolve()
    for part in (*original.iterdir(), *(original / "refs").glob("*")):
        link = links / part.relative_to(original)
        if not link.exists():
            link.symlink_to(part)
    try:
        return icechunk.Repository.open(storage(Path(shadow.name))), shadow
    except Exception as error:
        shadow.cleanup()
        raise StoreDamagedError(f"{directory} cannot be opened ({first_line(error)})") from error


def _hopeless(directory: Path, problem: str, acknowledged: Acknowledged | None) -> StoreDamagedError:
    previous = acknowledged.previous if acknowledged is not None else None
    older = f", or open the commit before it ({previous})" if previous else ""
    return StoreDamagedError(f"{problem}: restore {directory} from a backup{older}")
