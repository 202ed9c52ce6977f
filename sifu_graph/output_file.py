"""Whether a file can be written to a path, checked before the work whose result it will hold; and which characters of
names are not written as such.

It knows paths and characters; it does not know formats.
"""

from __future__ import annotations

from pathlib import Path

from sifu_store.errors import OptionError, SifuError

UNSEEN = "\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069"
"""Characters that act on a terminal, end a line of a script, or change the order of writing, as a range of a regular
expression. Each format has its own way to write them."""


def require_file(path: Path, *, force: bool) -> None:
    """Check that a file can be written to `path`.

    Raises
    ------
    OptionError
        `path` is a folder; or as `require_path`.
    """
    if path.is_dir():
        raise OptionError(f"{path} is a folder; expected a file to write: name a file in it")
    require_path(path, force=force)


def require_path(path: Path, *, force: bool, taken: type[SifuError] = OptionError) -> None:
    """Check that a file or a folder can be written to `path`.

    Parameters
    ----------
    force
        What is at `path` may be replaced.
    taken
        The class of the error if something is at `path`.

    Raises
    ------
    OptionError
        The parent of `path` is not a folder.
    SifuError
        Of the class `taken`: something is at `path`, and `force` is False.
    """
    parent = path.absolute().parent
    if not parent.is_dir():
        raise OptionError(f"{parent}: no such folder; {path.name} would be written there: create it, or name another")
    if (path.exists() or path.is_symlink()) and not force:
        raise taken(f"{path} exists: name another path, or replace it with `force=True`")
