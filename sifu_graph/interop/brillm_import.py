"""Import of models of the released BriLLM code: which row of a checkpoint is which edge.

A checkpoint is a state dict: ``positions`` [1, P, 1], ``weights`` [R, d, d], ``biases`` [R, 1, d] and ``node_bias``
[n, 1, d]. Row 0 is the default edge. The rows from 1 on belong to the private edges, sources in the order of the
vocabulary and for each its targets in the same order; an edge is default where the frequency file gives the pair a
count of 0, and private otherwise. So the edge of a row is known only if the vocabulary and the frequency file are those
of the checkpoint; files that do not match are an error. Weights are input-major, as in sifu (decision 2).

The module knows these files and stores; the mathematics is the preset `brillm05`.
"""

from __future__ import annotations

import math
import time
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path

import numpy as np
import torch
from sifu_store.durable import require_free_bytes, resolved
from sifu_store.errors import ForeignFileError, OptionError
from sifu_store.layout import EDITED_VERSION, PAGE_EDGES
from sifu_store.short_repr import short_repr
from sifu_store.store import Store
from torch import Tensor

from sifu_graph.arguments import checked
from sifu_graph.arrays import Floats, Ids, Ints
from sifu_graph.config import preset
from sifu_graph.edge_index import dense_parameters, stored_parameters
from sifu_graph.interop.brillm_frequency import Pairs, Row, frequency_rows, read_json
from sifu_graph.interop.torch_checkpoint import open_state, read_values, release
from sifu_graph.model.new_graph import NewGraph, write_new_graph
from sifu_graph.pools import pool
from sifu_graph.progress import ProgressOption
from sifu_graph.progress_bar import reporting
from sifu_graph.settings import BuildSettings, InitialSettings
from sifu_graph.text.imported import SPACE, level_of_library, read_vocabulary
from sifu_graph.text.kneser_ney import Counts, discount_of, estimate_discounts
from sifu_graph.text.tokenizer import SURROGATE, Tokenizer, require_level

RUN_PAGES = 32  # read and written in one piece: 64 MiB of weights
LENGTH = 32  # tokens of a training text, as in the released recipe
HOLDOUT = 0.01
SHOWN = 3  # names in a message


@dataclass(frozen=True, slots=True)
class Edges:
    """The private edges in the order of a checkpoint's rows: sorted by (u, v).

    Attributes
    ----------
    source, target : int32 [edges]
    count : int64 [edges]
        0 without a frequency file.
    """

    source: Ids
    target: Ids
    count: Ints

    def __len__(self) -> int:
        return len(self.source)


@short_repr
@dataclass(frozen=True, slots=True)
class ImportReport:
    """The result of an import."""

    path: str
    nodes: int
    width: int
    dense_parameters: int
    private_edges: int
    stored_parameters: int
    ratio: float
    level: str
    read_bytes: int
    store_bytes: int
    seconds: float
    snapshot: str
    notes: list[str]


@checked
def import_brillm(
    checkpoint: str | Path,
    path: str | Path = "graph.sifu",
    *,
    vocab: str | Path,
    frequency: str | Path | None = None,
    tokenizer: str | Path | None = None,
    level: str | None = None,
    force: bool = False,
    command: str = "import-brillm",
    progress: ProgressOption = None,
) -> ImportReport:
    """Makes a graph of a checkpoint of the released BriLLM code, with the preset `brillm05`.

    Parameters
    ----------
    checkpoint
        A file of `torch.save`: the state dict, or a training checkpoint that contains it.
    path
        The path of the new store, which appears there when it is complete.
    vocab
        JSON: token -> id.
    frequency
        JSON: source -> {target: count}. None: every edge is private.
    tokenizer
        A file of the `tokenizers` library: byte-level BPE, or the words of a graph that was exported.
    level
        None: ``bpe`` or ``word`` with a tokenizer file, else ``char``. ``tokens``: documents are lists of tokens.
    force
        Replace a store at ``path``.
    command
        What the history records as the command.
    progress
        How far it is: a callback, called with a `ProgressReport` ten times a second at most. None: a bar, where a
        person looks (in a terminal or a notebook). True: elsewhere lines on stderr, too. False: nothing.

    Returns
    -------
    ImportReport
        Numbers of nodes and edges, the level, and ``notes``.

    Raises
    ------
    ForeignFileError
        A file cannot be read, or does not match the others; nothing was written.
    OptionError, StoreExistsError, StoreLockedError, DiskFullError

    Examples
    --------
    >>> import_brillm("model.bin", "brillm.sifu", vocab="vocab.json")           # doctest: +SKIP
    """
    started = time.perf_counter()
    if level is not None:
        require_level(level)
    if tokenizer is not None and level not in (None, "bpe", "word"):
        raise OptionError(f"a tokenizer file goes with level bpe or word, not {level}")
    names = read_names(Path(vocab))
    text = _tokenizer(names, vocab=vocab, library=tokenizer, level=level)
    state = _Checkpoint.open(Path(checkpoint), nodes=len(names), vocab=Path(vocab))
    edges = _edges_of(state, names, frequency=frequency)
    notes = [] if frequency is not None else ["no frequency file: every edge is private, and no count is known"]
    if text.unknown is None:
        notes.append("the vocabulary has no unknown token: characters that are no node are left out")
    require_free_bytes(resolved(path).parent, len(edges) * (state.width**2 + state.width) * 4, "the graph")
    graph = _new_graph(state, edges, nodes=len(names), text=text)
    build = _build_settings(graph, edges, text=text, sources=[checkpoint, vocab, frequency, tokenizer])
    with Store.create(path, force=force) as store, reporting(progress) as stages:
        stage = stages.stage("reading the checkpoint", len(edges), "edges")
        initial: InitialSettings = {"method": "uniform", "seed": 0, "discounts": list(graph.counts.discounts)}
        signal = preset("brillm05")
        write_new_graph(store, graph, signal=signal, initial=initial, build=build, format_version=EDITED_VERSION)
        for first, arrays in state.runs(store):
            for name, values in arrays.items():
                store.write_pages(name, first, values.numpy())
            stage.at(min((first + RUN_PAGES) * PAGE_EDGES, len(edges)))
        store.mark_stored(np.arange(store.pages))
        snapshot = store.commit(
            f"import: {len(names):,} nodes, {len(edges):,} private edges from {Path(checkpoint).name}",
            command=command,
            changes={"nodes": len(names), "private_edges": len(edges)},
        )
        stored = stored_parameters(len(names), len(edges), state.width)
        return ImportReport(
            path=str(path),
            nodes=len(names),
            width=state.width,
            dense_parameters=dense_parameters(len(names), state.width),
            private_edges=len(edges),
            stored_parameters=stored,
            ratio=stored / dense_parameters(len(names), state.width),
            level=text.level,
            read_bytes=state.size_bytes,
            store_bytes=store.size_bytes(),
            seconds=time.perf_counter() - started,
            snapshot=snapshot,
            notes=notes,
        )


# ---- the two JSON files


def read_names(path: Path) -> list[str]:
    """The tokens of a vocabulary file, in the order of their ids.

    Raises
    ------
    ForeignFileError
        It is not token -> id, or the ids are not 0, 1, 2, ... in the order of the file: the rows of a checkpoint
        follow that order, so gaps or equal ids would leave the token of a row unknown.
    """
    pairs = read_json(path, hook=Pairs)
    if not isinstance(pairs, Pairs) or not pairs:
        raise ForeignFileError(f"{path}: expected one JSON object, token -> id")
    names, ids = [str(name) for name, _ in pairs], [value for _, value in pairs]
    odd = next((name for name, value in pairs if type(value) is not int), None)
    if odd is not None:
        raise ForeignFileError(f"{path}: the id of {odd!r} is not a whole number; expected token -> id")
    twice = [name for name, times in Counter(names).items() if times > 1]
    if twice:
        raise ForeignFileError(f"{path}: the token {twice[0]!r} is there twice; expected every token once")
    same = [value for value, times in Counter(ids).items() if times > 1]
    if same:
        shared = [name for name, value in pairs if value == same[0]]
        raise ForeignFileError(
            f"{path}: the id {same[0]} belongs to {len(shared)} tokens ({', '.join(map(repr, shared[:SHOWN]))}); "
            "expected every id once"
        )
    for place, (name, value) in enumerate(pairs):
        if not name or SURROGATE.search(name):
            what = "half a surrogate pair (\\ud800-\\udfff), which is no character" if name else "no character"
            raise ForeignFileError(f"{path}: the token with the id {value} has {what}: expected text")
        if value != place:
            what = (
                f"ids run from {min(ids)} to {max(ids)}, with gaps"
                if (min(ids), max(ids)) != (0, len(ids) - 1)
                else f"{name!r} is token number {place} and has the id {value}"
            )
            raise ForeignFileError(f"{path}: {what}; expected the ids 0 to {len(ids) - 1} in the order of the file")
    return names


def _edges_of(state: _Checkpoint, names: Sequence[str], *, frequency: str | Path | None) -> Edges:
    """The private edges, one for each row of a checkpoint; their number is compared before their arrays are made."""
    n = len(names)
    if frequency is None:
        _check_rows(state, n * n, nodes=n, frequency=None)
        return every_edge(n)
    rows = frequency_rows(Path(frequency), names)
    _check_rows(state, sum(n - int((count == 0).sum()) for _, count in rows), nodes=n, frequency=frequency)
    return private_edges(rows, n)


def private_edges(rows: Sequence[Row], nodes: int) -> Edges:
    """The private edges by a frequency file: all pairs except those with a count of 0, as in the released code."""
    sources, targets, counts = [], [], []
    for node, (target, count) in enumerate(rows):
        every = np.zeros(nodes, np.int64)
        private = np.ones(nodes, bool)
        every[target], private[target] = count, count > 0
        found = np.flatnonzero(private)
        sources.append(np.full(len(found), node, np.int32))
        targets.append(found.astype(np.int32))
        counts.append(every[found])
    return Edges(np.concatenate(sources), np.concatenate(targets), np.concatenate(counts))


def every_edge(nodes: int) -> Edges:
    """All ordered pairs: the private edges of a checkpoint without a frequency file."""
    every = np.arange(nodes, dtype=np.int32)
    return Edges(np.repeat(every, nodes), np.tile(every, nodes), np.zeros(nodes * nodes, np.int64))


def _tokenizer(names: list[str], *, vocab: str | Path, library: str | Path | None, level: str | None) -> Tokenizer:
    if library is None:
        level = level or "char"
        spaced = [name for name in names if name.startswith(SPACE) and name != SPACE]
        if level == "bpe" or (level == "char" and spaced):
            shown = f" ({spaced[0]!r})" if spaced else ""
            raise OptionError(
                f"{vocab} is a byte-level BPE vocabulary{shown}: name its file with `tokenizer`, "
                'or say `level="tokens"` if documents are lists of tokens'
            )
        return read_vocabulary(names, level=level)
    content = read_json(Path(library))
    if not isinstance(content, dict):
        raise ForeignFileError(f"{library}: expected a file of the tokenizers library")
    try:
        return read_vocabulary(names, level=level or level_of_library(content), library=content)
    except ForeignFileError as error:
        raise ForeignFileError(f"{library}: {error}") from error


# ---- the checkpoint


@dataclass(frozen=True, slots=True)
class _Checkpoint:
    """The four tensors, checked and mapped."""

    path: Path
    weights: Tensor  # [R, d, d]
    biases: Tensor  # [R, 1, d]
    node_bias: Tensor  # [n, 1, d]
    positions: Tensor  # [1, P, 1]

    @classmethod
    def open(cls, path: Path, *, nodes: int, vocab: Path) -> _Checkpoint:
        state = open_state(path)
        wanted = ("weights", "biases", "node_bias", "positions")
        if missing := [name for name in wanted if name not in state]:
            raise ForeignFileError(
                f"{path}: no {', '.join(missing)} in it (it has {', '.join(list(state)[:6]) or 'nothing'}); "
                f"expected {', '.join(wanted)}"
            )
        state = {name: read_values(state[name], name=name, path=path) for name in wanted}
        found = cls(path, *state.values())
        rows, d = (*found.weights.shape, 0, 0)[:2]
        shapes = {
            "weights": (rows, d, d),
            "biases": (rows, 1, d),
            "node_bias": (nodes, 1, d),
            "positions": (1, max(1, found.positions.numel()), 1),
        }
        for name, shape in shapes.items():
            tensor = state[name]
            if tensor.dtype not in (torch.float32, torch.float16, torch.bfloat16):
                raise ForeignFileError(f"{path}: {name} is {tensor.dtype}; expected float32, float16 or bfloat16")
            if tuple(tensor.shape) == shape:
                continue
            if name == "node_bias" and tensor.dim() == 3 and tuple(tensor.shape[1:]) == shape[1:]:
                raise ForeignFileError(
                    f"{path} has {tensor.shape[0]:,} nodes, {vocab} has {nodes:,}: they do not belong together"
                )
            raise ForeignFileError(f"{path}: {name} has shape {list(tensor.shape)}; expected {list(shape)}")
        if rows < 1 or d < 2 or d % 2:
            raise ForeignFileError(f"{path}: weights have shape {list(found.weights.shape)}; expected an even width")
        return found

    @property
    def width(self) -> int:
        """d."""
        return int(self.weights.shape[1])

    @property
    def size_bytes(self) -> int:
        """Bytes of the four tensors."""
        tensors = (self.weights, self.biases, self.node_bias, self.positions)
        return sum(tensor.numel() * tensor.element_size() for tensor in tensors)

    def small(self, tensor: Tensor, name: str) -> Floats:
        """A copy of a small tensor as float32; `ForeignFileError` if a value is not finite."""
        values: Floats = tensor.to(torch.float32).numpy().copy()
        if not np.isfinite(values).all():
            raise ForeignFileError(f"{self.path}: {name} has values that are not finite numbers")
        return values

    def runs(self, store: Store) -> Iterator[tuple[int, dict[str, Tensor]]]:
        """Runs of pages, each as its first page and its values: slot s is row s + 1. A thread reads the next run."""
        firsts = range(0, store.pages, RUN_PAGES)
        with pool(1) as ahead:
            upcoming = deque([ahead.submit(self._read, first, store.slots) for first in firsts[:1]])
            for first, after in zip_longest(firsts, firsts[1:]):
                values = upcoming.popleft().result()
                if after is not None:
                    upcoming.append(ahead.submit(self._read, after, store.slots))
                yield first, values
                for tensor in (self.weights, self.biases):  # the mapped values, not a copy as float32
                    release(tensor[self._rows(first, store.slots)])

    def _rows(self, first: int, slots: int) -> slice:
        return slice(first * PAGE_EDGES + 1, min((first + RUN_PAGES) * PAGE_EDGES, slots) + 1)

    def _read(self, first: int, slots: int) -> dict[str, Tensor]:
        """The values of a run of pages, read from disk and checked to be finite."""
        rows, found = self._rows(first, slots), {}
        for name, tensor in (("edges/weight", self.weights), ("edges/bias", self.biases[:, 0])):
            values = tensor[rows].to(torch.float32).contiguous()
            if not math.isfinite(float(values.sum())):  # much faster than a check of each value
                fine = torch.isfinite(values).flatten(1).all(1)
                if not fine.all():
                    at = rows.start + int(fine.int().argmin())
                    raise ForeignFileError(f"{self.path}: row {at} of {name} has values that are not finite numbers")
            found[name] = values
        return found


def _check_rows(state: _Checkpoint, edges: int, *, nodes: int, frequency: str | Path | None) -> None:
    """Raise `ForeignFileError` if a checkpoint has not one row for each edge."""
    rows = int(state.weights.shape[0]) - 1
    if rows == edges:
        return
    if frequency is None:
        raise ForeignFileError(
            f"{state.path} has {rows:,} private edges, all pairs of {nodes:,} nodes are {edges:,}: "
            "name its frequency file with `frequency`"
        )
    raise ForeignFileError(
        f"{state.path} has {rows:,} private edges, {frequency} has {edges:,}: they do not belong together, "
        "and the rows would go to the wrong edges"
    )


# ---- the store


def _new_graph(state: _Checkpoint, edges: Edges, *, nodes: int, text: Tokenizer) -> NewGraph:
    """Everything except the pages. The counts of the pairs stand for those of the text, which is not there."""
    leaving = np.bincount(edges.source, weights=edges.count, minlength=nodes).astype(np.int64)
    arriving = np.bincount(edges.target, weights=edges.count, minlength=nodes).astype(np.int64)
    seen = edges.count > 0
    discounts = estimate_discounts(edges.count)
    taken = discount_of(edges.count, discounts)
    return NewGraph(
        tokenizer=text,
        counts=Counts(
            total=leaving,
            discounted=np.bincount(edges.source, weights=taken, minlength=nodes).astype(np.float64),
            predecessors=np.bincount(edges.target[seen], minlength=nodes).astype(np.int64),
            discounts=discounts,
        ),
        node_count=np.maximum(leaving, arriving),
        row_distinct=np.bincount(edges.source[seen], minlength=nodes).astype(np.int64),
        source=edges.source,
        target=edges.target,
        count=edges.count,
        node_bias=state.small(state.node_bias[:, 0], "node_bias"),
        alpha=state.small(state.positions[0, :, 0], "positions"),
        default_weight=state.small(state.weights[0], "weights"),
        default_bias=state.small(state.biases[0, 0], "biases"),
    )


def _build_settings(
    graph: NewGraph, edges: Edges, *, text: Tokenizer, sources: Sequence[str | Path | None]
) -> BuildSettings:
    """What stands for the options of a build. ``sources``: checkpoint, vocabulary, frequency and tokenizer files."""
    nodes = len(graph.node_count)
    given = ("checkpoint", "vocab", "frequency", "tokenizer")
    files = {name: Path(path).name for name, path in zip(given, sources, strict=True) if path is not None}
    return {
        "corpus": {"tokens": text.level == "tokens", "sources": []},
        "level": text.level,
        "vocab": nodes,
        "sparsify": len(edges) / nodes**2,
        "min_count": 1,
        "length": LENGTH,
        "holdout": HOLDOUT,
        "corpus_tokens": int(graph.counts.total.sum()),
        "heldout_tokens": 0,
        "distinct_pairs": int((edges.count > 0).sum()),
        "coverage": 1.0,
        "signal_preset": "brillm05",
        "imported": {"from": "brillm", **files},
    }
