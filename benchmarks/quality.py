"""Models of the next token side by side: the same text, the same minutes, the same held-out documents.

    python benchmarks/quality.py                                  # Tang and Song, 2 minutes each, 4,000 nodes
    python benchmarks/quality.py --minutes 20 --models transformer recurrent
    python benchmarks/quality.py --corpus a.txt --level bpe --nodes 1000

Kneser-Ney models count. ``recurrent`` is a graph whose edges share a base (`--signal recurrent`), before and after
`sifu train`. ``lstm``, ``transformer`` and ``paper-sum`` are in `torch_models.py`. Prints a table in Markdown and
writes it, with the numbers behind it, to ``--output``.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import machine
import numpy as np
import torch
from main_job import DATA, TEXTS

from sifu_graph import Graph, build_graph
from sifu_graph.text.corpus import Corpus
from sifu_graph.text.encoded import Split, TokenFile, encode_corpus
from sifu_graph.text.kneser_ney import KneserNey, every_place
from sifu_graph.text.registry import train_tokenizer

HERE = Path(__file__).resolve().parent
MODELS = ("kneser-ney", "recurrent", "lstm", "transformer", "paper-sum")
HOLDOUT = 0.01
DECODED = 2000  # tokens, to measure the speed of decoding


@dataclass(frozen=True, slots=True)
class Row:
    """One model.

    Attributes
    ----------
    nats, bits_per_character, top1
        A held-out token in nats, a character of it in bits, and the share of tokens that are the most probable.
    parameters
        Numbers that training changes; None: counts.
    tokens, seconds
        Of training.
    decoding
        Tokens per second of generated text.
    """

    model: str
    nats: float
    bits_per_character: float | None = None
    top1: float | None = None
    parameters: int | None = None
    tokens: int = 0
    seconds: float = 0.0
    decoding: float | None = None

    @property
    def perplexity(self) -> float:
        """Of a held-out token."""
        return math.exp(self.nats)


def parsed(arguments: list[str] | None = None) -> argparse.Namespace:
    """The options."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--corpus", nargs="+", help="files; default: Tang and Song beside the project, else `tang`")
    parser.add_argument("--level", choices=["char", "bpe"], default="char")
    parser.add_argument("--nodes", type=int, default=4000, help="default: 4000")
    parser.add_argument("--minutes", type=float, default=2.0, help="of training, for each model (default: 2)")
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS), help="default: all")
    parser.add_argument("--threads", type=int, default=machine.cores(), help="default: all cores")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, default=HERE / "results" / "quality", help="folder of the table")
    options = parser.parse_args(arguments)
    if not options.minutes > 0:
        parser.error("--minutes must be above 0")
    if options.corpus is None:
        options.corpus = [str(DATA / name) for name in TEXTS if (DATA / name).is_file()] or ["tang"]
    return options


def corpus_of(options: argparse.Namespace) -> Corpus:
    """The text."""
    return Corpus([text if text == "tang" else Path(text) for text in options.corpus])


def encoded(options: argparse.Namespace, folder: Path) -> tuple[TokenFile, int, float]:
    """The token file, the number of nodes, and bits a held-out character for each nat a token."""
    corpus = corpus_of(options)
    tokenizer = train_tokenizer(corpus.training(holdout=HOLDOUT), level=options.level, vocab=options.nodes)
    text = encode_corpus(corpus, tokenizer, directory=folder, holdout=HOLDOUT)
    places, counts = every_place(text.heldout), tokenizer.character_counts()
    assert counts is not None  # of characters and byte-level BPE
    characters = int(counts[np.asarray(text.heldout.ids)[places]].sum())
    return text, len(tokenizer), len(places) / characters / math.log(2.0)


def kneser_ney(train: Split, heldout: Split, nodes: int, bits: float) -> list[Row]:
    """The unigram, and orders 2, 3 and 4."""
    places = every_place(heldout)
    started = time.perf_counter()
    sums = KneserNey(train, n=nodes).nats(heldout, places)
    seconds = time.perf_counter() - started
    each = {name: nats / len(places) for name, nats in sums.items()}
    return [Row(name, nats, nats * bits, tokens=train.tokens, seconds=seconds) for name, nats in each.items()]


def recurrent(corpus: Corpus, options: argparse.Namespace, folder: Path) -> list[Row]:
    """A graph whose edges share a base, before and after `Graph.train`."""
    path = folder / "graph.sifu"
    build_graph(
        corpus,
        path,
        vocab=options.nodes,
        level=options.level,
        holdout=HOLDOUT,
        signal="recurrent",
        seed=options.seed,
    )

    def row(name: str, tokens: int = 0, seconds: float = 0.0) -> Row:
        report, size = graph.evaluate(), graph.info().base_parameters
        speed = graph.generate(graph.tokenizer.vocabulary[2], tokens=DECODED, seed=0).tokens_per_s
        nats = math.log(report.perplexity)
        return Row(name, nats, report.bits_per_character, report.top1, size, tokens, seconds, speed)

    with Graph.open(path) as graph:
        rows = [row("recurrent, untrained")]
        report = graph.train(minutes=options.minutes)
        return [*rows, row("recurrent", report.tokens_done, report.seconds)]


def rows_of(
    name: str, text: TokenFile, nodes: int, bits: float, options: argparse.Namespace, folder: Path
) -> list[Row]:
    """The rows of one model. ``bits``: bits a character for each nat a token."""
    torch.manual_seed(options.seed)
    if name == "kneser-ney":
        return kneser_ney(text.train, text.heldout, nodes, bits)
    if name == "recurrent":
        return recurrent(corpus_of(options), options, folder)
    import torch_models

    found = torch_models.run(name, text.train, text.heldout, nodes=nodes, minutes=options.minutes)
    return [Row(name, found.nats, found.nats * bits, found.top1, found.parameters, found.tokens, found.seconds)]


def markdown(rows: list[Row]) -> str:
    """The table."""
    lines = [
        "| model | perplexity | bits a character | top-1 | parameters | training tokens | seconds | decoding |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        size = "counts" if row.parameters is None else f"{row.parameters:,}"
        bits = "" if row.bits_per_character is None else f"{row.bits_per_character:.3f}"
        top1 = "" if row.top1 is None else f"{row.top1:.1%}"
        speed = "" if row.decoding is None else f"{row.decoding:,.0f} tokens/s"
        cells = [row.model, f"{row.perplexity:.1f}", bits, top1, size, f"{row.tokens:,}", f"{row.seconds:.0f}", speed]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def main(arguments: list[str] | None = None) -> int:
    """Runs the chosen models one after another."""
    options = parsed(arguments)
    torch.set_num_threads(options.threads)
    with tempfile.TemporaryDirectory() as folder:
        tokens, nodes, bits = encoded(options, Path(folder))
        places = len(every_place(tokens.heldout))
        text = f"{nodes:,} nodes, {tokens.train.tokens:,} tokens, {places:,} held-out, {options.threads} threads"
        print(f"{', '.join(Path(name).name for name in options.corpus)}: {text}, {machine.processor()}")
        rows = []
        for name in options.models:
            rows += rows_of(name, tokens, nodes, bits, options, Path(folder))
            print(markdown(rows), flush=True)
    options.output.mkdir(parents=True, exist_ok=True)
    (options.output / "quality.md").write_text(f"{text}\n\n{markdown(rows)}", encoding="utf-8")
    record = {
        "text": text,
        "minutes": options.minutes,
        "rows": [{**dataclasses.asdict(row), "perplexity": row.perplexity} for row in rows],
    }
    (options.output / "quality.json").write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
