"""A clock that steps back: short steps are waited for, long ones refused before work begins; what was done is kept."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import needs
import pytest
import small_store
from sifu_store import Store, clock
from sifu_store.errors import StoreError


@pytest.fixture
def set_back(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], list[float]]:
    """Sets the clock of sifu (not of Icechunk) back by seconds; returns the list of the waits that follow."""

    def set_clock(seconds: float) -> list[float]:
        waits: list[float] = []
        monkeypatch.setattr(clock, "_now", lambda: datetime.now(UTC) + timedelta(seconds=sum(waits) - seconds))
        monkeypatch.setattr(clock.time, "sleep", waits.append)
        return waits

    return set_clock


def test_before_work_begins(tmp_path: Path, set_back: Callable[[float], list[float]]) -> None:
    path = tmp_path / "s"
    small_store.make(path)
    with Store.open(path, write=True) as store:
        store.require_clock()
        waits = set_back(8.0)
        store.require_clock()
        assert 0 < sum(waits) < 9
        waits = set_back(7200.0)
        with pytest.raises(StoreError, match=r"120 min behind the newest commit .* try again in 120 min"):
            store.require_clock()
        assert not waits
        store.create_tag("t")  # names need no clock
        store.collect_garbage()
    with Store.open(path) as store, pytest.raises(StoreError, match="opened for reading"):
        store.require_clock()


def test_a_commit_waits(tmp_path: Path, set_back: Callable[[float], list[float]]) -> None:
    path = tmp_path / "s"
    small_store.make(path)
    with Store.open(path, write=True) as store:
        small_store.write_page(store, 0, 2.0)
        waits = set_back(600.0)
        with pytest.warns(UserWarning, match=r"^sifu: .*set back: the commit to .* waits 10 min"):
            saved = store.commit("x", command="train", changes={})
        assert 590 < sum(waits) < 602 and max(waits) <= 1
    with Store.open(path) as store:
        assert store.snapshot == saved and store.read_page("edges/bias", 0)[0, 1] == 2.0 and store.verify().ok


CHILD = """
import select, sys
from pathlib import Path
import small_store
from sifu_store import Store, clock

clock.time.sleep = lambda seconds: select.select([], [], [], seconds)  # Python's own fails under libfaketime
with Store.open(sys.argv[1], write=True) as store:
    for value, offset in ((2.0, "+60s"), (3.0, "+57s")):
        small_store.write_page(store, 0, value)
        Path(sys.argv[2]).write_text(offset)
        store.commit(f"{value}", command="train", changes={})
"""


def test_a_clock_that_steps_back_for_all_libraries(tmp_path: Path) -> None:
    """Icechunk refuses a commit that is not later than its parent; with libfaketime its clock steps back too."""
    library = next(Path("/usr/lib").glob("*/faketime/libfaketime.so.1"), None)
    if library is None:
        pytest.skip(needs.FAKETIME)
    path, offset = tmp_path / "s", tmp_path / "offset"
    small_store.make(path)
    offset.write_text("+0s")
    faked = {
        "LD_PRELOAD": str(library),
        "FAKETIME_TIMESTAMP_FILE": str(offset),
        "FAKETIME_NO_CACHE": "1",
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",
    }
    subprocess.run([sys.executable, "-c", CHILD, str(path), str(offset)], env={**os.environ, **faked}, check=True)
    with Store.open(path, write=True) as store:
        times = [commit.time for commit in store.history()]
        assert times == sorted(times, reverse=True) and len(times) == 3
        assert store.read_page("edges/bias", 0)[0, 1] == 3.0 and store.verify().ok
        with pytest.raises(StoreError, match="behind the newest commit"):  # here the time is a minute less
            store.require_clock()
