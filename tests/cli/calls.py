"""Two ways to call a command: in this process, or as one of its own."""

from __future__ import annotations

import contextlib
import io
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from sifu_cli.main import run


@dataclass(frozen=True, slots=True)
class Result:
    """What a command did."""

    code: int
    out: str
    err: str

    @property
    def error(self) -> str:
        """The one line of an error, without its beginning."""
        lines = [line for line in self.err.splitlines() if line.startswith("sifu: error: ")]
        assert len(lines) == 1, self
        assert self.err.splitlines()[-1] == lines[0], self
        assert "Traceback" not in self.err, self
        return lines[0].removeprefix("sifu: error: ")


class Keyboard(io.TextIOWrapper):
    """Somebody who types."""

    def isatty(self) -> bool:
        return True


class Screen(io.TextIOWrapper):
    """A terminal to write on."""

    def isatty(self) -> bool:
        return True


def call(*args: str | Path, stdin: bytes = b"", typed: bool = False, screen: bool = False) -> Result:
    """Runs a command in this process; with ``screen``, its results go to a terminal."""
    out, err = (
        kind(io.BytesIO(), encoding="utf-8", newline="")
        for kind in (Screen if screen else io.TextIOWrapper, io.TextIOWrapper)
    )
    before, sys.stdin = (
        sys.stdin,
        (Keyboard if typed else io.TextIOWrapper)(io.BytesIO(stdin), encoding="utf-8"),
    )
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            code = run([str(arg) for arg in args])
    finally:
        sys.stdin = before
    texts = []
    for stream in (out, err):
        stream.flush()
        texts.append(stream.buffer.getvalue().decode())  # type: ignore[attr-defined]
    return Result(code, *texts)


def process(*args: str | Path, stdout: int | IO[bytes] = subprocess.PIPE, **variables: str) -> subprocess.Popen[str]:
    """Starts a command as a process of its own, with some variables of the environment."""
    path = os.pathsep.join(filter(None, sys.path))
    environment = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1", **variables}
    return subprocess.Popen(
        [sys.executable, "-m", "sifu_cli", *map(str, args)],
        stdin=subprocess.DEVNULL,
        stdout=stdout,
        stderr=subprocess.PIPE,
        encoding="utf-8",
        env=environment,
    )
