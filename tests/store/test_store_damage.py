"""Damage is found, named, and survived where there is something to fall back to."""

from __future__ import annotations

import json
import random
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import crash_child
import numpy as np
import pytest
import small_store
from sifu_store import FORMAT_VERSION, Store
from sifu_store.errors import StoreDamagedError, StoreVersionError


def truncate(file: Path) -> None:
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def flip(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 0x10
    file.write_bytes(content)


def head_file(path: Path, kind: str, snapshot: str) -> Path:
    if kind == "ref":
        return path / "repository" / "refs" / "branch.main" / "ref.json"
    if kind == "snapshot":
        return path / "repository" / "snapshots" / snapshot
    with Store.open(path) as store:
        manifests = store._repository.lookup_snapshot(snapshot).manifests
    # the one that no earlier snapshot has: only that is lost with the head
    newest = max(manifests, key=lambda m: (path / "repository" / "manifests" / m.id).stat().st_mtime_ns)
    return path / "repository" / "manifests" / newest.id


def unacknowledged_commit(path: Path) -> tuple[str, str]:
    """Two commits, of which only the first is acknowledged: a writer was killed in between."""
    small_store.make(path)
    first = small_store.train(path, 5.0)
    note = (path / "acknowledged").read_bytes()
    second = small_store.train(path, 6.0)
    (path / "acknowledged").write_bytes(note)
    return first, second


def test_a_readable_head_wins(tmp_path: Path) -> None:
    _, second = unacknowledged_commit(tmp_path / "s")
    with Store.open(tmp_path / "s") as store:
        assert store.snapshot == second and store.recovered_from is None
    assert json.loads((tmp_path / "s" / "acknowledged").read_text())["snapshot"] != second
    with Store.open(tmp_path / "s", write=True) as store:
        assert store.snapshot == second
    assert json.loads((tmp_path / "s" / "acknowledged").read_text())["snapshot"] == second


@pytest.mark.parametrize("kind", ["ref", "snapshot", "manifest"])
@pytest.mark.parametrize("harm", [truncate, Path.unlink])
def test_fallback(tmp_path: Path, kind: str, harm: Callable[[Path], None]) -> None:
    path = tmp_path / "s"
    first, second = unacknowledged_commit(path)
    harm(head_file(path, kind, second))
    with Store.open(path) as store:  # changes nothing
        assert store.snapshot == first and store.read_page("edges/bias", 0)[0, 1] == 5.0
        assert store.recovered_from is not None and first in store.recovered_from
        assert store.verify().ok and len(store.history()) == 2
    with Store.open(path, write=True) as store:
        assert store.recovered_from is not None and store.snapshot == first
        small_store.write_page(store, 1, 8.0)
        third = store.commit("on", command="train", changes={})
    with Store.open(path) as store:
        assert store.recovered_from is None and store.snapshot == third and store.verify().ok
        assert second not in [commit.snapshot for commit in store.history()]


@pytest.mark.parametrize("kind", ["snapshot", "manifest"])
def test_no_fallback_from_the_acknowledged_snapshot_itself(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "s"
    first = small_store.make(path)
    second = small_store.train(path, 5.0)
    flip(head_file(path, kind, second))
    for write in (False, True):
        with pytest.raises(StoreDamagedError, match=f"backup, or open the commit before it .{first}"):
            Store.open(path, write=write)
    with Store.open(path, at=first) as store:
        assert store.read_page("edges/bias", 0)[0, 1] == 1.0


def test_a_lost_older_snapshot_is_reported(tmp_path: Path) -> None:
    path = tmp_path / "s"
    first = small_store.make(path)
    small_store.train(path, 5.0)
    (path / "repository" / "snapshots" / first).unlink()
    with Store.open(path) as store:
        (damage,) = store.verify().damage
        assert damage.array == "history" and "current snapshot is not affected" in damage.reason


def test_a_lost_branch_and_no_note(tmp_path: Path) -> None:
    snapshot = small_store.make(tmp_path / "s")
    (tmp_path / "s" / "acknowledged").unlink()
    with Store.open(tmp_path / "s") as store:
        assert store.snapshot == snapshot
    truncate(head_file(tmp_path / "s", "ref", snapshot))
    with pytest.raises(StoreDamagedError, match="backup"):
        Store.open(tmp_path / "s")
    with Store.open(tmp_path / "s", at=snapshot) as store:
        (damage,) = store.verify().damage
        assert damage.reason == "the branch main cannot be read (its file ref.json is damaged)"


@pytest.mark.parametrize(
    ("harm", "reason"),
    [(flip, "checksum does not match"), (truncate, "too short"), (Path.unlink, "missing")],
)
def test_a_damaged_page_is_named(tmp_path: Path, harm: Callable[[Path], None], reason: str) -> None:
    path = tmp_path / "s"
    small_store.make(path)
    file = small_store.data_file(path, "edges/weight", 2)
    harm(file)
    with Store.open(path) as store:
        assert store.read_page("edges/weight", 0).any()
        for read in (
            lambda: store.read_page("edges/weight", 2),
            lambda: store.read_pages("edges/weight", 0, 3),
            lambda: store.read_pages("edges/weight", 0, 3, out=np.empty((1300, 4, 4), np.float32)),
        ):
            with pytest.raises(StoreDamagedError, match=reason) as caught:
                read()
            message = str(caught.value)
            assert message.startswith("edges/weight, page 2 (rows 1024 to 1299): ") and str(file) in message
            assert "\n" not in message and caught.value.__notes__
        report = store.verify()
        (damage,) = report.damage
        assert not report.ok
        assert (damage.array, damage.page, damage.slots, damage.path) == (
            "edges/weight",
            2,
            (1024, 1300),
            str(file),
        )


def test_a_damaged_index_is_named(tmp_path: Path) -> None:
    path = tmp_path / "s"
    small_store.make(path)
    files = [file for file in (path / "repository" / "chunks").iterdir() if file.stat().st_size < 5000]
    for file in files:
        flip(file)
    with Store.open(path) as store:
        with pytest.raises(StoreDamagedError, match=r"edges/target, page 0 \(rows 0 to 1299\)"):
            store.read("edges/target")
        assert "edges/target" in {damage.array for damage in store.verify().damage}


def test_damage_to_the_note_alone_does_no_harm(tmp_path: Path) -> None:
    path = tmp_path / "s"
    snapshot = small_store.make(path)
    note = path / "acknowledged"
    sound = note.read_text()
    for harmed in (
        "",
        "[]",
        sound.replace('"files"', '"fires"'),
        re.sub(r"(snapshots/\w+\": )\d", r"\g<1>9", sound),
    ):
        note.write_text(harmed)
        with Store.open(path) as store:
            assert store.snapshot == snapshot and store.verify().ok
    with Store.open(path, write=True):
        pass
    assert json.loads(note.read_text())["snapshot"] == snapshot


def test_one_flipped_bit_is_never_silent(tmp_path: Path) -> None:
    sound, path = tmp_path / "sound", tmp_path / "s"
    small_store.make(sound)
    small_store.train(sound, 5.0)
    with Store.open(sound) as store:
        snapshot, settings, content = store.snapshot, store.settings, crash_child.content_hash(store)
    choice = random.Random(0)
    for _ in range(20):
        shutil.copytree(sound, path)
        folder = choice.choice(sorted((path / "repository").iterdir()))
        files = [path / "acknowledged", *sorted(file for file in folder.rglob("*") if file.is_file())]
        file = choice.choice(files)
        harmed = bytearray(file.read_bytes())
        harmed[choice.randrange(len(harmed))] ^= 1 << choice.randrange(8)
        file.write_bytes(harmed)
        try:
            with Store.open(path) as store:
                if store.verify().ok:
                    assert (store.snapshot, store.settings) == (snapshot, settings)
                    assert crash_child.content_hash(store) == content
        except StoreDamagedError:
            assert file != path / "acknowledged"
        shutil.rmtree(path)


def test_a_newer_format(tmp_path: Path) -> None:
    path = tmp_path / "s"
    small_store.make(path)
    with Store.open(path, write=True) as store:
        store._group.attrs.update({"format_version": FORMAT_VERSION + 1})
        store.commit("from the future", command="build-graph", changes={})
    for options in ({}, {"write": True}):
        with pytest.raises(StoreVersionError, match=rf"version {FORMAT_VERSION + 1}, .* up to {FORMAT_VERSION}:"):
            Store.open(path, **options)


@pytest.mark.parametrize(
    ("name", "slot", "value", "reason"),
    [
        ("edges/source", 7, 60, "1 slots refer to no node, the first is slot 7: 60"),
        ("edges/target", 8, -2, "1 slots refer to no node"),
        ("edges/target", 9, -1, "free in only one of"),
        ("edges/count", 10, -5, "1 negative counts"),
        ("nodes/count", 0, -5, "1 negative counts"),
    ],
)
def test_verify_checks_the_index(tmp_path: Path, name: str, slot: int, value: int, reason: str) -> None:
    small_store.make(tmp_path / "s")
    with Store.open(tmp_path / "s", write=True) as store:
        content = store.read(name)
        content[slot] = value
        store.write(name, content)
        store.commit("harm", command="edit", changes={})
        (damage,) = store.verify().damage
    assert re.search(reason, damage.reason)


def test_verify_checks_edges_free_slots_json_and_pages(tmp_path: Path) -> None:
    small_store.make(tmp_path / "s")
    calls: list[tuple[int, int]] = []
    with Store.open(tmp_path / "s", write=True) as store:
        for name in ("edges/source", "edges/target", "edges/count"):
            content = store.read(name)
            content[20] = content[900]
            store.write(name, content)
        source, target = int(store.read("edges/source")[20]), int(store.read("edges/target")[20])
        store.write("nodes/tokenizer", np.frombuffer(b"{", np.uint8))
        store.write_json("nodes/vocabulary", [1, 2])
        store.write("pages/stored", np.array([1, 1, 0], np.uint8))  # page 1 has no chunk; that of page 2 is dropped
        store.commit("harm", command="edit", changes={})
        report = store.verify(progress=lambda done, total: calls.append((done, total)))
    text = "\n".join(str(damage) for damage in report.damage)
    assert f"1 edges have two slots, the first is ({source}, {target})" in text
    assert "nodes/tokenizer: not JSON" in text and "2 node objects for 60 nodes" in text
    assert text.count("marked as stored, but has no chunk") == 2
    assert calls[-1][0] == calls[-1][1]
