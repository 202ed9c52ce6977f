"""Running a server until it is stopped.

The module knows sockets and signals; the application knows requests.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from typing import Any

import torch
import uvicorn
from sifu_store.errors import OptionError, ResourceError
from uvicorn.protocols.http.h11_impl import H11Protocol

from sifu_graph.serve.app import CONNECTIONS, Server, is_local
from sifu_graph.serve.served_graph import ServedGraph

HALF_CLOSED_S = 5
"""Time after which a client that has ended its side is taken to be gone, if its answer has not begun."""
GRACE_S = 7
"""Time that requests have to end after the signal that stops the server."""
LAST_S = 1
"""The end of that time: continuations that still run are ended, so that their clients read why."""


def listen(host: str, port: int) -> socket.socket:
    """A socket that listens at an address; port 0: any free one.

    Raises
    ------
    ResourceError
        The port is in use, or the address is not one of this machine.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    found = socket.socket(family, socket.SOCK_STREAM)
    try:
        found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        found.bind((host, port))
    except (OSError, OverflowError) as error:
        found.close()
        if isinstance(error, OSError) and error.errno == errno.EADDRINUSE:
            raise ResourceError(f"port {port} of {host} is in use: choose another `port`") from error
        reason = error.strerror if isinstance(error, OSError) else error
        raise ResourceError(f"{host}:{port} cannot be listened at: {reason}") from error
    found.set_inheritable(True)
    return found


def make(graph: ServedGraph, *, ready: Callable[[], None] = lambda: None, **options: Any) -> uvicorn.Server:
    """A server of a graph, which runs until Ctrl-C or SIGTERM; requests that run may end.

    ``run(sockets=[listen(host, port)])`` starts it; it closes the graph at the end.

    Parameters
    ----------
    graph
        The graph.
    ready
        Called when requests are answered.
    options
        Of `app.Server`.
    """
    server = Server(graph, **options)
    _log_in_lines()
    # One thread an operation: sequences side by side use the cores, and `one_torch_thread` changes nothing.
    torch.set_num_threads(1)
    config = uvicorn.Config(
        server.app(),
        log_config=None,
        access_log=False,
        lifespan="on",
        timeout_graceful_shutdown=GRACE_S,
        limit_concurrency=2 * CONNECTIONS,  # beyond it uvicorn refuses, in plain text
        h11_max_incomplete_event_size=64 << 10,
        http=_Connection,
        ws="none",
    )
    return _Running(config, ready, server)


class _Connection(H11Protocol):
    """A connection whose client may end its side after a request (``shutdown(SHUT_WR)``), and is answered."""

    _ended = False

    def eof_received(self) -> bool:  # type: ignore[override]
        """Keeps the connection open while a whole request is answered; a client that is gone sends the same."""
        self._ended = self.cycle is not None and not self.cycle.response_complete and not self.cycle.more_body
        if self._ended:
            self.loop.call_later(HALF_CLOSED_S, self._give_up)
        return self._ended

    def _give_up(self) -> None:
        if not self.cycle.response_started:  # a write to a client that is gone ends the connection
            self.transport.close()

    def on_response_complete(self) -> None:
        """Closes the connection after the last answer."""
        super().on_response_complete()
        if self._ended and self.cycle.response_complete:
            self._unset_keepalive_if_required()
            self.transport.close()


class _OneLine(logging.Formatter):
    """An error in one line: a server has no terminal of its own to fill."""

    def format(self, record: logging.LogRecord) -> str:
        error = record.exc_info[1] if record.exc_info else None
        kind, text = "error", record.getMessage() if error is None else f"{type(error).__name__}: {error}"
        if str(record.msg).startswith("Cancel "):  # uvicorn's own, about its tasks
            kind, text = "warning", "the server ended before all clients had read their answers"
        return f"sifu: {kind}: {' '.join(text.split())[:500]}"


def _log_in_lines() -> None:
    """uvicorn reports errors on stderr, one line each; that a response was cut off at the end is none."""
    logger = logging.getLogger("uvicorn.error")
    if not logger.handlers:
        handler = logging.StreamHandler()
        handler.setFormatter(_OneLine())
        handler.addFilter(
            lambda record: not (record.exc_info and isinstance(record.exc_info[1], asyncio.CancelledError))
        )
        logger.addHandler(handler)
        logger.setLevel(logging.ERROR)
        logger.propagate = False


class _Running(uvicorn.Server):
    """uvicorn's server; it does not raise the signal that ended it again, and says when it answers."""

    def __init__(self, config: uvicorn.Config, ready: Callable[[], None], server: Server) -> None:
        super().__init__(config)
        self._ready, self._server = ready, server

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {number: signal.signal(number, self.handle_exit) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        asyncio.get_running_loop().call_later(GRACE_S - LAST_S, self._server.cut)
        await super().shutdown(sockets=sockets)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets=sockets)
        self._ready()


def check_address(host: str, token: str | None) -> None:
    """Check that an address that others reach is protected by a token.

    Raises
    ------
    OptionError
        It is not.
    """
    if token == "":
        raise OptionError("`token` is empty")
    if token is None and not is_local(host):
        raise OptionError(f"`host` {host} is reached by other machines: give a `token` that clients must send")
