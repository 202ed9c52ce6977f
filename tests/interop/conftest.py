"""A small model in the released code's files, and the graph that it becomes."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from foreign_files import NAMES, Files, state_of

from sifu_graph import Graph


@pytest.fixture(scope="module", autouse=True)
def small_tensors(one_thread: None) -> None:
    """In every module of the folder."""


@pytest.fixture
def files(tmp_path: Path) -> Files:
    """27 % of the pairs are private; some targets are not listed, which makes them private too."""
    folder, rng = tmp_path / "released", np.random.default_rng(5)
    folder.mkdir()
    counts: dict[str, dict[str, int]] = {}
    for u in NAMES:
        row = {v: int(rng.integers(1, 90)) if rng.random() < 0.25 else 0 for v in NAMES}
        counts[u] = dict(sorted(row.items(), key=lambda pair: -pair[1]))
    del counts["不"]["人"], counts["月"]["花"]
    made = Files(folder, counts, {})
    made.state = state_of(len(made.rows()), nodes=len(NAMES), width=8, rng=rng)
    torch.save(made.state, made.checkpoint)
    made.vocab.write_text(json.dumps({name: i for i, name in enumerate(NAMES)}), encoding="utf-8")
    made.frequency.write_text(json.dumps(counts), encoding="utf-8")
    return made


@pytest.fixture
def imported(files: Files, tmp_path: Path) -> Iterator[Graph]:
    files.run(tmp_path / "imported.sifu")
    with Graph.open(tmp_path / "imported.sifu") as graph:
        yield graph
