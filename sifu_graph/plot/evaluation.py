"""The picture of an evaluation: perplexity by position. It knows reports and matplotlib (the extra ``plot``)."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from sifu_graph.evaluation import EvalReport
from sifu_graph.plot.figures import draw, require_plotting

FEWEST = 20  # tokens at a position; positions with fewer are not drawn


def plot_positions(reports: Mapping[str, EvalReport], out: str | Path) -> None:
    """Draw the perplexity at each position of a text, one line for each report.

    Parameters
    ----------
    reports
        Reports by their name in the legend. Baselines of the first report are horizontal lines.
    out
        The picture: ``.png``, ``.svg`` or ``.pdf``.

    Raises
    ------
    OptionError
        As `sifu_graph.plot.figures.require_plotting`.
    """
    out = Path(out)
    require_plotting(out)
    draw(out, partial(_positions, reports))


def _positions(reports: Mapping[str, EvalReport], figure: Any) -> dict[str, Any]:
    axes = figure.subplots()
    for name, report in reports.items():
        shown = [(i + 1, part.perplexity) for i, part in enumerate(report.positions) if part.tokens >= FEWEST]
        axes.plot([at for at, _ in shown], [value for _, value in shown], marker=".", linewidth=1.2, label=name)
    for baseline in next(iter(reports.values())).baselines:
        axes.axhline(baseline.perplexity, linewidth=0.8, linestyle="--", color=figure.scheme.soft)
        at = (1.0, baseline.perplexity)
        axes.annotate(baseline.name, at, xycoords=("axes fraction", "data"), fontsize=7, ha="right", va="bottom")
    axes.set_yscale("log")
    axes.set_xlabel("position in the text (tokens)")
    axes.set_ylabel("perplexity")
    axes.grid(alpha=0.3, which="both")
    axes.legend(frameon=False)
    return {}
