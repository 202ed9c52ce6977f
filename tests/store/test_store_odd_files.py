"""Files of a store that are no files: pipes and sockets, in which a read never ends; files with a second name."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import numbered_store
import pytest
from sifu_store import Store
from sifu_store.errors import DiskFullError, OptionError, StoreError
from sifu_store.links import open_to_append
from sifu_store.places import require_store
from sifu_store.scratch_copies import COPY_PREFIX

pytestmark = pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no named pipes")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "s"
    numbered_store.make(path)
    with Store.open(path, write=True) as store:
        numbered_store.commit(store, 1, train=True)
        store.create_branch("side")
        store.create_tag("t")
    (path / "metrics.jsonl").write_text("{}\n")
    (path / "cache" / "corpus").mkdir(parents=True)
    (path / "cache" / "corpus" / "meta.json").write_text("{}")
    return path


def files(path: Path) -> list[Path]:
    """One file of each folder and, of a folder of the repository, all."""
    return [each for each in sorted(path.rglob("*")) if each.is_file() and each.name not in ("writer.lock", "lock")]


def test_pipes_and_sockets_are_refused_before_anything_is_read(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = [file.relative_to(path) for file in files(path)]
    assert {"acknowledged", "metrics.jsonl", "ref.json", "meta.json"} <= {name.name for name in names}
    for number, name in enumerate(names):
        copy = Path(shutil.copytree(path, tmp_path / f"copy{number}"))
        (copy / name).unlink()
        if number % 3:
            os.mkfifo(copy / name)
        else:
            with socket.socket(socket.AF_UNIX) as found:
                monkeypatch.chdir(copy)  # the address of a socket is short
                found.bind(str(name))
        for write in (False, True):
            with pytest.raises(StoreError, match="no file: it is not part of a store"):
                Store.open(copy, write=write)


def test_settings_of_icechunk_are_refused(path: Path) -> None:
    """They could name places outside of the store."""
    (path / "repository" / "config.yaml").write_text("inline_chunk_threshold_bytes: 512")
    with pytest.raises(StoreError, match="has settings of Icechunk, which no store of sifu has: delete it"):
        Store.open(path)


def test_a_file_that_a_copy_shares_is_not_appended_to(tmp_path: Path) -> None:
    mine, other = tmp_path / "metrics.jsonl", tmp_path / "copy"
    mine.write_text("1\n")
    other.hardlink_to(mine)
    with open_to_append(mine) as file:
        file.write(b"2\n")
    assert (mine.read_text(), other.read_text()) == ("1\n2\n", "1\n")
    assert sorted(each.name for each in tmp_path.iterdir()) == ["copy", "metrics.jsonl"]


def test_a_name_that_could_not_be_recorded_is_not_there(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise DiskFullError("full")

    with Store.open(path, write=True) as store:
        with monkeypatch.context() as patch:
            patch.setattr("sifu_store.store.acknowledge", full)
            with pytest.raises(DiskFullError):
                store.create_tag("new")
            with pytest.raises(DiskFullError):
                store.create_branch("other")
        names = [folder.name for folder in (path / "repository" / "refs").iterdir()]
        assert "tag.t" in names and not {"tag.new", "branch.other"} & set(names)
        store.create_tag("new")  # the name is still free
        store.create_branch("other")


def test_a_name_does_not_hide_the_id_of_a_commit(path: Path) -> None:
    with Store.open(path, write=True) as store:
        for create in (store.create_tag, store.create_branch):
            for name in (store.snapshot, store.snapshot[:8], store.snapshot[:5].lower()):
                with pytest.raises(OptionError, match="begins so; choose another name"):
                    create(name)


def test_a_collection_deletes_the_links_that_a_killed_one_left(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ended = subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, check=True)
    dead, alive = (tmp_path / f"{COPY_PREFIX}{owner}-x" for owner in (int(ended.stdout), os.getpid()))
    for folder in (dead, alive):
        (folder / "repository").mkdir(parents=True)
        (folder / "repository" / "chunks").symlink_to(path / "repository" / "chunks")
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with Store.open(path, write=True) as store:
        store.collect_garbage()
        assert store.verify().ok
    assert not dead.exists() and alive.exists()


@pytest.mark.parametrize("name", ["loop", "loop/below"])
def test_a_circular_link_is_an_error_in_one_line(name: str, tmp_path: Path) -> None:
    (tmp_path / "loop").symlink_to("loop")
    for use in (Store.open, Store.create, lambda path: Store.create(path, force=True), require_store):
        with pytest.raises(StoreError) as failed:
            use(tmp_path / name)
        assert "\n" not in str(failed.value) and str(tmp_path / name) in str(failed.value)
