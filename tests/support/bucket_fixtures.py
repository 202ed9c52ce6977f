"""The object store that the tests of a file share. It is started when the first of them needs it."""

from __future__ import annotations

from collections.abc import Iterator

import needs
import object_server
import pytest


@pytest.fixture(scope="module")
def object_store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[object_server.ObjectServer]:
    """A server; this process uses it, with a cache folder of its own."""
    if object_server.program() is None:
        pytest.skip(needs.OBJECT_SERVER)
    pytest.importorskip("obstore", reason=needs.OBJECT_SERVER)
    server = object_server.ObjectServer(tmp_path_factory.mktemp("server"))
    with pytest.MonkeyPatch.context() as patch:
        object_server.enter(patch, server, tmp_path_factory.mktemp("cache"))
        yield server
    server.kill()
