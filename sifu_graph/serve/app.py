"""The HTTP application: routes, limits and errors.

The module knows requests and connections; an `Answer` knows the sequences of a completion.
"""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import ipaddress
import re
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from functools import partial
from typing import Any
from urllib.parse import parse_qsl

from sifu_store.errors import OptionError, SifuError
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import HTMLResponse, JSONResponse, PlainTextResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from sifu_graph.disk_arrays import cores
from sifu_graph.generation.base_walk import choose_each
from sifu_graph.serve import explorer, protocol
from sifu_graph.serve.answer import Answer, Events
from sifu_graph.serve.continuation import encode_prompt, require_nodes
from sifu_graph.serve.metrics import Metrics
from sifu_graph.serve.protocol import ApiError
from sifu_graph.serve.rounds import Busy, Job, Result, Rounds, Work
from sifu_graph.serve.served_graph import ServedGraph, Snapshot

FOLLOW_S = 0.5
"""Time between two looks for a newer commit."""


CONNECTIONS = 512
"""Requests at the same time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What a server does at most.

    Attributes
    ----------
    prompt_tokens, tokens
        Of one prompt, and to generate for one prompt.
    body_bytes
        Of the body of a request.
    sequences
        That are generated at the same time; a request beyond gets status 429.
    """

    prompt_tokens: int = 16_384
    tokens: int = 16_384
    body_bytes: int = 1 << 20
    sequences: int = 256


class Server:
    """What the requests share: the graph, the threads and the counters.

    Parameters
    ----------
    graph
        The graph.
    limits
        What is refused.
    token
        What a client must send as ``Authorization: Bearer TOKEN``; None: nothing.
    follow
        Serve newer commits as they come.
    edit_token
        What a client must send to edit the graph, which follows newer commits then; None: no edit is possible.
    """

    def __init__(
        self,
        graph: ServedGraph,
        *,
        limits: Limits | None = None,
        token: str | None = None,
        follow: bool = False,
        edit_token: str | None = None,
    ) -> None:
        self.graph, self.limits, self.token = graph, limits or Limits(), token
        self._edit_token = edit_token
        self._follow = follow or edit_token is not None
        self._editing = asyncio.Lock()
        self.metrics, self.created = Metrics(), int(time.time())
        # One thread of Python, because two decode fewer tokens together than one; the kernel has as many as there are.
        self.rounds = Rounds(most=self.limits.sequences, answer=partial(choose_each, threads=cores()))

    def app(self) -> ASGIApp:
        """The application."""
        routes = [
            Route("/", self.explorer),
            Route("/api/state", self.state),
            Route("/api/why", self.why),
            Route("/api/edge", self.edge),
            Route("/api/sample", self.sample),
            Route("/api/edit", self.edit, methods=["POST"]),
            Route("/health", self.health),
            Route("/metrics", self.read_metrics),
            Route("/v1/models", self.models),
            Route("/v1/models/{name}", self.model),
            Route("/v1/completions", self.completions, methods=["POST"]),
            Route("/tokenizer_info", self.tokenizer_info),
            Route("/tokenize", self.tokenize, methods=["POST"]),
            Route("/detokenize", self.detokenize, methods=["POST"]),
        ]
        handlers: dict[Any, Callable[[Request, Any], Awaitable[Response]]] = {
            ApiError: _refused,
            Busy: _busy,
            SifuError: _failed,
            HTTPException: _http_error,
        }
        starlette = Starlette(routes=routes, exception_handlers=handlers, lifespan=self._lifespan)
        starlette.router.redirect_slashes = False
        return _Counted(starlette, self)

    @contextlib.asynccontextmanager
    async def _lifespan(self, app: Starlette) -> AsyncIterator[None]:
        following = asyncio.create_task(self._follow_commits()) if self._follow else None
        yield
        if following is not None:
            following.cancel()
        self.rounds.stop()
        self.graph.close()

    async def _follow_commits(self) -> None:
        while True:
            await asyncio.sleep(FOLLOW_S)
            with contextlib.suppress(Exception):  # it is tried again
                if await asyncio.to_thread(self.graph.has_changed):
                    await self._reopen()

    async def _reopen(self) -> None:
        self.graph.replace(await asyncio.to_thread(self.graph.open))

    def cut(self) -> None:
        """End the continuations that still run, because the server stops."""
        self.rounds.cut(ApiError("the server was stopped", status=503))

    def start(self, snapshot: Snapshot, work: Work[Result], *, prompt: bool = True) -> Job[Result]:
        """Begin a job on a snapshot, which stays open until the job has ended. Raises `Busy`."""
        snapshot.enter()
        try:
            return self.rounds.start(work, end=snapshot.leave, prompt=prompt)
        except BaseException:
            snapshot.leave()
            raise

    # ---- what is there

    async def health(self, request: Request) -> Response:
        """Whether the server answers."""
        snapshot = self.graph.current.graph.store.snapshot
        return JSONResponse({"status": "ok", "snapshot": snapshot, "sequences": self.rounds.jobs})

    async def read_metrics(self, request: Request) -> Response:
        """The counters, for Prometheus."""
        snapshot = self.graph.current.graph.store.snapshot
        text = self.metrics.text(sequences=self.rounds.jobs, snapshot=snapshot)
        return PlainTextResponse(text, media_type="text/plain; version=0.0.4; charset=utf-8")

    def _model(self) -> dict[str, Any]:
        return {"id": self.graph.name, "object": "model", "created": self.created, "owned_by": "sifu"}

    async def models(self, request: Request) -> Response:
        """The models: one."""
        return JSONResponse({"object": "list", "data": [self._model()]})

    async def model(self, request: Request) -> Response:
        """One model by its name."""
        self._require_model(request.path_params["name"])
        return JSONResponse(self._model())

    def _require_model(self, name: str | None) -> None:
        if name is not None and name != self.graph.name:
            raise ApiError(
                f"no model {name!r}: this server has {self.graph.name!r}",
                status=404,
                param="model",
                code="model_not_found",
            )

    # ---- the page

    async def explorer(self, request: Request) -> Response:
        """The page that shows what the graph predicts, and why."""
        page = explorer.page(editable=self._edit_token is not None, token=self.token is not None)
        return HTMLResponse(page, headers={"Cache-Control": "no-store", "X-Frame-Options": "DENY"})

    async def state(self, request: Request) -> Response:
        """The size of the graph, and its commits."""
        editable = self._edit_token is not None
        with self.graph.current.in_use() as graph:
            found = await asyncio.to_thread(explorer.state, graph, name=self.graph.name, editable=editable)
        return JSONResponse(found)

    async def why(self, request: Request) -> Response:
        """The trace of a text, as a page."""
        asked = request.query_params
        snapshot = self.graph.current

        def work() -> Work[str]:
            with snapshot.tracing() as graph:
                yield explorer.why(graph, asked.get("text", ""), asked.getlist("what_if"))

        job = self.start(snapshot, work())
        try:
            (page,) = await job.read()
        finally:
            job.close()
        return HTMLResponse(page, headers={"Cache-Control": "no-store", "X-Frame-Options": "SAMEORIGIN"})

    async def edge(self, request: Request) -> Response:
        """An edge and the nodes beside it."""
        asked, snapshot = request.query_params, self.graph.current

        def work() -> Work[dict[str, Any]]:
            with snapshot.in_use() as graph:
                yield explorer.edge(graph, asked.get("u", ""), asked.get("v", ""))

        job = self.start(snapshot, work())
        try:
            (found,) = await job.read()
        finally:
            job.close()
        return JSONResponse(found)

    async def sample(self, request: Request) -> Response:
        """The perplexity of a sample of held-out text, with changes in memory."""
        snapshot, changes = self.graph.current, protocol.checked_changes(request.query_params.getlist("what_if"))
        with snapshot.in_use():
            await asyncio.to_thread(_changed, snapshot, changes)
            job = self.start(snapshot, explorer.sample(snapshot, changes))
        try:
            (found,) = await job.read()
        finally:
            job.close()
        return JSONResponse(found)

    async def edit(self, request: Request) -> Response:
        """Change the graph by one commit, and serve it."""
        if self._edit_token is None:
            raise ApiError("this server only reads the graph: it was started without edits", status=403)
        if not _sends(request.scope, self._edit_token):
            raise ApiError("the token of the editor is needed: open the address that the server printed", status=401)
        content = await self._body(request)
        async with self._editing:
            try:
                found = await asyncio.to_thread(explorer.edit, self.graph.path, content)
            finally:  # where it was refused because of another commit, too
                if await asyncio.to_thread(self.graph.has_changed):
                    await self._reopen()
        return await self.state(request) if found is None else JSONResponse(found)

    # ---- the tokenizer, as vLLM's server has it

    async def tokenizer_info(self, request: Request) -> Response:
        """The token between documents."""
        tokenizer = self.graph.current.graph.tokenizer
        separator = None if tokenizer.separator is None else tokenizer.vocabulary[tokenizer.separator]
        info = {"tokenizer_class": "sifu", "bos_token": separator, "eos_token": separator, "level": tokenizer.level}
        return JSONResponse({**info, "vocab_size": len(tokenizer)})

    async def tokenize(self, request: Request) -> Response:
        """The ids of a text; the name of the separator stands for it."""
        text = protocol.parse_tokenize(await self._body(request))
        tokenizer = self.graph.current.graph.tokenizer
        if tokenizer.separator is not None and text == tokenizer.vocabulary[tokenizer.separator]:
            ids = [tokenizer.separator]
        else:
            ids = (await asyncio.to_thread(tokenizer.encode, text)).tolist()
        return JSONResponse({"tokens": ids, "count": len(ids), "max_model_len": self.limits.prompt_tokens})

    async def detokenize(self, request: Request) -> Response:
        """The text of ids."""
        ids = protocol.parse_detokenize(await self._body(request))
        tokenizer = self.graph.current.graph.tokenizer
        require_nodes(tokenizer, ids, "tokens")
        return JSONResponse({"prompt": tokenizer.decode(ids)})

    # ---- completions

    async def completions(self, request: Request) -> Response:
        """Continue prompts."""
        begun = time.monotonic()
        asked = protocol.parse(await self._body(request), most_tokens=self.limits.tokens)
        self._require_model(asked.model)
        self.rounds.require_room(asked.n * len(asked.prompts))
        snapshot, most = self.graph.current, self.limits.prompt_tokens
        with snapshot.in_use() as graph:
            await asyncio.to_thread(_changed, snapshot, asked.what_if)
            prompts = await asyncio.to_thread(
                lambda: [encode_prompt(graph, prompt, most_tokens=most) for prompt in asked.prompts]
            )
            answer = Answer(
                asked, snapshot, prompts, model=self.graph.name, metrics=self.metrics, start=self.start, begun=begun
            )
        return Events(answer) if asked.stream else JSONResponse(await answer.whole(request))

    async def _body(self, request: Request) -> bytes:
        most, content = self.limits.body_bytes, bytearray()
        try:
            async for chunk in request.stream():
                content += chunk
                if len(content) > most:
                    raise ApiError(f"the body of the request is above {most:,} bytes", status=413)
        except ClientDisconnect as error:
            raise ApiError("the client closed the connection") from error
        return bytes(content)


def _changed(snapshot: Snapshot, what_if: tuple[str, ...]) -> None:
    """Make changes in memory, before a sequence needs them."""
    try:
        snapshot.walks(what_if)
    except OptionError as error:
        raise ApiError(str(error), param="what_if") from error


# ---- errors


async def _refused(request: Request, error: ApiError) -> Response:
    return JSONResponse(error.body(), status_code=error.status)


async def _busy(request: Request, error: Busy) -> Response:
    body = ApiError(f"{error}: try again later", status=429, code="busy").body()
    return JSONResponse(body, status_code=429, headers={"Retry-After": "1"})


async def _failed(request: Request, error: SifuError) -> Response:
    return JSONResponse(protocol.error_body(error), status_code=500)


async def _http_error(request: Request, error: HTTPException) -> Response:
    body = ApiError(f"{request.method} {request.url.path}: {error.detail.lower()}", status=error.status_code).body()
    return JSONResponse(body, status_code=error.status_code, headers=error.headers)


class _Counted:
    """The application with its token checked, and with each request counted."""

    def __init__(self, app: ASGIApp, server: Server) -> None:
        self._app, self._server, self._open = app, server, 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        begun, status = time.monotonic(), 500

        async def noting(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        self._open += 1
        try:
            if self._open > CONNECTIONS:
                busy = ApiError(f"there are {CONNECTIONS} requests already: try again later", status=503, code="busy")
                await JSONResponse(busy.body(), 503, {"Retry-After": "1"})(scope, receive, noting)
            elif self._server.token is None and not _names_this_machine(scope):
                other = ApiError("the header Host names another machine: ask for localhost or 127.0.0.1", status=403)
                await JSONResponse(other.body(), 403)(scope, receive, noting)
            elif self._allowed(scope):
                await self._app(scope, receive, noting)
            else:
                error = ApiError("a token is needed: send `Authorization: Bearer TOKEN`", status=401)
                await JSONResponse(error.body(), 401, {"WWW-Authenticate": "Bearer"})(scope, receive, noting)
        finally:
            self._open -= 1
            self._server.metrics.request(status, time.monotonic() - begun)

    def _allowed(self, scope: Scope) -> bool:
        token = self._server.token
        return token is None or scope["path"] in ("/", "/health") or _sends(scope, token, in_query=True)


def _names_this_machine(scope: Scope) -> bool:
    """Whether a request is for an address of this machine alone.

    The name of another site that its owner has given this address (DNS rebinding) would let its pages read answers.
    """
    sent = [value.decode("latin-1") for name, value in scope["headers"] if name == b"host"]
    names = [re.sub(r":[0-9]*$", "", each).strip("[]").lower() for each in sent]
    return all(name.endswith(".localhost") or is_local(name) for name in names)


def is_local(host: str) -> bool:
    """Whether an address is reached from this machine alone."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _sends(scope: Scope, token: str, *, in_query: bool = False) -> bool:
    """Whether a request has a token, in its header or (a frame of the page cannot have headers) in its query."""
    sent = [value for name, value in scope["headers"] if name == b"authorization"]
    if in_query:
        query = dict(parse_qsl(scope["query_string"].decode("latin-1")))
        sent.append(b"Bearer " + query.get("token", "").encode())
    parts = (each.partition(b" ") for each in sent)  # the scheme in any case: RFC 7235, section 2.1
    given = [value.strip(b" ") for scheme, _, value in parts if scheme.lower() == b"bearer"]
    return any(hmac.compare_digest(each, token.encode()) for each in given)
