"""A bad network between a client and a server on this machine: replies are late, and some never arrive."""

from __future__ import annotations

import contextlib
import random
import socket
import threading
import time
from types import TracebackType
from typing import Self


class BadNetwork:
    """Forwards connections to a server. A reply that does not arrive is one to a request that the server carried out.

    Parameters
    ----------
    endpoint
        Address of the server: `http://127.0.0.1:PORT`.
    lost
        Share of the replies that are lost, with their connection.
    late_s
        Time that each reply takes longer.
    """

    def __init__(self, endpoint: str, *, lost: float = 0.0, late_s: float = 0.0, seed: int = 0) -> None:
        self._server = ("127.0.0.1", int(endpoint.rpartition(":")[2]))
        self._lost, self._late_s, self._draw = lost, late_s, random.Random(seed)
        self.losses = self.replies = 0
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.endpoint = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self._open: list[socket.socket] = []
        self._accepting = threading.Thread(target=self._accept)
        self._accepting.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._accepting.join()
        for each in self._open:
            _close(each)

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            server = socket.create_connection(self._server)
            self._open += [client, server]
            asked = threading.Event()
            for pump, arguments in ((self._ask, (client, server, asked)), (self._reply, (server, client, asked))):
                threading.Thread(target=pump, args=arguments, daemon=True).start()

    def _ask(self, client: socket.socket, server: socket.socket, asked: threading.Event) -> None:
        with contextlib.suppress(OSError):
            while data := client.recv(1 << 16):
                asked.set()
                server.sendall(data)
        _close(server)

    def _reply(self, server: socket.socket, client: socket.socket, asked: threading.Event) -> None:
        try:
            while data := server.recv(1 << 16):
                if asked.is_set() and not data.startswith(b"HTTP/1.1 100"):  # the beginning of a reply
                    asked.clear()
                    self.replies += 1
                    time.sleep(self._late_s)
                    if self._draw.random() < self._lost:
                        self.losses += 1
                        break
                client.sendall(data)
        except OSError:
            pass
        _close(client)


def _close(one: socket.socket) -> None:
    with contextlib.suppress(OSError):
        one.shutdown(socket.SHUT_RDWR)
    one.close()
