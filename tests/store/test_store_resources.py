"""A small limit of the address space: refused before a collection of garbage, in which Icechunk may wait for ever."""

from __future__ import annotations

from pathlib import Path

import pytest
import small_store
from sifu_store import Store, durable
from sifu_store.errors import ResourceError

resource = pytest.importorskip("resource")  # not on Windows


def test_few_addresses_are_refused_before_a_collection(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "s"
    small_store.make(path)
    for value in (2.0, 3.0):
        small_store.train(path, value)
    limits = {"ulimit -v": 500_000 << 10}
    monkeypatch.setattr(durable, "_address_limit", lambda: limits["ulimit -v"])
    with Store.open(path, write=True) as store:
        before = [commit.snapshot for commit in store.history()]
        for collect in (store.would_collect, store.collect_garbage):
            with pytest.raises(ResourceError, match=r"may take 488.3 MiB of address space, .* need 1.5 GiB: raise the"):
                collect(0)
        assert [commit.snapshot for commit in store.history()] == before and store.verify().ok
        limits["ulimit -v"] = durable.LEAST_ADDRESSES_BYTES
        assert store.collect_garbage(0).snapshots == 1


def test_no_limit_is_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda kind: (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    assert durable.few_addresses() is None
    monkeypatch.setattr(resource, "getrlimit", lambda kind: (1 << 30, 1 << 30))
    assert durable.few_addresses() is not None
