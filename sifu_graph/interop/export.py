"""Export in every format: a file or folder appears at its path when it is complete.

The module knows formats by name and paths; `converters`, `graphml`, `brillm_export` and `safetensors_export` know the
content.
"""

from __future__ import annotations

import secrets
import shutil
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from sifu_store.durable import disk_errors, sync_filesystem
from sifu_store.errors import CorpusError, OptionError, StoreExistsError
from sifu_store.places import place_of
from sifu_store.short_repr import short_repr

from sifu_graph.interop import converters, graphml
from sifu_graph.interop.brillm_export import check_brillm, write_brillm
from sifu_graph.interop.safetensors_export import write_safetensors
from sifu_graph.interop.slim import SlimScores, slim_scores
from sifu_graph.output_file import require_path
from sifu_graph.progress import ProgressOption, Stages
from sifu_graph.progress_bar import reporting

if TYPE_CHECKING:
    from sifu_graph.session import GraphSession

FORMATS = {
    "slim": ".safetensors.xz",
    "brillm": ".brillm",
    "safetensors": ".safetensors",
    "graphml": ".graphml",
    "scipy": ".scipy",
}
"""Formats, with the suffix of the default name of the file or folder."""
FOLDERS = {
    "brillm": {"model.bin", "vocab.json", "word_frequency.json", "tokenizer.json"},
    "scipy": {"counts.npz", "energies.npz", "default_energies.npy", "forbidden.npy", "nodes.json"},
}
"""Formats that write a folder, with the files that it can have."""


@short_repr
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
    scores
        Of a slim file: the held-out perplexity of the graph, and of the file; None: there is no held-out text.
    """

    format: str
    path: str
    files: list[str]
    size_bytes: int
    private_edges: int
    seconds: float
    notes: list[str]
    scores: SlimScores | None = None


def export(
    graph: GraphSession,
    kind: str,
    path: str | Path | None = None,
    *,
    clones: int = 0,
    half: bool = False,
    force: bool = False,
    progress: ProgressOption = None,
) -> ExportReport:
    """Write a graph in another format. It appears at `path` when it is complete.

    Parameters
    ----------
    kind
        ``slim`` (one packed file with this snapshot alone, read back by `import_safetensors`: the smallest to ship),
        ``brillm`` (a folder for the released BriLLM code), ``safetensors`` (one file, read back by
        `import_safetensors`), ``graphml`` (nodes, counts and energies) or ``scipy`` (a folder of sparse matrices).
    path
        None: the name of the store with the format's ending, in the current folder.
    clones
        As nodes of GraphML: at most this number, those that gain most.
    half
        Of ``slim``: the trained parameters in 16 bits instead of 32.
    force
        Replace a file, or a folder of an earlier export, at ``path``.
    progress
        See `progress_bar.reporting`.

    Raises
    ------
    OptionError, StoreExistsError, DiskFullError
    """
    started = time.perf_counter()
    _check_options(kind, clones=clones, half=half)
    given = Path(path if path is not None else place_of(graph.path).title + FORMATS[kind])
    require_path(given, force=force, taken=StoreExistsError)
    target = given.absolute()
    if target == graph.path or target in graph.path.parents:
        raise OptionError(f"{target} is the graph itself, or a folder that contains it: name another path")
    if target.is_dir() and (others := {file.name for file in target.iterdir()} - FOLDERS.get(kind, set())):
        raise StoreExistsError(f"{target} is a folder with other files in it ({min(others)}): name another path")
    if kind == "brillm":
        check_brillm(graph)
    partial = target.with_name(f".{target.name}.{secrets.token_hex(4)}.partial")
    try:
        with disk_errors(target, f"exporting to {target.name}", done="written"), reporting(progress) as stages:
            if kind in FOLDERS:
                partial.mkdir()
            notes, scores = _write(graph, kind, partial, clones=clones, half=half, stages=stages)
            base = graph.parameters.base
            if kind in ("graphml", "scipy") and base is not None and len(base.pairs.tree) > clones:
                more = f"{len(base.pairs.tree) - clones:,} clones are left out"
                notes.append(
                    more + (" (`clones`: more of them)" if kind == "graphml" else ": slim and safetensors have them")
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
        scores=scores,
    )


def _check_options(kind: str, *, clones: int, half: bool) -> None:
    if clones < 0 or (clones and kind != "graphml"):
        raise OptionError(f"`clones` is {clones}: it must be 0 or more, of GraphML alone")
    if half and kind != "slim":
        raise OptionError(f"`half` is True: it is of slim files alone, and the format is {kind!r}")
    if kind not in FORMATS:
        raise OptionError(f"no format {kind!r}; there are {', '.join(FORMATS)}")


def _write(
    graph: GraphSession,
    kind: str,
    path: Path,
    *,
    clones: int,
    half: bool,
    stages: Stages,
) -> tuple[list[str], SlimScores | None]:
    """Write a file, or the files of a folder; the notes for the user, and the scores of a slim file."""
    if kind == "brillm":
        return write_brillm(graph, path, stages=stages), None
    if kind == "safetensors":
        write_safetensors(graph, path, stages=stages)
    elif kind == "graphml":
        graphml.export_graphml(graph, path, clones=clones, stages=stages)
    elif kind == "scipy":
        converters.export_scipy(graph, path, stages)
    else:
        write_safetensors(graph, path, slim=True, half=half, stages=stages)
        try:
            return [], slim_scores(graph, path, stages)
        except CorpusError as error:
            return [f"its perplexity was not computed: {error}"], None
    return [], None


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
