"""GraphML: a graph as XML for other programs.

The module knows counts and energies; it does not know parameters.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING
from xml.sax.saxutils import escape

from sifu_graph.inspection.energies import energies_at_first_step

if TYPE_CHECKING:
    from sifu_graph.session import GraphSession


NOT_XML = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def export_graphml(graph: GraphSession, path: Path) -> None:
    """Write GraphML (graphml.graphdrawing.org): nodes with token and count, edges with count and energy.

    The energies are those at the first step.

    The file is written as a stream. Characters that XML does not allow are written as ``<0x1F>``.
    """
    index, counts = graph.parameters.index, graph.store.read("nodes/count")
    energy, default = energies_at_first_step(graph)
    keys = [
        ("token", "node", "string"),
        ("count", "node", "long"),
        ("default_energy", "node", "double"),
        ("count", "edge", "long"),
        ("energy", "edge", "double"),
    ]
    with path.open("w", encoding="utf-8", newline="\n") as file:
        file.write('<?xml version="1.0" encoding="UTF-8"?>\n<graphml xmlns="http://graphml.graphdrawing.org/xmlns">\n')
        for i, (name, owner, kind) in enumerate(keys):
            file.write(f'<key id="d{i}" for="{owner}" attr.name="{name}" attr.type="{kind}"/>\n')
        file.write('<graph edgedefault="directed">\n')
        for node, name in enumerate(graph.tokenizer.vocabulary):
            text = escape(NOT_XML.sub(lambda found: f"<0x{ord(found.group()):02X}>", name), {"\r": "&#13;"})
            file.write(
                f'<node id="{node}"><data key="d0">{text}</data><data key="d1">{counts[node]}</data>'
                f'<data key="d2">{default[node]:.9g}</data></node>\n'
            )
        for node in range(index.nodes):
            row = index.row(node)
            file.writelines(
                f'<edge source="{node}" target="{target}"><data key="d3">{count}</data>'
                f'<data key="d4">{value:.9g}</data></edge>\n'
                for target, count, value in zip(index.target[row], index.count[row], energy[row], strict=True)
            )
        file.write("</graph>\n</graphml>\n")
