"""A small model in the released code's files, and the graph that it becomes."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from sifu_graph import Graph, import_brillm


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> Iterator[None]:
    """Small tensors on a busy machine: threads would only wait for each other."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


NAMES = ["<unk>", "，", "。", *"不人無日風山一有何天中來時雲上春水花年君爲相生月自心長如白行"]


@dataclass
class Files:
    """Where the files are, and what is in them."""

    folder: Path
    counts: dict[str, dict[str, int]]
    state: dict[str, torch.Tensor]

    @property
    def checkpoint(self) -> Path:
        return self.folder / "model.bin"

    @property
    def vocab(self) -> Path:
        return self.folder / "vocab.json"

    @property
    def frequency(self) -> Path:
        return self.folder / "word_frequency.json"

    def rows(self) -> list[tuple[str, str]]:
        """The private edges in the order of the rows, by the definition: one loop in another."""
        return [(u, v) for u in NAMES for v in NAMES if self.counts[u].get(v, 1) != 0]

    def run(self, path: Path, **options: Any) -> Any:
        given = {"vocab": self.vocab, "frequency": self.frequency, **options}
        return import_brillm(self.checkpoint, path, **given)


def state_of(rows: int, *, nodes: int, width: int, rng: np.random.Generator) -> dict[str, torch.Tensor]:
    def draw(*shape: int) -> torch.Tensor:
        return torch.from_numpy(rng.uniform(-0.5, 0.5, shape).astype(np.float32))

    return {
        "positions": draw(1, 512, 1),
        "weights": draw(rows + 1, width, width),
        "biases": draw(rows + 1, 1, width),
        "node_bias": draw(nodes, 1, width),
    }


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
