"""The number of threads changes no bit: closed form, a step of training, evaluation."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

SCRIPT = """
import hashlib, sys
import numpy as np
from sifu_graph import Graph, build_graph

build_graph([sys.argv[1]], sys.argv[2], vocab=600, sparsify=0.2, holdout=0.05)
with Graph.open(sys.argv[2]) as graph:
    report = graph.train(steps=1, batch=16)
    pool = graph.parameters.edges
    pool.require(graph.parameters.index.slot)
    bits = hashlib.sha256(pool.W.numpy().tobytes() + pool.b.numpy().tobytes())
    print(bits.hexdigest(), report.contexts.before, report.contexts.after, graph.evaluate(limit=4000).perplexity)
"""


def run(folder: Path, text: Path, *, threads: int) -> str:
    names = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
    environment = {**os.environ, **dict.fromkeys(names, str(threads))}
    command = [sys.executable, "-c", SCRIPT, str(text), str(folder / f"{threads}.sifu")]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout


def test_the_number_of_threads_changes_no_bit(tmp_path: Path) -> None:
    from sifu_graph.text.corpus import Corpus

    text = tmp_path / "poems.txt"
    documents = [str(document) for _, document in zip(range(1200), Corpus(["tang"]).documents(), strict=False)]
    text.write_text("\n\n".join(documents), encoding="utf-8")
    assert run(tmp_path, text, threads=1) == run(tmp_path, text, threads=2)
