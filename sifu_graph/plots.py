"""Pictures of a graph's training. It knows metrics files and matplotlib (the extra ``plot``), nothing else.

matplotlib is imported only when something is drawn.
"""

from __future__ import annotations

import io
import json
import math
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from sifu_store.durable import write_durably
from sifu_store.errors import OptionError

FORMATS = (".png", ".svg", ".pdf")


def require_plotting(out: Path) -> None:
    """Whether a picture can be drawn to `out`: to be asked before the work that it is to show.

    Raises
    ------
    OptionError
        matplotlib is not installed, or nothing can be written there.
    """
    if find_spec("matplotlib") is None:
        raise OptionError("drawing needs matplotlib, which is not installed: pip install 'sifu-graph[plot]'")
    if out.suffix.lower() not in FORMATS:
        raise OptionError(f"{out}: the picture's name must end with one of {', '.join(FORMATS)}")
    if not out.absolute().parent.is_dir():
        raise OptionError(f"{out.absolute().parent}: no such folder for the picture")


def plot_training(graph: str | Path, out: str | Path) -> None:
    """Draws the loss of all training runs of a graph, on training and on held-out text, over the steps.

    Parameters
    ----------
    graph
        The folder of the graph; its metrics file is read.
    out
        The picture: ``.png``, ``.svg`` or ``.pdf``.

    Raises
    ------
    OptionError
        See `require_plotting`; or no step was ever recorded.
    """
    from sifu_graph.training import METRICS

    out = Path(out)
    require_plotting(out)
    steps = read_metrics(Path(graph) / METRICS)
    if not steps:
        raise OptionError(f"{graph}: no training was recorded there: sifu train")
    write_durably(out.absolute(), _drawn(steps, out.suffix.lower().removeprefix(".")))


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The steps in a metrics file, in order. A line that was cut off by a crash is left out."""
    steps = []
    if path.exists():
        for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
            try:
                step = json.loads(line)
                if math.isfinite(step["step"]) and math.isfinite(step["loss"]):
                    steps.append(step)
            except (ValueError, KeyError, TypeError):
                continue
    return steps


def _drawn(steps: list[dict[str, Any]], kind: str) -> bytes:
    import numpy as np
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 4.5), dpi=150, layout="constrained")  # no pyplot: no window, no global state
    axes = figure.subplots()
    axes.plot([s["step"] for s in steps], [s["loss"] for s in steps], linewidth=1.2, label="training (smoothed)")
    heldout = [s for s in steps if s.get("heldout_perplexity")]
    if heldout:
        axes.plot(
            [s["step"] for s in heldout],
            [math.log(s["heldout_perplexity"]) for s in heldout],
            marker="o",
            markersize=4,
            linewidth=1.2,
            label="held-out",
        )
    axes.set_xlabel("step")
    axes.set_ylabel("loss (nats a token)")
    axes.secondary_yaxis("right", functions=(np.exp, lambda p: np.log(np.maximum(p, 1e-9)))).set_ylabel("perplexity")
    axes.grid(alpha=0.3)
    axes.legend(frameon=False)
    buffer = io.BytesIO()
    figure.savefig(buffer, format=kind)
    return buffer.getvalue()
