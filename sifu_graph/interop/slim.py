"""What a slim file keeps of a graph: its held-out perplexity, beside that of the graph.

It imports the file as any user would; it does not know its layout.
"""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from sifu_graph.evaluation import evaluate_split
from sifu_graph.interop.safetensors import import_safetensors
from sifu_graph.progress import Stages

if TYPE_CHECKING:
    from sifu_graph.session import GraphSession

TOKENS = 20_000
"""Held-out tokens that the perplexities are computed over, at most."""


@dataclass(frozen=True, slots=True)
class SlimScores:
    """The perplexity of a graph, and of the slim file, on the same `tokens` held-out tokens."""

    tokens: int
    perplexity: float
    slim_perplexity: float


def slim_scores(graph: GraphSession, file: Path, stages: Stages) -> SlimScores:
    """Import a slim file of a graph into a temporary folder beside it, and compute both perplexities.

    Raises
    ------
    CorpusError
        The text of the graph is missing, or nothing of it was held out.
    DiskFullError
    """
    heldout, length = graph._tokens(stages=stages).heldout, graph.settings["build"]["length"]
    full = evaluate_split(graph.parameters, graph.signal, heldout, length, TOKENS, stages=stages)
    with tempfile.TemporaryDirectory(dir=file.parent, prefix=f"{file.name}.") as folder:
        copy = Path(folder) / "copy.sifu"
        stages.stage("reading the file again")
        import_safetensors(file, copy, progress=False)
        with type(graph).open(copy) as slim:
            found = evaluate_split(slim.parameters, slim.signal, heldout, length, TOKENS, stages=stages)
    return SlimScores(tokens=full.tokens, perplexity=full.perplexity, slim_perplexity=found.perplexity)
