"""The references of a store in a folder: directories `branch.NAME` and `tag.NAME`, each with a file `ref.json`.

Icechunk writes references without a sync, and can list none of them if one file in their directory is not its own. So
sifu reads and writes them itself, in Icechunk's format. After a power cut a name refers to the old snapshot or to the
new one. This module knows files; not what refers to what.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import shutil
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from sifu_store.durable import disk_errors, fsync_directory, sync_filesystem
from sifu_store.errors import StoreError
from sifu_store.links import refuse_link
from sifu_store.names import DELETED_FILE, REFERENCE_FILE, REFERENCES
from sifu_store.refs import BRANCH, TAG, TEMPORARY, is_snapshot_id


def read_directories(directory: Path) -> tuple[dict[str, str], dict[str, str], set[str]]:
    """By the name of their directories: the snapshot ids of references, what is wrong with others; deleted tags."""
    found: dict[str, str] = {}
    unreadable: dict[str, str] = {}
    deleted: set[str] = set()
    folder = directory / REFERENCES
    try:
        names = [path.name for path in folder.iterdir() if path.name.startswith((BRANCH, TAG))]
    except OSError:
        names = []
    for name in names:
        if name.startswith(TAG) and os.path.lexists(folder / name / DELETED_FILE):
            deleted.add(name)
            continue
        try:
            refuse_links(directory, name)
            snapshot = json.loads((folder / name / REFERENCE_FILE).read_bytes())["snapshot"]
            if not isinstance(snapshot, str) or not is_snapshot_id(snapshot):
                raise ValueError("it names no snapshot")
            found[name] = snapshot
        except StoreError:
            unreadable[name] = "it is a symbolic link"
        except NotADirectoryError:
            continue  # a file that no reference begins with
        except FileNotFoundError:
            if os.path.lexists(folder / name):  # else it was deleted in the meantime
                unreadable[name] = f"its file {REFERENCE_FILE} is missing"
        except OSError as error:
            unreadable[name] = error.strerror or str(error)
        except (ValueError, KeyError, TypeError, RecursionError):
            unreadable[name] = f"its file {REFERENCE_FILE} is damaged"
    return found, unreadable, deleted


def refuse_links(directory: Path, name: str) -> None:
    """Check that a reference, by the name of its directory, is no symbolic link: it would be another one.

    Raises
    ------
    StoreError
        It is one.
    """
    folder = directory / REFERENCES / name
    refuse_link(folder)
    refuse_link(folder / REFERENCE_FILE)


def point(directory: Path, names: Mapping[str, str]) -> None:
    """Make each name refer to a snapshot, durably. A crash leaves the old reference, the new one, or none.

    Parameters
    ----------
    directory
        Directory of the store.
    names
        Snapshot id by the name of the reference's directory: `branch.main`, `tag.v1`.
    """
    if not names:
        return
    refs = directory / REFERENCES
    with disk_errors(directory, "writing the names of branches"), _temporary(directory) as temporary:
        for name, snapshot in names.items():
            write_reference(temporary / name, snapshot)
        sync_filesystem(directory)
        refs.mkdir(exist_ok=True)
        for name in names:
            file, folder = refs / name / REFERENCE_FILE, refs / name
            if os.path.lexists(folder) and (file.is_dir() or not folder.is_dir()):
                folder.rename(temporary / f"{name}.damaged")
            if folder.is_dir():
                (temporary / name / REFERENCE_FILE).replace(file)
            else:  # the directory appears with its file in it
                (temporary / name).rename(folder)
        sync_filesystem(directory)


def write_reference(folder: Path, snapshot: str) -> None:
    """Write a reference as a new directory, without a sync."""
    folder.mkdir(parents=True)
    (folder / REFERENCE_FILE).write_text(json.dumps({"snapshot": snapshot}), encoding="utf-8")


def drop(directory: Path, names: Iterable[str]) -> None:
    """Delete references, durably, by the names of their directories.

    The caller must have removed them from the `acknowledged` file: the next writer restores what is recorded there. It
    needs no space: it also takes back what a full disk let half be done.
    """
    refs = directory / REFERENCES
    with disk_errors(directory, "removing the names of branches"):
        gone = {name: _temporary_name(directory) for name in names if os.path.lexists(refs / name)}
        for name, temporary in gone.items():  # in one step: a directory without its file would look damaged
            (refs / name).rename(temporary)
        fsync_directory(refs)
        for temporary in gone.values():
            _remove(temporary)


@contextlib.contextmanager
def restored_on_error(directory: Path, name: str) -> Iterator[None]:
    """A block that moves a reference; if it raises, the reference is restored, which needs no space then."""
    file = directory / REFERENCES / name / REFERENCE_FILE
    with disk_errors(directory, "writing the names of branches"), _temporary(directory) as temporary:
        before = temporary / REFERENCE_FILE
        before.write_bytes(file.read_bytes())
        try:
            yield
        except BaseException:
            before.replace(file)
            fsync_directory(file.parent)
            raise


def mark_deleted(directory: Path, tag: str) -> None:
    """Mark a tag as deleted, durably. As in Icechunk, its name cannot be used again."""
    folder = directory / REFERENCES / f"{TAG}{tag}"
    with disk_errors(directory, f"deleting the tag {tag}"):
        (folder / DELETED_FILE).touch()
        fsync_directory(folder)


def remove_temporary(directory: Path) -> None:
    """Delete what interrupted changes of references left."""
    for left in directory.glob(f"{TEMPORARY}*"):
        _remove(left)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def _temporary_name(directory: Path) -> Path:
    return directory / f"{TEMPORARY}{secrets.token_hex(8)}"


@contextlib.contextmanager
def _temporary(directory: Path) -> Iterator[Path]:
    """A temporary directory on the filesystem of the references; not among them, where Icechunk would read it."""
    temporary = _temporary_name(directory)
    temporary.mkdir()
    try:
        yield temporary
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
