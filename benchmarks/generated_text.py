"""Statistics of generated and of held-out text: lengths of verses, repetition, copies of the training text.

    python benchmarks/generated_text.py poems.sifu                # 20,000 generated tokens
    python benchmarks/generated_text.py poems.sifu --tokens 5000 --top-p 1

A verse is a run of tokens between punctuation marks or separators. Prints a table in Markdown.
"""

from __future__ import annotations

import argparse
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from sifu_graph import Graph
from sifu_graph.arrays import Bools, Ids, Keys
from sifu_graph.text.tokenizer import SEPARATOR

MARKS = "，。？！；、：,.?!;:"
USUAL = 0.1  # a length is usual that at least this share of the held-out verses has
COPIED = 8  # tokens
REPEATED = 4


@dataclass(frozen=True, slots=True)
class Statistics:
    """Of one text.

    Attributes
    ----------
    usual
        Share of the verses whose length is usual in the held-out text.
    distinct
        Distinct runs of `REPEATED` tokens, as a share of all of them.
    copied
        Share of the runs of `COPIED` tokens that occur in the training text.
    """

    tokens: int
    usual: float
    distinct: float
    copied: float


def parsed(arguments: list[str] | None = None) -> argparse.Namespace:
    """The options."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("store", type=Path)
    parser.add_argument("--tokens", type=int, default=20_000, help="to generate (default: 20,000)")
    parser.add_argument("--top-p", type=float, default=0.9, help="default: 0.9")
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args(arguments)


def lengths(ids: Ids, ends: Bools) -> list[int]:
    """The lengths of the verses: runs of tokens that end no verse."""
    stops = np.flatnonzero(np.append(ends[ids], True))
    return [int(size) for size in np.diff(np.append(-1, stops)) - 1 if size > 0]


def runs(ids: Ids, size: int) -> Keys:
    """A hash of every run of this many tokens, uint64: a polynomial modulo 2^64."""
    values = np.asarray(ids).astype(np.uint64) + np.uint64(1)
    found = np.zeros(max(0, len(values) - size + 1), np.uint64)
    with np.errstate(over="ignore"):
        for at in range(size):
            found = found * np.uint64(0x9E3779B97F4A7C15) + values[at : at + len(found)]
    return found


def statistics(ids: Ids, ends: Bools, usual: set[int], trained: Keys) -> Statistics:
    """Of a text; ``trained`` are the sorted runs of the training text."""
    sizes, short, long = lengths(ids, ends), runs(ids, REPEATED), runs(ids, COPIED)
    at = np.minimum(np.searchsorted(trained, long), len(trained) - 1)
    return Statistics(
        tokens=len(ids),
        usual=sum(size in usual for size in sizes) / max(1, len(sizes)),
        distinct=len(np.unique(short)) / max(1, len(short)),
        copied=float((trained[at] == long).mean()) if len(long) and len(trained) else 0.0,
    )


def main(arguments: list[str] | None = None) -> int:
    """Generates, and prints the table."""
    options = parsed(arguments)
    with Graph.open(options.store) as graph:
        text, names = graph._tokens(), graph.tokenizer.vocabulary
        prompt = names[int(np.bincount(np.asarray(text.train.ids)[1::2], minlength=len(names))[2:].argmax()) + 2]
        found = graph.generate(prompt, tokens=options.tokens, top_p=options.top_p, seed=options.seed)
        generated = graph.tokenizer.encode_batch([found.text])[0][1:-1]
    ends = np.array([name in MARKS or number == SEPARATOR for number, name in enumerate(names)])
    heldout = np.asarray(text.heldout.ids)[: options.tokens]
    counted = Counter(lengths(heldout, ends))
    usual = {size for size, count in counted.items() if count >= USUAL * counted.total()}
    trained = np.unique(runs(text.train.ids, COPIED))
    print(f"usual lengths of verses: {', '.join(map(str, sorted(usual)))}")
    print(f"| text | tokens | verses of a usual length | distinct {REPEATED}-grams | copied {COPIED}-grams |")
    print("|---|---|---|---|---|")
    for name, ids in (("generated", generated), ("held-out", heldout)):
        one = statistics(ids, ends, usual, trained)
        print(f"| {name} | {one.tokens:,} | {one.usual:.1%} | {one.distinct:.1%} | {one.copied:.1%} |")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
