"""The table of a trace on terminals of 60 to 200 columns: no line is wider, names and probabilities stay whole."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from rich.cells import cell_len
from rich.console import Console
from sifu_cli.output.formats import percent, printable
from sifu_cli.output.trace_view import positions_table

from sifu_graph import Graph, build_graph

TEXTS = {
    "zh": "春風花月夜江水山雲",
    "en": ["the", "mountainous", "government", "considered", "international", "understanding"],
}


@pytest.fixture(scope="module")
def graphs(trained: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("width")
    words = TEXTS["en"]
    lines = [[*words[at % 6 :], *words[: at % 4]] for at in range(60)]
    (folder / "t.jsonl").write_text("\n".join(map(json.dumps, lines)) + "\n", encoding="utf-8")
    build_graph(folder / "t.jsonl", folder / "en.sifu", level="tokens", vocab=30, length=8, holdout=0, clones=5)
    return {"zh": trained, "en": folder / "en.sifu"}


@pytest.mark.parametrize("what_if", [(), ("position 2 off",)])
@pytest.mark.parametrize("width", [60, 80, 120, 200])
@pytest.mark.parametrize("language", TEXTS)
def test_a_trace_fits(graphs: dict[str, Path], language: str, width: int, what_if: tuple[str, ...]) -> None:
    with Graph.open(graphs[language]) as graph:
        trace = graph.trace(TEXTS[language], what_if=list(what_if))
    console = Console(width=width, color_system=None)
    with console.capture() as captured:
        console.print(positions_table(trace, width))
    lines = captured.get().splitlines()
    assert max(map(cell_len, lines)) <= width
    assert "…" not in captured.get().replace("...", "")
    assert not [line for line in lines if line.strip() == "%"], "a number is broken over two lines"
    for found in (trace, trace.before or trace):
        for one in found.positions:
            assert any(printable(one.name) in line for line in lines)
            winner = one.candidates[0]
            share = percent(winner.p * winner.among)
            assert any(printable(winner.name) in line and share in line for line in lines), winner.name
