"""Two served graphs: one whose edges share a base, and one whose edges stand alone."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from serving import Running, serving
from small import write_text

from sifu_graph import build_graph


@pytest.fixture(scope="session")
def paths(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Not to be changed."""
    folder = tmp_path_factory.mktemp("served")
    text = write_text(folder / "poems.txt")
    for signal in ("recurrent", "tuned"):
        build_graph(text, folder / f"{signal}.sifu", vocab=40, sparsify=0.5, length=8, holdout=0.1, signal=signal)
    return {signal: folder / f"{signal}.sifu" for signal in ("recurrent", "tuned")}


@pytest.fixture(scope="session", params=["recurrent", "tuned"])
def server(request: pytest.FixtureRequest, paths: dict[str, Path]) -> Iterator[Running]:
    with serving(paths[request.param]) as found:
        yield found
