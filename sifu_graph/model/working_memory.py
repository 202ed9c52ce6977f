"""Memory of computations beside the tables of a graph and the pages of its edges: upper bounds in bytes.

The figures are counted from the arrays that are made, and held against measured processes (`tests/graph/
test_process_memory.py`).
"""

from __future__ import annotations

from sifu_graph.arrays import BLOCK as BLOCK_OF_COUNTS
from sifu_graph.model.base_forward import WINDOW
from sifu_graph.model.parameters import Parameters
from sifu_graph.ops.pair_model import BLOCK, KEPT, PairModel
from sifu_graph.paging.page_source import SHORT_RUN

FLOAT_BYTES = 4
SMALL_BYTES = 8 << 20
"""Whatever is not counted: names, sampled probabilities, messages."""


def working_bytes(parameters: Parameters, *, trained: int = 0, evaluated: int = 0, text_row: float = 0.0) -> int:
    """Bytes that decoding takes; with positions of a batch, those of training or evaluation.

    Parameters
    ----------
    parameters
        The graph.
    trained, evaluated
        Positions of a batch in training and in evaluation.
    text_row
        Private edges of a token's row, on average over the text.
    """
    if parameters.base is not None:
        return _of_base(parameters, parameters.base.pairs, trained=trained, evaluated=evaluated)
    index = parameters.index
    return edge_working_bytes(
        nodes=index.nodes,
        rows=index.largest_rows(max(trained, evaluated)),
        width=parameters.width,
        pages=parameters.edges.pages,
        page_bytes=parameters.edges.page_bytes({}),
        trained=trained,
        evaluated=evaluated,
        text_row=text_row,
    )


def edge_working_bytes(
    *, nodes: int, rows: int, width: int, pages: int, page_bytes: int, trained: int, evaluated: int, text_row: float
) -> int:
    """`working_bytes` of a graph whose edges stand alone; ``page_bytes``: without an optimizer's state;
    ``rows``: edges of the rows of a batch."""
    total = SMALL_BYTES + 3 * min(pages, SHORT_RUN) * page_bytes  # pages that are read: encoded, decoded, written
    positions = max(trained, evaluated)
    if positions:
        batch = 16 * FLOAT_BYTES * width * positions + (40 if trained else 24) * rows  # signals; the plan of the rows
        counting = 200 * min(BLOCK_OF_COUNTS, nodes**2) if trained else 0  # the closed form, before the first batch
        total += max(batch, counting)
    if evaluated and not trained:  # the energies of the whole batch
        total += int(1.5 * FLOAT_BYTES * text_row * evaluated)
    return total


def _of_base(parameters: Parameters, pairs: PairModel, *, trained: int, evaluated: int) -> int:
    real, table, width = parameters.r_0.element_size(), len(pairs.target), parameters.width
    loading = 12 * table  # counts of eight bytes, and what is encoded
    total = SMALL_BYTES + 40 * pairs.tree.sources + 8 * min(KEPT + pairs.nodes, pairs.nodes**2)
    if trained or evaluated:
        total += (2 * real + 8) * table + 72 * min(BLOCK, table)  # the ratios, and p while they are computed
        total += 16 * real * width * max(trained, WINDOW)
    if trained:
        total += 6 * real * sum(value.numel() for value in parameters.small.values())
    return max(loading, total)
