"""Faults of a bucket, on a real object store: killed writers and servers, refusals, lost and late replies."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import object_server
import pytest
import small_store
from bad_network import BadNetwork
from bucket_store import content, object_store, url
from object_server import ObjectServer, new_url
from sifu_store import Store
from sifu_store.errors import (
    OptionError,
    StoreError,
    StoreNotFoundError,
    StoreUnreachableError,
)

__all__ = ["object_store", "url"]
HERE = Path(__file__).parent


# ---- crashes


def test_a_killed_writer_loses_nothing_that_it_acknowledged(object_store: ObjectServer) -> None:
    url = new_url()
    small_store.make(url)
    last, expected = "", content(url)
    for round_ in range(4):
        child = subprocess.Popen(
            [sys.executable, str(HERE / "crash_child.py"), url, str(round_)], stdout=subprocess.PIPE, text=True
        )
        assert child.stdout is not None
        lines = [child.stdout.readline() for _ in range(2)]
        time.sleep(0.05 * round_)
        child.send_signal(signal.SIGKILL)
        lines += child.stdout.readlines()
        child.communicate()
        acknowledged = [line.split() for line in lines if line.endswith("\n")]
        last, expected = acknowledged[-1][0], acknowledged[-1][2]
        with Store.open(url) as store:
            messages = [commit.snapshot for commit in store.history()]
            assert last in messages[:2]  # at most one commit was made and not yet reported
            assert store.verify().ok
        assert content(url, last) == expected


def test_a_killed_server_is_an_error_within_seconds_and_loses_nothing(
    tmp_path: Path, object_store: ObjectServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = ObjectServer(tmp_path / "server")
    object_server.enter(monkeypatch, server, tmp_path / "cache")
    url = new_url()
    small_store.make(url)
    made = small_store.train(url, 3.0)
    before = content(url)
    with Store.open(url, write=True) as store:
        small_store.write_page(store, 1, 4.0)
        server.kill()
        began = time.monotonic()
        with pytest.raises(StoreUnreachableError, match=r"cannot be reached \(no connection\): check the network"):
            store.commit("lost", command="train", changes={})
        assert time.monotonic() - began < 60
    with pytest.raises(StoreUnreachableError):
        Store.open(url)
    server.start()
    try:
        with Store.open(url) as store:
            assert store.snapshot == made
            assert store.verify().ok
        assert content(url) == before
        small_store.train(url, 5.0)
    finally:
        server.kill()


# ---- refusals


def test_wrong_credentials_missing_buckets_and_addresses_are_named(
    url: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name, value, expected, kind in (
        (
            "AWS_SECRET_ACCESS_KEY",
            "wrong",
            r"denies access \(SignatureDoesNotMatch: ",
            StoreUnreachableError,
        ),
        ("AWS_ACCESS_KEY_ID", "wrong", r"denies access \(InvalidAccessKeyId", StoreUnreachableError),
        ("AWS_ACCESS_KEY_ID", "", "there are no credentials in the environment", StoreUnreachableError),
        ("SIFU_S3_ENDPOINT", "http://127.0.0.1:1", r"cannot be reached \(no connection\)", StoreUnreachableError),
        ("SIFU_S3_ENDPOINT", "127.0.0.1:1", "expected http://HOST:PORT or https://HOST", OptionError),
    ):
        with monkeypatch.context() as patch:
            patch.setenv(name, value)
            for attempt in (lambda: Store.open(url), lambda: Store.open(url, write=True), lambda: Store.create(url)):
                began = time.monotonic()
                with pytest.raises(kind, match=expected):
                    attempt()
                assert time.monotonic() - began < 30
    with pytest.raises(StoreNotFoundError, match=r"there is no bucket nowhere at http://127\.0\.0\.1:\d+: create it"):
        Store.open("s3://nowhere/graph")
    with pytest.raises(StoreNotFoundError, match="has no store: create one"):
        Store.open(f"{url}-other")
    for wrong in ("s3://", "s3://bucket", "s3:///path"):
        with pytest.raises(OptionError, match="names no store: expected s3://BUCKET/PATH"):
            Store.open(wrong)


def test_a_wrong_clock_is_named(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    import obstore

    def refused(*arguments: object) -> None:
        raise obstore.exceptions.PermissionDeniedError(
            "403 Forbidden: <Error><Code>RequestTimeTooSkewed</Code><Message>The difference is too large.</Message>"
        )

    monkeypatch.setattr(obstore, "get", refused)
    with pytest.raises(StoreUnreachableError, match=r"the clock of this machine is wrong .*too large\): correct it"):
        Store.open(url)


def test_a_server_without_conditional_writes_is_refused(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    import obstore

    real = obstore.put
    monkeypatch.setattr(obstore, "put", lambda store, path, data, mode="overwrite": real(store, path, data))
    for attempt in (lambda: Store.open(url, write=True), lambda: Store.create(new_url())):
        with pytest.raises(StoreError, match=r"the server ignores the conditions .*: no store is written there"):
            attempt()
    assert Store.open(url).verify().ok  # it can be read


# ---- a bad network


def commits_through(network: BadNetwork, url: str, count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Commits, tags and undo and redo, of which every one that is acknowledged is there in the end."""
    made: list[str] = []
    with monkeypatch.context() as patch:
        patch.setenv("SIFU_S3_ENDPOINT", network.endpoint)
        small_store.make(url)
        for number in range(count):
            with Store.open(url, write=True) as store:
                small_store.write_page(store, 0, float(number))
                made.append(store.commit(str(number), command="train", changes={}))
                store.create_tag(f"v{number}")
                if number % 5 == 4:
                    store.undo()
                    store.redo()
    with Store.open(url) as store:
        assert [commit.snapshot for commit in store.history()][:-1] == made[::-1]
        tree = store.tree()
        assert tree.tags == {f"v{number}": snapshot for number, snapshot in enumerate(made)}
        assert (tree.faults, tree.undone) == ((), frozenset())
        assert store.verify().ok


def test_replies_that_are_lost_lose_no_commit(object_store: ObjectServer, monkeypatch: pytest.MonkeyPatch) -> None:
    with BadNetwork(object_store.endpoint, lost=0.03) as network:
        commits_through(network, new_url(), 10, monkeypatch)
        assert network.losses > 3


@pytest.mark.slow
def test_late_and_lost_replies_lose_no_commit(object_store: ObjectServer, monkeypatch: pytest.MonkeyPatch) -> None:
    with BadNetwork(object_store.endpoint, lost=0.01, late_s=0.05) as network:
        commits_through(network, new_url(), 50, monkeypatch)
        assert network.losses > 10
