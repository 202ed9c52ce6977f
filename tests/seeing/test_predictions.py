"""The most probable next nodes, and the probability of a text, against evaluation, generation and the trace."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from sifu_store.errors import OptionError, OptionTypeError
from small import write_text

from sifu_graph import Graph, build_graph
from sifu_graph.generation.base_walk import walk_of
from sifu_graph.inspection import distributions
from sifu_graph.text.tokenizer import SEPARATOR, UNKNOWN

GRAPHS = {
    "recurrent": {"signal": "recurrent", "vocab": 12},
    "tuned": {"signal": "tuned", "vocab": 12, "sparsify": 0.3, "length": 6},
    "brillm05": {"signal": "brillm05", "vocab": 12, "sparsify": 0.3, "length": 6},
    "bpe": {"signal": "recurrent", "vocab": 300, "level": "bpe"},
}


@pytest.fixture(scope="module", params=GRAPHS)
def graph(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Graph:
    folder = tmp_path_factory.mktemp("graph")
    text = write_text(folder / "a.txt", documents=120)
    build_graph(text, folder / "g.sifu", holdout=0.2, **GRAPHS[request.param])
    found = Graph.open(folder / "g.sifu")
    request.addfinalizer(found.close)
    return found


LINES = ["春風花月夜江水山雲人不一有無天日來何時中。", "春", "春風春風春風", "風x月"]


def test_the_scores_are_those_of_evaluation(graph: Graph, tmp_path: Path) -> None:
    """The sum over the tokens is the loss that `evaluate` reports for the same text."""
    total, tokens = 0.0, 0
    for line in LINES:
        found = graph.score(line)
        (tmp_path / "line.txt").write_text(line + "\n", encoding="utf-8")
        report = graph.evaluate([tmp_path / "line.txt"])
        assert len(found.tokens) == report.tokens
        assert found.log_p == pytest.approx(sum(token.log_p for token in found.tokens), rel=1e-12)
        assert found.perplexity == pytest.approx(report.perplexity, rel=1e-6)
        assert (found.characters, len(line) + 1) == (report.characters,) * 2
        assert found.bits_per_character == pytest.approx(report.bits_per_character, rel=1e-6)
        assert found.tokens[-1].node == SEPARATOR
        unknown = sum(token.unknown for token in found.tokens)
        assert unknown == report.tokens - report.known.tokens
        total, tokens = total + found.log_p, tokens + len(found.tokens)
    (tmp_path / "all.txt").write_text("\n".join(LINES) + "\n", encoding="utf-8")
    report = graph.evaluate([tmp_path / "all.txt"])
    assert (tokens, math.exp(-total / tokens)) == (report.tokens, pytest.approx(report.perplexity, rel=1e-6))


def test_the_next_nodes_are_those_that_generation_draws_from(graph: Graph) -> None:
    text = "春風花月"
    every = graph.next(text, k=10**6)
    assert sum(one.p for one in every) == pytest.approx(1.0, abs=1e-9)
    assert UNKNOWN not in {one.node for one in every}
    assert [one.p for one in every] == sorted((one.p for one in every), reverse=True)
    assert graph.next(text, k=3) == every[:3]
    [chosen] = graph.generate(text, tokens=1, greedy=True, explain=True).choices
    assert (every[0].node, every[0].p) == (chosen.node, pytest.approx(chosen.probability, rel=1e-6))
    last = graph.trace(text).positions[-1].candidates
    seen = {one.node: one for one in every}
    for candidate in last:
        one = seen[candidate.node]
        assert one.p == pytest.approx(candidate.p, rel=1e-5)
        assert (one.name, one.private, one.count) == (candidate.name, candidate.private, candidate.count)


def test_the_two_agree_without_the_unknown_node(graph: Graph) -> None:
    if graph.settings["build"]["signal_preset"] == "brillm05":
        pytest.skip("generation and evaluation of the released code differ")
    following = {one.node: one for one in graph.next("春風", k=10**6)}
    # the last but one token of each text is the one that follows
    log_p = {node: graph.score("春風" + one.name).tokens for node, one in following.items() if len(one.name) == 1}
    found = {node: tokens[-2].log_p for node, tokens in log_p.items() if tokens[-2].node == node}
    difference = [following[node].log_p - value for node, value in found.items()]
    assert len(found) > 5
    assert np.ptp(difference) < 1e-4  # all have the share that <unk> leaves
    unknown_p = graph.next("春風").unknown_p
    assert np.mean(difference) == pytest.approx(-math.log1p(-unknown_p), abs=1e-4)
    if graph.tokenizer.level == "char":
        assert unknown_p > 0.01
        assert unknown_p == pytest.approx(math.exp(graph.score("春風x").tokens[-2].log_p), rel=1e-4)
    last = graph.trace("春風").positions[-1]
    assert last.unknown_p == pytest.approx(unknown_p, rel=1e-5)
    assert graph.trace("春風", like="eval").unknown_p == 0.0


def test_a_list_of_tokens_has_one_meaning(graph: Graph) -> None:
    """It is refused by all where the graph reads text."""
    for ask in (graph.next, graph.score, graph.trace, graph.generate, graph.stream):
        for given in (["春", "風"], ("春",), ["春風"]):
            with pytest.raises(OptionTypeError, match=r"is a list of tokens, but this graph reads text \(level"):
                ask(given)


def test_a_graph_of_lists_reads_lists_and_texts(tmp_path: Path) -> None:
    build_graph(texts=[["春", "風", "月"], ["春", "月"]] * 20, path=tmp_path / "g.sifu", level="tokens")
    with Graph.open(tmp_path / "g.sifu") as graph:
        assert graph.next(["春", "風"]) == graph.next("春 風") == graph.next(("春", "風"))
        assert graph.score(["春", "風"]).tokens == graph.score(" 春 風").tokens
        assert graph.trace(["春", "風"]).nodes == graph.trace("春 風").nodes
        assert graph.generate(["春"], tokens=2, seed=1).text == graph.generate("春", tokens=2, seed=1).text


def test_what_cannot_be_asked(graph: Graph) -> None:
    for ask in (lambda: graph.next(""), lambda: graph.score(""), lambda: graph.next("春", k=0)):
        with pytest.raises(OptionError):
            ask()


def test_a_forbidden_edge_has_no_probability(tmp_path: Path) -> None:
    text = write_text(tmp_path / "a.txt", documents=60)
    for signal in ("recurrent", "tuned"):
        build_graph(text, tmp_path / f"{signal}.sifu", signal=signal)
        with Graph.open(tmp_path / f"{signal}.sifu") as graph:
            graph.forbid_edge("春", "風")
            found = graph.score("春風月")
            assert [token.log_p == -math.inf for token in found.tokens] == [False, True, False, False]
            assert found.log_p == -math.inf
            assert found.perplexity == math.inf
            assert "風" not in {one.name for one in graph.next("春", k=10**6)}


@pytest.mark.parametrize("signal", ["recurrent", "tuned"])
def test_the_distribution_before_a_forbidden_edge(signal: str, tmp_path: Path) -> None:
    """It is the one that the same tokens have before an edge that is not forbidden, at any place of a chunk."""
    text, path = write_text(tmp_path / "a.txt", documents=60), tmp_path / "g.sifu"
    build_graph(text, path, signal=signal, length=4)
    with Graph.open(path) as graph:
        graph.forbid_edge("春", "風")
        walk = walk_of(graph.parameters, graph.signal)

        def after_each(text: str) -> list[np.ndarray]:
            return list(distributions.of_text(graph, [SEPARATOR, *graph.tokenizer.encode(text)], walk))

        forbidden = graph.tokenizer.token_id("風")
        for before in ("春", "月春", "月夜花春", "月夜花春風春"):
            found, other = (after_each(before + next_one)[-1] for next_one in ("風", "花"))
            assert found == pytest.approx(other, abs=1e-6)
            assert np.exp(found).sum() == pytest.approx(1)
            assert np.flatnonzero(found == -np.inf).tolist() == [forbidden]
        if signal == "tuned":  # a part of a text whose pairs are all forbidden
            alone = graph.tokenizer.encode("春風")
            assert distributions.log_p_of_tokens(graph, alone).tolist() == [-np.inf]
