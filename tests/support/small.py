"""Small texts, and stores read whole."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
from sifu_store import Store

from sifu_graph.text.corpus import Corpus


def write_text(path: Path, *, documents: int = 400, seed: int = 0) -> Path:
    """Lines over a few characters in which some pairs are far more frequent than others."""
    rng = random.Random(seed)
    alphabet = "春風花月夜江水山雲人不一有無天日來何時中"
    weights = [1.0 / (i + 1) for i in range(len(alphabet))]
    lines = ("".join(rng.choices(alphabet, weights, k=rng.randint(2, 24))) + "。" for _ in range(documents))
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def write_poems(path: Path, *, poems: int) -> Path:
    """The first of the shipped poems, with an empty line between them."""
    documents = (str(document) for document, _ in zip(Corpus(["tang"]).documents(), range(poems), strict=False))
    path.write_text("\n\n".join(documents), encoding="utf-8")
    return path


def whole(store: Store, name: str) -> np.ndarray:
    """A whole array, paged or not."""
    return store.read_pages(name, 0, store.pages) if store.is_paged(name) else store.read(name)
