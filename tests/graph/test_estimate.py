"""What is said of a run before it, against what the run then takes."""

from __future__ import annotations

from pathlib import Path

import pytest
from sifu_store.errors import DeviceMemoryError, HostMemoryError, OptionError

from sifu_graph import Graph
from sifu_graph.estimate import estimate


def test_the_least_memory_is_the_least(graph: Graph) -> None:
    """A byte less is refused, and that much works (on a graph of few pages all of it is the least)."""
    found = estimate(graph, batch=4)
    pool = graph.parameters.edges
    assert found.pages == pool.pages
    assert found.decoding_bytes == pool.pages * pool.page_bytes({})
    assert found.whole_bytes == pool.pages * found.page_bytes
    assert found.fits
    assert found.scratch_bytes == 0
    graph.host_memory = found.least_bytes
    graph.train(steps=1, batch=4, eval_every=0)


def test_the_least_device_memory_is_the_least(graph: Graph) -> None:
    found = estimate(graph, batch=4)
    graph.device_memory = found.device_least_bytes - 1
    with pytest.raises(DeviceMemoryError):
        graph.train(steps=1, batch=4, eval_every=0)
    graph.device_memory = found.device_least_bytes
    assert graph.train(steps=1, batch=4, eval_every=0).cache["device_pool_bytes"] <= found.device_least_bytes
    assert found.device_bytes > found.whole_bytes


def test_a_budget_is_taken_at_its_word() -> None:
    found = estimate(host_memory="1GiB")
    assert found.private_edges == 1_600_000
    assert found.host_bytes + found.table_bytes + found.working_bytes == 1 << 30
    assert not found.fits
    assert found.whole_bytes == 3125 * found.page_bytes
    assert found.whole_bytes < found.scratch_bytes < 1.1 * found.whole_bytes
    assert found.least_bytes < 1 << 30
    assert found.epoch_s is None
    adamw = estimate(optimizer="adamw")
    assert 2.9 < adamw.whole_bytes / found.whole_bytes < 3.1
    assert 0 < found.tokens_per_s < found.resident_tokens_per_s
    more = estimate(host_memory="1GiB", batch=4096)
    assert found.tokens_per_s / found.resident_tokens_per_s < more.tokens_per_s / more.resident_tokens_per_s


def test_forty_thousand_nodes(tmp_path: Path) -> None:
    found = estimate(vocab=40_000, sparsify=0.001, folder=tmp_path / "not" / "there")
    assert found.private_edges == 1_600_000
    assert found.free_disk_bytes > 0


def test_sizes_without_meaning() -> None:
    with pytest.raises(OptionError):
        estimate(host_memory="lots")
    with pytest.raises(OptionError):
        estimate(optimizer="sgd")


def test_below_the_least(graph: Graph) -> None:
    graph.host_memory = 1
    with pytest.raises(HostMemoryError):
        graph.train(steps=1, batch=4)
