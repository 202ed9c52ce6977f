"""A map as one page of HTML that needs no network: the data, sigma.js and graphology, and the script that uses them.

The page is put together from `templates/map.html`, `.css`, `.js` and the libraries in `templates/vendor`. Nothing
that comes from a token can run: names are in the JSON only, in which ``<``, ``>`` and ``&`` are escaped, the script
sets them as text, and the page's own policy allows the scripts whose hashes it names and no request at all.

This module knows maps and files; not how a map is made.
"""

from __future__ import annotations

import base64
import hashlib
import json
from importlib import resources
from string import Template
from typing import Any

import numpy as np

from sifu_graph.plot.graph_map import COLOURS, MEASURES, GraphMap, printed

NAMED = 12
"""Nodes that stand for a community in the list of communities."""


def map_page(found: GraphMap) -> str:
    """The page."""
    folder = resources.files("sifu_graph") / "templates"
    html, style, script = ((folder / f"map.{kind}").read_text(encoding="utf-8") for kind in ("html", "css", "js"))
    libraries = [
        _without_map((folder / "vendor" / name).read_text(encoding="utf-8"))
        for name in ("graphology.umd.min.js", "sigma.min.js")
    ]
    scripts = " ".join(f"'{_hash(text)}'" for text in (*libraries, script))
    policy = (
        f"default-src 'none'; script-src {scripts}; style-src '{_hash(style)}'; img-src data:; base-uri 'none'; "
        "form-action 'none'"
    )
    data = json.dumps(page_data(found), separators=(",", ":"), ensure_ascii=False)
    for character in "<>&\u2028\u2029":
        data = data.replace(character, f"\\u{ord(character):04x}")
    return Template(html).substitute(
        POLICY=policy, STYLE=style, DATA=data, GRAPHOLOGY=libraries[0], SIGMA=libraries[1], SCRIPT=script
    )


def page_data(found: GraphMap) -> dict[str, Any]:
    """What the script draws."""
    names = [printed(name) for name in found.name]
    return {
        "by": found.by,
        "meaning": MEASURES[found.by],
        "graph": {"nodes": found.graph_nodes, "edges": found.graph_edges, "snapshot": found.snapshot},
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


def _without_map(script: str) -> str:
    """A script without the name of its source map, which no browser should look for."""
    return "\n".join(line for line in script.splitlines() if not line.startswith("//# sourceMappingURL="))


def _hash(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
