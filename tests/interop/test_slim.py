"""Files to ship: pages that were never trained are left out, nothing of the text is inside, and all comes back."""

from __future__ import annotations

import json
import lzma
import math
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sifu_store.errors import CorpusError, ForeignFileError, OptionError
from sifu_store.layout import BIAS, STORED, WEIGHT
from small import write_text
from test_export import assert_same_edges

from sifu_graph import Graph, build_graph, import_safetensors


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A graph with a base and clones, trained for two steps."""
    folder = tmp_path_factory.mktemp("a folder of mine")
    text = write_text(folder / "poems.txt", documents=200)
    build_graph(text, folder / "graph.sifu", vocab=60, clones=20, length=8, holdout=0.2, width=32)
    with Graph.open(folder / "graph.sifu") as graph:
        graph.train(steps=2, batch=8)
    return folder / "graph.sifu"


@pytest.fixture(scope="module")
def edited(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A graph whose edges have matrices, with trained pages and others, after an edit."""
    folder = tmp_path_factory.mktemp("edited")
    text = write_text(folder / "poems.txt", documents=60)
    build_graph(text, folder / "graph.sifu", vocab=40, sparsify=0.5, length=8, holdout=0.2, signal="tuned")
    with Graph.open(folder / "graph.sifu") as graph:
        graph.train(steps=1, batch=4)
        graph.add_node("春風")
    return folder / "graph.sifu"


def parts(content: bytes) -> tuple[dict[str, Any], bytes]:
    """The header and the data of a file."""
    (length,) = struct.unpack("<Q", content[:8])
    return json.loads(content[8 : 8 + length]), content[8 + length :]


def test_pages_that_were_never_trained_are_not_in_the_file(shared: Path, tmp_path: Path) -> None:
    with Graph.open(shared) as first:
        report = first.export("safetensors", tmp_path / "g.safetensors")
        edges, width = first.parameters.index.edges, first.parameters.width
        assert report.size_bytes < edges * width * width  # a quarter of the matrices of all edges
        header, _ = parts((tmp_path / "g.safetensors").read_bytes())
        assert header[WEIGHT]["shape"] == [0, width, width]
        assert header[STORED]["shape"] == [first.store.pages]
        made = import_safetensors(tmp_path / "g.safetensors", tmp_path / "b.sifu")
        assert made.store_bytes < first.store.size_bytes() + 100_000
        with Graph.open(tmp_path / "b.sifu") as second:
            assert second.info().trained_pages == first.info().trained_pages == 0
            assert_same_edges(first, second)
            assert second.store.verify().ok
            assert second.evaluate().perplexity == first.evaluate().perplexity


def test_a_file_with_every_page_is_still_read(shared: Path, tmp_path: Path) -> None:
    """Earlier releases wrote every page, and no `pages/stored`."""
    with Graph.open(shared) as first:
        first.export("safetensors", tmp_path / "new.safetensors")
        header, data = parts((tmp_path / "new.safetensors").read_bytes())
        index, reader = first.parameters.index, first._edge_reader()
        every = {name: reader.read(name, index.slots()) for name in (WEIGHT, BIAS)}
        old: dict[str, Any] = {"__metadata__": header.pop("__metadata__")}
        content = b""
        del header[STORED]
        for name, place in header.items():
            begin, end = place["data_offsets"]
            piece = every[name].tobytes() if name in every else data[begin:end]
            shape = list(every[name].shape) if name in every else place["shape"]
            old[name] = {**place, "shape": shape, "data_offsets": [len(content), len(content) + len(piece)]}
            content += piece
        text = json.dumps(old).encode()
        (tmp_path / "old.safetensors").write_bytes(struct.pack("<Q", len(text)) + text + content)
        import_safetensors(tmp_path / "old.safetensors", tmp_path / "b.sifu")
        with Graph.open(tmp_path / "b.sifu") as second:
            assert second.info().trained_pages == second.store.pages
            assert_same_edges(first, second)
            assert second.evaluate().perplexity == first.evaluate().perplexity


def test_a_slim_file_comes_back(shared: Path, edited: Path, tmp_path: Path) -> None:
    for at, path in enumerate((shared, edited)):
        with Graph.open(path) as first:
            report = first.export("slim", tmp_path / f"{at}.xz")
            assert report.scores is not None
            assert report.scores.tokens > 50
            assert report.scores.slim_perplexity == report.scores.perplexity
            import_safetensors(tmp_path / f"{at}.xz", tmp_path / f"{at}.sifu")
            with Graph.open(tmp_path / f"{at}.sifu") as second:
                assert_same_edges(first, second)
                assert second.store.verify().ok
                assert len(list(second.store.history())) == 1
                assert second.generate("春風", tokens=20, seed=3).text == first.generate("春風", tokens=20, seed=3).text
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


def test_sixteen_bits(shared: Path, edited: Path, tmp_path: Path) -> None:
    for at, path in enumerate((shared, edited)):
        with Graph.open(path) as graph:
            full = graph.export("slim", tmp_path / f"{at}.xz").size_bytes
            report = graph.export("slim", tmp_path / f"{at}-half.xz", half=True)
            assert report.size_bytes < 0.9 * full
            assert report.scores is not None
            assert abs(math.log(report.scores.slim_perplexity / report.scores.perplexity)) < 0.005
            header, _ = parts(lzma.decompress((tmp_path / f"{at}-half.xz").read_bytes()))
            assert header["nodes/bias"]["dtype"] == header[WEIGHT]["dtype"] == "F16"
            with pytest.raises(OptionError, match="`half` is True: it is of slim files alone"):
                graph.export("safetensors", tmp_path / "g.safetensors", half=True)


def test_a_value_that_16_bits_do_not_hold(edited: Path, tmp_path: Path) -> None:
    with Graph.open(edited) as graph:
        graph.store.close()
        from sifu_graph.interop.safetensors_export import _halved

        large = np.array([1e5], np.float32)
        assert _halved("nodes/bias", large) is large
        with pytest.raises(OptionError, match="edges/bias has values above 65,504"):
            _halved(BIAS, large, always=True)


def test_nothing_of_the_text_or_of_its_folder_is_inside(shared: Path, tmp_path: Path) -> None:
    with Graph.open(shared) as graph:
        graph.export("slim", tmp_path / "g.xz")
    content = lzma.decompress((tmp_path / "g.xz").read_bytes())
    assert b"a folder of mine" not in content
    assert b"poems.txt" in content
    lines = (shared.parent / "poems.txt").read_text(encoding="utf-8").splitlines()
    assert not [line for line in lines if len(line) > 6 and line.encode() in content]
    import_safetensors(tmp_path / "g.xz", tmp_path / "b.sifu")
    assert {path.name for path in (tmp_path / "b.sifu").iterdir()}.isdisjoint({"cache", "metrics.jsonl"})


def test_without_the_text_the_file_is_written_all_the_same(shared: Path, tmp_path: Path) -> None:
    with Graph.open(shared) as graph:
        graph.export("slim", tmp_path / "g.xz")
    import_safetensors(tmp_path / "g.xz", tmp_path / "b.sifu")
    with Graph.open(tmp_path / "b.sifu") as graph:
        report = graph.export("slim", tmp_path / "again.xz")
    assert report.scores is None
    assert report.notes[0].startswith("its perplexity was not computed: ")
    assert import_safetensors(tmp_path / "again.xz", tmp_path / "c.sifu").private_edges == report.private_edges


def test_what_needs_a_text_says_that_a_slim_file_has_none(
    shared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Graph.open(shared) as graph:
        graph.export("slim", tmp_path / "g.xz")
    import_safetensors(tmp_path / "g.xz", tmp_path / "b.sifu")
    monkeypatch.chdir(tmp_path)
    said = "the graph was imported from g.xz, which carries no text, and the text that it was built from is not here"
    missing = f"{said} (poems.txt: missing; the graph was built from it): put it back"
    text = shared.parent / "poems.txt"
    with Graph.open("b.sifu") as graph:
        named, baselines = "name a text as `corpus`", "leave `with_baselines` out, which needs that text"
        needs: list[tuple[Callable[[], object], str]] = [
            (lambda: graph.train(steps=1), f"{missing} or {named}"),
            (lambda: graph.evaluate(), f"{missing} or {named}"),
            (lambda: graph.grow(clones=9), f"{missing} or {named}"),
            (lambda: graph.add_node("春風", train_steps=1), f"{missing} or {named}"),
            (lambda: graph.evaluate(text, with_baselines=True), f"{missing} or {baselines}"),
            (lambda: graph.evaluate_edits(3), missing),
        ]
        for call, message in needs:
            with pytest.raises(CorpusError) as caught:
                call()
            assert str(caught.value) == message
        note = graph.prune(min_count=2, evaluate=True, dry_run=True).note
        assert note is not None
        assert note.endswith(f"no perplexity: {missing}")
        Path("poems.txt").write_text("another text\n", encoding="utf-8")
        with pytest.raises(CorpusError, match=r"carries no text, .*\(poems.txt: changed since the graph was built"):
            graph.evaluate()
        assert graph.evaluate(text).tokens > 50
        assert graph.train(text, steps=1).steps_done == 1


def test_damaged_slim_files_are_refused(shared: Path, tmp_path: Path) -> None:
    with Graph.open(shared) as graph:
        graph.export("slim", tmp_path / "g.xz")
    good = (tmp_path / "g.xz").read_bytes()
    header, data = parts(lzma.decompress(good))
    begin = header[STORED]["data_offsets"][0]
    assert data[begin] == 0
    text = json.dumps(header).encode()
    trained = struct.pack("<Q", len(text)) + text + data[:begin] + b"\1" + data[begin + 1 :]
    for content, message in [
        (good[:-20], "damaged or incomplete"),
        (good[:100] + b"\0" * 50 + good[150:], "damaged or incomplete"),
        (lzma.compress(b"\0" * (12 << 20)), "more than 8.* unpacked"),
        (lzma.compress(b"text of somebody"), "not a safetensors file"),
        (lzma.compress(trained), r"edges/weight has 0 rows; expected \d+ by pages/stored"),
    ]:
        (tmp_path / "bad.xz").write_bytes(content)
        with pytest.raises(ForeignFileError, match=message) as caught:
            import_safetensors(tmp_path / "bad.xz", tmp_path / "b.sifu")
        assert str(tmp_path / "bad.xz") in str(caught.value)
        assert not (tmp_path / "b.sifu").exists()


def test_info_says_how_well_it_predicts_and_whether_text_is_inside(shared: Path, tmp_path: Path) -> None:
    with Graph.open(shared) as graph:
        info = graph.info()
        assert info.heldout_perplexity == pytest.approx(graph.evaluate().perplexity)
        assert info.text_bytes == sum(file.stat().st_size for file in (shared / "cache").glob("*/*.ids")) > 0
        graph.export("slim", tmp_path / "g.xz")
    import_safetensors(tmp_path / "g.xz", tmp_path / "b.sifu")
    with Graph.open(tmp_path / "b.sifu") as graph:
        assert graph.info().text_bytes == 0
        assert graph.info().heldout_perplexity is None
