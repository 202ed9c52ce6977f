"""What other tools record of training, read back: the figures of every step."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

import pytest

from sifu_graph import Graph
from sifu_graph.errors import OptionError
from sifu_graph.training.options import StepReport


def train(store: Path, callback: object) -> list[StepReport]:
    """Four steps, with held-out text at the second and the fourth; returns the reports."""
    seen: list[StepReport] = []

    def on_step(report: StepReport) -> None:
        seen.append(report)
        callback(report)

    with Graph.open(store) as graph:
        graph.train(steps=4, batch=8, eval_every=2, on_step=on_step)
    assert [report.step for report in seen] == [1, 2, 3, 4]
    assert [report.heldout_perplexity is not None for report in seen] == [False, True, False, True]
    return seen


def test_the_scalars_of_a_step() -> None:
    report = StepReport(
        step=3, tokens=90, loss=2.0, perplexity=7.5, tokens_per_s=10.0, eta_s=4.0, snapshot="A1", cache={"hits": 2}
    )
    assert report.scalars() == {"loss": 2.0, "perplexity": 7.5, "tokens": 90.0, "tokens_per_s": 10.0, "cache/hits": 2.0}


@pytest.mark.filterwarnings("ignore")  # of the package
def test_tensorboard(store: Path, tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    from sifu_graph.adapters.tensorboard import TensorBoard

    with TensorBoard(tmp_path / "events") as board:
        seen = train(store, board)
    events = EventAccumulator(str(tmp_path / "events"), size_guidance={"scalars": 0})
    events.Reload()
    assert set(events.Tags()["scalars"]) == {name for report in seen for name in report.scalars()}
    for name in ("loss", "heldout_perplexity", "tokens"):
        expected = [(one.step, one.scalars()[name]) for one in seen if name in one.scalars()]
        assert [(one.step, one.value) for one in events.Scalars(name)] == [
            (step, pytest.approx(v)) for step, v in expected
        ]


@pytest.mark.filterwarnings("ignore")  # of the package
def test_mlflow(store: Path, tmp_path: Path) -> None:
    mlflow = pytest.importorskip("mlflow")
    pytest.importorskip("sqlalchemy")
    from sifu_graph.adapters.mlflow import MLflow

    where = f"sqlite:///{tmp_path / 'runs.db'}"
    with MLflow("poems", tracking_uri=where, name="first") as run:
        seen = train(store, run)
    with pytest.raises(KeyError), MLflow("poems", tracking_uri=where) as other:
        raise KeyError
    client = mlflow.MlflowClient(tracking_uri=where)
    found, failed = client.get_run(run.run_id), client.get_run(other.run_id)
    assert (found.info.run_name, found.info.status, failed.info.status) == ("first", "FINISHED", "FAILED")
    assert found.info.experiment_id == failed.info.experiment_id
    for name in ("loss", "heldout_perplexity", "tokens"):
        history = sorted(client.get_metric_history(run.run_id, name), key=lambda one: one.step)
        expected = [(one.step, one.scalars()[name]) for one in seen if name in one.scalars()]
        assert [(one.step, one.value) for one in history] == expected


@pytest.mark.parametrize(
    ("module", "name", "argument"), [("tensorboard", "TensorBoard", "runs"), ("mlflow", "MLflow", "x")]
)
def test_a_missing_package_is_named(module: str, name: str, argument: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    monkeypatch.delitem(sys.modules, "torch.utils.tensorboard", raising=False)
    tracker = getattr(importlib.import_module(f"sifu_graph.adapters.{module}"), name)
    with pytest.raises(OptionError, match=rf"this needs {module} .*: pip install {module}$"):
        tracker(argument)
