"""The page of a trace on a desktop, a tablet and a phone: nothing sticks out, no name meets a number."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import needs
import pytest
from browser import Browser, chromium
from page_layout import SIZES, faint, inaccessible, outside

from sifu_graph import Graph, build_graph

pytestmark = pytest.mark.skipif(chromium() is None, reason=needs.BROWSER)
CROSSING = """[...document.querySelectorAll(".candidate")].filter((one) => {
    const [name, number] = [...one.querySelectorAll("text")].map((text) => text.getBoundingClientRect());
    const box = one.querySelector(".box").getBoundingClientRect();
    return name.right > number.left || name.left < box.left || number.right > box.right;
}).map((one) => one.textContent)"""
TEXTS = {"zh": "春風花月夜江水山雲", "en": "the mountainous government considered international understanding"}


@pytest.fixture(scope="module")
def pages(trained: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("layout")
    words = TEXTS["en"].split()
    lines = [words[at % 6 :] + words[: at % 4] + ["of", "WWWMMM"] for at in range(60)]
    (folder / "t.jsonl").write_text("\n".join(map(json.dumps, lines)) + "\n", encoding="utf-8")
    build_graph(folder / "t.jsonl", folder / "en.sifu", level="tokens", vocab=30, length=8, holdout=0, clones=5)
    with Graph.open(folder / "en.sifu") as graph:
        graph.trace(words, html=folder / "en.html")
    with Graph.open(trained) as graph:
        graph.trace(TEXTS["zh"], html=folder / "zh.html", what_if=["edge 花 月 = default"])
    return {language: folder / f"{language}.html" for language in TEXTS}


@pytest.fixture(scope="module", params=SIZES, ids=lambda size: str(size[0]))
def browser(request: pytest.FixtureRequest) -> Iterator[Browser]:
    with Browser(width=request.param[0], height=request.param[1]) as found:
        yield found


@pytest.mark.parametrize("language", TEXTS)
def test_everything_stays_in_its_place(browser: Browser, pages: dict[str, Path], language: str) -> None:
    browser.open(pages[language])
    for at in range(3):
        browser.click(f'.column[data-at="{at}"] .disc')
        assert outside(browser) == []
        assert browser.run(CROSSING) == []
    assert browser.run("document.querySelector('header').offsetHeight / innerHeight") < 0.4


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("language", TEXTS)
def test_texts_can_be_read_and_controls_have_names(
    browser: Browser, pages: dict[str, Path], language: str, scheme: str
) -> None:
    browser.scheme(scheme)
    browser.open(pages[language])
    assert faint(browser) == []
    assert inaccessible(browser) == []


@pytest.mark.parametrize("language", TEXTS)
def test_a_comparison_needs_no_key(browser: Browser, pages: dict[str, Path], language: str) -> None:
    browser.open(pages[language])
    browser.run("const m = document.getElementById('mass'); m.value = 100; m.dispatchEvent(new Event('input'))")
    browser.click("#compare")
    assert browser.run("document.getElementById('compare').getAttribute('aria-pressed')") == "true"
    browser.click('.candidate[data-at="1"][data-k="2"]')
    assert browser.run("document.querySelector('.candidate.versus').dataset.k") == "2"
    assert browser.run("document.querySelector('.candidate.picked').dataset.k") == "0"
    assert browser.run("document.getElementById('compare').getAttribute('aria-pressed')") == "false"


def test_it_opens_at_the_position_that_the_terminal_explains(browser: Browser, pages: dict[str, Path]) -> None:
    browser.open(pages["zh"])
    assert browser.run("document.querySelector('.column.here').dataset.at") == str(len(TEXTS["zh"]))
