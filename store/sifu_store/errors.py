"""Every error that sifu raises on purpose, grouped by what the caller would do about it.

A message is one line: what was found, what was expected, what to do. Each class carries a stable `kind`
(for `--json` and for tests) and the exit code of the command line. This module knows nothing of stores or
graphs.
"""

from __future__ import annotations

import re
from typing import ClassVar


class SifuError(Exception):
    """Base of the tree. Catch this to catch everything that sifu raises on purpose."""

    kind: ClassVar[str] = "sifu"
    exit_code: ClassVar[int] = 1


class OptionError(SifuError, ValueError):
    """An option or argument has a value that cannot be used: change it."""

    kind = "option"
    exit_code = 2


class CorpusError(SifuError):
    """A text is missing, empty, not UTF-8 or not what the graph was built from: fix the text."""

    kind = "corpus"


class ForeignFileError(SifuError):
    """A file of another program cannot be read, or does not fit what it came with: give the right one."""

    kind = "foreign-file"


class DivergedError(SifuError):
    """Training produced a loss that is not a number: go back to the last commit, lower the rate."""

    kind = "diverged"


class ResourceError(SifuError):
    """The machine has too little of something: free some, or ask for less."""

    kind = "resource"


class DiskFullError(ResourceError):
    """Too little free disk space for what is about to be written."""

    kind = "disk-full"


class HostMemoryError(ResourceError):
    """Too little memory for what is about to be loaded."""

    kind = "host-memory"


class DeviceMemoryError(ResourceError):
    """Too little memory on the device that computes."""

    kind = "device-memory"


class StoreError(SifuError):
    """Something about the store itself."""

    kind = "store"


class StoreNotFoundError(StoreError):
    """There is no store at the path: build one, or name another."""

    kind = "store-not-found"


class StoreExistsError(StoreError):
    """There is a store (or something else) at the path: name another, or overwrite it."""

    kind = "store-exists"


class StoreLockedError(StoreError):
    """Another process writes to the store: wait for it."""

    kind = "store-locked"


class StoreVersionError(StoreError):
    """The store has a format that this release does not read: use another release."""

    kind = "store-version"


class StoreDamagedError(StoreError):
    """A part of the store cannot be read or fails its checksum: restore it, or use an older snapshot."""

    kind = "store-damaged"


def first_line(error: BaseException) -> str:
    """What an error says in one line: Icechunk draws whole trees."""
    for line in str(error).splitlines():
        text = re.sub(r"^[\s|x×`>-]+", "", line).strip()
        if text:
            return text
    return type(error).__name__
