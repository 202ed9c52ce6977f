"""The plots: their figures against the plain count of what they show, and every kind drawn."""

from __future__ import annotations

import inspect
import json
import re
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.colors import to_rgb
from matplotlib.text import Text
from sifu_cli.commands.inspection import plot as plot_command
from sifu_store.errors import OptionError
from small import write_text

from sifu_graph import Graph, build_graph
from sifu_graph.paging.traffic import TRAFFIC, read_traffic
from sifu_graph.plot.figures import FIGURES, plot
from sifu_graph.training.metrics import curve


@pytest.fixture
def opened(trained: Path):  # type: ignore[no-untyped-def]
    with Graph.open(trained) as graph:
        yield graph


@pytest.mark.parametrize("kind", FIGURES)
@pytest.mark.parametrize("suffix", [".png", ".svg"])
def test_every_kind_can_be_drawn(opened: Graph, tmp_path: Path, kind: str, suffix: str) -> None:
    out = tmp_path / f"picture{suffix}"
    assert opened.plot(kind, out).figures
    assert out.read_bytes().startswith(b"\x89PNG" if suffix == ".png" else b"<?xml")


def contrast(first: Any, second: Any) -> float:
    """The ratio of the luminances of two colours, 1 to 21 (WCAG)."""

    def luminance(colour: Any) -> float:
        values = [value / 12.92 if value <= 0.04045 else ((value + 0.055) / 1.055) ** 2.4 for value in to_rgb(colour)]
        return float(np.dot(values, (0.2126, 0.7152, 0.0722)))

    low, high = sorted((luminance(first), luminance(second)))
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("kind", FIGURES)
def test_everything_is_seen_on_a_light_and_on_a_dark_background(opened: Graph, kind: Any, *, dark: bool) -> None:
    picture = opened.plot(kind, dark=dark)
    picture.canvas.draw()
    paper = picture.get_facecolor()
    assert contrast(paper, "black") < 1.3 if dark else contrast(paper, "white") == 1
    texts = [text for text in picture.findobj(Text) if text.get_text() and text.get_visible()]
    assert len(texts) > 4
    for text in texts:
        assert contrast(text.get_color(), paper) >= 4.5, text.get_text()
    for axes in picture.axes:
        assert axes.get_facecolor() == paper
        for line in (*axes.lines, *axes.xaxis.get_majorticklines(), *axes.yaxis.get_majorticklines()):
            assert contrast(line.get_color(), paper) >= 2.5, line.get_label()
        for shown in (*axes.images, *axes.collections):
            if shown.get_array() is not None:
                assert contrast(shown.get_cmap()(0.0), paper) >= 1.2


def test_the_kinds_of_pictures_are_those_of_the_method_and_of_the_command() -> None:
    written = inspect.signature(Graph.plot).parameters["kind"].annotation
    assert tuple(re.findall(r"\w+", written)[1:]) == tuple(FIGURES) == plot_command.KINDS


@pytest.mark.parametrize("kind", sorted(set(FIGURES) - {"loss"}))
def test_a_new_graph_has_every_picture_but_the_loss(graph: Graph, tmp_path: Path, kind: str) -> None:
    assert plot(graph, kind, tmp_path / "picture.png").figures


def test_the_figures_are_those_of_the_graph(opened: Graph, tmp_path: Path) -> None:
    index, store = opened.parameters.index, opened.store
    found = {kind: plot(opened, kind, tmp_path / f"{kind}.svg").figures for kind in FIGURES}
    sizes = [index.row(node).stop - index.row(node).start for node in range(index.nodes)]
    assert found["rows"]["largest"] == max(sizes)
    assert found["rows"]["empty_rows"] == sizes.count(0)
    assert found["rows"]["mean"] == pytest.approx(np.mean(sizes))
    assert found["counts"]["private_edges"] == sum(sizes)
    assert found["counts"]["pairs_that_occur"] == store.read("rows/distinct").sum() > sum(sizes)
    assert found["counts"]["rarest_private"] == index.count.min()
    assert found["counts"]["coverage"] == pytest.approx(opened.info().coverage, abs=1e-6)
    assert found["energy"]["edges"] == sum(sizes)
    assert found["alpha"]["positions"] == len(opened.parameters.alpha)
    assert found["alpha"]["moved"] > 0
    assert found["pages"]["stored_pages"] == store.page_stored().sum() == opened.info().trained_pages > 0
    assert found["loss"]["steps"] == 3
    assert found["loss"]["heldout_perplexity"] > 1


def test_a_graph_with_a_base_has_no_alpha_and_no_pages(tmp_path: Path) -> None:
    build_graph(write_text(tmp_path / "a.txt"), tmp_path / "g.sifu", vocab=20)
    with Graph.open(tmp_path / "g.sifu") as base:
        for kind in FIGURES:
            if kind in ("alpha", "pages"):
                with pytest.raises(OptionError, match=f"no plot '{kind}': a graph whose edges share a base"):
                    plot(base, kind, tmp_path / "a.png")
            elif kind != "loss":
                assert plot(base, kind).figures
    assert not (tmp_path / "a.png").exists()


def test_alpha_of_a_new_graph_has_not_moved(graph: Graph, tmp_path: Path) -> None:
    assert plot(graph, "alpha", tmp_path / "a.png").figures["moved"] == pytest.approx(0, abs=1e-6)


def test_what_cannot_be_drawn(graph: Graph, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "a.png"
    with pytest.raises(OptionError, match="no plot 'pie'"):
        plot(graph, "pie", out)
    with pytest.raises(OptionError, match="no training of the branch main was recorded"):
        plot(graph, "loss", out)
    with pytest.raises(OptionError, match="must end with one of"):
        plot(graph, "rows", tmp_path / "a.gif")
    assert list(tmp_path.iterdir()) == []
    plot(graph, "rows", out)
    before = out.read_bytes()
    with pytest.raises(OptionError, match="exists: name another path, or replace it with `force=True`"):
        plot(graph, "counts", out)
    assert out.read_bytes() == before
    plot(graph, "counts", out, force=True)
    assert out.read_bytes() != before
    monkeypatch.setattr("sifu_graph.plot.figures.find_spec", lambda name: None)
    with pytest.raises(OptionError, match=r"sifu-graph\[plot\]"):
        plot(graph, "rows", tmp_path / "b.png")


def test_what_the_last_training_did_page_by_page(trained: Path, tmp_path: Path) -> None:
    path = Path(shutil.copytree(trained, tmp_path / "graph.sifu"))
    with Graph.open(path) as graph:
        pages, stored = graph.store.pages, graph.store.page_stored()
        noted = read_traffic(path, pages=pages)
        assert noted is not None
        assert (noted.reads[stored] > 0).all()
        assert (noted.writes > 0).tolist() == stored.tolist()  # three steps, one commit
        found = plot(graph, "pages", tmp_path / "a.png").figures
        assert found["page_reads"] == noted.reads.sum()
        assert found["page_writes"] == noted.writes.sum() == stored.sum()
        assert read_traffic(path, pages=pages + 1) is None
        (path / TRAFFIC).write_bytes(b"PK torn")
        assert plot(graph, "pages", tmp_path / "b.png").figures["page_reads"] is None


def test_the_curve_of_a_branch() -> None:
    def step(at: int, branch: str | None, snapshot: str | None = None) -> dict[str, object]:
        named = {"branch": branch, "snapshot": snapshot}
        return {"step": at, "loss": float(at), **{name: value for name, value in named.items() if value}}

    steps = [
        step(1, None), step(2, None, "A"), step(3, "main"), step(4, "main", "B"),
        step(3, "trial"), step(4, "trial", "C"), step(5, "trial"),
        step(5, "main"),
    ]  # fmt: skip

    def shown(branch: str, snapshots: str) -> list[tuple[int, object]]:
        return [(found["step"], found.get("branch")) for found in curve(steps, branch, set(snapshots))]

    assert shown("main", "AB") == [(1, None), (2, None), (3, "main"), (4, "main"), (5, "main")]
    assert shown("trial", "AC") == [(1, None), (2, None), (3, "trial"), (4, "trial"), (5, "trial")]
    assert shown("main", "A") == [(1, None), (2, None), (5, "main")]  # B undone, and training under way
    assert shown("other", "ABC") == [(at, name) for at, name in shown("other", "ABC") if at <= 4]


def test_a_branch_keeps_its_own_curve(trained: Path, tmp_path: Path) -> None:
    path = Path(shutil.copytree(trained, tmp_path / "graph.sifu"))
    with Graph.open(path) as graph:
        graph.branch("trial")
        graph.train(steps=2, batch=64)
        assert plot(graph, "loss", tmp_path / "a.png").figures["steps"] == 5
        graph.switch("trial")
        assert plot(graph, "loss", tmp_path / "b.png").figures["steps"] == 3
        graph.train(steps=1, batch=64)
        assert plot(graph, "loss", tmp_path / "c.png").figures["steps"] == 4
        graph.switch("main")
        assert plot(graph, "loss", tmp_path / "d.png").figures["steps"] == 5  # not dropped by the other's training


# ---- in a notebook, and what can be read in a picture


@pytest.mark.parametrize("kind", FIGURES)
def test_a_picture_is_a_figure_of_matplotlib_that_a_notebook_shows(opened: Graph, kind: str, tmp_path: Path) -> None:
    from matplotlib.figure import Figure

    picture = opened.plot(kind)
    assert isinstance(picture, Figure)
    assert picture._repr_png_().startswith(b"\x89PNG")
    assert picture.figures == opened.plot(kind, tmp_path / "a.svg").figures
    picture.axes[0].set_title("mine")  # it can be changed, and written again
    picture.savefig(tmp_path / "b.png")
    assert "matplotlib.pyplot" not in sys.modules or not sys.modules["matplotlib.pyplot"].get_fignums()


@pytest.mark.parametrize("kind", FIGURES)
def test_numbers_at_the_axes_are_written_in_full(opened: Graph, kind: str) -> None:
    picture = opened.plot(kind)
    picture.canvas.draw()
    shown = 0
    for axes in picture.axes:
        for axis in (axes.xaxis, axes.yaxis):
            low, high = sorted(axis.get_view_interval())
            ticks = zip(axis.get_majorticklocs(), axis.get_majorticklabels(), strict=True)
            labels = [label.get_text() for at, label in ticks if low <= at <= high]
            shown += len(labels)
            assert not [label for label in labels if "^" in label or "mathdefault" in label or "e+" in label]
            if axis.get_scale() == "log":
                assert len([label for label in labels if label]) >= 2, (kind, labels)
                assert len(set(labels)) == len(labels)
    assert shown


def test_colour_bars_of_whole_numbers_have_whole_numbers(trained: Path) -> None:
    with Graph.open(trained) as graph:
        picture = graph.plot("pages")
    picture.canvas.draw()
    bars = [axes for axes in picture.axes if axes.get_label() == "<colorbar>"]
    assert len(bars) == 3
    for axes in bars:
        low, high = sorted(axes.yaxis.get_view_interval())
        labels = [label.get_text() for at, label in zip(axes.get_yticks(), axes.get_yticklabels(), strict=True)
                  if low <= at <= high]  # fmt: skip
        assert labels
        assert all(float(label.replace(",", "")).is_integer() for label in labels)


def test_no_legend_of_alpha_covers_a_curve(opened: Graph) -> None:
    picture = opened.plot("alpha")
    picture.canvas.draw()
    for axes in picture.axes:
        if (legend := axes.get_legend()) is None:
            continue
        box = legend.get_window_extent()
        for line in axes.get_lines():
            points = axes.transData.transform(line.get_xydata())
            assert not [point for point in points if box.contains(*point)]


def test_the_loss_shows_where_training_began_and_the_closed_form(trained: Path) -> None:
    noted = [json.loads(line) for line in (trained / "metrics.jsonl").read_text().splitlines()]
    levels = {key: noted[0][key] for key in ("heldout_before", "heldout_closed_form")}
    assert not [line for line in noted[1:] if levels.keys() & line.keys()]
    with Graph.open(trained) as graph:
        picture = graph.plot("loss")
    drawn = {str(line.get_label()): line.get_ydata() for line in picture.axes[0].get_lines()}
    for level, name in (("heldout_before", "before training"), ("heldout_closed_form", "after the closed form")):
        label = f"held-out, {name}: perplexity {levels[level]:,.1f}"
        assert np.allclose(drawn[label], np.log(levels[level]))
    low, high = picture.axes[0].get_ylim()
    assert all(low < np.log(value) < high for value in levels.values())


def test_a_run_that_goes_on_keeps_the_levels_of_the_first(trained: Path, tmp_path: Path) -> None:
    path = Path(shutil.copytree(trained, tmp_path / "graph.sifu"))
    with Graph.open(path) as graph:
        before = [line.get_label() for line in graph.plot("loss").axes[0].get_lines()]
        graph.train(steps=1, batch=64)
        assert [line.get_label() for line in graph.plot("loss").axes[0].get_lines()] == before
