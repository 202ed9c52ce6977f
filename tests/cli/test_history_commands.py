"""The history on the command line: a session as a person would have it, and what can go wrong in one."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from calls import call
from sifu_store.store import Store

from sifu_graph import Graph


def ok(*args: str | Path) -> str:
    """The output of a command that works."""
    result = call(*args)
    assert result.code == 0, result
    return result.out


def fields(*args: str | Path) -> dict[str, Any]:
    """The JSON of a command that works."""
    [line] = ok(*args, "--json").splitlines()
    found: dict[str, Any] = json.loads(line)
    return found


def train(steps: int = 1) -> None:
    ok("train", "--steps", str(steps), "--batch", "8", "-q")


def test_a_session_with_branches(graph: Path) -> None:
    train()
    built = fields("info", "--at", "HEAD~1")
    assert built["training"] is None and not built["newest"]
    ok("tag", "v1", "HEAD~1")
    assert "trial is at" in ok("switch", "--create", "trial")
    train()
    assert fields("info")["branch"] == "trial"
    assert re.search(r"^branch +trial", ok("info"), re.MULTILINE)
    undone = ok("undo")
    assert re.search(r"^undone  \w{8}  train: step 2, ", undone)
    assert re.search(r"^trial is at  \w{8}  train: step 1, ", undone, re.MULTILINE)
    assert fields("info")["training"]["step"] == 1
    assert "(undone; sifu undo --redo restores it)" in ok("log")
    assert "redone" in ok("undo", "--redo")
    assert fields("info")["training"]["step"] == 2
    ok("switch", "main")
    assert fields("info")["training"]["step"] == 1
    log = ok("log")
    assert "(HEAD -> main)" in log and "(trial)" in log and "(tag v1)" in log
    names = [line.split() for line in ok("branch").splitlines()]
    assert [words[:2] for words in names] == [["*", "main"], ["trial", names[1][1]]]
    assert ok("tag").startswith("v1  ")
    assert "deleted trial" in ok("branch", "--delete", "trial")
    assert fields("branch")["branches"].keys() == {"main"}
    assert fields("log")["commits"][0]["undone"]
    assert fields("tag", "--delete", "v1")["tags"] == {}


def evaluated(*options: str) -> dict:
    found = fields("eval", *options)
    del found["cache"]  # how long it took is in it
    return found


def test_at_means_the_graph_as_it_was(graph: Path) -> None:
    before = evaluated(), ok("generate", "春", "--greedy", "--tokens", "8")
    train(2)
    now = evaluated(), ok("generate", "春", "--greedy", "--tokens", "8")
    assert now[0]["perplexity"] != before[0]["perplexity"]
    assert evaluated("--at", "HEAD~1") == before[0]
    assert ok("generate", "春", "--greedy", "--tokens", "8", "--at", "main~") == before[1]


def test_log_draws_the_lines(graph: Path) -> None:
    train()
    straight = ok("log").splitlines()
    assert not any(line.startswith("*") for line in straight)
    for name in ("one", "two"):
        ok("branch", name, "HEAD~1" if name == "one" else "main~1")
        ok("switch", name)
        train()
    shape = [re.sub(r"[^*|/_ ].*", "", line).rstrip() for line in ok("log").splitlines()]
    assert shape == ["*", "|", "| *", "| |", "| | *", "| | |", "|_|/", "|/", "*", ""]
    assert len(fields("log", "one")["commits"]) == 2
    [first, second] = fields("log", "main")["commits"]
    assert first["parent"] == second["snapshot"] and second["parent"] is None
    assert first["size_bytes"] > 100_000


def test_diff_as_a_table_and_as_json(graph: Path) -> None:
    train()
    table = ok("diff")
    assert re.search(r"^  changed +[1-9][\d,]*  other parameters", table, re.MULTILINE)
    assert "training.step" in table and "largest changes of energy" in table
    found = fields("diff", "HEAD~1", "HEAD", "--top", "3")
    assert found["edges"]["changed"] > 0 and len(found["edges"]["largest"]) == 3
    assert {"source", "target", "change", "energy_before", "energy_after", "energy_change"} <= set(
        found["edges"]["largest"][0]
    )
    assert found["settings"]["training.step"] == {"before": None, "after": 1}
    assert "no difference" in ok("diff", "HEAD", "main")


def test_dry_runs_change_nothing(graph: Path) -> None:
    for _ in range(2):
        train()
    head = fields("info")["snapshot"]
    assert "would undo" in ok("undo", "--dry-run", "--steps", "2")
    result = call("gc", "--dry-run", "--keep-training", "1")
    assert result.code == 0
    assert "deletes 1 of 2 training commits" in result.err and "would be" in result.out
    said = fields("gc", "--dry-run", "--keep-training", "1", "-q")
    assert fields("info")["snapshot"] == head and len(fields("log")["commits"]) == 3
    done = fields("gc", "--yes", "--keep-training", "1", "-q")
    assert said["commits_dropped"] == done["commits_dropped"]
    assert said["bytes_freed"] == pytest.approx(done["bytes_freed"], abs=2000)
    ok("undo")
    assert fields("gc", "--undone", "--yes", "-q")["commits_dropped"] == [head]


@pytest.mark.parametrize(
    ("args", "code", "says"),
    [
        (["undo"], 1, "there is nothing to undo"),
        (["undo", "--redo"], 1, "there is nothing to redo"),
        (["undo", "--steps", "0"], 2, "expected an integer, at least 1; found 0"),
        (["switch", "mian"], 2, "there is no branch 'mian': did you mean main?"),
        (["switch"], 2, "missing argument 'BRANCH'"),
        (["branch", "main"], 2, "there is a branch main already"),
        (["branch", "a b"], 2, "cannot be named 'a b'"),
        (["branch", "new", "nowhere"], 2, "no branch, no tag and no snapshot 'nowhere'"),
        (["branch", "--delete", "main"], 2, "is the current branch"),
        (["branch", "--delete"], 2, "--delete needs the name of one branch"),
        (["tag", "HEAD"], 2, "cannot be named 'HEAD'"),
        (["tag", "--delete", "v1"], 2, "there is no tag 'v1': there are none"),
        (["diff"], 2, "HEAD has 0 commits before it"),
        (["diff", "HEAD", "mian"], 2, "did you mean main?"),
        (["info", "--at", "~"], 2, "names no snapshot"),
        (["eval", "--at", "nowhere"], 2, "no branch, no tag and no snapshot 'nowhere'"),
        (["generate", "春", "--at", "HEAD~9"], 2, "goes back too far"),
        (["log", "nowhere"], 2, "no branch, no tag and no snapshot 'nowhere'"),
    ],
)
def test_bad_input(unchanged: Path, monkeypatch: pytest.MonkeyPatch, args: list[str], code: int, says: str) -> None:
    monkeypatch.setenv("SIFU_STORE", str(unchanged))
    result = call(*args)
    assert (result.code, result.out) == (code, "")
    assert says in result.error


def test_a_writer_keeps_the_others_out(graph: Path) -> None:
    with Store.open(graph, write=True):
        for args in (["undo"], ["switch", "main"], ["branch", "new"], ["tag", "new"]):
            result = call(*args)
            assert result.code == 1
            assert "is being written by process" in result.error
        ok("branch")
        ok("tag")
        ok("gc", "--dry-run")


def test_references_are_reported_and_repaired(graph: Path) -> None:
    """Without them the line of commits ends at a training commit, and nothing may be deleted."""
    for _ in range(3):
        train()
    ok("tag", "v1")
    [before] = (graph / "repository" / "refs").glob("branch.sifu.before.*")
    (before / "ref.json").write_bytes(b"")
    warned = call("log", "--limit", "1")
    assert warned.code == 0 and warned.err.count("sifu: warning: the reference to the commit before ") == 1
    (graph / "acknowledged").unlink()
    (graph / "repository" / "refs" / "tag.v1" / "ref.json").write_bytes(b"{")
    for command in ("log", "tag", "branch"):
        assert "sifu: warning: the tag v1 cannot be read" in call(command).err
    found = call("verify")
    assert found.code == 1 and found.out.count("damaged: history: ") == 3 and "NOT intact" in found.out
    assert "nothing was deleted; sifu verify lists all damage, and sifu verify --repair" in call("gc", "--yes").error
    assert "sifu verify --repair restores" in call("undo", "--steps", "2").error
    trained = call("train", "--steps", "3", "--batch", "8", "--commit-every", "1")
    assert trained.code == 0 and trained.err.count("sifu: warning: old training commits were not deleted: ") == 1
    assert fields("info")["training"]["step"] == 6
    assert call("verify", "--repair").code == 2  # there is no terminal to ask
    before_repair = fields("log")["commits"]
    repaired = call("verify", "--repair", "--yes")
    assert repaired.code == 0 and "intact: everything is readable" in repaired.out, repaired
    assert "will repair: the tag v1 is deleted" in repaired.err and "becomes the commit before" in repaired.err
    assert "there is nothing to repair" in call("verify", "--repair", "--yes").err
    log = fields("log")
    assert log["faults"] == [] and log["commits"][-1]["message"].startswith("build: ")
    assert len(log["commits"]) == len(before_repair) + 1
    ok("gc", "--yes", "--keep-training", "1")
    assert len(fields("log")["commits"]) == 2
    ok("verify")


def test_undo_names_the_command_that_takes_all_of_it_back(graph: Path) -> None:
    for nats in ("1", "2", "3"):
        assert call("edit-edge", "春", "風", "--boost", nats).code == 0
    before = fields("log", "--limit", "1")
    said = call("undo", "--steps", "3").err
    assert "sifu undo --redo --steps 3" in said
    assert call("undo", "--redo", "--steps", "3").code == 0
    assert fields("log", "--limit", "1") == before
    assert "--steps" not in call("undo").err


def restored_by(log: str) -> dict[str, str]:
    """The ids of commits by the command that the log says restores them."""
    found = re.findall(r"^\S*?\s?(\w{8})  .*undone; (sifu undo .*) restores it\)$", log, re.MULTILINE)
    return {command: commit for commit, command in found}


@pytest.mark.parametrize("moves", ["uuu", "uuruur", "uuuru", "uurr", "uuueuur"])
def test_the_log_names_the_command_that_restores_each_commit(graph: Path, moves: str) -> None:
    """After undos (u), redos (r) and edits (e), the command beside a commit brings the graph there."""
    commands = {"u": ["undo"], "r": ["undo", "--redo"], "e": ["edit-edge", "春", "風", "--boost", "9"]}
    for nats in "1234":
        ok("edit-edge", "春", "風", "--boost", nats, "-q")
    for move in moves:
        ok(*commands[move])
    said = restored_by(ok("log"))
    assert len(said) == moves.count("u") - moves.count("r") if "e" not in moves else len(said) == 1
    assert [id_[:8] for id_ in fields("log")["redo"]] == list(dict(sorted(said.items())).values())
    for command, commit in said.items():
        ok(*command.split()[1:])
        assert fields("info")["snapshot"][:8] == commit
        steps = command.split()[-1] if "--steps" in command else "1"
        ok("undo", "--steps", steps)


def test_the_log_names_what_is_no_command_line(graph: Path) -> None:
    with Graph.open(graph) as opened, opened.edit("two at once") as edit:
        edit.boost_edge("春", "風", 1.0)
        edit.boost_edge("風", "春", 1.0)
    assert ok("log", "--limit", "1").splitlines()[1].strip() == "edit (Python)"
    assert ok("log").splitlines()[3].strip().startswith("sifu build-graph")
    assert (
        call("import-safetensors", "x").error
        == "no command 'import-safetensors'; did you mean import? (see sifu --help)"
    )
