"""Building a graph: text -> tokens -> counts -> private edges -> the first commit of a new store.

It knows the order of these steps; each of them has its home in another module.
"""

from __future__ import annotations

import dataclasses
import math
import os
import shutil
import tempfile
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from sifu_store.errors import OptionError
from sifu_store.layout import FIRST_VERSION, REPEAT_VERSION
from sifu_store.short_repr import short_repr
from sifu_store.store import Store

from sifu_graph.arguments import checked
from sifu_graph.arrays import Bools, bincount, blocks
from sifu_graph.config import SignalConfig, preset, require_seed
from sifu_graph.disk_arrays import DiskArrays
from sifu_graph.edge_index import base_parameters, dense_parameters, stored_parameters
from sifu_graph.kernels.native import slow_reason
from sifu_graph.model.index_file import index_file, is_large
from sifu_graph.model.new_graph import NewGraph, write_new_graph
from sifu_graph.ops.initial import EdgeInitializer
from sifu_graph.ops.origins import StoredOrigins
from sifu_graph.ops.pair_model import PairModel
from sifu_graph.progress import ProgressOption, Stages
from sifu_graph.progress_bar import reporting
from sifu_graph.settings import MOST_LENGTH, MOST_WIDTH, BuildSettings, InitialSettings, read_settings
from sifu_graph.text.clones import CloneCounts, choose
from sifu_graph.text.corpus import Corpora, Corpus
from sifu_graph.text.encoded import CACHE, TokenFile, encode_corpus
from sifu_graph.text.in_memory import chosen
from sifu_graph.text.kept_texts import keep_copies
from sifu_graph.text.kneser_ney import Counts, discount_of, estimate_discounts
from sifu_graph.text.pair_counts import PairCounts, count_pairs, coverage, select_private
from sifu_graph.text.registry import train_tokenizer
from sifu_graph.text.tokenizer import SPECIAL, UNKNOWN, Tokenizer, require_level
from sifu_graph.text.unknown import unknown_note

WIDTH = 32  # of the paper
BASE_WIDTH = 48
"""Of a graph whose edges share a base, on Tang and Song poems with 4,000 nodes, two cores: after 2 minutes the held-out
perplexity was 130.9 with 32 (60,000 tokens/s), 128.9 with 48 (39,500) and 129.2 with 64 (28,700)."""
LEAST_COVERAGE, GOOD_COVERAGE = 0.8, 0.95
"""Of the pairs in the text by private edges: a note says where it is below the first, and how to get the second."""
CLONES, CLONE_TOKENS = 500_000, 10
"""By default there are at most `CLONES` clones, or one for every `CLONE_TOKENS` tokens of the text, if that is more."""


@short_repr
@dataclass(frozen=True, slots=True)
class BuildReport:
    """What was built: the paper's Table 3 for this graph."""

    path: str
    nodes: int
    dense_parameters: int
    private_edges: int
    stored_parameters: int
    base_parameters: int | None  # of what all edges share; None: every edge stands alone
    ratio: float
    coverage: float
    corpus_tokens: int
    heldout_tokens: int
    distinct_pairs: int
    clones: int
    unknown_share: float
    store_bytes: int
    seconds: float
    snapshot: str
    notes: list[str]


@dataclass(frozen=True, slots=True, kw_only=True)
class BuildOptions:
    """The options of a build, as `build_graph` describes them.

    Raises
    ------
    OptionError
        A value has no meaning.
    """

    vocab: int
    sparsify: float
    level: str
    lowercase: bool
    width: int
    min_count: int
    length: int
    holdout: float
    init: Literal["counts", "uniform"]
    seed: int
    clones: int | None

    def __post_init__(self) -> None:
        if self.vocab <= len(SPECIAL):
            raise OptionError(f"`vocab` is {self.vocab}: it must be above {len(SPECIAL)}, the number of special nodes")
        if not 0 <= self.sparsify <= 1:
            raise OptionError(f"`sparsify` is {self.sparsify}: expected a number from 0 to 1")
        require_level(self.level, lowercase=self.lowercase)
        if not 2 <= self.width <= MOST_WIDTH or self.width % 2:
            raise OptionError(f"`width` is {self.width}: it must be an even number from 2 to {MOST_WIDTH:,}")
        if self.min_count < 1:
            raise OptionError(
                f"`min_count` is {self.min_count}: it must be at least 1 (a pair that never occurs is never private)"
            )
        if not 2 <= self.length <= MOST_LENGTH:
            raise OptionError(f"`length` is {self.length}: it must be from 2 to {MOST_LENGTH:,} tokens")
        if self.clones is not None and self.clones < 0:
            raise OptionError(f"`clones` is {self.clones}: it must be 0 or more")
        require_seed(self.seed)
        if self.init not in ("counts", "uniform"):
            raise OptionError(f"`init` is {self.init!r}: expected counts or uniform")


@checked
def build_graph(
    corpus: Corpora | None = None,
    path: str | Path = "graph.sifu",
    *,
    texts: Iterable[str | Sequence[str]] | None = None,
    vocab: int = 4000,
    sparsify: float = 0.1,
    level: str = "char",
    lowercase: bool = False,
    width: int | None = None,
    min_count: int = 1,
    length: int = 32,
    holdout: float = 0.01,
    init: Literal["counts", "uniform"] = "counts",
    signal: str | SignalConfig = "recurrent",
    clones: int | None = None,
    seed: int = 0,
    force: bool = False,
    command: str = "build-graph",
    progress: ProgressOption = None,
) -> BuildReport:
    """Counts a corpus, picks the private edges and writes a new graph.

    Parameters
    ----------
    corpus
        Files, folders, ``-`` or names of shipped corpora (``tang``, ``wordnet``), or a `Corpus`, which says how they
        are read: what a document is, which files of a folder, which column. None: ``tang``.
    path
        Where the store will be. It appears there only when it is complete.
    texts
        Texts in memory instead of ``corpus``: any iterable of them, such as a list or a column of a table; at the level
        ``tokens``, lists of tokens. Each is a document.
    vocab
        Nodes, the two special ones included. A corpus with fewer distinct tokens gives fewer (see ``notes``).
    sparsify
        At most this share of all n * n ordered pairs become private, the most frequent first.
    level
        ``char``, ``word`` (words and punctuation), ``bpe`` (byte-level) or ``tokens`` (lists of tokens, from .jsonl).
    lowercase
        Level ``word`` reads upper-case letters as lower-case ones, and writes lower-case ones.
    width
        d, the width of the signal. None: `WIDTH`, or `BASE_WIDTH` where all edges share a base.
    min_count
        Minimum count of a pair for a private edge.
    length
        Tokens in a chunk of text.
    holdout
        Share of the documents that is never counted and never trained on.
    init
        ``counts``: the new graph is a smoothed bigram model. ``uniform``: U(-0.5, 0.5), as in the paper.
    signal
        The name of a preset (``recurrent``, ``tuned``, ``paper``, ``paper-v1`` or ``brillm05``: ``help(sifu_graph)``
        says what they are), or a `SignalConfig`.
    clones
        Nodes that are split by the nodes before them, where all edges share a base: at most this number, those that
        predict the text best. None: `CLONES` or one for every `CLONE_TOKENS` tokens there, none elsewhere.
    seed
        Of the random numbers, 0 or more.
    force
        Replace a store that is at ``path``.
    command
        What the history records as the command.
    progress
        How far it is: a callback, called with a `ProgressReport` ten times a second at most. None: a bar, where a
        person looks (in a terminal or a notebook). True: elsewhere lines on stderr, too. False: nothing.

    Returns
    -------
    BuildReport
        Numbers of nodes, edges and tokens, the share of unknown tokens (0 to 1), bytes, seconds, and ``notes``.

    Raises
    ------
    OptionError, CorpusError, StoreExistsError, StoreLockedError, DiskFullError
        A value has no meaning, a text cannot be read, or the store cannot be written there.

    Examples
    --------
    >>> build_graph("notes/", "notes.sifu", level="word", lowercase=True)       # doctest: +SKIP
    >>> build_graph(texts=["one text", "another"], path="two.sifu").notes       # doctest: +SKIP
    """
    named = signal if isinstance(signal, str) else None
    config = preset(signal) if isinstance(signal, str) else signal
    options = BuildOptions(
        vocab=vocab,
        sparsify=sparsify,
        level=level,
        lowercase=lowercase,
        width=(BASE_WIDTH if config.base else WIDTH) if width is None else width,
        min_count=min_count,
        length=length,
        holdout=holdout,
        init=init,
        seed=seed,
        clones=clones,
    )
    if options.clones and not config.base:
        raise OptionError('`clones`: only a graph whose edges share a base has them (`signal="recurrent"`)')
    if config.base and init != "counts":
        raise OptionError(
            f"`init` is {init!r}: a graph whose edges share a base begins with the counts; `signal` chooses another"
        )
    if named is not None and config.reset_after is not None:
        config = dataclasses.replace(config, reset_after=length - 1)  # where the chunks of the text end
    corpus = chosen(corpus, texts, tokens=level == "tokens")
    if not isinstance(corpus, Corpus):
        corpus = Corpus(corpus or "tang")
    corpus = corpus.settled(tokens=level == "tokens")
    with Store.create(path, force=force) as store, reporting(progress) as stages:
        return _build(store, str(path), corpus, config, named, options, command=command, stages=stages)


def _build(
    store: Store,
    path: str,
    corpus: Corpus,
    config: SignalConfig,
    named: str | None,
    options: BuildOptions,
    *,
    command: str,
    stages: Stages,
) -> BuildReport:
    """Counts the corpus, writes the graph and commits. ``named``: the preset of ``config``, if it is one."""
    started = time.perf_counter()
    unit = "" if corpus.tokens else f" (a document is {corpus.unit})"
    documents = corpus.training(holdout=options.holdout, stages=stages, what=f"reading the corpus{unit}")
    tokenizer = train_tokenizer(
        documents, level=options.level, vocab=options.vocab, lowercase=options.lowercase, stages=stages
    )
    nodes = len(tokenizer)
    target = store.path  # named as the store under construction: after a kill, the next build removes it
    prefix = f".{target.name}.building-{os.getpid()}-"
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=prefix) as scratch:
        tokens = encode_corpus(corpus, tokenizer, directory=Path(scratch), holdout=options.holdout, stages=stages)
        keep_copies(corpus, Path(scratch))
        arrays = DiskArrays(Path(scratch))
        counts = count_pairs(tokens, n=nodes, arrays=arrays, stages=stages)
        private = select_private(counts, sparsify=options.sparsify, min_count=options.min_count)
        edges, covered = int(private.sum()), coverage(counts, private)
        asked, split = options.clones, None
        if asked is None:
            asked = max(CLONES, tokens.train.tokens // CLONE_TOKENS) if config.base else 0
        if asked:
            split = choose(tokens.train, counts, clones=asked, arrays=arrays, stages=stages)
        stages.stage(f"writing {edges:,} private edges")
        graph = _new_graph(tokenizer, config, counts, private, split, options=options, arrays=arrays)
        clones = 0 if split is None else len(split.tree)
        made = {"clones": clones} if clones else {}
        build: BuildSettings = {
            "corpus": corpus.record(),
            "level": options.level,
            "vocab": options.vocab,
            "sparsify": options.sparsify,
            "min_count": options.min_count,
            "length": options.length,
            "holdout": options.holdout,
            "corpus_tokens": tokens.train.tokens,
            "heldout_tokens": tokens.heldout.tokens,
            "distinct_pairs": len(counts),
            "coverage": covered,
            "signal_preset": named,
        }
        if config.base:
            build["clones"] = asked
        if options.lowercase:
            build["lowercase"] = True
        write_new_graph(
            store,
            graph,
            signal=config,
            initial=_initial_settings(options, graph, config),
            build=build,
            format_version=REPEAT_VERSION if config.base else FIRST_VERSION,
        )
        snapshot = store.commit(
            f"build: {nodes:,} nodes, {edges:,} private edges" + (f", {clones:,} clones" if clones else ""),
            command=command,
            changes={"nodes": nodes, "private_edges": edges, "coverage": covered} | made,
        )
        shutil.move(scratch, store.path / CACHE)
    if is_large(store.slots):
        stages.stage(f"sorting {edges:,} edges")
        index_file(store, read_settings(store))
    seconds = time.perf_counter() - started
    return _report(
        path, store, tokens, counts, options, base=config.base, private=private, clones=clones, seconds=seconds,
        snapshot=snapshot, corpus_notes=corpus.notes,
    )  # fmt: skip


def _report(
    path: str,
    store: Store,
    tokens: TokenFile,
    counts: PairCounts,
    options: BuildOptions,
    *,
    base: bool,
    private: Bools,
    clones: int,
    seconds: float,
    snapshot: str,
    corpus_notes: list[str],
) -> BuildReport:
    nodes, edges = counts.n, int(private.sum())
    dense = dense_parameters(nodes, options.width, base=base)
    stored = stored_parameters(nodes, edges, options.width, base=base)
    known = int(counts.node_count[len(SPECIAL) :].sum())
    unknown = int(counts.node_count[UNKNOWN])
    unknown_share = unknown / max(1, unknown + known)
    return BuildReport(
        path=path,
        nodes=nodes,
        dense_parameters=dense,
        private_edges=edges,
        stored_parameters=stored,
        base_parameters=base_parameters(nodes, options.width) if base else None,
        ratio=stored / dense,
        coverage=coverage(counts, private),
        corpus_tokens=tokens.train.tokens,
        heldout_tokens=tokens.heldout.tokens,
        distinct_pairs=len(counts),
        clones=clones,
        unknown_share=unknown_share,
        store_bytes=store.size_bytes(),
        seconds=seconds,
        snapshot=snapshot,
        notes=[
            *corpus_notes,
            *_notes(tokens, counts, private, options, clones=clones, unknown_share=unknown_share),
        ],
    )


def _notes(
    tokens: TokenFile, counts: PairCounts, private: Bools, options: BuildOptions, *, clones: int, unknown_share: float
) -> list[str]:
    """What is to be said about a new graph."""
    notes, nodes = [], counts.n
    if nodes < options.vocab:
        found = nodes - len(SPECIAL)
        notes.append(f"the corpus has {found:,} distinct tokens: {nodes:,} nodes instead of {options.vocab:,}")
    if options.clones is not None and clones < options.clones:
        notes.append(f"{clones:,} clones instead of {options.clones:,}: no other context predicts the text better")
    if options.holdout and not tokens.heldout.transitions:
        documents = tokens.documents
        notes.append(
            f"nothing is held out: a share of {options.holdout:g} of {documents:,} document"
            f"{'s' * (documents != 1)} is none, so that the graph has no perplexity: `holdout={_share_for(documents)}` "
            "holds out some, or evaluate on another text"
        )
    if (note := unknown_note(unknown_share)) is not None:
        notes.append(f"{note}: `vocab={options.vocab * 2}` makes fewer unknown")
    if (note := slow_reason(options.width)) is not None:
        notes.append(note)
    covered = coverage(counts, private)
    asked = int((counts.count >= options.min_count).sum())
    if covered < LEAST_COVERAGE and int(private.sum()) < asked:
        share = min(1.0, math.ceil(1000 * counts.pairs_for(GOOD_COVERAGE) / nodes**2) / 1000)
        notes.append(
            f"only {covered:.1%} of the pairs in the text have a private edge with `sparsify={options.sparsify:g}`; "
            f"`sparsify={share:g}` gives one to {GOOD_COVERAGE:.0%}"
        )
    return notes


def _share_for(documents: int) -> float:
    """A share of the documents to hold out that is likely to be some of them."""
    return 0.5 if documents < 10 else 0.1 if documents < 100 else 0.05


def _new_graph(
    tokenizer: Tokenizer,
    config: SignalConfig,
    counts: PairCounts,
    private: Bools,
    clones: CloneCounts | None,
    *,
    options: BuildOptions,
    arrays: DiskArrays,
) -> NewGraph:
    """The arrays of the graph with these private edges, a mask of the pairs [pairs]."""
    discounts = estimate_discounts(counts.count)
    discounted = np.zeros(counts.n)
    for block in blocks(len(counts)):
        taken = discount_of(counts.count[block], discounts)
        discounted += np.bincount(counts.source[block], weights=taken, minlength=counts.n)
    known = Counts(
        total=counts.row_total,
        discounted=discounted,
        predecessors=bincount(counts.target, counts.n).astype(np.int64),
        discounts=discounts,
    )
    source, target, count = (arrays.chosen(side, private) for side in (counts.source, counts.target, counts.count))
    initial = EdgeInitializer.create(
        method=options.init,
        seed=options.seed,
        config=config,
        width=options.width,
        length=options.length,
        nodes=counts.n,
        keys=counts.n + 1,
        origins=StoredOrigins(np.empty((0, 2), np.int32), np.empty(0, np.float32)),
    )
    default_weight, default_bias = initial.default()
    node_bias, base = initial.node_bias(), {}
    if config.base:
        from sifu_graph.model.base import initial_arrays  # imported here: it loads torch

        base = initial_arrays(counts.n, options.width, seed=options.seed)
        default_weight, node_bias = base.pop("default/weight"), base.pop("nodes/bias")
    return NewGraph(
        tokenizer=tokenizer,
        counts=known,
        node_count=counts.node_count,
        row_distinct=counts.row_distinct,
        source=source,
        target=target,
        count=count,
        node_bias=node_bias,
        alpha=(config.recency * np.arange(options.length)).astype(np.float32),
        default_weight=default_weight,
        default_bias=default_bias,
        pairs=PairModel.of(counts, clones) if config.base else None,
        gain=np.empty(0, np.float32) if clones is None else clones.gain,
        base=base,
    )


def _initial_settings(options: BuildOptions, graph: NewGraph, config: SignalConfig) -> InitialSettings:
    found: InitialSettings = {
        "method": options.init,
        "seed": options.seed,
        "discounts": list(graph.counts.discounts),
    }
    if config.base:  # its edges have keys from the beginning
        nodes = len(graph.node_count)
        found |= {"nodes": nodes, "keys": nodes + 1}
    if graph.pairs is not None and len(graph.pairs.tree):
        found["pair_discounts"] = [list(level) for level in graph.pairs.discounts]
    return found
