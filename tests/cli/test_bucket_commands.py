"""A graph in a bucket through the command line: the same bits as in a folder, and copies between the two."""

from __future__ import annotations

import json
import re
import shlex
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bucket_fixtures import object_store
from calls import call
from object_server import ObjectServer, new_url
from sifu_store import Store
from sifu_store.places import locate
from small import whole, write_poems, write_text

from sifu_graph import Graph, build_graph

__all__ = ["object_store"]


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_text(tmp_path_factory.mktemp("text") / "text.txt")


def answers(store: str | Path, text: Path, signal: str) -> list[Any]:
    """What every kind of command says of a graph, without times, ids and places."""
    out: list[Any] = []

    def sifu(*args: str | Path) -> Any:
        result = call(*args, "--store", store, "--json")
        assert result.code == 0, result
        found = [json.loads(line) for line in result.out.splitlines()]
        out.append(list(map(_timeless, found)))
        return found

    sifu("build-graph", text, "--vocab", "20", "--signal", signal, "--holdout", "0.1")
    sifu("train", "--steps", "3", "--batch", "8")
    sifu("eval", "--limit", "200")
    sifu("generate", "春", "--tokens", "30", "--seed", "1")
    sifu("edit-edge", "春", "風", "--boost", "1")
    sifu("tag", "boosted")
    sifu("undo")
    sifu("add-node", "雪", "--like", "雲")
    sifu("train", "--steps", "2")
    sifu("log")
    sifu("verify")
    return out


def _timeless(fields: dict[str, Any]) -> dict[str, Any]:
    """Without what differs between two runs."""
    kept = (
        "perplexity", "heldout_perplexity", "loss", "text", "tokens", "step", "private_edges", "stored_parameters",
        "probability_before", "probability", "ok", "pages", "arrays", "size_bytes", "message",
    )  # fmt: skip
    commits = [commit["message"] for commit in fields.get("commits", ())]
    return {name: fields[name] for name in kept if name in fields} | {"commits": commits}


@pytest.mark.parametrize("signal", ["recurrent", "paper"])
def test_every_command_gives_the_same_bits_in_a_bucket(
    object_store: ObjectServer, text: Path, tmp_path: Path, signal: str
) -> None:
    url, folder = new_url(), tmp_path / "graph.sifu"
    assert answers(url, text, signal) == answers(folder, text, signal)
    with Store.open(url) as there, Store.open(folder) as here:
        assert there.names() == here.names()
        for name in here.names():
            np.testing.assert_array_equal(whole(there, name), whole(here, name), err_msg=name)
        assert [commit.size_bytes for commit in there.history()] == [commit.size_bytes for commit in here.history()]


@pytest.mark.parametrize("there", [new_url, None])
def test_a_branch_is_copied_back_and_forth(
    object_store: ObjectServer, text: Path, tmp_path: Path, there: Callable[[], str] | None
) -> None:
    here, other = tmp_path / "here.sifu", there() if there else str(tmp_path / "there.sifu")
    assert call("build-graph", text, "--vocab", "20", "--store", here).code == 0
    assert call("edit-edge", "春", "風", "--boost", "1", "--store", here).code == 0
    assert call("tag", "boosted", "--store", here).code == 0
    first = json.loads(call("push", other, "--store", here, "--json").out)
    assert (first["branch"], first["before"], first["commits"]) == ("main", None, 2)
    assert "nothing was copied" in call("push", other, "--store", here).out
    assert call("edit-edge", "春", "花", "--boost", "1", "--store", other).code == 0
    pulled = json.loads(call("pull", other, "--store", here, "--json").out)
    assert (pulled["before"], pulled["commits"]) == (first["snapshot"], 1)
    assert _log(here) == _log(other)
    for place in (here, other):
        assert call("edit-edge", "春", "月", "--boost", "1", "--store", place).code == 0
    for command in ("push", "pull"):
        refused = call(command, other, "--store", here)
        assert (refused.code, "has commits that" in refused.error) == (1, True)
        assert "copy them to " in refused.error and "sifu branch makes one" in refused.error
    assert call("switch", "--create", "mine", "--store", here).code == 0
    assert json.loads(call("push", other, "--store", here, "--json").out)["commits"] == 4
    assert call("switch", "mine", "--store", other).code == 0
    assert _log(here)[:2] == _log(other)[:2]
    assert call("verify", "--store", other).code == 0
    assert call("verify", "--store", here).code == 0
    assert "there is no branch 'no'" in call("push", other, "--branch", "no", "--store", here).error


def _log(store: str | Path) -> list[tuple[str, str]]:
    with Store.open(store) as opened:
        return [(commit.snapshot, commit.message) for commit in opened.history()]


def test_a_clone_has_everything(object_store: ObjectServer, text: Path, tmp_path: Path) -> None:
    here, url, back = tmp_path / "here.sifu", new_url(), tmp_path / "back.sifu"
    assert call("build-graph", text, "--vocab", "20", "--store", here).code == 0
    for command in (("edit-edge", "春", "風", "--boost", "1"), ("branch", "other"), ("tag", "v1"), ("undo",)):
        assert call(*command, "--store", here).code == 0
    assert call("clone", here, "--store", url).code == 0
    assert call("clone", url, "--store", back).code == 0
    found = []
    for place in (here, url, back):
        with Store.open(place) as store:
            tree = store.tree()
            assert store.verify().ok
            found.append((tree.branch, tree.branches, tree.tags, tree.redo, tree.undone, tree.commits))
    assert found[0] == found[1] == found[2]
    assert call("undo", "--redo", "--store", back).code == 0
    for target in (url, back):
        assert "is already a sifu store: name another path" in call("clone", here, "--store", target).error
    assert "does not exist" in call("clone", tmp_path / "no.sifu", "--store", tmp_path / "x.sifu").error
    assert not (tmp_path / "x.sifu").exists()


def test_a_graph_is_trained_on_a_machine_that_has_never_seen_it(object_store: ObjectServer, text: Path) -> None:
    url = new_url()
    assert call("build-graph", text, "--vocab", "20", "--store", url).code == 0
    shutil.rmtree(locate(url))
    assert call("train", "--steps", "2", "--store", url).code == 0  # the text is where it was
    assert call("info", "--store", url).out.count(url) == 1
    assert "s3://" in call("verify", "--store", f"{url}-not").error


def test_a_graph_in_a_bucket_from_python(object_store: ObjectServer, text: Path) -> None:
    url = new_url()
    assert build_graph(text, url, vocab=20, holdout=0.1).path == url
    with Graph.open(url) as graph:
        graph.train(steps=1)
        assert graph.info().path == url
        assert url in repr(graph)
        before = graph.generate("春", tokens=5, seed=1).text
        with graph.edit("boost") as edit:
            edit.boost_edge("春", "風", 20.0)
        assert graph.generate("春", tokens=5, seed=1).text != before
        graph.undo()
        assert graph.generate("春", tokens=5, seed=1).text == before
        assert graph.evaluate_edits(edits=3).undo_exact


def test_messages_name_the_url(object_store: ObjectServer, text: Path) -> None:
    url = new_url()
    assert call("build-graph", text, "--vocab", "20", "--store", url).code == 0
    for command in (("log", "nothing"), ("gc", "--yes"), ("tag", "v1", "FFFFFFFF")):
        result = call(*command, "--store", url)
        assert url in result.err
        assert str(locate(url)) not in result.err


def _words(text: str) -> list[str]:
    """Lines without numbers, ids, addresses and places."""
    varies = r"s3://\S+|http://[^\s)]+|\b[0-9A-HJKMNP-TV-Z]{8}\b|[\d:.,]+ (?:bytes|[KMG]iB)|[\d:.,]*\d[\d:.,-]*"
    text = re.sub("sifu build-graph .*", "sifu build-graph", text)
    return [" ".join(re.sub(varies, "*", line).split()) for line in text.splitlines()]


def test_the_page_shows_what_is_printed(
    object_store: ObjectServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every command of `docs/bucket.md` but those that set the environment, and the race, which another test runs."""
    url, page = new_url(), (Path(__file__).parents[2] / "docs" / "bucket.md").read_text(encoding="utf-8")
    text, shown = write_poems(tmp_path / "few.txt", poems=1000), 0
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SIFU_STORE", url)
    for block in re.findall(r"```console\n(.*?)```", page, re.DOTALL):
        for part in block.split("$ ")[1:]:
            command, _, expected = part.partition("\n")
            words = shlex.split(
                command.replace("s3://graphs/tang", url).replace("--vocab 1000", f"{text} --vocab 300 --holdout 0.1")
            )
            if "&" in words or "sifu" not in words:
                continue
            with monkeypatch.context() as patch:
                for name, _, value in (word.partition("=") for word in words[: words.index("sifu")]):
                    patch.setenv(name, value)
                result = call(*words[words.index("sifu") + 1 :])
            assert result.code == int(expected.startswith("sifu: error")), result
            if expected:
                printed = result.err if result.code else result.out
                assert _words(printed) == _words(expected)
                shown += 1
    assert shown == 6
