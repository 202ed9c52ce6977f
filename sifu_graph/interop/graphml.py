"""GraphML: a graph as XML for other programs.

The module knows counts and energies; it does not know parameters.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING
from xml.sax.saxutils import escape

import numpy as np
from sifu_store.layout import CLONE_GAIN

from sifu_graph.arrays import ranges
from sifu_graph.inspection.energies import default_energies_at_first_step, energies_at_first_step
from sifu_graph.output_file import UNSEEN
from sifu_graph.progress import SILENT, Stages
from sifu_graph.text.node_lookup import source_name

if TYPE_CHECKING:
    from sifu_graph.session import GraphSession


BLOCK = 4096
"""Clones whose edges are computed at a time."""
_REFERENCES = re.compile(f"[\r{UNSEEN}]")
"""Characters that are written as references; XML allows a carriage return, but a parser changes it."""
NOT_XML = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def export_graphml(graph: GraphSession, path: Path, *, clones: int = 0, stages: Stages = SILENT) -> None:
    """Write GraphML (graphml.graphdrawing.org): nodes with token and count, edges with count and energy.

    The energies are those at the first step. The ``clones`` that gain most are nodes of their own, which have a parent;
    their edges are those that they have counted, with energies where the signal is 0. A forbidden pair that is no
    private edge is an edge with ``forbidden`` alone.

    The file is written as a stream. Characters that XML does not allow are written as ``<0x1F>``.
    """
    index, counts = graph.parameters.index, graph.store.read("nodes/count")
    energy, default = energies_at_first_step(graph, stages), default_energies_at_first_step(graph, stages)
    stages.stage("writing nodes and edges")
    keys = [
        ("token", "node", "string"),
        ("count", "node", "long"),
        ("default_energy", "node", "double"),
        ("count", "edge", "long"),
        ("energy", "edge", "double"),
        ("parent", "node", "string"),
        ("forbidden", "edge", "boolean"),
    ]
    with path.open("w", encoding="utf-8", newline="\n") as file:
        file.write('<?xml version="1.0" encoding="UTF-8"?>\n<graphml xmlns="http://graphml.graphdrawing.org/xmlns">\n')
        for i, (name, owner, kind) in enumerate(keys):
            file.write(f'<key id="d{i}" for="{owner}" attr.name="{name}" attr.type="{kind}"/>\n')
        file.write('<graph edgedefault="directed">\n')
        for node, name in enumerate(graph.tokenizer.vocabulary):
            file.write(
                f'<node id="{node}"><data key="d0">{_escaped(name)}</data><data key="d1">{counts[node]}</data>'
                f'<data key="d2">{default[node]:.9g}</data></node>\n'
            )
        for node in range(index.nodes):
            row = index.row(node)
            file.writelines(
                f'<edge source="{node}" target="{target}"><data key="d3">{count}</data>'
                f'<data key="d4">{value:.9g}</data></edge>\n'
                for target, count, value in zip(index.target[row], index.count[row], energy[row], strict=True)
            )
        for pair in index.forbidden.tolist():
            u, v = divmod(pair, index.nodes)
            file.write(f'<edge source="{u}" target="{v}"><data key="d6">true</data></edge>\n')
        if clones:
            file.writelines(_clones(graph, clones))
        file.write("</graph>\n</graphml>\n")


def _clones(graph: GraphSession, most: int) -> Iterator[str]:
    """The elements of the clones that gain most, and of their edges."""
    base = graph.parameters.base
    if base is None or not len(base.pairs.tree):
        return
    pairs, tree, at_rest = base.pairs, base.pairs.tree, base.at_rest
    chosen = tree.nodes + np.flatnonzero(tree.best(graph.store.read(CLONE_GAIN), most))
    for clone in chosen.tolist():
        name = _escaped(source_name(graph.tokenizer, tree, clone))
        yield (
            f'<node id="{clone}"><data key="d0">{name}</data><data key="d1">{pairs.total[clone]}</data>'
            f'<data key="d5">{tree.parents[clone]}</data></node>\n'
        )
    for begin in range(0, len(chosen), BLOCK):
        source = chosen[begin : begin + BLOCK]
        size = np.diff(pairs.first)[source]
        pair = ranges(pairs.first[source], size)
        columns = np.repeat(source, size), pairs.target[pair], pairs.count[pair], at_rest.of_pairs(pair)
        for u, v, times, value in zip(*(column.tolist() for column in columns), strict=True):
            if times:
                yield (
                    f'<edge source="{u}" target="{v}"><data key="d3">{times}</data>'
                    f'<data key="d4">{value:.9g}</data></edge>\n'
                )


def _escaped(name: str) -> str:
    allowed = NOT_XML.sub(lambda found: f"<0x{ord(found.group()):02X}>", name)
    return _REFERENCES.sub(lambda found: f"&#{ord(found.group())};", escape(allowed))
