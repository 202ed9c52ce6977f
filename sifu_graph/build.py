"""Building a graph: text -> tokens -> counts -> private edges -> the first commit of a new store.

It knows the order of these steps; each of them has its home in another module.
"""

from __future__ import annotations

import dataclasses
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from sifu_store.errors import OptionError
from sifu_store.layout import FIRST_VERSION
from sifu_store.store import Store

from sifu_graph._version import __version__
from sifu_graph.config import SignalConfig, preset
from sifu_graph.edge_index import EdgeIndex, dense_parameters, stored_parameters
from sifu_graph.ops.initial import EdgeInitializer
from sifu_graph.text.corpus import Corpus
from sifu_graph.text.encoded import encode_corpus
from sifu_graph.text.kneser_ney import Counts, discount_of, estimate_discounts
from sifu_graph.text.pair_counts import PairCounts, count_pairs, coverage, select_private
from sifu_graph.text.registry import train_tokenizer
from sifu_graph.text.tokenizer import LEVELS, SPECIAL, UNKNOWN, Tokenizer

Say = Callable[[str], None]
MOST_WIDTH = 1024  # a page of so wide edges takes 2 GiB
MOST_LENGTH = 1 << 16  # tokens in a chunk; every one has a mixing logit


@dataclass(frozen=True, slots=True)
class BuildReport:
    """What was built: the paper's Table 3 for this graph."""

    path: str
    nodes: int
    dense_parameters: int
    private_edges: int
    stored_parameters: int
    ratio: float
    coverage: float
    corpus_tokens: int
    heldout_tokens: int
    distinct_pairs: int
    unknown_share: float
    store_bytes: int
    seconds: float
    snapshot: str
    notes: list[str]


def build_graph(
    corpus: Corpus | Sequence[str | Path] | str | Path = "tang",
    path: str | Path = "graph.sifu",
    *,
    vocab: int = 4000,
    sparsify: float = 0.1,
    level: str = "char",
    width: int = 32,
    min_count: int = 1,
    length: int = 32,
    holdout: float = 0.01,
    init: Literal["counts", "uniform"] = "counts",
    signal: str | SignalConfig = "tuned",
    seed: int = 0,
    force: bool = False,
    command: str = "build-graph",
    say: Say | None = None,
) -> BuildReport:
    """Counts a corpus, picks the private edges and writes a new graph.

    Parameters
    ----------
    corpus
        Files, folders, ``-`` or names of shipped corpora (``tang``, ``wordnet``).
    path
        Where the store will be. It appears there only when it is complete.
    vocab
        Nodes, the two special ones included. A corpus with fewer distinct tokens gives fewer (see ``notes``).
    sparsify
        At most this share of all n * n ordered pairs become private, the most frequent first.
    level
        ``char``, ``bpe`` (byte-level) or ``tokens`` (lists of tokens, from .jsonl).
    width
        d, the width of the signal.
    min_count
        A private pair occurs at least so often.
    length
        Tokens in a chunk of text.
    holdout
        Share of the documents that is never counted and never trained on.
    init
        ``counts``: the new graph is a smoothed bigram model. ``uniform``: U(-0.5, 0.5), as in the paper.
    signal
        A preset's name, or settings.
    force
        Replace a store that is at ``path``.
    say
        Called with a line at the beginning of each step.

    Raises
    ------
    OptionError, CorpusError, StoreExistsError, StoreLockedError, DiskFullError
    """
    started = time.perf_counter()
    say = say or (lambda _: None)
    _check(
        vocab=vocab,
        sparsify=sparsify,
        level=level,
        width=width,
        min_count=min_count,
        length=length,
        init=init,
        seed=seed,
    )
    config = preset(signal) if isinstance(signal, str) else signal
    if isinstance(signal, str) and config.reset_after is not None:
        config = dataclasses.replace(config, reset_after=length - 1)  # where the chunks of the text end
    if not isinstance(corpus, Corpus):
        named = [corpus] if isinstance(corpus, (str, Path)) else list(corpus)
        corpus = Corpus(named or ["tang"], tokens=level == "tokens")
    with Store.create(path, force=force) as store:
        say("reading the corpus: which tokens are most frequent")
        tokenizer = train_tokenizer(corpus.training(holdout=holdout), level=level, vocab=vocab)
        nodes = len(tokenizer)
        notes = []
        if nodes < vocab:
            notes.append(
                f"the corpus has {nodes - len(SPECIAL):,} distinct tokens: {nodes:,} nodes instead of {vocab:,}"
            )
        say(f"encoding it with {nodes:,} nodes")
        target = Path(path).resolve()  # named as the store under construction: if we are killed, the next build sweeps
        prefix = f".{target.name}.building-{os.getpid()}-"
        with tempfile.TemporaryDirectory(dir=target.parent, prefix=prefix) as scratch:
            tokens = encode_corpus(corpus, tokenizer, directory=Path(scratch), holdout=holdout)
            say(f"counting the pairs of {tokens.train.tokens:,} tokens")
            counts = count_pairs(tokens, n=nodes)
            private = select_private(counts, sparsify=sparsify, min_count=min_count)
            say(f"writing {int(private.sum()):,} private edges")
            covered = coverage(counts, private)
            build = {
                "corpus": corpus.record(),
                "level": level,
                "vocab": vocab,
                "sparsify": sparsify,
                "min_count": min_count,
                "length": length,
                "holdout": holdout,
                "corpus_tokens": tokens.train.tokens,
                "heldout_tokens": tokens.heldout.tokens,
                "distinct_pairs": len(counts),
                "coverage": covered,
                "signal_preset": signal if isinstance(signal, str) else None,
            }
            _write(store, tokenizer, config, counts, private, build, width=width, init=init, seed=seed)
            edges = int(private.sum())
            snapshot = store.commit(
                f"build: {nodes:,} nodes, {edges:,} private edges",
                command=command,
                changes={"nodes": nodes, "private_edges": edges, "coverage": covered},
            )
            shutil.move(scratch, store.path / "cache")
        known = int(counts.node_count[len(SPECIAL) :].sum())
        unknown = float(counts.node_count[UNKNOWN]) / max(1, int(counts.node_count[UNKNOWN]) + known)
        return BuildReport(
            path=str(path),
            nodes=nodes,
            dense_parameters=dense_parameters(nodes, width),
            private_edges=edges,
            stored_parameters=stored_parameters(nodes, edges, width),
            ratio=stored_parameters(nodes, edges, width) / dense_parameters(nodes, width),
            coverage=covered,
            corpus_tokens=tokens.train.tokens,
            heldout_tokens=tokens.heldout.tokens,
            distinct_pairs=len(counts),
            unknown_share=unknown,
            store_bytes=store.size_bytes(),
            seconds=time.perf_counter() - started,
            snapshot=snapshot,
            notes=notes,
        )


def _check(
    *, vocab: int, sparsify: float, level: str, width: int, min_count: int, length: int, init: str, seed: int
) -> None:
    if vocab <= len(SPECIAL):
        raise OptionError(f"vocab is {vocab}: it must be above {len(SPECIAL)}, the number of special nodes")
    if not 0 <= sparsify <= 1:
        raise OptionError(f"sparsify is {sparsify}: it must lie in [0, 1]")
    if level not in LEVELS:
        raise OptionError(f"no level {level!r}; there are {', '.join(LEVELS)}")
    if not 2 <= width <= MOST_WIDTH or width % 2:
        raise OptionError(f"width is {width}: it must be an even number from 2 to {MOST_WIDTH:,}")
    if min_count < 1:
        raise OptionError(
            f"min-count is {min_count}: it must be at least 1 (a pair that never occurs is never private)"
        )
    if not 2 <= length <= MOST_LENGTH:
        raise OptionError(f"length is {length}: it must be from 2 to {MOST_LENGTH:,} tokens")
    if seed < 0:
        raise OptionError(f"seed is {seed}: it must be 0 or more")
    if init not in ("counts", "uniform"):
        raise OptionError(f"no initialisation {init!r}; there are counts, uniform")


def _write(
    store: Store,
    tokenizer: Tokenizer,
    config: SignalConfig,
    counts: PairCounts,
    private: np.ndarray,
    build: dict[str, Any],
    *,
    width: int,
    init: Literal["counts", "uniform"],
    seed: int,
) -> None:
    """Everything of a new graph, into the store's first commit. Edge parameters need no byte: pages are lazy."""
    nodes = len(tokenizer)
    discounts = estimate_discounts(counts.count)
    taken = discount_of(counts.count, discounts)
    known = Counts(
        total=counts.row_total,
        discounted=np.bincount(counts.source, weights=taken, minlength=nodes).astype(np.float64),
        predecessors=np.bincount(counts.target, minlength=nodes),
        discounts=discounts,
    )
    source, target, count = counts.source[private], counts.target[private], counts.count[private]
    index = EdgeIndex.from_slots(nodes, source, target, count)
    initial = EdgeInitializer.create(
        method=init, seed=seed, config=config, width=width, length=build["length"], index=index,
        slots=len(source), counts=known,
    )  # fmt: skip
    default_W, default_b = initial.default()
    vocabulary = [{"token": token, "kind": "text"} for token in tokenizer.vocabulary]
    store.write_json("nodes/vocabulary", vocabulary)
    store.write_json("nodes/tokenizer", tokenizer.to_json())
    store.write("nodes/count", counts.node_count)
    store.write("nodes/bias", initial.node_bias())
    store.write("nodes/predecessors", known.predecessors.astype(np.int64))
    store.write("rows/total", known.total)
    store.write("rows/distinct", counts.row_distinct)
    store.write("rows/discounted", known.discounted)
    store.write("edges/source", source)
    store.write("edges/target", target)
    store.write("edges/count", count)
    store.write("signal/alpha", (config.recency * np.arange(build["length"])).astype(np.float32))
    store.write("signal/scale", np.ones(1, np.float32))
    store.write("default/weight", default_W)
    store.write("default/bias", default_b)
    store.create_paged("edges/weight", (width, width), np.float32)
    store.create_paged("edges/bias", (width,), np.float32)
    store.write("pages/stored", np.zeros(store.pages, np.uint8))
    store.set_settings(
        {
            "format_version": FIRST_VERSION,
            "created_by": f"sifu-graph {__version__}",
            "nodes": nodes,
            "width": width,
            "signal": config.to_json(),
            "initial": {"method": init, "seed": seed, "discounts": list(discounts)},
            "build": build,
            "training": None,
        }
    )
