"""Out and in again: every format gives back what went in, and other libraries read it."""

from __future__ import annotations

import importlib
import importlib.util
import itertools
import json
import os
import random
import sys
from pathlib import Path
from types import SimpleNamespace

import needs
import numpy as np
import pytest
import scipy.sparse
import torch
from foreign_files import NAMES, Files
from oracle import gelu
from sifu_store.errors import ForeignFileError, OptionError, StoreExistsError
from sifu_store.layout import ARRAYS, BIAS, STORED, WEIGHT
from small import whole, write_text

from sifu_graph import Graph, build_graph, import_brillm, import_safetensors
from sifu_graph.generation.base_walk import walk_of
from sifu_graph.generation.sampler import Sampler
from sifu_graph.generation.walk import Walk
from sifu_graph.interop import converters
from sifu_graph.model import edge_reader


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Some pages stored, others not; default settings."""
    folder = tmp_path_factory.mktemp("trained")
    text = write_text(folder / "poems.txt", documents=60)
    build_graph(text, folder / "graph.sifu", vocab=40, sparsify=0.5, length=8, holdout=0.1, signal="tuned")
    with Graph.open(folder / "graph.sifu") as graph:
        graph.train(steps=1, batch=8)
    return folder / "graph.sifu"


# ---- brillm


def test_brillm_gives_back_the_files_that_were_imported(files: Files, imported: Graph, tmp_path: Path) -> None:
    for row in files.counts.values():  # what was not listed is written out: private, with a count of 1
        row.update({name: 1 for name in NAMES if name not in row})
    report = imported.export("brillm", tmp_path / "out")
    assert report.files == ["model.bin", "vocab.json", "word_frequency.json"]
    assert report.notes == ["2 private edges were never counted and are written with a count of 1: 0 means default"]
    for mmap in (False, True):
        state = torch.load(tmp_path / "out" / "model.bin", weights_only=True, mmap=mmap)
        assert list(state) == list(files.state)
        assert all(torch.equal(state[name], value) for name, value in files.state.items())
    assert json.loads((tmp_path / "out" / "vocab.json").read_text()) == json.loads(files.vocab.read_text())
    counts = json.loads((tmp_path / "out" / "word_frequency.json").read_text())
    assert counts == files.counts
    assert all(list(row.values()) == sorted(row.values(), reverse=True) for row in counts.values())


def test_brillm_of_a_built_graph_comes_home(tmp_path: Path) -> None:
    text = write_text(tmp_path / "poems.txt", documents=40)
    build_graph(text, tmp_path / "a.sifu", vocab=30, sparsify=0.4, length=8, signal="brillm05", init="uniform")
    with Graph.open(tmp_path / "a.sifu") as first:
        report = first.export("brillm", tmp_path / "out")
        assert not report.notes
        out = tmp_path / "out"
        import_brillm(
            out / "model.bin", tmp_path / "b.sifu", vocab=out / "vocab.json", frequency=out / "word_frequency.json"
        )
        with Graph.open(tmp_path / "b.sifu") as second:
            assert_same_edges(first, second)
            assert (
                second.tokenizer.encode_document("春風。\n").tolist()
                == first.tokenizer.encode_document("春風。\n").tolist()
            )
            positions = second.parameters.alpha
            assert torch.equal(positions, first.parameters.alpha[-1].expand(512))  # they are all 0
            line = {"tokens": 30, "greedy": True}
            assert second.generate("春風", **line).text == first.generate("春風", **line).text


def assert_same_edges(first: Graph, second: Graph) -> None:
    one, two = first.parameters, second.parameters
    np.testing.assert_array_equal(one.index.keys(), two.index.keys())
    np.testing.assert_array_equal(one.index.count, two.index.count)
    for name in (WEIGHT, BIAS):
        assert torch.equal(one.edges.get(name, one.index.slots()), two.edges.get(name, two.index.slots()))
    for name in ("default/weight", "default/bias", "nodes/bias"):
        assert torch.equal(one.small[name], two.small[name])


def test_brillm_at_level_bpe_writes_the_tokenizer_file(tmp_path: Path) -> None:
    (tmp_path / "en.txt").write_text("the cat sat on the mat\na dog ran to the sea\n" * 20, encoding="utf-8")
    build_graph(
        tmp_path / "en.txt", tmp_path / "a.sifu", vocab=280, level="bpe", signal="brillm05", length=8, holdout=0
    )
    with Graph.open(tmp_path / "a.sifu") as first:
        first.export("brillm", tmp_path / "out")
        out = tmp_path / "out"
        import_brillm(
            out / "model.bin", tmp_path / "b.sifu", vocab=out / "vocab.json",
            frequency=out / "word_frequency.json", tokenizer=out / "tokenizer.json",
        )  # fmt: skip
        with Graph.open(tmp_path / "b.sifu") as second:
            for text in ("the cat", "sea dogs é", " the  mat"):
                assert second.tokenizer.encode(text).tolist() == first.tokenizer.encode(text).tolist()
            assert second.tokenizer.vocabulary == first.tokenizer.vocabulary


def test_brillm_refuses_what_the_released_code_would_compute_otherwise(trained: Path, tmp_path: Path) -> None:
    with Graph.open(trained) as graph, pytest.raises(OptionError, match="'tuned', the released code computes brillm05"):
        graph.export("brillm", tmp_path / "out")
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif("BRILLM_CHECKOUT" not in os.environ, reason=needs.RELEASED_CODE)
def test_the_released_code_loads_it_and_decodes_the_same(
    files: Files, imported: Graph, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A default edge that wins ties with all other default edges: there the released code takes one at random."""
    monkeypatch.syspath_prepend(os.environ["BRILLM_CHECKOUT"])
    sys.modules.pop("model", None)
    released = importlib.import_module("model")
    imported.export("brillm", tmp_path / "out")
    names = json.loads((tmp_path / "out" / "vocab.json").read_text())
    counts = json.loads((tmp_path / "out" / "word_frequency.json").read_text())
    vocab = released.Vocab.from_node_dict(names)
    zero = {u: [v for v, count in row.items() if count == 0] for u, row in counts.items()}
    model = released.BraLM(hidden_size=8, zero_freq_edges=zero, vocab=vocab)
    model.prepare_network(vocab)
    model.load_state_dict(torch.load(tmp_path / "out" / "model.bin", weights_only=True))
    model.to_device("cpu")
    same, ties, index = 0, 0, imported.parameters.index
    draw, greedy = random.Random(3), Sampler(temperature=0)
    for _ in range(40):
        prompt = [draw.choice(NAMES[1:]) for _ in range(4)]
        with torch.no_grad():
            edges = model.decode([vocab(f"{u}->{v}") for u, v in itertools.pairwise(prompt)], vocab, 12)
        parted = False
        walk = Walk(imported.parameters, imported.signal)
        walk.start(names[prompt[0]])
        for step, (u, v) in enumerate(edges):
            if step >= 3 and walk.choose(greedy, np.random.default_rng()) != v:
                parted = True
                energies, default = walk.energies()
                others = index.target[index.row(u)] != u  # decoding has no self edge
                assert default >= energies[others].max()
                assert index.slot_of(u, v) is None
            walk.carry(v)
        ties += parted
        if not parted:
            theirs = "".join(NAMES[v] for _, v in edges[3:])
            assert imported.generate("".join(prompt), tokens=12, greedy=True).text == theirs
            same += 1
    assert same + ties == 40
    assert same > 5


# ---- safetensors


def test_safetensors_comes_back(trained: Path, tmp_path: Path) -> None:
    with Graph.open(trained) as first:
        report = first.export("safetensors", tmp_path / "graph.safetensors")
        assert report.size_bytes == (tmp_path / "graph.safetensors").stat().st_size
        import_safetensors(tmp_path / "graph.safetensors", tmp_path / "b.sifu")
        with Graph.open(tmp_path / "b.sifu") as second:
            assert_same_edges(first, second)
            for spec in ARRAYS:
                if not spec.paged and spec.name != STORED:
                    np.testing.assert_array_equal(second.store.read(spec.name), first.store.read(spec.name))
            assert second.store.verify().ok
            assert second.signal == first.signal
            assert second.settings["build"]["imported"]["training"]["step"] == 1
            assert second.evaluate().perplexity == pytest.approx(first.evaluate().perplexity)
            assert second.train(steps=1, batch=8).step == 1


def test_the_library_reads_our_safetensors(trained: Path, tmp_path: Path) -> None:
    safetensors = pytest.importorskip("safetensors")
    with Graph.open(trained) as graph:
        graph.export("safetensors", tmp_path / "graph.safetensors")
        with safetensors.safe_open(tmp_path / "graph.safetensors", "np") as file:
            assert file.metadata()["format_version"] == "1"
            slots = graph.parameters.index.slots()
            np.testing.assert_array_equal(file.get_tensor("edges/weight"), graph.parameters.edges.get(WEIGHT, slots))
            np.testing.assert_array_equal(file.get_tensor("edges/target"), graph.parameters.index.target)
            np.testing.assert_array_equal(file.get_tensor("signal/alpha"), graph.store.read("signal/alpha"))


def test_bad_safetensors(trained: Path, tmp_path: Path) -> None:
    with Graph.open(trained) as graph:
        graph.export("safetensors", tmp_path / "g.safetensors")
    whole = (tmp_path / "g.safetensors").read_bytes()
    length = int.from_bytes(whole[:8], "little")
    header, data = whole[8 : 8 + length], whole[8 + length :]
    empty = {"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}
    for content, message in [
        (b"", "not a safetensors file, or incomplete"),
        (b"\xff" * 64, "not a safetensors file, or incomplete"),
        (whole[:200], "not a safetensors file, or incomplete"),
        (whole[:-5], "ends too early"),
        (whole[:8] + header.replace(b'"F32"', b'"F16"', 1) + data, "expected"),
        (
            whole[:8] + header.replace(b'"format_version\\": 1', b'"format_version\\": 9') + data,
            "written by a newer release",
        ),
        (len(json.dumps(empty)).to_bytes(8, "little") + json.dumps(empty).encode() + b"abcd", "not a graph of sifu"),
    ]:
        (tmp_path / "bad.safetensors").write_bytes(content)
        with pytest.raises(ForeignFileError) as caught:
            import_safetensors(tmp_path / "bad.safetensors", tmp_path / "b.sifu")
        assert message in str(caught.value), content[:60]
        assert not (tmp_path / "b.sifu").exists()


# ---- scipy, GraphML, networkx, PyTorch


def energy_by_hand(graph: Graph, u: int, v: int) -> float:
    """E(v) at the first position of a text that begins with u, by the formulas."""
    walk = Walk(graph.parameters, graph.signal)
    walk.start(u)
    slot = graph.parameters.index.slot_of(u, v)
    parameters = graph.parameters
    W, b = parameters.default_W, parameters.default_b
    if slot is not None:
        W, b = (parameters.edges.get(name, np.array([slot]))[0] for name in (WEIGHT, BIAS))
    return float(gelu(walk.signal.mix[0] @ W + b).norm())


def test_scipy(trained: Path, tmp_path: Path) -> None:
    with Graph.open(trained) as graph:
        graph.export("scipy", tmp_path / "out")
        counts, energies = (scipy.sparse.load_npz(tmp_path / "out" / f"{name}.npz") for name in ("counts", "energies"))
        default = np.load(tmp_path / "out" / "default_energies.npy")
        index = graph.parameters.index
        assert json.loads((tmp_path / "out" / "nodes.json").read_text()) == graph.tokenizer.vocabulary
        for place in range(0, index.edges, 17):
            u, v = divmod(int(index.keys()[place]), index.nodes)
            assert counts[u, v] == index.count[place]
            assert energies[u, v] == pytest.approx(energy_by_hand(graph, u, v), rel=1e-5)
        missing = next(v for v in range(index.nodes) if index.slot_of(3, v) is None)
        assert default[3] == pytest.approx(energy_by_hand(graph, 3, missing), rel=1e-5)
        assert counts.nnz == energies.nnz == index.edges


def test_graphml_and_networkx(trained: Path, tmp_path: Path) -> None:
    networkx = pytest.importorskip("networkx")
    with Graph.open(trained) as graph:
        graph.export("graphml", tmp_path / "g.graphml")
        read, made = networkx.read_graphml(tmp_path / "g.graphml", node_type=int), graph.to_networkx()
        assert [read.nodes[node]["token"] for node in sorted(read)] == graph.tokenizer.vocabulary
        assert (
            set(read.edges) == set(made.edges) == set(map(tuple, np.argwhere(graph.to_scipy()[0].todense()).tolist()))
        )
        for u, v in list(made.edges)[::13]:
            assert read.edges[u, v] == pytest.approx(made.edges[u, v])
        assert dict(made.nodes(data=True)) == {node: pytest.approx(data) for node, data in read.nodes(data=True)}


def test_every_format_has_the_forbidden_pairs(tmp_path: Path) -> None:
    networkx = pytest.importorskip("networkx")
    (tmp_path / "t.txt").write_text("abcabdacbd\n" * 9, encoding="utf-8")
    for signal in ("tuned", "recurrent", "brillm05"):
        store = tmp_path / f"{signal}.sifu"
        build_graph(tmp_path / "t.txt", store, vocab=20, length=4, holdout=0, signal=signal, clones=None)
        with Graph.open(store) as graph:
            graph.forbid_edge("a", "b")
            pair = [graph.tokenizer.token_id(name) for name in "ab"]
            graph.export("scipy", tmp_path / signal)
            assert np.load(tmp_path / signal / "forbidden.npy").tolist() == [pair]
            assert graph.to_networkx().graph["forbidden"] == [tuple(pair)]
            graph.export("graphml", tmp_path / f"{signal}.graphml")
            read = networkx.read_graphml(tmp_path / f"{signal}.graphml", node_type=int).edges[tuple(pair)]
            assert read.get("forbidden") or read["energy"] == -np.inf
            if signal == "brillm05":
                with pytest.raises(OptionError, match="1 forbidden pairs, such as a -> b"):
                    graph.export("brillm", tmp_path / "out")


def test_graphml_of_characters_that_xml_cannot_hold(tmp_path: Path) -> None:
    networkx = pytest.importorskip("networkx")
    (tmp_path / "odd.txt").write_text("a\x01b<&>\"'\tc\n" * 9, encoding="utf-8")
    build_graph(tmp_path / "odd.txt", tmp_path / "g.sifu", vocab=20, length=4, holdout=0, signal="tuned")
    with Graph.open(tmp_path / "g.sifu") as graph:
        graph.export("graphml", tmp_path / "g.graphml")
        read = networkx.read_graphml(tmp_path / "g.graphml", node_type=int)
        wanted = ["<0x01>" if name == "\x01" else name for name in graph.tokenizer.vocabulary]
        assert [read.nodes[node]["token"] for node in sorted(read)] == wanted


def test_energies_of_a_graph_with_a_base(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Against the walk, for private and default edges; no matrix of an edge is read."""
    build_graph(write_text(tmp_path / "a.txt"), tmp_path / "g.sifu", vocab=20, sparsify=0.2)

    def read(*_: object) -> None:
        raise AssertionError("a matrix was read")

    monkeypatch.setattr(edge_reader.EdgeReader, "read", read)
    with Graph.open(tmp_path / "g.sifu") as graph:
        graph.train(steps=2)
        counts, energies = graph.to_scipy()
        graph.export("scipy", tmp_path / "out")
        default = np.load(tmp_path / "out" / "default_energies.npy")
        for u in range(2, len(graph.tokenizer)):
            walk = walk_of(graph.parameters, graph.signal)
            walk.start(u)
            every = walk.energies()[0].astype(np.float64)
            private = np.zeros(len(every), bool)
            private[counts[[u]].nonzero()[1]] = True
            np.testing.assert_allclose(energies[[u]].toarray()[0][private], every[private], atol=1e-5)
            assert default[u] == pytest.approx(np.log(np.mean(np.exp(every[~private]))), abs=1e-5)


def test_pytorch_geometric(trained: Path) -> None:
    pytest.importorskip("torch_geometric")
    with Graph.open(trained) as graph:
        data = graph.to_pyg()
        index = graph.parameters.index
        np.testing.assert_array_equal(data.edge_index[0] * index.nodes + data.edge_index[1], index.keys())
        np.testing.assert_array_equal(data.edge_attr[:, 0], index.count)
        _counts, energies = graph.to_scipy()
        np.testing.assert_array_equal(data.edge_attr[:, 1], energies.data)
        assert data.validate()
        assert data.forbidden.shape == (2, 0)
        for found, wanted in zip(converters.from_pyg(data), graph.to_scipy(), strict=True):
            assert_same_matrix(found, wanted)


def assert_same_matrix(found: scipy.sparse.csr_array, wanted: scipy.sparse.csr_array) -> None:
    assert (found.shape, found.dtype) == (wanted.shape, wanted.dtype)
    for part in ("indptr", "indices", "data"):
        np.testing.assert_array_equal(getattr(found, part), getattr(wanted, part))


@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated:DeprecationWarning")  # by torch-sparse
def test_torch_sparse(trained: Path) -> None:
    with Graph.open(trained) as graph:
        if importlib.util.find_spec("torch_sparse") is None:
            with pytest.raises(OptionError, match="this needs torch-sparse"):
                graph.to_torch_sparse()
            pytest.skip(needs.TORCH_SPARSE)
        row, col, value = graph.to_torch_sparse().coo()
        np.testing.assert_array_equal(row * graph.parameters.index.nodes + col, graph.parameters.index.keys())
        np.testing.assert_array_equal(value, graph.to_scipy()[1].data)
        assert_same_matrix(converters.from_torch_sparse(graph.to_torch_sparse()), graph.to_scipy()[1])


class Compressed(SimpleNamespace):
    """As much of `torch_sparse.SparseTensor` as the exchange asks for: the library takes half an hour to build."""

    def csr(self) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        return self.rowptr, self.col, self.value


def test_torch_sparse_there_and_back(trained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def made(*, is_sorted: bool, sparse_sizes: tuple[int, int], **parts: torch.Tensor) -> Compressed:
        assert is_sorted
        return Compressed(**parts, sparse_sizes=lambda: sparse_sizes)

    monkeypatch.setitem(sys.modules, "torch_sparse", SimpleNamespace(SparseTensor=made))
    with Graph.open(trained) as graph:
        assert_same_matrix(converters.from_torch_sparse(graph.to_torch_sparse()), graph.to_scipy()[1])


# ---- targets, and edges in odd places


@pytest.mark.parametrize("kind", ["safetensors", "scipy", "graphml"])
def test_a_target_that_exists(trained: Path, tmp_path: Path, kind: str) -> None:
    with Graph.open(trained) as graph:
        graph.export(kind, tmp_path / "out")
        before = sorted(path.stat().st_mtime_ns for path in [tmp_path / "out", *tmp_path.glob("out/*")])
        with pytest.raises(StoreExistsError, match="exists"):
            graph.export(kind, tmp_path / "out")
        assert before == sorted(path.stat().st_mtime_ns for path in [tmp_path / "out", *tmp_path.glob("out/*")])
        graph.export(kind, tmp_path / "out", force=True)
        assert [path.name for path in tmp_path.iterdir()] == ["out"]
        mine = tmp_path / "mine"
        mine.mkdir()
        (mine / "thesis.txt").write_text("years of work")
        with pytest.raises(StoreExistsError, match="other files in it"):
            graph.export(kind, mine, force=True)
        assert (mine / "thesis.txt").read_text() == "years of work"
        with pytest.raises((OptionError, StoreExistsError)):
            graph.export(kind, graph.path, force=True)
        with pytest.raises(OptionError, match="no such folder"):
            graph.export(kind, tmp_path / "nowhere" / "out")


def test_an_export_that_fails_leaves_nothing(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(edge_reader.EdgeReader, "read", fail)
    with Graph.open(trained) as graph:
        for kind in ("safetensors", "scipy", "graphml"):
            with pytest.raises(KeyboardInterrupt):
                graph.export(kind, tmp_path / "out")
    assert not list(tmp_path.iterdir())


def test_slots_in_any_order(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Edits leave rows in several runs: what is written is sorted by (u, v) nevertheless."""
    monkeypatch.setattr(edge_reader, "BLOCK_EDGES", 64)
    with Graph.open(trained) as graph:
        slots = np.random.default_rng(0).permutation(graph.parameters.edges.slots)
        for name in (WEIGHT, BIAS):
            wanted = whole(graph.store, name)[slots]
            stored = graph.store.page_stored()[slots // 512]
            found = graph._edge_reader().read(name, slots)
            np.testing.assert_array_equal(found[stored], wanted[stored])
            np.testing.assert_array_equal(found, graph.parameters.edges.get(name, slots))
        assert (
            sum(len(block) for block in graph._edge_reader().blocks(BIAS, graph.parameters.index))
            == graph.parameters.index.edges
        )
