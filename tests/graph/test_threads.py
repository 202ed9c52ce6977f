"""The number of threads changes no bit: closed form, steps of training, evaluation. Threads may share a graph."""

from __future__ import annotations

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
import warm
from small import write_poems

from sifu_graph import Graph, build_graph
from sifu_graph.ops.threads import padded, product

SCRIPT = """
import hashlib, sys
import numpy as np
from sifu_graph import Graph, build_graph
from sifu_graph.model.forward import evaluate

build_graph([sys.argv[1]], sys.argv[2], vocab=200, sparsify=0.2, holdout=0.05, signal="tuned")
with Graph.open(sys.argv[2]) as graph:
    report = graph.train(steps=1, batch=16)
    pool = graph.parameters.edges
    pool.require(graph.parameters.index.slots())
    bits = hashlib.sha256(pool.W.numpy().tobytes() + pool.b.numpy().tobytes())
    print(bits.hexdigest(), report.contexts.before, report.contexts.after, graph.evaluate(limit=2000).perplexity)
    # Batches of few positions, where a BLAS divides a product in another way.
    for length in range(2, 34):
        tokens = np.arange(length, dtype=np.int32)[None] * 7 % 150
        losses, *_ = evaluate(graph.parameters, graph.signal, tokens, np.array([length]))
        print(length, hashlib.sha256(losses.numpy().tobytes()).hexdigest())
    graph.train(steps=3, batch=1, eval_every=0)
    for name, value in graph.parameters.small.items():
        print(name, hashlib.sha256(value.numpy().tobytes()).hexdigest())
"""


ONE = """
import torch
from threadpoolctl import threadpool_limits
torch.set_num_threads(1)
threadpool_limits(1)
"""


def with_threads(threads: int, *args: str | Path) -> str:
    """What the script prints where the environment says how many threads there are."""
    names = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
    environment = {**os.environ, **dict.fromkeys(names, str(threads))}
    command = [sys.executable, "-c", SCRIPT, *map(str, args)]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout


@pytest.mark.parametrize("width", [16, 32, 64, 128])
def test_a_product_of_few_rows_does_not_depend_on_threads(width: int) -> None:
    usual = torch.get_num_threads()
    generator = torch.Generator().manual_seed(width)
    right = torch.randn(width, width, generator=generator)
    lefts = [torch.randn(rows, width, generator=generator) for rows in (*range(1, 34), 255, 256, 257)]
    try:
        found = []
        for threads in (1, 2, 3, 8, 16):
            torch.set_num_threads(threads)
            found.append([product(left, right) for left in lefts])
            assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(usual)
    for other in found[1:]:
        assert all(map(torch.equal, found[0], other))


def test_the_number_of_threads_changes_no_bit(tmp_path: Path) -> None:
    text = write_poems(tmp_path / "poems.txt", poems=150)
    one = warm.run(ONE + SCRIPT, text, tmp_path / "1.sifu")
    assert len(one.splitlines()) > 32
    assert one == with_threads(2, text, tmp_path / "2.sifu")


@pytest.mark.parametrize("rows", [1, 3, 256])
def test_a_product_with_padded_rows_does_not_depend_on_the_others(rows: int) -> None:
    torch.manual_seed(0)
    table, left = torch.randn(400, 48), torch.randn(rows, 48)
    every = product(left, padded(table).T)
    for n in (1, 7, 23, 64, 65, 130, 399):
        assert torch.equal(product(left, padded(table[:n]).T)[:, :n], every[:, :n])


@pytest.mark.parametrize("signal", ["recurrent", "tuned"])
def test_threads_may_share_an_open_graph(signal: str, tmp_path: Path) -> None:
    """Each call sees the memory and the snapshot of one call, whatever the others do; none finds the graph closed."""
    text = write_poems(tmp_path / "poems.txt", poems=60)
    build_graph(text, tmp_path / "g.sifu", vocab=60, holdout=0.1, length=8, width=16, signal=signal)
    with Graph.open(tmp_path / "g.sifu") as graph, ThreadPoolExecutor(6) as threads:

        def asked() -> tuple[float, float, float, str]:
            figures = graph.score("人不見").log_p, graph.evaluate(limit=200).perplexity, graph.next("人")[0].p
            return *figures, graph.generate("人", tokens=9, seed=1).text

        alone = asked()
        assert [one.result() for one in [threads.submit(asked) for _ in range(12)]] == [alone] * 12

        stream = graph.stream("人", tokens=60, seed=1)
        pieces = threads.submit(lambda: "".join(stream))
        scored = [threads.submit(graph.score, "人不見") for _ in range(6)]
        trained = [threads.submit(graph.train, steps=1, contexts=None, progress=False) for _ in range(3)]
        edited = threads.submit(graph.boost_edge, "人", "不", 0.5)
        assert sorted(one.result().step for one in trained) == [1, 2, 3]
        assert edited.result().snapshot
        assert all(np.isfinite(one.result().log_p) for one in scored)
        assert len(pieces.result()) > 0
        assert graph.info().snapshot == graph.log().commits[0].snapshot
        running = [threads.submit(asked) for _ in range(6)]
        graph.close()
        for one in running:
            assert one.exception() is None or "the graph is closed" in str(one.exception())
