"""What is said of a run before it, against what the run then takes."""

from __future__ import annotations

import re
from pathlib import Path

import needs
import pytest
from sifu_store.errors import DeviceMemoryError, HostMemoryError, OptionError
from small import write_text

from sifu_graph import Graph, build_graph
from sifu_graph.estimate import estimate
from sifu_graph.kernels import native


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


@pytest.mark.parametrize("signal", ["tuned", "recurrent"])
def test_less_than_the_least_is_refused_as_by_training(signal: str, tmp_path: Path) -> None:
    """With the same least, but for what the memory of the process is measured to be."""
    build_graph(write_text(tmp_path / "a.txt"), tmp_path / "g.sifu", vocab=20, signal=signal, length=8)
    said = []
    for run in (lambda graph: estimate(graph, host_memory=1), lambda graph: graph.train(steps=1, progress=False)):
        with Graph.open(tmp_path / "g.sifu", host_memory=1) as graph, pytest.raises(HostMemoryError) as found:
            run(graph)
        assert ("depend on `batch`" in str(found.value)) is (signal == "tuned")
        said.append(float(re.search(r"the least that works here is ([\d.]+) MiB", str(found.value))[1]))
    assert abs(said[0] - said[1]) < 4
    with Graph.open(tmp_path / "g.sifu", host_memory=1) as graph, pytest.raises(HostMemoryError) as found:
        graph.evaluate()
    assert "`batch`" not in str(found.value)  # which evaluation does not have
    with pytest.raises(HostMemoryError, match="the least that works here is"):
        estimate(host_memory="1MiB")


def test_a_width_without_a_kernel_is_slow_and_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if native.compiler() is None:
        pytest.skip(needs.COMPILER)
    fast, slow = (estimate(vocab=1000, width=width) for width in (16, 8))
    assert slow.resident_tokens_per_s / slow.matrix_flops < fast.resident_tokens_per_s / fast.matrix_flops / 3
    assert native.slow_reason(16) is native.slow_reason(128) is None
    assert "slower than a width of 16" in (native.slow_reason(18) or "")
    assert "slower than a width of 128" in (native.slow_reason(512) or "")
    text, said = write_text(tmp_path / "a.txt"), []
    for width, noted in ((16, False), (10, True)):
        report = build_graph(text, tmp_path / "g.sifu", vocab=10, width=width, force=True)
        with Graph.open(tmp_path / "g.sifu") as graph:
            graph.train(steps=1, say=said.append)
        assert any("several" in note or "times slower" in note for note in report.notes) is noted
        assert any("times slower" in note for note in said) is noted
    monkeypatch.setattr(native, "compiler", lambda: None)
    assert "no C++ compiler" in (native.slow_reason(16) or "")


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
    with pytest.raises(HostMemoryError):
        estimate(host_memory="1GiB", batch=4096)
    more = estimate(host_memory="1GiB", batch=1024)
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
