"""The completions API: the text of `generate`, the probabilities of `score`, in the form that clients know."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import json
import logging
import math
import shutil
import socket
import time
from pathlib import Path

import numpy as np
import pytest
from serving import Running, serving

from sifu_graph import Graph
from sifu_graph.serve import app, running
from sifu_graph.serve.app import Limits

openai = pytest.importorskip("openai")


def client(server: Running, token: str = "none") -> openai.OpenAI:
    return openai.OpenAI(base_url=f"http://127.0.0.1:{server.port}/v1", api_key=token, max_retries=0)


@pytest.mark.parametrize(
    "options", [{"temperature": 0}, {"temperature": 0.7, "top_p": 0.8}, {"temperature": 1.3, "top_k": 5}, {"top_p": 1}]
)
def test_the_text_is_that_of_generate(server: Running, options: dict[str, float]) -> None:
    status, found = server.post({"prompt": "春風", "max_tokens": 60, "seed": 5, "ignore_eos": True, "n": 2, **options})
    assert status == 200
    usual = {"temperature": 1.0, "top_k": None, "top_p": None, **options}
    with Graph.open(server.path) as graph:
        texts = [graph.generate("春風", tokens=60, seed=5 + k, **usual).text for k in (0, 1)]
    assert [each["text"] for each in found["choices"]] == texts
    assert [each["index"] for each in found["choices"]] == [0, 1]
    assert found["usage"] == {"prompt_tokens": 3, "completion_tokens": 120, "total_tokens": 123}
    assert {each["finish_reason"] for each in found["choices"]} == {"length"}


def test_a_document_ends_where_it_ends(server: Running) -> None:
    going_on = {"prompt": "春風", "max_tokens": 200, "seed": 1}
    text = server.post({**going_on, "ignore_eos": True})[1]["choices"][0]["text"]
    (choice,) = server.post(going_on)[1]["choices"]
    assert "\n" in text
    assert (choice["text"], choice["finish_reason"]) == (text[: text.index("\n")], "stop")


@pytest.mark.parametrize("stops", [["。"], ["。", "月夜"], "風。"])
def test_the_text_ends_before_a_stop_text(server: Running, stops: list[str] | str) -> None:
    asked = {"prompt": "春風", "max_tokens": 100, "seed": 2, "ignore_eos": True}
    text = server.post(asked)[1]["choices"][0]["text"]
    places = [text.find(stop) for stop in ([stops] if isinstance(stops, str) else stops) if stop in text]
    (choice,) = server.post({**asked, "stop": stops})[1]["choices"]
    assert choice["text"] == (text[: min(places)] if places else text)
    assert choice["finish_reason"] == ("stop" if places else "length")


def test_echo_has_the_probabilities_of_score(server: Running) -> None:
    text = "春風花月夜不有人山雲"
    asked = {"prompt": text, "max_tokens": 0, "echo": True, "logprobs": 3}
    (choice,) = server.post(asked)[1]["choices"]
    with Graph.open(server.path) as graph:
        scored = graph.score(text)
        names = graph.tokenizer.vocabulary
        ids = graph.tokenizer.encode(text).tolist()
        separator = graph.tokenizer.separator
    found = choice["logprobs"]
    assert choice["text"] == text
    assert found["tokens"] == [token.name for token in scored.tokens[:-1]] == [names[node] for node in ids]
    assert found["text_offset"] == list(range(len(text)))
    exact = "recurrent" in server.path.name  # else the distribution is computed from energies, the score by the kernel
    atol = 0.0 if exact else 1e-6
    assert np.allclose(found["token_logprobs"], [token.log_p for token in scored.tokens[:-1]], atol=atol, rtol=0)
    for name, log_p, top in zip(found["tokens"], found["token_logprobs"], found["top_logprobs"], strict=True):
        assert list(top.values()) == sorted(top.values(), reverse=True) and len(top) == 3
        assert top.get(name, log_p) == log_p and max(top.values()) >= log_p
    begun = server.post({**asked, "prompt": [separator, *ids]})[1]["choices"][0]["logprobs"]
    assert begun["tokens"] == ["<sep>", *found["tokens"]]
    assert begun["token_logprobs"] == [None, *found["token_logprobs"]]
    # as ids, with the end of the document, which `score` counts too
    as_ids = server.post({**asked, "prompt": [*ids, separator], "logprobs": 0})[1]["choices"][0]["logprobs"]
    assert as_ids["top_logprobs"] is None
    assert sum(as_ids["token_logprobs"]) == pytest.approx(scored.log_p, abs=1e-6 * len(scored.tokens))


def test_generated_tokens_have_probabilities(server: Running) -> None:
    asked = {"prompt": "春風", "max_tokens": 12, "seed": 3, "ignore_eos": True, "logprobs": 2, "echo": True}
    (choice,) = server.post(asked)[1]["choices"]
    found = choice["logprobs"]
    assert len(found["tokens"]) == len(found["token_logprobs"]) == 14
    for token, offset in zip(found["tokens"], found["text_offset"], strict=True):
        shown = "\n" if token == "<sep>" else token
        assert choice["text"][offset : offset + len(shown)] == shown
    if "recurrent" in server.path.name:  # elsewhere evaluation cuts a text into chunks, and generation does not
        again = server.post({"prompt": choice["text"], "max_tokens": 0, "echo": True, "logprobs": 0})[1]["choices"][0]
        if "\n" not in choice["text"]:
            assert np.allclose(again["logprobs"]["token_logprobs"], found["token_logprobs"], atol=1e-6, rtol=0)


def test_the_official_client(server: Running) -> None:
    api = client(server)
    (model,) = api.models.list().data
    assert model.id == server.path.stem == api.models.retrieve(model.id).id
    asked = {"model": model.id, "prompt": "春風", "max_tokens": 40, "seed": 1, "extra_body": {"ignore_eos": True}}
    whole = api.completions.create(**asked)
    events = list(api.completions.create(**asked, stream=True, stream_options={"include_usage": True}))
    assert "".join(event.choices[0].text for event in events if event.choices) == whole.choices[0].text
    assert events[-1].usage == whole.usage and whole.usage.completion_tokens == 40
    assert [event.choices[0].finish_reason for event in events if event.choices][-1] == "length"
    several = api.completions.create(model=model.id, prompt=["春", "月"], n=2, max_tokens=3, logprobs=1, echo=True)
    assert [each.text[0] for each in several.choices] == ["春", "春", "月", "月"]
    assert several.choices[0].logprobs.token_logprobs[0] < 0
    with pytest.raises(openai.NotFoundError, match="no model 'other'"):
        api.completions.create(model="other", prompt="春")
    with pytest.raises(openai.BadRequestError, match="`temperature` is -1"):
        api.completions.create(model=model.id, prompt="春", temperature=-1)
    with pytest.raises(openai.BadRequestError, match="no part of it is a node"):
        api.completions.create(model=model.id, prompt="xyz")


def test_32_at_once(server: Running) -> None:
    async def all_of_them() -> list[str]:
        async with openai.AsyncOpenAI(base_url=f"http://127.0.0.1:{server.port}/v1", api_key="x") as api:

            async def one(k: int) -> str:
                asked = {"model": server.path.stem, "prompt": "春", "max_tokens": 50, "seed": k}
                if k % 2:
                    return (await api.completions.create(**asked)).choices[0].text
                parts = [event.choices[0].text async for event in await api.completions.create(**asked, stream=True)]
                return "".join(parts)

            return await asyncio.gather(*(one(k) for k in range(32)))

    texts = asyncio.run(all_of_them())
    for k in (0, 13, 31):
        asked = {"prompt": "春", "max_tokens": 50, "seed": k}
        assert server.post(asked)[1]["choices"][0]["text"] == texts[k]


def test_what_is_refused_says_why(server: Running) -> None:
    for body, status, param in (
        (b"{", 400, None),
        (b"[]", 400, None),
        (b"\xff", 400, None),
        ({"prompt": 5}, 400, None),
        ({"prompt": [1, "春"]}, 400, "prompt"),
        ({"prompt": [10**30]}, 400, "prompt"),
        ({"prompt": [-1]}, 400, "prompt"),
        ({"prompt": [4000]}, 400, "prompt"),
        ({"prompt": "春" * 20_000}, 400, "prompt"),
        ({"max_tokens": -1}, 400, "max_tokens"),
        ({"max_tokens": 10**6}, 400, "max_tokens"),
        ({"top_p": 0}, 400, "top_p"),
        ({"seed": -1}, 400, "seed"),
        ({"logprobs": 21}, 400, "logprobs"),
        ({"n": 129}, 400, "n"),
        ({"stop": [""]}, 400, "stop"),
        ({"suffix": "x"}, 400, "suffix"),
        ({"logit_bias": {"5": 3}}, 400, "logit_bias"),
        ({"presence_penalty": 1}, 400, "presence_penalty"),
        ({"best_of": 3}, 400, "best_of"),
        ({"model": "gpt"}, 404, "model"),
    ):
        found, answer = server.post(body)
        assert (found, answer["error"]["param"]) == (status, param), body
        assert answer["error"]["message"] and answer["error"]["type"]
    assert server.post(b"x" * (1 << 20) + b"x")[0] == 413
    assert server.ask("GET", "/v1/completions")[0] == 405
    assert server.ask("GET", "/v2")[0] == 404
    assert server.ask("GET", "/v1/models/x")[0] == 404


def test_an_empty_prompt_begins_a_document(server: Running) -> None:
    for prompt in ("", []):
        status, found = server.post({"prompt": prompt, "max_tokens": 5, "seed": 1})
        assert status == 200 and found["usage"]["prompt_tokens"] == 1
    assert server.post({"max_tokens": 5})[0] == 200


def test_a_token_and_limits(paths: dict[str, Path]) -> None:
    limits = Limits(prompt_tokens=10, tokens=20, sequences=3)
    with serving(paths["recurrent"], token="geheim", limits=limits) as server:
        for headers in ({}, {"Authorization": "Bearer x"}, {"Authorization": "geheim"}):
            assert server.post({"prompt": "春"}, **headers)[0] == 401
        assert server.ask("GET", "/metrics")[0] == 401
        assert server.ask("GET", "/health")[0] == 200
        with pytest.raises(openai.AuthenticationError):
            client(server, "falsch").models.list()
        assert client(server, "geheim").models.list().data
        assert server.ask("GET", "/metrics", None, Authorization="bearer geheim")[0] == 200  # RFC 7235
        allowed = {"Authorization": "Bearer geheim"}
        assert server.post({"prompt": "春" * 11}, **allowed)[1]["error"]["code"] == "context_length_exceeded"
        assert server.post({"prompt": "春", "max_tokens": 21}, **allowed)[0] == 400
        assert server.post({"prompt": "春", "n": 4}, **allowed)[0] == 429
        assert server.post({"prompt": "春", "n": 3}, **allowed)[0] == 200


def test_the_metrics_count(paths: dict[str, Path]) -> None:
    with serving(paths["recurrent"]) as server:
        server.post({"prompt": "春風", "max_tokens": 7, "ignore_eos": True})
        server.post(b"{")
        lines = server.ask("GET", "/metrics")[1]["text"].splitlines()
        values = dict(line.rsplit(" ", 1) for line in lines if not line.startswith("#"))
        assert values['sifu_requests_total{status="200"}'] == values['sifu_requests_total{status="400"}'] == "1"
        assert (values["sifu_prompt_tokens_total"], values["sifu_generated_tokens_total"]) == ("3", "7")
        assert values["sifu_sequences"] == "0" and values["sifu_first_token_seconds_count"] == "1"
        health = server.ask("GET", "/health")[1]
        assert f'snapshot="{health["snapshot"]}"' in "\n".join(lines)


def test_new_commits_are_served_and_no_request_is_lost(paths: dict[str, Path], tmp_path: Path) -> None:
    path = Path(shutil.copytree(paths["recurrent"], tmp_path / "graph.sifu"))
    asked = {"prompt": "春", "max_tokens": 3, "temperature": 0}
    with serving(path, follow=True) as server:
        before = server.post(asked)[1]["choices"][0]["text"]
        with Graph.open(path) as graph:
            for pair in (("春", before[0]), ("春", "<unk>")):
                if pair[1] != "<unk>":
                    graph.forbid_edge(*pair)
        found, known = server.ask("GET", "/health")[1], set()
        for _ in range(400):
            status, answer = server.post(asked)
            assert status == 200
            known.add(answer["choices"][0]["text"])
            if len(known) > 1:
                break
        assert len(known) == 2
        assert server.ask("GET", "/health")[1]["snapshot"] != found["snapshot"]
        assert not any(text.startswith(before[0]) for text in known - {before})


def test_log_probabilities_of_forbidden_pairs_are_finite(paths: dict[str, Path], tmp_path: Path) -> None:
    path = Path(shutil.copytree(paths["tuned"], tmp_path / "graph.sifu"))
    with Graph.open(path) as graph:
        graph.forbid_edge("春", "風")
    with serving(path) as server:
        found = server.post({"prompt": "花春風月", "max_tokens": 0, "echo": True, "logprobs": 1})[1]["choices"][0]
        values = found["logprobs"]["token_logprobs"]
        assert values[2] == -9999.0 and all(math.isfinite(value) and value < 0 for value in values)
        json.dumps(found, allow_nan=False)


def test_a_stream_without_a_reader_ends(paths: dict[str, Path]) -> None:
    """A client that leaves before the response begins: the sequences of the response end with it."""
    from sifu_graph.serve.app import Server
    from sifu_graph.serve.served_graph import ServedGraph

    async def run() -> None:
        server = Server(ServedGraph(paths["recurrent"]))
        app = server.app()
        body = json.dumps({"prompt": "春", "max_tokens": 10_000, "ignore_eos": True, "stream": True}).encode()
        messages = [{"type": "http.request", "body": body, "more_body": False}, {"type": "http.disconnect"}]

        async def receive() -> dict[str, object]:
            return messages.pop(0) if len(messages) > 1 else messages[0]

        async def send(message: dict[str, object]) -> None:
            raise OSError("the connection is closed")

        scope = {
            "type": "http", "method": "POST", "path": "/v1/completions", "headers": [], "query_string": b"",
            "http_version": "1.1", "scheme": "http", "root_path": "", "server": ("x", 1), "client": ("x", 2),
            "asgi": {"version": "3.0", "spec_version": "2.3"},
        }  # fmt: skip
        with contextlib.suppress(Exception):
            await app(scope, receive, send)  # type: ignore[arg-type]
        for _ in range(200):
            if server.rounds.jobs == 0:
                break
            await asyncio.sleep(0.02)
        assert server.rounds.jobs == 0
        server.rounds.stop()
        server.graph.close()

    asyncio.run(run())


def stream(stack: contextlib.ExitStack, server: Running, **asked: object) -> http.client.HTTPResponse:
    """A stream whose head has been read."""
    connection = stack.enter_context(
        contextlib.closing(http.client.HTTPConnection("127.0.0.1", server.port, timeout=30))
    )
    body = {"prompt": "春", "ignore_eos": True, "stream": True, **asked}
    connection.request("POST", "/v1/completions", json.dumps(body).encode())
    return stack.enter_context(connection.getresponse())


def test_a_stream_that_is_cut_at_the_end_says_so(paths: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(running, "GRACE_S", 10.0)
    monkeypatch.setattr(running, "LAST_S", 9.99)
    with contextlib.ExitStack() as stack:
        with serving(paths["recurrent"]) as server:
            answer = stream(stack, server, max_tokens=16_000, n=64)
            assert answer.status == 200 and answer.readline().startswith(b"data: ")
        events = answer.read().decode().strip().split("\n\n")
    assert json.loads(events[-1].removeprefix("data: "))["error"]["message"] == "the server was stopped"


def test_more_requests_than_may_be(paths: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(app, "CONNECTIONS", 2)
    with serving(paths["recurrent"]) as server:
        with contextlib.ExitStack() as stack:
            for _ in range(2):
                stream(stack, server, max_tokens=16_000, n=64)
            status, found = server.post({"prompt": "春"})
            assert (status, found["error"]["code"]) == (503, "busy")
        for _ in range(200):
            if server.post({"prompt": "春", "max_tokens": 1})[0] == 200:
                break
            time.sleep(0.05)
        assert server.post({"prompt": "春", "max_tokens": 1})[0] == 200


def half_closed(server: Running, request: bytes) -> bytes:
    """The answer to a client that ends its sending side after the request."""
    with socket.create_connection(("127.0.0.1", server.port), timeout=30) as connection:
        connection.sendall(request)
        connection.shutdown(socket.SHUT_WR)
        return b"".join(iter(lambda: connection.recv(65536), b""))


@pytest.mark.parametrize("streams", [False, True])
def test_a_client_that_ends_its_side_is_answered(server: Running, *, streams: bool) -> None:
    body = json.dumps({"prompt": "春", "max_tokens": 20, "stream": streams}).encode()
    head = f"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n\r\n".encode()
    found = half_closed(server, head + body)
    assert found.startswith(b"HTTP/1.1 200") and (b"[DONE]" if streams else b'"usage"') in found
    assert half_closed(server, b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n").startswith(b"HTTP/1.1 200")
    assert half_closed(server, head + body[:-1]) == b""


def test_a_stuck_client_does_not_keep_the_server(
    paths: dict[str, Path], monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(running, "GRACE_S", 1)
    monkeypatch.setattr(running, "LAST_S", 0.5)
    with socket.socket() as connection:
        with serving(paths["recurrent"]) as server:
            connection.connect(("127.0.0.1", server.port))
            connection.sendall(b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: 10\r\n\r\n")
            time.sleep(0.3)
        assert b"HTTP/1.1 200" not in connection.recv(65536)
    assert "uvicorn" not in capfd.readouterr().err
    record = logging.LogRecord("x", logging.ERROR, "", 0, "Cancel %s running task(s), ...", (2,), None)
    assert running._OneLine().format(record).startswith("sifu: warning: the server ended before")
