"""How much memory a graph's edges may take: sizes as people write them, and the budget where none is given.

It knows bytes; it does not know pages or what is done with them.
"""

from __future__ import annotations

import re

import psutil
from sifu_store.durable import format_bytes
from sifu_store.errors import OptionError

UNITS = {"": 1, "b": 1, "kb": 10**3, "mb": 10**6, "gb": 10**9, "tb": 10**12}
UNITS |= {"kib": 2**10, "mib": 2**20, "gib": 2**30, "tib": 2**40}
MODEST_BYTES = 2**28  # for who only looks at a few rows
FREE_SHARE = 0.8  # of the memory that is free, taken where nobody says how much


def parse_bytes(size: str | int, *, option: str = "host-memory", total_bytes: int | None = None) -> int:
    """Bytes of a size: ``512MiB``, ``2GB``, ``50%`` (of the machine's memory or of ``total_bytes``), or a number.

    Raises
    ------
    OptionError
    """
    if isinstance(size, int):
        found = size
    else:
        match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*(%|[a-zA-Z]*)\s*", size)
        unit = match[2].lower() if match else ""
        if match is None or (unit != "%" and unit not in UNITS):
            raise OptionError(f"{option} is {size!r}: it must be a size such as 512MiB, 2GB or 50%")
        total_bytes = psutil.virtual_memory().total if total_bytes is None else total_bytes
        found = int(float(match[1]) * (total_bytes / 100 if unit == "%" else UNITS[unit]))
    if found <= 0:
        raise OptionError(f"{option} is {size!r}: it must be more than 0 bytes")
    return found


def budget(wanted: str | int | None, *, whole_bytes: int, held_bytes: int) -> tuple[int | None, str | None]:
    """The bound on what a graph's edges take, None where all of them fit; and what there is to say about it.

    Parameters
    ----------
    wanted
        What the user asked for, or None.
    whole_bytes
        What the whole graph takes.
    held_bytes
        What it takes already.
    """
    memory = psutil.virtual_memory()
    if wanted is None:
        free = int(FREE_SHARE * (memory.available + held_bytes))
        if whole_bytes <= free:
            return None, None
        return free, (
            f"the graph's edges take {format_bytes(whole_bytes)} and {format_bytes(memory.available)} of memory are "
            f"free: {format_bytes(free)} are used for them (--host-memory)"
        )
    found = parse_bytes(wanted)
    note = None
    if found > memory.total:
        note = (
            f"--host-memory {wanted} is more than the machine's {format_bytes(memory.total)}: it may swap or be killed"
        )
    return (None if found >= whole_bytes else found), note


def copied_bytes(slots: int, *, trained_edges: int, evaluated_edges: int, edge_bytes: int, bare_bytes: int) -> int:
    """What the copies of the edges of a batch's text take, at most.

    Parameters
    ----------
    trained_edges, evaluated_edges
        Edges that the text takes in training and in evaluation, at most: in training with their gradients.
    edge_bytes, bare_bytes
        An edge with the optimizer's state, and without.
    """
    return max(min(trained_edges, slots) * (edge_bytes + bare_bytes), min(evaluated_edges, slots) * bare_bytes)


def least_bytes(pages: int, largest_row_pages: int, page_bytes: int) -> int:
    """The smallest budget of the frames: two parts of a batch, each of at least one row."""
    return min(pages, 2 * (largest_row_pages + 2)) * page_bytes
