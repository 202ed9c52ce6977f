"""Commits for ever, printing every acknowledged snapshot with a hash of its content; started to be killed."""

from __future__ import annotations

import hashlib
import sys
from pathlib import Path

import numpy as np
import small_store
from sifu_store import Store


def content_hash(store: Store) -> str:
    digest = hashlib.sha256(np.packbits(store.page_stored()).tobytes())
    for name in store.names():
        paged = name.startswith("edges/") and name.rsplit("/", 1)[1] in ("weight", "bias")
        digest.update((store.read_pages(name, 0, store.pages) if paged else store.read(name)).tobytes())
    return digest.hexdigest()


def main(path: Path, seed: int) -> None:
    rng = np.random.default_rng(seed)
    with Store.open(path, write=True) as store:
        while True:
            for index in rng.choice(store.pages, size=2, replace=False):
                small_store.write_page(store, int(index), float(rng.standard_normal()))
            step = int(store.read("training/step")[0]) + 1 if store.has("training/step") else 1
            store.write("training/step", np.array([step]))
            expected = content_hash(store)
            snapshot = store.commit(f"step {step}", command="train", changes={"step": step})
            sys.stdout.write(f"{snapshot} {step} {expected}\n")
            sys.stdout.flush()


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
