"""The order of commits in time: Icechunk refuses a commit that is not later than the one before it.

A clock that was set back (by a time server, or in a virtual machine that was resumed) is waited for.
This module knows times; not commits.
"""

from __future__ import annotations

import time
import warnings
from datetime import UTC, datetime

from sifu_store.errors import StoreError

SHORT_S = 10.0
"""A step back that is waited for before work begins; a greater one is an error then."""

_POLL_S = 1.0
_MARGIN_S = 0.001  # the times of snapshots have microseconds


def require_later(than: datetime, where: str) -> None:
    """Check before work begins that a commit will be possible; wait at most `SHORT_S` seconds for it.

    Parameters
    ----------
    than
        Time of the newest commit.
    where
        The store, for the message.

    Raises
    ------
    StoreError
        The clock is further behind.
    """
    behind_s = _behind_s(than)
    if behind_s > SHORT_S:
        raise StoreError(
            f"the clock of this machine is {_duration(behind_s)} behind the newest commit of {where} ({_shown(than)}), "
            f"and a commit must be later than the one before it: correct the clock, or try again in "
            f"{_duration(behind_s)}"
        )
    wait_until_later(than, where)


def wait_until_later(than: datetime, where: str) -> None:
    """Wait until the clock is later than the newest commit, however long; a correction of the clock ends the wait."""
    behind_s = _behind_s(than)
    if behind_s > SHORT_S:
        warnings.warn(
            f"sifu: the clock of this machine was set back: the commit to {where} waits {_duration(behind_s)}, until "
            f"{_shown(than)}, or until the clock is corrected",
            stacklevel=2,
        )
    while behind_s > 0:
        time.sleep(min(behind_s, _POLL_S))
        behind_s = _behind_s(than)


def _behind_s(than: datetime) -> float:
    """Seconds until the clock is later than `than`; not positive: it is later."""
    return (than - _now()).total_seconds() + _MARGIN_S


def _now() -> datetime:
    return datetime.now(UTC)


def _shown(moment: datetime) -> str:
    return moment.astimezone().strftime("%Y-%m-%d %H:%M:%S")


def _duration(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.0f} s"
    minutes = seconds / 60
    return f"{minutes:.0f} min" if minutes < 120 else f"{minutes / 60:,.1f} h"
