"""How much of a device's memory the pages of a graph may take.

It knows bytes; it does not know pages.
"""

from __future__ import annotations

import torch
from sifu_store.durable import format_bytes
from sifu_store.errors import DeviceMemoryError

from sifu_graph.device import memory_of
from sifu_graph.paging.budget import FREE_SHARE, parse_bytes

WORK_BYTES = 2 << 30  # reserved for the computation of a step if no size is given


def parse_budget(wanted: str | int, device: torch.device) -> int:
    """Bytes of a ``device_memory``: a size, or a percentage of the device's memory.

    Raises
    ------
    OptionError
        It is no size, or not positive.
    """
    return parse_bytes(wanted, option="device_memory", total_bytes=memory_of(device)[1])


def budget(wanted: str | int | None, device: torch.device, *, held_bytes: int = 0) -> int:
    """The bound on the device's memory of pages and copies, in bytes.

    Parameters
    ----------
    wanted
        The size that the user gave, or None: `FREE_SHARE` of what is free, less `WORK_BYTES`.
    device
        The device.
    held_bytes
        Memory that pages and copies take already.

    Raises
    ------
    OptionError
        ``wanted`` is no size.
    """
    if wanted is not None:
        return parse_budget(wanted, device)
    return max(0, int(FREE_SHARE * (memory_of(device)[0] + held_bytes)) - WORK_BYTES)


def least_error(found_bytes: int, least_bytes: int, copied_bytes: int) -> DeviceMemoryError:
    """The error for a budget ``found_bytes`` below ``least_bytes``, of which the copies take ``copied_bytes``."""
    return DeviceMemoryError(
        f"`device_memory` is {format_bytes(found_bytes)}: the least that works here is {format_bytes(least_bytes)}, of "
        f"which {format_bytes(copied_bytes)} depend on `batch`"
    )
