"""A server that answers in a thread of the test process."""

from __future__ import annotations

import contextlib
import http.client
import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sifu_graph.serve import running
from sifu_graph.serve.served_graph import ServedGraph


@dataclass(frozen=True)
class Running:
    """A server that answers."""

    path: Path
    port: int

    def post(self, body: Any, *, path: str = "/v1/completions", **headers: str) -> tuple[int, dict[str, Any]]:
        """The status and the body of the answer to a request; ``body`` is bytes or becomes JSON."""
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        return self.ask("POST", path, content, **headers)

    def ask(self, method: str, path: str, content: bytes | None = None, **headers: str) -> tuple[int, dict[str, Any]]:
        with contextlib.closing(http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)) as connection:
            connection.request(method, path, content, headers)
            answer = connection.getresponse()
            found = answer.read()
            return answer.status, json.loads(found) if found.startswith(b"{") else {"text": found.decode()}


@contextlib.contextmanager
def serving(path: Path, **options: Any) -> Iterator[Running]:
    """Serves a graph from a thread."""
    answers = threading.Event()
    with running.listen("127.0.0.1", 0) as sock:
        server = running.make(ServedGraph(path), ready=answers.set, **options)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [sock]})
        thread.start()
        try:
            assert answers.wait(30)
            yield Running(path, sock.getsockname()[1])
        finally:
            server.should_exit = True
            thread.join(30)
            assert not thread.is_alive()
