"""Which device computes, how much of its memory a graph may take, and what is said when it is too little.

It knows names and bytes; it does not know pages. ``cpu`` with a budget of "device memory" is a device too: a slice
of the machine's own memory, with the same code as on a GPU. It is there for tests and brings no speed.
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
        There is no such device here.
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
    """The precision of the products on a device.

    Raises
    ------
    OptionError
    """
    for precision in PRECISIONS:
        if name == precision:
            if precision != "float32" and device.type == "cpu":
                raise OptionError(f'`precision` is {name!r}: on the CPU all is float32; pass `device="cuda"` with it')
            return precision
    raise OptionError(f"`precision` is {name!r}: it must be {', '.join(PRECISIONS)}")


def memory_of(device: torch.device) -> tuple[int, int]:
    """Bytes that are free, and all of them."""
    if device.type == "cuda":
        free, total = torch.cuda.mem_get_info(device)
        return int(free), int(total)
    memory = psutil.virtual_memory()
    return int(memory.available), int(memory.total)


def peak_bytes(device: torch.device | None) -> int:
    """The most that tensors ever took of a GPU's memory in this process; 0 for none."""
    return int(torch.cuda.max_memory_allocated(device)) if device is not None and device.type == "cuda" else 0


@contextmanager
def memory_errors() -> Iterator[None]:
    """Says in one line that the device ran out of memory."""
    try:
        yield
    except torch.cuda.OutOfMemoryError as error:
        raise out_of_memory(error) from error


def out_of_memory(error: torch.cuda.OutOfMemoryError) -> DeviceMemoryError:
    """The same error, with what to do."""
    what = first_line(error).split(". ")[0]
    return DeviceMemoryError(
        f"the GPU ran out of memory ({what}): lower `device_memory` or `batch`; nothing that was committed is lost"
    )


Precision = Literal["float32", "tf32", "bf16"]


PRECISIONS: tuple[Precision, ...] = get_args(Precision)


def send(tensor: Tensor | NDArray[Any], device: torch.device) -> Tensor:
    """A CPU tensor on a device; the CPU does not wait for it."""
    tensor = torch.from_numpy(tensor) if isinstance(tensor, np.ndarray) else tensor
    if device.type == "cuda":
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)
