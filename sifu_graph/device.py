"""Which device computes, how much of its memory a graph may take, and the error if that is too little.

The module knows names and bytes; it does not know pages. ``cpu`` with a ``device_memory`` is a device too: a part of
the machine's own memory, used by the same code as a GPU's. It exists for tests and is not faster.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal, get_args

import numpy as np
import psutil
import torch
from numpy.typing import NDArray
from sifu_store.errors import DeviceMemoryError, OptionError, first_line
from torch import Tensor


def parse_device(name: str) -> torch.device:
    """The device of a name: ``cpu``, ``cuda`` or ``cuda:N``.

    Raises
    ------
    OptionError
        The name is not one of these, or this machine has no such device.
    """
    match = re.fullmatch(r"cpu|cuda(?::(\d+))?", name)
    if match is None:
        raise OptionError(f"`device` is {name!r}: it must be cpu, cuda or cuda:N")
    if name == "cpu":
        return torch.device("cpu")
    if not torch.cuda.is_available():
        built = torch.version.cuda or torch.version.hip
        if built is None:
            why = f"torch {torch.__version__} is built for the CPU only: install a build with CUDA"
        else:
            why = f"torch {torch.__version__} is built for CUDA {built}, but finds no GPU: look at its driver"
        raise OptionError(f"`device` is {name!r}: {why}, or leave `device` out")
    number, count = int(match[1] or 0), torch.cuda.device_count()
    if number >= count:
        raise OptionError(f"`device` is {name!r}: the GPUs here are cuda:0 to cuda:{count - 1}")
    return torch.device("cuda", number)


def parse_precision(name: str, device: torch.device) -> Precision:
    """The precision of matrix products on a device.

    Raises
    ------
    OptionError
        The name is unknown, or the device does not support it.
    """
    if name == BFLOAT16 and device.type == "cpu":
        return "float32"
    for precision in PRECISIONS:
        if name == precision:
            if precision != "float32" and device.type == "cpu":
                raise OptionError(
                    f"`precision` is {name!r}: on the CPU it is float32, or {BFLOAT16} for edges that are only read; "
                    'pass `device="cuda"` with it'
                )
            return precision
    raise OptionError(f"`precision` is {name!r}: it must be {', '.join(PRECISIONS)}, or {BFLOAT16} on the CPU")


def memory_of(device: torch.device) -> tuple[int, int]:
    """Free and total memory of a device, in bytes."""
    if device.type == "cuda":
        free, total = torch.cuda.mem_get_info(device)
        return int(free), int(total)
    memory = psutil.virtual_memory()
    return int(memory.available), int(memory.total)


def peak_bytes(device: torch.device | None) -> int:
    """The largest memory that tensors took on a GPU in this process, in bytes; 0 on the CPU."""
    return int(torch.cuda.max_memory_allocated(device)) if device is not None and device.type == "cuda" else 0


@contextmanager
def memory_errors() -> Iterator[None]:
    """Raises `DeviceMemoryError`, with a message of one line, for torch's error of a device without free memory."""
    try:
        yield
    except torch.cuda.OutOfMemoryError as error:
        raise out_of_memory(error) from error


def out_of_memory(error: torch.cuda.OutOfMemoryError) -> DeviceMemoryError:
    """The `DeviceMemoryError` for torch's error; its message says what to do."""
    what = first_line(error).split(". ")[0]
    return DeviceMemoryError(
        f"the GPU ran out of memory ({what}): lower `device_memory` or `batch`; nothing that was committed is lost"
    )


Precision = Literal["float32", "tf32", "bf16"]


BFLOAT16 = "bfloat16"
"""The precision of edges that are held in two bytes a number, on the CPU; products are float32 with it."""
PRECISIONS: tuple[Precision, ...] = get_args(Precision)


def send(tensor: Tensor | NDArray[Any], device: torch.device) -> Tensor:
    """Copies a CPU tensor of any shape and dtype to a device, without waiting for the copy."""
    tensor = torch.from_numpy(tensor) if isinstance(tensor, np.ndarray) else tensor
    if device.type == "cuda":
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)
