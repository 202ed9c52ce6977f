"""Traces of a real graph: the bits of generation and evaluation, what-if, and what cannot be traced."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from bounds import assert_close
from graphs import EDGE_PRESETS, random_graph
from hypothesis import given, settings
from hypothesis import strategies as st
from sifu_store.errors import CorpusError, OptionError

from sifu_graph import Graph, build_graph
from sifu_graph.config import PRESETS
from sifu_graph.edge_index import EdgeIndex, RowPlaces
from sifu_graph.inspection import what_if
from sifu_graph.inspection.trace import TraceOptions, follow
from sifu_graph.inspection.what_if import Change
from sifu_graph.model import forward
from sifu_graph.model.parameters import Parameters
from sifu_graph.ops.contest import RowContest
from sifu_graph.text.corpus import is_held_out
from sifu_graph.text.plain import CharTokenizer

TEXT = "春風花月夜江水山雲。人不一有"


def test_the_same_bits_as_in_generation(graph: Graph, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[np.ndarray, float]] = []
    used = type(graph.parameters.backend.row_contest(forward.rows_of(graph.parameters, graph.signal, 1), largest=1))
    run = used.run

    def recorded(self: RowContest, row: RowPlaces, *args: object, **options: object) -> int:
        best = run(self, row, *args, **options)  # type: ignore[arg-type]
        seen.append((self.found[: row.edges].copy(), self.values[row.edges]))
        return best

    for length in range(1, len(TEXT) + 1):
        trace = graph.trace(TEXT[:length])
        seen.clear()
        with monkeypatch.context() as patch:
            patch.setattr(used, "run", recorded)
            text = graph.generate(TEXT[:length], tokens=1, greedy=True).text
        [(row, default)] = seen
        last = trace.energy[-1].numpy()
        private = trace.private[-1].numpy()
        assert np.array_equal(last[private], row)
        assert set(last[~private].tolist()) <= {default}
        winner = trace.positions[-1].candidates[0]
        assert text == {"<sep>": "\n"}.get(winner.name, winner.name)


def test_the_same_bits_as_in_evaluation(graph: Graph, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "one.txt"
    lines = [TEXT + TEXT + end for end in NAMES[2:] if not is_held_out(TEXT + TEXT + end, fraction=0.1)]
    file.write_text(lines[0] + "\n", encoding="utf-8")
    losses: list[float] = []
    examine = forward.examine

    def recorded(*args: object) -> forward.Examined:
        found = examine(*args)  # type: ignore[arg-type]
        losses.extend(found.loss.tolist())
        return found

    monkeypatch.setattr(forward, "examine", recorded)
    report = graph.evaluate([file])
    trace = graph.trace(lines[0], like="eval")
    assert sorted(losses) == sorted(one.loss for one in trace.positions)
    assert report.tokens == len(trace.positions) == 2 * len(TEXT) + 2
    first = sum(one.rank == 1 for one in trace.positions)
    assert_close(report.top1, first / report.tokens, terms=1, size=1.0)


def test_probabilities_ranks_and_losses_agree(graph: Graph) -> None:
    for like in ("generate", "eval"):
        trace = graph.trace(TEXT, like=like, top=100)
        for i, one in enumerate(trace.positions):
            logits = (trace.scale * trace.energy[i].double()).where(trace.candidate[i], torch.tensor(-torch.inf))
            p = logits.softmax(0)
            logit = abs(trace.scale) * float(trace.energy[i].max())  # its rounding moves p by the factor logit eps
            for candidate in one.candidates:
                wanted = float(p[candidate.node])
                assert_close(candidate.p, wanted, terms=len(p), size=(1 + logit) * wanted)
            contenders = one.candidates[: one.contenders]
            assert_close(sum(c.p * c.among for c in contenders), 1.0, terms=len(p), size=1 + logit)
            assert [c.rank for c in contenders] == sorted(c.rank for c in contenders)
            if one.came is not None:
                rounding = float(np.spacing(np.float32(trace.energy[i].max())))  # the loss is a difference of such
                assert one.loss == pytest.approx(-float(p[one.came].log()), abs=2 * rounding)
                assert one.candidates[one.came_at].node == one.came


# ---- what if


def by_hand(parameters: Parameters, keep: np.ndarray, rename: np.ndarray, nodes: int) -> Parameters:
    """The parameters with some edges' slots freed and nodes renumbered, indexed anew."""
    index = parameters.index
    source = np.full(parameters.edges.slots, -1, np.int32)
    target, count = source.copy(), np.zeros(parameters.edges.slots, np.int64)
    every = np.repeat(np.arange(index.nodes), index.row_sizes())
    source[index.slots()[keep]] = rename[every[keep]]
    target[index.slots()[keep]] = rename[index.target[keep]]
    count[index.slots()[keep]] = index.count[keep]
    bias = parameters.node_bias[torch.from_numpy(np.flatnonzero(rename >= 0))]
    return dataclasses.replace(
        parameters,
        index=EdgeIndex.from_slots(nodes, source, target, count),
        small={**parameters.small, "nodes/bias": bias},
    )


NAMES = ["<unk>", "<sep>", *"abcdefghij"]


@settings(max_examples=10)
@given(
    seed=st.integers(0, 2**16),
    preset=st.sampled_from(EDGE_PRESETS),
    node=st.integers(2, 11),
    which=st.integers(0, 999),
)
def test_an_overlay_is_the_edited_graph_bit_for_bit(seed: int, preset: str, node: int, which: int) -> None:
    config = PRESETS[preset]
    parameters = random_graph(seed, nodes=12, share=0.4, config=config, dtype=torch.float32).parameters
    tokenizer = CharTokenizer(NAMES)
    index = parameters.index
    place = which % index.edges
    u = int(np.searchsorted(index.row_start, place, side="right")) - 1
    v = int(index.target[place])
    laid = what_if.lay(
        parameters, tokenizer, [Change("edge", (NAMES[u], NAMES[v])), Change("node", (NAMES[node],))]
    )  # fmt: skip
    every = np.repeat(np.arange(12), index.row_sizes())
    keep = (every != node) & (index.target != node)
    keep[place] = False
    rename = np.array([-1 if old == node else old - (old > node) for old in range(12)])
    wanted = by_hand(parameters, keep, rename, 11)
    for name in ("row_start", "target", "count"):
        found = getattr(laid.parameters.index, name)
        assert np.array_equal(found, getattr(wanted.index, name)), name
        assert found.dtype == getattr(wanted.index, name).dtype, name
    assert np.array_equal(laid.parameters.index.slots(), wanted.index.slots())
    assert np.array_equal(laid.parameters.index.keys(), wanted.index.keys())
    ids = laid.tokenizer.encode("abcdefghijabc").tolist()
    assert ids.count(0) == "abcdefghijabc".count(NAMES[node])
    for like in ("generate", "eval"):
        options = TraceOptions(like=like)
        one, other = (
            follow(p, config, [1, *ids], names=tuple(laid.tokenizer.vocabulary), length=8, options=options)
            for p in (laid.parameters, wanted)
        )
        assert torch.equal(one.energy, other.energy)
        assert one.to_json() == other.to_json()
    assert index.edges == parameters.index.edges  # the graph itself is as it was


def test_what_if_shows_both_and_leaves_the_graph_alone(graph: Graph) -> None:
    plain = graph.trace(TEXT)
    edges = graph.parameters.index.edges
    both = graph.trace(TEXT, what_if=["edge 春 風 = default", "position 2 off", "node 月 off"])
    assert both.before is not None
    assert both.before.to_json() == plain.to_json()
    assert both.what_if == ("edge 春 風 = default", "position 2 off", "node 月 off")
    assert both.positions[4].name == "<unk>"
    assert "月" not in both.names
    came = both.positions[1].candidates[both.positions[1].came_at or 0]
    assert (came.name, came.private) == ("風", False)
    assert both.positions[5].weights[2] == 0.0 < plain.positions[5].weights[2]
    assert graph.parameters.index.edges == edges
    assert not graph.parameters.edges.table.dirty.any()


def test_a_node_that_is_off_can_be_asked_for(graph: Graph, tmp_path: Path) -> None:
    with Graph.open(shutil.copytree(graph.path, tmp_path / "graph.sifu")) as other:
        other.add_node("a b", like="月")
        both = other.trace(TEXT, what_if=["node 'a b' off"], also=["a b", "花"])
    assert both.before is not None
    asked = [[one.name for one in each.positions[3].candidates] for each in (both.before, both)]
    assert "a b" in asked[0]
    assert "a b" not in asked[1]
    assert "花" in asked[0]
    assert "花" in asked[1]


def test_an_added_node_that_is_off_is_read_as_its_parts() -> None:
    tokenizer = CharTokenizer([*NAMES, "ab"], added=[12])
    parameters = random_graph(1, nodes=13, share=0.4, config=PRESETS["paper"]).parameters
    laid = what_if.lay(parameters, tokenizer, [what_if.parse("node ab off")])
    assert tokenizer.encode("abc").tolist() == [12, 4]
    assert laid.tokenizer.encode("abc").tolist() == [2, 3, 4]


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (
            {"what_if": ["edge 春 = default"]},
            f"expected {what_if.FORMS}",
        ),
        ({"what_if": ["edge 春 ' = default"]}, "cannot be read"),
        ({"what_if": ["position -1 off"]}, "cannot be read"),
        ({"what_if": ["position 15 off"]}, "the text has the positions 0 to 14"),
        ({"what_if": ["node <sep> off"]}, "cannot do without <sep>"),
        ({"what_if": ["node 春風 off"]}, "the text consists of the nodes '春' '風'"),
        ({"what_if": ["edge 春 風 = default", "edge 春 風 = default"]}, "is a default edge already"),
        ({"what_if": ["position 1 off"], "like": "eval"}, "only as in generation"),
        ({"like": "train"}, "expected generate or eval"),
        ({"also": ["x"]}, "is not a node of this graph; no name is near to it"),
        ({"top": 0}, "`top` is 0"),
        ({"last": -1}, "`last` is -1"),
    ],
)
def test_what_cannot_be_traced(graph: Graph, options: dict[str, object], says: str) -> None:
    with pytest.raises(OptionError, match=says.replace("(", r"\(")):
        graph.trace(TEXT, **options)


@pytest.mark.parametrize(("text", "says"), [("", "the text is empty"), ("xyz", "unknown characters only")])
def test_texts_that_cannot_be_traced(graph: Graph, text: str, says: str) -> None:
    with pytest.raises(OptionError, match=says):
        graph.trace(text)


def test_the_probabilities_of_all_nodes_are_those_of_the_candidates(graph: Graph) -> None:
    found = graph.trace("春風花")
    p = found.p
    assert p.shape == found.energy.shape
    assert torch.allclose(p.sum(1), torch.ones(len(p), dtype=torch.float64))
    for row, position in zip(p, found.positions, strict=True):
        for one in position.candidates:
            assert float(row[one.node]) == pytest.approx(one.p if one.rank else 0.0, rel=1e-6)
    assert not p[~found.candidate].any()
    assert float(torch.softmax(found.energy[-1].double() * found.scale, 0)[0]) > 0  # <unk>, node 0, is left out


@pytest.mark.parametrize("signal", ["tuned", "recurrent"])
def test_a_text_over_a_forbidden_pair(signal: str, tmp_path: Path) -> None:
    (tmp_path / "t.txt").write_text("abcabdacbd\n" * 9, encoding="utf-8")
    build_graph(tmp_path / "t.txt", tmp_path / "g.sifu", vocab=20, length=4, holdout=0, signal=signal)
    with Graph.open(tmp_path / "g.sifu") as graph:
        graph.forbid_edge("a", "b")
        generated, evaluated = graph.trace("cabd"), graph.trace("cabd", like="eval")
        a, b = graph.tokenizer.token_id("a"), graph.tokenizer.token_id("b")
        places = [one.position for one in generated.positions]
        at = generated.nodes.index(a)
        assert generated.p[places.index(at), b] == 0
        scored = [one.position for one in evaluated.positions]
        assert scored == [place for place in places if graph.signal.base or place != at]
        assert evaluated.r.shape == generated.r.shape


def test_a_text_of_forbidden_pairs_alone_is_not_evaluated(tmp_path: Path) -> None:
    (tmp_path / "t.txt").write_text("abcabdacbd\n" * 9, encoding="utf-8")
    build_graph(tmp_path / "t.txt", tmp_path / "g.sifu", vocab=20, length=4, holdout=0, signal="tuned")
    with Graph.open(tmp_path / "g.sifu") as graph:
        graph.forbid_edge("a", "<sep>")
        with pytest.raises(CorpusError, match="every pair that is asked for is forbidden"):
            graph.trace("a", like="eval", last=1)
