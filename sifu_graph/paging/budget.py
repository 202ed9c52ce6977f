"""How much memory the edges of a graph may take: sizes as users write them, and the budget if no size is given.

It knows bytes; it does not know what the memory is used for.
"""

from __future__ import annotations

import re

import psutil
from sifu_store.durable import format_bytes
from sifu_store.errors import HostMemoryError, OptionError

UNITS = {"": 1, "b": 1, "kb": 10**3, "mb": 10**6, "gb": 10**9, "tb": 10**12}
UNITS |= {"kib": 2**10, "mib": 2**20, "gib": 2**30, "tib": 2**40}
MODEST_BYTES = 2**28  # budget of commands that read only a few rows
FREE_SHARE = 0.8  # of the free memory: the budget if no size is given


def parse_bytes(size: str | int, *, option: str = "host_memory", total_bytes: int | None = None) -> int:
    """Bytes of a size: ``512MiB``, ``2GB``, ``50%``, or a number.

    Parameters
    ----------
    size
        The size as the user wrote it, or bytes.
    option
        Name of the option, for the message.
    total_bytes
        What a percentage refers to; None: the machine's memory.

    Raises
    ------
    OptionError
        It is no size, or not positive.
    """
    if isinstance(size, int):
        found = size
    else:
        match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*(%|[a-zA-Z]*)\s*", size)
        unit = match[2].lower() if match else ""
        if match is None or (unit != "%" and unit not in UNITS):
            raise OptionError(f"`{option}` is {size!r}: it must be a size such as 512MiB, 2GB or 50%")
        total_bytes = psutil.virtual_memory().total if total_bytes is None else total_bytes
        found = int(float(match[1]) * (total_bytes / 100 if unit == "%" else UNITS[unit]))
    if found <= 0:
        raise OptionError(f"`{option}` is {size!r}: it must be more than 0 bytes")
    return found


def budget(wanted: str | int | None, *, whole_bytes: int, held_bytes: int) -> tuple[int | None, str | None]:
    """The bound on the memory of a graph's edges in bytes, None if all of them fit; and a note for the user, or None.

    Parameters
    ----------
    wanted
        The size that the user gave, or None.
    whole_bytes
        Memory of all edges.
    held_bytes
        Memory that the edges take already.

    Raises
    ------
    OptionError
        ``wanted`` is no size.
    """
    memory = psutil.virtual_memory()
    if wanted is None:
        free = int(FREE_SHARE * (memory.available + held_bytes))
        if whole_bytes <= free:
            return None, None
        return free, (
            f"the graph's edges take {format_bytes(whole_bytes)} and {format_bytes(memory.available)} of memory are "
            f"free: {format_bytes(free)} are used for them (`host_memory`)"
        )
    found = parse_bytes(wanted)
    note = None
    if found > memory.total:
        asked = wanted if isinstance(wanted, str) else format_bytes(wanted)
        note = (
            f"`host_memory` is {asked}, more than the machine's {format_bytes(memory.total)}: it may swap or be killed"
        )
    return (None if found >= whole_bytes else found), note


def require_least(host_memory: str | int, *, least_bytes: int, batch_bytes: int = 0) -> int:
    """The bytes of a size that the user gave.

    Parameters
    ----------
    host_memory
        The size.
    least_bytes
        The smallest one that works, of which up to ``batch_bytes`` depend on the batch of a training step.

    Raises
    ------
    HostMemoryError
        It is less.
    """
    found = parse_bytes(host_memory)
    if found < least_bytes:
        given = host_memory if isinstance(host_memory, str) else format_bytes(host_memory)
        depends = f", of which up to {format_bytes(min(batch_bytes, least_bytes))} depend on `batch`"
        raise HostMemoryError(
            f"`host_memory` is {given}: the least that works here is {format_bytes(least_bytes)}"
            f"{depends if batch_bytes else ''}"
        )
    return found


def copied_bytes(slots: int, *, trained_edges: int, evaluated_edges: int, edge_bytes: int, bare_bytes: int) -> int:
    """The greatest size in bytes of the copies of the edges that the text of a batch takes.

    Parameters
    ----------
    slots
        Number of slots.
    trained_edges, evaluated_edges
        Greatest number of edges that the text takes in training and in evaluation; in training each has a gradient.
    edge_bytes, bare_bytes
        Bytes of an edge with the optimizer's state, and without.
    """
    return max(min(trained_edges, slots) * (edge_bytes + bare_bytes), min(evaluated_edges, slots) * bare_bytes)


def least_bytes(pages: int, largest_row_pages: int, page_bytes: int) -> int:
    """The smallest budget of the frames in bytes: room for two parts of a batch, each of at least one row.

    Parameters
    ----------
    pages
        Number of pages of the graph.
    largest_row_pages
        Number of pages of the largest row.
    page_bytes
        Bytes of a page of all arrays.
    """
    return min(pages, 2 * (largest_row_pages + 2)) * page_bytes
