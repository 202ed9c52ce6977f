"""Verification of a graph: values that are no numbers, tokenizers and settings that do not fit."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sifu_store import Store
from sifu_store.errors import StoreDamagedError
from small import write_text

from sifu_graph import Graph, build_graph
from sifu_graph.verification import verify


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("trained")
    text = write_text(folder / "text.txt", documents=60)
    build_graph(text, folder / "g.sifu", vocab=30, length=8, width=4, signal="tuned", holdout=0.1)
    with Graph.open(folder / "g.sifu") as graph:
        graph.train(steps=1, batch=8)
        assert verify(graph.store).ok
    return folder / "g.sifu"


@pytest.fixture
def trained(original: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(original, tmp_path / "g.sifu"))


def damage(path: Path, change: Callable[[Store], Any]) -> str:
    """What verification says after a change that was committed like any other."""
    with Store.open(path, write=True) as store:
        change(store)
        store.commit("a change", command="test", changes={})
    with Store.open(path) as store:
        return "\n".join(map(str, verify(store).damage))


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("name", ["nodes/bias", "default/weight", "signal/alpha"])
def test_an_array_with_a_value_that_is_no_number(trained: Path, name: str, value: float) -> None:
    def change(store: Store) -> None:
        values = store.read(name)
        values.reshape(-1)[0] = value
        store.write(name, values)

    assert f"{name}: 1 values are not finite numbers" in damage(trained, change)


def test_a_page_with_a_value_that_is_no_number(trained: Path) -> None:
    def change(store: Store) -> None:
        values = store.read_page("edges/weight", 0)
        values[3, 1, 2] = np.nan
        store.write_pages("edges/weight", 0, values)

    found = damage(trained, change)
    assert "edges/weight, page 0" in found
    assert "1 values are not finite numbers" in found


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda record: {**record, "nodes": [*record["nodes"][:-1], record["nodes"][2]]}, "belong to several nodes"),
        (lambda record: {**record, "nodes": [*record["nodes"][:-1], ""]}, "is not text"),
        (lambda record: {**record, "nodes": record["nodes"][:-1]}, "nodes, the graph"),
        (lambda record: {}, "cannot be read"),
        (lambda record: {**record, "added": [9999]}, "nodes that it does not have"),
        (lambda record: {**record, "level": "word"}, "cannot be read"),
        (lambda record: [], "not a JSON object"),
    ],
)
def test_a_tokenizer_that_does_not_fit(trained: Path, change: Any, says: str) -> None:
    found = damage(
        trained, lambda store: store.write_json("nodes/tokenizer", change(store.read_json("nodes/tokenizer")))
    )
    assert "nodes/tokenizer" in found
    assert says in found


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("signal", "drive"), "fast"), (("signal", "recency"), "much"), (("signal", "reset_after"), 0),
        (("signal", "nonsense"), 1), (("initial", "discounts"), [0.5]), (("initial", "seed"), -1),
        (("build", "length"), 1), (("build", "holdout"), 1.0), (("build", "corpus"), {}), (("width",), 3),
        (("training", "optimizer"), {"kind": "sgd"}), (("training", "batch"), 0), (("nodes",), 0),
    ],
)  # fmt: skip
def test_settings_that_are_not_possible(trained: Path, path: tuple[str, ...], value: Any) -> None:
    """They are found when the graph is opened, not when they are used."""

    def change(store: Store) -> None:
        settings = store.settings
        place = settings
        for name in path[:-1]:
            place = place[name]
        place[path[-1]] = value
        store.set_settings(settings)

    assert "settings" in damage(trained, change)
    with pytest.raises(StoreDamagedError, match="the settings of the graph are damaged"):
        Graph.open(trained)


def test_what_may_not_be_read_is_said_and_is_no_damage(trained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As another user of the machine, to whom the folder of the text is closed."""
    usual = os.access
    with Store.open(trained) as store:
        [text] = [each for each in (trained / "cache").iterdir() if each.is_dir()]
        (text / "meta.json").write_text("{")
        assert [each.array for each in verify(store).damage] == ["encoded text"]
        for closed in (trained / "cache", text, text / "meta.json"):
            monkeypatch.setattr(os, "access", lambda path, mode, closed=closed: path != closed and usual(path, mode))
            found = verify(store)
            assert found.ok and found.unchecked == (str(closed),)


def test_the_folder_of_the_text_is_closed_to_other_users(trained: Path) -> None:
    cache = trained / "cache"
    assert cache.stat().st_mode & 0o777 == 0o700
    shutil.rmtree(cache)
    with Graph.open(trained) as graph:
        graph.train(steps=1)
    assert cache.stat().st_mode & 0o777 == 0o700
