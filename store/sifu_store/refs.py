"""The references of an Icechunk repository: branches, tags, and the references that sifu keeps for itself.

Icechunk writes references without a sync, and can list none of them if one file in their directory is not its own. So
sifu reads and writes them itself, in Icechunk's format: a directory `branch.NAME` or `tag.NAME` with a file `ref.json`.
After a power cut a name refers to the old snapshot or to the new one. This module knows names; not commits, and not
which branch is the current one.
"""

from __future__ import annotations

import contextlib
import difflib
import json
import os
import re
import secrets
import shutil
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from sifu_store.durable import disk_errors, fsync_directory, sync_filesystem
from sifu_store.errors import OptionError, StoreError
from sifu_store.links import refuse_link
from sifu_store.staging import REPOSITORY_NAME

MAIN = "main"
"""The branch of a new store. Icechunk cannot open a repository without it."""

EMPTY = "1CECHNKREP0F1RSTCMT0"
"""Id of the first, empty snapshot of every Icechunk repository."""

OWN = "sifu."
"""Prefix of the branches that sifu keeps for itself."""

BEFORE = "sifu.before."
"""Prefix of a branch that is named after a commit id and refers to the nearest kept ancestor of that commit.

It refers to `EMPTY` where the commits before it are lost."""

REDO = "sifu.redo."
"""Prefix of a branch that is named after a user's branch and refers to the newest commit that was undone there."""

UNDONE = "sifu.undone."
"""Prefix of a branch that is named after a commit id and refers to that commit: undone, and no longer redoable."""

EARLY = "history."
"""Prefix of a tag that is named after the id of a kept commit, in stores written before branches existed."""

BRANCH, TAG = "branch.", "tag."
"""Prefixes of the directories of branches and tags."""

TEMPORARY = ".refs."
"""Prefix of the directories in a store that hold a reference while it is created or deleted."""

_FILE, _DELETED = "ref.json", "ref.json.deleted"
_ALLOWED = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
_ID = re.compile(r"[0-9A-HJKMNP-TV-Z]{20}")


@dataclass(frozen=True, slots=True)
class References:
    """All references: snapshot id by name. The names of sifu's own references are without their prefix.

    Parameters
    ----------
    branches, tags
        The user's.
    before, redo, undone, early
        Sifu's own: see `BEFORE`, `REDO`, `UNDONE` and `EARLY`.
    lost
        References that are recorded, but are missing or damaged on disk, by the name of their directory
        (`branch.main`). They are among the others too, with the recorded commit.
    unreadable
        The same of damaged references that are not recorded, with what is wrong. They are not among the others.
    """

    branches: dict[str, str]
    tags: dict[str, str]
    before: dict[str, str]
    redo: dict[str, str]
    undone: dict[str, str]
    early: dict[str, str]
    lost: dict[str, str]
    unreadable: dict[str, str]

    def with_branch(self, name: str, snapshot: str) -> References:
        """The same with a branch at this snapshot, whatever is wrong with its reference."""
        folder = BRANCH + name
        return replace(
            self,
            branches={**self.branches, name: snapshot},
            lost={each: tip for each, tip in self.lost.items() if each != folder},
            unreadable={each: reason for each, reason in self.unreadable.items() if each != folder},
        )

    def by_directory(self) -> dict[str, str]:
        """Snapshot id of every reference by the name of its directory."""
        kinds = (
            (BRANCH, self.branches),
            (BRANCH + BEFORE, self.before),
            (BRANCH + REDO, self.redo),
            (BRANCH + UNDONE, self.undone),
            (TAG, self.tags),
            (TAG + EARLY, self.early),
        )
        return {prefix + name: snapshot for prefix, found in kinds for name, snapshot in found.items()}


def read_references(directory: Path, recorded: Mapping[str, str]) -> References:
    """Read all references of the store in `directory`. Files that are no references are skipped.

    Parameters
    ----------
    directory
        Directory of the store.
    recorded
        Snapshot id of every reference that must be there, by the name of its directory.
    """
    found, unreadable, deleted = _read_directories(directory)
    lost = {name: snapshot for name, snapshot in recorded.items() if name not in found and name not in deleted}
    kinds: dict[str, dict[str, str]] = {
        prefix: {} for prefix in (BRANCH + BEFORE, BRANCH + REDO, BRANCH + UNDONE, TAG + EARLY, BRANCH, TAG)
    }
    for name, snapshot in sorted({**found, **lost}.items()):
        prefix = next(prefix for prefix in kinds if name.startswith(prefix))
        kinds[prefix][name.removeprefix(prefix)] = snapshot
    return References(
        branches=kinds[BRANCH],
        tags=kinds[TAG],
        before=kinds[BRANCH + BEFORE],
        redo=kinds[BRANCH + REDO],
        undone=kinds[BRANCH + UNDONE],
        early=kinds[TAG + EARLY],
        lost=lost,
        unreadable={name: reason for name, reason in sorted(unreadable.items()) if name not in lost},
    )


def _read_directories(directory: Path) -> tuple[dict[str, str], dict[str, str], set[str]]:
    """By the name of their directories: the snapshot ids of references, what is wrong with others; deleted tags."""
    found: dict[str, str] = {}
    unreadable: dict[str, str] = {}
    deleted: set[str] = set()
    folder = directory / REPOSITORY_NAME / "refs"
    try:
        names = [path.name for path in folder.iterdir() if path.name.startswith((BRANCH, TAG))]
    except OSError:
        names = []
    for name in names:
        if name.startswith(TAG) and os.path.lexists(folder / name / _DELETED):
            deleted.add(name)
            continue
        try:
            refuse_links(directory, name)
            snapshot = json.loads((folder / name / _FILE).read_bytes())["snapshot"]
            if not isinstance(snapshot, str) or not is_snapshot_id(snapshot):
                raise ValueError("it names no snapshot")
            found[name] = snapshot
        except StoreError:
            unreadable[name] = "it is a symbolic link"
        except NotADirectoryError:
            continue  # a file that no reference begins with
        except FileNotFoundError:
            if os.path.lexists(folder / name):  # else it was deleted in the meantime
                unreadable[name] = f"its file {_FILE} is missing"
        except OSError as error:
            unreadable[name] = error.strerror or str(error)
        except (ValueError, KeyError, TypeError, RecursionError):
            unreadable[name] = f"its file {_FILE} is damaged"
    return found, unreadable, deleted


def refuse_links(directory: Path, name: str) -> None:
    """Check that a reference, by the name of its directory, is no symbolic link: it would be another one.

    Raises
    ------
    StoreError
        It is one.
    """
    folder = directory / REPOSITORY_NAME / "refs" / name
    refuse_link(folder)
    refuse_link(folder / _FILE)


def is_snapshot_id(name: str) -> bool:
    """Whether a name is the id of a snapshot, a manifest or a chunk, as the files of the repository are named."""
    return _ID.fullmatch(name) is not None


def described(name: str) -> str:
    """What a reference is, by the name of its directory: `the branch main`."""
    for prefix, text in (
        (BRANCH + BEFORE, "the reference to the commit before {}"),
        (BRANCH + REDO, "the reference to the undone commits of {}"),
        (BRANCH + UNDONE, "the reference to the undone commit {}"),
        (TAG + EARLY, "the reference to the commit {}"),
        (BRANCH, "the branch {}"),
        (TAG, "the tag {}"),
    ):
        if name.startswith(prefix):
            rest = name.removeprefix(prefix)
            return text.format(rest[:8] if is_snapshot_id(rest) else rest)
    return name


def check_name(name: str, what: str) -> None:
    """Check that a branch or tag can have a name. `what` is "branch" or "tag".

    Raises
    ------
    OptionError
        The name has other characters than allowed, or sifu reserves it.
    """
    if not _ALLOWED.fullmatch(name):
        raise OptionError(
            f"a {what} cannot be named {name!r}: use at most 100 of the characters a-z, A-Z, 0-9, '.', '_' and '-', "
            "starting with a letter or a digit"
        )
    if name.upper() == "HEAD" or name.lower().startswith((OWN, EARLY)):
        raise OptionError(f"a {what} cannot be named {name!r}: the name is reserved; choose another")


def nearest(name: str, known: Iterable[str]) -> str:
    """A hint for an unknown name: `did you mean main?` if a known name is similar, else a list of the known names."""
    names = sorted(set(known))
    close = difflib.get_close_matches(name, names, n=3, cutoff=0.5)
    if close:
        return f"did you mean {' or '.join(close)}?"
    return f"there {'is' if len(names) == 1 else 'are'} {', '.join(names[:8])}{', ...' if len(names) > 8 else ''}"


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
    refs = directory / REPOSITORY_NAME / "refs"
    with disk_errors(directory, "writing the names of branches"), _temporary(directory) as temporary:
        for name, snapshot in names.items():
            write_reference(temporary / name, snapshot)
        sync_filesystem(directory)
        refs.mkdir(exist_ok=True)
        for name in names:
            file, folder = refs / name / _FILE, refs / name
            if os.path.lexists(folder) and (file.is_dir() or not folder.is_dir()):
                folder.rename(temporary / f"{name}.damaged")
            if folder.is_dir():
                (temporary / name / _FILE).replace(file)
            else:  # the directory appears with its file in it
                (temporary / name).rename(folder)
        sync_filesystem(directory)


def write_reference(folder: Path, snapshot: str) -> None:
    """Write a reference as a new directory, without a sync."""
    folder.mkdir(parents=True)
    (folder / _FILE).write_text(json.dumps({"snapshot": snapshot}), encoding="utf-8")


def drop(directory: Path, names: Iterable[str]) -> None:
    """Delete references, durably, by the names of their directories.

    The caller must have removed them from the `acknowledged` file: the next writer restores what is recorded there. It
    needs no space: it also takes back what a full disk let half be done.
    """
    refs = directory / REPOSITORY_NAME / "refs"
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
    file = directory / REPOSITORY_NAME / "refs" / name / _FILE
    with disk_errors(directory, "writing the names of branches"), _temporary(directory) as temporary:
        before = temporary / _FILE
        before.write_bytes(file.read_bytes())
        try:
            yield
        except BaseException:
            before.replace(file)
            fsync_directory(file.parent)
            raise


def mark_deleted(directory: Path, tag: str) -> None:
    """Mark a tag as deleted, durably. As in Icechunk, its name cannot be used again."""
    folder = directory / REPOSITORY_NAME / "refs" / f"{TAG}{tag}"
    with disk_errors(directory, f"deleting the tag {tag}"):
        (folder / _DELETED).touch()
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
