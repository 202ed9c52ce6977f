"""The command ``sifu``, also as ``python -m sifu_cli``.

Its own imports are few, so that Ctrl-C ends the process without a traceback as soon as Python runs this module.
"""

from __future__ import annotations

import gc
import os
import sys

# Not the module signal, which imports others first.
from _signal import SIGINT, default_int_handler, getsignal, signal  # type: ignore[import-not-found]

NEW_OBJECTS = 10_000
"""Objects that are made before Python looks for garbage. Its usual 700 take 0.06 s of a start, which leaves none."""
INTERRUPTED = 130
"""Exit code after Ctrl-C."""


def main() -> None:
    """Import the command line and run it."""
    usual = getsignal(SIGINT)
    if usual is default_int_handler:  # not where it is ignored, as in the background of a shell
        signal(SIGINT, _leave)
    gc.set_threshold(NEW_OBJECTS)
    from sifu_cli.main import main as run

    signal(SIGINT, usual)
    run()


def _leave(number: int, frame: object) -> None:
    """End the process: nothing has begun yet."""
    if sys.stderr is not None:
        os.write(sys.stderr.fileno(), b"sifu: error: interrupted\n")
    os._exit(INTERRUPTED)


if __name__ == "__main__":
    main()
