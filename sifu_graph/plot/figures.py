"""Pictures of a graph and of its training, each of one kind. It knows graphs, metrics files and matplotlib (``plot``).

matplotlib is imported only to draw. `FIGURES` has a function for each kind of picture, which fills the axes and returns
the figures for the report.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from sifu_store.durable import write_durably
from sifu_store.errors import OptionError
from sifu_store.layout import PAGE_EDGES
from sifu_store.store import Store

from sifu_graph.output_file import require_file
from sifu_graph.paging.traffic import Traffic, read_traffic
from sifu_graph.plot.scheme import DARK, LIGHT, paint
from sifu_graph.training.metrics import curve, read_metrics

if TYPE_CHECKING:
    from sifu_graph.plot.picture import Picture
    from sifu_graph.session import GraphSession

FORMATS = (".png", ".svg", ".pdf")
LEVELS = (("heldout_before", "soft", "before training"), ("heldout_closed_form", "second", "after the closed form"))
"""Held-out perplexities that the first step of a graph notes, with their colours."""
SAMPLED_EDGES = 300_000
"""Private edges whose energies are plotted, at most: whole rows, of nodes drawn at random."""

Figures = dict[str, Any]
Drawing = Callable[["GraphSession", Any], Figures]


def require_plotting(out: Path | None, *, force: bool = True) -> None:
    """Check that a picture can be drawn, and written to `out`, before the work that it shows.

    Raises
    ------
    OptionError
        matplotlib is not installed, the format is unknown, or as `sifu_graph.output_file.require_file`.
    """
    if find_spec("matplotlib") is None:
        raise OptionError("drawing needs matplotlib, which is not installed: pip install 'sifu-graph[plot]'")
    if out is None:
        return
    if out.suffix.lower() not in FORMATS:
        raise OptionError(f"{out}: the picture's name must end with one of {', '.join(FORMATS)}")
    require_file(out, force=force)


def plot(
    graph: GraphSession, kind: str, out: str | Path | None = None, *, dark: bool = False, force: bool = False
) -> Picture:
    """Draw one picture of a graph.

    Parameters
    ----------
    kind
        ``loss``: of all training runs, on training and on held-out text. ``rows``: private edges of every node.
        ``counts``: how often pairs occurred, and the count below which edges are default. ``energy``: of private
        edges, against their counts. ``alpha``: the mixing logits over the position. ``pages``: which are stored, and
        how often the corpus uses each.
    out
        Where the picture is written: ``.png``, ``.svg`` or ``.pdf``. None: nowhere.
    dark
        On a dark background.

    Returns
    -------
    Picture
        A figure of matplotlib; ``figures`` has the numbers in it by name.

    Raises
    ------
    OptionError
        As `require_plotting`; or the kind is unknown, or the graph has no data to draw.
    """
    if kind not in FIGURES:
        raise OptionError(f"no plot {kind!r}; there are {', '.join(FIGURES)}")
    out = None if out is None else Path(out)
    if graph.signal.base and kind in OF_EDGES:
        raise OptionError(f"{graph.path}: no plot {kind!r}: {OF_EDGES[kind]}")
    require_plotting(out, force=force)
    return draw(out, lambda figure: FIGURES[kind](graph, figure), wide=kind in WIDE, dark=dark)


def plot_training(graph: str | Path, out: str | Path) -> None:
    """Draw the loss of all training runs of a graph, on training and on held-out text, over the steps.

    Parameters
    ----------
    graph
        The folder of the graph; its metrics file is read.
    out
        The picture: ``.png``, ``.svg`` or ``.pdf``.

    Raises
    ------
    OptionError
        As `require_plotting`; or no training step is recorded.
    """
    out = Path(out)
    require_plotting(out)
    with Store.open(graph) as store:
        draw(out, lambda figure: _loss_of(store, figure))


def draw(out: Path | None, fill: Callable[[Any], Figures], *, wide: bool = False, dark: bool = False) -> Picture:
    """A new picture, filled by a function of it, and written to a file unless that is None."""
    from sifu_graph.plot.picture import Picture

    picture = Picture(DARK if dark else LIGHT, figsize=(12 if wide else 8, 4.6))
    picture.figures = fill(picture)
    for axes in picture.axes:
        axes.spines["top"].set_visible(False)
        for axis in (axes.xaxis, axes.yaxis):
            if axis.get_scale() in ("log", "symlog"):
                plain_numbers(axis)
    paint(picture, picture.scheme)
    if out is not None:
        write_durably(out.absolute(), picture.content(out.suffix.lower().removeprefix(".")))
    return picture


def plain_numbers(axis: Any) -> None:
    """Writes the numbers of a logarithmic axis in full (``60``, ``2,000``) and not as ``6 x 10^1``.

    Powers of ten have a label, and between them 2 and 5 where the axis has less than two powers.
    """
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.12g}"))
    if axis.get_scale() == "symlog":
        return
    low, high = sorted(axis.get_view_interval())
    decades = math.log10(max(high, 1e-300) / max(low, 1e-300))
    between = (1.0, 1.5, 2.0, 3.0, 5.0, 7.0) if decades < 1 else (1.0, 2.0, 5.0) if decades < 3 else (1.0,)
    axis.set_major_locator(LogLocator(base=10, subs=between, numticks=12))
    axis.set_minor_formatter(NullFormatter())


def _legend_above(axes: Any, **options: Any) -> None:
    """A legend above the axes, where it covers no curve."""
    axes.legend(frameon=False, loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=3, fontsize=9, **options)


# ---- the kinds


def _loss(graph: GraphSession, figure: Any) -> Figures:
    return _loss_of(graph.store, figure)


def _loss_of(store: Store, figure: Any) -> Figures:
    from sifu_graph.training.metrics import METRICS

    commits = {commit.snapshot for commit in store.history()}
    steps = curve(read_metrics(store.path / METRICS), store.branch, commits)
    if not steps:
        raise OptionError(
            f"{store.path}: no training of the branch {store.branch} was recorded; expected at least a step: `train()`"
        )
    colours = figure.scheme
    axes = figure.subplots()
    few = "." if len(steps) == 1 else None  # one point is no line
    axes.plot(
        [s["step"] for s in steps],
        [s["loss"] for s in steps],
        color=colours.private,
        linewidth=1.2,
        marker=few,
        label="training (smoothed)",
    )
    heldout = [s for s in steps if s.get("heldout_perplexity")]
    if heldout:
        axes.plot(
            [s["step"] for s in heldout],
            [math.log(s["heldout_perplexity"]) for s in heldout],
            color=colours.default,
            marker="o",
            markersize=4,
            linewidth=1.2,
            label="held-out",
        )
    for key, meaning, name in LEVELS:
        found = next((step[key] for step in steps if key in step), None)
        if found is not None:
            label = f"held-out, {name}: perplexity {found:,.1f}"
            axes.axhline(math.log(found), color=getattr(colours, meaning), linestyle="--", linewidth=1.2, label=label)
    axes.set_xlabel("step")
    axes.set_ylabel("loss (nats a token)")
    axes.secondary_yaxis("right", functions=(np.exp, lambda p: np.log(np.maximum(p, 1e-9)))).set_ylabel("perplexity")
    axes.grid(alpha=0.3)
    axes.legend(frameon=False)
    return {
        "steps": steps[-1]["step"],
        "loss": steps[-1]["loss"],
        "heldout_perplexity": heldout[-1]["heldout_perplexity"] if heldout else None,
    }


def _rows(graph: GraphSession, figure: Any) -> Figures:
    index = graph._at_rest.index
    out, into = index.row_sizes(), np.bincount(index.target, minlength=index.nodes)
    order = np.argsort(-graph.store.read("nodes/count"), kind="stable")
    rank = np.arange(1, index.nodes + 1)
    colours = figure.scheme
    axes, right = figure.subplots(1, 2)
    dot = min(14.0, max(3.0, 12_000 / index.nodes))
    axes.scatter(rank, into[order], s=dot, color=colours.second, alpha=0.5, linewidths=0, label="into the node")
    axes.scatter(rank, out[order], s=dot, color=colours.private, alpha=0.5, linewidths=0, label="out of it: its row")
    axes.axhline(index.nodes, color=colours.soft, linestyle=":", linewidth=1)
    axes.annotate(
        "all nodes: a dense row", (1, index.nodes), (0, 3), textcoords="offset points", color=colours.soft, fontsize=8
    )
    axes.set_xscale("log")
    axes.set_yscale("symlog", linthresh=1)
    axes.set_ylim(0, index.nodes * 2.0)
    axes.set_xlabel("rank of the node by frequency")
    axes.set_ylabel("private edges")
    axes.legend(frameon=False, markerscale=2)
    axes.grid(alpha=0.3)
    empty = int((out == 0).sum())
    right.hist(out[out > 0], bins=np.geomspace(1, index.nodes + 1, 40), color=colours.private, alpha=0.85)
    right.set_xscale("log")
    median, mean = float(np.median(out)), float(out.mean())
    for value, name in ((median, "median"), (mean, "mean")):
        right.axvline(
            max(value, 1),
            color=colours.default,
            linestyle="-" if name == "median" else "--",
            linewidth=1.2,
            label=f"{name} {value:,.0f}",
        )
    right.set_xlabel(f"private edges in a row ({empty:,} empty rows not shown)")
    right.set_ylabel("rows")
    right.legend(frameon=False)
    right.grid(alpha=0.3)
    return {
        "rows": index.nodes,
        "empty_rows": empty,
        "median": median,
        "mean": mean,
        "largest": int(out.max(initial=0)),
    }


def _counts(graph: GraphSession, figure: Any) -> Figures:
    index, store = graph._at_rest.index, graph.store
    count = np.sort(index.count)[::-1].astype(np.int64)
    edges, occur = len(count), max(int(store.read("rows/distinct").sum()), len(count))
    total = max(int(store.read("rows/total").sum()), int(count.sum()), 1)
    if not edges:
        raise OptionError(f"{graph.path} has no private edges; expected at least one, whose count is drawn")
    colours = figure.scheme
    axes = figure.subplots()
    rank = np.unique(np.geomspace(1, edges, 2000).astype(np.int64))
    axes.plot(rank, np.maximum(count[rank - 1], 0.5), color=colours.private, linewidth=1.8, label="count of the pair")
    cut = int(count[-1])
    axes.axvline(
        edges,
        color=colours.default,
        linewidth=1.4,
        label=f"the cut: {edges:,} private edges; the rarest occurred {cut:,} time{'s' if cut != 1 else ''}",
    )
    if occur > edges:
        rest = (total - int(count.sum())) / (occur - edges)
        others = f"{occur - edges:,} more pairs occurred, {rest:.2f} times on average: over the default edge"
        axes.plot([edges, occur], [rest, rest], color=colours.default, linewidth=1.8, linestyle=":", label=others)
    axes.axvspan(edges, index.nodes**2, color=colours.default, alpha=0.08, linewidth=0)
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlim(1, index.nodes**2)
    axes.set_xlabel(f"pairs of nodes, the most frequent first (to the right end: all {index.nodes**2:,})")
    axes.set_ylabel("occurrences in the text of the build")
    covered = axes.twinx()
    covered.plot(
        rank,
        100 * np.cumsum(count)[rank - 1] / total,
        color=colours.soft,
        linewidth=1.4,
        linestyle="--",
        label="share of all occurrences, from the left",
    )
    covered.set_ylabel("% of all occurrences")
    covered.set_ylim(0, 102)
    axes.grid(alpha=0.3)
    figure.legend(frameon=False, loc="outside lower center", fontsize=9)
    return {
        "private_edges": edges,
        "pairs_that_occur": occur,
        "pairs": index.nodes**2,
        "private_share": edges / index.nodes**2,
        "rarest_private": cut,
        "coverage": int(count.sum()) / total,
    }


def _energy(graph: GraphSession, figure: Any) -> Figures:
    sizes = graph._at_rest.index.row_sizes()
    order = np.random.default_rng(0).permutation(np.flatnonzero(sizes))
    order = order[: max(1, int(np.searchsorted(np.cumsum(sizes[order]), SAMPLED_EDGES, side="right")))]
    rows = list(graph._at_rest.rows(order))
    if not rows:
        raise OptionError(f"{graph.path} has no private edges; expected at least one, whose energy is drawn")
    count = np.concatenate([row.count for row in rows])
    energy = np.concatenate([row.energy for row in rows])
    default = np.array([row.default_energy for row in rows])
    seen = count > 0
    colours = figure.scheme
    axes = figure.subplots()
    shown = axes.hexbin(
        count[seen],
        energy[seen],
        xscale="log",
        bins="log",
        gridsize=70,
        cmap=colours.colour_map("Blues"),
        mincnt=1,
        linewidths=0.1,
    )
    figure.colorbar(shown, ax=axes, label="edges", pad=0.01)
    levels = np.unique(count[seen])
    edges = np.unique(np.geomspace(1, max(2, levels[-1]) + 1, 24).astype(np.int64))
    middle = [
        (float(np.sqrt(a * (b - 1))), float(np.median(energy[(count >= a) & (count < b)])))
        for a, b in itertools.pairwise(edges)
        if ((count >= a) & (count < b)).any()
    ]
    axes.plot(*zip(*middle, strict=True), color=colours.second, linewidth=1.6, label="median")
    axes.axhline(float(np.median(default)), color=colours.default, linewidth=1.4, label="default edge (median)")
    axes.set_xlabel("occurrences of the pair")
    axes.set_ylabel("energy at rest (S = 0)")
    which = "all" if len(order) == (sizes > 0).sum() else f"the rows of {len(order):,} nodes drawn at random"
    axes.set_title(f"{len(energy):,} private edges: {which}", fontsize=9, color=colours.soft, loc="left")
    axes.legend(frameon=False, loc="upper left")
    spread = np.log(count[seen]).std() > 0 and energy[seen].std() > 0
    return {
        "edges": len(energy),
        "correlation": float(np.corrcoef(np.log(count[seen]), energy[seen])[0, 1]) if spread else None,
        "default_energy": float(np.median(default)),
        "below_default": float((energy < np.repeat(default, [len(row.energy) for row in rows])).mean()),
    }


def _alpha(graph: GraphSession, figure: Any) -> Figures:
    alpha = graph._at_rest.small("signal/alpha").astype(np.float64)
    position = np.arange(1, len(alpha) + 1)
    start = graph.signal.recency * np.arange(len(alpha))  # a softmax does not see the constant
    shift = float((alpha - start).mean())
    colours = figure.scheme
    axes, change, right = figure.subplots(1, 3)
    axes.plot(position, start + shift, color=colours.soft, linestyle="--", linewidth=1.2, label="where it began")
    axes.plot(
        position, alpha, color=colours.private, linewidth=1.6, marker="." if len(alpha) < 60 else None, label="alpha"
    )
    axes.set_ylabel("mixing logit")
    _legend_above(axes)
    change.bar(position, alpha - start - shift, color=colours.private)
    change.axhline(0, color=colours.soft, linewidth=0.8)
    change.set_ylabel("what training added")
    if graph.settings["training"] is None:
        change.set_title("never trained", fontsize=9, color=colours.soft)
    for length in sorted({max(1, len(alpha) // 4), max(1, len(alpha) // 2), len(alpha)}):
        weights = np.exp(alpha[:length] - np.logaddexp.reduce(alpha[:length]))
        right.plot(
            position[:length], weights, marker="." if len(alpha) < 60 else None, linewidth=1.3, label=f"{length}"
        )
    right.set_ylabel("weight in the mix: softmax of alpha")
    right.set_ylim(bottom=0)
    _legend_above(right, title="signals in it:")
    for panel in (axes, change, right):
        panel.set_xlabel("position k")
        panel.grid(alpha=0.3)
    moved = float(np.abs(alpha - start - shift).max())
    weights = np.exp(alpha - np.logaddexp.reduce(alpha))
    return {"positions": len(alpha), "moved": moved, "last_weight": float(weights[-1])}


def _draw_traffic(figure: Any, panels: Sequence[Any], traffic: Traffic, grid: Callable[[Any], Any]) -> None:
    """Two maps: how often the last training read each page, and how often it wrote it."""
    from matplotlib.ticker import MaxNLocator

    pages, there = len(traffic.reads), int(traffic.resident.sum())
    read = f"last training: times brought into memory; {there:,} of {pages:,} pages\nwere there at its end"
    written = "last training: times written, by a commit or to make room"
    for axes, (values, colour_map, title) in zip(
        panels, ((traffic.reads, "YlGnBu", read), (traffic.writes, "PuRd", written)), strict=True
    ):
        heat = axes.imshow(
            grid(values.astype(float)),
            cmap=figure.scheme.colour_map(colour_map),
            vmin=0,
            vmax=max(1, int(values.max())),
            aspect="auto",
            interpolation="nearest",
        )
        axes.set_title(title, fontsize=10)
        bar = figure.colorbar(heat, ax=axes, pad=0.01)
        bar.ax.yaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))


def _pages(graph: GraphSession, figure: Any) -> Figures:
    from matplotlib.colors import ListedColormap, LogNorm

    index = graph._at_rest.index
    stored = graph.store.page_stored()
    if not len(stored):
        raise OptionError(f"{graph.path} has no private edges, so it has no pages; expected at least one page")
    use = np.bincount(index.slots() // PAGE_EDGES, weights=index.count, minlength=len(stored))
    across = max(1, math.ceil(math.sqrt(len(stored) * 1.3)))
    down = math.ceil(len(stored) / across)

    def grid(values: Any) -> Any:
        filled = np.full(across * down, np.nan)
        filled[: len(stored)] = values
        return filled.reshape(down, across)

    traffic = read_traffic(graph.path, pages=len(stored))
    panels = figure.subplots(2, 2).ravel() if traffic is not None else figure.subplots(1, 2)
    left, right = panels[:2]
    colours = figure.scheme
    heat = left.imshow(
        grid(np.maximum(use, 0.5)),
        cmap=colours.colour_map("YlOrRd"),
        norm=LogNorm(max(0.5, use.min()), max(use.max(), 1)),
        aspect="auto",
        interpolation="nearest",
    )
    left.set_title("occurrences of the page's edges in the text of the build", fontsize=10)
    figure.colorbar(heat, ax=left, pad=0.01)
    right.imshow(
        grid(stored.astype(float)),
        cmap=ListedColormap([colours.absent, colours.private]),
        vmin=0,
        vmax=1,
        aspect="auto",
        interpolation="nearest",
    )
    right.set_title(
        f"{int(stored.sum()):,} of {len(stored):,} pages trained and stored (blue);\nthe others are "
        "computed when they are read",
        fontsize=10,
    )
    if traffic is not None:
        figure.set_size_inches(12, 8.4)
        _draw_traffic(figure, panels[2:], traffic, grid)
    else:
        figure.supxlabel(
            "The next training records reads, writes and residency of pages.", fontsize=8, color=colours.soft
        )
    for axes in panels:
        axes.set_xlabel(f"page, row by row ({across} across; {PAGE_EDGES} edges a page)")
        axes.set_yticks([])
        axes.set_xticks([])
    return {
        "pages": len(stored),
        "stored_pages": int(stored.sum()),
        "busiest_tenth": float(np.sort(use)[::-1][: max(1, len(use) // 10)].sum() / max(1.0, use.sum())),
        "page_reads": None if traffic is None else int(traffic.reads.sum()),
        "page_writes": None if traffic is None else int(traffic.writes.sum()),
    }


FIGURES: dict[str, Drawing] = {
    "loss": _loss,
    "rows": _rows,
    "counts": _counts,
    "energy": _energy,
    "alpha": _alpha,
    "pages": _pages,
}
WIDE = {"rows", "alpha", "pages"}
OF_EDGES = {
    "alpha": "a graph whose edges share a base has no mixing logits (`trace()` shows how far each position moved it)",
    "pages": "a graph whose edges share a base stores no pages of edges",
}
"""Why there is no such picture of a graph whose edges share a base."""
