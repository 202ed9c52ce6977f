"""A graph as the released BriLLM code loads it: a state dict and two JSON files.

``model.bin``, ``vocab.json``, ``word_frequency.json``, and at level ``bpe`` ``tokenizer.json``; their content is
described in `brillm_import`. All are written as streams.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from sifu_store.durable import require_free_bytes
from sifu_store.errors import OptionError
from sifu_store.layout import BIAS, WEIGHT

from sifu_graph.arrays import Floats
from sifu_graph.config import preset
from sifu_graph.interop.torch_checkpoint import Streamed, write_state
from sifu_graph.progress import SILENT, Stages
from sifu_graph.text.imported import library_file

if TYPE_CHECKING:
    from sifu_graph.session import GraphSession

POSITIONS = 512  # mixing logits of the released code, which generates no further
ARROW = "->"  # the released code joins the two tokens of an edge with it


def check_brillm(graph: GraphSession) -> None:
    """Checks that the released code can load the graph and computes the same.

    Raises
    ------
    OptionError
        The preset is not `brillm05`, a token contains ``->``, or a pair is forbidden.
    """
    if graph.signal != preset("brillm05"):
        name = graph.settings["build"]["signal_preset"] or "own"
        raise OptionError(
            f"the signal of this graph is {name!r}, the released code computes brillm05 and would decode other texts: "
            'build one with `build_graph(signal="brillm05")`'
        )
    arrows = [name for name in graph.tokenizer.raw if ARROW in name]
    if arrows:
        raise OptionError(
            f"the token {arrows[0]!r} contains {ARROW!r}, which separates tokens in the released code: rename it"
        )
    forbidden = graph.parameters.index.forbidden
    if len(forbidden):
        names = graph.tokenizer.vocabulary
        u, v = divmod(int(forbidden[0]), len(names))
        raise OptionError(
            f"{len(forbidden):,} forbidden pairs, such as {names[u]} -> {names[v]}, are default edges in the released "
            "code, which would choose them: allow them first"
        )


def write_brillm(graph: GraphSession, folder: Path, *, stages: Stages = SILENT) -> list[str]:
    """Writes the files into an existing folder. Returns notes about them for the user.

    Raises
    ------
    OptionError
        As `check_brillm`.
    DiskFullError
        Too little disk space is free.
    """
    check_brillm(graph)
    parameters, index = graph.parameters, graph.parameters.index
    d, notes = parameters.width, []
    rows = index.edges + 1
    total = rows * (d * d + d) * 4
    require_free_bytes(folder, total + index.nodes**2 * 14, f"exporting to {folder.name}")
    alpha = parameters.alpha.numpy()
    if len(alpha) > POSITIONS:
        notes.append(f"the released code has {POSITIONS} positions: the other {len(alpha) - POSITIONS} are left out")
    # the last learned logit is that of all later positions
    positions = np.concatenate([alpha, np.repeat(alpha[-1:], max(0, POSITIONS - len(alpha)))])[:POSITIONS]
    stage = stages.stage("writing edges", total, "bytes")

    def counted(first: Floats, name: str) -> Iterator[Floats]:
        yield first
        for block in graph._edge_reader().blocks(name, graph.parameters.index):
            yield block
            stage.advance(block.nbytes)

    write_state(
        folder / "model.bin",
        {
            "positions": Streamed((1, POSITIONS, 1), [positions]),
            "weights": Streamed((rows, d, d), counted(parameters.default_W.numpy(), WEIGHT)),
            "biases": Streamed((rows, 1, d), counted(parameters.default_b.numpy(), BIAS)),
            "node_bias": Streamed((index.nodes, 1, d), [parameters.node_bias.numpy()]),
        },
    )
    stages.stage("writing word frequencies")
    names = graph.tokenizer.raw
    (folder / "vocab.json").write_text(
        json.dumps({name: node for node, name in enumerate(names)}, ensure_ascii=False, indent=1), encoding="utf-8"
    )
    uncounted = int((index.count == 0).sum())
    if uncounted and index.edges < index.nodes**2:
        notes.append(
            f"{uncounted:,} private edges were never counted and are written with a count of 1: 0 means default"
        )
    _write_frequency(graph, folder / "word_frequency.json", names)
    library = library_file(graph.tokenizer)
    if library is not None:
        (folder / "tokenizer.json").write_text(json.dumps(library, ensure_ascii=False), encoding="utf-8")
    return notes


def _write_frequency(graph: GraphSession, path: Path, names: list[str]) -> None:
    """Source -> {target: count}, every pair of them, the most frequent first."""
    index, n = graph.parameters.index, len(names)
    quoted = [json.dumps(name, ensure_ascii=False) for name in names]
    with path.open("w", encoding="utf-8", newline="\n") as file:
        file.write("{")
        for node in range(n):
            count = np.zeros(n, np.int64)
            row = index.row(node)
            count[index.target[row]] = np.maximum(index.count[row], 1)
            order = np.argsort(-count, kind="stable")
            inner = ", ".join(f"{quoted[v]}: {c}" for v, c in zip(order.tolist(), count[order].tolist(), strict=True))
            file.write(f"{',' if node else ''}\n{quoted[node]}: {{{inner}}}")
        file.write("\n}\n")
