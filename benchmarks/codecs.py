"""``python benchmarks/codecs.py``: pages that are rounded and compressed, and decoding with rows of two bytes.

``pages``: trains a graph, stores it in several ways, and prints a table of sizes, times and perplexities. ``decoding``:
fills the rows of a graph with random values and decodes with float32 and bfloat16 in turns, in one process.
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from sifu_store.layout import WEIGHT

from sifu_graph import Graph, build_graph
from sifu_graph.generation.sampler import Sampler
from sifu_graph.generation.walk import Walk

WAYS = (
    ("float32", "none"), ("float32", "zstd"), ("float32", "blosc"), ("float32", "pcodec"), ("bitround:12", "blosc"),
    ("bfloat16", "blosc"), ("bfloat16", "pcodec"),
)  # fmt: skip
TOKENS = 300


def seconds(what: Callable[[], object]) -> float:
    """How long a function takes."""
    began = time.perf_counter()
    what()
    return time.perf_counter() - began


def read_all(graph: Graph) -> None:
    """Reads all pages of W and b, as a command does that needs them."""
    graph._fit_memory()
    pool = graph.parameters.edges
    pool.require(np.arange(pool.slots))


def first_text(store: Path) -> None:
    """Generates 100 tokens in a new process."""
    command = [sys.executable, "-m", "sifu_cli", "generate", "春", "--tokens", "100", "--seed", "1", "-q"]
    subprocess.run([*command, "--store", str(store)], check=True, stdout=subprocess.DEVNULL)


def pages(work: Path, *, vocab: int, minutes: float, limit: int) -> None:
    """The table of codecs."""
    store, copy = work / "trained.sifu", work / "copy.sifu"
    build_graph(None, store, vocab=vocab, signal="tuned", force=True)
    with Graph.open(store) as graph:
        graph.train(minutes=minutes)
    print("| precision, codec | pages on disk | write | read | a step of training | first text | perplexity |")
    print("|---|---|---|---|---|---|---|")
    for precision, codec in WAYS:
        shutil.rmtree(copy, ignore_errors=True)
        shutil.copytree(store, copy)
        with Graph.open(copy) as graph:
            plain = (precision, codec) == ("float32", "none")
            # none: the pages are written once more, from another codec
            if plain:
                graph.compact(codec="zstd")
            write_s = seconds(lambda how=(precision, codec), g=graph: g.compact(precision=how[0], codec=how[1]))
            size = graph.info().page_bytes
        with Graph.open(copy) as graph:
            read_s = seconds(lambda g=graph: read_all(g))
            perplexity = graph.evaluate(limit=limit).perplexity
        decode_s = seconds(lambda: first_text(copy))
        with Graph.open(copy) as graph:
            step_s = seconds(lambda g=graph: g.train(steps=1))
        row = (f"{size / 2**20:.0f} MiB", f"{write_s:.1f} s", f"{read_s:.1f} s", f"{step_s:.1f} s", f"{decode_s:.1f} s")
        print(f"| {precision}, {codec} | {' | '.join(row)} | {perplexity:.3f} |", flush=True)


def decoding(store: Path, *, rounds: int) -> None:
    """Tokens per second of greedy decoding, of each precision in turns."""
    walks = {}
    graphs = [Graph.open(store, precision=precision) for precision in ("float32", "bfloat16")]
    drawn = torch.randn(512, 32, 32) * 0.03
    for graph in graphs:
        graph._fit_memory()
        pool = graph.parameters.working
        pool.require(np.arange(pool.slots))
        for first in range(0, pool.slots, len(drawn)):
            some = pool.arrays[WEIGHT][first : first + len(drawn)]
            some[:] = drawn[: len(some)]
        walks[graph.precision] = Walk(graph.parameters, graph.signal)
    path, draw = [1], np.random.default_rng(0)  # the rows that both meet
    walk = walks["float32"]
    walk.start(path[0])
    for _ in range(TOKENS):
        path.append(walk.choose(Sampler(temperature=1.0, top_k=None, top_p=None), draw))
        walk.carry(path[-1])
    rates: dict[str, list[tuple[float, float]]] = {name: [] for name in walks}
    for _ in range(rounds):
        for name, walk in walks.items():
            walk.start(path[0])
            began = time.perf_counter(), time.process_time()
            for node in path[1:]:
                walk.choose(Sampler(temperature=0.0, top_k=None, top_p=None), draw)
                walk.carry(node)
            rates[name].append((TOKENS / (time.perf_counter() - began[0]), TOKENS / (time.process_time() - began[1])))
    for which, clock in enumerate(("of the clock", "of the processor")):
        found = {name: [pair[which] for pair in pairs] for name, pairs in rates.items()}
        ratios = [b / a for a, b in zip(found["float32"], found["bfloat16"], strict=True)]
        for name, values in found.items():
            print(f"{name}: {statistics.median(values):,.0f} tokens in a second {clock}")
        print(f"ratio: {statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f}), {rounds} pairs")
    for graph in graphs:
        graph.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=["pages", "decoding"])
    parser.add_argument("--work", type=Path, default=Path("/tmp/sifu-codecs"), help="folder of the stores")
    parser.add_argument("--store", type=Path, help="a graph to decode in")
    parser.add_argument("--vocab", type=int, default=1000)
    parser.add_argument("--minutes", type=float, default=1.0)
    parser.add_argument("--limit", type=int, default=20_000)
    parser.add_argument("--rounds", type=int, default=15)
    args = parser.parse_args()
    args.work.mkdir(parents=True, exist_ok=True)
    if args.what == "pages":
        pages(args.work, vocab=args.vocab, minutes=args.minutes, limit=args.limit)
    else:
        decoding(args.store, rounds=args.rounds)


if __name__ == "__main__":
    main()
