"""One writer, named to the second; readers always; nothing is left locked by a killed process."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import small_store
from sifu_store import Store
from sifu_store.errors import StoreError, StoreLockedError

HOLD = (
    "import sys, time; from pathlib import Path; from sifu_store import Store\n"
    "store = Store.open(Path(sys.argv[1]), write=True)\n"
    "print('held', flush=True); time.sleep(60)\n"
)


def test_the_second_process_is_told_who_writes(tmp_path: Path) -> None:
    small_store.make(tmp_path / "s")
    child = subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path / "s")], stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None
    try:
        assert child.stdout.readline() == "held\n"
        start = time.monotonic()
        with pytest.raises(StoreLockedError, match=rf"process {child.pid} on .* since 20.*: wait") as caught:
            Store.open(tmp_path / "s", write=True)
        assert time.monotonic() - start < 1.0 and "\n" not in str(caught.value)
        with Store.open(tmp_path / "s") as reader:
            assert reader.verify().ok
    finally:
        child.send_signal(signal.SIGKILL)
        child.wait()
        child.stdout.close()
    with Store.open(tmp_path / "s", write=True) as store:
        assert store.history()


def test_in_one_process_too_and_the_note_goes_with_the_lock(tmp_path: Path) -> None:
    small_store.make(tmp_path / "s")
    with Store.open(tmp_path / "s", write=True):
        assert (tmp_path / "s" / "writer.json").exists()
        with pytest.raises(StoreLockedError, match=f"process {os.getpid()} "):
            Store.open(tmp_path / "s", write=True)
    assert not (tmp_path / "s" / "writer.json").exists()
    with Store.open(tmp_path / "s", write=True):
        pass


def test_readers_change_nothing_on_disk(tmp_path: Path) -> None:
    small_store.make(tmp_path / "s")
    before = {file: file.stat().st_mtime_ns for file in (tmp_path / "s").rglob("*")}
    with Store.open(tmp_path / "s") as store:
        assert store.verify().ok
    assert {file: file.stat().st_mtime_ns for file in (tmp_path / "s").rglob("*")} == before


def test_a_fork_is_told_to_spawn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small_store.make(tmp_path / "s")
    with Store.open(tmp_path / "s") as store:
        monkeypatch.setattr(os, "getpid", lambda: 1)
        with pytest.raises(StoreError, match="spawn"):
            store.read("rows/total")
        monkeypatch.undo()
        assert store.read("rows/total").any()


FORK = """
import os, sys
from pathlib import Path
from sifu_store import Store
from sifu_store.errors import StoreError

def attempt(open_store):
    child = os.fork()
    if child == 0:
        try:
            open_store().close()
        except StoreError as error:
            print(type(error).__name__, error, flush=True)
        else:
            print("opened", flush=True)
        os._exit(0)
    os.waitpid(child, 0)

path = Path(sys.argv[1])
attempt(lambda: Store.open(path))  # nothing was opened before: a fork may open it
with Store.open(path):
    attempt(lambda: Store.open(path))
attempt(lambda: Store.open(path))
attempt(lambda: Store.open(path, write=True))
attempt(lambda: Store.create(path.with_name("new")))
with Store.open(path, write=True) as store:
    assert store.verify().ok
"""


def test_a_fork_of_a_process_that_opened_a_store_is_told_to_spawn(tmp_path: Path) -> None:
    small_store.make(tmp_path / "s")
    done = subprocess.run(
        [sys.executable, "-c", FORK, str(tmp_path / "s")], capture_output=True, text=True, timeout=60, check=True
    )
    opened, *refused = done.stdout.splitlines()
    assert opened == "opened" and len(refused) == 4
    for line in refused:
        assert line.startswith("StoreError ") and "fork of process" in line and "spawn or forkserver" in line
    assert not (tmp_path / "new").exists() and [file.name for file in tmp_path.iterdir()] == ["s"]
