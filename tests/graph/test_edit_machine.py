"""Random sequences of everything that changes a graph, against plain dictionaries: equal after every step.

The model knows names, counts and bytes of parameters, and its own past; it shares no code with the edits. Training
collects what older training left, so an undo may come further back than one commit: `plain_history` says how far.
"""

from __future__ import annotations

import copy
import itertools
import shutil
import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from plain_history import Plain
from sifu_store import Store
from small import write_text
from tables import Pair, table

from sifu_graph import Graph, build_graph

pytestmark = pytest.mark.usefixtures("one_thread")

LETTERS = list("春風花月夜江水山雲人不一有無天日來何時中。")
FRESH = ["龍", "鳳凰", "<image:7>", "龘"]
known, other = st.integers(0, 10**6), st.integers(0, 10**6)  # reduced to the nodes that there are


class Machine(RuleBasedStateMachine):
    """A graph, and what it should be."""

    source: Path  # a built graph, set below
    text: Path

    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.TemporaryDirectory()
        self.graph: Graph | None = None

    @initialize()
    def begin(self) -> None:
        path = shutil.copytree(self.source, Path(self.folder.name) / "graph.sifu")
        self.graph = Graph.open(path)
        self.model = table(self.graph)
        self.history = Plain()
        self.ids = {name: number for number, name in enumerate(self.model.bias)}
        self.next_id = len(self.ids)
        self.content = [(copy.deepcopy(self.model), dict(self.ids))]

    # ---- helpers

    def node(self, number: int) -> str:
        names = [name for name in self.model.bias if not name.startswith("<unk") and name != "<sep>"]
        return names[number % len(names)]

    def saved(self, *, train: bool = False) -> None:
        self.history.commit(len(self.content), train=train)
        self.content.append((copy.deepcopy(self.model), dict(self.ids)))

    def moved(self) -> None:
        self.model, self.ids = copy.deepcopy(self.content[self.history.head])

    def before_it_was_forbidden(self, pair: Pair) -> tuple[int, bytes] | None:
        """The edge in the last commit in which it was allowed, by what its nodes were called there; None: default."""
        ids = self.ids[pair[0]], self.ids[pair[1]]
        for number in self.history.line(self.history.head):
            model, names = self.content[number]
            then = {ident: name for name, ident in names.items()}
            if not {*ids} <= then.keys():
                return None
            u, v = (then[ident] for ident in ids)
            if (u, v) not in model.forbidden:
                return model.edges.get((u, v))
        return None

    def parameters(self, pair: Pair) -> np.ndarray:
        return np.frombuffer(self.model.edges[pair][1], np.float32)

    @property
    def width(self) -> int:
        return self.graph.parameters.width

    def default(self) -> bytes:
        """W and b of the default edge."""
        small = self.graph.parameters.small
        return small["default/weight"].numpy().tobytes() + small["default/bias"].numpy().tobytes()

    # ---- nodes

    @rule(token=st.sampled_from(FRESH), like=st.none() | known)
    def add(self, token: str, like: int | None) -> None:
        if token in self.model.bias:
            return
        model = None if like is None else self.node(like)
        self.graph.add_node(token, like=model)
        self.ids[token], self.next_id = self.next_id, self.next_id + 1
        if model is None:
            self.model.bias[token] = table(self.graph).bias[token]
        else:
            self.model.bias[token] = self.model.bias[model]
            both = {model, token}
            for (u, v), edge in list(self.model.edges.items()):
                for x in both if u == model else {u}:
                    for y in both if v == model else {v}:
                        self.model.edges[x, y] = edge
            for u, v in list(self.model.forbidden):
                self.model.forbidden |= {
                    (x, y) for x in (both if u == model else {u}) for y in (both if v == model else {v})
                }
        self.saved()

    @precondition(lambda self: len(self.model.bias) > 12)
    @rule(node=known)
    def remove(self, node: int) -> None:
        name = self.node(node)
        self.graph.remove_node(name)
        del self.model.bias[name], self.ids[name]
        self.model.edges = {pair: edge for pair, edge in self.model.edges.items() if name not in pair}
        self.model.forbidden = {pair for pair in self.model.forbidden if name not in pair}
        self.saved()

    @rule(node=known, token=st.sampled_from(FRESH))
    def rename(self, node: int, token: str) -> None:
        name = self.node(node)
        if token in self.model.bias:
            return
        self.graph.rename_node(name, token)
        new = {name: token}
        self.ids[token] = self.ids.pop(name)
        self.model.bias = {new.get(n, n): bits for n, bits in self.model.bias.items()}
        self.model.edges = {(new.get(u, u), new.get(v, v)): edge for (u, v), edge in self.model.edges.items()}
        self.model.forbidden = {(new.get(u, u), new.get(v, v)) for u, v in self.model.forbidden}
        self.saved()

    @precondition(lambda self: len(self.model.bias) > 12)
    @rule(node=known, into=other)
    def merge(self, node: int, into: int) -> None:
        a, b = self.node(node), self.node(into)
        if a == b:
            return
        self.graph.merge_node(a, b)
        found, new = table(self.graph), {a: b}
        count: dict[Pair, int] = {}
        for (u, v), (times, _) in self.model.edges.items():
            pair = new.get(u, u), new.get(v, v)
            count[pair] = count.get(pair, 0) + times
        parts = {b: (a, b)}
        forbidden = set()
        for u, v in {(new.get(u, u), new.get(v, v)) for u, v in self.model.forbidden}:
            if all((x, y) in self.model.forbidden for x in parts.get(u, (u,)) for y in parts.get(v, (v,))):
                forbidden.add((u, v))
        untouched = {pair: edge for pair, edge in self.model.edges.items() if not {a, b} & {*pair}}
        # What the merged edges hold is another test's; here: which there are, with which counts.
        self.model.edges = untouched | {p: (count[p], found.edges[p][1]) for p in count if p not in untouched}
        self.model.forbidden = forbidden
        del self.model.bias[a], self.ids[a]
        self.saved()

    # ---- edges

    @rule(u=known, v=other, factor=st.sampled_from([0.5, 1.25]))
    def scale(self, u: int, v: int, factor: float) -> None:
        pair = self.node(u), self.node(v)
        if pair in self.model.forbidden:
            return
        self.graph.scale_edge(*pair, factor)
        count, bits = self.model.edges.get(pair, (0, self.default()))
        self.model.edges[pair] = count, (np.frombuffer(bits, np.float32) * np.float32(factor)).tobytes()
        self.saved()

    @rule(u=known, v=other, a=known, b=other)
    def copy(self, u: int, v: int, a: int, b: int) -> None:
        pair, source = (self.node(u), self.node(v)), (self.node(a), self.node(b))
        if pair in self.model.forbidden or source not in self.model.edges or pair == source:
            return
        was = self.model.edges.get(pair)
        self.graph.copy_edge(*pair, source=source)
        self.model.edges[pair] = 0 if was is None else was[0], self.model.edges[source][1]
        if was != self.model.edges[pair]:  # else nothing changed, and nothing was committed
            self.saved()

    @rule(u=known, v=other)
    def forbid(self, u: int, v: int) -> None:
        pair = self.node(u), self.node(v)
        if pair in self.model.forbidden:
            return
        self.graph.forbid_edge(*pair)
        self.model.edges.pop(pair, None)
        self.model.forbidden.add(pair)
        self.saved()

    @precondition(lambda self: bool(self.model.forbidden))
    @rule(number=known)
    def allow(self, number: int) -> None:
        pair = sorted(self.model.forbidden)[number % len(self.model.forbidden)]
        self.graph.allow_edge(*pair)
        before = self.before_it_was_forbidden(pair)
        self.model.forbidden.remove(pair)
        self.model.edges |= {} if before is None else {pair: before}
        self.saved()

    @rule(number=known)
    def give_up(self, number: int) -> None:
        if self.model.edges:
            pair = sorted(self.model.edges)[number % len(self.model.edges)]
            self.graph.default_edge(*pair)
            del self.model.edges[pair]
            self.saved()

    # ---- many edges

    @rule(share=st.sampled_from([0.5, 0.9]))
    def prune(self, share: float) -> None:
        n, names = len(self.model.bias), {name: i for i, name in enumerate(self.model.bias)}
        ratio = round(share * len(self.model.edges) / n**2, 3)
        keep = int(round(ratio * 1000) * n * n // 1000)
        if keep >= len(self.model.edges):
            return
        self.graph.prune(to_ratio=ratio)
        ranked = sorted(self.model.edges, key=lambda p: (-self.model.edges[p][0], names[p[0]], names[p[1]]))
        self.model.edges = {pair: self.model.edges[pair] for pair in ranked[:keep]}
        self.saved()

    @rule(least=st.sampled_from([1, 3]))
    def grow(self, least: int) -> None:
        pairs: dict[Pair, int] = {}
        from sifu_graph.text.corpus import Corpus

        for document in Corpus([self.text]).training(holdout=self.graph.settings["build"]["holdout"]):
            ids = self.graph.tokenizer.encode_document(document).tolist()
            names = [self.graph.tokenizer.vocabulary[node] for node in ids]
            for pair in itertools.pairwise(names):
                pairs[pair] = pairs.get(pair, 0) + 1
        wanted = {
            pair: count
            for pair, count in pairs.items()
            if count >= least and pair not in self.model.edges and pair not in self.model.forbidden
        }
        before = self.graph.store.snapshot
        self.graph.grow(min_count=least, init="default")
        self.model.edges |= {pair: (count, self.default()) for pair, count in wanted.items()}
        if self.graph.store.snapshot != before:
            self.saved()

    @rule()
    def compact(self) -> None:
        before = self.graph.store.snapshot
        self.graph.compact()
        if self.graph.store.snapshot != before:
            self.saved()

    # ---- training and history

    @rule()
    def train(self) -> None:
        pairs = {pair: count for pair, (count, _) in self.model.edges.items()}
        forbidden = self.model.forbidden
        self.graph.train(steps=1, batch=4)
        self.model = table(self.graph)
        assert {pair: count for pair, (count, _) in self.model.edges.items()} == pairs
        assert self.model.forbidden == forbidden
        self.saved(train=True)
        self.history.collect(2, keep_undone=True)

    @precondition(lambda self: self.history.can_undo())
    @rule()
    def undo(self) -> None:
        self.graph.undo()
        self.history.undo()
        self.moved()

    @precondition(lambda self: self.history.forward())
    @rule()
    def redo(self) -> None:
        self.graph.redo()
        self.history.redo_some()
        self.moved()

    @rule()
    def other_branch(self) -> None:
        name = "side" if self.history.current == "main" else "main"
        if name not in self.history.branches:
            self.graph.branch(name)
            self.history.branches[name] = self.history.head
        self.graph.switch(name)
        self.history.current = name
        self.moved()

    @rule(node=known)
    def fails(self, node: int) -> None:
        with pytest.raises(KeyError), self.graph.edit("no") as edit:
            edit.remove_node(self.node(node))
            edit.prune(to_ratio=0.0)
            raise KeyError

    @rule()
    def reopen(self) -> None:
        path = self.graph.path
        self.graph.close()
        self.graph = Graph.open(path)

    @rule(node=known)
    def dies(self, node: int) -> None:
        """A process that ends with changes written, but not committed."""
        from sifu_graph.edit.session import Edit

        edit = Edit(self.graph)
        edit.add_node("<lost>", like=self.node(node))
        with Store.open(self.graph.path, write=True) as writer:
            edit.copy.write(writer)

    @invariant()
    def equal(self) -> None:
        if self.graph is not None:
            table(self.graph).same(self.model)

    def teardown(self) -> None:
        if self.graph is not None:
            assert self.graph.store.verify().ok
            self.graph.close()
        self.folder.cleanup()


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> type[Machine]:
    folder = tmp_path_factory.mktemp("machine")
    text = write_text(folder / "poems.txt", documents=60)
    build_graph(text, folder / "graph.sifu", vocab=40, sparsify=0.4, length=8, holdout=0.1, width=16, signal="tuned")
    return type("BoundMachine", (Machine,), {"source": folder / "graph.sifu", "text": text})


def run(machine: type[Machine], *, examples: int, steps: int) -> None:
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=examples, stateful_step_count=steps, deadline=None, suppress_health_check=list(HealthCheck)
        ),
    )


def test_random_sequences(machine: type[Machine]) -> None:
    run(machine, examples=3, steps=15)


@pytest.mark.slow
def test_long_random_sequences(machine: type[Machine]) -> None:
    run(machine, examples=20, steps=200)
