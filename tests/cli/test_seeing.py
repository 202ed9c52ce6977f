"""``sifu trace`` and ``sifu inspect``: what they print, what they write, and what they refuse."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from calls import call


def found(*args: str | Path) -> dict[str, Any]:
    result = call(*args, "--json")
    assert result.code == 0, result
    [line] = result.out.splitlines()
    fields: dict[str, Any] = json.loads(line)
    return fields


def test_a_trace_adds_up_in_json_and_on_the_screen(unchanged: Path) -> None:
    fields = found("trace", "春風", "--store", unchanged, "--also", "月")
    assert [one["node"] for one in fields["positions"]] == ["<sep>", "春", "風"]
    for one in fields["positions"]:
        account = one["margin"]
        parts = sum(account["signals"]) + account["bias"] + account["encoding"] + account["remainder"]
        assert parts == pytest.approx(account["energy"], abs=1e-4)
        assert "月" in [candidate["node"] for candidate in one["candidates"]]
    result = call("trace", "春風", "--store", unchanged, "--position", "1")
    assert (result.code, result.err) == (0, "")
    assert "position 1: the row of 春" in result.out
    assert "the contest; next token: 風" in result.out
    shown = re.findall(r"^ *[│└├─ ]*([+-]\d\.\d{4}) (?:signal|biases)", result.out, re.MULTILINE)
    margin = re.search(r"ahead of .: ([+-]\d+\.\d{4}) energy", result.out)
    assert margin is not None
    account = fields["positions"][1]["margin"]
    assert float(margin.group(1)) == pytest.approx(account["energy"], abs=1e-4)
    assert sum(map(float, shown[: len(account["signals"])])) == pytest.approx(account["energy"], abs=1e-3)


def test_what_if_shows_before_and_after(unchanged: Path) -> None:
    change = "edge 春 風 = default"
    result = call("trace", "春風", "--store", unchanged, "--position", "1", "--what-if", change)
    assert result.code == 0
    for words in ("strongest before", "strongest after", "same", "before: ", "after: ", "default, one of"):
        assert words in result.out
    fields = found("trace", "春風", "--store", unchanged, "--what-if", change)
    assert fields["what_if"] == [change]
    assert fields["before"] == found("trace", "春風", "--store", unchanged)


def test_a_page_is_written_once(unchanged: Path, tmp_path: Path) -> None:
    result = call("trace", "春風", "--store", unchanged, "--html", "t.html")
    assert result.code == 0
    assert result.err.startswith("t.html: ")
    page = Path("t.html").read_bytes()
    again = call("trace", "春", "--store", unchanged, "--html", "t.html")
    assert (again.code, again.out) == (2, "")
    assert "t.html exists" in again.error
    assert Path("t.html").read_bytes() == page
    assert call("trace", "春", "--store", unchanged, "--html", "t.html", "--force").code == 0
    assert Path("t.html").read_bytes() != page


def test_what_is_not_shown_is_said(unchanged: Path) -> None:
    result = call("trace", "春x風", "--store", unchanged)
    assert "read as unknown: 'x'" in result.err
    result = call("trace", "春風" * 40, "--store", unchanged)
    assert "the last 64 of 81 positions; --last shows more" in result.err
    assert call("trace", "春風" * 40, "--store", unchanged, "--last", "81", "-q").err == ""


def test_inspecting_a_node_and_an_edge(unchanged: Path) -> None:
    node = found("inspect", "春", "--store", unchanged, "--top", "2")
    assert (node["name"], len(node["targets_by_count"])) == ("春", 2)
    assert node["targets_by_count"][0]["count"] >= node["targets_by_count"][1]["count"]
    assert node["targets_by_energy"][0]["energy"] >= node["targets_by_energy"][1]["energy"]
    for words in (
        "private edges out",
        "pages of its row",
        "out, by energy",
        "in, by count",
        "share vs. p",
    ):
        assert words in call("inspect", "春", "--store", unchanged).out
    edge = found("inspect", "春", "風", "--store", unchanged)
    assert edge["private"]
    assert edge["count"] > 0
    assert len(edge["singular_values"]) == 32
    assert edge["changed"]["command"].startswith("build-graph")
    default = found("inspect", "春", "黃", "--store", unchanged)
    assert (default["private"], default["count"], default["page"]) == (False, None, None)
    for target in ("風", "黃"):
        assert call("inspect", "春", target, "--store", unchanged).out.startswith("edge ")


def test_an_edge_remembers_which_commit_changed_it(graph: Path) -> None:
    assert call("train", "--steps", "1", "--batch", "4", "-q").code == 0
    edge = found("inspect", "春", "風")
    assert edge["changed"]["command"] == "train --steps 1 --batch 4"
    assert edge["page_stored"]


def test_names_of_tokens_cannot_act_on_a_terminal(tmp_path: Path) -> None:
    lines = [["\x1b[31mred", "[bold]x[/bold]", "a b"], ["a b", "\x1b[31mred"]] * 8
    Path("tokens.jsonl").write_text("\n".join(map(json.dumps, lines)) + "\n")
    assert call("build-graph", "tokens.jsonl", "--level", "tokens", "--length", "4", "-q").code == 0
    result = call("trace", "\x1b[31mred", "--position", "0")
    assert result.code == 0
    assert "\x1b" not in result.out
    assert r"\x1b[31mred" in result.out
    result = call("inspect", "[bold]x[/bold]")
    assert "[bold]x[/bold]" in result.out


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (["trace", ""], "the text is empty"),
        (["trace", "xyz"], "unknown characters only (xyz)"),
        (["trace", "\udcff"], "not UTF-8"),
        (["trace", "春", "--position", "5"], "5 is not shown: expected 0 to 1"),
        (["trace", "春", "--what-if", "春"], 'expected "edge U V = default"'),
        (["trace", "春", "--what-if", "position 1 off", "--like", "eval"], "only as in generation"),
        (["trace", "春", "--like", "train"], "'train' is not one of 'generate', 'eval'"),
        (["trace", "春", "--html", "none/t.html"], "no such folder"),
        (["trace", "春", "--also", "春風"], "the text consists of the nodes '春' '風'"),
        (["inspect", ""], "the name of a node is empty"),
        (["inspect", "<seq>"], "the nearest names: '<sep>'"),
        (["inspect", "春", "x"], "'x' is not a node of this graph"),
        (["inspect", "春", "--top", "0"], "expected an integer, at least 1; found 0"),
    ],
)
def test_what_cannot_be_seen(unchanged: Path, args: list[str], says: str) -> None:
    result = call(*args, "--store", unchanged)
    assert (result.code, result.out) == (2, "")
    assert says in result.error


def test_a_snapshot_is_shown_the_same_in_little_memory(graph: Path) -> None:
    looks = (["trace", "春風", "--also", "月"], ["inspect", "春"], ["inspect", "春", "風"])
    before = [call(*look).out for look in looks]
    assert call("edit-edge", "春", "風", "--boost", "1.5").code == 0
    assert call("train", "--steps", "1", "--batch", "8", "-q").code == 0
    for look, said in zip(looks, before, strict=True):
        little = ("--host-memory", "64MiB") if look[0] == "trace" else ()
        assert call(*look, "--at", "HEAD~2", *little).out == said
        assert said != call(*look).out == call(*look, *little).out


def test_candidates_that_tie_over_the_default_edge_are_counted(tmp_path: Path) -> None:
    """After a node without private edges, all candidates have one energy."""
    (tmp_path / "a.txt").write_text("春風花月\n" * 20, encoding="utf-8")
    assert call("build-graph", "a.txt", "--signal", "tuned", "--holdout", "0", "--sparsify", "0").code == 0
    shown = " ".join(call("trace", "春").out.split())
    assert "5 candidates have the same energy, that of the default edge: no margin to explain" in shown
