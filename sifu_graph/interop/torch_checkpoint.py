"""PyTorch checkpoints of any size: opened without running code, read and written piece by piece.

A checkpoint is memory-mapped by `torch.load(mmap=True, weights_only=True)`; pages that were read are released, so that
a file of 9 GB needs little memory. The module knows tensors by name; it does not know their meaning.
"""

from __future__ import annotations

import ctypes
import io
import mmap
import os
import pickle
import struct
import sys
import zipfile
from collections import OrderedDict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from sifu_store.durable import format_bytes
from sifu_store.errors import ForeignFileError
from torch import Tensor

from sifu_graph.input_file import HEAD_BYTES, kind_of, open_regular

ALIGNMENT = 64  # of a tensor's data in a file, so that it can be used memory-mapped
POINTER = b"version https://git-lfs"
MOST_PICKLE_BYTES = 1 << 20
"""Greatest size of the pickle in a checkpoint, which has the names and shapes of tensors only."""


def open_state(path: Path) -> dict[str, Tensor]:
    """The tensors of a state dict, by name, in their stored shapes and dtypes, memory-mapped. No value is read yet.

    Raises
    ------
    ForeignFileError
        The file cannot be read, is incomplete, or has other values than tensors.
    """
    try:
        with open_regular(path) as file:
            head = file.read(HEAD_BYTES)
            _check_archive(file, head, path)
    except OSError as error:
        raise ForeignFileError(f"{path}: {error.strerror or error}: expected a checkpoint of PyTorch") from error
    try:
        loaded = torch.load(path, map_location="cpu", mmap=True, weights_only=True)
    except pickle.UnpicklingError as error:
        raise ForeignFileError(
            f"{path}: its pickle has more than tensors and is not opened: it could run code ({_reason(error)})"
        ) from error
    except Exception as error:  # the functions that a pickle may call raise errors of many classes
        raise ForeignFileError(f"{path}: damaged, or not a checkpoint of PyTorch ({_reason(error)})") from error
    if isinstance(loaded, Mapping) and isinstance(loaded.get("model_state_dict"), Mapping):
        loaded = loaded["model_state_dict"]  # a training checkpoint, which has the optimizer too
    if not isinstance(loaded, Mapping) or not all(isinstance(value, Tensor) for value in loaded.values()):
        raise ForeignFileError(f"{path}: has {_found(loaded)}; expected a state dict: names and tensors")
    return {str(name): value for name, value in loaded.items()}


def _check_archive(file: BinaryIO, head: bytes, path: Path) -> None:
    """Raise `ForeignFileError` unless a file is an archive as `torch.save` writes it, not compressed."""
    size_bytes = os.fstat(file.fileno()).st_size
    if head.startswith(POINTER):
        raise ForeignFileError(f"{path}: a Git LFS pointer, not the checkpoint itself: fetch it (git lfs pull)")
    try:
        archive = zipfile.ZipFile(file)
        entries = archive.infolist()
    except (zipfile.BadZipFile, ValueError, struct.error, NotImplementedError, OverflowError) as error:
        if head.startswith(b"PK"):
            raise ForeignFileError(f"{path}: the file ends too early ({size_bytes:,} bytes): copy it again") from error
        if head.startswith(b"\x80"):
            raise ForeignFileError(
                f"{path}: a bare pickle (from PyTorch before 1.6), which may run code and is not opened: "
                "load it where you trust it and torch.save its state dict"
            ) from error
        kind = kind_of(head)
        what = "not a checkpoint" if kind is None else f"{kind}, not a checkpoint"
        raise ForeignFileError(f"{path}: {what}; expected a file of torch.save") from error
    for entry in entries:
        if entry.compress_type != zipfile.ZIP_STORED or entry.file_size > size_bytes:
            raise ForeignFileError(
                f"{path}: not a file of torch.save, which compresses nothing: {entry.filename} is compressed"
            )
        if entry.filename.endswith(".pkl") and entry.file_size > MOST_PICKLE_BYTES:
            raise ForeignFileError(
                f"{path}: its pickle has {format_bytes(entry.file_size)}, more than the names of tensors: expected at "
                f"most {format_bytes(MOST_PICKLE_BYTES)}"
            )
        if entry.filename.endswith("/byteorder") and (order := _content(archive, entry)) != sys.byteorder.encode():
            raise ForeignFileError(f"{path}: its numbers are {order!r} in byte order; this machine's {sys.byteorder}")


def _content(archive: zipfile.ZipFile, entry: zipfile.ZipInfo) -> bytes:
    """The first bytes of an entry; none if it cannot be read."""
    try:
        with archive.open(entry) as file:
            return file.read(16)
    except Exception:  # a damaged archive raises errors of many classes
        return b""


def read_values(tensor: Tensor, *, name: str, path: Path) -> Tensor:
    """A tensor of a checkpoint in its shape and dtype: dense, each element in the file, without a gradient.

    Raises
    ------
    ForeignFileError
        It is sparse, quantized, a negated view or has no values, or several of its elements are one value of the file.
    """
    odd = {
        "a sparse tensor": tensor.layout != torch.strided,
        "a tensor without values (on the device meta)": tensor.device.type == "meta",
        "a quantized tensor": tensor.is_quantized,
        "a negated or conjugated view": tensor.is_neg() or tensor.is_conj(),
    }
    if (what := next((kind for kind, found in odd.items() if found), None)) is not None:
        raise ForeignFileError(f"{path}: {name} is {what}; expected a dense tensor: save a clone() of it")
    if tensor.untyped_storage().nbytes() < tensor.numel() * tensor.element_size():
        raise ForeignFileError(f"{path}: {name} has shape {list(tensor.shape)}, and fewer values than that in the file")
    return tensor.detach()


def _found(loaded: Any) -> str:
    if isinstance(loaded, Mapping):
        return "a dictionary of " + ", ".join(map(str, list(loaded)[:6]))
    return f"a {type(loaded).__name__}"


def _reason(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    picked = next((line for line in lines if "GLOBAL" in line or "nsupported" in line), lines[0] if lines else "")
    return (picked or type(error).__name__)[:160]


def release(values: Tensor) -> None:
    """Releases the memory of a mapped, unchanged tensor of any shape; the next access reads the file again."""
    if sys.platform != "linux" or not values.is_contiguous():
        return
    begin, size_bytes = values.data_ptr(), values.numel() * values.element_size()
    first = -(-begin // mmap.PAGESIZE) * mmap.PAGESIZE
    length = begin + size_bytes - first
    if length > 0:
        libc = ctypes.CDLL(None, use_errno=True)
        libc.madvise(ctypes.c_void_p(first), ctypes.c_size_t(length), ctypes.c_int(mmap.MADV_DONTNEED))


# ---- writing


@dataclass(frozen=True, slots=True)
class Streamed:
    """A float32 tensor that is written piece by piece: its shape, and its values in order."""

    shape: tuple[int, ...]
    pieces: Iterable[np.ndarray]

    @property
    def elements(self) -> int:
        """Number of elements."""
        return int(np.prod(self.shape, dtype=np.int64))


@dataclass(frozen=True, slots=True)
class _Storage:
    key: str
    elements: int


def write_state(path: Path, tensors: Mapping[str, Streamed]) -> None:
    """Write a state dict in the format of `torch.save`, one piece of a tensor in memory at a time (decision 8).

    The format (PyTorch's `torch/serialization.py`) is an uncompressed zip archive: a pickle that names storages, and
    one entry for each storage.
    """
    storages = {name: _Storage(str(i), tensor.elements) for i, (name, tensor) in enumerate(tensors.items())}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED, allowZip64=True) as archive:
        root = path.name.split(".")[0] or "archive"
        _entry(archive, f"{root}/data.pkl", [_pickled(tensors, storages)])
        _entry(archive, f"{root}/byteorder", [b"little"])
        for name, tensor in tensors.items():
            pieces = (np.ascontiguousarray(piece, "<f4").reshape(-1).view(np.uint8).data for piece in tensor.pieces)
            written = _entry(archive, f"{root}/data/{storages[name].key}", pieces)
            assert written == tensor.elements * 4, (name, written, tensor.shape)
        _entry(archive, f"{root}/version", [b"3\n"])


def _entry(archive: zipfile.ZipFile, name: str, pieces: Iterable[bytes | memoryview]) -> int:
    """Write one entry of the archive, with aligned data; returns its size in bytes."""
    entry = zipfile.ZipInfo(name)
    assert archive.fp is not None
    header = 30 + len(name.encode()) + 20 + 4  # the fixed part, the name, 64-bit sizes, the head of the padding
    padding = -(archive.fp.tell() + header) % ALIGNMENT
    entry.extra = b"FB" + struct.pack("<H", padding) + b"Z" * padding
    written = 0
    with archive.open(entry, "w", force_zip64=True) as file:
        for piece in pieces:
            file.write(piece)
            written += len(piece)
    return written


class _Pickler(pickle.Pickler):
    def __init__(self, file: io.BytesIO, storages: Mapping[str, _Storage]) -> None:
        super().__init__(file, protocol=2)
        self._storages = storages

    def persistent_id(self, obj: Any) -> Any:
        return ("storage", torch.FloatStorage, obj.key, "cpu", obj.elements) if isinstance(obj, _Storage) else None

    def reducer_override(self, obj: Any) -> Any:
        if not isinstance(obj, _Tensor):
            return NotImplemented
        strides = tuple(int(np.prod(obj.shape[i + 1 :], dtype=np.int64)) for i in range(len(obj.shape)))
        return torch._utils._rebuild_tensor_v2, (obj.storage, 0, obj.shape, strides, False, OrderedDict())


@dataclass(frozen=True, slots=True)
class _Tensor:
    storage: _Storage
    shape: tuple[int, ...]


def _pickled(tensors: Mapping[str, Streamed], storages: Mapping[str, _Storage]) -> bytes:
    buffer = io.BytesIO()
    state = OrderedDict((name, _Tensor(storages[name], tensor.shape)) for name, tensor in tensors.items())
    _Pickler(buffer, storages).dump(state)
    return buffer.getvalue()
