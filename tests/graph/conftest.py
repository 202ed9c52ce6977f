"""A small graph from a small text, built once."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from small import write_text

from sifu_graph import Graph, build_graph


@pytest.fixture(scope="session")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_text(tmp_path_factory.mktemp("text") / "poems.txt")


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory, text: Path) -> Path:
    """Not to be changed: see `store`."""
    path = tmp_path_factory.mktemp("built") / "graph.sifu"
    build_graph(text, path, vocab=40, sparsify=0.5, length=8, holdout=0.1, signal="tuned")
    return path


@pytest.fixture
def store(built: Path, tmp_path: Path) -> Path:
    """A copy of the built graph."""
    return Path(shutil.copytree(built, tmp_path / "graph.sifu"))


@pytest.fixture
def graph(store: Path) -> Iterator[Graph]:
    with Graph.open(store) as graph:
        yield graph
