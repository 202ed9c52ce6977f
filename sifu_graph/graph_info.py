"""The figures of a graph: what `Graph.info` and `sifu info` show. They come from the small arrays of the store."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from sifu_store.layout import CLONE_PARENT
from sifu_store.places import place_of
from sifu_store.short_repr import short_repr
from sifu_store.store import Store

from sifu_graph.edge_index import base_parameters, dense_parameters, stored_parameters
from sifu_graph.model.io import read_index
from sifu_graph.settings import GraphSettings
from sifu_graph.text.encoded import CACHE
from sifu_graph.text.kept_texts import PATTERN


@short_repr
@dataclass(frozen=True, slots=True)
class GraphInfo:
    """What a graph is: the figures of the paper's Table 3, and where it stands."""

    path: str
    nodes: int
    width: int
    dense_parameters: int
    private_edges: int
    stored_parameters: int
    ratio: float
    coverage: float
    corpus_tokens: int
    store_bytes: int
    trained_pages: int
    pages: int
    page_bytes: int  # of the trained pages on disk
    precision: str  # of the parameters in them
    codec: str  # that compresses them
    format_version: int
    snapshot: str
    branch: str
    base_parameters: int | None  # of what all edges share; None: every edge stands alone
    clones: int  # nodes split by the nodes before them
    newest: bool  # the snapshot is the newest of the branch
    settings: GraphSettings
    heldout_perplexity: float | None = None  # that the newest commit of a training recorded
    text_bytes: int = 0  # of the text that the store has beside its snapshots, encoded and copies; no snapshot has text
    text_copied: bool = False  # there is a copy of text that was in memory or came from standard input


def info_of(path: Path, store: Store, settings: GraphSettings, *, base: bool) -> GraphInfo:
    """The figures of a graph at a path; ``base``: all its edges share a base."""
    nodes, width = settings["nodes"], settings["width"]
    cache, copies = path / CACHE, list((path / CACHE).glob(PATTERN))
    index, _ = read_index(store, settings)
    edges = index.edges
    dense = dense_parameters(nodes, width, base=base)
    stored = stored_parameters(nodes, edges, width, base=base)
    return GraphInfo(
        path=str(place_of(path)),
        nodes=nodes,
        width=width,
        dense_parameters=dense,
        private_edges=edges,
        stored_parameters=stored,
        ratio=stored / dense,
        coverage=min(1.0, float(index.count.sum(dtype=np.int64) / max(1, store.read("rows/total").sum()))),
        corpus_tokens=settings["build"]["corpus_tokens"],
        store_bytes=store.size_bytes(),
        trained_pages=int(store.page_stored().sum()),
        pages=store.pages,
        page_bytes=store.page_bytes(),
        precision=store.page_codec.precision,
        codec=store.page_codec.codec,
        format_version=store.format_version,
        snapshot=store.snapshot,
        branch=store.branch,
        base_parameters=base_parameters(nodes, width) if base else None,
        clones=store.shape(CLONE_PARENT)[0] if store.has(CLONE_PARENT) else 0,
        newest=store.newest,
        settings=settings,
        heldout_perplexity=_recorded_perplexity(store),
        text_bytes=sum(file.stat().st_size for file in [*cache.glob("*/*.ids"), *copies] if file.is_file()),
        text_copied=bool(copies),
    )


def _recorded_perplexity(store: Store) -> float | None:
    """The held-out perplexity that training recorded, unless a later commit changed the graph."""
    found = next((commit.changes.get("heldout_perplexity") for commit in store.history(limit=1)), None)
    return float(found) if isinstance(found, int | float) else None
