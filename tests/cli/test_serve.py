"""``sifu serve`` as a process: what it says, what it refuses, and how it ends."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from calls import call

RUN = [sys.executable, "-m", "sifu_cli", "serve"]


@contextmanager
def serving(store: Path, *options: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """A server, and its address."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    words = [*RUN, "--store", str(store), "--port", "0", *options]
    with subprocess.Popen(words, stderr=subprocess.PIPE, text=True, env=environment) as process:
        try:
            assert process.stderr is not None
            line = process.stderr.readline()
            found = re.search(r"serving (\S+) \(\w{8}\) at (http://\S+)/v1, page \2/; Ctrl-C ends it", line)
            assert found, line + process.stderr.read()
            yield process, found[2]
        finally:
            process.kill()


def ask(address: str, **body: object) -> dict[str, object]:
    request = urllib.request.Request(f"{address}/v1/completions", json.dumps(body).encode())
    with urllib.request.urlopen(request, timeout=30) as answer:
        found: dict[str, object] = json.load(answer)
        return found


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_request_that_runs_ends_before_the_server(graph: Path, number: signal.Signals) -> None:
    with serving(graph) as (process, address):
        answers: list[dict[str, object]] = []
        asked = {"prompt": "春", "max_tokens": 1500, "ignore_eos": True}
        thread = threading.Thread(target=lambda: answers.append(ask(address, **asked)))
        thread.start()
        while '"sequences":0' in urllib.request.urlopen(f"{address}/health").read().decode():
            pass
        process.send_signal(number)
        assert process.wait(30) == 0
        thread.join()
        assert answers[0]["usage"] == {"prompt_tokens": 2, "completion_tokens": 1500, "total_tokens": 1502}
        assert process.stderr is not None and process.stderr.read() == ""


def test_an_older_snapshot(graph: Path) -> None:
    assert call("edit-edge", "春", "風", "--forbid", "--store", graph).code == 0
    with serving(graph, "--at", "HEAD~1") as (_, address):
        found = ask(address, prompt="春風", max_tokens=0, echo=True, logprobs=0)
    with serving(graph) as (_, address):
        now = ask(address, prompt="春風", max_tokens=0, echo=True, logprobs=0)
    before, after = (each["choices"][0]["logprobs"]["token_logprobs"][1] for each in (found, now))  # type: ignore[index]
    assert before > -9999.0 == after


def test_what_is_refused(graph: Path, tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        assert call("serve", "--port", port, "--store", graph).error.startswith(f"port {port} of 127.0.0.1 is in use")
    for host in ("0.0.0.0", "::", "192.0.2.1"):
        assert "give a --token that clients must send" in call("serve", "--host", host, "--store", graph).error
    refused = call("serve", "--host", "192.0.2.1", "--token", "x", "--store", graph).error
    assert refused.startswith("192.0.2.1:8000 cannot be listened at")
    assert "does not exist" in call("serve", "--store", tmp_path / "nothing").error
    assert "leave one of them out" in call("serve", "--follow", "--at", "HEAD", "--store", graph).error


def test_the_token_is_not_in_the_store(graph: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from sifu_store import Store

    for words in (["serve", "--edit", "--token", "geheim", "--port", "1"], ["serve", "--token=geheim"]):
        monkeypatch.setattr(sys, "argv", ["sifu", *words])
        with Store.open(graph, write=True):
            held = (graph / "writer.json").read_text(encoding="utf-8")
        assert "geheim" not in held and "--token" in held
