"""The exceptions that sifu raises on purpose, grouped by what the caller does about them.

    SifuError
    ├── OptionError              change the value of a parameter
    │   └── OptionTypeError      pass a value of another type, or another parameter
    ├── CorpusError              correct the text
    ├── ForeignFileError         give another file
    ├── DivergedError            lower the learning rate
    ├── ResourceError            free something, or ask for less
    │   ├── DiskFullError
    │   ├── HostMemoryError
    │   └── DeviceMemoryError
    └── StoreError
        ├── StoreNotFoundError   create the store, or name another
        ├── StoreExistsError     name another path, or overwrite
        ├── StoreLockedError     wait for the other process
        ├── StoreVersionError    use another release
        ├── StoreChangedError    repeat the read
        ├── StoreConflictError   repeat the change
        ├── StoreUnreachableError    check the network and the credentials
        └── StoreDamagedError    restore the store, or read an older snapshot

A message is one line: what was found, what was expected, what to do. Each class has a stable `kind` (for machine
readers) and the exit code of the command line.

A message names what the caller of a graph can change in Python, between backticks, in one of these forms:

    `host_memory`                           a parameter of the function that was called
    `force=True`                            such a parameter with a value
    `build_graph(signal="brillm05")`        a call of a function or of a method of `Graph`, with or without arguments
    `Store.verify()`                        a call of a method that only a store has

`replace_code` replaces these, so that another interface (the command line) can show its own spelling. This module
knows nothing of stores, graphs or options.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, ClassVar

if TYPE_CHECKING:
    from collections.abc import Callable


class SifuError(Exception):
    """Base class of all errors that sifu raises on purpose."""

    kind: ClassVar[str] = "sifu"
    exit_code: ClassVar[int] = 1


class OptionError(SifuError, ValueError):
    """The value of a parameter is invalid: change it."""

    kind = "option"
    exit_code = 2


class OptionTypeError(OptionError, TypeError):
    """The value of a parameter is of another type than expected, or there is no such parameter: change the call."""

    kind = "option-type"


class CorpusError(SifuError):
    """A text is missing, empty, not UTF-8, or not the one that the graph was built from: correct the text."""

    kind = "corpus"


class ForeignFileError(SifuError):
    """A file of another program cannot be read, or does not match the other files: give the right one."""

    kind = "foreign-file"


class DivergedError(SifuError):
    """The training loss is not a finite number: return to the last commit and lower the learning rate."""

    kind = "diverged"


class ResourceError(SifuError):
    """The machine has too little of a resource: free some, or ask for less."""

    kind = "resource"


class DiskFullError(ResourceError):
    """Too little free disk space for a write."""

    kind = "disk-full"


class HostMemoryError(ResourceError):
    """Too little host memory."""

    kind = "host-memory"


class DeviceMemoryError(ResourceError):
    """Too little memory on the compute device."""

    kind = "device-memory"


class StoreError(SifuError):
    """An operation on a store is not possible."""

    kind = "store"


class StoreNotFoundError(StoreError):
    """There is no store at the path: create one, or name another path."""

    kind = "store-not-found"


class StoreExistsError(StoreError):
    """The path is taken, by a store or by something else: name another path, or overwrite the store."""

    kind = "store-exists"


class StoreLockedError(StoreError):
    """Another process writes to the store: wait until it ends."""

    kind = "store-locked"


class StoreVersionError(StoreError):
    """This release cannot read the format version of the store: use another release."""

    kind = "store-version"


class StoreChangedError(StoreError):
    """Another process replaced the store, or deleted the snapshot, while it was read: repeat the read."""

    kind = "store-changed"


class StoreConflictError(StoreError):
    """Another process changed a store in a bucket first, so that nothing was changed: repeat the change."""

    kind = "store-conflict"


class StoreUnreachableError(StoreError):
    """The bucket of the store cannot be reached, or denies access: check the network and the credentials."""

    kind = "store-unreachable"


class StoreDamagedError(StoreError):
    """A part of the store cannot be read or fails its checksum: restore it, or use an older snapshot."""

    kind = "store-damaged"


_CODE = re.compile(
    r"`(?P<name>[a-z_][a-z0-9_]*)(?:=(?P<value>[^`]*))?`"
    r"|`(?:Store\.)?(?P<function>[a-z_][a-z0-9_]*)\((?P<arguments>[^`]*)\)`"
)
_ARGUMENT = re.compile(r"([a-z_][a-z0-9_]*)=(\"[^\"]*\"|'[^']*'|[^,]+)")

Argument = tuple[str, str | None]
"""Name of a parameter and its value as text without quotes; None: no value is given."""


def replace_code(message: str, spell: Callable[[str | None, tuple[Argument, ...]], str | None]) -> str:
    """Replace the parameters and calls that a message names between backticks.

    Parameters
    ----------
    message
        A message in the form that the head of this module describes.
    spell
        Called with the name of the other function (None for a parameter of the function that was called) and the
        parameters. It returns the replacement, or None to keep the text and its backticks.

    Returns
    -------
    str
        The message with the replacements. Other text between backticks is kept.
    """

    def replaced(match: re.Match[str]) -> str:
        if match["function"] is None:
            arguments: tuple[Argument, ...] = ((match["name"], _unquoted(match["value"])),)
        else:
            arguments = tuple((name, _unquoted(value)) for name, value in _ARGUMENT.findall(match["arguments"]))
        spelled = spell(match["function"], arguments)
        return match[0] if spelled is None else spelled

    return _CODE.sub(replaced, message)


def first_line(error: BaseException) -> str:
    """The first line of an error's text that says something: messages of Icechunk are trees of many lines."""
    for line in str(error).splitlines():
        text = re.sub(r"^[\s|x×`>-]+", "", line).strip()
        if text:
            return text
    return type(error).__name__


def _unquoted(value: str | None) -> str | None:
    return None if value is None else value.strip().strip("\"'")
