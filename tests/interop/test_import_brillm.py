"""Checkpoints of the released code: every row goes to its edge, and what does not fit is refused with one line."""

from __future__ import annotations

import json
import pickle
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from foreign_files import NAMES, Files, state_of
from sifu_store.errors import ForeignFileError, OptionError, SifuError, StoreExistsError
from sifu_store.layout import BIAS, WEIGHT

from sifu_graph import Graph, ProgressReport, import_brillm
from sifu_graph.interop import brillm_import


def edge(graph: Graph, u: str, v: str) -> tuple[torch.Tensor, torch.Tensor]:
    """W and b of an edge by the names of its nodes."""
    at = [graph.tokenizer.token_id(name) for name in (u, v)]
    assert at[0] is not None and at[1] is not None
    slot = graph.parameters.index.slot_of(at[0], at[1])
    if slot is None:
        return graph.parameters.default_W, graph.parameters.default_b
    edges, slots = graph.parameters.edges, np.array([slot])
    return edges.get(WEIGHT, slots)[0], edges.get(BIAS, slots)[0]


def test_every_row_goes_to_its_edge(files: Files, imported: Graph) -> None:
    row_of = {pair: row for row, pair in enumerate(files.rows(), start=1)}
    for u in NAMES:
        for v in NAMES:
            W, b = edge(imported, u, v)
            row = row_of.get((u, v), 0)
            assert torch.equal(W, files.state["weights"][row])
            assert torch.equal(b, files.state["biases"][row, 0])
    small = imported.parameters.small
    assert torch.equal(small["nodes/bias"], files.state["node_bias"][:, 0])
    assert torch.equal(small["signal/alpha"], files.state["positions"][0, :, 0])
    assert imported.store.verify().ok
    assert imported.info().settings["build"]["signal_preset"] == "brillm05"


def test_counts_are_those_of_the_file(files: Files, imported: Graph) -> None:
    index = imported.parameters.index
    for node, name in enumerate(NAMES):
        row = index.row(node)
        found = {NAMES[v]: int(c) for v, c in zip(index.target[row], index.count[row], strict=True)}
        listed = files.counts[name]
        assert found == {v: listed.get(v, 0) for v in NAMES if listed.get(v, 1) != 0}
    totals = [sum(files.counts[name].values()) for name in NAMES]
    np.testing.assert_array_equal(imported.store.read("rows/total"), totals)


@pytest.mark.parametrize("pages", [1, 32])
def test_more_than_one_run_of_pages(files: Files, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pages: int) -> None:
    """Every edge private: 1,089 edges, three pages."""
    monkeypatch.setattr(brillm_import, "RUN_PAGES", pages)
    state = state_of(len(NAMES) ** 2, nodes=len(NAMES), width=4, rng=np.random.default_rng(1))
    torch.save(state, files.checkpoint)
    seen: list[ProgressReport] = []
    report = files.run(tmp_path / "all.sifu", frequency=None, progress=seen.append)
    assert report.private_edges == len(NAMES) ** 2
    assert seen[-1].done == seen[-1].total == report.private_edges
    with Graph.open(tmp_path / "all.sifu") as graph:
        every = graph.parameters.edges.get(WEIGHT, np.arange(len(NAMES) ** 2))
        assert torch.equal(every, state["weights"][1:])
        assert len(graph.generate("春", tokens=5, greedy=True).text) >= 5


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_and_training_checkpoints(files: Files, tmp_path: Path, dtype: torch.dtype) -> None:
    half = {name: value.to(dtype) for name, value in files.state.items()}
    torch.save({"model_state_dict": half, "epoch": 3, "optimizer_state_dict": {"lr": 0.05}}, files.checkpoint)
    files.run(tmp_path / "half.sifu")
    with Graph.open(tmp_path / "half.sifu") as graph:
        assert torch.equal(graph.parameters.default_W, half["weights"][0].float())


def test_it_generates_and_trains_on_a_named_text(imported: Graph, tmp_path: Path) -> None:
    text = tmp_path / "text.txt"
    text.write_text("春風不來，花相生。\n白雲在天，水自長。\n" * 20, encoding="utf-8")
    assert imported.evaluate([text]).tokens > 0
    assert imported.train([text], steps=1, batch=4).steps_done == 1
    assert imported.generate("春花", tokens=4, seed=1).tokens == 4


def test_without_a_text_it_says_so(imported: Graph) -> None:
    with pytest.raises(SifuError, match="imported, with no text of its own: name a text as `corpus`"):
        imported.evaluate()


# ---- what is refused


def refused(files: Files, tmp_path: Path, **options: Any) -> str:
    """The line of the error; and there is no store, nor anything else of it."""
    before = sorted(tmp_path.iterdir())
    with pytest.raises((ForeignFileError, OptionError)) as caught:
        files.run(tmp_path / "refused.sifu", **options)
    assert sorted(tmp_path.iterdir()) == before
    assert "\n" not in str(caught.value)
    return str(caught.value)


class Attack:
    """Runs code where it is unpickled carelessly."""

    def __reduce__(self) -> Any:
        return Path.touch, (Path("attacked"),)


def test_code_in_a_pickle(files: Files, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({**files.state, "extra": Attack()}, files.checkpoint)
    assert "could run code" in refused(files, tmp_path)
    files.checkpoint.write_bytes(pickle.dumps(Attack()))
    assert "a bare pickle" in refused(files, tmp_path)
    torch.save(files.state, files.checkpoint, _use_new_zipfile_serialization=False)
    assert "a bare pickle (from PyTorch before 1.6" in refused(files, tmp_path)
    assert not Path("attacked").exists()


def test_torn_and_foreign_files(files: Files, tmp_path: Path) -> None:
    whole = files.checkpoint.read_bytes()
    files.checkpoint.write_bytes(whole[: len(whole) // 2])
    assert "ends too early" in refused(files, tmp_path)
    files.checkpoint.write_bytes(b"")
    assert "not a checkpoint" in refused(files, tmp_path)
    files.checkpoint.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 9\n")
    assert "Git LFS pointer" in refused(files, tmp_path)
    with zipfile.ZipFile(files.checkpoint, "w") as archive:
        archive.writestr("readme.txt", "hello")
    assert "damaged, or not a checkpoint" in refused(files, tmp_path)
    files.checkpoint.unlink()
    assert "No such file" in refused(files, tmp_path)


def test_missing_keys_and_wrong_shapes(files: Files, tmp_path: Path) -> None:
    state = files.state
    for broken, message in [
        ({name: value for name, value in state.items() if name != "biases"}, "no biases in it (it has positions"),
        ({**state, "biases": state["biases"][:-1]}, "biases has shape"),
        ({**state, "biases": state["biases"][:, 0]}, "biases has shape"),
        ({**state, "weights": state["weights"][:, :, :4]}, "weights has shape"),
        ({**state, "weights": state["weights"][0, 0, 0]}, "weights has shape []"),
        ({**state, "weights": state["weights"].long()}, "weights is torch.int64"),
        ({**state, "node_bias": state["node_bias"][:-2]}, f"has {len(NAMES) - 2} nodes, "),
        ({**state, "positions": state["positions"][0]}, "positions has shape"),
        ([1, 2], "has a list"),
        ({"a": 1}, "has a dictionary of a"),
    ]:
        torch.save(broken, files.checkpoint)
        assert message in refused(files, tmp_path)


def test_values_that_are_no_numbers(files: Files, tmp_path: Path) -> None:
    files.state["weights"][7, 3, 2] = np.nan
    torch.save(files.state, files.checkpoint)
    assert "row 7 of edges/weight has values that are not finite numbers" in refused(files, tmp_path)


def test_a_mismatch_of_rows_names_both_numbers(files: Files, tmp_path: Path) -> None:
    edges = len(files.rows())
    message = refused(files, tmp_path, frequency=None)
    assert f"has {edges} private edges, all pairs of {len(NAMES)} nodes are {len(NAMES) ** 2:,}" in message
    assert "name its frequency file with `frequency`" in message
    files.counts["春"]["花"] = 0 if files.counts["春"]["花"] else 5
    files.frequency.write_text(json.dumps(files.counts), encoding="utf-8")
    message = refused(files, tmp_path)
    assert f"has {edges} private edges" in message
    assert f"has {edges + (1 if files.counts['春']['花'] else -1)}: they do not belong together" in message


def test_bad_frequency_files(files: Files, tmp_path: Path) -> None:
    counts, text = files.counts, files.frequency.read_text()
    for content, message in [
        (text[:-40], "not JSON, or incomplete"),
        ("[1, 2]", "expected source -> {target: count}"),
        ("{}", "expected source -> {target: count}"),
        (json.dumps({**counts, "鳥": counts["春"]}), "1 of its sources are not in the vocabulary ('鳥')"),
        (json.dumps({u: row for u, row in counts.items() if u != "春"}), "1 of its sources are missing ('春')"),
        (json.dumps({**counts, "春": {**counts["春"], "鳥": 2}}), "'鳥' is not in the vocabulary"),
        (json.dumps({**counts, "春": {**counts["春"], "花": "2"}}), "the count of '花' is not a whole number"),
        (json.dumps({**counts, "春": {**counts["春"], "花": 2.5}}), "is not a whole number"),
        (json.dumps({**counts, "春": {**counts["春"], "花": -2}}), "has a count below 0"),
        (json.dumps({**counts, "春": {}}) [:-1] + ', "春": {"花": 1}}', "a source is there twice"),
        (text.replace('{"', '{"\\u82b1": 1, "', 2).replace('{"\\u82b1": 1, "', '{"', 1), "a target is there twice"),
        ("version https://git-lfs.github.com/spec/v1\n", "Git LFS pointer"),
    ]:  # fmt: skip
        files.frequency.write_text(content, encoding="utf-8")
        assert message in refused(files, tmp_path), content[:100]


def test_bad_vocabularies(files: Files, tmp_path: Path) -> None:
    ids = {name: i for i, name in enumerate(NAMES)}
    for content, message in [
        (json.dumps({**ids, "行": 40}), "ids run from 0 to 40, with gaps"),
        (json.dumps({**ids, "行": 7}), "the id 7 belongs to 2 tokens ('風', '行')"),
        (json.dumps({**ids, "行": 31, "白": 32}), "'白' is token number 31 and has the id 32"),
        (json.dumps(ids)[:-1] + ', "\\u884c": 33}', "the token '行' is there twice"),
        (json.dumps({**ids, "行": "32"}), "the id of '行' is not a whole number"),
        (json.dumps(NAMES), "expected one JSON object, token -> id"),
        ("{", "not JSON, or incomplete"),
    ]:
        files.vocab.write_text(content, encoding="utf-8")
        assert message in refused(files, tmp_path)


def test_a_target_that_exists(files: Files, imported: Graph) -> None:
    with pytest.raises(StoreExistsError):
        files.run(imported.path)
    assert files.run(imported.path, force=True).private_edges == len(files.rows())


# ---- byte-level BPE


def bpe_files(folder: Path, *, edges: int | None = None) -> tuple[Path, Path, Path, list[str]]:
    """A tokenizer file of the library as the released English model has it, its vocabulary, a dense checkpoint."""
    import tokenizers

    library = tokenizers.Tokenizer(tokenizers.models.BPE(unk_token="[UNK]"))
    library.normalizer = tokenizers.normalizers.NFKC()
    library.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=True)
    library.decoder = tokenizers.decoders.ByteLevel()
    special = ["[PAD]", "[UNK]"]
    trainer = tokenizers.trainers.BpeTrainer(vocab_size=80, special_tokens=special, show_progress=False)
    library.train_from_iterator(["the cat sat on the mat", "a dog and the cat ran to the sea"] * 9, trainer)
    library.save(str(folder / "tokenizer.json"))
    names = [name for name, _ in sorted(library.get_vocab().items(), key=lambda pair: pair[1])]
    (folder / "vocab_en.json").write_text(json.dumps({name: i for i, name in enumerate(names)}), encoding="utf-8")
    n = len(names)
    torch.save(state_of(n * n, nodes=n, width=4, rng=np.random.default_rng(2)), folder / "model_en.bin")
    return folder / "model_en.bin", folder / "vocab_en.json", folder / "tokenizer.json", names


def test_bpe_files_load_as_they_are(tmp_path: Path) -> None:
    import tokenizers

    checkpoint, vocab, library, names = bpe_files(tmp_path)
    import_brillm(checkpoint, tmp_path / "en.sifu", vocab=vocab, tokenizer=library)
    wanted = tokenizers.Tokenizer.from_file(str(library))
    with Graph.open(tmp_path / "en.sifu") as graph:
        for text in ["the cat", "a dog ran, ﬁne", "zebra QUIET é"]:
            found = graph.tokenizer.encode(text)
            assert [names[node] for node in found] == wanted.encode(text).tokens
        assert graph.tokenizer.decode(graph.tokenizer.encode("the cat ran")) == " the cat ran"
        assert graph.tokenizer.unknown_characters("the Z cat") == ["Z"]
        assert graph.tokenizer.token_id("[PAD]") == 0
        assert graph.tokenizer.token_id(" the") == names.index("Ġthe")
        assert graph.generate("the cat", tokens=3, greedy=True).tokens == 3


def test_bpe_files_that_do_not_fit(files: Files, tmp_path: Path) -> None:
    folder = tmp_path / "en"
    folder.mkdir()
    checkpoint, vocab, library, _ = bpe_files(folder)

    def line(**options: Any) -> str:
        with pytest.raises((ForeignFileError, OptionError)) as caught:
            import_brillm(checkpoint, tmp_path / "no.sifu", **{"vocab": vocab, **options})
        return str(caught.value)

    assert "name its file with `tokenizer`" in line()
    assert "goes with level bpe" in line(tokenizer=library, level="char")
    assert "none of its tokens is in the vocabulary" in line(vocab=files.vocab, tokenizer=library)
    content = json.loads(library.read_text())
    for changed, message in [
        ({**content, "pre_tokenizer": {"type": "Whitespace"}}, "it is BPE with Whitespace; sifu reads byte-level BPE"),
        ({**content, "model": {"type": "WordPiece", "vocab": {}}}, "its model is WordPiece; sifu reads byte-level BPE"),
        ({"model": 3}, "not a file of the tokenizers library"),
        ([], "expected a file of the tokenizers library"),
        ({**content, "decoder": {"type": "Nonsense"}}, "cannot read it"),
    ]:
        library.write_text(json.dumps(changed), encoding="utf-8")
        assert message in line(tokenizer=library)
