"""The map page in a real browser: search, clicks, schemes; no error, no request, nothing that a name contains runs."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import needs
import pytest
from browser import Browser, chromium
from map_page import look_at

from sifu_graph import Graph
from sifu_graph.plot.draw_map import draw_map
from sifu_graph.plot.graph_map import GraphMap, printed

pytestmark = pytest.mark.skipif(chromium() is None, reason=needs.BROWSER)


@pytest.fixture(scope="module")
def drawn(built: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, GraphMap]:
    path = tmp_path_factory.mktemp("map") / "map.html"
    with Graph.open(built) as graph:
        return path, draw_map(graph, path)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with Browser(width=1200, height=800, webgl=True) as browser:
        yield browser


@pytest.fixture
def page(browser: Browser, drawn: tuple[Path, GraphMap]) -> Iterator[Browser]:
    browser.errors.clear()
    browser.requests.clear()
    browser.open(drawn[0])
    assert browser.run("document.documentElement.dataset.ready") == "true"
    yield browser
    # Drawing without a graphics card is slow, and the browser says so.
    assert [error for error in browser.errors if "GPU stall" not in error] == []
    assert [request.partition("?")[0] for request in browser.requests] == [drawn[0].resolve().as_uri()]
    assert browser.run("window.harm") is None


def text(page: Browser, selector: str) -> str:
    return page.run(f"document.querySelector({json.dumps(selector)}).innerText")


def find(page: Browser, name: str) -> None:
    page.run(
        f"""(() => {{
            const field = document.getElementById("search");
            field.value = {json.dumps(name)};
            field.form.requestSubmit();
        }})()"""
    )


def test_it_opens_with_everything_on_it(page: Browser, drawn: tuple[Path, GraphMap]) -> None:
    assert page.run("sifuMap.graph.order") == len(drawn[1].name)
    assert page.run("sifuMap.graph.size") == len(drawn[1].source)
    assert page.run("document.querySelectorAll('#groups button').length") == drawn[1].communities
    assert page.run("document.getElementById('card').hidden")
    drawn_pixels = """(() => {
        const gl = document.querySelector("canvas.sigma-nodes").getContext("webgl2", {preserveDrawingBuffer: true});
        return gl !== null;
    })()"""
    assert page.run(drawn_pixels)


def test_search_shows_a_node_and_its_strongest_edges(page: Browser, drawn: tuple[Path, GraphMap]) -> None:
    found = drawn[1]
    for at, name in enumerate(found.name):
        find(page, printed(name))
        assert text(page, "#name") == printed(name)
        out = [found.target[k] for k in range(len(found.source)) if found.source[k] == at][:12]
        shown = page.run("[...document.querySelectorAll('#out button')].map(b => b.textContent)")
        assert shown == [printed(found.name[v]) for v in out]
    find(page, "no such node")
    assert "No node of this map" in text(page, "#message")


def test_a_click_on_a_node_and_on_a_neighbour_and_escape(page: Browser, drawn: tuple[Path, GraphMap]) -> None:
    page.click_at(*look_at(page, drawn[1].name.index("春"), ratio=0.5))
    page.run("new Promise(done => setTimeout(done, 100))")
    assert text(page, "#name") == "春"
    first = text(page, "#out button")
    page.click("#out button")
    assert text(page, "#name") == first
    page.press("Escape")
    assert page.run("document.getElementById('card').hidden")


HIDDEN = "sifuMap.graph.filterEdges(k => sifuMap.renderer.getEdgeDisplayData(k).hidden)"


def test_hovering_shows_only_the_edges_of_a_node(page: Browser) -> None:
    assert page.run(HIDDEN) == []
    page.run("sifuMap.renderer.emit('enterNode', {node: '2'})")
    assert len(page.run(HIDDEN)) == page.run("sifuMap.graph.size - sifuMap.graph.degree('2')") > 0
    page.run("sifuMap.renderer.emit('leaveNode', {node: '2'})")
    assert page.run(HIDDEN) == []


def test_a_community_can_be_chosen(page: Browser) -> None:
    page.click("#groups button")
    assert page.run("document.querySelector('#groups button').getAttribute('aria-pressed')") == "true"
    page.click("#all")
    assert page.run("document.querySelector('#groups button').getAttribute('aria-pressed')") == "false"


def test_keys_move_the_map(page: Browser) -> None:
    page.run("document.getElementById('map').focus()")
    for key, moves in (("ArrowLeft", "x"), ("ArrowDown", "y"), ("+", "ratio")):
        before = page.run(f"sifuMap.renderer.getCamera().{moves}")
        page.press(key)
        page.run("new Promise(done => setTimeout(done, 600))")
        assert page.run(f"sifuMap.renderer.getCamera().{moves}") < before
    page.press("/")
    assert page.run("document.activeElement.id") == "search"
    assert page.run("document.activeElement.value") == ""


def test_without_a_graphics_card_the_picture_is_moved_and_then_drawn(page: Browser) -> None:
    """Where the moved picture shows a node, the one that is drawn when it rests shows it too."""
    found = page.run(
        """(async () => {
            const map = sifuMap.renderer, node = map.getNodeDisplayData("3");
            const { width, height } = map.getDimensions(), canvas = map.getCanvases().edges;
            map.slow = true;
            const out = [];
            for (const to of [{ x: 0.6, y: 0.45 }, { x: 0.52, y: 0.5, ratio: 0.6 }]) {
                const at = map.framedGraphToViewport(node);
                const drawn = new Promise((done) => map.once("afterRender", done));
                map.getCamera().setState(to);
                const moved = new DOMMatrix(canvas.style.transform)
                    .transformPoint(new DOMPoint(at.x - width / 2, at.y - height / 2));
                await drawn;
                const now = map.framedGraphToViewport(node);
                const off = [moved.x + width / 2 - now.x, moved.y + height / 2 - now.y];
                out.push([...off, now.x - at.x, canvas.style.transform]);
            }
            return out;
        })()"""
    )
    for across, down, way, transform in found:
        assert abs(across) < 0.5 > abs(down)
        assert abs(way) > 20
        assert transform == ""


def test_a_node_stays_under_the_mouse_that_drags_it(page: Browser) -> None:
    where = """(() => {
        const map = sifuMap.renderer, at = map.getNodeDisplayData("3");
        return map.framedGraphToViewport(at, { cameraState: map.getCamera().getState() });
    })()"""
    page.run("sifuMap.renderer.slow = true")
    before = page.run(where)
    page.mouse("mouseMoved", 500, 400)
    page.mouse("mousePressed", 500, 400)
    for step in range(1, 7):
        page.mouse("mouseMoved", 500 + 20 * step, 400 + 10 * step)
    after = page.run(where)
    page.mouse("mouseReleased", 620, 460)
    assert abs(after["x"] - before["x"] - 120) < 1
    assert abs(after["y"] - before["y"] - 60) < 1


def test_light_and_dark(page: Browser) -> None:
    colour = "getComputedStyle(document.body).backgroundColor"
    light = page.run(colour)
    page.scheme("dark")
    dark = page.run(colour)
    assert dark != light
    page.click("#scheme")
    assert page.run(colour) == light
    page.click("#scheme")
    page.scheme("light")
    assert page.run(colour) == dark
