"""References that are lost or damaged, and files among them that are no references: nothing needed is lost."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numbered_store
import pytest
from sifu_store import Store
from sifu_store.errors import OptionError, StoreDamagedError, StoreError

STRAYS = [
    "refs/.DS_Store",
    "refs/note~",
    "refs/branch.note",
    "refs/folder/x",
    "refs/branch.main/.DS_Store",
    "refs/branch.main/ref (conflicted copy).json",
    "refs/tag.t/.DS_Store",
    "snapshots/.DS_Store",
    "snapshots/note~",
    "chunks/.DS_Store",
    "chunks/folder/x",
    "manifests/.DS_Store",
    "transactions/.DS_Store",
    ".DS_Store",
]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """On main: 0, an edit 1, and training 2 to 5 of which 2 and 3 were deleted; a branch at 1, a tag at 5."""
    path = tmp_path / "s"
    numbered_store.make(path)
    with Store.open(path, write=True) as store:
        numbered_store.commit(store, 1, train=False)
        store.create_branch("side")
        for number in range(2, 6):
            numbered_store.commit(store, number, train=True)
        store.create_tag("t")
        assert len(store.collect_garbage().commits) == 2
    return path


def lines(path: Path) -> dict[str, list[int]]:
    with Store.open(path) as store:
        found: dict[str, list[int]] = numbered_store.view(store)["lines"]
    return found


def reference(path: Path, name: str) -> Path:
    return path / "repository" / "refs" / name


def before(path: Path) -> str:
    """The directory of the one reference that connects commits 4 and 1; 1 and 0 were connected by the repository."""
    (found,) = (
        each.name
        for each in (path / "repository" / "refs").glob("branch.sifu.before.*")
        if each.name.endswith(head_with(path, "4"))
    )
    return str(found)


def head_with(path: Path, message: str) -> str:
    with Store.open(path) as store:
        return next(commit.snapshot for commit in store.tree().commits if commit.message == message)


def damage(folder: Path) -> None:
    (folder / "ref.json").write_bytes(b'{"snapshot"')


def empty(folder: Path) -> None:
    (folder / "ref.json").write_bytes(b"")


def other_content(folder: Path) -> None:
    (folder / "ref.json").write_text(json.dumps({"snapshot": "../../x"}))


def without_file(folder: Path) -> None:
    (folder / "ref.json").unlink()


def link_of_another(folder: Path) -> None:
    """A link to a reference that can be read."""
    other = next(each for each in sorted(folder.parent.glob("*/ref.json")) if each.parent != folder)
    (folder / "ref.json").unlink()
    (folder / "ref.json").symlink_to(other)


HARMS = [damage, empty, other_content, without_file, link_of_another, shutil.rmtree]


@pytest.mark.parametrize("stray", STRAYS)
def test_a_stray_file_changes_nothing(path: Path, stray: str) -> None:
    file = path / "repository" / stray
    file.parent.mkdir(exist_ok=True)
    file.write_bytes(b"x")
    with Store.open(path) as store:
        assert store.verify().ok and store.tree().faults == ()
        assert store.would_collect(1).snapshots == 1
        assert store.resolve("t~2") == store.resolve("side")
        with pytest.raises(OptionError):
            store.resolve("note")
    with Store.open(path, write=True) as store:
        numbered_store.commit(store, 6, train=True)
        store.undo()
        store.redo()
        store.create_branch("more")
        store.create_tag("u")
        store.switch("more")
        store.delete_tag("u")
        store.switch("main")
        store.delete_branch("more")
        assert [commit.message for commit in store.collect_garbage(1).commits] == ["4"]  # 5 has a tag
    with Store.open(path) as store:
        assert store.verify().ok
    assert lines(path) == {"main": [6, 5, 1, 0], "side": [1, 0]}
    assert file.read_bytes() == b"x"


@pytest.mark.parametrize("harm", HARMS)
@pytest.mark.parametrize("kind", ["before", "main", "side", "tag"])
def test_a_recorded_reference_is_reported_and_restored(path: Path, harm: Callable[[Path], None], kind: str) -> None:
    names = {"before": before(path), "main": "branch.main", "side": "branch.side", "tag": "tag.t"}
    view, folder = lines(path), reference(path, names[kind])
    content = json.loads((folder / "ref.json").read_bytes())
    harm(folder)
    with Store.open(path) as store:
        assert len(store.tree().faults) == len(store.verify().damage) == (0 if kind == "main" else 1)
        assert (store.recovered_from is not None) == (kind == "main")
        assert store.tree().tags.keys() == {"t"}
        assert store.would_repair().actions
    assert lines(path) == view
    with Store.open(path, write=True) as store:
        store.collect_garbage()
        assert store.verify().ok
    assert json.loads((folder / "ref.json").read_bytes()) == content
    with Store.open(path) as store:
        assert not store.would_repair().actions
    assert lines(path) == view


@pytest.mark.parametrize("harm", HARMS)
def test_a_lost_connection_without_a_record(path: Path, harm: Callable[[Path], None]) -> None:
    """The line of commits is reported, nothing is deleted, and a repair connects it again."""
    with Store.open(path, write=True) as store:
        store.delete_branch("side")  # now only the connection reaches commits 1 and 0
    view = lines(path)
    harm(reference(path, before(path)))
    (path / "acknowledged").unlink()
    with Store.open(path) as store:
        assert any("the commit before" in fault for fault in store.tree().faults)
        assert any("the commit before" in each.reason for each in store.verify().damage)
        for refused in (store.would_undo, store.would_undo):
            with pytest.raises(StoreDamagedError, match=r"not known.*`Store.repair\(\)`"):
                refused(2)
        planned = store.would_repair()
        assert any("(1) becomes the commit before" in line for line in planned.actions) or planned.names
    with Store.open(path, write=True) as store:
        with pytest.raises(StoreDamagedError, match=r"nothing was deleted; .*`Store.repair\(\)`"):
            store.collect_garbage(0)
        store.repair()
        assert store.verify().ok
        store.collect_garbage(1)
    assert lines(path) == {"main": [5, 1, 0]} and view == {"main": [5, 4, 1, 0]}


def test_commits_of_a_damaged_name_become_undone_commits(path: Path) -> None:
    with Store.open(path, write=True) as store:
        store.switch("side")
        numbered_store.commit(store, 7, train=False)
        store.switch("main")
    damage(reference(path, "branch.side"))
    damage(reference(path, "tag.t"))
    (path / "acknowledged").unlink()
    with Store.open(path) as store:
        assert [fault.split(" (")[0] for fault in store.tree().faults] == [
            "the branch side cannot be read",
            "the tag t cannot be read",
        ]
    with Store.open(path, write=True) as store:
        with pytest.raises(OptionError, match="damaged"):
            store.create_branch("side")
        store.repair()
        assert store.verify().ok
        store.collect_garbage(1)
        assert numbered_store.view(store)["undone"] == {7}
        (tip,) = store.tree().undone
        store.create_branch("side", tip)
    assert lines(path) == {"main": [5, 1, 0], "side": [7, 1, 0]}


def test_a_line_whose_beginning_is_gone(path: Path) -> None:
    """A repair can only say so; then garbage can be collected again."""
    first, second = head_with(path, "0"), head_with(path, "1")
    shutil.rmtree(reference(path, "branch.side"))
    shutil.rmtree(reference(path, before(path)))
    for snapshot in (first, second):
        (path / "repository" / "snapshots" / snapshot).unlink()
    (path / "acknowledged").unlink()
    with Store.open(path, write=True) as store:
        assert any("becomes the first commit" in line for line in store.repair().actions)
        assert store.verify().ok and store.tree().faults == ()
        store.collect_garbage(1)
        numbered_store.commit(store, 6, train=True)
        store.collect_garbage(1)
        assert store.verify().ok
    assert lines(path) == {"main": [6, 5]}


def test_a_tag_of_a_commit_that_cannot_be_read(path: Path) -> None:
    """It is reported, the other commits are listed, and nothing is deleted."""
    five = head_with(path, "5")
    with Store.open(path, write=True) as store:
        numbered_store.commit(store, 6, train=True)
        store.undo(2)
        store.create_branch("here")
    (path / "repository" / "snapshots" / five).write_bytes(b"x")
    with Store.open(path) as store:
        tree = store.tree()
        assert tree.tags == {} and {"4", "1", "0"} <= {commit.message for commit in tree.commits}
        assert any(five in fault and "the tag t" in fault for fault in tree.faults)
        assert not store.verify().ok and any(five in line for line in store.would_repair().left)
    with Store.open(path, write=True) as store, pytest.raises(StoreDamagedError, match="nothing was deleted"):
        store.collect_garbage(0)


def test_all_connections_are_lost(path: Path) -> None:
    """The commits come in the order of their times again; where two lines parted is not known."""
    with Store.open(path, write=True) as store:
        store.switch("side")
        numbered_store.commit(store, 7, train=False)
        store.switch("main")
        store.create_tag("u", "HEAD~2")
        for number in range(8, 12):
            numbered_store.commit(store, number, train=number != 9)
        store.collect_garbage(1)
    view = lines(path)
    assert view == {"main": [11, 9, 5, 1, 0], "side": [7, 1, 0]}
    for folder in (path / "repository" / "refs").glob("branch.sifu.before.*"):
        damage(folder)
    (path / "acknowledged").unlink()
    with Store.open(path, write=True) as store:
        store.repair()
        assert store.verify().ok and store.tree().faults == ()
        store.collect_garbage(1)
        assert store.verify().ok
    repaired = lines(path)
    assert repaired == {"main": [11, 9, 5, 0], "side": [7, 1, 0]}


@pytest.mark.parametrize("folder", ["snapshots", "manifests", "chunks"])
@pytest.mark.parametrize("target", ["/dev/zero", "a copy"])
def test_a_linked_file_is_refused_before_it_is_read(path: Path, folder: str, target: str, tmp_path: Path) -> None:
    file = next(
        each for each in sorted((path / "repository" / folder).iterdir()) if each.name != "1CECHNKREP0F1RSTCMT0"
    )
    copy = shutil.copy(file, tmp_path / "copy")
    file.unlink()
    file.symlink_to(copy if target == "a copy" else target)
    for write in (False, True):
        with pytest.raises(StoreError, match="is a symbolic link"):
            Store.open(path, write=write)
