"""The page at `/`: a prompt becomes tokens, a token its candidates and its account; an edit is a commit, and undone."""

from __future__ import annotations

import json
import re
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import needs
import pytest
from browser import Browser, chromium
from page_layout import SIZES, faint, inaccessible, outside
from serving import Running, serving

from sifu_graph import Graph

TOKEN = "geheim"
in_a_browser = pytest.mark.skipif(chromium() is None, reason=needs.BROWSER)


@pytest.fixture(params=["recurrent", "tuned"])
def editable(request: pytest.FixtureRequest, paths: dict[str, Path], tmp_path: Path) -> Iterator[Running]:
    path = shutil.copytree(paths[request.param], tmp_path / "graph.sifu")
    with serving(Path(path), edit_token=TOKEN) as found:
        yield found


def edit(server: Running, kind: str, u: str = "春", v: str = "風", **more: object) -> tuple[int, dict[str, object]]:
    seen = more.pop("seen", None) or server.ask("GET", "/api/state")[1]["snapshot"]
    asked = {"kind": kind, "u": u, "v": v, "seen": seen, **more}
    return server.post(asked, path="/api/edit", Authorization=f"Bearer {TOKEN}")


def probability(server: Running, *changes: str) -> float:
    asked = {"prompt": "春風", "max_tokens": 0, "echo": True, "logprobs": 0, "what_if": list(changes)}
    found: float = server.post(asked)[1]["choices"][0]["logprobs"]["token_logprobs"][1]
    return found


def test_an_edit_is_a_commit_that_is_served_and_undone(editable: Running) -> None:
    before, first = probability(editable), editable.ask("GET", "/api/state")[1]
    assert [commit["here"] for commit in first["commits"]] == [True] and not first["redo"]
    status, state = edit(editable, "boost", amount=2.0)
    assert status == 200 and len(state["commits"]) == 2
    boosted = probability(editable)
    assert before < boosted < before + 2.0
    assert edit(editable, "forbid")[0] == 200
    assert probability(editable) == -9999.0
    assert edit(editable, "undo")[1]["redo"] is True
    assert probability(editable) == boosted
    assert edit(editable, "undo")[0] == 200
    assert probability(editable) == before
    assert edit(editable, "redo")[0] == 200
    assert probability(editable) == boosted


def test_who_edits_sees_what_they_edit(editable: Running) -> None:
    seen = editable.ask("GET", "/api/state")[1]["snapshot"]
    assert edit(editable, "boost", seen=seen)[0] == 200
    status, found = edit(editable, "forbid", seen=seen)
    assert (status, found["error"]["code"]) == (409, "changed")  # the second editor
    assert "boost" in found["error"]["message"]
    with Graph.open(editable.path) as graph:  # another process
        seen = graph.store.snapshot
        graph.boost_edge("春", "月", 1.0)
    assert edit(editable, "forbid", seen=seen)[0] == 409
    state = editable.ask("GET", "/api/state")[1]  # what a page loads then
    assert state["snapshot"] != seen and edit(editable, "boost", seen=state["snapshot"])[0] == 200
    assert state["commits"][0]["here"]
    with Graph.open(editable.path) as graph, graph._writing():
        status, found = edit(editable, "boost")
        assert (status, found["error"]["code"]) == (409, "locked")
    assert edit(editable, "boost")[0] == 200


def test_what_if_is_the_edit(editable: Running) -> None:
    before, base = probability(editable), editable.ask("GET", "/api/state")[1]["drafts"]
    changes = ["edge 春 風 forbid"] if not base else ["edge 春 風 boost 1.5", "edge 春 月 forbid"]
    supposed = probability(editable, *changes)
    assert supposed != before == probability(editable)
    plain, changed = (
        editable.ask("GET", f"/api/sample{query}")[1] for query in ("", f"?what_if={quote('edge 春 風 forbid')}")
    )
    assert plain["perplexity"] and changed["perplexity"] and changed["tokens"] <= plain["tokens"]
    status, state = edit(editable, "keep", changes=changes)
    assert status == 200 and state["commits"][0]["message"] == ", ".join(changes)
    assert probability(editable) == pytest.approx(supposed, abs=1e-5)
    assert edit(editable, "undo")[0] == 200 and probability(editable) == before


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (["nonsense"], "cannot be read"),
        (["node 春 off"], "changes of edges only"),
        (["edge 春 龘 forbid"], "龘"),
        (["edge 春 風 forbid"] * 2, "forbidden already"),
        (["edge 春 風 forbid"] * 33, "at most 32 changes"),
        (["edge 春 風 boost inf"], "cannot be read"),
        (["edge 春 風 boost 1e300"], "must be -1,000,000 to 1,000,000 nats"),
        ([7], "Expected `str`"),
    ],
)
def test_changes_that_cannot_be_made(server: Running, changes: list[object], said: str) -> None:
    status, found = server.post({"prompt": "春", "what_if": changes})
    assert status == 400 and said in found["error"]["message"]


def test_nodes_are_renamed_and_added(editable: Running) -> None:
    status, state = edit(editable, "rename", "春", "春天")
    assert status == 200 and len(state["commits"]) == 2 and state["commits"][0]["edit"]
    status, state = edit(editable, "add", "龘", "風")
    assert status == 200 and state["nodes"] == editable.ask("GET", "/api/state")[1]["nodes"]
    assert editable.post({"prompt": "龘", "max_tokens": 1})[0] == 200
    assert edit(editable, "rename", "春", "夏")[0] == 400  # there is no 春 any more
    assert edit(editable, "add", "龘", "風")[0] == 400
    assert edit(editable, "undo")[0] == edit(editable, "undo")[0] == 200
    assert edit(editable, "keep", changes=["node 春 off"])[0] == edit(editable, "keep", changes=[])[0] == 400


def test_edits_that_are_refused(editable: Running, server: Running) -> None:
    assert edit(editable, "explode")[0] == 400
    assert edit(editable, "forbid", v="nowhere")[0] == 400
    for kind in ("undo", "redo"):  # there is none
        status, found = edit(editable, kind)
        assert (status, found["error"]["code"]) == (409, "refused") and "there is nothing to" in found["error"][
            "message"
        ]
    assert editable.post({"kind": "undo", "seen": "x"}, path="/api/edit")[0] == 401
    assert editable.post({"kind": "undo", "seen": "x"}, path=f"/api/edit?token={TOKEN}")[0] == 401
    assert server.post({"kind": "undo", "seen": "x"}, path="/api/edit", Authorization="Bearer x")[0] == 403


def test_the_name_of_another_machine_is_refused(server: Running) -> None:
    """A page of another site that has this address under its own name (DNS rebinding) reads nothing."""
    for host in ("evil.example", "evil.example:80", "192.0.2.1", "localhost.evil.example", ""):
        status, found = server.ask("GET", "/api/state", Host=host)
        assert status == 403 and "names another machine" in found["error"]["message"], host
    for host in ("localhost", "LOCALHOST:1", "127.0.0.1:80", "[::1]:80", "a.localhost"):
        assert server.ask("GET", "/api/state", Host=host)[0] == 200, host


def test_the_account_is_that_of_trace(server: Running) -> None:
    status, found = server.ask("GET", "/api/why?text=%E6%98%A5%E9%A2%A8%E6%9C%88")
    assert status == 200
    data = json.loads(re.search(r'id="data">(.*?)</script>', found["text"])[1])  # type: ignore[index]
    last = data["traces"][0]["positions"][-2]  # where 月 was chosen
    like = "eval" if "recurrent" in server.path.name else "generate"
    with Graph.open(server.path) as graph:
        traced = graph.trace("春風月", top=12, like=like).positions[-2]
    assert data["last_choice"] and traced.came_name == "月" and traced.came_at is not None
    assert [data["names"][each["name"]] for each in last["candidates"]] == [each.name for each in traced.candidates]
    energies = [each.energy for each in traced.candidates]
    assert [each["energy"] for each in last["candidates"]] == pytest.approx(energies, rel=1e-7)
    assert server.ask("GET", "/api/why?text=")[0] == server.ask("GET", "/api/why?text=xyz")[0] == 400
    assert server.ask("GET", "/api/why?text=%E6%98%A5&what_if=nonsense")[0] == 400


def test_an_edge_is_that_of_inspect(server: Running) -> None:
    status, found = server.ask("GET", f"/api/edge?u={quote('春')}&v={quote('風')}")
    with Graph.open(server.path) as graph:
        edge, source, target = graph.inspect("春", "風"), graph.inspect("春", top=8), graph.inspect("風", top=8)
    assert status == 200 and found["kind"] == ("private" if edge.private else "default")
    assert (found["count"], found["rank"], found["p"]) == (edge.count, edge.rank, pytest.approx(edge.p))
    assert found["energy"] == pytest.approx(edge.energy) and found["parts"] == pytest.approx(edge.parts)
    assert found["spectrum"] == ([] if edge.parts else pytest.approx(list(edge.singular_values)))
    assert found["before"] == [[one.name, one.count] for one in target.sources_by_count]
    assert [name for name, _ in found["like"]] == [one.name for one in target.similar_targets]
    p = {one.name: one.p for one in source.targets_by_energy}
    private = [(name, value) for name, value in found["after"] if name in p]
    assert private and all(value == pytest.approx(p[name]) for name, value in private)
    values = [value for _, value in found["after"]]
    assert values == sorted(values, reverse=True)
    assert server.ask("GET", f"/api/edge?u=xyz&v={quote('風')}")[0] == server.ask("GET", "/api/edge")[0] == 400


def test_a_forbidden_edge_and_one_of_a_clone(editable: Running) -> None:
    assert edit(editable, "forbid")[0] == 200
    found = editable.ask("GET", f"/api/edge?u={quote('春')}&v={quote('風')}")[1]
    assert (found["kind"], found["energy"], found["p"]) == ("forbidden", None, 0.0)


def test_a_pruning_says_what_goes_and_is_one_commit(editable: Running) -> None:
    before = editable.ask("GET", "/api/state")[1]
    with Graph.open(editable.path) as graph:
        least = min(one.count for one in graph.inspect("春", top=100).targets_by_count) + 1
        wanted = {node: graph.prune(min_count=least, node=node, dry_run=True) for node in (None, "春")}
    for node, report in wanted.items():
        status, found = edit(editable, "prune", u=node or "", min_count=least, dry_run=True)
        assert status == 200 and found["edges_removed"] == report.edges_removed > 0
        assert found["private_edges_before"] == report.private_edges_before and found["note"] == report.note
    assert wanted["春"].edges_removed < wanted[None].edges_removed
    assert editable.ask("GET", "/api/state")[1]["snapshot"] == before["snapshot"]
    status, state = edit(editable, "prune", u="春", min_count=least)
    assert status == 200 and "around 春" in state["commits"][0]["message"] and state["commits"][0]["edit"]
    with Graph.open(editable.path) as graph:
        edges = graph.inspect("春", top=100)
        every = (*edges.targets_by_count, *edges.sources_by_count)
        assert min(one.count for one in every) >= least
        assert graph.info().private_edges == wanted["春"].private_edges_before - wanted["春"].edges_removed
        assert graph.store.history(1)[0].command == f"prune --min-count {least} --node 春"
    assert edit(editable, "undo")[1]["snapshot"] == before["snapshot"]
    for more in ({}, {"u": "春"}, {"u": "nowhere", "min_count": 2}, {"min_count": 0}, {"clones": 1_000_000}):
        assert edit(editable, "prune", **{"u": "", **more}, dry_run=True)[0] == 400, more
    assert edit(editable, "boost", dry_run=True)[0] == 400


def wait(browser: Browser, expression: str) -> None:
    for _ in range(400):
        if browser.run(expression):
            return
        time.sleep(0.05)
    raise AssertionError((expression, browser.errors))


def load(browser: Browser, server: Running) -> None:
    browser.open(f"http://127.0.0.1:{server.port}/#token={TOKEN}")
    wait(browser, "document.documentElement.dataset.ready")
    browser.run("document.getElementById('prompt').value = '春風'")
    browser.click("#run")
    wait(browser, "document.documentElement.dataset.done === '1'")


@in_a_browser
@pytest.mark.parametrize("size", SIZES, ids=lambda size: str(size[0]))
def test_a_newcomer_sees_why_and_changes_it_and_takes_it_back(editable: Running, size: tuple[int, int]) -> None:
    with Browser(width=size[0], height=size[1]) as browser:
        load(browser, editable)
        tokens = browser.run("[...document.querySelectorAll('#text button')].map((one) => one.textContent)")
        text = editable.post({"prompt": "春風", "max_tokens": 60, "temperature": 0.8, "top_p": 0.9, "seed": 1})
        assert "".join(tokens).removesuffix("<sep>") == "春風" + text[1]["choices"][0]["text"]
        browser.click("#text button:nth-child(3)")
        shown = browser.run("[...document.querySelectorAll('#candidates td.token')].map((one) => one.textContent)")
        assert tokens[2] in shown and len(shown) >= 12
        assert outside(browser) == []
        browser.click("#why")
        wait(browser, "document.getElementById('frame').contentDocument?.documentElement?.dataset?.ready")
        asked = browser.run(
            "document.getElementById('frame').contentDocument.getElementById('contest-title').textContent"
        )
        assert tokens[2] in asked  # the account is that of the token that was clicked
        came = shown.index(tokens[2])
        runs = iter(range(2, 9))

        def press(button: str) -> list[str]:
            """The tokens after a button was pressed and the text was generated again."""
            browser.click(button)
            wait(browser, f"document.documentElement.dataset.done === '{next(runs)}'")
            found: list[str] = browser.run(
                "[...document.querySelectorAll('#text button')].map((one) => one.textContent)"
            )
            assert outside(browser) == []
            return found

        commits = "document.querySelectorAll('#commits li').length"
        now = press(f"#candidates tbody tr:nth-child({came + 1}) td.changes button:nth-child(3)")
        assert now[:2] == tokens[:2] and now[2:3] != tokens[2:3]
        assert browser.run("document.getElementById('before-text').textContent").startswith("".join(tokens[:3]))
        if editable.ask("GET", "/api/state")[1]["drafts"]:
            assert browser.run(commits) == 1  # it was in memory alone
            wait(browser, "document.getElementById('sample').textContent.includes('held-out')")
            was = browser.run("[...document.querySelectorAll('#candidates td.was')].map((one) => one.textContent)")
            assert any("%" in one for one in was)
            assert press("#discard") == tokens
            assert press(f"#candidates tbody tr:nth-child({came + 1}) td.changes button:nth-child(3)") == now
            assert press("#keep") == now
        assert browser.run(commits) == 2
        assert press("#undo") == tokens
        for scheme in ("light", "dark"):
            browser.scheme(scheme)
            time.sleep(0.3)
            assert faint(browser) == []
        assert inaccessible(browser) == [] and outside(browser) == []
        assert browser.errors == []
        assert all(each.startswith((f"http://127.0.0.1:{editable.port}/", "data:")) for each in browser.requests)


@in_a_browser
@pytest.mark.parametrize("size", SIZES, ids=lambda size: str(size[0]))
def test_an_edge_in_detail_a_group_of_edges_and_a_pruning(editable: Running, size: tuple[int, int]) -> None:
    run = "document.getElementById('{}').textContent"
    with Browser(width=size[0], height=size[1]) as browser:
        load(browser, editable)
        browser.click("#text button:nth-child(3)")
        browser.click("#candidates tbody tr:nth-child(2) td.token button")
        wait(browser, "document.querySelectorAll('#edge td').length > 0 && !!document.documentElement.dataset.edge")
        source, name = browser.run("document.documentElement.dataset.edge").split()
        assert source == "風" and name == browser.run(
            "document.querySelector('#candidates tr:nth-child(2) td.token').textContent"
        )
        with Graph.open(editable.path) as graph:
            edge = graph.inspect(source, name)
        shown = browser.run("[...document.querySelectorAll('#edge td')].map((one) => one.textContent)")
        assert shown[1] == f"{edge.count:,}" and shown[7] == f"{edge.rank:,}"
        assert browser.run("document.querySelectorAll('#edge svg rect').length") == (
            0 if edge.parts else len(edge.singular_values)
        )
        assert browser.run("document.getElementById('frame').hidden") is True
        browser.click("#group button:nth-of-type(3)")  # nothing is marked
        assert "Mark candidates first" in browser.run(run.format("error"))
        names = browser.run("[...document.querySelectorAll('#candidates input')].map((one) => one.value)")
        for row in (1, 2):
            browser.click(f"#candidates tbody tr:nth-child({row}) input")
        browser.click("#group button:nth-of-type(3)")
        wait(browser, "document.documentElement.dataset.done === '2'")
        drafts = editable.ask("GET", "/api/state")[1]["drafts"]
        made = (
            browser.run("[...document.querySelectorAll('#changes li .token')].map((one) => one.textContent)")
            if drafts
            else editable.ask("GET", "/api/state")[1]["commits"][0]["message"].split(", ")
        )
        assert made == [f"edge 風 {each} forbid" for each in names[:2]]
        left = browser.run("[...document.querySelectorAll('#candidates input')].map((one) => one.value)")
        assert not set(names[:2]) & set(left)
        browser.run("document.querySelectorAll('#history details').forEach((one) => { one.open = true; })")
        browser.run("document.querySelector('#prune-edges [name=min_count]').value = 1000")
        browser.run("document.querySelector('#prune-edges [name=u]').value = '春'")
        browser.click("#prune-edges button")
        wait(browser, f"{run.format('prune-about')}.includes('would become default')")
        for scheme in ("light", "dark"):
            browser.scheme(scheme)
            time.sleep(0.3)
            assert faint(browser) == []
        assert inaccessible(browser) == [] and outside(browser) == []
        before = len(editable.ask("GET", "/api/state")[1]["commits"])
        browser.click("#prune")
        wait(browser, f"document.querySelectorAll('#commits li').length === {before + 1}")
        assert "around 春" in browser.run("document.querySelector('#commits li').textContent")
        assert browser.run("document.getElementById('prune-ready').hidden") is True
        assert browser.errors == []


@in_a_browser
def test_a_page_that_cannot_edit_has_no_buttons_for_it(server: Running) -> None:
    with Browser() as browser:
        load(browser, server)
        browser.click("#text button:nth-child(3)")
        assert browser.run("[...document.querySelectorAll('.edits')].every((one) => !one.offsetWidth)")
        drafts = server.ask("GET", "/api/state")[1]["drafts"]  # in memory, who reads may change, too
        assert browser.run("document.querySelector('td.changes').offsetWidth > 0") == drafts
        browser.run("document.getElementById('prompt').value = 'xyz'")
        browser.click("#run")
        wait(browser, "!document.getElementById('error').hidden")
        assert "no part of it is a node" in browser.run("document.getElementById('error').textContent")


@in_a_browser
def test_the_second_of_two_editors_is_told_and_sees_the_first_edit(editable: Running) -> None:
    button, other = (f"#candidates tbody tr:nth-child({row}) td.changes button:nth-child(3)" for row in (1, 2))
    with Browser() as first, Browser() as second:
        for browser in (first, second):
            load(browser, editable)
            browser.click("#text button:nth-child(3)")
        first.click(button)
        wait(first, "document.documentElement.dataset.done === '2'")
        drafts = editable.ask("GET", "/api/state")[1]["drafts"]
        if drafts:
            first.click("#keep")
            wait(first, "document.documentElement.dataset.done === '3'")
        second.click(other)
        if drafts:
            wait(second, "document.documentElement.dataset.done === '2'")
            second.click("#keep")
        wait(second, "!document.getElementById('error').hidden")
        assert "the graph has changed since then" in second.run("document.getElementById('error').textContent")
        wait(second, "document.querySelectorAll('#commits li').length === 2")  # it shows the edit of the first
        assert len(editable.ask("GET", "/api/state")[1]["commits"]) == 2
        assert [error for error in second.errors if "409" not in error] == []
