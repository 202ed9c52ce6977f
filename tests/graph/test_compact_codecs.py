"""`Graph.compact` with a precision or a codec: what a graph says, keeps and loses."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from sifu_store.errors import OptionError
from sifu_store.layout import BIAS, CODEC_VERSION, WEIGHT
from sifu_store.page_codecs import is_rounded
from tables import table

from sifu_graph import Graph, OptimizerConfig, build_graph


def trained(graph: Graph, steps: int = 2, optimizer: OptimizerConfig | None = None) -> None:
    graph.train(steps=steps, batch=16, optimizer=optimizer)


def arrays(graph: Graph) -> dict[str, np.ndarray]:
    store = graph.store
    return {name: store.read_pages(name, 0, store.pages) for name in store.names() if store.is_paged(name)}


@pytest.mark.parametrize("codec", ["zstd", "blosc"])
def test_a_codec_changes_no_bit(graph: Graph, codec: str) -> None:
    trained(graph)
    before, perplexity, text = arrays(graph), graph.evaluate(), graph.generate("春", tokens=20, greedy=True).text
    size = graph.info().page_bytes
    report = graph.compact(codec=codec)
    info = graph.info()
    assert (report.precision, report.codec) == (info.precision, info.codec) == ("float32", codec)
    assert (report.page_bytes_before, report.page_bytes_after) == (size, info.page_bytes)
    assert report.pages_written == info.trained_pages and info.page_bytes < size
    assert info.format_version == CODEC_VERSION
    assert all(array.tobytes() == before[name].tobytes() for name, array in arrays(graph).items())
    assert graph.evaluate() == perplexity
    assert graph.generate("春", tokens=20, greedy=True).text == text
    assert graph.store.verify().ok
    assert graph.compact(codec=codec).snapshot is None  # nothing to do: no commit
    assert graph.diff("HEAD~1", "HEAD").edges_changed == 0
    graph.undo()
    assert graph.info().codec == "none" and graph.info().format_version == 1


def test_rounding_is_one_commit_that_can_be_undone(graph: Graph) -> None:
    trained(graph, optimizer=OptimizerConfig(kind="adamw", beta2=0.999))
    before = arrays(graph)
    dry = graph.compact(precision="bfloat16", dry_run=True)
    assert (dry.precision, dry.codec, dry.snapshot, dry.page_bytes_after) == ("bfloat16", "blosc", None, None)
    assert graph.info().precision == "float32"
    commits = len(graph.log().commits)
    graph.compact(precision="bfloat16")
    assert len(graph.log().commits) == commits + 1
    after = arrays(graph)
    assert after.keys() == before.keys() and len(after) > 2
    for name, array in after.items():
        if name in (WEIGHT, BIAS):
            assert is_rounded(array, "bfloat16") and not is_rounded(before[name], "bfloat16")
        else:
            assert array.tobytes() == before[name].tobytes()
    graph.undo()
    assert all(array.tobytes() == before[name].tobytes() for name, array in arrays(graph).items())


def test_rows_and_pages_in_one_commit(graph: Graph) -> None:
    trained(graph)
    graph.prune(to_ratio=0.2)
    before, commits = table(graph, energies=True), len(graph.log().commits)
    report = graph.compact(codec="zstd")
    assert report.slots_after < report.slots_before and len(graph.log().commits) == commits + 1
    table(graph, energies=True).same(before)
    assert graph.store.verify().ok


def test_training_a_rounded_graph_makes_it_float32_and_resumes_to_the_same_bits(graph: Graph) -> None:
    trained(graph)
    graph.compact(precision="bitround:5", codec="zstd")
    trained(graph, 2)
    once = arrays(graph)
    assert (graph.info().precision, graph.info().codec) == ("float32", "zstd")
    graph.undo()
    assert graph.info().precision == "bitround:5"
    trained(graph, 1)
    trained(graph, 1)
    assert all(array.tobytes() == once[name].tobytes() for name, array in arrays(graph).items())


def test_an_edit_keeps_the_values_that_it_sets(graph: Graph) -> None:
    trained(graph)
    graph.compact(precision="bfloat16")
    graph.add_node("龍", like="月")  # copies rounded values
    assert (graph.info().precision, graph.info().codec) == ("bfloat16", "blosc")
    report = graph.boost_edge("春", "風", 0.7)
    assert (graph.info().precision, graph.info().codec) == ("float32", "blosc")
    assert graph.inspect("春", "風").energy == pytest.approx(report.after.energy, rel=1e-6)
    assert graph.store.verify().ok


def test_what_has_no_meaning_is_refused(graph: Graph, text: Path, tmp_path: Path) -> None:
    before = graph.store.snapshot
    for options in ({"precision": "half"}, {"codec": "gzip"}, {"precision": "bfloat16", "codec": "none"}):
        with pytest.raises(OptionError, match=r"expected|only with a codec"):
            graph.compact(**options)
    assert graph.store.snapshot == before
    build_graph([text], tmp_path / "base.sifu", vocab=40, length=8, signal="recurrent")
    with Graph.open(tmp_path / "base.sifu") as base, pytest.raises(OptionError, match="no page is stored"):
        base.compact(codec="zstd")
