"""A small graph from a small text, trained a little, built once."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from small import write_text

from sifu_graph import Graph, build_graph


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Not to be written to."""
    folder = tmp_path_factory.mktemp("seeing")
    path = folder / "graph.sifu"
    build_graph(write_text(folder / "poems.txt"), path, vocab=40, sparsify=0.5, length=8, holdout=0.1, signal="tuned")
    with Graph.open(path) as graph:
        graph.train(steps=2, batch=32)
    return path


@pytest.fixture
def graph(trained: Path) -> Iterator[Graph]:
    with Graph.open(trained) as graph:
        yield graph
