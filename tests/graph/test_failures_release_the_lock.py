"""Whatever a call fails with, and wherever: the writer's lock is released, and the graph can be written to again."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from sifu_store import Store, errors
from sifu_store.lock import is_locked

import sifu_graph
from sifu_graph import Graph, OptimizerConfig


class InjectedError(Exception):
    """What a test raises."""


def boom(error: type[BaseException]) -> Callable[..., Any]:
    def raises(*args: object, **options: object) -> None:
        raise error("injected")

    return raises


WRITES: dict[str, Callable[[Graph], object]] = {
    "train": lambda graph: graph.train(steps=1, batch=8),
    "edge": lambda graph: graph.boost_edge("春", "風", 1.0),
    "node": lambda graph: graph.add_node("龍", like="春", train_steps=1),
    "prune": lambda graph: graph.prune(min_count=4, evaluate=True),
    "grow": lambda graph: graph.grow(to_ratio=0.6),
    "tag": lambda graph: graph.tag("one"),
    "branch": lambda graph: graph.branch("side"),
    "undo": lambda graph: graph.undo(),
}
STORE = [
    "commit",
    "write",
    "write_pages",
    "set_settings",
    "require_clock",
    "_acknowledge",
    "_remove_uncommitted_chunks",
    "_begin",
    "close",
]
CLOSE = Store.close
PLACES = [
    *(f"sifu_store.store.Store.{name}" for name in STORE),
    "sifu_graph.session.read_settings",
    "sifu_graph.session.GraphSession._reload",
    "sifu_graph.session.encode_corpus",
    "sifu_graph.edit.working_copy.WorkingCopy.write",
    "sifu_graph.edit.edit_texts.encode_corpus",
    "sifu_graph.training.loop.evaluate_split",
    "sifu_graph.training.loop.write_parameters",
    "sifu_graph.training.edge_trainer.EdgeTrainer.step",
    "sifu_store.lock._write_holder",
]


@pytest.mark.parametrize("error", [InjectedError, KeyboardInterrupt])
@pytest.mark.parametrize("place", PLACES)
def test_wherever_a_call_fails(place: str, error: type[BaseException], store: Path) -> None:
    with Graph.open(store) as graph:
        graph.boost_edge("春", "花", 1.0)
        for name, call in WRITES.items():
            kept: BaseException | None = None  # a notebook keeps the traceback, and all objects in it
            with pytest.MonkeyPatch.context() as patch:
                if place.endswith(".close"):  # an error after it did its work
                    patch.setattr(place, lambda self: (CLOSE(self), boom(error)()))
                else:
                    patch.setattr(place, boom(error))
                try:
                    call(graph)
                except BaseException as caught:
                    kept = caught
            assert not is_locked(store), (name, kept)
            del kept
    with Graph.open(store) as graph:
        graph.tag("after")


@pytest.mark.parametrize("error", [InjectedError, KeyboardInterrupt, errors.OptionError])
@pytest.mark.parametrize("callback", ["on_step", "progress", "say"])
def test_callbacks_of_train(callback: str, error: type[BaseException], graph: Graph) -> None:
    with pytest.raises(error) as caught:
        graph.train(steps=2, batch=8, **{callback: boom(error)})  # type: ignore[arg-type]
    assert not is_locked(graph.path), caught
    graph.tag("after")
    kept = callback == "on_step" and error is not KeyboardInterrupt  # what was done before the error is committed
    assert graph.train(steps=1, batch=8).step == (2 if kept else 1)


def test_arguments_that_are_refused(graph: Graph) -> None:
    calls: list[Callable[[], object]] = [
        lambda: graph.train(steps=-1),
        lambda: graph.train(),
        lambda: graph.train(steps=1, optimizer=OptimizerConfig(kind="sgd")),  # type: ignore[arg-type]
        lambda: graph.train(steps=1, batch=8, candidates=0),
        lambda: graph.train("nowhere.txt", steps=1),
        lambda: graph.train(texts=[3], steps=1),  # type: ignore[list-item]
        lambda: graph.train(texts=["XYZ"], steps=1),
        lambda: graph.tag("a b"),
        lambda: graph.undo(99),
        lambda: graph.branch("main"),
        lambda: graph.boost_edge("春", "nowhere", 1.0),
        lambda: graph.scale_edge("春", "風", float("nan")),
        lambda: graph.add_node("春"),
        lambda: graph.prune(to_ratio=2.0),
    ]
    for call in calls:
        with pytest.raises(errors.SifuError) as caught:
            call()
        assert not is_locked(graph.path), caught
    with pytest.raises(InjectedError), graph.edit("two") as edit:
        edit.boost_edge("春", "風", 1.0)
        raise InjectedError
    assert not is_locked(graph.path)
    graph.tag("after")


def test_a_graph_that_is_closed_by_a_callback(graph: Graph) -> None:
    with pytest.raises(errors.StoreError, match="closed"):
        graph.train(steps=2, batch=8, on_step=lambda _: graph.close())
    assert not is_locked(graph.path)


def test_a_call_inside_another_is_told_who_writes(graph: Graph) -> None:
    with pytest.raises(errors.StoreLockedError, match="that is this process: end the call or the edit that writes"):
        graph.train(steps=2, batch=8, on_step=lambda _: graph.tag("inside"))
    graph.tag("after")


@pytest.mark.parametrize("force", [False, True])
@pytest.mark.parametrize("place", ["commit", "write", "_begin", "set_settings"])
def test_builds(place: str, *, force: bool, text: Path, store: Path, tmp_path: Path) -> None:
    path = store if force else tmp_path / "new.sifu"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(f"sifu_store.store.Store.{place}", boom(InjectedError))
        with pytest.raises(InjectedError) as caught:
            sifu_graph.build_graph(text, path, vocab=20, length=8, signal="tuned", force=force)
    assert not path.exists() or not is_locked(path), caught
    assert [each for each in path.parent.iterdir() if ".building-" in each.name] == []
    sifu_graph.build_graph(text, path, vocab=20, length=8, signal="tuned", force=force)
