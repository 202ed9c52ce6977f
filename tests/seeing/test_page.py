"""The page of a trace, opened in a headless Chromium: it works, asks for nothing, and nothing in a token runs."""

from __future__ import annotations

import copy
import json
import pickle
import re
import shutil
from collections.abc import Iterator
from html import unescape
from pathlib import Path

import needs
import pytest
from browser import Browser, chromium
from sifu_store.errors import OptionError

from sifu_graph import Graph, build_graph
from sifu_graph.plot.trace_html import POSITIONS, page_data, trace_page

NASTY = [
    "</script><script>window.hit=1</script>",
    '"><img/src=x/onerror=window.hit=1>',
    "<!--<script>",
    "'};window.hit=1;//",
    "$DATA",
    "\u2028\u202e",
    "&lt;b&gt;",
]
TEXT = "春風花月夜江水山雲。人不一有無天日來何時中春風花月夜江水山雲。"

needs_browser = pytest.mark.skipif(chromium() is None, reason=needs.BROWSER)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with Browser() as found:
        yield found


@pytest.fixture
def clean(browser: Browser) -> Iterator[Browser]:
    """A browser that has nothing to complain of, before and after."""
    browser.errors.clear()
    browser.requests.clear()
    yield browser
    assert browser.errors == []
    assert [address for address in browser.requests if not address.startswith("data:")] == browser.requests[:1]


@pytest.fixture(scope="module")
def nasty(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("nasty")
    lines = [NASTY[i % 7 :] + NASTY[: i % 5] + ["plain"] for i in range(40)]
    (folder / "tokens.jsonl").write_text("\n".join(map(json.dumps, lines)) + "\n")
    build_graph(
        folder / "tokens.jsonl", folder / "graph.sifu", level="tokens", vocab=20, sparsify=0.5, length=8, signal="tuned"
    )
    return folder / "graph.sifu"


def test_the_page_holds_no_markup_from_tokens(nasty: Path, tmp_path: Path) -> None:
    with Graph.open(nasty) as graph:
        graph.trace(NASTY, html=tmp_path / "t.html")
    page = (tmp_path / "t.html").read_text(encoding="utf-8")
    assert page.count("<script") == 2
    assert page.count("</script>") == 2
    assert "<img" not in page
    assert not re.search(r"https?://(?!www\.w3\.org/2000/svg)", page)
    embedded = re.search(r'<script type="application/json" id="data">(.*?)</script>', page, re.DOTALL)
    assert embedded is not None
    assert set(NASTY) <= set(json.loads(embedded.group(1))["names"])


@needs_browser
def test_nothing_in_a_token_runs(clean: Browser, nasty: Path, tmp_path: Path) -> None:
    with Graph.open(nasty) as graph:
        graph.trace(NASTY, html=tmp_path / "t.html", what_if=["position 2 off"])
    clean.open(tmp_path / "t.html")
    for index in range(len(NASTY)):
        clean.click(f'.column[data-at="{index}"] .disc')
        clean.click(f'.candidate[data-at="{index}"]')
    assert clean.run("window.hit") is None
    assert clean.run("document.images.length + document.scripts.length") == 2
    assert clean.run("document.title").startswith("</script><script>window.hit=1</script>")


@needs_browser
def test_the_page_can_be_used(clean: Browser, graph: Graph, tmp_path: Path) -> None:
    trace = graph.trace(TEXT, html=tmp_path / "t.html")
    assert trace.page_bytes == (tmp_path / "t.html").stat().st_size < 2_000_000
    clean.open(tmp_path / "t.html")
    assert int(clean.run("document.documentElement.dataset.ready")) < 10_000
    assert clean.run("document.querySelectorAll('.column').length") == len(trace.positions)

    def count(selector: str) -> int:
        return int(clean.run(f"document.querySelectorAll({json.dumps(selector)}).length"))

    clean.click('.column[data-at="5"] .disc')
    assert clean.run("document.querySelector('.column.here').dataset.at") == "5"
    assert "夜" in clean.run("document.getElementById('node-title').textContent")
    before = count(".candidate")
    clean.run("const m = document.getElementById('mass'); m.value = 95; m.dispatchEvent(new Event('input'))")
    assert count(".candidate") > before
    assert clean.run("document.getElementById('mass-value').textContent") == "95 %"

    # The table of the account adds up to the margin that the trace has.
    clean.click('.candidate[data-at="5"][data-k="2"]')
    values = clean.run("[...document.querySelectorAll('#account-table tr[data-value]')].map((r) => +r.dataset.value)")
    first, third = trace.positions[5].candidates[0].energy, trace.positions[5].candidates[2].energy
    assert values[-1] == pytest.approx(third - first, abs=1e-6)
    assert sum(values[:-1]) == pytest.approx(values[-1], abs=1e-4)
    clean.click('.candidate[data-at="5"][data-k="1"]', shift=True)
    heading = clean.run("document.getElementById('contest-title').textContent")
    names = [trace.positions[5].candidates[k].name for k in (2, 1)]
    assert heading == f"Why {names[0]} rather than {names[1]}?"

    # A pinned node shows its strongest edges, and so do its neighbours.
    assert "pinned" in clean.run("document.getElementById('node-title').textContent")
    clean.click("#node .link")
    assert "Counted" in clean.run("document.getElementById('node').textContent")


@needs_browser
def test_the_page_can_be_used_by_keyboard(clean: Browser, graph: Graph, tmp_path: Path) -> None:
    graph.trace(TEXT, html=tmp_path / "t.html", what_if=["edge 花 月 = default"])
    clean.open(tmp_path / "t.html")
    at = "document.querySelector('.column.here').dataset.at"
    picked = "document.querySelector('.candidate.picked').dataset.k"
    last = int(clean.run(at))
    clean.press("ArrowLeft")
    clean.press("ArrowLeft")
    assert int(clean.run(at)) == last - 2
    clean.press("ArrowRight")
    assert int(clean.run(at)) == last - 1
    assert clean.run(picked) == "0"
    clean.press("ArrowDown")
    assert clean.run(picked) != "0"
    clean.press("Enter")
    assert "pinned" in clean.run("document.getElementById('node-title').textContent")
    clean.press("Escape")
    assert "pinned" not in clean.run("document.getElementById('node-title').textContent")
    clean.press("]")
    assert clean.run("document.getElementById('mass').value") == "25"
    clean.press("a")
    assert clean.run("document.querySelector('[data-arcs=account]').getAttribute('aria-pressed')") == "true"
    clean.press("w")
    assert clean.run("document.querySelector('[data-version=\"0\"]').getAttribute('aria-pressed')") == "true"
    assert "edge 花 月 = default" not in clean.run("document.getElementById('about').textContent")


@needs_browser
def test_both_schemes_are_legible(clean: Browser, graph: Graph, tmp_path: Path) -> None:
    graph.trace(TEXT, html=tmp_path / "t.html")
    contrasts = """(() => {
        const light = (text) => { const c = text.match(/[\\d.]+/g).slice(0, 3).map((v) => v / 255)
            .map((v) => v <= .03928 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4);
            return .2126 * c[0] + .7152 * c[1] + .0722 * c[2]; };
        const style = (s) => getComputedStyle(document.querySelector(s));
        const paper = light(style("section").backgroundColor);
        return ["h1", "section p", "section p b", "footer"].map((s) => light(style(s).color))
            .concat([".candidate.came text", ".candidate text", "svg .soft"].map((s) => light(style(s).fill)))
            .map((ink) => (Math.max(ink, paper) + .05) / (Math.min(ink, paper) + .05)); })()"""
    papers = []
    for scheme in ("light", "dark"):
        clean.scheme(scheme)
        clean.open(tmp_path / "t.html")
        assert min(clean.run(contrasts)) > 4.5  # WCAG 2, AA
        papers.append(clean.run("getComputedStyle(document.body).backgroundColor"))
        clean.requests.clear()
    clean.scheme("light")
    assert papers[0] != papers[1]
    clean.click("#scheme")


def test_a_long_text_says_what_it_shows(graph: Graph, tmp_path: Path) -> None:
    trace = graph.trace("春風花月" * 50, html=tmp_path / "t.html")
    data = page_data(graph, trace)
    assert len(trace.positions) == 201
    assert len(data["traces"][0]["positions"]) == POSITIONS
    assert f"The last {POSITIONS} of 201 positions" in data["about"]
    assert trace.page_bytes is not None
    assert trace.page_bytes < 2_000_000


def test_a_file_that_exists_is_kept(graph: Graph, tmp_path: Path) -> None:
    file = tmp_path / "t.html"
    file.write_text("mine")
    with pytest.raises(OptionError, match="exists: name another path, or replace it with `force=True`"):
        graph.trace("春", html=file)
    assert file.read_text() == "mine"
    graph.trace("春", html=file, force=True)
    assert file.read_text(encoding="utf-8").startswith("<!doctype html>")
    for place, says in ((tmp_path, "is a folder"), (tmp_path / "none" / "t.html", "no such folder")):
        with pytest.raises(OptionError, match=says):
            graph.trace("春", html=place)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["t.html"]


def test_a_notebook_shows_the_page(graph: Graph, tmp_path: Path) -> None:
    """In a frame, without access to the notebook; where the graph has changed or is closed, the fields as tables."""
    for found in (graph.trace("春風花"), graph.trace("春風花", what_if=["edge 春 風 = default"])):
        frame = found._repr_html_()
        assert re.match(r'<iframe title="Trace" sandbox="allow-scripts" style="[^"]*" srcdoc="[^"]*"></iframe>$', frame)
        page = unescape(re.findall(r'srcdoc="([^"]*)"', frame)[0])
        assert page == trace_page(graph, found)
        assert "page" not in repr(found)
        for copied in (copy.deepcopy(found), pickle.loads(pickle.dumps(found))):
            assert copied.positions[0].name == found.positions[0].name
            assert copied._repr_html_().startswith("<table>")
    with Graph.open(shutil.copytree(graph.path, tmp_path / "other.sifu")) as other:
        first, second = other.trace("春風花"), other.trace("春")
        other.boost_edge("春", "風", 1.0)
        assert first._repr_html_().startswith("<table>")
        other.undo()
        assert first._repr_html_().startswith("<iframe")
    assert second._repr_html_().startswith("<table>")
