"""What a console and a notebook show of results: a short line, and tables that have every field."""

from __future__ import annotations

import dataclasses
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sifu_store.short_repr import MOST_LINE, MOST_ROWS, short_repr, table_html

from sifu_graph import Graph, build_graph
from sifu_graph.estimate import estimate


@pytest.fixture
def results(text: Path, tmp_path: Path) -> dict[str, Any]:
    """What the methods return."""
    found = {"build": build_graph(text, tmp_path / "g.sifu", vocab=24, length=8, holdout=0.1, signal="tuned")}
    with Graph.open(tmp_path / "g.sifu") as graph:
        calls = {
            "train": lambda: graph.train(steps=1),
            "evaluate": lambda: graph.evaluate(with_baselines=True),
            "info": graph.info,
            "log": graph.log,
            "score": lambda: graph.score("春風" * 200),
            "next": lambda: graph.next("春", k=20),
            "trace": lambda: graph.trace("春風" * 40),
            "generate": lambda: graph.generate("春", tokens=400, explain=True),
            "inspect": lambda: graph.inspect("春"),
            "edge": lambda: graph.inspect("春", "風"),
            "map": lambda: graph.map(nodes=20, edges=20),
            "boost": lambda: graph.boost_edge("春", "風", 1.0),
            "prune": lambda: graph.prune(to_ratio=0.01, dry_run=True),
            "diff": graph.diff,
            "add": lambda: graph.add_node("龍"),
            "export": lambda: graph.export("scipy", tmp_path / "out"),
            "estimate": lambda: estimate(graph),
        }
        return found | {name: call() for name, call in calls.items()}


class _Tags(HTMLParser):
    """Checks that tags are closed in order."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_results_are_short_in_a_console_and_tables_in_a_notebook(results: dict[str, Any]) -> None:
    for name, found in results.items():
        line, html = repr(found), found._repr_html_()
        assert len(line) < MOST_LINE + 100, name
        assert "\n" not in line, name
        assert type(found).__name__ in line or name == "next"
        tags = _Tags()
        tags.feed(html)
        assert not tags.open
        assert html.count("<tr>") >= 2, name
        assert len(html) < 60_000, name
        for field in dataclasses.fields(found) if dataclasses.is_dataclass(found) else ():
            value = getattr(found, field.name)  # a list of nothing has no row
            empty = isinstance(value, list | tuple | dict | frozenset) and not value
            assert empty or field.name.replace("_", " ") in html, (name, field.name)


def test_notes_are_whole_in_a_notebook(results: dict[str, Any]) -> None:
    report = dataclasses.replace(results["evaluate"], notes=["a long note <unk> " * 40])
    assert "a long note &lt;unk&gt; " * 40 in report._repr_html_()


def test_a_table_of_many_rows_says_how_many_more() -> None:
    @short_repr
    @dataclasses.dataclass(frozen=True, slots=True)
    class Point:
        name: str
        at: float
        array: Any = None

    rows = [Point(f"<{i}>", i / 3, np.zeros((2, 3))) for i in range(MOST_ROWS + 7)]
    html = table_html(rows)
    assert html.count("<tr>") == MOST_ROWS + 1
    assert "7 more" in html
    assert "&lt;3&gt;" in html and "array" not in html
    assert repr(rows[1]) == "Point(name='<1>', at=0.333333, array=<float64 [2, 3]>)"
    assert re.fullmatch(r"Point\(name='x{117}\.\.\.', at=1\)", repr(Point("x" * 500, 1.0)))
