"""The figures of training as scalars of TensorBoard (the package `tensorboard`, which is not installed with sifu).

    from sifu_graph.adapters.tensorboard import TensorBoard

    with TensorBoard("runs/first") as board:
        graph.train(minutes=5, on_step=board)

The module knows reports of steps and event files; it does not know how a step is computed.
"""

from __future__ import annotations

from pathlib import Path
from types import TracebackType
from typing import Any, Self

from sifu_store.errors import OptionError

from sifu_graph.training.options import StepReport


class TensorBoard:
    """A callback for ``on_step`` of `Graph.train`: writes the figures of each step. Close it, or use it in a ``with``.

    Parameters
    ----------
    folder
        Where the event files are written: the folder that TensorBoard shows.

    Raises
    ------
    OptionError
        The package is not installed.
    """

    def __init__(self, folder: str | Path) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise OptionError(f"this needs tensorboard ({error}): pip install tensorboard") from error
        writer: Any = SummaryWriter  # whose methods have no types
        self._writer = writer(str(folder))

    def __call__(self, report: StepReport) -> None:
        """Writes the figures of a step."""
        for name, value in report.scalars().items():
            self._writer.add_scalar(name, value, report.step)

    def close(self) -> None:
        """Writes what is buffered, and closes the file."""
        self._writer.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()
