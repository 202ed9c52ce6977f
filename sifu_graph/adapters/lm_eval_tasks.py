"""Tasks of lm-evaluation-harness from the held-out text of a graph: a folder for its `include_path`.

The tasks are the files of `templates/lm_eval`. The module knows texts and files; it does not know probabilities, and
does not need the package.
"""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from importlib import resources
from pathlib import Path
from string import Template
from typing import Any

import numpy as np
from sifu_store.durable import disk_errors, write_durably
from sifu_store.errors import CorpusError

from sifu_graph.config import require_positive, require_seed
from sifu_graph.output_file import require_path
from sifu_graph.session import GraphSession
from sifu_graph.text.encoded import CACHE
from sifu_graph.text.own_text import own_corpus

Record = dict[str, Any]
TEMPLATES = resources.files("sifu_graph") / "templates" / "lm_eval"
LINES = 4
"""Choices of the next line."""
WORDS = 5
"""Choices of the word of a gloss."""
LINE = re.compile(r"[^，。！？；\s]+[，。！？；]")
GLOSS = re.compile(r"([^:\n]+):( [^\n]+)")


def write_tasks(
    store: str | Path, folder: str | Path, *, most: int = 1000, seed: int = 0, force: bool = False
) -> dict[str, int]:
    """Writes the tasks that the held-out text of a graph allows, each with its records.

    ``sifu_heldout``: the documents. ``sifu_next_line``: the next line of a poem among four, where documents are lines
    that end in ， 。 ！ ？ or ；. ``sifu_gloss``: the word of a gloss among five, where documents read "word: gloss".

    Parameters
    ----------
    store
        Directory of the graph.
    folder
        Where the files are written; it is created.
    most
        Records of a task, at most.
    seed
        Of the choices, 0 or more.
    force
        The folder may exist; files of tasks in it are replaced.

    Returns
    -------
    dict
        The number of records of each task that was written.

    Raises
    ------
    CorpusError
        No document is held out, or the text is missing or has changed.
    OptionError
        ``folder`` exists, or a value has no meaning.
    SifuError
        The graph cannot be opened.
    """
    require_positive(most=most)
    require_seed(seed)
    folder = Path(folder).absolute()
    require_path(folder, force=force)
    texts = _heldout(Path(store))
    made: dict[str, Callable[[], Iterable[Record]]] = {
        "heldout": lambda: ({"text": text} for text in texts),
        "next_line": lambda: next_lines(texts, np.random.default_rng(seed)),
        "gloss": lambda: glosses(texts, np.random.default_rng(seed)),
    }
    written = {}
    for name, records in made.items():
        lines = [
            json.dumps(record, ensure_ascii=False) + "\n" for record, _ in zip(records(), range(most), strict=False)
        ]
        if lines:
            _write(folder, name, lines)
            written[f"sifu_{name}"] = len(lines)
    return written


def _heldout(store: Path) -> list[str]:
    with GraphSession.open(store) as graph:
        build = graph.settings["build"]
        found = own_corpus(build, graph.path / CACHE, instead=None).heldout(holdout=build["holdout"])
        texts = [each if isinstance(each, str) else " ".join(each) for each in found]
    if not texts:
        raise CorpusError("no document of the text of the graph is held out: build it with a `holdout` above 0")
    return texts


def _write(folder: Path, name: str, lines: Sequence[str]) -> None:
    data = folder / f"{name}.jsonl"
    template = (TEMPLATES / f"{name}.yaml").read_text(encoding="utf-8")
    with disk_errors(folder, "writing the tasks", done="written"):
        folder.mkdir(exist_ok=True)
        write_durably(data, "".join(lines).encode())
        task = Template(template).substitute(DATA=json.dumps(str(data), ensure_ascii=False))
        write_durably(folder / f"{name}.yaml", task.encode())


def next_lines(texts: Sequence[str], rng: np.random.Generator) -> Iterator[Record]:
    """A place in each poem: the lines before, and four lines that could follow, of which ``answer`` does.

    The others are lines of other poems, of as many characters, with the same mark at the end.
    """
    poems = [lines for text in texts if "".join(lines := LINE.findall(text)) == text]
    alike = defaultdict(set)
    for lines in poems:
        for line in lines:
            alike[len(line), line[-1]].add(line)
    for lines in poems:
        if len(lines) < 2:
            continue
        place = int(rng.integers(1, len(lines)))
        line = lines[place]
        others = sorted(alike[len(line), line[-1]].difference(lines))
        if len(others) >= LINES - 1:
            choices, answer = _among(line, others, LINES, rng)
            yield {"context": "".join(lines[:place]), "choices": choices, "answer": answer}


def glosses(texts: Sequence[str], rng: np.random.Generator) -> Iterator[Record]:
    """A gloss, and five words, each with its colon, of which ``answer`` is explained by it and not named in it."""
    entries = [(found[1], found[2]) for text in texts if (found := GLOSS.fullmatch(text))]
    if 2 * len(entries) < len(texts):  # a colon here and there
        return
    explained = defaultdict(set)
    for word, gloss in entries:
        explained[gloss].add(word)
    every = sorted({word for word, _ in entries})
    for word, gloss in entries:
        others = [other for other in every if other not in explained[gloss]]
        if len(others) >= WORDS - 1 and word.lower() not in gloss.lower():
            words, answer = _among(word, others, WORDS, rng)
            yield {"gloss": gloss, "words": [f"{each}:" for each in words], "answer": answer}


def _among(right: str, others: Sequence[str], choices: int, rng: np.random.Generator) -> tuple[list[str], int]:
    """The right choice at a random place among others, and that place."""
    drawn = [others[at] for at in rng.choice(len(others), choices - 1, replace=False)]
    answer = int(rng.integers(choices))
    return [*drawn[:answer], right, *drawn[answer:]], answer
