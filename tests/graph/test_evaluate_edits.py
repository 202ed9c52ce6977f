"""`Graph.evaluate_edits`: its measures against a naive count, and a graph that stays as it is."""

from __future__ import annotations

import math
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from sifu_store.errors import CorpusError, DiskFullError, OptionError
from sifu_store.layout import TARGET_VECTOR
from small import write_text

from sifu_graph import Graph, build_graph
from sifu_graph.edit import evaluate_edits
from sifu_graph.edit.counterfactuals import MARGIN, Counterfactuals, EditEffect, harmonic_mean
from sifu_graph.generation.base_walk import walk_of
from sifu_graph.inspection.distributions import log_p_after
from sifu_graph.text.tokenizer import UNKNOWN

EDITS = 12


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A trained graph whose edges share a base, with clones. Not to be changed."""
    folder = tmp_path_factory.mktemp("edits")
    text = write_text(folder / "a.txt")
    text.write_text(text.read_text("utf-8").replace("月風", "月風水"), "utf-8")  # one context says more than its node
    build_graph(text, folder / "g.sifu", vocab=40, sparsify=0.5, holdout=0.2)
    with Graph.open(folder / "g.sifu") as graph:
        graph.train(steps=5, eval_every=0)
    return folder / "g.sifu"


@pytest.fixture
def graph(built: Path, tmp_path: Path) -> Iterator[Graph]:
    with Graph.open(shutil.copytree(built, tmp_path / "graph.sifu")) as graph:
        yield graph


def records_of(graph: Graph, seed: int = 0) -> Counterfactuals:
    return Counterfactuals(
        graph.parameters, graph.signal, graph._tokens().heldout, edits=EDITS,
        frequency=graph.store.read("nodes/count"), seed=seed,
    )  # fmt: skip


def every_log_p(graph: Graph) -> tuple[np.ndarray, np.ndarray]:
    """log p of every node at every place of the held-out text, and the source there."""
    text = graph._tokens().heldout
    walk, found, source = walk_of(graph.parameters, graph.signal), [], []
    for at, node in enumerate(np.asarray(text.ids).tolist()):
        (walk.start if at in text.offsets else walk.carry)(node)
        walk.energies()
        found.append(log_p_after(walk))
        source.append(walk.source)
    return np.array(found), np.array(source)


def counted(graph: Graph, records: Counterfactuals, before: np.ndarray, after: np.ndarray, source: np.ndarray) -> dict:
    """The measures by their definitions, place by place."""
    text, tree = graph._tokens().heldout, records.pairs.tree
    ids, ends = np.asarray(text.ids).astype(int), set((text.offsets[1:] - 1).tolist())
    won = before.copy()
    won[:, UNKNOWN] = -math.inf
    w = won.argmax(1)
    put = [(int(w[at]), records.target[u]) for u, at in records.place.items()]  # w and v of each record
    found: dict[str, list[bool]] = {"efficacy": [], "paraphrase": [], "neighbourhood": [], "same_bits": []}
    nats = []
    for at in range(len(ids)):
        if at in ends:
            continue
        nats.append((before[at, ids[at + 1]], after[at, ids[at + 1]]))
        u, chain = int(source[at]), [int(source[at])]
        while tree.parents[chain[-1]] >= 0:
            chain.append(int(tree.parents[chain[-1]]))
        if not set(chain) & set(records.place):
            found["same_bits"].append(nats[-1][0] == nats[-1][1])
            found["neighbourhood"] += [after[at, winner] > after[at, v] for winner, v in put if winner == w[at]]
        elif u in records.place and records.place[u] == at:
            found["efficacy"].append(after[at, records.target[u]] > after[at, w[at]])
        elif u in records.place and w[at] == w[records.place[u]]:
            found["paraphrase"].append(after[at, records.target[u]] > after[at, w[at]])
    shares = {name: (float(np.mean(values)), len(values)) for name, values in found.items()}
    return {**shares, "perplexity": np.exp(-np.mean(nats, axis=0)).tolist(), "tokens": len(nats)}


def shares_of(effect: EditEffect) -> dict:
    names = ("efficacy", "paraphrase", "neighbourhood", "same_bits")
    return {name: (getattr(effect, name).share, getattr(effect, name).of) for name in names}


@pytest.mark.parametrize("harm", [0.0, 3.0], ids=["edits", "edits and a general change"])
def test_the_measures_are_those_of_a_naive_count(graph: Graph, harm: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sifu_graph.edit.counterfactuals.PLACES", 10**9)
    records = records_of(graph)
    assert any(u >= graph.info().nodes for u in records.place)  # clones among the sources
    before, source = every_log_p(graph)
    boosts = records.boosts()
    graph.edit_edges(evaluate_edits.edge_table(graph, records, boosts))
    if harm:
        target = graph.parameters.small[TARGET_VECTOR]
        target += harm * target.flip(0)
    after, _ = every_log_p(graph)
    wanted, effect = counted(graph, records, before, after, source), records.effect(graph.parameters)
    assert shares_of(effect) == {name: wanted[name] for name in shares_of(effect)}
    assert [effect.perplexity_before, effect.perplexity_after] == pytest.approx(wanted["perplexity"], rel=1e-12)
    assert (effect.edits, effect.tokens) == (EDITS, wanted["tokens"])
    if harm:
        assert effect.same_bits.share < 0.1
        return
    assert (effect.efficacy.share, effect.neighbourhood.share, effect.same_bits.share) == (1.0, 1.0, 1.0)
    for u, at in records.place.items():  # v wins by the margin, whatever the edits of its parents add
        lead = after[at, records.target[u]] - np.delete(after[at], [UNKNOWN, records.target[u]]).max()
        assert lead == pytest.approx(MARGIN, abs=1e-4)


def test_without_edits_nothing_is_gained_or_lost(graph: Graph) -> None:
    records = records_of(graph)
    effect = records.effect(graph.parameters)
    assert (effect.efficacy.share, effect.paraphrase.share, effect.score) == (0.0, 0.0, 0.0)
    assert (effect.neighbourhood.share, effect.same_bits.share) == (1.0, 1.0)
    assert effect.perplexity_before == effect.perplexity_after
    assert records.same_as_before(graph.parameters)
    graph.edit_edges(evaluate_edits.edge_table(graph, records, records.boosts()))
    assert not records.same_as_before(graph.parameters)


def test_the_harmonic_mean() -> None:
    assert harmonic_mean(1.0, 0.964, 0.754) == pytest.approx(0.892, abs=5e-4)  # ROME on GPT-2 XL
    assert harmonic_mean(1.0, 0.0, 1.0) == 0.0
    assert harmonic_mean(1.0, None, 0.0) is None


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_the_graph_stays_as_it_is_and_the_copy_goes(
    graph: Graph, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copies = tmp_path / "copies"
    copies.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(copies))
    graph._tokens()  # the encoded text may be written again
    before, perplexity = contents(graph.path), graph.evaluate().perplexity
    report = graph.evaluate_edits(EDITS, limit=500)
    assert report.undo_exact
    assert (report.edits, report.notes, report.efficacy.of) == (EDITS, [], EDITS)
    assert report.copied_bytes > 0 < report.bytes_per_edit
    assert graph.evaluate_edits(EDITS, limit=500).efficacy == report.efficacy
    monkeypatch.setattr(evaluate_edits, "require_free_bytes", lambda *_: (_ for _ in ()).throw(DiskFullError("full")))
    with pytest.raises(DiskFullError):
        graph.evaluate_edits(1)
    assert contents(graph.path) == before
    assert graph.evaluate().perplexity == perplexity
    assert not list(copies.iterdir())


def test_an_older_snapshot_is_measured_as_it_was(graph: Graph) -> None:
    before = graph.evaluate_edits(EDITS, limit=500)
    graph.boost_edge("春", "風", 3.0)
    changed = graph.evaluate_edits(EDITS, limit=500)
    with Graph.open(graph.path, at="HEAD~1") as older:
        report = older.evaluate_edits(EDITS, limit=500)
    assert shares_of(report) == shares_of(before)
    assert report.perplexity_before == before.perplexity_before != changed.perplexity_before


def test_more_edits_than_sources_are_those_that_there_are(graph: Graph) -> None:
    report = graph.evaluate_edits(10**6, limit=300)
    assert report.edits < 300
    assert report.notes == [f"{report.edits:,} edits instead of 1,000,000: the held-out text has no other sources"]


def test_a_forbidden_node_is_not_put_in_place_of_another(graph: Graph) -> None:
    names = graph.tokenizer.vocabulary
    source, target = next((u, v) for u, v in records_of(graph).target.items() if u < graph.info().nodes)
    graph.forbid_edge(names[source], names[target])
    records = records_of(graph)
    pairs = list(records.target.items())
    assert not records.pairs.is_banned(*np.array(pairs).T).any()
    assert graph.evaluate_edits(EDITS).efficacy.share == 1.0


def test_what_cannot_be_measured_is_refused(graph: Graph, tmp_path: Path) -> None:
    for wrong in ({"edits": 0}, {"edits": 1, "limit": 0}, {"edits": 1, "seed": -1}):
        with pytest.raises(OptionError, match="must be"):
            graph.evaluate_edits(**wrong)
    text = write_text(tmp_path / "b.txt", documents=40)
    build_graph(text, tmp_path / "own.sifu", vocab=20, signal="tuned", holdout=0.2)
    with Graph.open(tmp_path / "own.sifu") as own, pytest.raises(OptionError, match="share a base"):
        own.evaluate_edits(1)
    build_graph(text, tmp_path / "none.sifu", vocab=20, holdout=0.0)
    with Graph.open(tmp_path / "none.sifu") as none, pytest.raises(CorpusError, match="no held-out text"):
        none.evaluate_edits(1)
