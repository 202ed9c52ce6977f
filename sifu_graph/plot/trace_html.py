"""The page of a trace: what `templates/trace.js` draws, as data.

This module knows traces, counts and files; it does not know how energies are computed.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sifu_store.durable import disk_errors, write_durably
from sifu_store.layout import BIAS, WEIGHT

from sifu_graph.inspection.trace import PAGE_TOP, Position, Trace, TraceOptions, trace
from sifu_graph.output_file import require_file
from sifu_graph.plot.html_page import html_page
from sifu_graph.session import GraphSession, in_use
from sifu_graph.text.tokenizer import SEPARATOR

POSITIONS = 96
"""Largest number of positions on a page (the last ones of the trace), and of signals of a position (earlier ones are
summed)."""
NEIGHBOURS = 8  # strongest edges out of a node, and into it


def trace_to_page(
    graph: GraphSession, text: str | Sequence[str], options: TraceOptions, path: str | Path, *, force: bool = False
) -> Trace:
    """Trace a text and write the trace as a page. Without ``options.top``, the page has `PAGE_TOP` candidates.

    Raises
    ------
    OptionError
        As `trace`; or the page cannot be written to ``path``.
    """
    require_file(Path(path), force=force)
    found = trace(graph, text, dataclasses.replace(options, top=options.top or PAGE_TOP))
    return with_page(graph, dataclasses.replace(found, page_bytes=write_page(graph, found, Path(path))))


def with_page(graph: GraphSession, trace: Trace) -> Trace:
    """The trace, which a notebook then shows as its page."""
    return dataclasses.replace(trace, page=_Page(graph, trace))


class _Page:
    """Makes the page of a trace while its graph is open at the same snapshot; else None."""

    def __init__(self, graph: GraphSession, trace: Trace) -> None:
        self._graph, self._trace, self._snapshot = graph, trace, graph.store.snapshot

    def __call__(self) -> str | None:
        with in_use(self._graph):
            same = self._graph.store.snapshot == self._snapshot
            return trace_page(self._graph, self._trace) if same else None

    def __reduce__(self) -> tuple[type[None], tuple[()]]:
        """None in a copy or a pickle of the trace, for which an open graph is not copied."""
        return type(None), ()


def write_page(graph: GraphSession, trace: Trace, path: Path) -> int:
    """Write the page; returns its size in bytes."""
    page = trace_page(graph, trace).encode()
    with disk_errors(path, "writing the page", done="written"):
        write_durably(path, page)
    return len(page)


def trace_page(graph: GraphSession, trace: Trace, *, last_choice: bool = False) -> str:
    """The page as text. It opens at the last position, or where the last token of the text was chosen."""
    return html_page("trace", page_data(graph, trace, last_choice=last_choice), common=True)


def page_data(graph: GraphSession, trace: Trace, *, last_choice: bool = False) -> dict[str, Any]:
    """The data of the page, for `templates/trace.js`."""
    names = _Names()
    traces = [_trace(found, names) for found in ([trace] if trace.before is None else [trace.before, trace])]
    cards = _cards(graph, names, (trace.before or trace).nodes)
    shown = len(traces[-1]["positions"])
    how = "generation" if trace.like == "generate" else "evaluation"
    all_of_it = shown == trace.text_positions
    part = "Every position" if all_of_it else f"The last {shown} of {trace.text_positions:,} positions"
    lines = "how far each position moves the signal" if trace.base else "the signals in the mix of a position"
    about = (
        f"{part}, as {how} computes them, in {graph.path.name} ({graph.store.snapshot[:8]}). Lines are {lines}; "
        "below it are the candidates for the next token: red is the next token of the text, dashed are default edges. "
        "Click a candidate to explain its energy, with Shift (or after the button) to compare with it."
    )
    return {
        "about": about,
        "last_choice": last_choice,
        "between": " " if graph.tokenizer.level in ("tokens", "word") else "",
        "scale": _short(trace.scale),
        "encoded": graph.signal.positional != "none",
        "base": graph.signal.base,
        "traces": traces,
        "cards": cards,
        "names": names.listed,
    }


class _Names:
    """Numbers of names, so that the data has each name once."""

    def __init__(self) -> None:
        self.listed: list[str] = []
        self._numbers: dict[str, int] = {}

    def number(self, name: str) -> int:
        if name not in self._numbers:
            self._numbers[name] = len(self.listed)
            self.listed.append(name)
        return self._numbers[name]


def _trace(trace: Trace, names: _Names) -> dict[str, Any]:
    positions = trace.positions[-POSITIONS:]
    first = max(trace.first, positions[0].position - POSITIONS)
    return {
        "what_if": list(trace.what_if),
        "first": first,
        "tokens": [names.number(trace.names[node]) for node in trace.nodes[first : positions[-1].position + 1]],
        "positions": [_position(position, trace, names) for position in positions],
    }


def _position(position: Position, trace: Trace, names: _Names) -> dict[str, Any]:
    signals = len(position.weights)
    cut = max(0, signals - POSITIONS)  # the page has the sum of the signals before it

    def folded(values: np.ndarray) -> list[float]:
        return [_short(float(value)) for value in ([values[:cut].sum()] if cut else []) + list(values[cut:])]

    return {
        "position": position.position,
        "node": names.number(position.name),
        "begin": position.begin,
        "from": position.begin + cut - (cut > 0),
        "rest": cut > 0,
        "silent": position.position in trace.silent,
        "source": [names.number(name) for name in position.source],
        "edges": position.private_edges,
        "came": position.came_at,
        "rank": position.rank,
        "unknown": _short(position.unknown_p),
        "loss": None if position.loss is None else _short(position.loss),
        "contenders": position.contenders,
        "weights": folded(position.weights),
        "candidates": [
            {
                "name": names.number(candidate.name),
                "private": candidate.private,
                "count": candidate.count,
                "among": candidate.among,
                "energy": _short(candidate.energy, 9),
                "p": _short(candidate.p),
                "rank": candidate.rank,
            }
            for candidate in position.candidates
        ],
        "account": [
            {
                "signals": folded(position.account.signals[k].numpy()),
                "bias": _short(float(position.account.bias[k]), 9),
                "encoding": _short(float(position.account.encoding[k]), 9),
                "counts": _short(float(position.account.counts[k]), 9),
                "clones": [_short(value, 9) for value in position.account.clones[k].tolist()],
                "together": _short(float(position.account.together[k]), 9),
                "repetition": _short(float(position.account.repeated[k]), 9),
                "remainder": _short(float(position.account.remainder[k]), 3),
            }
            for k in range(len(position.candidates))
        ],
    }


def _short(value: float, digits: int = 6) -> float:
    return float(f"{value:.{digits}g}")


def _cards(graph: GraphSession, names: _Names, text: tuple[int, ...]) -> dict[int, Any]:
    """Counts and strongest edges of every node on the page; for nodes of the text norms of edges that have matrices."""
    parameters, store, vocabulary = graph.parameters, graph.store, graph.tokenizer.vocabulary
    index = parameters.index
    counts = store.read("nodes/count")
    found = {name: graph.tokenizer.token_id(name) for name in list(names.listed)}
    nodes = np.array(sorted(node for node in found.values() if node is not None))
    wanted = np.zeros(index.nodes, bool)
    wanted[nodes] = True
    places = np.flatnonzero(wanted[index.target])
    places = places[np.lexsort((-index.count[places], index.target[places]))]
    starts = np.searchsorted(index.target[places], np.arange(index.nodes + 1))
    met = {*text, SEPARATOR}
    cards = {}
    for node in nodes.tolist():
        row, into = index.row(node), places[starts[node] : starts[node + 1]]
        best = row.start + np.argsort(-index.count[row], kind="stable")[:NEIGHBOURS]
        out = [[names.number(vocabulary[index.target[at]]), int(index.count[at])] for at in best]
        if node in met and len(best) and parameters.base is None:
            norms = [
                torch.linalg.vector_norm(parameters.edges.get(array, index.slots(best)).flatten(1), dim=1).tolist()
                for array in (WEIGHT, BIAS)
            ]
            for entry, weight, bias in zip(out, *norms, strict=True):
                entry += [_short(weight, 4), _short(bias, 4)]
        sources = np.searchsorted(index.row_start, into[:NEIGHBOURS], side="right") - 1
        cards[names.number(vocabulary[node])] = {
            "count": int(counts[node]),
            "edges_out": row.stop - row.start,
            "edges_in": len(into),
            "norm": _short(float(parameters.node_bias[node].norm()), 4),
            "out": out,
            "in": [
                [names.number(vocabulary[u]), int(index.count[at])]
                for u, at in zip(sources, into[:NEIGHBOURS], strict=True)
            ],
        }
    return cards
