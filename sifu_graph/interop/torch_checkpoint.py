"""PyTorch checkpoints of any size: opened without running code, read and written piece by piece.

A checkpoint is memory-mapped by `torch.load(mmap=True, weights_only=True)`; pages that were read are released, so that
a file of 9 GB needs little memory. The module knows tensors by name; it does not know their meaning.
"""

from __future__ import annotations

import ctypes
import io
import mmap
import pickle
import struct
import sys
import zipfile
from collections import OrderedDict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sifu_store.errors import ForeignFileError
from torch import Tensor

ALIGNMENT = 64  # of a tensor's data in a file, so that it can be used memory-mapped
POINTER = b"version https://git-lfs"


def open_state(path: Path) -> dict[str, Tensor]:
    """The tensors of a state dict, by name, in their stored shapes and dtypes, memory-mapped. No value is read yet.

    Raises
    ------
    ForeignFileError
        The file cannot be read, is incomplete, or has other values than tensors.
    """
    try:
        with path.open("rb") as file:
            head = file.read(64)
    except OSError as error:
        raise ForeignFileError(f"{path}: {error.strerror or error}: expected a checkpoint of PyTorch") from error
    if head.startswith(POINTER):
        raise ForeignFileError(f"{path}: a Git LFS pointer, not the checkpoint itself: fetch it (git lfs pull)")
    if not zipfile.is_zipfile(path):
        if head.startswith(b"PK"):
            raise ForeignFileError(f"{path}: the file ends too early ({path.stat().st_size:,} bytes): copy it again")
        if head.startswith(b"\x80"):
            raise ForeignFileError(
                f"{path}: a bare pickle (from PyTorch before 1.6), which may run code and is not opened: "
                "load it where you trust it and torch.save its state dict"
            )
        raise ForeignFileError(f"{path}: not a checkpoint; expected a file of torch.save")
    try:
        loaded = torch.load(path, map_location="cpu", mmap=True, weights_only=True)
    except pickle.UnpicklingError as error:
        raise ForeignFileError(
            f"{path}: its pickle has more than tensors and is not opened: it could run code ({_reason(error)})"
        ) from error
    except (RuntimeError, ValueError, KeyError, EOFError, OSError, zipfile.BadZipFile) as error:
        raise ForeignFileError(f"{path}: damaged, or not a checkpoint of PyTorch ({_reason(error)})") from error
    if isinstance(loaded, Mapping) and isinstance(loaded.get("model_state_dict"), Mapping):
        loaded = loaded["model_state_dict"]  # a training checkpoint, which has the optimizer too
    if not isinstance(loaded, Mapping) or not all(isinstance(value, Tensor) for value in loaded.values()):
        raise ForeignFileError(f"{path}: has {_found(loaded)}; expected a state dict: names and tensors")
    return {str(name): value for name, value in loaded.items()}


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
