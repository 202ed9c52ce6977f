"""A graph whose edges share a base: from the counts to training, text, trace and edits."""

from __future__ import annotations

import json
import math
import shutil
import time
import warnings
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from sifu_store import Store
from sifu_store.errors import CorpusError, DivergedError, HostMemoryError, OptionError
from small import whole, write_poems, write_text
from threadpoolctl import threadpool_limits

from sifu_graph import Graph, build_graph
from sifu_graph.config import BASE, PRESETS, OptimizerConfig
from sifu_graph.edge_index import EdgeIndex
from sifu_graph.edit import base_edits
from sifu_graph.estimate import estimate
from sifu_graph.generation.base_walk import BaseWalk
from sifu_graph.inspection.inspect import EdgeReport, NodeReport
from sifu_graph.inspection.inspect_clone import CloneReport
from sifu_graph.interop.safetensors import import_safetensors
from sifu_graph.kernels import native as native_kernels
from sifu_graph.model.base import NAMES, Base
from sifu_graph.ops.pair_model import PairModel
from sifu_graph.ops.recurrent import Recurrent
from sifu_graph.text.pair_counts import count_pairs
from sifu_graph.training import base_trainer
from sifu_graph.training.options import TrainOptions
from sifu_graph.training.progress import Clock, Progress

CHARACTERS = {"vocab": 40, "sparsify": 0.5, "length": 8, "holdout": 0.1}


@pytest.fixture(scope="session")
def built_base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Not to be changed: see `store`."""
    folder = tmp_path_factory.mktemp("base")
    text = write_text(folder / "poems.txt")
    text.write_text(text.read_text("utf-8").replace("月風", "月風水"), "utf-8")  # one context says more than its node
    build_graph(text, folder / "graph.sifu", signal="recurrent", clones=40, **CHARACTERS)
    return folder / "graph.sifu"


@pytest.fixture(scope="session")
def trained_base(built_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same, trained a little; an edge is boosted and one forbidden."""
    path = Path(shutil.copytree(built_base, tmp_path_factory.mktemp("trained") / "graph.sifu"))
    with Graph.open(path) as graph:
        graph.train(steps=12, batch=4, eval_every=0)
        graph.boost_edge("春", "風", 0.5)
        graph.forbid_edge("月", "春")
    return path


@pytest.fixture
def store(built_base: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(built_base, tmp_path / "graph.sifu"))


@pytest.fixture
def trained(trained_base: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(trained_base, tmp_path / "trained.sifu"))


def contents(path: Path) -> dict[str, Any]:
    with Store.open(path) as store:
        return {**{name: whole(store, name) for name in store.names()}, "settings": store.settings}


def assert_same(one: Path, two: Path) -> None:
    first, second = contents(one), contents(two)
    assert first.keys() == second.keys()
    for name, value in first.items():
        assert np.array_equal(value, second[name]) if isinstance(value, np.ndarray) else value == second[name], name


def naive(graph: Graph, ids: list[int]) -> np.ndarray:
    """The energies of all nodes after each node of a text, float64 [tokens, n]: the equations of `ops.recurrent`."""
    base = graph.parameters.base
    assert base is not None
    W, gain, e, r, n, c, s, g, G, after = (x.double().numpy() for x in base.model.tensors().values())
    index, added = graph.parameters.index, graph.store.read("edges/energy")
    tree, found = base.pairs.tree, []
    names = {tuple(tree.name(source)): source for source in range(tree.sources)}
    for at, node in enumerate(ids):
        source = node
        for size in range(2, at + 2):
            source = names.get(tuple(ids[at + 1 - size : at + 1]), source)
        h = r @ W
        h = (h - h.mean()) / math.sqrt(((h - h.mean()) ** 2).mean() + 1e-6)
        z = gain * h + e[node]
        r = z * np.array([0.5 * math.erfc(-x / math.sqrt(2)) for x in z])
        energy = s[0] * base.pairs.rows(np.array([source]))[0] + n @ r + c
        pairs, triples = (Counter(zip(*(ids[k : at + 1] for k in range(size)), strict=False)) for size in (2, 3))
        for v in range(len(c)):
            z, times = 1 + base.pairs.log_lower[v] / 10, ids[:at].count(v)
            a, b = g[v] + G @ [1, z, z * z]
            energy[v] += (a + b * math.log(times) if times else 0) + after[0] * math.log1p(pairs[node, v])
            energy[v] += after[1] * math.log1p(triples[(*ids[max(0, at - 1) : at + 1], v)])
        for v in range(len(c)):
            slot = index.slot_of(node, v)
            energy[v] += 0.0 if slot is None else float(added[slot])
            if index.is_forbidden(np.int64(node), np.int64(v)):
                energy[v] = -np.inf
        found.append(energy)
    return np.array(found)


def words_corpus(path: Path) -> Path:
    rng = np.random.default_rng(0)
    words = ["the", "of", "a", "river", "moon", "and", "is", "in", "light", "old"]
    lines = [" ".join(rng.choice(words, 12, p=np.arange(10, 0, -1) / 55)) for _ in range(400)]
    path.write_text("\n\n".join(lines), encoding="utf-8")
    return path


def token_lists(path: Path) -> Path:
    rng = np.random.default_rng(1)
    lines = [str([f"t{k}" for k in rng.zipf(1.5, 15) % 30]).replace("'", '"') for _ in range(300)]
    path.write_text("\n".join(lines), encoding="utf-8")
    return path


@pytest.mark.parametrize("level", ["char", "poems", "bpe", "tokens"])
def test_untrained_it_is_kneser_ney_of_order_2(tmp_path: Path, level: str) -> None:
    texts: dict[str, Callable[[], Path]] = {
        "char": lambda: write_text(tmp_path / "a.txt"),
        "poems": lambda: write_poems(tmp_path / "a.txt", poems=300),
        "bpe": lambda: words_corpus(tmp_path / "a.txt"),
        "tokens": lambda: token_lists(tmp_path / "a.jsonl"),
    }
    options = {"vocab": 300, "sparsify": 0.1, "holdout": 0.1, "level": "char" if level == "poems" else level}
    build_graph(texts[level](), tmp_path / "g.sifu", signal="recurrent", clones=0, **options)
    with Graph.open(tmp_path / "g.sifu") as graph:
        report = graph.evaluate(with_baselines=True)
        counted = {found.name: found.perplexity for found in report.baselines}["kneser-ney-2"]
        assert report.perplexity == pytest.approx(counted, rel=1e-3)
        assert report.perplexity < graph.settings["nodes"]


@pytest.mark.parametrize("native", [True, False])
def test_evaluation_and_generation_are_the_equations(
    trained: Path, native: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not native:
        monkeypatch.setattr(native_kernels, "compiled", lambda *_: None)
    with Graph.open(trained) as graph:
        split = graph._tokens().heldout
        nats, forbidden = [], 0
        for k in range(split.documents):
            ids = split.document(k).tolist()
            energies = naive(graph, ids)
            for row, goal in zip(energies, ids[1:], strict=False):
                if row[goal] == -np.inf:
                    forbidden += 1
                else:
                    nats.append(np.logaddexp.reduce(row) - row[goal])
        report = graph.evaluate()
        assert report.tokens == len(nats)
        assert report.forbidden == forbidden > 0
        assert math.log(report.perplexity) == pytest.approx(np.mean(nats), abs=1e-5)
        ids = split.document(0).tolist()[:12]
        walk = BaseWalk(graph.parameters, graph.signal)
        for at, row in enumerate(naive(graph, ids)):
            (walk.carry if at else walk.start)(ids[at])
            assert walk.energies()[0] == pytest.approx(row, abs=1e-4)
        text = graph.generate("春風", tokens=8, greedy=True).text
        ids = [1, *graph.tokenizer.encode("春風").tolist()]
        for token in graph.tokenizer.encode(text.replace("\n", "")).tolist():
            row = naive(graph, ids)[-1]
            row[list(graph.tokenizer.never_generated)] = -np.inf
            if int(row.argmax()) == 1:
                break
            assert int(row.argmax()) == token
            ids.append(token)


def test_a_limit_takes_whole_documents(trained: Path) -> None:
    with Graph.open(trained) as graph:
        whole_report, part = graph.evaluate(), graph.evaluate(limit=60)
        assert 60 <= part.tokens < 100 < whole_report.tokens
        assert graph.evaluate(limit=60) == part
        assert sum(position.tokens for position in whole_report.positions) == whole_report.tokens
        assert whole_report.private.tokens + whole_report.default.tokens == whole_report.tokens


def test_training_learns_and_says_so(store: Path) -> None:
    with Graph.open(store) as graph:
        report = graph.train(steps=40, batch=8)
        assert report.heldout_before is not None and report.heldout_perplexity is not None
        assert report.tokens_done > 0 and report.contexts is None
        training = graph.settings["training"]
        assert training is not None
        assert training["optimizer"] == OptimizerConfig(**BASE).to_json()
        assert graph.info().base_parameters == sum(x.numel() for x in graph.parameters.base.model.tensors().values())


def test_a_line_has_an_end(tmp_path: Path) -> None:
    """Lines of seven characters: their length is more than pairs can count."""
    rng = np.random.default_rng(0)
    lines = ["".join(rng.choice(list("春風花月夜江水"), 7)) for _ in range(600)]
    (tmp_path / "a.txt").write_text("\n\n".join("\n".join(lines[k : k + 3]) for k in range(0, 600, 3)), "utf-8")
    build_graph(tmp_path / "a.txt", tmp_path / "g.sifu", vocab=20, signal="recurrent", holdout=0.1)
    with Graph.open(tmp_path / "g.sifu") as graph:
        before = graph.evaluate().perplexity
        graph.train(steps=300, batch=8, eval_every=0)
        after = graph.evaluate().perplexity
    assert before > 6.3
    assert after < 5.75  # 7 of 8 tokens are one of seven: 7 ** (7 / 8) = 5.49 if the end of a line is known


@pytest.mark.parametrize(
    ("kind", "dropout"), [("adamw", 0.3), ("rowwise", 0.0), pytest.param("adamw-dense", 0.0, marks=pytest.mark.slow)]
)
def test_resumed_is_uninterrupted(store: Path, tmp_path: Path, kind: str, dropout: float) -> None:
    other = Path(shutil.copytree(store, tmp_path / "other.sifu"))
    optimizer = OptimizerConfig.of(kind, lr=1e-2, decay_steps=1000, dropout=dropout)
    with Graph.open(store) as graph:
        graph.train(steps=9, batch=4, optimizer=optimizer, eval_every=0)
    with Graph.open(other) as graph:
        graph.train(steps=2, batch=4, optimizer=optimizer, commit_every=1)
        graph.train(steps=3)
    with Graph.open(other) as graph:
        graph.train(steps=4, eval_every=1)
    assert_same(store, other)


def test_a_run_by_time_alone_ends_after_some_passes(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A small text would be learned by heart."""
    monkeypatch.setattr(base_trainer, "MOST_PASSES", 2)
    said, steps = [], []
    with Graph.open(store) as graph:
        passes = graph.train(epochs=2, batch=16, eval_every=0).steps_done
        report = graph.train(
            minutes=60,
            batch=16,
            eval_every=0,
            say=said.append,
            on_step=lambda step: step.last or steps.append(step.step),
        )
        assert len(steps) == passes
        assert sum("stopped after 2 passes" in line for line in said) == 1
        assert report.epochs_left is None
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a slow machine has no time for a step, and says so
            assert graph.train(minutes=0.0001, batch=16, eval_every=0).steps_done < passes


def test_a_run_by_time_alone_ends_where_held_out_text_was_predicted_best(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(base_trainer, "MOST_PASSES", 12)
    other, said, passes = Path(shutil.copytree(store, tmp_path / "other.sifu")), [], []
    options = {"optimizer": OptimizerConfig.of("adamw", lr=1e-2, decay_steps=1000), "batch": 16, "eval_every": 0}

    def on_step(step: Any) -> None:
        if step.heldout_perplexity is not None and not step.last:
            passes.append((step.heldout_perplexity, step.step))

    with Graph.open(store) as graph:
        first = graph.train(minutes=60, on_step=on_step, say=said.append, **options)
        assert len(passes) == 12
        best, step = min(passes)
        assert 0 < step < passes[-1][1] and best < first.heldout_before
        assert (first.step, first.heldout_perplexity) == (step, best)
        assert any(f"at step {step}" in note for note in first.notes)
        lines = (store / "metrics.jsonl").read_text().splitlines()
        assert max(json.loads(line)["step"] for line in lines) == step
        assert graph.evaluate().perplexity == pytest.approx(best)
    with Graph.open(other) as graph:
        graph.train(steps=step, **options)
    assert_same(store, other)


DAMAGE: dict[str, tuple[str, Callable[[np.ndarray, int], Any], str]] = {
    "runs": ("pairs/first", lambda x, n: x.__setitem__(1, x[2] + 1), "do not follow one another"),
    "no node": ("pairs/target", lambda x, n: x.__setitem__(-1, n), "refers to no node"),
    "order": ("pairs/target", lambda x, n: x.__setitem__(1, x[0]), "not in the order"),
    "counts": ("pairs/count", lambda x, n: x.__setitem__(3, -1), "negative counts"),
    "parent": ("clones/parent", lambda x, n: x.__setitem__(-1, n + len(x)), "an earlier clone"),
    "token": ("clones/token", lambda x, n: x.__setitem__(0, n), "a clone refers to no node"),
    "twice": ("clones/token", lambda x, n: x.__setitem__(slice(None), 3), "each once"),
}


@pytest.mark.parametrize("what", DAMAGE)
def test_verify_checks_pairs_and_clones(store: Path, what: str) -> None:
    name, change, reason = DAMAGE[what]
    with Store.open(store, write=True) as opened:
        assert opened.verify().ok
        values = opened.read(name).copy()
        change(values, opened.settings["nodes"])
        opened.write(name, values)
        opened.commit("damage", command="edit", changes={})
        (damage,) = opened.verify().damage
        assert damage.array == name and reason in damage.reason


def test_dropout_is_part_of_a_base_alone(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="`dropout` is 1"):
        OptimizerConfig(dropout=1.0)
    build_graph(write_text(tmp_path / "a.txt"), tmp_path / "g.sifu", signal="tuned", **CHARACTERS)
    with Graph.open(tmp_path / "g.sifu") as graph, pytest.raises(OptionError, match="`dropout`"):
        graph.train(steps=1, optimizer=OptimizerConfig(dropout=0.1))


def test_the_rest_of_an_interrupted_run_has_its_rates(store: Path, tmp_path: Path) -> None:
    other = Path(shutil.copytree(store, tmp_path / "other.sifu"))
    with Graph.open(store) as graph:
        graph.train(steps=9, batch=4, eval_every=0)

    def stop(report: Any) -> None:
        if report.step == 4:
            raise KeyboardInterrupt

    with Graph.open(other) as graph:
        with pytest.raises(KeyboardInterrupt):  # after the commit of step 3
            graph.train(steps=9, batch=4, eval_every=0, commit_every=3, on_step=stop)
        assert graph.settings["training"]["rest"]["ends"] == 9
        graph.train(steps=6)
    assert_same(store, other)


def test_the_rest_of_the_minutes_continues_their_rates(store: Path) -> None:
    def stop(report: Any) -> None:
        if report.step == 4:
            raise KeyboardInterrupt

    with Graph.open(store) as graph:
        with pytest.raises(KeyboardInterrupt):
            graph.train(minutes=1.0, batch=4, eval_every=0, commit_every=3, on_step=stop)
        saved = graph.settings["training"]
    assert saved is not None
    rest = saved["rest"]
    assert rest["ends"] > 100 and 0.9 < rest["minutes"] < 1.0 and 0 < rest["done"] < 0.1
    progress = Progress.resumed(saved, TrainOptions(), saved["corpus"], seed=0, default_batch=4)
    for minutes, begun, ends in (
        (rest["minutes"], rest["done"], rest["ends"]),
        (float(f"{rest['minutes']:.3g}"), rest["done"], rest["ends"]),
        (2.0, 0.0, progress.step + 80),
    ):
        clock = Clock.of(progress, TrainOptions(minutes=minutes), saved, per_epoch=10, most_passes=8)
        clock.started = time.monotonic()
        assert clock.last_step == ends
        assert clock.done(progress.step) == pytest.approx(begun, abs=1e-3)


def test_the_number_of_threads_changes_no_bit(store: Path, tmp_path: Path) -> None:
    other = Path(shutil.copytree(store, tmp_path / "other.sifu"))
    usual = torch.get_num_threads()
    try:
        for threads, path in ((1, store), (2, other)):
            torch.set_num_threads(threads)
            with Graph.open(path) as graph:
                graph.train(steps=6, eval_every=0)
                text = graph.generate("春", tokens=30, seed=1).text
                perplexity = graph.evaluate().perplexity
            if threads == 1:
                wanted = text, perplexity
    finally:
        torch.set_num_threads(usual)
    assert (text, perplexity) == wanted
    assert_same(store, other)


def test_the_contest_of_many_nodes_has_the_same_bits_with_any_number_of_threads() -> None:
    """A BLAS shares out a product only if it is large."""
    nodes, usual, found = 4001, torch.get_num_threads(), []
    pairs = PairModel.of(count_pairs([np.arange(nodes)], n=nodes))
    small = {NAMES[name]: value for name, value in Recurrent.initial(nodes, 48, seed=0).tensors().items()}
    small["base/target"] = torch.randn(nodes, 48, generator=torch.Generator().manual_seed(0))
    base = Base.of(small, pairs)
    index = EdgeIndex.from_slots(nodes, *(np.empty(0, kind) for kind in (np.int32, np.int32, np.int64)))
    parameters = SimpleNamespace(base=base, index=index)
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            with threadpool_limits(threads):
                walk = BaseWalk(parameters, PRESETS["recurrent"])
                walk.start(7)
                walk.carry(5)
                found.append((walk.energies()[0], base.energies(np.arange(20), torch.ones(20, 48))))
    finally:
        torch.set_num_threads(usual)
    for one, two in found[1:]:
        assert np.array_equal(one, found[0][0]) and np.array_equal(two, found[0][1])


def test_a_rate_that_is_too_high_stops_at_the_last_commit(store: Path) -> None:
    with Graph.open(store) as graph:
        graph.train(steps=1, batch=4)
        kept = graph.store.snapshot
        for steps in (1, 20):
            with pytest.raises(DivergedError, match="lower `lr`"):
                graph.train(steps=steps, optimizer=OptimizerConfig(**{**BASE, "lr": 1e30, "clip": 0.0}))
        assert graph.store.snapshot == kept
        assert math.isfinite(graph.evaluate().perplexity)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"candidates": 5}, "trained on all nodes"),
        ({"contexts": True}, "no closed form"),
    ],
)
def test_what_does_not_apply(store: Path, options: dict[str, Any], message: str) -> None:
    with Graph.open(store) as graph, pytest.raises(OptionError, match=message):
        graph.train(steps=1, **options)


def test_memory_and_device(store: Path, tmp_path: Path) -> None:
    with Graph.open(store, host_memory="20KiB") as graph, pytest.raises(HostMemoryError, match="the least that works"):
        graph.train(steps=1)
    with Graph.open(store, device_memory="1GiB") as graph, pytest.raises(OptionError, match="on the CPU"):
        graph.evaluate()
    with Graph.open(store, host_memory="24MiB") as graph:
        graph.train(steps=1)
    with pytest.raises(OptionError, match="begins with the counts"):
        build_graph("tang", tmp_path / "u.sifu", signal="recurrent", init="uniform")


def test_an_estimate(store: Path) -> None:
    with Graph.open(store) as graph:
        found, base = estimate(graph), graph.parameters.base
        assert base is not None
        assert found.host_bytes == found.least_bytes == found.table_bytes + found.working_bytes
        assert found.process_bytes == found.least_bytes + found.library_bytes
        assert found.epoch_s > 0 and found.tokens_per_s > 0


def test_counts_without_a_pair_are_uniform() -> None:
    pairs = PairModel.of(count_pairs([np.array([1]), np.array([2])], n=4))
    small = {NAMES[name]: value for name, value in Recurrent.initial(4, 16, seed=0).tensors().items()}
    base = Base.of(small, pairs)
    nodes = np.arange(4)
    assert base.energies(nodes, torch.zeros(4, 16)) == pytest.approx(-math.log(4))
    assert base.edge_energies(nodes, nodes, torch.zeros(4, 16)) == pytest.approx(-math.log(4))


@pytest.mark.parametrize(
    "text",
    ["春風花月" * 12, "春" * 10_000 + "\n\n" + "風月" * 5_000, "a b\n\nc d\n\ne f", "春風\n\n花"],
    ids=["one document", "long lines", "pairs", "hardly any"],
)
def test_odd_texts(tmp_path: Path, text: str) -> None:
    (tmp_path / "a.txt").write_text(text, encoding="utf-8")
    build_graph(tmp_path / "a.txt", tmp_path / "g.sifu", vocab=50, signal="recurrent", holdout=0.0)
    with Graph.open(tmp_path / "g.sifu") as graph:
        graph.train(steps=3)
        assert graph.generate(text[0], tokens=5, seed=0).tokens <= 5
        assert math.isfinite(graph.evaluate([tmp_path / "a.txt"]).perplexity)
        with pytest.raises(CorpusError, match="no held-out text"):
            graph.evaluate()


def test_earlier_graphs_do_not_name_the_base(tmp_path: Path) -> None:
    build_graph(write_text(tmp_path / "a.txt"), tmp_path / "g.sifu", signal="tuned", **CHARACTERS)
    with Store.open(tmp_path / "g.sifu") as store:
        assert "base" not in store.settings["signal"]
        assert store.format_version == 1


# ---- surgery


def all_energies(graph: Graph) -> dict[tuple[str, str, str], float]:
    """The energy of every node after each short text, by the names of the two nodes of the text and of the target."""
    names, found = graph.tokenizer.vocabulary, {}
    walk = BaseWalk(graph.parameters, graph.signal)
    for first in ("花", "夜", "月"):
        for u, name in enumerate(names[2:], start=2):
            walk.start(1)
            walk.carry(graph.tokenizer.token_id(first))
            walk.carry(u)
            for v, energy in zip(names, walk.energies()[0].tolist(), strict=True):
                found[first, name, v] = energy
    return found


EDITS: dict[str, tuple[Callable[[Graph], Any], set[str], set[tuple[str, str]]]] = {
    "boost": (lambda g: g.boost_edge("春", "風", 1.0), set(), {("春", "風")}),
    "scale": (lambda g: g.scale_edge("春", "風", 3.0), set(), {("春", "風")}),
    "copy": (lambda g: g.copy_edge("花", "水", source=("春", "風")), set(), {("花", "水")}),
    "default": (lambda g: g.default_edge("春", "風"), set(), {("春", "風")}),
    "forbid": (lambda g: g.forbid_edge("花", "水"), set(), {("花", "水")}),
    "allow": (lambda g: g.allow_edge("月", "春"), set(), {("月", "春")}),
    "like": (lambda g: g.add_node("龘", "鱻", like="春"), {"龘", "鱻"}, set()),
    "remove": (lambda g: g.remove_node("江"), {"江"}, set()),
    "merge": (lambda g: g.merge_node("江", "水"), {"江", "水"}, set()),
    "bias": (lambda g: g.set_bias("江", like="水"), {"江"}, set()),
    "prune": (lambda g: g.prune(to_ratio=0.3, by="energy"), set(), set()),
    "grow": (lambda g: g.grow(min_count=1), set(), set()),
    "compact": (lambda g: (g.remove_node("江"), g.compact()), {"江"}, set()),
}


@pytest.mark.parametrize("name", EDITS)
def test_an_edit_touches_only_what_it_is_about(trained: Path, name: str) -> None:
    change, nodes, edges = EDITS[name]
    with Graph.open(trained) as graph:
        before = all_energies(graph)
        change(graph)
        after = all_energies(graph)
        assert graph.store.format_version == 5
        graph.evaluate(limit=50)
        graph.train(steps=2)
    for key in before.keys() & after.keys():
        if not nodes & {*key} and key[1:] not in edges:
            assert after[key] == before[key], key
    touched = [key for key in before.keys() & after.keys() if key[1:] in edges]
    assert all(after[key] != before[key] for key in touched)
    with Store.open(trained) as store:
        assert store.verify().ok


def test_an_edit_in_one_context_holds_there_alone(trained: Path) -> None:
    with Graph.open(trained) as graph:
        before = all_energies(graph)
        report = graph.boost_edge("月>風", "水", 2.0)
        after = all_energies(graph)
        changed = {key for key in before if after[key] != before[key]}
        assert changed == {("月", "風", "水")}
        assert after["月", "風", "水"] - before["月", "風", "水"] == pytest.approx(2.0, abs=1e-5)
        odds = [found.probability / (1 - found.probability) for found in (report.before, report.after)]
        assert math.log(odds[1] / odds[0]) == pytest.approx(2.0, abs=1e-5)
        assert (report.before.kind, report.after.kind) == ("inherited", "own")
        graph.boost_edge("風", "水", 1.0)  # holds for its clones too
        assert all_energies(graph)["月", "風", "水"] - before["月", "風", "水"] == pytest.approx(3.0, abs=1e-5)
        graph.default_edge("風", "水")
        trial = graph.trace("月風", what_if=["edge 月>風 水 = default"])
        graph.default_edge("月>風", "水")
        assert all_energies(graph) == before
        assert trial.positions[-1].candidates == graph.trace("月風").positions[-1].candidates
        with pytest.raises(OptionError, match="no edit gave this edge an energy in this context"):
            graph.trace("月風", what_if=["edge 月>風 水 = default"])
        graph.forbid_edge("月>風", "水")
        changed = {key for key, energy in all_energies(graph).items() if energy != before[key]}
        assert changed == {("月", "風", "水")}
        assert graph.diff().clone_edges == (("月>風", "水", 0.0, -math.inf),)
        graph.train(steps=2)
        assert graph.evaluate(limit=200).perplexity < 100
        assert all("水" not in graph.generate("月風", tokens=1, seed=k).text for k in range(20))
        with pytest.raises(OptionError, match="not a clone of this graph; of '風' there are"):
            graph.boost_edge("江>風", "水", 1.0)
        with pytest.raises(OptionError, match="forbidden: allow it first"):
            graph.boost_edge("月>風", "水", 1.0)
        graph.allow_edge("月>風", "水")
        with pytest.raises(OptionError, match="is not forbidden"):
            graph.allow_edge("月>風", "水")
        graph.rename_node("月", "龘")
        graph.boost_edge("龘>風", "水", 1.0)
        graph.remove_node("龘")
        graph.evaluate(limit=200)


@pytest.mark.parametrize("most", [0, 7])
def test_pruned_clones_leave_the_counts_of_a_graph_without_them(built_base: Path, tmp_path: Path, most: int) -> None:
    path = Path(shutil.copytree(built_base, tmp_path / "graph.sifu"))
    with Graph.open(path) as graph:
        before = graph.info().clones
        report = graph.prune(clones=most)
        assert graph.info().clones == before - report.clones_removed <= most
        pairs, text = graph.parameters.base.pairs, graph._tokens().train
        counts = count_pairs(text, n=pairs.nodes)
        names = [tuple(pairs.tree.name(source)) for source in range(pairs.nodes, pairs.tree.sources)]
        if not most:
            assert np.array_equal(pairs.target, counts.target)
            assert np.array_equal(pairs.count, counts.count)
            assert np.array_equal(pairs.total, counts.row_total)
        else:
            assert all(len(name) == 2 or name[1:] in names for name in names)
            assert graph.evaluate(limit=200).perplexity < 23
        sums = np.zeros(pairs.tree.sources)
        source = pairs.sources_of(np.arange(len(pairs.target)))
        depth = pairs.tree.depth[source]
        taken = np.array([(0.0, *d) for d in pairs.discounts])[depth, np.minimum(pairs.count, 3)]
        np.add.at(sums, source, taken)
        assert pairs.discounted == pytest.approx(sums)
        with pytest.raises(OptionError, match="and the graph has"):
            graph.prune(clones=before)


def test_a_clone_is_inspected(trained: Path) -> None:
    with Graph.open(trained) as graph:
        report = graph.inspect("月>風", top=23)
        assert isinstance(report, CloneReport)
        assert (report.name, report.parent) == ("月>風", "風")
        assert sum(target.p for target in report.targets) == pytest.approx(1.0)
        assert sum(target.count > 0 for target in report.targets) == report.distinct_targets
        strongest = report.targets[0]
        edge = graph.inspect("月>風", strongest.name)
        assert isinstance(edge, EdgeReport)
        assert edge.p == pytest.approx(strongest.p)
        assert (edge.rank, edge.count) == (1, strongest.count)
        node = graph.inspect("風")
        assert isinstance(node, NodeReport)
        assert "月>風" in [clone.name for clone in node.clones]
        assert graph.inspect("風", strongest.name).p == pytest.approx(strongest.p_parent)


def test_boosting_adds_nats(trained: Path) -> None:
    with Graph.open(trained) as graph:
        report = graph.boost_edge("春", "風", 1.5)
        odds = [found.probability / (1 - found.probability) for found in (report.before, report.after)]
        assert math.log(odds[1] / odds[0]) == pytest.approx(1.5, abs=1e-5)
        graph.undo()
        assert graph.inspect("春", "風").energy == pytest.approx(report.before.energy, abs=1e-5)


def test_a_node_like_another_has_its_energies(trained: Path) -> None:
    with Graph.open(trained) as graph:
        graph.add_node("龘", like="春")
        found = all_energies(graph)
    for first, u, v in found:
        if v == "春":
            assert found[first, u, "龘"] == found[first, u, v]
        if u == "春":
            assert found[first, "龘", v] == found[first, u, v]


def test_a_merged_node_has_both_probabilities(trained: Path) -> None:
    with Graph.open(trained) as graph:

        def share(name: str) -> float:
            return graph.inspect("花", name).p

        parts = share("江") + share("雲")
        graph.merge_node("江", "雲")
        assert share("雲") == pytest.approx(parts, rel=0.15)


def test_a_new_node_is_read_from_its_text(trained: Path, tmp_path: Path) -> None:
    """Text in which a known node has another name: the new one takes its place, in closed form and with some steps."""
    text = write_text(tmp_path / "b.txt", documents=200, seed=5).read_text("utf-8").replace("花", "龘")
    (tmp_path / "b.txt").write_text(text, encoding="utf-8")
    with Graph.open(trained) as graph:
        before = all_energies(graph)
        unknown = graph.evaluate([tmp_path / "b.txt"]).perplexity
        graph.add_node("龘", corpus=[tmp_path / "b.txt"])
        closed = graph.evaluate([tmp_path / "b.txt"]).perplexity
        vectors = graph.parameters.base.model.target[-1].clone()
        graph.undo()
        graph.add_node("龘", corpus=[tmp_path / "b.txt"], train_steps=10)
        stepped = graph.evaluate([tmp_path / "b.txt"]).perplexity
        assert not torch.equal(vectors, graph.parameters.base.model.target[-1])
        after = all_energies(graph)
    assert all(after[key] == before[key] for key in before)
    assert stepped < closed < 1.5 * unknown  # <unk> stands for all that is unknown: it is easier to predict


def test_vectors_from_neighbours_find_a_known_node_again(trained_base: Path) -> None:
    """The ridge is linear in the features: with little of it, and fewer nodes than features, it interpolates."""
    with Graph.open(trained_base) as graph:
        from sifu_graph.edit.working_copy import WorkingCopy

        copy = WorkingCopy(graph)
        wanted = copy.nodes["base/target"].copy()
        base_edits.vectors_from_neighbours(copy, np.array([5]))
        found = copy.nodes["base/target"]
        assert np.isfinite(found).all()
        assert np.array_equal(np.delete(found, 5, 0), np.delete(wanted, 5, 0))


# ---- looking


@pytest.mark.parametrize("like", ["generate", "eval"])
def test_a_trace_adds_up_and_has_the_energies_of_generation(trained: Path, like: Any) -> None:
    with Graph.open(trained) as graph:
        found = graph.trace("春風花月", like=like)
        wanted = naive(graph, [1, *graph.tokenizer.encode("春風花月").tolist()])
        for position, row in zip(found.positions, wanted, strict=False):
            account = position.account
            total = account.signals.sum(1) + account.bias + account.counts + account.encoding + account.remainder
            total += account.clones.sum(1) + account.together + account.repeated
            assert total.numpy() == pytest.approx(account.energy.numpy())
            assert np.abs(account.remainder.numpy()).max() < 1e-4
            assert account.energy.numpy() == pytest.approx([row[one.node] for one in position.candidates], abs=1e-4)
            assert position.weights.sum() == pytest.approx(1.0)
        assert float(found.energy[4, graph.tokenizer.token_id("春")]) == -math.inf


def test_the_term_of_a_position_is_what_the_energy_loses_without_it(trained: Path) -> None:
    text = "春風花月江"  # nothing is repeated
    with Graph.open(trained) as graph:
        found = graph.trace(text, top=5)
        for at in range(len(found.nodes)):
            off = graph.trace(text, what_if=[f"position {at} off"])
            for place, position in enumerate(found.positions):
                nodes = [one.node for one in position.candidates]
                lost = found.energy[place, nodes] - off.energy[place, nodes]
                term = position.account.signals[:, at] if at < len(position.weights) else torch.zeros(len(nodes))
                others = np.array(nodes) != found.nodes[at]  # what comes again has a term of its own
                assert lost.numpy()[others] == pytest.approx(term.numpy()[others], abs=1e-4)


def test_what_if_is_the_edit(trained: Path) -> None:
    with Graph.open(trained) as graph:
        off = graph.trace("春風花", what_if=["edge 春 風 = default"])
        graph.default_edge("春", "風")
        assert torch.equal(off.energy, graph.trace("春風花").energy)
        for edge in (("花", "水"), ("月>風", "花"), ("春", "夜")):
            for way, edit in (("boost -0.7", lambda u, v: graph.boost_edge(u, v, -0.7)), ("forbid", graph.forbid_edge)):
                supposed = graph.trace("春月風花春風", what_if=[f"edge {edge[0]} {edge[1]} {way}"])
                with pytest.raises(OptionError, match="forbidden already"):
                    graph.trace("春", what_if=[f"edge {edge[0]} {edge[1]} forbid", f"edge {edge[0]} {edge[1]} {way}"])
                edit(*edge)
                edited = graph.trace("春月風花春風")
                assert torch.equal(supposed.energy, edited.energy) and not torch.equal(
                    supposed.before.energy, edited.energy
                )
                assert torch.equal(supposed.candidate, edited.candidate) and torch.equal(
                    supposed.private, edited.private
                )
                graph.undo()
        off = graph.trace("春風花", what_if=["node 夜 off"])
        passed = graph.trace("春風花", what_if=["position 2 off"])
        graph.remove_node("夜")
        assert torch.equal(off.energy, graph.trace("春風花").energy)
    assert torch.equal(passed.r[2], passed.r[1])


def test_inspect_and_map_and_diff(trained: Path) -> None:
    with Graph.open(trained) as graph:
        report = graph.inspect("春")
        rest = sum(found.p for found in graph.inspect("春", top=100).targets_by_energy)
        defaults = int(graph.parameters.index.defaults()[report.node])
        assert rest + defaults * report.default_p == pytest.approx(1.0, abs=1e-6)
        assert report.similar_targets[0].cosine >= report.similar_targets[1].cosine
        assert len(report.similar_sources) == 10 and "春" not in {found.name for found in report.similar_sources}
        boosted = graph.inspect("春", "風")
        assert boosted.changed is not None and boosted.changed.message.startswith("boost 春 風")
        assert boosted.parts is not None and boosted.parts["edge"] == pytest.approx(0.5)
        assert sum(boosted.parts.values()) == pytest.approx(boosted.energy, abs=1e-5)
        walk, default = BaseWalk(graph.parameters, graph.signal), graph.inspect("花", "水")
        walk.silent = frozenset({0})
        walk.start(graph.tokenizer.token_id("花"))
        walk.r.zero_()
        row = walk.energies()[0].astype(np.float64)
        p = np.exp(row - np.logaddexp.reduce(row))[graph.tokenizer.token_id("水")]
        assert default.p == pytest.approx(p)
        assert default.rank == 1 + int((row > row[graph.tokenizer.token_id("水")]).sum())
        edge = graph.inspect("春", "風")
        assert edge.private and edge.energy == pytest.approx(
            next(found.energy for found in report.targets_by_energy if found.name == "風"), abs=1e-5
        )
        assert len(graph.map(nodes=10).name) == 10
        difference = graph.diff("HEAD~1", "HEAD")
        assert difference.edges_forbidden == (("月", "春"),)


def test_safetensors_keep_everything(trained: Path, tmp_path: Path) -> None:
    with Graph.open(trained) as graph:
        wanted, perplexity = all_energies(graph), graph.evaluate().perplexity
        graph.export("safetensors", tmp_path / "g.safetensors")
    import_safetensors(tmp_path / "g.safetensors", tmp_path / "back.sifu")
    with Graph.open(tmp_path / "back.sifu") as graph:
        assert all_energies(graph) == wanted
        assert graph.evaluate().perplexity == perplexity
        graph.train(steps=1)


def test_the_default_batch_is_what_the_page_says() -> None:
    assert (base_trainer.STREAMS, base_trainer.STEPS) == (64, 32)
