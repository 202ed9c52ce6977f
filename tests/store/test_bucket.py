"""A store in a bucket, on a real object store: the same as in a folder, several writers, garbage, kept chunks."""

from __future__ import annotations

import contextlib
import re
import shutil
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path
from typing import Any

import icechunk
import numpy as np
import pytest
import small_store
from bucket_store import content, object_store, url
from object_server import ObjectServer, new_url
from sifu_store import Store, chunk_cache, collecting
from sifu_store.errors import (
    OptionError,
    StoreConflictError,
    StoreExistsError,
)
from sifu_store.places import locate, place_of, with_urls
from small import whole

__all__ = ["object_store", "url"]
HERE = Path(__file__).parent


# ---- the same as in a folder


def history(path: str | Path) -> dict[str, object]:
    """Commits and content after every kind of change."""
    small_store.make(path)
    for value in (3.0, 4.0, 5.0):
        small_store.train(path, value)
    seen: list[object] = []
    with Store.open(path, write=True) as store:
        store.undo(2)
        store.redo()
        store.create_tag("v1")
        store.create_branch("other", "HEAD~1")
        store.switch("other")
        small_store.write_page(store, 1, 7.0)
        store.commit("seven", command="edit-edge", changes={})
        seen.append([commit.message for commit in store.history()])
        store.switch("main")
        store.delete_branch("other")
        tree = store.tree()
        messages = {commit.snapshot: commit.message for commit in tree.commits}
        seen.append({name: messages[tip] for name, tip in {**tree.branches, **tree.tags}.items()})
        seen.append(sorted(messages[each] for each in tree.undone))
        seen.append([(commit.message, commit.size_bytes) for commit in tree.commits])
        assert tree.faults == ()
    with Store.open(path) as store:
        assert store.verify().ok
    return {"seen": seen, "content": content(path), "tag": content(path, "v1"), "before": content(path, "HEAD~1")}


def test_a_history_in_a_bucket_is_that_in_a_folder(object_store: ObjectServer, tmp_path: Path) -> None:
    assert history(new_url()) == history(tmp_path / "graph.sifu")


def test_a_new_store_replaces_one_only_when_told(url: str) -> None:
    small_store.train(url, 3.0)
    with Store.open(url, write=True) as store:
        store.create_tag("v1")
    with pytest.raises(StoreExistsError, match="is already a sifu store"):
        Store.create(url)
    before = content(url)
    with Store.create(url, force=True) as store:
        small_store.fill(store, seed=5)
    assert content(url) == before  # closed without a commit
    with Store.create(url, force=True) as store:
        small_store.fill(store, seed=5)
        store.commit("other", command="build-graph", changes={})
    with Store.open(url) as store:
        assert [commit.message for commit in store.history()] == ["other"]
        assert store.tree().tags == {}
        assert store.verify().ok
    assert len(place_of(locate(url)).snapshots()) == 2  # the empty one, and the commit


def test_the_folder_of_a_store_in_a_bucket_says_where_it_is(object_store: ObjectServer) -> None:
    for named in ("s3://bucket/graph.sifu", "s3://bucket/a/b c/春?", "gs://bucket/x", "az://bucket/x"):
        directory = locate(named)
        assert locate(directory) == locate(Path(named)) == directory
        assert str(place_of(directory)) == named
        assert with_urls(f"{directory / 'scratch'}: full, not {directory}.") == f"{named}/scratch: full, not {named}."
    assert locate("s3://bucket/x/") == locate("s3://bucket/x")
    assert locate("graph.sifu") == Path("graph.sifu").resolve()


def test_values_are_the_same_bits(url: str, tmp_path: Path) -> None:
    small_store.make(tmp_path / "s")
    with Store.open(url) as there, Store.open(tmp_path / "s") as here:
        assert there.names() == here.names()
        for name in here.names():
            np.testing.assert_array_equal(whole(there, name), whole(here, name), strict=True)


# ---- several writers


def compete(url: str, rounds: int) -> None:
    """Two processes commit at the same time, on the same commit; one wins, and what the other made is kept."""
    writers = [
        subprocess.Popen(
            [sys.executable, str(HERE / "bucket_writer.py"), url, name],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1,
        )
        for name in ("first", "second")
    ]  # fmt: skip

    def tell() -> list[str]:
        for writer in writers:
            assert writer.stdin is not None
            writer.stdin.write("\n")
            writer.stdin.flush()
        return [writer.stdout.readline().strip() for writer in writers if writer.stdout is not None]

    head, lost = small_store.make(url), set()
    try:
        for _ in range(rounds):
            assert tell() == [head, head]
            said = sorted(tell())
            kept = re.fullmatch(r"lost s3://.* committed (\w{8}) to main first: .* kept as (\w{8}) .*", said[0])
            assert kept is not None, said
            assert said[1].startswith("won "), said
            head = said[1].removeprefix("won ")
            assert head.startswith(kept[1])
            lost.add(kept[2])
    finally:
        for writer in writers:
            writer.communicate()
    with Store.open(url) as store:
        tree = store.tree()
        assert tree.head == head
        assert len(store.history()) == rounds + 1
        assert {snapshot[:8] for snapshot in tree.undone} == lost
        assert store.verify().ok
    for snapshot in sorted(lost)[:3]:
        content(url, snapshot)


def test_of_two_writers_one_wins_and_nothing_is_lost(object_store: ObjectServer) -> None:
    compete(new_url(), 20)


@pytest.mark.slow
def test_of_two_writers_one_wins_two_hundred_times(object_store: ObjectServer) -> None:
    compete(new_url(), 200)


def test_names_are_changed_on_a_condition_too(url: str) -> None:
    small_store.train(url, 3.0)
    with Store.open(url, write=True) as first, Store.open(url, write=True) as second:
        first.create_tag("v1")
        with pytest.raises(OptionError, match="there is a tag v1 already"):
            second.create_tag("v1")
        first.undo()
        with pytest.raises(StoreConflictError, match="another process changed the branch main, which is now at"):
            second.undo()
    place = place_of(locate(url))
    with pytest.raises(StoreConflictError, match="another process changed the tag v1, which is there already"):
        place.point({"tag.v1": first.snapshot[::-1]}, expected={"tag.v1": None})


def test_of_two_who_set_a_name_at_once_one_wins(url: str) -> None:
    snapshots = [small_store.train(url, float(value)) for value in range(3)]
    place, ready = place_of(locate(url)), threading.Barrier(2)

    def set_names(snapshot: str) -> list[str]:
        won = []
        for number in range(20):
            for name, before in ((f"tag.v{number}", None), ("branch.trial", snapshots[2] if number else None)):
                ready.wait()
                with contextlib.suppress(StoreConflictError):
                    place.point({name: snapshot}, expected={name: before})
                    won.append(f"{name} {number}")
                ready.wait()
            place.point({"branch.trial": snapshots[2]})
        return won

    with ThreadPoolExecutor(2) as pool:
        first, second = pool.map(set_names, snapshots[:2])
    assert sorted(first + second) == sorted(f"{name} {k}" for k in range(20) for name in (f"tag.v{k}", "branch.trial"))
    found = place.references()[0]
    assert all(found[f"tag.v{k}"] == snapshots[0 if f"tag.v{k} {k}" in first else 1] for k in range(20))


def test_a_name_whose_reply_was_lost_is_changed(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    import obstore

    real = obstore.put

    def twice(*arguments: object, **options: object) -> object:
        """The first reply is lost, so the client asks again."""
        real(*arguments, **options)
        return real(*arguments, **options)

    with Store.open(url, write=True) as store:
        monkeypatch.setattr(obstore, "put", twice)
        store.create_tag("v1")
        store.create_branch("other")
        store.delete_branch("other")
        assert store.tree().tags == {"v1": store.snapshot}


def test_a_deleted_branch_takes_no_commit_with_it(url: str) -> None:
    with Store.open(url, write=True) as store:
        store.create_branch("other")
        store.switch("other")
    with Store.open(url, write=True) as writer, Store.open(url, write=True) as store:
        small_store.write_page(writer, 0, 9.0)
        store.switch("main")
        made = writer.commit("nine", command="edit-edge", changes={})
        deleted = store.delete_branch("other")  # reads the branch anew
        assert deleted.snapshot == made
        assert made in store.tree().undone


# ---- chunks kept on this machine


def requests_of(url: str, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Keys that are read from the bucket to read a whole store."""
    seen: list[str] = []
    real = icechunk.IcechunkStore.get

    async def get(self: icechunk.IcechunkStore, key: str, *arguments: Any, **options: Any) -> Any:
        found = await real(self, key, *arguments, **options)
        seen.extend([] if found is None else [key])
        return found

    with monkeypatch.context() as patch:
        patch.setattr(icechunk.IcechunkStore, "get", get)
        content(url)
    return [key for key in seen if "/c/" in key]


def test_a_chunk_is_read_once(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chunk_cache, "LEAST_BYTES", 0)
    kept = locate(url) / "chunks"
    before = content(url)
    first = requests_of(url, monkeypatch)
    assert all(key.startswith("checksums/") for key in first)
    small_store.train(url, 3.0)
    after = content(url)
    assert after != before and content(url, "HEAD~1") == before
    assert all(key.startswith("checksums/") for key in requests_of(url, monkeypatch))
    for file in kept.iterdir():  # damaged files are not used
        file.write_bytes(file.read_bytes()[:-1] + b"?")
    assert content(url) == after
    shutil.rmtree(kept)
    assert len(requests_of(url, monkeypatch)) > len(first)
    assert content(url) == after


def test_kept_chunks_stay_within_their_budget(tmp_path: Path) -> None:
    cache = chunk_cache.ChunkCache(tmp_path / "c", 100_000)
    rng = np.random.default_rng(0)
    chunks = {f"edges/weight/c/{k}/0/0": rng.bytes(9_000) for k in range(40)}
    for number, (key, data) in enumerate(chunks.items()):
        cache.put(key, number, data)
        first = cache.get("edges/weight/c/0/0/0", 0)
        assert first == chunks["edges/weight/c/0/0/0"]  # used all the time
        assert sum(file.stat().st_size for file in (tmp_path / "c").iterdir()) <= 100_000
    found = [cache.get(key, number) for number, key in enumerate(chunks)]
    assert all(data in (None, expected) for data, expected in zip(found, chunks.values(), strict=True))
    assert 5 < sum(data is not None for data in found) < 12
    assert cache.get("edges/weight/c/39/0/0", 38) is None  # another content
    cache.put("edges/weight/c/50/0/0", 50, rng.bytes(200_000))
    assert cache.get("edges/weight/c/50/0/0", 50) is None


def test_no_chunk_is_kept_where_the_budget_is_0(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chunk_cache, "LEAST_BYTES", 0)
    monkeypatch.setenv("SIFU_BUCKET_CACHE_GIB", "0")
    shutil.rmtree(locate(url) / "chunks", ignore_errors=True)
    assert len(requests_of(url, monkeypatch)) == len(requests_of(url, monkeypatch)) > 10
    monkeypatch.setenv("SIFU_BUCKET_CACHE_GIB", "much")
    with pytest.raises(OptionError, match="expected a number of GiB"):
        Store.open(url)


# ---- garbage


def test_garbage_is_collected_as_in_a_folder(
    object_store: ObjectServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def collected(path: str | Path) -> Any:
        small_store.make(path)
        for value in range(6):
            small_store.train(path, float(value))
        small_store.train(path, 7.0, command="edit-edge")
        small_store.train(path, 8.0)
        with Store.open(path, write=True) as store:
            store.undo()
            store.create_tag("v1", "HEAD~3")
            garbage = store.collect_garbage(1)
        with Store.open(path) as store:
            assert store.verify().ok
            tree = store.tree()
            assert len(place_of(store.path).snapshots()) == len(tree.commits) + 1
            kept = [(commit.message, commit.kind) for commit in tree.commits]
            dropped = [commit.message for commit in garbage.commits]
            history = [commit.message for commit in store.history()]
        return kept, dropped, history, garbage.snapshots, garbage.chunks, content(path, "v1"), content(path)

    monkeypatch.setattr(collecting, "GRACE", timedelta(0))
    assert collected(new_url()) == collected(tmp_path / "s")


def test_what_is_young_is_not_garbage_yet(url: str) -> None:
    for value in range(5):
        small_store.train(url, float(value))
    with Store.open(url, write=True) as writer, Store.open(url, write=True) as other:
        small_store.write_page(writer, 1, 9.0)  # written, and not committed
        garbage = other.collect_garbage(1)
        assert (len(garbage.commits), garbage.snapshots, garbage.chunks) == (4, 0, 0)
        writer.commit("nine", command="edit-edge", changes={})
    with Store.open(url) as store:
        assert [commit.message for commit in store.history()] == ["nine", "step 4.0", "build"]
        assert store.verify().ok
