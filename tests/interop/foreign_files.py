"""Files of the released BriLLM code, made small: a checkpoint, its vocabulary and its frequencies."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from sifu_graph import import_brillm

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
