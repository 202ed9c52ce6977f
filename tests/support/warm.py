"""Processes that begin with torch imported: forked from a server, one for each worker, that has imported it once.

The import takes longer than what most processes of the tests do. They have a number, a memory and an end of their own
all the same. What a test shows of imports, of options of the interpreter or of the way it ends needs `subprocess`.
"""

from __future__ import annotations

import multiprocessing
import os
import sys
import warnings
from collections.abc import Mapping
from multiprocessing.connection import Connection
from pathlib import Path
from typing import IO, Self

IMPORTED = ["torch", "sifu_graph.graph", "sifu_graph.training.loop", "sifu_graph.evaluation", "sifu_cli.main"]


class WarmProcess:
    """A process that runs Python code, with warnings as errors.

    Parameters
    ----------
    code
        What ``python -c`` would run.
    args
        ``sys.argv`` after its first element.
    cwd, env
        The folder it runs in, and changes of the environment.
    terminal
        A terminal, for its input and its output. None: `stdout` and `stderr` are pipes, and its input is empty.
    """

    stdout: IO[str]
    stderr: IO[str]

    def __init__(
        self, code: str, *args: str | Path, cwd: Path | None = None, env: Mapping[str, str] | None = None,
        terminal: int | None = None,
    ) -> None:  # fmt: skip
        if terminal is None:
            pipes = [multiprocessing.Pipe(duplex=False) for _ in range(2)]
            theirs = [Connection(os.open(os.devnull, os.O_RDONLY)), *(end for _, end in pipes)]
            self.stdout, self.stderr = (_text(end) for end, _ in pipes)
        else:
            theirs = [Connection(os.dup(terminal)) for _ in range(3)]
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(IMPORTED)
        environment = {**os.environ, **(env or {})}
        words = [str(arg) for arg in args]
        self._process = context.Process(target=_run, args=(code, words, cwd, environment, theirs), daemon=True)
        self._process.start()
        for end in theirs:
            end.close()

    @property
    def pid(self) -> int:
        assert self._process.pid is not None
        return self._process.pid

    def poll(self) -> int | None:
        """Its exit code, negative if a signal ended it; None: it runs."""
        return self._process.exitcode

    def wait(self, timeout_s: float | None = None) -> int:
        """Waits for its end. Returns its exit code."""
        self._process.join(timeout_s)
        code = self._process.exitcode
        assert code is not None, f"it runs after {timeout_s} seconds"
        return code

    def kill(self) -> None:
        """kill -9"""
        self._process.kill()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, error: type[BaseException] | None, *_: object) -> None:
        if error is not None:
            self.kill()
        self.stdout.close()
        self.stderr.close()
        self.wait()


def run(code: str, *args: str | Path, cwd: Path | None = None, env: Mapping[str, str] | None = None) -> str:
    """Runs Python code that must end well. Returns what it printed."""
    with WarmProcess(code, *args, cwd=cwd, env=env) as process:
        printed, said = process.stdout.read(), process.stderr.read()
        assert process.wait() == 0, said
        return printed


def _text(end: Connection) -> IO[str]:
    descriptor = os.dup(end.fileno())
    end.close()
    return os.fdopen(descriptor, encoding="utf-8")


def _run(code: str, args: list[str], cwd: Path | None, environment: dict[str, str], streams: list[Connection]) -> None:
    for number, stream in enumerate(streams):
        os.dup2(stream.fileno(), number)
        stream.close()
    sys.stdin, sys.stdout, sys.stderr = (
        os.fdopen(number, mode, encoding="utf-8", closefd=False) for number, mode in enumerate("rww")
    )
    os.environ.clear()
    os.environ.update(environment)
    if cwd is not None:
        os.chdir(cwd)
    sys.argv = ["-c", *args]
    warnings.simplefilter("error")
    exec(compile(code, "<test>", "exec", dont_inherit=True), {"__name__": "__main__"})
