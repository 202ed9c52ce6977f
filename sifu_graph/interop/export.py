"""Export in every format: a file or folder appears at its path when it is complete.

The module knows formats by name and paths; `converters`, `graphml`, `brillm_export` and `safetensors` know the content.
"""

from __future__ import annotations

import secrets
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from sifu_store.durable import disk_errors, sync_filesystem
from sifu_store.errors import OptionError, StoreExistsError

from sifu_graph.interop import converters, graphml
from sifu_graph.interop.brillm_export import check_brillm, write_brillm
from sifu_graph.interop.safetensors import write_safetensors
from sifu_graph.output_file import require_path

if TYPE_CHECKING:
    from sifu_graph.session import GraphSession

FORMATS = {"brillm": ".brillm", "safetensors": ".safetensors", "graphml": ".graphml", "scipy": ".scipy"}
"""Formats, with the suffix of the default name of the file or folder."""
FOLDERS = {
    "brillm": {"model.bin", "vocab.json", "word_frequency.json", "tokenizer.json"},
    "scipy": {"counts.npz", "energies.npz", "default_energies.npy", "nodes.json"},
}
"""Formats that write a folder, with the files that it can have."""


@dataclass(frozen=True, slots=True)
class ExportReport:
    """The result of an export.

    Attributes
    ----------
    path, files
        The file or folder, and the names of the files in it.
    size_bytes
        Size of the files, in bytes.
    notes
        Remarks about the files for the user.
    """

    format: str
    path: str
    files: list[str]
    size_bytes: int
    private_edges: int
    seconds: float
    notes: list[str]


def export(
    graph: GraphSession,
    kind: str,
    path: str | Path | None = None,
    *,
    clones: int = 0,
    force: bool = False,
    on_bytes: Callable[[int, int], None] | None = None,
) -> ExportReport:
    """Write a graph in another format. It appears at `path` when it is complete.

    Parameters
    ----------
    kind
        ``brillm`` (a folder for the released BriLLM code), ``safetensors`` (one file, read back by
        `import_safetensors`), ``graphml`` (nodes, counts and energies) or ``scipy`` (a folder of sparse matrices).
    path
        None: the name of the store with the format's ending, in the current folder.
    clones
        As nodes of GraphML: at most this number, those that gain most.
    force
        Replace a file, or a folder of an earlier export, at ``path``.
    on_bytes
        Called with (bytes of edges done, bytes in all), in formats that copy edges.

    Raises
    ------
    OptionError, StoreExistsError, DiskFullError
    """
    started = time.perf_counter()
    if clones < 0 or (clones and kind != "graphml"):
        raise OptionError(f"`clones` is {clones}: it must be 0 or more, of GraphML alone")
    if kind not in FORMATS:
        raise OptionError(f"no format {kind!r}; there are {', '.join(FORMATS)}")
    given = Path(path if path is not None else graph.path.stem + FORMATS[kind])
    require_path(given, force=force, taken=StoreExistsError)
    target = given.absolute()
    if target == graph.path or target in graph.path.parents:
        raise OptionError(f"{target} is the graph itself, or a folder that contains it: name another path")
    if target.is_dir() and (others := {file.name for file in target.iterdir()} - FOLDERS.get(kind, set())):
        raise StoreExistsError(f"{target} is a folder with other files in it ({min(others)}): name another path")
    if kind == "brillm":
        check_brillm(graph)
    partial = target.with_name(f".{target.name}.{secrets.token_hex(4)}.partial")
    notes: list[str] = []
    try:
        with disk_errors(target, f"exporting to {target.name}"):
            if kind in FOLDERS:
                partial.mkdir()
            if kind == "brillm":
                notes = write_brillm(graph, partial, on_bytes=on_bytes)
            elif kind == "safetensors":
                write_safetensors(graph, partial, on_bytes=on_bytes)
            elif kind == "graphml":
                graphml.export_graphml(graph, partial, clones=clones)
            else:
                converters.export_scipy(graph, partial)
            base = graph.parameters.base
            if kind in ("graphml", "scipy") and base is not None and len(base.pairs.tree) > clones:
                more = f"{len(base.pairs.tree) - clones:,} clones are left out"
                notes.append(
                    more + (" (`clones`: more of them)" if kind == "graphml" else ": only safetensors has them")
                )
            sync_filesystem(target.parent)
            _remove(target)
            partial.rename(target)
    finally:
        _remove(partial)
    files = sorted(target.iterdir()) if target.is_dir() else [target]
    return ExportReport(
        format=kind,
        path=str(target if path is None else path),
        files=[file.name for file in files],
        size_bytes=sum(file.stat().st_size for file in files),
        private_edges=graph.parameters.index.edges,
        seconds=time.perf_counter() - started,
        notes=notes,
    )


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
