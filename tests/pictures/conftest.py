"""A small graph for the pictures, trained for two steps; its names are meant to do harm to a page."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from sifu_graph import Graph, build_graph

HARMFUL = [
    "</script><script>window.harm=1</script>", "<img src=x onerror=window.harm=1>", "&lt;b&gt;", '"\';', "${harm}",
    "$DATA", "\u2028", "\\u003c", "a b", "春", "風", "花", "月", "夜", "江", "<!--",
]  # fmt: skip


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pictures")
    rng = random.Random(0)
    with (folder / "text.jsonl").open("w", encoding="utf-8") as file:
        for _ in range(300):
            words = [rng.choice(HARMFUL[:8]), rng.choice(HARMFUL[8:])] * 2 + rng.choices(HARMFUL, k=rng.randint(1, 9))
            file.write(json.dumps(words) + "\n")
    build_graph(
        folder / "text.jsonl",
        folder / "graph.sifu",
        level="tokens",
        vocab=40,
        sparsify=0.35,
        length=8,
        holdout=0.1,
        signal="tuned",
    )
    return folder / "graph.sifu"


@pytest.fixture(scope="session")
def trained(built: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = Path(shutil.copytree(built, tmp_path_factory.mktemp("trained") / "graph.sifu"))
    with Graph.open(path) as graph:
        graph.train(steps=3, batch=64, eval_every=2)
    return path


@pytest.fixture
def graph(built: Path) -> Iterator[Graph]:
    with Graph.open(built) as graph:
        yield graph
