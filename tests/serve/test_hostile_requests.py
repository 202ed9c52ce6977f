"""Requests that are wrong, odd or broken off: each gets its status, nothing hangs, and the server goes on."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import random
import socket
import struct
import time
from typing import Any

import pytest
from serving import Running

STATUSES = {200, 400, 401, 404, 405, 413, 429}
FIELDS = (
    "model", "prompt", "max_tokens", "temperature", "top_p", "top_k", "n", "best_of", "stop", "seed", "stream",
    "stream_options", "logprobs", "echo", "suffix", "presence_penalty", "logit_bias", "ignore_eos", "user", "x",
    "what_if",
)  # fmt: skip
VALUES: tuple[Any, ...] = (
    None, True, False, 0, 1, 2, -1, 5, 10**6, 10**30, 0.5, -0.0, 1e-300, 1e300, "", "春", "春風花月", "x" * 500,
    "\u202e\x00\x1b[2J", "😀é", [], ["春"], ["春", 5], [[]], [[1, 2], [3]], [1, 5, 39], [-1], [True], {}, {"5": 1},
    {"include_usage": True}, [[[[]]]], "<unk>", "\n\n", ["edge 春 風 forbid"], ["edge 春 風 boost 1e308"],
    ["edge 春 風 boost nan", ""], ["edge '"], ["position 0 off"], ["edge 春 風 boost -2", "edge 春 月 forbid"],
)  # fmt: skip


def body(draw: random.Random) -> bytes:
    """A request in which some fields have any value; or the text of one that was damaged."""
    asked: dict[str, Any] = {"prompt": "春", "max_tokens": 4}
    for _ in range(draw.randint(0, 4)):
        asked[draw.choice(FIELDS)] = draw.choice(VALUES)
    if asked.get("max_tokens") not in range(100):
        asked["max_tokens"] = draw.choice([None, -1, 10**9, "5", 7])
    content = json.dumps(asked, ensure_ascii=draw.random() < 0.5).encode(errors="surrogatepass")
    kind = draw.random()
    if kind < 0.1:
        return content[: draw.randrange(len(content))]
    if kind < 0.2:
        harmed = bytearray(content)
        for _ in range(3):
            harmed[draw.randrange(len(harmed))] = draw.randrange(256)
        return bytes(harmed)
    if kind < 0.23:
        return b"[" * draw.choice([10, 100_000])
    return b'{"prompt": "\\ud800"}' if kind < 0.25 else content


def reset(connection: socket.socket) -> None:
    """Closes a connection at once, as a process that is killed does."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.close()


def broken_off(port: int, draw: random.Random) -> None:
    """A connection that does not do what it promised."""
    with socket.create_connection(("127.0.0.1", port), timeout=20) as connection:
        head = b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        long = json.dumps({"prompt": "春", "max_tokens": 5000, "ignore_eos": True, "stream": draw.random() < 0.5})
        match draw.randrange(7):
            case 0:
                connection.sendall(head[: draw.randrange(len(head))])
            case 1:  # less than was announced
                connection.sendall(head + b"Content-Length: 1000\r\n\r\n{")
            case 2:  # nobody reads the answer
                connection.sendall(head + f"Content-Length: {len(long.encode())}\r\n\r\n{long}".encode())
                time.sleep(0.05 * draw.random())
            case 3:  # half closed
                connection.sendall(head + f"Content-Length: {len(long.encode())}\r\n\r\n{long}".encode())
                connection.shutdown(socket.SHUT_WR)
                connection.recv(100)
            case 4:
                connection.sendall(draw.randbytes(300))
            case 5:
                connection.sendall(head + b"X: " + b"y" * 200_000 + b"\r\n\r\n")
            case _:  # more than one request at a time
                short = b'{"prompt": "\\u6625", "max_tokens": 1}'
                connection.sendall(3 * (head + b"Content-Length: %d\r\n\r\n" % len(short) + short))
                connection.recv(100)
        reset(connection)


def attack(server: Running, requests: int, seed: int) -> None:
    draw = random.Random(seed)
    for number in range(requests):
        where = f"seed {seed}, request {number}"
        if draw.random() < 0.15:
            with contextlib.suppress(OSError):
                broken_off(server.port, draw)
            continue
        content = body(draw)
        begun = time.monotonic()
        path = draw.choice(["/v1/completions"] * 9 + ["/v1/models", "/%00", "/v1/completions/", "/v1/models/%E6%98%A5"])
        method = draw.choice(["POST"] * 9 + ["GET", "DELETE", "HEAD"])
        status, found = server.ask(method, path, content)
        assert status in STATUSES, (where, content, status, found)
        assert (status == 200) or method == "HEAD" or "error" in found, (where, found)
        assert time.monotonic() - begun < 20, where
        if "text" not in found and method != "HEAD":
            json.dumps(found, allow_nan=False)
    for _ in range(200):  # those of clients that went away end; the last one may begin late
        if server.ask("GET", "/health")[1]["sequences"] == 0:
            break
        time.sleep(0.05)
    else:
        raise AssertionError(f"seed {seed}: a sequence does not end")
    assert server.post({"prompt": "春風", "max_tokens": 3})[0] == 200


def test_hostile_requests(server: Running, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.ERROR):
        attack(server, 250, seed=1)
    assert "Traceback" not in caplog.text and not caplog.records


@pytest.mark.slow
def test_many_hostile_requests(server: Running, caplog: pytest.LogCaptureFixture) -> None:
    seed = int(os.environ.get("SEED", time.time_ns() % 10**6))
    with caplog.at_level(logging.ERROR):
        attack(server, 5_000, seed=seed)
    assert not caplog.records


def test_a_slow_reader_does_not_fill_the_memory(server: Running) -> None:
    asked = json.dumps(
        {"prompt": "春", "max_tokens": 16_000, "ignore_eos": True, "stream": True, "logprobs": 20}
    ).encode()
    with socket.create_connection(("127.0.0.1", server.port), timeout=20) as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.sendall(
            b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n" % len(asked) + asked
        )
        connection.recv(10)
        for _ in range(20):  # others go on meanwhile
            assert server.post({"prompt": "春", "max_tokens": 3})[0] == 200
        time.sleep(1.0)
        generated = server.ask("GET", "/metrics")[1]["text"]
        assert server.ask("GET", "/health")[1]["sequences"] == 1, generated
    for _ in range(200):
        if server.ask("GET", "/health")[1]["sequences"] == 0:
            return
        time.sleep(0.05)
    raise AssertionError("the sequence of a client that went away goes on")
