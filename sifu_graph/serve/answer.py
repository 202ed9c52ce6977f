"""The answer to a request for completions: its sequences, as one response or as a stream of events.

The module knows sequences and the forms of responses; it does not know routes or limits.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import AsyncIterator
from typing import Any, Protocol

import msgspec
from starlette.requests import Request
from starlette.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from sifu_graph.serve import protocol
from sifu_graph.serve.continuation import Continuation, Piece, Prompt
from sifu_graph.serve.metrics import Metrics
from sifu_graph.serve.protocol import ApiError, CompletionRequest
from sifu_graph.serve.rounds import Job, Work
from sifu_graph.serve.served_graph import Snapshot


class Start(Protocol):
    """Begins a job on a snapshot: `app.Server.start`."""

    def __call__(self, snapshot: Snapshot, work: Work[Piece], *, prompt: bool) -> Job[Piece]:
        """The job."""


class Answer:
    """The sequences of one request, which begin at once. Call `end` in any case.

    Parameters
    ----------
    asked
        The request.
    snapshot
        The graph.
    prompts
        Of the request, as nodes.
    model
        The name of the model.
    metrics
        Counts tokens, and the time to the first one.
    start
        Begins a job on a snapshot, or raises `Busy`.
    begun
        When the request came, by `time.monotonic`.
    """

    def __init__(
        self,
        asked: CompletionRequest,
        snapshot: Snapshot,
        prompts: list[Prompt],
        *,
        model: str,
        metrics: Metrics,
        start: Start,
        begun: float,
    ) -> None:
        self._asked, self._model, self._metrics, self._begun = asked, model, metrics, begun
        self._identity, self._created = f"cmpl-{secrets.token_hex(12)}", int(time.time())
        self._prompt_tokens = sum(len(prompt.ids) for prompt in prompts)
        self._sequences: list[Continuation] = []
        self._jobs: list[Job[Piece]] = []
        self._first = True
        try:
            for index in range(asked.n * len(prompts)):
                self._start(start, snapshot, prompts[index // asked.n], index)
        except BaseException:
            self._close()
            raise
        metrics.tokens(prompt=self._prompt_tokens)

    def _start(self, start: Start, snapshot: Snapshot, prompt: Prompt, index: int) -> None:
        asked = self._asked
        seed = None if asked.seed is None else asked.seed + index
        sequence, walks = Continuation(snapshot.graph, prompt, request=asked, seed=seed), snapshot.walks(asked.what_if)

        def work() -> Work[Piece]:
            with walks.lend() as walk:
                yield from sequence.work(walk)

        self._jobs.append(start(snapshot, work(), prompt=asked.stream))
        self._sequences.append(sequence)

    def _close(self) -> None:
        for job in self._jobs:
            job.close()

    @property
    def _usage(self) -> dict[str, int]:
        return protocol.usage(self._prompt_tokens, sum(each.generated for each in self._sequences))

    def _count_first(self) -> None:
        if self._first:
            self._first = False
            self._metrics.first_token(time.monotonic() - self._begun)

    async def whole(self, request: Request) -> dict[str, Any]:
        """The body of the response. If the client goes away, the sequences end."""
        gone = asyncio.create_task(_until_gone(request))
        reading = asyncio.create_task(self._choices())
        try:
            await asyncio.wait({gone, reading}, return_when=asyncio.FIRST_COMPLETED)
            if not reading.done():
                reading.cancel()
                await asyncio.wait({reading})
                raise ApiError("the client closed the connection")
            choices = reading.result()
        finally:
            gone.cancel()
            self.end()
        return protocol.completion(self._identity, self._created, self._model, choices, self._usage)

    async def _choices(self) -> list[dict[str, Any]]:
        return await asyncio.gather(*(self._choice(index, job) for index, job in enumerate(self._jobs)))

    async def _choice(self, index: int, job: Job[Piece]) -> dict[str, Any]:
        every: list[Piece] = []
        while pieces := await job.read():
            self._count_first()
            every += pieces
        return self._joined(index, every)

    def _joined(self, index: int, pieces: list[Piece]) -> dict[str, Any]:
        """Consecutive pieces of a sequence as a choice of the response."""
        tokens = [token for piece in pieces for token in piece.tokens]
        logprobs = None if self._asked.logprobs is None else protocol.logprobs_of(tokens)
        return protocol.choice(index, "".join(piece.text for piece in pieces), logprobs, pieces[-1].reason)

    async def events(self) -> AsyncIterator[bytes]:
        """The response as server-sent events, in the order in which text is generated."""
        queue: asyncio.Queue[tuple[int, list[Piece] | Exception]] = asyncio.Queue(maxsize=1)
        readers = [asyncio.create_task(_pass_on(index, job, queue)) for index, job in enumerate(self._jobs)]
        left = len(readers)
        try:
            while left:
                index, pieces = await queue.get()
                if isinstance(pieces, Exception):
                    yield _event(protocol.error_body(pieces))
                    return
                if not pieces:
                    left -= 1
                    continue
                self._count_first()
                if (data := self._event(index, pieces)) is not None:
                    yield data
            if self._asked.include_usage:
                yield self._encoded([], self._usage)
            yield b"data: [DONE]\n\n"
        finally:
            for reader in readers:
                reader.cancel()

    def _event(self, index: int, pieces: list[Piece]) -> bytes | None:
        if not any(piece.text or piece.tokens or piece.reason for piece in pieces):
            return None
        return self._encoded([self._joined(index, pieces)], None)

    def _encoded(self, choices: list[dict[str, Any]], counts: dict[str, int] | None) -> bytes:
        return _event(protocol.completion(self._identity, self._created, self._model, choices, counts))

    def end(self) -> None:
        """End the sequences, and count what they generated."""
        self._close()
        self._metrics.tokens(generated=sum(each.generated for each in self._sequences))


class Events(StreamingResponse):
    """An answer as a stream. Its sequences end with the response, also if the client left before it began."""

    def __init__(self, answer: Answer) -> None:
        super().__init__(answer.events(), media_type="text/event-stream", headers={"Cache-Control": "no-store"})
        self._answer = answer

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._answer.end()


async def _pass_on(index: int, job: Job[Piece], queue: asyncio.Queue[tuple[int, list[Piece] | Exception]]) -> None:
    try:
        while True:
            pieces = await job.read()
            await queue.put((index, pieces))
            if not pieces:
                return
    except Exception as error:
        await queue.put((index, error))


def _event(body: dict[str, Any]) -> bytes:
    return b"data: " + msgspec.json.encode(body) + b"\n\n"


async def _until_gone(request: Request) -> None:
    """Returns when the client has closed the connection. The body must have been read."""
    while not await request.is_disconnected():
        await asyncio.sleep(0.2)
