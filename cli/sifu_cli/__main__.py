"""``python -m sifu_cli``: the same as the command ``sifu``."""

from __future__ import annotations

from sifu_cli.main import main

if __name__ == "__main__":
    main()
