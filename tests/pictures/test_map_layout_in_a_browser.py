"""The page of a map on a desktop, a tablet and a phone: nothing covers it, no names cross, a finger is enough."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from itertools import combinations
from pathlib import Path

import needs
import pytest
from browser import Browser, chromium
from map_page import look_at, place, settle
from page_layout import SIZES, faint, inaccessible, outside

from sifu_graph import Graph, build_graph
from sifu_graph.plot.draw_map import draw_map

pytestmark = pytest.mark.skipif(chromium() is None, reason=needs.BROWSER)
LANGUAGES = ("zh", "en")
ENDS = ("", "ally", "ation", "ing", "mental", "ness")
STEMS = ("government", "international", "MWMW", "understand", "of", "consider", "a", "responsib", "illil", "the")
LABELS = "sifuMap.renderer.labels.map(({ name, left, right, top, bottom }) => [name, left, right, top, bottom])"
BOX = """(() => {{ const box = document.querySelector("{}").getBoundingClientRect();
    return [box.left, box.right, box.top, box.bottom]; }})()"""
SPREAD = """(() => {
    const map = sifuMap.renderer, { width, height } = map.getDimensions();
    const at = sifuMap.graph.mapNodes(i => map.framedGraphToViewport(map.getNodeDisplayData(i)));
    const xs = at.map(p => p.x), ys = at.map(p => p.y), longer = Math.abs(width - height);
    return [Math.min(...xs), width - Math.max(...xs), Math.min(...ys), height - Math.max(...ys), longer];
})()"""
SHOWN = """({
    hidden: sifuMap.graph.filterEdges(k => sifuMap.renderer.getEdgeDisplayData(k).hidden),
    names: sifuMap.renderer.labels.map(({ name, size }) => [name, size]),
})"""


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder, rng = tmp_path_factory.mktemp("maps"), random.Random(0)
    words = {"en": [stem + end for stem in STEMS for end in ENDS], "zh": [chr(0x4E00 + 7 * k) for k in range(200)]}
    for language, names in words.items():
        # Each word is followed by one of few, so that there are communities.
        lines = [[names[(at + rng.randrange(6)) % len(names)] for at in range(k, k + 9)] for k in range(600)]
        text = folder / f"{language}.jsonl"
        text.write_text("\n".join(json.dumps(line, ensure_ascii=False) for line in lines) + "\n", encoding="utf-8")
        build_graph(text, folder / f"{language}.sifu", level="tokens", vocab=250, length=8, holdout=0, clones=0)
        with Graph.open(folder / f"{language}.sifu") as graph:
            draw_map(graph, folder / f"{language}.html")
    return {language: folder / f"{language}.html" for language in LANGUAGES}


@pytest.fixture(scope="module", params=SIZES, ids=lambda size: str(size[0]))
def browser(request: pytest.FixtureRequest) -> Iterator[Browser]:
    with Browser(width=request.param[0], height=request.param[1], webgl=True) as found:
        yield found


@pytest.fixture
def touched(browser: Browser) -> Iterator[Browser]:
    browser.touch_screen(there=True)
    yield browser
    browser.touch_screen(there=False)


def crossing(labels: list[tuple[str, float, float, float, float]]) -> list[tuple[str, str]]:
    return [
        (one[0], other[0])
        for one, other in combinations(labels, 2)
        if one[1] < other[2] and other[1] < one[2] and one[3] < other[4] and other[3] < one[4]
    ]


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("language", LANGUAGES)
def test_nothing_sticks_out_and_everything_can_be_read(
    browser: Browser, pages: dict[str, Path], language: str, scheme: str
) -> None:
    browser.scheme(scheme)
    browser.open(pages[language])
    for node in (None, 0):
        browser.run(f"sifuMap.pin({json.dumps(node)}, true)")
        assert outside(browser) == []
        assert faint(browser) == []
        assert inaccessible(browser) == []
    header = "(({ offsetWidth, offsetHeight }) => offsetWidth * offsetHeight)(document.querySelector('header'))"
    assert browser.run(f"{header} / (innerWidth * innerHeight)") < 0.2


@pytest.mark.parametrize("language", LANGUAGES)
def test_panels_cover_no_node_and_the_map_fills_its_place(
    browser: Browser, pages: dict[str, Path], language: str
) -> None:
    browser.open(pages[language])
    for node in (None, 0):
        browser.run(f"sifuMap.pin({json.dumps(node)}, false)")
        settle(browser)
        left, right, top, bottom, longer = browser.run(SPREAD)
        assert min(left, right, top, bottom) >= 0
        assert max(left + right, top + bottom) <= longer + 130  # the padding, and one side is longer than the other
        map_box = browser.run(BOX.format("#map"))
        for panel in ("header", "#side"):
            assert crossing([("map", *map_box), (panel, *browser.run(BOX.format(panel)))]) == []


@pytest.mark.parametrize("language", LANGUAGES)
def test_the_communities_are_listed_on_every_screen(browser: Browser, pages: dict[str, Path], language: str) -> None:
    browser.open(pages[language])
    seen = browser.run(
        """[...document.querySelectorAll("#groups button")].map((button) => {
            button.scrollIntoView({ block: "nearest" });
            const box = button.getBoundingClientRect();
            return button.contains(document.elementFromPoint(box.left + box.width / 2, box.top + box.height / 2));
        })"""
    )
    assert len(seen) > 3
    assert all(seen)
    cut = "[...document.querySelectorAll('#groups .names')].filter(one => one.scrollWidth > one.clientWidth).length"
    assert browser.run(cut) == 0


@pytest.mark.parametrize("language", LANGUAGES)
def test_no_two_names_cross(browser: Browser, pages: dict[str, Path], language: str) -> None:
    browser.open(pages[language])
    width, height = browser.run("Object.values(sifuMap.renderer.getDimensions())")
    for script in ("0", "sifuMap.pin(3, true)", "document.getElementById('into').click()"):
        browser.run(f"void {script}")
        settle(browser)
        labels = browser.run(LABELS)
        assert len(labels) > 3
        assert crossing(labels) == []
        assert min(min(left, top) for _, left, _, top, _ in labels) >= 0
        assert max(max(right - width, bottom - height) for _, _, right, _, bottom in labels) <= 0
    name = browser.run("document.getElementById('name').textContent")
    assert name in [label[0] for label in labels]
    widths = browser.run(
        """sifuMap.renderer.labels.map(({ name, size, left, right }) => {
            const span = document.createElement("span");
            span.style.cssText = `position: absolute; white-space: pre; font-size: ${size}px`;
            span.style.fontWeight = size > 13 ? 600 : 400;
            span.textContent = name;
            document.body.append(span);
            const wide = span.getBoundingClientRect().width;
            span.remove();
            return right - left - wide;
        })"""
    )
    assert all(0 <= beyond < 4 for beyond in widths)  # a box holds its name


@pytest.mark.parametrize("language", LANGUAGES)
def test_a_finger_does_what_the_mouse_does(touched: Browser, pages: dict[str, Path], language: str) -> None:
    touched.open(pages[language])
    for node in (0, 5):
        middle = look_at(touched, node, ratio=0.1)
        touched.run(f"sifuMap.renderer.emit('enterNode', {{node: '{node}'}})")
        settle(touched)
        hovered = touched.run(SHOWN)
        assert hovered["hidden"]
        touched.run(f"sifuMap.renderer.emit('leaveNode', {{node: '{node}'}})")
        touched.tap_at(*middle)
        settle(touched)
        assert touched.run("document.getElementById('name').textContent") == touched.run(
            f"sifuMap.graph.getNodeAttribute({node}, 'label')"
        )
        tapped = touched.run(SHOWN)
        assert tapped["hidden"] == hovered["hidden"]
        assert tapped["names"] == hovered["names"]
        touched.run("sifuMap.pin(null, false)")
        settle(touched)


def test_a_finger_need_not_be_exact(touched: Browser, pages: dict[str, Path]) -> None:
    touched.open(pages["zh"])
    lowest = touched.run(
        "sifuMap.graph.nodes().reduce((best, i) => sifuMap.renderer.getNodeDisplayData(i).y <"
        " sifuMap.renderer.getNodeDisplayData(best).y ? i : best)"
    )
    x, y = place(touched, int(lowest))
    touched.click_at(x, y + 14)
    settle(touched)
    assert touched.run("document.getElementById('card').hidden")
    touched.tap_at(x, y + 14)
    settle(touched)
    assert not touched.run("document.getElementById('card').hidden")
    touched.tap_at(x, y + 40)
    settle(touched)
    assert touched.run("document.getElementById('card').hidden")


def test_buttons_zoom_and_show_all(browser: Browser, pages: dict[str, Path]) -> None:
    browser.open(pages["en"])
    ratios = [1.0]
    for button in ("#into", "#out-of", "#out-of", "#all"):
        browser.click(button)
        settle(browser)
        ratios.append(browser.run("sifuMap.renderer.getCamera().ratio"))
    assert ratios == pytest.approx([1, 1 / 1.4, 1, 1.4, 1])


def test_without_motion_the_map_jumps(browser: Browser, pages: dict[str, Path]) -> None:
    state = "sifuMap.renderer.getCamera().ratio"
    browser.open(pages["en"])
    moved = f"(() => {{ document.getElementById('into').click(); return {state}; }})()"
    browser.reduced_motion(wanted=True)
    assert browser.run(moved) == pytest.approx(1 / 1.4)
    browser.reduced_motion(wanted=False)
    before = browser.run(state)
    assert browser.run(moved) == before
    settle(browser)
    assert browser.run(state) == pytest.approx(before / 1.4)


def test_a_phone_on_its_side_shows_a_node_below_the_search(pages: dict[str, Path]) -> None:
    with Browser(width=844, height=390, webgl=True) as low:
        low.open(pages["en"])
        low.run("sifuMap.pin(0, false)")
        assert outside(low) == []
        _, _, top, bottom = low.run(BOX.format("#side"))
        assert bottom - top > 0.6 * 390
