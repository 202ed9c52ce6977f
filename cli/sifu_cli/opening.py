"""Opening the graph or the store of a command. A warning reports that an older snapshot than the newest one is read."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from sifu_cli.output.messages import warn

if TYPE_CHECKING:
    from sifu_store.store import Store

    from sifu_graph.graph import Graph


@dataclass(frozen=True, slots=True)
class Resources:
    """Where a command computes, and how much memory it uses. No field changes a result but `device` and `precision`.

    Parameters
    ----------
    host_memory, device_memory
        Memory of the process, as text: `512MiB`, `50%`; None: chosen by the library.
    scratch
        Folder for pages that leave memory before a commit; None: the folder of the store.
    device
        `cpu`, `cuda` or `cuda:N`.
    precision
        Of matrix products on a GPU: `float32`, `tf32` or `bf16`.
    """

    host_memory: str | None = None
    scratch: Path | None = None
    device: str = "cpu"
    device_memory: str | None = None
    precision: str = "float32"


@contextmanager
def open_graph(
    store: Path, *, at: str | None = None, resources: Resources | None = None, modest: bool = False
) -> Iterator[Graph]:
    """Open the graph at a path.

    Parameters
    ----------
    store
        Directory of the store.
    at
        Name of an older snapshot; None: the newest one.
    resources
        Device and memory; None: the defaults.
    modest
        Use little memory by default: the command reads only a few rows.
    """
    from sifu_store.places import require_store

    require_store(store)  # before Icechunk and Zarr are imported
    from sifu_graph.graph import Graph

    options = {field.name: getattr(resources or Resources(), field.name) for field in dataclasses.fields(Resources)}
    with Graph.open(store, at=at, modest=modest, **options) as graph:
        if graph.warning:
            warn(graph.warning)
        yield graph


@contextmanager
def open_store(store: Path, *, write: bool = False) -> Iterator[Store]:
    """Open the store at a path, for reading or for writing."""
    from sifu_store.places import require_store

    require_store(store)
    from sifu_store.store import Store

    with Store.open(store, write=write) as opened:
        if opened.recovered_from:
            warn(opened.recovered_from)
        yield opened
