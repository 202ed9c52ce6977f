"""Decoding and evaluation with W in bfloat16: the same as with rounded W in float32, within half of the memory."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from sifu_store.errors import HostMemoryError, OptionError
from sifu_store.layout import BIAS

from sifu_graph import Graph, build_graph
from sifu_graph.serve.served_graph import ServedGraph


@pytest.fixture
def trained(graph: Graph) -> Path:
    graph.train(steps=3, batch=16)
    return graph.path


def with_rounded_pool(path: Path, what: Callable[[Graph], object]) -> object:
    """What float32 gives where every W in memory has the values of bfloat16."""
    with Graph.open(path) as graph:
        graph._fit_memory()
        pool = graph.parameters.edges
        pool.require(np.arange(pool.slots))
        pool.W[:] = pool.W.bfloat16().float()
        return what(graph)


@pytest.mark.parametrize(
    "what",
    [
        lambda g: g.generate("春", tokens=60, greedy=True).text,
        lambda g: g.generate("春", tokens=60, seed=3).text,
        lambda g: g.evaluate(),
        lambda g: g.next("春風"),
    ],
)
def test_results_are_those_of_rounded_values(trained: Path, what: Callable[[Graph], object]) -> None:
    with Graph.open(trained, precision="bfloat16") as graph:
        found = what(graph)
        pool = graph.parameters.working
        assert (pool.W.dtype, pool.b.dtype) == (torch.bfloat16, torch.float32)
        assert not graph.parameters.edges.buffer.used_bytes  # float32 pages are not read
    assert found == with_rounded_pool(trained, what)


def test_perplexity_stays_and_memory_halves(trained: Path) -> None:
    with Graph.open(trained) as graph, Graph.open(trained, precision="bfloat16") as half:
        expected = graph.evaluate().perplexity
        assert half.evaluate().perplexity == pytest.approx(expected, rel=1e-3)
        d, cache = half.settings["width"], half.cache()
        assert cache["host_pool_bytes"] == half.store.slots * (2 * d * d + 4 * d)
        assert cache["host_pool_bytes"] < 0.54 * graph.cache()["host_pool_bytes"]
        assert cache["from_store"] == half.info().trained_pages


def test_an_edit_in_between_is_seen(trained: Path) -> None:
    with Graph.open(trained, precision="bfloat16") as graph:
        graph.generate("春", tokens=5, greedy=True)
        graph.boost_edge("春", "風", 20.0)
        assert graph.generate("春", tokens=1, greedy=True).text == "風"
        graph.undo()
        slots = np.zeros(1, np.int64)
        with pytest.raises(OptionError, match="only read"):
            graph._fit_memory()
            graph.parameters.working.unstage(slots, {BIAS: torch.zeros(1, 32)})


def test_what_it_is_not_for_is_refused(trained: Path, text: Path, tmp_path: Path) -> None:
    with Graph.open(trained, precision="bfloat16") as graph, pytest.raises(OptionError, match="only decodes"):
        graph.train(steps=1, batch=4)
    with (
        Graph.open(trained, precision="bfloat16", device_memory="1GiB") as graph,
        pytest.raises(OptionError, match="only"),
    ):
        graph.generate("春", tokens=1)
    build_graph([text], tmp_path / "base.sifu", vocab=40, length=8, signal="recurrent")
    with (
        Graph.open(tmp_path / "base.sifu", precision="bfloat16") as base,
        pytest.raises(OptionError, match="no matrix"),
    ):
        base.generate("春", tokens=1)


def test_a_budget_that_is_too_small_is_refused(trained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with Graph.open(trained, precision="bfloat16", host_memory="1GiB") as graph:
        assert graph.generate("春", tokens=3).tokens == 3
        needed = graph.cache()["host_pool_bytes"]
    with Graph.open(trained, precision="bfloat16", host_memory="1GiB") as graph:
        monkeypatch.setattr(graph, "_left_of_memory", lambda *_, **__: needed - 1)
        with pytest.raises(HostMemoryError, match="only edges of float32 are paged"):
            graph.generate("春", tokens=3)


def test_a_served_graph_has_such_rows(trained: Path) -> None:
    served = ServedGraph(trained, precision="bfloat16")
    try:
        with served.current.walks().lend() as walk, served.current.walks().lend() as beside:
            assert walk.parameters.working.W.dtype == torch.bfloat16
            walk.start(1)
            walk.carry(2)
            beside.start(1)
            beside.carry(2)
            assert torch.equal(walk.signal.r, beside.signal.r)
    finally:
        served.current.retire()
