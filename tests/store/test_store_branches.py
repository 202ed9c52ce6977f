"""Branches, tags and undo, used and misused; and what is left of them when files are damaged."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numbered_store
import pytest
import small_store
from sifu_store import Store, collecting
from sifu_store.errors import OptionError, StoreDamagedError, StoreError, StoreLockedError


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """main: 0 - 1 - 2, and a branch `side` at 1 with 3 on top; main is the current one."""
    path = tmp_path / "s"
    numbered_store.make(path)
    with Store.open(path, write=True) as store:
        numbered_store.commit(store, 1, train=False)
        numbered_store.commit(store, 2, train=True)
        store.create_branch("side", "HEAD~1")
        store.switch("side")
        numbered_store.commit(store, 3, train=True)
        store.switch("main")
    return path


def files(path: Path) -> dict[str, bytes]:
    return {
        str(file.relative_to(path)): file.read_bytes()
        for file in path.rglob("*")
        if file.is_file() and not file.name.startswith("writer.")
    }


class Killed(BaseException):
    """Nothing that comes after it is done."""


@pytest.mark.parametrize("after", [0, 1])
@pytest.mark.parametrize("turns", [[False, True, False], [True, False, True]])
def test_a_branch_whose_removal_was_cut_off_is_there_or_gone_for_good(
    path: Path, monkeypatch: pytest.MonkeyPatch, after: int, turns: list[bool]
) -> None:
    """The next reader and the next writer see the same."""

    rename = Path.rename

    def move(folder: Path, target: Path) -> Path:
        if folder.name != "branch.side":
            return rename(folder, target)
        if after:
            rename(folder, target)
        raise Killed

    with Store.open(path, write=True) as store, monkeypatch.context() as patched:
        patched.setattr(Path, "rename", move)
        patched.setattr(shutil, "rmtree", lambda *arguments, **options: None)
        with pytest.raises(Killed):
            store.delete_branch("side")
    for write in turns:
        with Store.open(path, write=write) as store:
            assert ("side" in store.tree().branches) == (after == 0)
            assert store.verify().ok
    with Store.open(path, write=True) as store:
        if after:
            store.create_branch("side")
        else:
            store.delete_branch("side")


def ref(path: Path, name: str) -> Path:
    return path / "repository" / "refs" / f"branch.{name}" / "ref.json"


def content(store: Store) -> float:
    return float(store.read_page("edges/bias", 0)[0, 1])


def test_the_current_branch_is_remembered_and_grows(path: Path) -> None:
    with Store.open(path) as store:
        assert (store.branch, content(store), store.newest) == ("main", 2.0, True)
    with Store.open(path, write=True) as store:
        assert store.switch("side") == store.snapshot
        assert (store.branch, content(store)) == ("side", 3.0)
    with Store.open(path, write=True) as store:
        assert (store.branch, content(store)) == ("side", 3.0)
        numbered_store.commit(store, 4, train=True)
        view = numbered_store.view(store)
        assert view["lines"] == {"main": [2, 1, 0], "side": [4, 3, 1, 0]}


def test_names_of_snapshots(path: Path) -> None:
    with Store.open(path, write=True) as store:
        store.create_tag("first", "main~2")
        tree = store.tree()
        ids = {int(commit.message): commit.snapshot for commit in tree.commits}
        names = {
            "HEAD": 2, "head~1": 1, "main": 2, "side": 3, "side~": 1, "side~~": 0, "side~1~1": 0, "first": 0,
            "first~0": 0, ids[3]: 3, ids[3][:7].lower(): 3, ids[3] + "~2": 0,
        }  # fmt: skip
        for name, number in names.items():
            assert store.resolve(name) == ids[number], name
            with Store.open(path, at=name) as old:
                assert content(old) == number
                assert old.newest == (number == 2)
    for name, says in [
        ("maim", "did you mean main"),
        ("", "names no snapshot"),
        ("~1", "names no snapshot"),
        ("main~x", "names no snapshot"),
        ("main~-1", "names no snapshot"),
        ("HEAD~3", "has 2 commits before it"),
        ("nowhere", "no branch, no tag and no snapshot 'nowhere'"),
    ]:
        with pytest.raises(OptionError, match=says):
            Store.open(path, at=name)


def test_undo_and_redo_restore_the_same_bits(path: Path) -> None:
    def everything(store: Store) -> dict[str, bytes]:
        paged = {name: store.read_pages(name, 0, store.pages) for name in ("edges/weight", "edges/bias")}
        plain = {name: store.read(name) for name in store.names() if name not in paged}
        return {name: array.tobytes() for name, array in (paged | plain).items()}

    with Store.open(path, write=True) as store:
        states = [everything(store)]
        for expected in (1, 0):
            moved = store.undo()
            assert [commit.message for commit in moved.commits] == [str(expected + 1)]
            assert store.history()[0].message == str(expected)
            states.append(everything(store))
        with pytest.raises(StoreError, match=r"nothing to undo: .* is the first commit"):
            store.undo()
        moved = store.redo()
        assert everything(store) == states[1]
        store.redo()
        assert everything(store) == states[0]
        with pytest.raises(StoreError, match="nothing to redo on main: nothing was undone"):
            store.redo()
        assert store.undo(2).snapshot == store.snapshot and content(store) == 0.0
        with pytest.raises(StoreError, match="2 commits can be redone on main, not 3"):
            store.redo(3)
        with pytest.raises(OptionError, match="`steps` is 0"):
            store.redo(0)
        store.redo(2)
        with pytest.raises(StoreError, match="2 commits can be undone on main, not 3"):
            store.undo(3)
        assert everything(store) == states[0]


def test_a_commit_ends_what_can_be_redone_but_not_what_can_be_read(path: Path) -> None:
    with Store.open(path, write=True) as store:
        store.undo()
        numbered_store.commit(store, 5, train=False)
        with pytest.raises(StoreError, match="other commits were made since the last undo"):
            store.redo()
        undone = {commit.message: commit.snapshot for commit in store.tree().commits}["2"]
        store.undo()
        assert numbered_store.view(store)["redo"] == [5]
        assert numbered_store.view(store)["undone"] == {2, 5}
        store.create_branch("rescued", undone)
        store.switch("rescued")
        assert content(store) == 2.0
        assert numbered_store.view(store)["undone"] == {5}


def test_undo_on_a_branch_leaves_the_others(path: Path) -> None:
    with Store.open(path, write=True) as store:
        store.undo(2)
        store.switch("side")
        store.undo()
        view = numbered_store.view(store)
        assert view["lines"] == {"main": [0], "side": [1, 0]}
        assert view["redo"] == [3]
        store.switch("main")
        assert numbered_store.view(store)["redo"] == [2, 1]


def test_bad_names_and_names_that_are_taken(path: Path) -> None:
    with Store.open(path, write=True) as store:
        store.create_tag("v1.0")
        before = files(path)
        for name in ("", "-x", "a b", "a/b", "實驗", "HEAD", "head", "sifu.x", "history.x", "x" * 101, "a~1", ".x"):
            for make in (store.create_branch, store.create_tag):
                with pytest.raises(OptionError, match="cannot be named"):
                    make(name)
        for name, what in (("main", "branch"), ("side", "branch"), ("v1.0", "tag")):
            for make in (store.create_branch, store.create_tag):
                with pytest.raises(OptionError, match=f"there is a {what} {name} already"):
                    make(name)
        with pytest.raises(OptionError, match="no branch 'sied': did you mean side"):
            store.switch("sied")
        with pytest.raises(OptionError, match=r"v1.0 is a tag, which never moves: create a branch there"):
            store.switch("v1.0")
        with pytest.raises(OptionError, match="is the current branch"):
            store.delete_branch("main")
        with pytest.raises(OptionError, match=r"no tag 'v1': did you mean v1\.0"):
            store.delete_tag("v1")
        with pytest.raises(OptionError, match="no branch, no tag and no snapshot"):
            store.create_branch("new", "nowhere")
        assert files(path) == before
        store.switch("side")
        with pytest.raises(OptionError, match="main cannot be deleted"):
            store.delete_branch("main")
        store.delete_tag("v1.0")
        assert store.tree().tags == {}
        with pytest.raises(OptionError, match="cannot be reused"):
            store.create_tag("v1.0")


def test_one_writer_at_a_time(path: Path) -> None:
    with Store.open(path, write=True) as store:
        with pytest.raises(StoreLockedError):
            Store.open(path, write=True)
        small_store.write_page(store, 0, 9.0)
        for change in (store.undo, lambda: store.switch("side"), store.collect_garbage, lambda: store.create_tag("x")):
            with pytest.raises(ValueError, match="uncommitted"):
                change()
    with Store.open(path) as reader, pytest.raises(StoreError, match="opened for reading"):
        reader.undo()


@pytest.mark.parametrize("harm", [Path.unlink, lambda file: file.write_bytes(b"")])
@pytest.mark.parametrize("current", ["main", "side"])
@pytest.mark.parametrize("lost", ["main", "side"])
def test_no_branch_is_lost_with_its_file(path: Path, current: str, lost: str, harm: Callable[[Path], None]) -> None:
    with Store.open(path, write=True) as store:
        store.switch(current)
        expected = numbered_store.view(store)
    harm(ref(path, lost))
    with Store.open(path) as reader:
        assert (reader.branch, content(reader)) == (current, expected["content"])
        assert (reader.recovered_from is not None) == (lost == current or lost == "main")
    with Store.open(path, write=True):
        pass
    with Store.open(path) as reader:
        assert reader.recovered_from is None
        assert numbered_store.view(reader) == expected


@pytest.mark.parametrize("write", [False, True])
def test_a_fallback_brings_nothing_back_that_was_undone(path: Path, *, write: bool) -> None:
    with Store.open(path, write=True) as store:
        store.undo()
        store.create_tag("here")
    ref(path, "main").write_bytes(b"{")
    with Store.open(path, write=write) as store:
        assert store.recovered_from is not None
        assert content(store) == 1.0
        assert numbered_store.view(store)["lines"]["main"] == [1, 0]


def test_a_lost_note_is_said_where_it_matters(path: Path) -> None:
    with Store.open(path, write=True) as store:
        store.switch("side")
    (path / "acknowledged").unlink()
    with Store.open(path) as store:
        assert store.branch == "main"
        assert "the record of the current branch is lost: reading main (`switch()` changes to side)" in str(
            store.recovered_from
        )
    with Store.open(path, write=True) as store:
        store.switch("side")
    with Store.open(path) as store:
        assert (store.branch, store.recovered_from) == ("side", None)


def test_a_note_of_before_there_were_branches_is_read(path: Path) -> None:
    note = json.loads((path / "acknowledged").read_text())
    from sifu_store.repository import _canonical, zlib

    for name in ("branch", "branches", "crc32"):
        del note[name]
    (path / "acknowledged").write_text(json.dumps({**note, "crc32": zlib.crc32(_canonical(note))}))
    ref(path, "main").write_bytes(b"")
    with Store.open(path, write=True) as store:
        assert store.branch == "main" and content(store) == 2.0
        assert numbered_store.view(store)["lines"]["side"] == [3, 1, 0]


def test_going_to_a_damaged_snapshot_changes_nothing(path: Path) -> None:
    with Store.open(path) as store:
        ids = {int(commit.message): commit.snapshot for commit in store.tree().commits}
    for number, change in (
        (1, Store.undo),
        (3, lambda store: store.switch("side")),
        (3, lambda store: store.create_branch("new", "side")),
    ):
        file = path / "repository" / "snapshots" / ids[number]
        whole = file.read_bytes()
        with Store.open(path, write=True) as store:
            file.write_bytes(whole[: len(whole) // 2])
            before = files(path)
            with pytest.raises(StoreDamagedError, match=ids[number]):
                change(store)
            assert files(path) == before
        file.write_bytes(whole)


def test_a_dry_run_says_what_is_freed_and_changes_nothing(path: Path) -> None:
    with Store.open(path, write=True) as store:
        for number in range(10, 14):
            numbered_store.commit(store, number, train=True)
        store.create_tag("kept", "HEAD~2")
    before = files(path)
    with Store.open(path) as reader:
        size_before = reader.size_bytes()
        said = reader.would_collect(1)
        assert [commit.message for commit in said.commits] == ["12", "10", "2"]
        assert said.size_bytes > 3 * 512 * 16 * 4
    assert files(path) == before
    with Store.open(path, write=True) as store:
        done = store.collect_garbage(1)
        assert done == said
        assert numbered_store.view(store)["lines"] == {"main": [13, 11, 1, 0], "side": [3, 1, 0]}
        assert abs((size_before - store.size_bytes()) - said.size_bytes) < 3000  # the names that hold what is kept
        with Store.open(path, at="kept") as old:
            assert content(old) == 11.0
        store.undo()
        assert content(store) == 11.0
        store.undo()
        assert content(store) == 1.0
        store.redo(2)
        assert content(store) == 13.0


def test_what_was_undone_is_kept_until_it_is_dropped(path: Path) -> None:
    with Store.open(path, write=True) as store:
        store.undo(2)
        numbered_store.commit(store, 7, train=False)
        assert store.collect_garbage(0).commits[0].message == "2"
        assert numbered_store.view(store)["undone"] == set()  # 1 is on `side`
        store.undo()
        assert store.collect_garbage(0).commits == ()
        assert numbered_store.view(store)["redo"] == [7]
        assert [c.message for c in store.collect_garbage(0, keep_undone=False).commits] == ["7"]
        with pytest.raises(StoreError, match="nothing to redo"):
            store.redo()
        with pytest.raises(OptionError, match="must not be negative"):
            store.collect_garbage(-1)


def test_a_collection_of_an_earlier_release_that_was_cut_off_is_put_right(path: Path) -> None:
    """It let Icechunk replace snapshot files in place, and kept copies of them."""
    with Store.open(path, write=True) as store:
        for number in range(10, 13):
            numbered_store.commit(store, number, train=True)
        before = numbered_store.view(store)

    after = shutil.copytree(path, path.with_name("after"))
    shutil.copytree(after / "repository" / "snapshots", after / collecting.COPIES_NAME)
    (after / collecting.COPIES_NAME / ".DS_Store").write_text("x")
    for file in (after / "repository" / "snapshots").iterdir():
        file.write_bytes(file.read_bytes()[:10])
    (after / ".ref.0123.tmp").write_text("{")
    (after / ".refs.0123").mkdir()
    with Store.open(after, write=True) as store:
        assert numbered_store.view(store) == before
        assert not list(after.glob("*collecting*")) and not list(after.glob(".ref*"))
        assert not list((after / "repository" / "snapshots").glob(".*"))
        assert store.verify().ok
        store.collect_garbage(1)
        assert numbered_store.view(store)["lines"]["main"] == [12, 1, 0]


def test_a_branch_that_cannot_be_read_stops_a_collection(path: Path) -> None:
    with Store.open(path, write=True) as store:
        (path / "repository" / "refs" / "branch.odd").mkdir()
        ref(path, "odd").write_bytes(b"{")
        with pytest.raises(StoreDamagedError, match="the branch odd cannot be read"):
            store.collect_garbage()
        with pytest.raises(StoreDamagedError, match="the branch odd cannot be read"):
            store.would_collect()
        shutil.rmtree(ref(path, "odd").parent)
        store.create_tag("mine")
        (path / "repository" / "refs" / "tag.mine" / "ref.json").write_bytes(b"")
        store.collect_garbage()  # it is recorded
        assert store.tree().tags == {"mine": store.snapshot} and store.verify().ok
        (path / "repository" / "refs" / "tag.mine" / "ref.json").write_bytes(b"")
        (path / "acknowledged").unlink()
        with pytest.raises(StoreDamagedError, match="the tag mine cannot be read"):
            store.collect_garbage()


def test_tags_of_before_there_were_branches(path: Path) -> None:
    """They held what was kept, in the order of time."""
    with Store.open(path, write=True) as store:
        ids = {int(commit.message): commit.snapshot for commit in store.tree().commits}
        store._repository.create_tag(f"history.{ids[1]}", ids[1])
        store._repository.create_tag(f"history.{ids[0]}", ids[0])
        store._repository.expire_snapshots(store.history()[0].time)
    (path / "acknowledged").unlink()
    with Store.open(path, write=True) as store:
        assert [commit.message for commit in store.history()] == ["2", "1", "0"]
        assert store.tree().tags == {}
        store.undo(2)
        assert content(store) == 0.0


def test_which_pages_changed(path: Path) -> None:
    with Store.open(path, write=True) as store:
        small_store.write_page(store, 1, 5.0)
        store.commit("20", command="edit-edge", changes={})
        side, here = store.resolve("side"), store.snapshot
        assert store.changed_pages(here).tolist() == [False, False]  # type: ignore[union-attr]
        assert store.changed_pages(store.resolve("HEAD~1")).tolist() == [False, True]  # type: ignore[union-attr]
        assert store.changed_pages(side).tolist() == [True, True]  # type: ignore[union-attr]
        first = store.resolve("HEAD~3")
        numbered_store.commit(store, 21, train=True)
        numbered_store.commit(store, 22, train=True)
        store.collect_garbage(1)
        assert store.changed_pages(first) is None  # commits in between are gone
