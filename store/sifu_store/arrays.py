"""One array in Zarr: creating it, writing to it, and finding damage in it. Chunks, codecs, keys and files.

This module knows one array and one session at a time; not which arrays a store has, and not commits.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any

import icechunk
import numpy as np
import zarr
from zarr.codecs import Crc32cCodec, ZstdCodec
from zarr.core.buffer import default_buffer_prototype
from zarr.core.sync import sync
from zarr.storage import MemoryStore

from sifu_store.durable import raise_resource_error
from sifu_store.errors import OptionError, StoreDamagedError, StoreError, first_line
from sifu_store.layout import PAGE_EDGES, chunk_shape, page_slots
from sifu_store.names import REPOSITORY_NAME
from sifu_store.page_codecs import FLOAT32, PRECISION_ATTRIBUTE, PageCodec, codec_of, require_library

PAGED_ATTRIBUTE = "paged"
COMPARED_CHUNKS = 16
"""Chunks that are read at a time to find out whether they change."""
_DTYPE_KINDS = "biuf"


@dataclass(frozen=True, slots=True)
class Damage:
    """One damaged place in a store.

    Parameters
    ----------
    array
        Name of the array, or "history".
    page
        Index of the chunk along the first axis; None: the whole array.
    slots
        First row of the chunk and the row after its last one.
    path
        The damaged file if it can be determined, else the directory of the store.
    reason
        What is wrong, in words.
    """

    array: str
    page: int | None
    slots: tuple[int, int] | None
    path: str
    reason: str

    def __str__(self) -> str:
        place = self.array
        if self.page is not None and self.slots is not None:
            place += f", page {self.page} (rows {self.slots[0]} to {self.slots[1] - 1})"
        return f"{place}: {self.reason}, in {self.path}"


def create_array(
    group: zarr.Group,
    name: str,
    shape: tuple[int, ...],
    dtype: np.dtype[Any],
    *,
    paged: bool,
    page_codec: PageCodec | None = None,
) -> zarr.Array[Any]:
    """Create an array with checksums. An array of the same name is replaced.

    It is compressed; if it is paged, as `page_codec` says, by default not at all.

    Raises
    ------
    ValueError
        The dtype is not a bool or a number, or the shape has no axis.
    """
    if dtype.kind not in _DTYPE_KINDS or not shape:
        raise ValueError(
            f"{name} has dtype {dtype} and shape {shape}: expected bools or numbers, with one axis or more"
        )
    page_codec = page_codec or PageCodec()
    attributes: dict[str, Any] = {PAGED_ATTRIBUTE: True} if paged else {}
    if page_codec.precision != FLOAT32:
        attributes[PRECISION_ATTRIBUTE] = page_codec.precision
    array = group.create_array(
        name,
        shape=shape,
        dtype=dtype.newbyteorder("<"),
        chunks=chunk_shape(shape, paged=paged),
        filters=None,
        **(page_codec.pipeline() if paged else {"compressors": [ZstdCodec(level=3), Crc32cCodec()]}),
        fill_value=0,
        attributes=attributes,
        overwrite=True,
    )
    return stored_whole(array)


def stored_whole(array: zarr.Array[Any]) -> zarr.Array[Any]:
    """The same array, set to write chunks of zeros too: every stored page must have a chunk.

    Raises
    ------
    StoreError
        The library of its codec is missing.
    """
    require_library(codec_of(_codecs(array)))
    return array.with_config({"write_empty_chunks": True})


def open_named(group: zarr.Group, name: str) -> dict[str, zarr.Array[Any]]:
    """An array of a group, with its name; empty: there is none."""
    found = group.get(name)
    return {name: stored_whole(found)} if isinstance(found, zarr.Array) else {}


def open_arrays(group: zarr.Group) -> Iterator[tuple[str, zarr.Array[Any]]]:
    """All arrays of a group, with their names."""
    for name, member in group.members(max_depth=None):
        if isinstance(member, zarr.Array):
            yield name, stored_whole(member)


def disk_bytes(session: icechunk.Session, names: list[str]) -> int:
    """Size on disk of all chunks of some arrays, in bytes."""

    async def sizes() -> int:
        return sum([await session.store.getsize_prefix(name) for name in names])

    return sync(sizes())


def page_codec_of(array: zarr.Array[Any], *others: zarr.Array[Any]) -> PageCodec:
    """How the pages of an array are stored; with others of the same codec: rounded only if all are.

    Raises
    ------
    StoreError
        Another program stored them in a way that is not known here.
    """
    precisions = {str(each.attrs.get(PRECISION_ATTRIBUTE, FLOAT32)) for each in (array, *others)}
    precision = precisions.pop() if len(precisions) == 1 else FLOAT32
    try:
        return PageCodec(precision, codec_of(_codecs(array)))
    except OptionError as error:
        raise StoreError(f"the pages of {array.path} are stored in an unknown way ({error})") from None


def with_page_codec(group: zarr.Group, array: zarr.Array[Any], page_codec: PageCodec) -> zarr.Array[Any]:
    """Give a paged array another codec. Returns the array; every chunk that it has MUST be written again.

    `array` still reads chunks that have not been written again.
    """
    template = create_array(
        zarr.create_group(MemoryStore()), array.path, array.shape, array.dtype, paged=True, page_codec=page_codec
    )
    attributes = {k: v for k, v in array.attrs.asdict().items() if k != PRECISION_ATTRIBUTE}
    metadata = replace(template.metadata, attributes={**attributes, **template.attrs.asdict()})
    document = metadata.to_buffer_dict(default_buffer_prototype())["zarr.json"]
    sync(array.store.set(f"{array.path}/zarr.json", document))
    return open_named(group, array.path)[array.path]


def can_take(array: zarr.Array[Any], data: np.ndarray) -> bool:
    """Whether an unpaged array can hold `data`: dtypes, chunk shapes, and all axes but the first are the same."""
    chunks = chunk_shape(data.shape, paged=False)
    return array.dtype == data.dtype and array.shape[1:] == data.shape[1:] and array.chunks == chunks


def write_changed(array: zarr.Array[Any], data: np.ndarray) -> None:
    """Write `data`, of any shape, to an array that `can_take` it. Chunks that hold the same values are not written.

    A few chunks are read at a time: both may be larger than memory.
    """
    size, known = array.chunks[0], array.shape[0]
    if array.shape != data.shape:
        array.resize(data.shape)
    for begin in range(0, len(data), COMPARED_CHUNKS * size):
        end = min(begin + COMPARED_CHUNKS * size, len(data))
        try:
            before = np.asarray(array[begin : min(end, known)]) if begin < known else data[:0]
        except Exception:  # damaged: every chunk is written
            before = data[:0]
        for first in range(begin, end, size):
            part = data[first : first + size]
            if before[first - begin : first - begin + size].tobytes() != part.tobytes():
                array[first : first + len(part)] = part


def is_paged(array: zarr.Array[Any]) -> bool:
    """Whether a chunk of the array is one page."""
    return bool(array.attrs.get(PAGED_ATTRIBUTE, False))


def rows_of(
    array: zarr.Array[Any],
    rows: np.ndarray | slice,
    failed: Callable[[zarr.Array[Any], int, int, Exception], Exception],
) -> np.ndarray:
    """Some rows of an array, [k, ...], by their places, int64 [k] or a slice. Each chunk that has one is read once.

    ``failed`` makes the error to raise where chunks, from a first one up to a last one, cannot be read.
    """
    size = array.chunks[0]
    if isinstance(rows, slice):
        first, stop, _ = rows.indices(array.shape[0])
        try:
            return np.asarray(array[first:stop])
        except Exception as error:
            raise failed(array, first // size, -(-stop // size), error) from error
    out = np.empty((len(rows), *array.shape[1:]), array.dtype)
    for chunk in np.unique(rows // size).tolist():
        here = rows // size == chunk
        try:
            values = np.asarray(array[chunk * size : (chunk + 1) * size])
        except Exception as error:
            raise failed(array, chunk, chunk + 1, error) from error
        out[here] = values[rows[here] - chunk * size]
    return out


def existing_chunks(session: icechunk.Session, name: str) -> set[int]:
    """Indices along the first axis of the chunks that an array has."""

    async def collect() -> set[int]:
        return {coordinates[0] async for coordinates in session.chunk_coordinates(f"/{name}")}

    return sync(collect())


def delete_chunks(array: zarr.Array[Any], pages: list[int]) -> None:
    """Delete the chunks of some pages (their indices along the first axis)."""
    keys = [_key(array, (page, *(0 for _ in array.shape[1:]))) for page in pages]

    async def drop() -> None:
        for key in keys:
            await array.store.delete(key)

    sync(drop())


def find_damage(
    session: icechunk.Session, array: zarr.Array[Any], directory: Path, first: int, stop: int
) -> Iterator[Damage]:
    """Read the chunks `first` to `stop` - 1 (along the first axis) one by one and yield those that cannot be read."""
    name = array.path
    for page in range(first, stop):
        if array.chunks[0] == PAGE_EDGES and is_paged(array):
            rows = page_slots(page, array.shape[0])
        else:
            rows = (page * array.chunks[0], min((page + 1) * array.chunks[0], array.shape[0]))
        try:
            array[rows[0] : rows[1]]
        except Exception as error:
            raise_resource_error(error)
            path = _chunk_file(session, array, directory, page, error)
            yield Damage(name, page, rows, path, _reason(error))


def damaged(
    session: icechunk.Session,
    array: zarr.Array[Any],
    directory: Path,
    first: int,
    stop: int,
    cause: Exception,
) -> StoreDamagedError:
    """The error for a read of the chunks `first` to `stop` - 1 that failed with `cause`."""
    raise_resource_error(cause)
    found = next(find_damage(session, array, directory, first, stop), None)
    if found is None:  # every chunk can be read now, so the fault was temporary or is not in one chunk
        found = Damage(array.path, None, None, str(directory / REPOSITORY_NAME), _reason(cause))
    error = StoreDamagedError(
        f"{found}: restore that file from a backup, or open an older snapshot (`log()` lists them); `Store.verify()` "
        "lists all damage"
    )
    error.add_note(f"store: {directory}; snapshot: {session.snapshot_id}; cause: {cause!s:.500}")
    return error


def chunk_count(array: zarr.Array[Any]) -> int:
    """Number of chunks along the first axis."""
    return math.ceil(array.shape[0] / array.chunks[0])


def _reason(error: Exception) -> str:
    text = first_line(error)
    if "checksum do not match" in text:
        return "the checksum does not match"
    if "Requested range" in text:
        return "the file is too short"
    if "not found" in text or "No such file" in text:
        return "the file is missing"
    return text


def _codecs(array: zarr.Array[Any]) -> tuple[Any, ...]:
    """The codecs of an array of Zarr v3; an array of v2 has none of that kind."""
    return getattr(array.metadata, "codecs", ())


def _key(array: zarr.Array[Any], index: tuple[int, ...]) -> str:
    return f"{array.path}/{array.metadata.encode_chunk_key(index)}"


def _chunk_file(session: icechunk.Session, array: zarr.Array[Any], directory: Path, page: int, error: Exception) -> str:
    """The file of a damaged chunk: named in Icechunk's error, or found by its content."""
    chunks = directory / REPOSITORY_NAME / "chunks"
    named = re.search(r"(?:chunks/|chunk_id=)([0-9A-Z]{20})", str(error))
    if named:
        return str(chunks / named[1])
    later = (range(math.ceil(size / chunk)) for size, chunk in zip(array.shape[1:], array.chunks[1:], strict=True))
    for index in product([page], *later):
        content = _get(session, _key(array, index))
        if content is None:
            continue
        for path in chunks.iterdir() if chunks.is_dir() else ():  # not of a store in a bucket
            if path.stat().st_size == len(content) and path.read_bytes() == content:
                return str(path)
    return f"{directory} (chunk {page} of {array.path})"


def _get(session: icechunk.Session, key: str) -> bytes | None:
    async def get() -> bytes | None:
        buffer = await session.store.get(key, default_buffer_prototype())
        return None if buffer is None else buffer.to_bytes()

    try:
        return sync(get())
    except icechunk.IcechunkError:
        return None
