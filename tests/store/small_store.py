"""A small store to test with: any number of nodes and slots, valid index, made in milliseconds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from sifu_store import PAGE_EDGES, Store

N, D, SLOTS = 60, 4, 1300  # three pages, the last one short


def fill(store: Store, *, n: int = N, d: int = D, slots: int = SLOTS, seed: int = 0) -> None:
    """Write everything that a store MUST have (nothing is committed)."""
    rng = np.random.default_rng(seed)
    pairs = np.sort(rng.choice(n * n, size=slots, replace=False))
    store.write_json("nodes/vocabulary", [{"text": chr(0x6625 + i)} for i in range(n)])
    store.write_json("nodes/tokenizer", {"kind": "char"})
    store.write("nodes/count", rng.integers(0, 1000, n))
    store.write("nodes/bias", rng.standard_normal((n, d)).astype(np.float32))
    store.write("edges/source", (pairs // n).astype(np.int32))
    store.write("edges/target", (pairs % n).astype(np.int32))
    store.write("edges/count", rng.integers(1, 100, slots))
    store.write("rows/total", np.full(n, 500, np.int64))
    store.write("nodes/predecessors", np.full(n, 20, np.int64))
    store.write("rows/discounted", np.full(n, 10.0))
    store.write("signal/scale", np.ones(1, np.float32))
    store.write("rows/distinct", np.full(n, 20, np.int64))
    store.write("signal/alpha", np.zeros(8, np.float32))
    store.write("default/weight", np.eye(d, dtype=np.float32))
    store.write("default/bias", np.zeros(d, np.float32))
    store.create_paged("edges/weight", (d, d), "float32")
    store.create_paged("edges/bias", (d,), "float32")
    store.set_settings({"width": d, "seed": seed})


def page(store: Store, name: str, index: int, value: float) -> np.ndarray:
    """A page of the right shape, filled with `value` plus the slot number."""
    first, stop = index * PAGE_EDGES, min((index + 1) * PAGE_EDGES, store.slots)
    shape = store.read_page(name, index).shape[1:]
    content = np.full((stop - first, *shape), value, np.float32)
    content.reshape(stop - first, -1)[:, 0] += np.arange(first, stop, dtype=np.float32)
    return content


def write_page(store: Store, index: int, value: float) -> None:
    for name in ("edges/weight", "edges/bias"):
        store.write_pages(name, index, page(store, name, index, value))
    store.mark_stored(np.array([index]))


def make(path: Path, **options: Any) -> str:
    """A committed store with pages 0 and 2 stored; the id of its snapshot."""
    with Store.create(path) as store:
        fill(store, **options)
        write_page(store, 0, 1.0)
        write_page(store, 2, 2.0)
        return store.commit("build", command="build-graph --vocab 60", changes={"nodes": N})


def train(path: Path, value: float, *, command: str = "train --steps 1") -> str:
    """One more commit: page 0 gets another value."""
    with Store.open(path, write=True) as store:
        write_page(store, 0, value)
        return store.commit(f"step {value}", command=command, changes={"value": value})


def data_file(path: Path, name: str, index: int) -> Path:
    """The file of one page, found by what it holds."""
    with Store.open(path) as store:
        content = store.read_page(name, index).tobytes()
    found = [file for file in (path / "repository" / "chunks").iterdir() if file.read_bytes().startswith(content)]
    assert len(found) == 1
    return found[0]
