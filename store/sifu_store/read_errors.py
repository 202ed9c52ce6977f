"""Why a read failed although the store is sound: it changed meanwhile, or the process lacks a resource.

A reader takes no lock. Another process may replace the store (`Store.create` with ``force``) or delete the snapshot
that is read (a collection of garbage); what is then missing at the path is no damage. This module knows where a store
is and how its references are read; not its arrays.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Hashable
from pathlib import Path
from typing import Any, Concatenate, ParamSpec, Protocol, TypeVar

import icechunk

from sifu_store.durable import resource_error
from sifu_store.errors import (
    ResourceError,
    StoreChangedError,
    StoreConflictError,
    StoreDamagedError,
    StoreUnreachableError,
)
from sifu_store.history import Lineage, reachable
from sifu_store.names import SNAPSHOTS
from sifu_store.places import locate, place_of
from sifu_store.repository import known_references, open_icechunk
from sifu_store.staging import is_being_replaced

ATTEMPTS = 3
"""How often a store that changes meanwhile is read."""
PAUSE_S = 0.1
"""Time between two attempts."""


class Reader(Protocol):
    """What this module knows of a `StoreReader`."""

    path: Path
    snapshot: str
    recovered_from: str | None
    _directory: Path
    _identity: Hashable

    def _reopen(self) -> bool: ...


class Opened(Reader, Protocol):
    """What this module knows of a `Store`."""

    def close(self) -> None:
        """Close it."""


_P = ParamSpec("_P")
_T = TypeVar("_T")
_Reader = TypeVar("_Reader", bound=Reader)
_Opened = TypeVar("_Opened", bound=Opened)


def looks_again(
    *, again: bool, faults: Callable[[Any], tuple[str, ...]] = lambda _: ()
) -> Callable[[Callable[Concatenate[_Reader, _P], _T]], Callable[Concatenate[_Reader, _P], _T]]:
    """A method of `StoreReader` whose errors say why the read failed.

    Parameters
    ----------
    again
        Repeat the read after an error that another process may have caused: a collection deletes and rewrites
        snapshots while they are listed.
    faults
        What is wrong with a result, although nothing was raised: with ``again`` it is a reason to repeat the read too.
    """

    def decorate(method: Callable[Concatenate[_Reader, _P], _T]) -> Callable[Concatenate[_Reader, _P], _T]:
        @functools.wraps(method)
        def looking(self: _Reader, /, *args: _P.args, **kwargs: _P.kwargs) -> _T:
            for attempt in range(ATTEMPTS):
                failed: BaseException | None = None
                try:
                    found = method(self, *args, **kwargs)
                    wrong = faults(found)
                    if not wrong:
                        return found
                    known = why(self, StoreDamagedError(wrong[0]))
                except (KeyboardInterrupt, SystemExit):
                    raise
                except BaseException as error:  # a panic in Icechunk is not an Exception
                    failed, known = error, why(self, error)
                if known is not None:
                    raise known from failed
                repeats = failed is None or isinstance(failed, StoreDamagedError | icechunk.IcechunkError)
                if not (again and repeats) or attempt == ATTEMPTS - 1 or not self._reopen():
                    if failed is None:
                        return found
                    raise failed
                time.sleep(PAUSE_S)
            raise AssertionError

        return looking

    return decorate


def opens_again(opening: Callable[..., _Opened]) -> Callable[..., _Opened]:
    """`Store.open`, repeated if the store changes while it is opened."""

    @functools.wraps(opening)
    def open_again(cls: type[_Opened], path: str | Path, *, write: bool = False, at: str | None = None) -> _Opened:
        target = locate(path)
        for attempt in range(ATTEMPTS):
            place, last = place_of(target), attempt == ATTEMPTS - 1
            before, identity = place.state(), place.identity()
            try:
                store = opening(cls, path, write=write, at=at)
            except (KeyboardInterrupt, SystemExit):
                raise
            except BaseException as error:
                lacking = None if isinstance(error, ResourceError) else resource_error(error)
                if lacking is not None:
                    raise lacking from error
                if isinstance(error, StoreConflictError):
                    if last:
                        raise
                elif place.state() == before and not is_being_replaced(target):
                    raise
                elif last:
                    raise _changed(target) from error
            else:
                store._identity = identity
                if store.recovered_from is None or write or last or place.state() == before:
                    return store
                store.close()  # what it reports may be a change, and no damage
            time.sleep(PAUSE_S)
        raise AssertionError

    return open_again


def why(reader: Reader, error: BaseException) -> ResourceError | StoreChangedError | StoreUnreachableError | None:
    """What made a read fail, if it was not the store; None: it may be damaged, or the error is another one."""
    if isinstance(error, ResourceError | StoreChangedError | StoreUnreachableError):
        return None
    if isinstance(error, Exception) and (lacking := resource_error(error)) is not None:
        return lacking
    place, of_call = place_of(reader._directory), isinstance(error, ValueError | TypeError | AssertionError)
    try:
        if not of_call:
            place.require_reachable()
    except StoreUnreachableError as unreachable:
        return unreachable
    if reader._identity is not None and place.identity() != reader._identity:
        return _changed(reader.path)
    if of_call or not _deleted(reader):
        return None
    return StoreChangedError(
        f"snapshot {reader.snapshot} of {reader.path} was deleted by another process while it was read: repeat, to "
        "read a newer one"
    )


def _changed(path: Path) -> StoreChangedError:
    if not path.exists():
        return StoreChangedError(f"{path} was moved or deleted while it was read")
    return StoreChangedError(f"{path} was replaced by another process while it was read: repeat, to read the new one")


def _deleted(reader: Reader) -> bool:
    """Whether the snapshot that is read was deleted, or is being deleted: no reference reaches it any more."""
    directory = reader._directory
    if not place_of(directory).has(f"{SNAPSHOTS}/{reader.snapshot}"):
        return True
    try:
        lineage = Lineage(open_icechunk(directory), known_references(directory))
        names = lineage.references
        tips = [*names.branches.values(), *names.tags.values(), *names.redo.values(), *names.undone.values()]
        return reader.snapshot not in reachable(lineage, tips)
    except Exception:
        return False
