"""The page of a map: what `templates/map.js` draws with sigma.js and graphology, as data.

This module knows maps; it does not know how they are made.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from sifu_graph.plot.graph_map import COLOURS, MEASURES, GraphMap, printed
from sifu_graph.plot.html_page import html_page

LIBRARIES = {"GRAPHOLOGY": "graphology.umd.min.js", "SIGMA": "sigma.min.js"}
"""File in `templates/vendor` by its placeholder in `templates/map.html`; graphology first, because sigma uses it."""

NAMED = 12
"""Names of nodes that the list of communities shows for each."""


def map_page(found: GraphMap) -> str:
    """The page as text."""
    return html_page("map", page_data(found), libraries=LIBRARIES)


def page_data(found: GraphMap) -> dict[str, Any]:
    """The data of the page, for `templates/map.js`."""
    names = [printed(name) for name in found.name]
    return {
        "by": found.by,
        "meaning": MEASURES[found.by],
        "summary": found.summary(),
        "clones": found.clones,
        "snapshot": found.snapshot,
        "colours": list(COLOURS),
        "nodes": {
            "name": names,
            "count": found.occurrences.tolist(),
            "x": _rounded(found.place[:, 0], 4),
            "y": _rounded(found.place[:, 1], 4),
            "group": found.community.tolist(),
        },
        "edges": {
            "source": found.source.tolist(),
            "target": found.target.tolist(),
            "count": found.count.tolist(),
            "energy": _rounded(found.energy, 2),
            "p": _rounded(found.probability, 5),
            "strength": [float(f"{value:.4g}") for value in found.strength],
        },
        "groups": [
            {"size": len(members), "names": [names[node] for node in members[:NAMED]]}
            for members in (np.flatnonzero(found.community == group) for group in range(found.communities))
        ],
    }


def _rounded(values: np.ndarray, digits: int) -> list[float]:
    return [round(value, digits) for value in values.tolist()]
