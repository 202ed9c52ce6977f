"""From what a caller names to a place: a folder by its path, a bucket by its URL.

A store in a bucket has a folder on this machine too, with all that is not in its repository. It is in the user's
cache folder, and its path says which bucket it belongs to: `buckets/s3/ENDPOINT/BUCKET/PATH.bucket`, each part quoted.
So a store is known by the path of a folder everywhere, whatever its place. This module imports nothing heavy.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from urllib.parse import quote, unquote

import platformdirs

from sifu_store.bucket import SCHEMES, Bucket, endpoint_of
from sifu_store.durable import resolved
from sifu_store.errors import OptionError
from sifu_store.folder import Folder
from sifu_store.place import Place

FOLDER, SUFFIX = "buckets", ".bucket"
_URL = re.compile(
    rf"({'|'.join(SCHEMES)}):/{{1,2}}([^/]*)/*(.*?)/*", re.DOTALL
)  # a Path has one slash where a URL has two


def locate(path: str | Path) -> Path:
    """The absolute folder of the store at a path; of a URL, its folder on this machine.

    Raises
    ------
    OptionError
        The URL names no bucket, or no path in it.
    StoreNotFoundError
        A symbolic link of the path is circular.
    """
    found = _URL.fullmatch(str(path))
    if found is None:
        return resolved(path)
    scheme, bucket, inside = found.groups()
    if not bucket or not inside:
        raise OptionError(f"{path} names no store: expected {scheme}://BUCKET/PATH")
    parts = (scheme, _quoted(endpoint_of(scheme) or "default"), _quoted(bucket), _quoted(inside) + SUFFIX)
    return _root().joinpath(*parts)


def place_of(directory: Path) -> Place:
    """The place of the store with this folder, as `locate` gives it."""
    root = _root()
    if directory.suffix != SUFFIX or not directory.is_relative_to(root):
        return Folder(directory)
    scheme, endpoint, bucket, inside = directory.relative_to(root).parts
    return Bucket(
        directory,
        scheme=scheme,
        endpoint=None if endpoint == "default" else unquote(endpoint),
        bucket=unquote(bucket),
        prefix=unquote(inside.removesuffix(SUFFIX)),
    )


def require_store(path: str | Path) -> Path:
    """The folder of the store at a path, which must exist. It is checked here, since opening it imports Icechunk.

    Raises
    ------
    StoreNotFoundError
        There is none.
    StoreUnreachableError
        Its bucket cannot be reached.
    """
    target = locate(path)
    place_of(target).require(str(path))
    return target


def with_urls(text: str) -> str:
    """A text in which the URLs of buckets stand for the folders of their stores on this machine."""
    root = str(_root())
    if root not in text:
        return text
    part = r"([A-Za-z0-9_.~%-]+)"
    found = rf"{re.escape(root)}/({'|'.join(SCHEMES)})/{part}/{part}/{part}{re.escape(SUFFIX)}"
    return re.sub(found, lambda at: f"{at[1]}://{unquote(at[3])}/{unquote(at[4])}", text)


def cache_folder() -> Path:
    """`$SIFU_CACHE`, else the user's cache folder."""
    return Path(os.environ.get("SIFU_CACHE") or platformdirs.user_cache_dir("sifu", appauthor=False))


def _root() -> Path:
    """The folder of all buckets."""
    return cache_folder().resolve() / FOLDER


def _quoted(part: str) -> str:
    return quote(part, safe="")
