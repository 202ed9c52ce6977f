"""``sifu next`` and ``sifu score``."""

from __future__ import annotations

import contextlib
import io
import json
import math
from pathlib import Path

import pytest
from calls import call
from rich.cells import cell_len
from rich.console import Console
from sifu_cli.commands.model.next import next_table
from sifu_cli.commands.model.score import score_table
from sifu_cli.output import tables
from sifu_cli.output.formats import printable

from sifu_graph.inspection.predictions import NextNode, Score, TokenScore


def test_next_and_score_print_what_the_library_returns(graph: Path) -> None:
    found = json.loads(call("next", "春風", "--top", "3", "--json").out)
    assert [one["p"] for one in found["next"]] == sorted((one["p"] for one in found["next"]), reverse=True)
    shown = call("next", "春風", "--top", "3").out
    assert all(one["name"] in shown for one in found["next"] if one["name"].isprintable())
    (graph.parent / "line.txt").write_text("春風吹綠\n", encoding="utf-8")
    report = json.loads(call("eval", "line.txt", "--json").out)
    scored = json.loads(call("score", "春風吹綠", "--json").out)
    assert scored["perplexity"] == pytest.approx(report["perplexity"], rel=1e-6)
    assert math.exp(-scored["log_p"] / report["tokens"]) == pytest.approx(report["perplexity"], rel=1e-6)
    piped = json.loads(call("score", "--json", stdin="春風吹綠\n".encode()).out)
    assert piped["log_p"] == scored["log_p"]
    assert "log-probability" in call("score", "春風吹綠").out
    assert call("next", "").code == 2


def test_the_share_of_the_unknown_node_is_said(tmp_path: Path) -> None:
    """Where <unk> has more than 2 % of the probability that evaluation gives."""
    (tmp_path / "a.txt").write_text("春風花月夜江水\n春風春花\n" * 40, encoding="utf-8")
    for vocab, said in ((4, True), (20, False)):
        assert call("build-graph", "a.txt", "--vocab", vocab, "--force").code == 0
        for command in (("next", "春"), ("trace", "春風")):
            found = call(*command)
            assert ("note: <unk> has" in found.err) is said
            assert ("sifu score and sifu eval keep it" in found.err) is said
        assert ("without <unk>, which has" in call("trace", "春").out) is said
        assert (json.loads(call("next", "春", "--json").out)["unknown_p"] > 0.02) is said
    for command in ("next", "trace", "score"):
        assert "<unk>" in call(command, "--help").out


@pytest.mark.parametrize("width", [60, 80, 120, 200])
def test_the_tables_fit(width: int) -> None:
    names = ["春", " the", "<0xE6 0x98>", "internationalization" * 4, "江南" * 20]
    following = [NextNode(5, name, 0.00012, -9.021, True, 1_234_567) for name in names]
    scored = Score(tuple(TokenScore(5, name, -9.021, False) for name in names), -45.0, 1.0, None, None)
    for table in (next_table(following), score_table(scored)):
        console = Console(width=width, no_color=True)
        with console.capture() as captured:
            console.print(table)
        text = captured.get()
        assert max(map(cell_len, text.splitlines())) <= width
        assert "…" not in text
        letters = "".join(text.split())
        assert letters.count("-9.021") == 5
        for name in names[:3]:
            assert printable(name) in text


@pytest.mark.parametrize("width", [40, 80, 160])
def test_a_long_table_has_the_lines_of_a_short_one(width: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """rich prints short ones."""
    names = ["春", " the", "\x1b[2J", "<sep>", "a\tb", "e\u0301", "\U0001f600"]
    found = score_table(Score(tuple(TokenScore(3, name, -0.3 * k, False) for k, name in enumerate(names)), 0, 1, 1, 1))
    monkeypatch.setattr(tables, "output_width", lambda: width)
    for long in (len(names) + 1, 1):
        monkeypatch.setattr(tables, "LONG", long)
        out = io.StringIO()
        with contextlib.redirect_stdout(out):
            tables.print_grids(found)
        if long > 1:
            short = out.getvalue()
    assert out.getvalue() == short
