"""The commands that edit a graph: what they promise, what they ask, and what they refuse."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from calls import call
from sifu_store.store import Store

FIELDS = {  # names that stay
    "add-node": ["nodes_added", "private_edges_added", "snapshot"],
    "remove-node": ["nodes_removed", "private_edges_removed", "snapshot"],
    "edit-edge": ["before", "after", "snapshot"],
    "edit-node": ["before", "after", "snapshot"],
    "prune": ["private_edges_before", "private_edges_after", "bytes_freed", "snapshot"],
    "grow": ["private_edges_before", "private_edges_after", "bytes_freed", "snapshot"],
    "compact": ["private_edges_before", "private_edges_after", "snapshot"],
}
EDITS: list[list[str]] = [
    ["add-node", "龘", "--like", "春"],
    ["add-node", "龘", "<image:7>", "--kind", "image"],
    ["remove-node", "風", "--yes"],
    ["edit-node", "風", "--rename", "鳳"],
    ["edit-node", "風", "--merge-into", "月"],
    ["edit-node", "風", "--bias-from", "月"],
    ["edit-edge", "春", "風", "--boost", "-1.5"],
    ["edit-edge", "春", "風", "--scale", "0.5"],
    ["edit-edge", "春", "月", "--copy-from", "春", "風"],
    ["edit-edge", "春", "風", "--to-default"],
    ["edit-edge", "春", "風", "--forbid"],
    ["prune", "--to-ratio", "0.01", "--yes"],
    ["grow", "--to-ratio", "0.01"],
]


def fields(*args: str | Path) -> dict[str, Any]:
    """The JSON of a command that works."""
    result = call(*args, "--json", "-q")
    assert result.code == 0, result
    found: dict[str, Any] = json.loads(result.out)
    return found


@pytest.mark.parametrize("args", EDITS, ids=" ".join)
def test_an_edit_is_one_commit_and_a_dry_run_none(graph: Path, args: list[str]) -> None:
    before = fields("log")["commits"]
    planned = fields(*args, "--dry-run")
    assert planned["dry_run"]
    assert planned["snapshot"] is None
    assert fields("log")["commits"] == before
    assert "was not changed" in call(*args, "--dry-run").out
    done = fields(*args)
    assert set(FIELDS[args[0]]) <= set(done)
    same = set(planned) - {"snapshot", "seconds", "dry_run", "heldout_before", "heldout_after", "note"}
    assert {name: planned[name] for name in same} == {name: done[name] for name in same}
    commits = fields("log")["commits"]
    assert len(commits) == len(before) + 1
    assert commits[0]["snapshot"] == done["snapshot"]
    assert commits[0]["command"].split()[0] == args[0]
    assert {"nodes", "nodes_before", "private_edges", "private_edges_before"} <= set(commits[0]["changes"])
    assert call("verify").code == 0
    assert call("undo").code == 0
    assert call("verify").code == 0


def test_what_was_logged_can_be_typed_again(graph: Path) -> None:
    assert call("edit-edge", "春", "月", "--copy-from", "春", "風").code == 0
    assert fields("log")["commits"][0]["command"] == "edit-edge --copy-from 春 風 春 月"
    assert call("grow", "--corpus", "tang", "--corpus", "wordnet", "--min-count", "9").code == 0
    assert fields("log")["commits"][0]["command"] == "grow --corpus tang --corpus wordnet --min-count 9"


def test_nodes_from_a_file(graph: Path, tmp_path: Path) -> None:
    (tmp_path / "words.txt").write_text("".join(f"<image:{i}>\n" for i in range(50)), encoding="utf-8")
    assert len(fields("add-node", "--from", "words.txt", "--kind", "image")["nodes_added"]) == 50
    result = call("add-node", "龘", "--from", "-", stdin="鳳\n\n凰\n".encode())
    assert (result.code, result.err) == (0, "")
    assert "龘, 鳳, 凰" in result.out


def test_prune_forecasts_the_perplexity(graph: Path) -> None:
    planned = fields("prune", "--to-ratio", "0.005", "--dry-run")
    before = fields("eval", "--limit", "20000")["perplexity"]
    assert planned["heldout_before"] == pytest.approx(before, rel=1e-6)
    assert fields("prune", "--to-ratio", "0.005", "--yes")["private_edges_after"] == planned["private_edges_after"]
    assert fields("eval", "--limit", "20000")["perplexity"] == pytest.approx(planned["heldout_after"], rel=1e-6)
    assert call("undo").code == 0
    assert fields("eval", "--limit", "20000")["perplexity"] == before


def test_compacting(graph: Path) -> None:
    assert call("train", "--steps", "1", "--batch", "8", "-q").code == 0
    assert call("remove-node", "風", "--yes").code == 0
    found = fields("compact")
    assert found["slots_after"] == found["private_edges_after"] < found["slots_before"]
    assert fields("compact")["snapshot"] is None
    assert fields("info")["snapshot"] == found["snapshot"]


def test_destructive_commands_ask(graph: Path) -> None:
    for args, shown in (
        (["remove-node", "風"], "removes 1 node and"),
        (["prune", "--min-count", "2"], "become default"),
    ):
        result = call(*args)
        assert result.code == 2
        assert "--yes" in result.error
        result = call(*args, stdin=b"n\n", typed=True)
        assert result.code == 1
        assert shown in result.err
        assert "nothing was changed" in result.err
        assert call(*args, stdin=b"y\n", typed=True).code == 0


def test_eval_says_what_it_left_out(graph: Path) -> None:
    assert call("edit-edge", "春", "風", "--forbid").code == 0
    assert "tokens whose edge is forbidden" in call("eval").out


@pytest.mark.parametrize(
    ("args", "code", "says"),
    [
        (["add-node"], 2, "at least one token"),
        (["add-node", "春"], 2, "'春' is a node already"),
        (["add-node", ""], 2, "cannot be a node"),
        (["add-node", "a\nb"], 2, "can never be read"),
        (["add-node", "龘", "--like", "龍"], 2, "'龍' is not a node of this graph; the nearest names"),
        (["add-node", "龘", "--like", "春", "--corpus", "tang"], 2, "give one of both"),
        (["add-node", "龘", "--corpus", "nowhere.txt"], 1, "not found"),
        (["add-node", "--from", "nowhere.txt"], 1, "No such file"),
        (["add-node", "龘", "--train-steps", "-1"], 2, "expected an integer, at least 0; found -1"),
        (["remove-node", "<sep>", "--yes"], 2, "<sep> is a special node"),
        (["remove-node", "龍", "--yes"], 2, "'龍' is not a node of this graph"),
        (["edit-node", "春"], 2, "give exactly one of --rename"),
        (["edit-node", "春", "--rename", "風"], 2, "is a node already"),
        (["edit-node", "春", "--merge-into", "龍"], 2, "'龍' is not a node of this graph"),
        (["edit-edge", "春", "風"], 2, "give exactly one of --scale"),
        (["edit-edge", "春", "風", "--forbid", "--allow"], 2, "give exactly one of --scale"),
        (["edit-edge", "春", "風", "--allow"], 2, "is not forbidden"),
        (["edit-edge", "春", "風", "--boost", "-99"], 2, "the least that this edge can have"),
        (["edit-edge", "春", "龍", "--forbid"], 2, "'龍' is not a node of this graph"),
        (["edit-edge", "春", "風", "--scale", "nan"], 2, "expected a number; found nan"),
        (["prune", "--yes"], 2, "--to-ratio, --min-count or --clones"),
        (["prune", "--to-ratio", "0.9", "--yes"], 2, "name a smaller ratio"),
        (["prune", "--to-ratio", "2", "--yes"], 2, "expected a number, at least 0 and at most 1; found 2"),
        (["prune", "--to-ratio", "0", "--by", "usage", "--yes"], 2, "no usage was recorded"),
        (["grow"], 2, "--to-ratio, --min-count, --clones or --gain"),
        (["grow", "--min-count", "1", "--corpus", "nowhere.txt"], 1, "not found"),
    ],
)
def test_bad_input_changes_nothing(unchanged: Path, args: list[str], code: int, says: str) -> None:
    for more in ([], ["--dry-run"]):
        result = call(*args, *more, "--store", unchanged)
        assert (result.code, result.out) == (code, ""), result
        assert says in result.error


def test_a_locked_store(graph: Path) -> None:
    with Store.open(graph, write=True):
        result = call("add-node", "龘")
        assert result.code == 1
        assert "is being written by" in result.error
        assert call("add-node", "龘", "--dry-run").code == 0  # looking is allowed


def test_edges_of_a_table(graph: Path) -> None:
    (graph.parent / "edges.csv").write_text("source,target,boost,forbid\n春,風,2,\n明,月,,true\n", encoding="utf-8")
    before = json.loads(call("log", "--json").out)
    dry = call("edit-edge", "--from", "edges.csv", "--dry-run", "--json")
    assert dry.code == 0, dry
    assert [edge["kind"] for edge in json.loads(dry.out)["after"]] == ["private", "forbidden"]
    assert json.loads(call("log", "--json").out) == before
    made = call("edit-edge", "--from", "edges.csv")
    assert made.code == 0, made
    assert "edges" in made.out
    [newest, *_] = json.loads(call("log", "--json").out)["commits"]
    assert newest["command"] == "edit-edge --from edges.csv"
    assert newest["message"] == "edit 2 edges: boost 1, forbid 1"
    again = call("edit-edge", "--from", "edges.csv")
    assert (again.code, again.error) == (2, "edges.csv: line 3: the edge 明 月 is forbidden already")
    for wrong in (("春", "--from", "edges.csv"), ("--from", "edges.csv", "--forbid"), ("春",), ()):
        assert call("edit-edge", *wrong).code == 2
