"""The command ``sifu``, also as ``python -m sifu_cli``.

Its own imports are few, so that Ctrl-C ends the process without a traceback as soon as Python runs this module.
"""

from __future__ import annotations

import os
import signal
import sys
from types import FrameType

INTERRUPTED = 130
"""Exit code after Ctrl-C."""


def main() -> None:
    """Import the command line and run it."""
    python_has = signal.getsignal(signal.SIGINT)
    if python_has is signal.default_int_handler:  # not where it is ignored, as in a shell's background
        signal.signal(signal.SIGINT, _leave)
    from sifu_cli.main import main as run

    signal.signal(signal.SIGINT, python_has)
    run()


def _leave(number: int, frame: FrameType | None) -> None:
    """End the process: nothing has begun yet."""
    if sys.stderr is not None:
        os.write(sys.stderr.fileno(), b"sifu: error: interrupted\n")
    os._exit(INTERRUPTED)


if __name__ == "__main__":
    main()
