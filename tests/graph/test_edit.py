"""Edits: what each of them does to nodes, edges and probabilities; whole or not at all."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sifu_store import Store
from sifu_store.errors import CorpusError, OptionError, ResourceError, SifuError, StoreLockedError
from sifu_store.layout import USAGE
from tables import distribution, table

from sifu_graph import Graph
from sifu_graph.edit import preview
from sifu_graph.edit.prune_grow import to_prune
from sifu_graph.edit.working_copy import WorkingCopy
from sifu_graph.model.parameters import Parameters
from sifu_graph.ops.contest_torch import TorchContest
from sifu_graph.paging.edge_pool import EdgePool
from sifu_graph.text.corpus import Corpus, Document, is_held_out
from sifu_graph.text.node_lookup import node_named

pytestmark = pytest.mark.usefixtures("one_thread")


def trained(graph: Graph) -> Graph:
    graph.train(steps=2, batch=8)
    return graph


# ---- nodes


@pytest.mark.parametrize("steps", [0, 2])
def test_a_node_like_another_behaves_as_its_model(graph: Graph, steps: int) -> None:
    if steps:
        graph.train(steps=steps, batch=8)
    before = {u: distribution(graph, u) for u in ("春", "月", "。")}
    report = graph.add_node("龍", "龘", like="月")
    assert report.nodes_added == ["龍", "龘"]
    assert report.private_edges_after == report.private_edges_before + report.private_edges_added
    assert report.snapshot == graph.store.snapshot
    for u in ("春", "月", "龍", "龘", "。"):
        p = distribution(graph, u)
        assert p["龍"] == pytest.approx(p["月"], rel=1e-12)
        assert p["龘"] == pytest.approx(p["月"], rel=1e-12)
        if u in before:
            others = 1 + 2 * before[u]["月"]
            assert p["春"] == pytest.approx(before[u]["春"] / others, rel=1e-9)
    assert distribution(graph, "龘") == distribution(graph, "月")
    assert graph.store.verify().ok


def test_a_new_node_is_known_at_once(graph: Graph) -> None:
    graph.add_node("春風", "<image:7>", kind="image")
    node = node_named(graph.tokenizer, "春風")
    assert graph.tokenizer.encode("春風春").tolist() == [node, node_named(graph.tokenizer, "春")]
    with Graph.open(graph.path) as again:
        assert again.tokenizer.decode([node]) == "春風"
        assert again.store.read_json("nodes/vocabulary")[-1] == {"token": "<image:7>", "kind": "image"}
        assert again.train(steps=1, batch=8).step == 1  # the text is encoded anew, with the new node
        assert again.generate("春風", tokens=5, seed=1).tokens == 5
        assert again.settings["nodes"] == len(again.tokenizer)


def test_an_untrained_graph_is_edited_without_writing_a_page(graph: Graph) -> None:
    assert graph.add_node("龍", like="月").pages_written == 0
    assert graph.remove_node("風").pages_written == 0
    assert graph.merge_node("雲", "水").pages_written == 0
    assert graph.prune(to_ratio=0.1).pages_written == 0
    assert not graph.store.page_stored().any()


def test_a_node_from_a_text_has_the_probabilities_of_its_counts(graph: Graph, text: Path) -> None:
    """A frequent node that is renamed away, then added as the text has it, is what it was."""
    before = distribution(graph, "春")
    perplexity = graph.evaluate().perplexity
    graph.rename_node("風", "<gone>")
    assert graph.evaluate().perplexity != perplexity
    report = graph.add_node("風", corpus=[text])
    assert report.occurrences is not None
    assert report.occurrences > 100
    after = distribution(graph, "春")
    assert after["風"] == pytest.approx(before["風"] / (1 + before["風"]), rel=0.02)
    assert graph.evaluate().perplexity == pytest.approx(perplexity, rel=0.12)  # a tenth of this text is this node


def held_out_lines(graph: Graph, n: int) -> list[str]:
    """Lines that the graph would hold out of its own text, each with 春風 in it once."""
    fraction = graph.settings["build"]["holdout"]
    found = (f"{'月' * i}春風{'花' * j}" for i in range(40) for j in range(1, 40))
    return list(itertools.islice((line for line in found if is_held_out(line, fraction=fraction)), n))


def not_held_out(graph: Graph) -> str:
    """A line with 風花 in it once that the graph would train on."""
    fraction = graph.settings["build"]["holdout"]
    return next(line for i in range(99) if not is_held_out(line := f"風花{'月' * i}", fraction=fraction))


def test_a_small_text_counts_though_all_its_lines_would_be_held_out(graph: Graph, tmp_path: Path) -> None:
    lines = held_out_lines(graph, 12)
    (tmp_path / "few.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    report = graph.add_node("春風", corpus=[tmp_path / "few.txt"])
    assert (report.occurrences, report.missing) == (12, [])
    graph.default_edge("月", "月")
    grown = graph.grow(corpus=[tmp_path / "few.txt"], min_count=1)
    assert grown.edges_added > 0
    assert table(graph).edges["月", "月"][0] == sum(max(0, line.count("月") - 1) for line in lines)
    # With one line that is not held out, that one alone is counted.
    (tmp_path / "more.txt").write_text("\n".join([*lines, not_held_out(graph)]) + "\n", encoding="utf-8")
    assert graph.add_node("風花", corpus=[tmp_path / "more.txt"]).occurrences == 1


@pytest.mark.parametrize("steps", [0, 1])
def test_adding_a_node_reads_its_text_once(
    graph: Graph, text: Path, monkeypatch: pytest.MonkeyPatch, steps: int
) -> None:
    reads: list[str] = []
    documents = Corpus.documents

    def counted(corpus: Corpus, *args: Any) -> Iterator[Document]:
        reads.append(corpus.sources[0].name)
        return documents(corpus, *args)

    monkeypatch.setattr(Corpus, "documents", counted)
    graph.rename_node("風", "<gone>")
    graph.add_node("風", corpus=[text], train_steps=steps)
    assert reads == [str(text)]


@pytest.fixture
def pools(monkeypatch: pytest.MonkeyPatch) -> list[EdgePool]:
    """The pools that working copies make during the test. A closed pool has no arrays."""
    made: list[EdgePool] = []
    parameters = preview.parameters_of

    def recorded(copy: WorkingCopy, *args: Any) -> Parameters:
        found = parameters(copy, *args)
        made.append(found.edges)
        return found

    monkeypatch.setattr(preview, "parameters_of", recorded)
    return made


def test_an_error_in_an_evaluation_closes_the_pool(
    graph: Graph, pools: list[EdgePool], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*args: object, **options: object) -> None:
        assert [bool(pool.arrays) for pool in pools] == [True]
        raise ResourceError("no room")

    monkeypatch.setattr("sifu_graph.evaluation.evaluate_split", fails)
    with pytest.raises(ResourceError, match="no room"):
        graph.prune(to_ratio=0.1, evaluate=True)
    assert [bool(pool.arrays) for pool in pools] == [False]


def test_training_a_new_node_closes_the_pool(
    graph: Graph, text: Path, pools: list[EdgePool], monkeypatch: pytest.MonkeyPatch
) -> None:
    graph.rename_node("風", "<gone>")
    graph.add_node("風", corpus=[text], train_steps=1)
    assert [bool(pool.arrays) for pool in pools] == [False]

    def fails(*args: object, **options: object) -> None:
        assert [bool(pool.arrays) for pool in pools] == [False, True]
        raise ResourceError("no room")

    monkeypatch.setattr("sifu_graph.training.tune_edges.tune", fails)
    with pytest.raises(ResourceError, match="no room"):
        graph.add_node("龍", like="月", train_steps=1)
    assert [bool(pool.arrays) for pool in pools] == [False, False]


def test_training_steps_change_only_edges_of_the_new_node(graph: Graph, text: Path) -> None:
    graph.rename_node("風", "<gone>")
    trained(graph)
    before = table(graph)
    graph.add_node("風", corpus=[text], train_steps=2)
    after = table(graph)
    assert before.bias == {name: bits for name, bits in after.bias.items() if name != "風"}
    assert before.edges == {pair: edge for pair, edge in after.edges.items() if "風" not in pair}
    assert before.default == after.default
    fresh = [edge for pair, edge in after.edges.items() if "風" in pair]
    width = graph.parameters.width
    weights = [np.frombuffer(bits, np.float32)[: width * width] for _, bits in fresh]
    assert sum(w.any() for w in weights) > 10  # W began as zeros
    graph.train(steps=1)


def test_removing_a_node(graph: Graph) -> None:
    trained(graph)
    before = table(graph)
    report = graph.remove_node("風", "月")
    after = table(graph)
    assert after.edges == {pair: edge for pair, edge in before.edges.items() if not {*pair} & {"風", "月"}}
    assert report.private_edges_removed == len(before.edges) - len(after.edges)
    assert graph.tokenizer.encode("風").tolist() == [0]
    assert graph.train(steps=1).steps_done == 1
    assert graph.store.verify().ok


def test_merging_adds_counts_and_probabilities(graph: Graph) -> None:
    before = {u: distribution(graph, u) for u in ("春", "雲", "水")}
    counts = table(graph).edges
    rows = dict(zip(graph.tokenizer.vocabulary, graph.store.read("rows/total").tolist(), strict=True))
    report = graph.merge_node("雲", "水")
    assert (report.before.token, report.after.token) == ("雲", "水")
    after = table(graph).edges
    assert after["春", "水"][0] == counts["春", "水"][0] + counts.get(("春", "雲"), (0, b""))[0]
    p = distribution(graph, "春")
    assert p["水"] == pytest.approx(before["春"]["水"] + before["春"]["雲"], rel=1e-3)
    share = rows["雲"] / (rows["雲"] + rows["水"])
    wanted = share * before["雲"]["風"] + (1 - share) * before["水"]["風"]
    assert distribution(graph, "水")["風"] == pytest.approx(wanted, rel=1e-2)
    water = node_named(graph.tokenizer, "水")
    assert graph.tokenizer.encode("雲水").tolist() == [water, water]


def test_merging_trained_nodes_keeps_the_others_and_verifies(graph: Graph) -> None:
    trained(graph)
    before = table(graph)
    graph.merge_node("雲", "水")
    after = table(graph)
    untouched = {pair: edge for pair, edge in before.edges.items() if not {*pair} & {"雲", "水"}}
    assert untouched == {pair: edge for pair, edge in after.edges.items() if "水" not in pair}
    assert graph.store.verify().ok
    assert np.isfinite(graph.evaluate().perplexity)


def test_bias_from(graph: Graph) -> None:
    graph.set_bias("月", like="春")
    assert table(graph).bias["月"] == table(graph).bias["春"]


# ---- edges


@pytest.mark.parametrize("nats", [2.0, -1.5])
@pytest.mark.parametrize("pair", [("春", "風"), ("<unk>", "風")])
def test_boosting(graph: Graph, nats: float, pair: tuple[str, str]) -> None:
    before = distribution(graph, pair[0])
    report = graph.boost_edge(*pair, nats)
    after = distribution(graph, pair[0])
    odds = (after[pair[1]] / after["月"]) / (before[pair[1]] / before["月"])
    assert np.log(odds) == pytest.approx(nats, abs=1e-3)
    assert report.after.kind == "private"
    assert report.after.probability == pytest.approx(after[pair[1]], rel=1e-2)


def test_scaling_copying_and_giving_up(graph: Graph) -> None:
    trained(graph)
    before = table(graph).edges
    graph.scale_edge("春", "風", 1.25)
    scaled = np.frombuffer(table(graph).edges["春", "風"][1], np.float32)
    assert np.array_equal(scaled, np.frombuffer(before["春", "風"][1], np.float32) * np.float32(1.25))
    graph.copy_edge("春", "月", source=("春", "風"))
    assert table(graph).edges["春", "月"] == (before["春", "月"][0], table(graph).edges["春", "風"][1])
    graph.default_edge("春", "月")
    assert ("春", "月") not in table(graph).edges
    with pytest.raises(OptionError, match="default edge already"):
        graph.default_edge("春", "月")
    with pytest.raises(OptionError, match="nothing to copy"):
        graph.copy_edge("春", "風", source=("春", "月"))


@pytest.mark.parametrize("path", ["torch", "native"])
def test_a_forbidden_edge_is_never_taken(graph: Graph, path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if path == "torch":
        monkeypatch.setattr("sifu_graph.model.parameters.cpu_contest", lambda *_: TorchContest())
    before = distribution(graph, "春")
    graph.forbid_edge("春", "風")
    after = distribution(graph, "春")
    assert after["風"] == 0
    for v, p in after.items():
        if v != "風":
            assert p == pytest.approx(before[v] / (1 - before["風"]), rel=1e-9)
    text = graph.generate("春", tokens=3000, seed=1, top_p=None).text
    assert "春" in text
    assert "春風" not in text
    report = graph.evaluate()
    assert report.forbidden > 0
    assert np.isfinite(report.perplexity)
    assert np.isfinite(graph.train(steps=2, batch=8).loss)
    with pytest.raises(OptionError, match="forbidden already"):
        graph.forbid_edge("春", "風")
    with pytest.raises(OptionError, match="allow it first"):
        graph.boost_edge("春", "風", 1.0)
    graph.allow_edge("春", "風")
    assert distribution(graph, "春")["風"] > 0


def test_the_exact_softmax_knows_of_forbidden_edges(graph: Graph) -> None:
    """Losses of a text, against the formulas."""
    graph.forbid_edge("春", "風")
    graph.forbid_edge("春", "<sep>")
    from sifu_graph.model import forward

    pair = [node_named(graph.tokenizer, token) for token in ("春", "月")]
    loss, _, _ = forward.evaluate(graph.parameters, graph.signal, np.array([pair], np.int32), np.array([2]))
    assert float(loss[0]) == pytest.approx(-np.log(distribution(graph, "春")["月"]), rel=1e-5)


def test_the_default_bucket_opens_with_the_most_frequent(graph: Graph, text: Path) -> None:
    """A node that was added late, but occurs most, is what a tie among default edges goes to."""
    graph.remove_node("春")
    graph.add_node("春", corpus=[text])
    graph.prune(to_ratio=0.0)
    order = graph.parameters.index.by_frequency
    assert order is not None
    assert [graph.tokenizer.vocabulary[node] for node in order[:3]] == ["<unk>", "<sep>", "春"]
    assert graph.generate("風", tokens=3, greedy=True).text == "\n\n\n"
    for name in ("<sep>", "風", "春"):
        graph.forbid_edge(name, "<sep>")
    assert graph.generate("風", tokens=3, greedy=True).text.startswith("春")


# ---- many edges


def test_pruning_keeps_the_most_frequent(graph: Graph) -> None:
    before = table(graph).edges
    planned = graph.prune(to_ratio=0.1, dry_run=True, evaluate=True)
    assert planned.snapshot is None
    assert table(graph).edges == before
    report = graph.prune(to_ratio=0.1)
    after = table(graph).edges
    assert (
        len(after) == report.private_edges_after == planned.private_edges_after == int(0.1 * len(graph.tokenizer) ** 2)
    )
    assert min(count for count, _ in after.values()) >= max(
        count for pair, (count, _) in before.items() if pair not in after
    )
    assert planned.heldout_after == pytest.approx(graph.evaluate().perplexity, rel=1e-6)
    assert report.bytes_freed == 0  # they were generated from the counts
    with pytest.raises(OptionError, match="smaller ratio"):
        graph.prune(to_ratio=0.2)
    with pytest.raises(OptionError, match="say how far"):
        graph.prune()


def test_pruning_by_usage_and_energy(graph: Graph) -> None:
    with pytest.raises(OptionError, match="train the graph first"):
        graph.prune(to_ratio=0.1, by="usage")
    graph.train(epochs=1, batch=16)
    usage = graph.store.read(USAGE)
    assert np.array_equal(usage[graph.parameters.index.slots()], graph.parameters.index.count)  # one pass
    copy = WorkingCopy(graph)
    by_count, by_usage = (
        set(to_prune(copy, to_ratio=0.1, min_count=None, by=by).tolist()) for by in ("count", "usage")
    )
    assert by_count == by_usage
    graph.prune(to_ratio=0.1, by="energy")
    assert graph.store.verify().ok


def test_growing_back_what_was_pruned(graph: Graph) -> None:
    start = graph.evaluate().perplexity
    kept = table(graph).edges
    graph.prune(to_ratio=0.05)
    pruned = graph.evaluate().perplexity
    assert pruned > start * 1.02
    report = graph.grow(to_ratio=0.5)
    assert report.private_edges_after == len(kept)
    assert {pair: count for pair, (count, _) in table(graph).edges.items()} == {p: c for p, (c, _) in kept.items()}
    assert graph.evaluate().perplexity == pytest.approx(start, rel=1e-3)
    graph.compact()


def test_growing_from_the_default_edge_changes_no_energy(graph: Graph) -> None:
    graph.prune(to_ratio=0.05)
    before, perplexity = table(graph, energies=True).energy, graph.evaluate().perplexity
    report = graph.grow(min_count=2, init="default")
    assert report.edges_added > 0
    assert table(graph, energies=True).energy == before
    assert graph.evaluate().perplexity == pytest.approx(perplexity, rel=1e-6)


def test_one_budget_for_old_and_new(graph: Graph, tmp_path: Path) -> None:
    graph.prune(to_ratio=0.1)
    before = table(graph).edges
    new = tmp_path / "new.txt"
    new.write_text("中中中中中\n" * 400 + "無來無來無來\n" * 400, encoding="utf-8")
    report = graph.grow(corpus=[new], to_ratio=0.1)
    after = table(graph).edges
    assert len(after) == len(before)
    assert report.edges_added == report.edges_removed > 0
    assert after["中", "中"][0] >= 1000
    gone = [count for pair, (count, _) in before.items() if pair not in after]
    assert max(gone) <= min(count for count, _ in after.values())


def test_compacting_changes_no_bit(graph: Graph) -> None:
    trained(graph)
    graph.add_node("龍", like="月")
    graph.remove_node("風")
    graph.prune(to_ratio=0.2)
    before, perplexity = table(graph, energies=True), graph.evaluate()
    report = graph.compact()
    assert report.slots_after == report.private_edges_after < report.slots_before
    assert report.runs_after < report.runs_before
    after = table(graph, energies=True)
    after.same(before)
    assert after.energy == before.energy
    assert graph.evaluate() == perplexity
    assert graph.store.verify().ok
    snapshot = graph.store.snapshot
    assert graph.compact().snapshot is None  # nothing to do: no commit
    assert graph.store.snapshot == snapshot


@pytest.mark.parametrize("kind", ["rowwise", "adamw-dense", pytest.param("adamw", marks=pytest.mark.slow)])
def test_training_goes_on_after_edits(graph: Graph, kind: str) -> None:
    from sifu_graph.training.options import merged_optimizer

    graph.train(steps=2, batch=8, optimizer=merged_optimizer(None, kind=kind))
    graph.add_node("龍", like="月")
    graph.grow(min_count=1)
    graph.remove_node("風")
    graph.merge_node("雲", "水")
    assert graph.train(steps=2).step == 4
    with Graph.open(graph.path) as again:
        assert again.train(steps=1).step == 5
        assert again.store.verify().ok


# ---- whole or not at all


def test_several_edits_are_one_commit(graph: Graph) -> None:
    commits = len(graph.store.history())
    with graph.edit("a new word") as edit:
        edit.add_node("江南", like="江")
        edit.forbid_edge("江", "南" if graph.tokenizer.token_id("南") else "風")
        edit.prune(to_ratio=0.2)
    history = graph.store.history()
    assert len(history) == commits + 1
    assert history[0].message == "a new word"
    assert len(history[0].changes["edits"]) == 3
    assert history[0].changes["nodes"] == history[0].changes["nodes_before"] + 1


def test_an_error_leaves_everything_as_it_was(graph: Graph) -> None:
    before, snapshot = table(graph), graph.store.snapshot
    with pytest.raises(ZeroDivisionError), graph.edit("no") as edit:
        edit.add_node("江南", like="江")
        raise ZeroDivisionError
    with pytest.raises(OptionError), graph.edit("no") as edit:
        edit.remove_node("月")
        edit.remove_node("月")
    nowhere = [Path("nowhere.txt")]
    with (
        pytest.raises(OptionError, match="nothing was committed"),
        graph.edit("no") as edit,
        contextlib.suppress(SifuError),  # the node is in the working copy, its edges are not
    ):
        edit.add_node("龍", corpus=nowhere)
    with Graph.open(graph.path) as again:
        assert again.store.snapshot == snapshot
        table(again).same(before)
    table(graph).same(before)


def test_one_writer_at_a_time(graph: Graph) -> None:
    with Store.open(graph.path, write=True), pytest.raises(StoreLockedError):
        graph.add_node("龍")
    with graph.edit("outer"), pytest.raises(StoreLockedError):
        graph.train(steps=1)


def test_an_older_snapshot_cannot_be_edited(graph: Graph) -> None:
    first = graph.store.snapshot
    graph.add_node("龍")
    with Graph.open(graph.path, at=first) as old, pytest.raises(OptionError, match="older snapshot"):
        old.add_node("鳳")


def test_an_edit_begins_from_what_others_committed(store: Path) -> None:
    with Graph.open(store) as one, Graph.open(store) as two:
        one.add_node("龍")
        two.add_node("鳳")
        assert {"龍", "鳳"} <= set(two.tokenizer.vocabulary)


@pytest.mark.parametrize(
    ("method", "args", "options", "said"),
    [
        ("add_node", ("春",), {}, "is a node already"),
        ("add_node", ("",), {}, "cannot be a node"),
        ("add_node", ("龍\n鳳",), {}, "can never be read"),
        ("add_node", ("龍", "龍"), {}, "is a node already"),
        ("add_node", ("龍",), {"like": "鳳"}, "the nearest names"),
        ("add_node", ("龍",), {"like": "<sep>"}, "special"),
        ("add_node", (), {}, "at least one"),
        ("remove_node", ("<unk>",), {}, "special"),
        ("remove_node", ("龍",), {}, "is not a node of this graph; the nearest names"),
        ("rename_node", ("春", "風"), {}, "is a node already"),
        ("rename_node", ("<sep>", "龍"), {}, "special"),
        ("merge_node", ("春", "春"), {}, "into itself"),
        ("merge_node", ("春", "<sep>"), {}, "special"),
        ("scale_edge", ("春", "風", float("nan")), {}, "it must be -1,000,000"),
        ("boost_edge", ("春", "風", -100.0), {}, "least"),
        ("copy_edge", ("春", "風"), {"source": ("春", "風")}, "itself"),
        ("allow_edge", ("春", "風"), {}, "not forbidden"),
        ("prune", (), {"to_ratio": 0.9}, "smaller ratio"),
        ("prune", (), {"to_ratio": 1.5}, "a number from 0 to 1"),
        ("prune", (), {"min_count": 0}, "at least 1"),
        ("grow", (), {}, "say how far"),
    ],
)
def test_what_has_no_meaning(graph: Graph, method: str, args: tuple, options: dict, said: str) -> None:
    snapshot = graph.store.snapshot
    for dry_run in (True, False):
        with pytest.raises(OptionError, match=said):
            getattr(graph, method)(*args, **options, dry_run=dry_run)
    with Store.open(graph.path) as store:
        assert store.snapshot == snapshot


def test_a_word_that_never_occurs(graph: Graph, text: Path) -> None:
    with pytest.raises(CorpusError, match="not one occurrence"):
        graph.add_node("龍", corpus=[text])
    report = graph.add_node("龍", "春風", corpus=[text])
    assert report.missing == ["龍"]
