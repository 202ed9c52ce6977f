"""A store in a bucket, and what it holds, for the tests of stores in buckets."""

from __future__ import annotations

from pathlib import Path

import crash_child
import pytest
import small_store
from bucket_fixtures import object_store
from object_server import ObjectServer, new_url
from sifu_store import Store

__all__ = ["object_store"]


@pytest.fixture
def url(object_store: ObjectServer) -> str:
    """A store with one commit."""
    name = new_url()
    small_store.make(name)
    return name


def content(path: str | Path, at: str | None = None) -> str:
    """A hash of everything in a snapshot."""
    with Store.open(path, at=at) as store:
        return crash_child.content_hash(store)
