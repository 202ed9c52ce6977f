"""Where things are on the page of a map that a browser shows."""

from __future__ import annotations

from browser import Browser


def settle(page: Browser) -> None:
    """Waits until what has been asked for is drawn, without a graphics card too."""
    page.run("new Promise(done => setTimeout(done, 700))")


def place(page: Browser, node: int) -> tuple[float, float]:
    """Where a node is in the window, in pixels."""
    found = page.run(
        f"(() => {{ const map = sifuMap.renderer, at = map.framedGraphToViewport(map.getNodeDisplayData({node}));"
        "const box = document.getElementById('map').getBoundingClientRect();"
        "return [box.left + at.x, box.top + at.y]; })()"
    )
    return found[0], found[1]


def look_at(page: Browser, node: int, *, ratio: float) -> tuple[float, float]:
    """Moves the map to a node and zooms (a small ratio shows a small part); returns the node's place."""
    page.run(
        f"(() => {{ const at = sifuMap.renderer.getNodeDisplayData({node});"
        f"sifuMap.renderer.getCamera().setState({{x: at.x, y: at.y, ratio: {ratio}}}); sifuMap.renderer.render(); }})()"
    )
    return place(page, node)
