"""The figures of training as a run of MLflow (the package `mlflow`, which is not installed with sifu).

    from sifu_graph.adapters.mlflow import MLflow

    with MLflow("poems", tracking_uri="sqlite:///mlflow.db") as run:
        graph.train(minutes=5, on_step=run)

The module knows reports of steps and runs; it does not know how a step is computed.
"""

from __future__ import annotations

import time
from types import TracebackType
from typing import Self

from sifu_store.errors import OptionError

from sifu_graph.training.options import StepReport


class MLflow:
    """A callback for ``on_step`` of `Graph.train`: a run with the figures of each step. Close it, or use a ``with``.

    Parameters
    ----------
    experiment
        Name of the experiment; it is created if there is none.
    tracking_uri
        Where the run is recorded, such as ``sqlite:///mlflow.db``, a file. None: where MLflow records by default.
    name
        Name of the run. None: MLflow chooses one.

    Attributes
    ----------
    run_id
        The id that MLflow gave to the run.

    Raises
    ------
    OptionError
        The package is not installed.
    """

    def __init__(self, experiment: str = "sifu", *, tracking_uri: str | None = None, name: str | None = None) -> None:
        try:
            from mlflow import MlflowClient
            from mlflow.entities import Metric
        except ImportError as error:
            raise OptionError(f"this needs mlflow ({error}): pip install mlflow") from error
        self._client, self._metric = MlflowClient(tracking_uri=tracking_uri), Metric
        found = self._client.get_experiment_by_name(experiment)
        identity = self._client.create_experiment(experiment) if found is None else found.experiment_id
        self.run_id: str = self._client.create_run(identity, run_name=name).info.run_id

    def __call__(self, report: StepReport) -> None:
        """Records the figures of a step."""
        now_ms = time.time_ns() // 1_000_000
        figures = report.scalars().items()
        self._client.log_batch(
            self.run_id, metrics=[self._metric(name, value, now_ms, report.step) for name, value in figures]
        )

    def close(self, *, failed: bool = False) -> None:
        """Ends the run, as one that failed or not."""
        self._client.set_terminated(self.run_id, "FAILED" if failed else "FINISHED")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close(failed=kind is not None)
