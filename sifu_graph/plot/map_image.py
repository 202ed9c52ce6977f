"""A map as a picture: points, lines, and names without overlap.

It knows maps and matplotlib (the extra ``plot``), not how a map is made.
"""

from __future__ import annotations

import io
import textwrap
import unicodedata

import numpy as np

from sifu_graph.arrays import Bools, Doubles, Floats
from sifu_graph.plot.graph_map import COLOURS, OTHER, GraphMap, printed

INCHES, DPI = 14.0, 130
PAPER, INK, SOFT, LINE = "#faf8f3", "#211f1a", "#6d675b", "#c9c2b2"
NAMED = 14  # nodes that stand for a community in the legend
LETTERS = 100
"""Characters of a line below the map."""
SHOWN_COMMUNITIES = 12


def map_picture(found: GraphMap, kind: str) -> tuple[bytes, list[str]]:
    """The picture as ``png``, ``svg`` or ``pdf``, and the names that no installed font has.

    The picture has points instead of those names.
    """
    from matplotlib.collections import LineCollection
    from matplotlib.figure import Figure

    from sifu_graph.plot.fonts import families_for

    names = [printed(name) for name in found.name]
    families, missing = families_for({character for name in names for character in name})
    unwritten = [name for name, shown in zip(found.name, names, strict=True) if missing & set(shown)]
    figure = Figure(figsize=(INCHES, INCHES + 1.6), dpi=DPI, facecolor=PAPER)
    axes = figure.add_axes((0.02, 0.12, 0.96, 0.86))
    axes.set_axis_off()
    axes.set_aspect("equal")
    place = _filling(found.place)
    axes.set_xlim(-1.02, 1.02)
    axes.set_ylim(-1.02, 1.02)
    colours = [COLOURS[group] if group < len(COLOURS) else OTHER for group in found.community]
    same = found.community[found.source] == found.community[found.target]
    strong = _share(found.strength)
    for inside in (False, True):
        drawn = np.flatnonzero(same == inside)[::-1]  # the strongest last, on top
        axes.add_collection(
            LineCollection(
                list(np.stack([place[found.source[drawn]], place[found.target[drawn]]], 1)),
                colors=[colours[at] for at in found.source[drawn]] if inside else LINE,
                linewidths=0.25 + 1.6 * strong[drawn],
                alpha=0.33 if inside else 0.28,
            )
        )
    often = np.sqrt(found.occurrences / max(1, int(found.occurrences.max())))
    size = 8 + 17 * often  # of a name, in points
    placed = _with_room(place, size, [0.0 if missing & set(name) else _cells(name) for name in names])
    points = ~placed
    x, y = place[points].T
    axes.scatter(x, y, s=3 + 60 * often[points], c=np.array(colours)[points], linewidths=0, zorder=3)
    for at in np.flatnonzero(placed):
        axes.text(
            float(place[at, 0]),
            float(place[at, 1]),
            names[at],
            fontsize=size[at],
            color=colours[at],
            ha="center",
            va="center",
            family=families,
            zorder=4,
            parse_math=False,
        )
    _legend(figure, found, names, families, missing)
    buffer = io.BytesIO()
    figure.savefig(buffer, format=kind, facecolor=PAPER)
    return buffer.getvalue(), unwritten


def _filling(place: Floats) -> Floats:
    """The places, moved and scaled (the same in both directions) to fill the square from -1 to 1."""
    low, high = place.min(0), place.max(0)
    filling: Floats = (place - (low + high) / 2) * (2 / max(float((high - low).max()), 1e-6))
    return filling


def _share(strength: Doubles) -> Doubles:
    """Square root of the strength, scaled to 0 to 1."""
    low = min(0.0, float(strength.min()))
    out: Doubles = np.sqrt((strength - low) / max(float(strength.max()) - low, 1e-30))
    return out


def _cells(name: str) -> float:
    """Width of a name in font sizes."""
    return sum(1.0 if unicodedata.east_asian_width(character) in "WF" else 0.62 for character in name)


def _with_room(place: Floats, size: Doubles, cells: list[float]) -> Bools:
    """Which names do not overlap an earlier one; 0 cells: never written."""
    unit = 2.04 / (INCHES * 0.96 * 72)  # of the map, a point
    width, height = np.array(cells) * size * unit, size * unit * 0.95
    placed: Bools = np.zeros(len(place), bool)
    for at in range(len(place)):
        others = np.flatnonzero(placed)
        apart_x = np.abs(place[others, 0] - place[at, 0]) >= (width[others] + width[at]) / 2
        apart_y = np.abs(place[others, 1] - place[at, 1]) >= (height[others] + height[at]) / 2
        placed[at] = cells[at] > 0 and bool((apart_x | apart_y).all())
    return placed


def _legend(figure: object, found: GraphMap, names: list[str], families: list[str], missing: set[str]) -> None:
    from matplotlib.figure import Figure

    assert isinstance(figure, Figure)
    axes = figure.add_axes((0.03, 0.01, 0.94, 0.1))
    axes.set_axis_off()
    axes.set_xlim(0, 3)
    axes.set_ylim(0, 5)
    axes.text(
        0,
        4.3,
        textwrap.fill(f"{found.summary()}; colours: communities", LETTERS),
        fontsize=12,
        color=INK,
        va="bottom",
    )
    shown = min(found.communities, SHOWN_COMMUNITIES)
    for group in range(shown):
        members = [names[at] for at in np.flatnonzero(found.community == group) if not missing & set(names[at])]
        text, taken = "", 0
        while taken < len(members) and _cells(text + members[taken]) < 17:
            text += ("  " if text else "") + members[taken]
            taken += 1
        x, y = group // 4, 3.4 - group % 4
        axes.plot(x + 0.02, y, marker="o", markersize=8, color=COLOURS[group] if group < len(COLOURS) else OTHER)
        axes.text(x + 0.06, y, text, fontsize=13, color=INK, va="center", family=families, parse_math=False)
