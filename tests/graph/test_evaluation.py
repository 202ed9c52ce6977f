"""Evaluation: every figure against the oracle, position by position."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path

import numpy as np
import oracle
import pytest
import torch
from bounds import assert_close
from graphs import EDGE_PRESETS, in_text_order, random_graph, texts
from hypothesis import given, settings
from hypothesis import strategies as st
from sifu_store.errors import CorpusError
from small import write_text

from sifu_graph import Graph, build_graph
from sifu_graph.card import model_card
from sifu_graph.config import PRESETS
from sifu_graph.evaluation import evaluate_split
from sifu_graph.model import forward
from sifu_graph.ops.contest_torch import TorchContest
from sifu_graph.text.corpus import is_held_out


@settings(max_examples=12)
@given(
    seed=st.integers(0, 2**16),
    preset=st.sampled_from(EDGE_PRESETS),
    share=st.sampled_from([0.0, 0.3, 1.0]),
    reset=st.sampled_from([None, 1, 3]),
    path=st.sampled_from(["kernel", "torch"]),
)
def test_positions_are_those_of_the_oracle(seed: int, preset: str, share: float, reset: int | None, path: str) -> None:
    config = dataclasses.replace(PRESETS[preset], reset_after=reset)
    graph = random_graph(seed, nodes=9, share=share, config=config, alphas=3)
    tokens, lengths = texts(seed, nodes=9, batch=3, length=7)
    with pytest.MonkeyPatch.context() as patch:
        if path == "torch":
            patch.setattr("sifu_graph.model.parameters.cpu_contest", lambda *_: TorchContest())
        found = forward.examine(graph.parameters, config, tokens, lengths)
    at = in_text_order(forward.plan(graph.parameters, config, tokens, lengths), config, tokens, lengths)
    wanted, wanted_losses, energy = [], [], 0.0
    for row, length in zip(tokens.tolist(), lengths.tolist(), strict=True):
        energies, losses = oracle.run(graph.model, config, row[:length])
        wanted_losses.append(losses.flatten())
        for i, E in enumerate(torch.stack(energies).detach().tolist()):
            u, v = row[i], row[i + 1]
            private = (u, v) in graph.model.private
            # default edges win over their equals; of each kind the lower node comes first
            order = sorted(range(9), key=lambda node: (-E[node], (u, node) in graph.model.private, node))
            wanted.append((order.index(v), private, i % reset if reset else i, v))
            energy = max(energy, *E)
    got = zip(found.rank.tolist(), found.private.tolist(), found.step.tolist(), found.target.tolist(), strict=True)
    assert list(got) == [wanted[i] for i in at]
    logit = float(graph.parameters.scale) * energy + math.log(9)
    assert_close(found.loss, torch.cat(wanted_losses)[at], terms=32 * 6, size=logit)


def test_parts_and_positions_add_up(graph: Graph) -> None:
    report = graph.evaluate(with_baselines=True)
    heldout = graph._tokens().heldout
    plain = evaluate_split(graph.parameters, graph.signal, heldout, 8, None)
    assert report.perplexity == pytest.approx(plain.perplexity, rel=1e-6)
    assert report.tokens == plain.tokens == heldout.transitions
    assert report.top1 == pytest.approx(plain.top1, abs=0.02)  # here a default edge can be the first guess
    assert 0 < report.top1 < report.top5 < 1
    assert report.private.tokens + report.default.tokens == report.tokens
    for parts in ([report.private, report.default], report.positions):
        nats = sum(part.tokens * math.log(part.perplexity) for part in parts if part.tokens)
        assert math.exp(nats / report.tokens) == pytest.approx(report.perplexity, rel=1e-6)
        assert sum(part.tokens * part.top1 for part in parts if part.tokens) == pytest.approx(
            report.tokens * report.top1
        )
    assert len(report.positions) == 7
    assert report.characters == report.tokens  # a character each, separators included
    assert report.bits_per_character == report.bits_per_token
    assert [baseline.name for baseline in report.baselines] == [
        "unigram", "kneser-ney-2", "kneser-ney-3", "kneser-ney-4"
    ]  # fmt: skip


def test_an_untrained_graph_with_all_pairs_private_is_the_kneser_ney_bigram(text: Path, tmp_path: Path) -> None:
    """Two ways to the same model: energies here, a table of counts there."""
    build_graph(text, tmp_path / "g.sifu", vocab=40, sparsify=1.0, length=8, holdout=0.1, signal="tuned")
    with Graph.open(tmp_path / "g.sifu") as graph:
        report = graph.evaluate(with_baselines=True)
    bigram = next(baseline for baseline in report.baselines if baseline.name == "kneser-ney-2")
    assert report.perplexity == pytest.approx(bigram.perplexity, rel=0.01)


def test_a_limit_takes_the_same_tokens_for_graph_and_baselines(graph: Graph) -> None:
    everything = graph.evaluate(with_baselines=True)
    limited = graph.evaluate(limit=100, with_baselines=True)
    assert 100 <= limited.tokens <= everything.tokens


def test_another_graph_on_the_same_documents(graph: Graph, text: Path, tmp_path: Path) -> None:
    build_graph(text, tmp_path / "other.sifu", vocab=12, sparsify=0.5, length=8, holdout=0.5, signal="tuned")
    with Graph.open(tmp_path / "other.sifu") as other:
        assert other.evaluate(like=graph).tokens == graph.evaluate().tokens != other.evaluate().tokens


def test_bytes_of_a_character_in_several_nodes(tmp_path: Path) -> None:
    text = tmp_path / "en.txt"
    text.write_text("naïve café — the end\n" * 30, encoding="utf-8")
    build_graph(text, tmp_path / "g.sifu", vocab=258, level="bpe", length=64, holdout=0, signal="tuned")
    with Graph.open(tmp_path / "g.sifu") as graph:
        report = graph.evaluate([text])
    assert report.characters == 30 * (len("naïve café — the end") + 1)
    assert report.tokens > report.characters
    assert report.bits_per_character == pytest.approx(report.bits_per_token * report.tokens / report.characters)


def test_every_line_of_a_file_is_scored(graph: Graph, tmp_path: Path) -> None:
    """Also those that would be held out, were it the graph's own text."""
    lines = [f"春{one}{two}" for one in "風花月夜江水山" for two in "雲人不一有無天日來何時"]
    assert {is_held_out(line, fraction=0.1) for line in lines} == {True, False}
    (tmp_path / "few.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    report = graph.evaluate([tmp_path / "few.txt"])
    assert report.characters == report.tokens == sum(len(line) + 1 for line in lines)


def test_lists_of_tokens_have_no_characters(tmp_path: Path) -> None:
    text = tmp_path / "lists.jsonl"
    text.write_text('["a", "b", "a", "c"]\n' * 20, encoding="utf-8")
    build_graph(text, tmp_path / "g.sifu", vocab=5, level="tokens", length=4, holdout=0, signal="tuned")
    with Graph.open(tmp_path / "g.sifu") as graph:
        assert graph.evaluate([text]).bits_per_character is None
        with pytest.raises(CorpusError, match="no held-out text"):
            graph.evaluate()


def test_model_card(graph: Graph) -> None:
    card = model_card(graph)
    report = graph.evaluate()
    for line in ("## Text", "## Settings", "## Size", "## Scores", "| training | none since it was built", "SHA-256"):
        assert line in card
    assert f"| perplexity | {report.perplexity:,.1f} |" in card
    graph.train(steps=1, batch=4)
    assert "| training | 1 steps," in model_card(graph)


def test_model_card_without_its_text(tmp_path: Path) -> None:
    text = write_text(tmp_path / "poems.txt", documents=50)
    build_graph(text, tmp_path / "g.sifu", vocab=20, length=8, signal="tuned")
    text.unlink()
    with Graph.open(tmp_path / "g.sifu") as graph:
        assert f"Not evaluated: {text}: missing" in model_card(graph)


def test_torch_and_numpy_agree_on_nothing_to_predict() -> None:
    """A batch whose sources have no private edge at all."""
    config = PRESETS["paper"]
    graph = random_graph(0, nodes=4, share=0.0, config=config)
    found = forward.examine(graph.parameters, config, np.array([[0, 3, 1]], np.int32), np.array([3]))
    assert sorted(found.rank) == [1, 3]  # all are equal: the lower node first
    assert not found.private.any()
    energy = float(oracle.run(graph.model, config, [0, 3, 1])[0][1].detach().max())
    assert_close(found.loss, [math.log(4.0)] * 2, terms=64, size=energy + math.log(4.0))


def test_evaluating_on_the_training_text_is_said(tmp_path: Path) -> None:
    """Also of a copy under another name, of a part of it, and of the text of a later training."""
    path, own = tmp_path / "g.sifu", write_text(tmp_path / "a.txt", documents=200)
    build_graph(own, path, vocab=12, holdout=0.1)
    lines = own.read_text(encoding="utf-8").splitlines()
    fresh = ["人" + line for line in lines]
    (tmp_path / "fresh.txt").write_text("\n".join(fresh), encoding="utf-8")
    with Graph.open(path) as graph:
        for text in (own, lines, lines[::-1][:50], [*fresh, *lines]):
            report = graph.evaluate(texts=text) if isinstance(text, list) else graph.evaluate(text)
            assert report.trained_share > 0.4
            assert any("documents that the graph was trained on" in note for note in report.notes)
        for report in (graph.evaluate(), graph.evaluate(texts=fresh)):
            assert report.trained_share < 0.01  # some are equal but for unknown characters
            assert not any("trained on" in note for note in report.notes)
        graph.train(tmp_path / "fresh.txt", steps=1)
        assert graph.evaluate(texts=fresh[:50]).trained_share > 0.8
        assert graph.evaluate(texts=lines).trained_share > 0.8
        own.unlink()  # what was encoded of it cannot be told any more
        assert graph.evaluate(texts=fresh[:50]).trained_share > 0.8


def test_bits_per_character_are_not_compared_where_many_tokens_are_unknown(tmp_path: Path) -> None:
    text = write_text(tmp_path / "a.txt", documents=200)
    for vocab, unknown in ((6, True), (40, False)):
        build_graph(text, tmp_path / "g.sifu", vocab=vocab, holdout=0.1, force=True)
        with Graph.open(tmp_path / "g.sifu") as graph:
            notes = graph.evaluate().notes
            assert any("so are the bits per character" in note for note in notes) is unknown
