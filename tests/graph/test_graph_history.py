"""Undo, branches and tags of an open graph: what is in memory follows, training state and all."""

from __future__ import annotations

from pathlib import Path

import pytest
from sifu_store.errors import OptionError, StoreError, StoreLockedError
from sifu_store.store import Store
from small import whole

from sifu_graph import Graph


def bits(graph: Graph) -> dict[str, bytes]:
    return {name: whole(graph.store, name).tobytes() for name in graph.store.names()}


def test_training_after_an_undo_is_training_that_was_never_done(graph: Graph) -> None:
    graph.train(steps=1, batch=8)
    first = bits(graph)
    graph.train(steps=2, batch=8)
    once, text = bits(graph), graph.generate("春", tokens=8, greedy=True).text
    graph.undo()
    assert bits(graph) == first and graph.settings["training"]["step"] == 1
    graph.train(steps=2, batch=8)
    assert bits(graph) == once
    assert graph.generate("春", tokens=8, greedy=True).text == text
    assert [
        commit.message.split(",")[0] for commit in graph.log().commits if commit.snapshot in graph.log().undone
    ] == ["train: step 3"]


def test_what_is_in_memory_follows(graph: Graph) -> None:
    untrained = graph.evaluate().perplexity
    graph.train(steps=2, batch=8)
    trained = graph.evaluate().perplexity
    graph.tag("trained")
    graph.undo()
    assert graph.evaluate().perplexity == untrained
    graph.redo()
    assert graph.evaluate().perplexity == trained
    graph.branch("side", "HEAD~1")
    assert (graph.info().branch, graph.evaluate().perplexity) == ("main", trained)
    graph.switch("side")
    assert (graph.info().branch, graph.evaluate().perplexity) == ("side", untrained)
    with pytest.raises(StoreError, match="nothing to undo"):
        graph.undo()
    assert graph.evaluate().perplexity == untrained
    with Graph.open(graph.path, at="trained") as old:
        assert old.evaluate().perplexity == trained
        assert not old.info().newest
        with pytest.raises(OptionError, match="can only be read"):
            old.undo()


def test_a_writer_keeps_the_graph_as_it_is(graph: Graph, store: Path) -> None:
    graph.train(steps=1, batch=8)
    with Store.open(store, write=True), pytest.raises(StoreLockedError):
        graph.undo()
    assert graph.settings["training"]["step"] == 1
    graph.undo()
    assert graph.settings["training"] is None
