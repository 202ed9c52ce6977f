"""The measures taken inside one process: training speed, decoding speed, a long generation.

Each is given a built graph, brings all of it into memory and writes to every page, since a page that was never
written is backed by one shared page of zeros and is read faster than real memory. Limits of the machine are measured
in the same process, before and after: a matrix product's higher one counts; reading is measured between stretches of
decoding, since other users of a shared machine come and go.
"""

from __future__ import annotations

import dataclasses
import time
from dataclasses import dataclass
from pathlib import Path

import machine
import numpy as np
import psutil
import torch
from report import Line, giga, mib, percent
from sizes import Sizes

from sifu_graph.config import OptimizerConfig
from sifu_graph.generation.sampler import Sampler
from sifu_graph.generation.stream import GenerateOptions, stream
from sifu_graph.generation.walk import Walk
from sifu_graph.graph import Graph
from sifu_graph.paging.edge_pool import EdgePool
from sifu_graph.text.batches import Batches
from sifu_graph.text.tokenizer import UNKNOWN
from sifu_graph.training import step as steps
from sifu_graph.training.options import DEFAULT_BATCH

PIECE = 4096  # edges filled at a time
NOISE = 1e-3  # standard deviation of what is added to every weight: too little to change what the graph predicts
PROMPT = "春風"

TRAINING_SHARE, DECODING_SHARE = 0.20, 0.60
GROWTH_BYTES, SLOWDOWN = 20e6, 0.95
STRETCH_S = 0.5


def materialise(pool: EdgePool) -> None:
    """Brings every page into memory and writes to it; the optimizer's state too."""
    pool.require(np.arange(pool.slots))
    noise = NOISE * torch.randn(PIECE, *pool.W.shape[1:])
    for begin in range(0, pool.slots, PIECE):
        weight = pool.W[begin : begin + PIECE]
        weight += noise[: len(weight)]
    for name, array in pool.arrays.items():
        if name.startswith("optimizer/"):
            array.zero_()


# ---- training


@dataclass(frozen=True, slots=True)
class Pace:
    """What a stretch of training did."""

    positions: int
    flops: float  # of the three matrix products of every position with its row
    seconds: float
    steps: int
    extra_bytes: int | None  # greatest memory of a step beyond parameters and optimizer state; None: unknown
    naive_bytes: float  # what the candidates' signals of one batch would take, were they all held at once


def pace(graph: Graph, batches: Batches, *, seconds: float) -> Pace:
    """Trains for a while, in memory only: nothing is read from the store or committed."""
    parameters, optimizer = graph.parameters, OptimizerConfig()
    d, sizes = parameters.width, parameters.index.row_sizes()

    def one(at: int) -> tuple[int, float]:
        batch = batches.batch_at(at)
        lengths = batch.lengths.astype(np.int64)
        _, seen = steps.train(parameters, graph.signal, optimizer, batch.tokens, lengths, step=at + 1)
        inner = np.arange(batch.tokens.shape[1] - 1) < lengths[:, None] - 1  # [B, L - 1]
        return seen, float(sizes[batch.tokens[:, :-1][inner]].sum())

    one(0)  # the kernel is compiled, buffers are allocated
    before = _reset_peak()
    positions = done = 0
    edges = 0.0
    start = time.perf_counter()
    while not done or time.perf_counter() - start < seconds:
        done += 1
        seen, met = one(done)
        positions, edges = positions + seen, edges + met
    elapsed = time.perf_counter() - start
    peak = _peak()
    extra = peak - before if peak is not None and before is not None else None
    return Pace(positions, 3 * 2 * edges * d * d, elapsed, done, extra, edges / done * d * 4)


def training(store: Path, sizes: Sizes) -> list[Line]:
    """Exact softmax, with the default batch and with a large one."""
    lines = []
    with Graph.open(store) as graph:
        pool = graph.parameters.edges
        pool.configure(state=steps.edge_state_arrays(OptimizerConfig(), graph.parameters.width))
        materialise(pool)
        split = graph._tokens().train
        rate = machine.matrix_flops()
        for chunks, goal in ((min(DEFAULT_BATCH, sizes.large_batch), False), (sizes.large_batch, True)):
            batches = Batches(split, length=graph.settings["build"]["length"], batch=chunks, seed=1)
            found = pace(graph, batches, seconds=sizes.training_s)
            rate = max(rate, machine.matrix_flops())
            speed, share = found.positions / found.seconds, found.flops / found.seconds / rate
            bound = found.positions / (found.flops / rate)
            memory = "" if found.extra_bytes is None else f"; {mib(found.extra_bytes)} beyond the parameters"
            lines.append(
                Line(
                    measure=f"training, exact softmax, batches of {chunks} chunks "
                    f"({found.positions / found.steps:,.0f} positions)",
                    must="at least 20 % of the matrix-product limit, in bounded memory" if goal else "",
                    measured=f"{speed:,.0f} tokens/s{memory} (all candidates at once: {mib(found.naive_bytes)})",
                    limit=f"{percent(share)} of {bound:,.0f} tokens/s: three products at {giga(rate)} GFLOP/s",
                    met=share >= TRAINING_SHARE if goal else None,
                    figures={
                        "tokens_per_s": speed,
                        "share": share,
                        "matrix_flops": rate,
                        "steps": found.steps,
                        "positions": found.positions,
                        "extra_bytes": found.extra_bytes,
                        "all_candidates_bytes": found.naive_bytes,
                    },
                )
            )
    return lines


def _reset_peak() -> int | None:
    """Starts a new high-water mark of resident memory (Linux). Returns the resident bytes now."""
    try:
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    except OSError:
        return None
    return int(psutil.Process().memory_info().rss)


def _peak() -> int | None:
    """The high-water mark in bytes."""
    try:
        text = Path("/proc/self/status").read_text(encoding="ascii")
    except OSError:
        return None
    return next((int(line.split()[1]) * 1024 for line in text.splitlines() if line.startswith("VmHWM")), None)


# ---- decoding


@dataclass(frozen=True, slots=True)
class Stretch:
    """Decoding for a moment, and the machine at that moment."""

    positions: int
    row_bytes: int
    seconds: float
    read: float  # bytes a second that memory gave, the mean of just before and just after


def decoding(store: Path, sizes: Sizes) -> list[Line]:
    """Greedy: along held-out text (every row as often as text meets it), and a free run."""
    with Graph.open(store) as graph:
        parameters = graph.parameters
        materialise(parameters.edges)
        d, row_sizes = parameters.width, parameters.index.row_sizes()
        walk = Walk(parameters, graph.signal, forbidden=[UNKNOWN])
        sampler, rng = Sampler(temperature=0.0), np.random.default_rng(0)
        split = graph._tokens().heldout

        def along(document: int) -> tuple[int, int]:
            """At every position: the contest over the whole row and its winner; then on to the token of the text.

            Returns the positions, and the private edges of their rows.
            """
            ids = split.document(document).tolist()
            walk.start(ids[0])
            for node in ids[1:]:
                walk.choose(sampler, rng)
                walk.carry(node)
            return len(ids) - 1, int(row_sizes[ids[:-1]].sum())

        for document in range(min(5, split.documents)):
            along(document)
        reader = machine.Reader()
        document, stretches = 0, []
        before = reader.now()
        while sum(stretch.positions for stretch in stretches) < sizes.decoding_tokens:
            positions = edges = 0
            start = time.perf_counter()
            while time.perf_counter() - start < STRETCH_S:
                here, met = along(document % split.documents)
                positions, edges, document = positions + here, edges + met, document + 1
            elapsed, after = time.perf_counter() - start, reader.now()
            stretches.append(Stretch(positions, edges * (d * d + d) * 4, elapsed, (before + after) / 2))
            before = after
        free = stream(graph, _prompt(graph), GenerateOptions(greedy=True, tokens=sizes.greedy_tokens))
        start = time.perf_counter()
        for _ in free:
            pass
        free_speed = free.tokens / (time.perf_counter() - start)
    positions = sum(stretch.positions for stretch in stretches)
    row_bytes = sum(stretch.row_bytes for stretch in stretches)
    elapsed = sum(stretch.seconds for stretch in stretches)
    speed, rate = positions / elapsed, row_bytes / elapsed
    edges_per_row = row_bytes / positions / ((d * d + d) * 4)
    share = float(np.median([stretch.row_bytes / stretch.seconds / stretch.read for stretch in stretches]))
    read = float(np.median([stretch.read for stretch in stretches]))
    return [
        Line(
            measure=f"decoding, greedy, along {positions:,} tokens of held-out text, {edges_per_row:,.0f} private "
            f"edges a row",
            must="at least 60 % of the memory-bandwidth limit",
            measured=f"{speed:,.0f} tokens/s, {giga(rate)} GB/s of rows",
            limit=f"{percent(share)} of what memory gives just before and after (median of {len(stretches)} stretches; "
            f"{giga(read)} GB/s, {giga(reader.best)} at best)",
            met=share >= DECODING_SHARE,
            figures={
                "tokens_per_s": speed,
                "bytes_per_s": rate,
                "read_bytes_per_s": read,
                "best_read_bytes_per_s": reader.best,
                "share": share,
                "edges_per_row": edges_per_row,
                "stretches": [dataclasses.astuple(stretch) for stretch in stretches],
            },
        ),
        Line(
            measure=f"generation, greedy, {free.tokens:,} tokens",
            must="",
            measured=f"{free_speed:,.0f} tokens/s",
            figures={"tokens_per_s": free_speed},
        ),
    ]


def _prompt(graph: Graph) -> str:
    """A prompt that the graph knows: the usual one, or its most frequent nodes."""
    if not graph.tokenizer.unknown_characters(PROMPT):
        return PROMPT
    return "".join(graph.tokenizer.vocabulary[2:4])


# ---- a long generation


def long_generation(store: Path, sizes: Sizes) -> list[Line]:
    """Sampled text, ten equal parts: memory after the first and after the last, speed in the first and in the last.

    Every page of the graph is in memory and written before the first token, so that growth is what generation
    itself holds on to.
    """
    part = sizes.long_tokens // 10
    with Graph.open(store) as graph:
        materialise(graph.parameters.edges)
        for _ in stream(graph, _prompt(graph), GenerateOptions(tokens=max(1, part // 10), seed=0)):
            pass  # the kernel is compiled, buffers are allocated
        process = psutil.Process()
        pieces = stream(graph, _prompt(graph), GenerateOptions(tokens=10 * part, seed=1))
        memory, speeds = [], []
        for end in range(part, 10 * part + 1, part):
            before, start = pieces.tokens, time.perf_counter()
            for _ in pieces:
                if pieces.tokens >= end:
                    break
            speeds.append((pieces.tokens - before) / (time.perf_counter() - start))
            memory.append(process.memory_info().rss)
    growth, ratio = memory[-1] - memory[0], speeds[-1] / speeds[0]
    return [
        Line(
            measure=f"{pieces.tokens:,} tokens generated, sampled; the last {part:,} against the first",
            must="memory within 20 MB, as fast",
            measured=f"{growth / 1e6:+.1f} MB; {speeds[-1]:,.0f} against {speeds[0]:,.0f} tokens/s ({percent(ratio)})",
            met=abs(growth) <= GROWTH_BYTES and ratio >= SLOWDOWN,
            figures={"rss_bytes": memory, "tokens_per_s": speeds},
        )
    ]
