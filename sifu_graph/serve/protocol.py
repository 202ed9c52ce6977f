"""The completions API: what a request may say, what a response says, and what an error looks like.

The names are those of OpenAI's completions API, which clients know; `top_k` and `ignore_eos` are common additions. The
module knows JSON and the figures of tokens; it does not know graphs or connections.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import msgspec
from sifu_store.errors import SifuError

_Number = TypeVar("_Number", int, float)
_Fields = TypeVar("_Fields", bound=msgspec.Struct)

MOST_LOGPROBS = 20
MOST_CHOICES = 128
"""Sequences that one request may ask for: prompts times `n`."""
MOST_CHANGES = 32
MOST_CHANGE_CHARACTERS = 300
MOST_STOPS = 16
SEED_LIMIT = 1 << 62


class ApiError(Exception):
    """A request that is refused.

    Parameters
    ----------
    message
        What was found and what is expected.
    status
        Status of the response.
    param
        The field of the request that it is about.
    code
        A word for programs.
    """

    def __init__(self, message: str, *, status: int = 400, param: str | None = None, code: str | None = None) -> None:
        super().__init__(message)
        self.status, self.param, self.code = status, param, code

    def body(self) -> dict[str, Any]:
        """The body of the response."""
        kind = {401: "authentication_error", 404: "not_found_error", 429: "rate_limit_error"}.get(
            self.status, "server_error" if self.status >= 500 else "invalid_request_error"
        )
        return {"error": {"message": str(self), "type": kind, "param": self.param, "code": self.code}}


def error_body(error: Exception) -> dict[str, Any]:
    """The body of the response to a request that failed."""
    if isinstance(error, ApiError):
        return error.body()
    return ApiError(str(error) if isinstance(error, SifuError) else "the server failed", status=500).body()


class _Body(msgspec.Struct, kw_only=True):
    """The fields that are read; others are ignored."""

    model: str | None = None
    prompt: str | list[Any] | None = None
    max_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    n: int | None = None
    best_of: int | None = None
    stop: str | list[str] | None = None
    seed: int | None = None
    stream: bool | None = None
    stream_options: dict[str, Any] | None = None
    logprobs: int | bool | None = None
    echo: bool | None = None
    suffix: str | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    logit_bias: dict[str, float] | None = None
    ignore_eos: bool | None = None
    what_if: list[str] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class CompletionRequest:
    """A request whose values have been checked.

    Attributes
    ----------
    model
        The name of the model; None: not given.
    prompts
        Texts, or lists of node ids.
    max_tokens
        Tokens to generate at most, 0 or more.
    temperature, top_p, top_k
        See `sifu_graph.generation.sampler.Sampler`.
    n
        Continuations of each prompt.
    stop
        The continuation ends before any of these texts.
    seed
        Continuation k of the request has the seed ``seed + k``. None: random.
    stream, include_usage
        Send each piece when it is generated; and the numbers of tokens at the end.
    logprobs
        Number of most probable tokens that are listed for each token. None: no log-probabilities.
    echo
        The prompt is part of the text, and of the log-probabilities.
    ignore_eos
        Continue after the end of a document.
    what_if
        Changes of edges in memory, for this request alone: see `inspection.what_if`.
    """

    model: str | None
    prompts: Sequence[str | list[int]]
    max_tokens: int
    temperature: float
    top_p: float
    top_k: int | None
    n: int
    stop: tuple[str, ...]
    seed: int | None
    stream: bool
    include_usage: bool
    logprobs: int | None
    echo: bool
    ignore_eos: bool
    what_if: tuple[str, ...]


def parse(content: bytes, *, most_tokens: int) -> CompletionRequest:
    """Read the body of a request.

    Raises
    ------
    ApiError
        It is no JSON object, or a value has another type or no meaning.
    """
    body = read(content, _Body)
    _refuse_unsupported(body)
    return _checked(body, most_tokens)


class _Tokenize(msgspec.Struct):
    prompt: str


class _Detokenize(msgspec.Struct):
    tokens: list[int]


def parse_tokenize(content: bytes) -> str:
    """The text of a request for ids. Raises what `parse` raises."""
    return read(content, _Tokenize).prompt


def parse_detokenize(content: bytes) -> list[int]:
    """The ids of a request for text. Raises what `parse` raises."""
    return read(content, _Detokenize).tokens


def read(content: bytes, kind: type[_Fields]) -> _Fields:
    """The body of a request as a structure. Raises what `parse` raises."""
    try:
        return msgspec.json.decode(content, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ApiError(f"the body of the request cannot be read: {_first_line(error)}") from error


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:200]


def _refuse_unsupported(body: _Body) -> None:
    """Raise for fields that would change the text and that sifu does not have."""
    for name in ("suffix", "logit_bias"):
        if getattr(body, name):
            raise ApiError(f"`{name}` is not supported: leave it out", param=name)
    for name in ("presence_penalty", "frequency_penalty"):
        if getattr(body, name):
            raise ApiError(f"`{name}` is not supported: leave it out or give 0", param=name)
    if body.best_of is not None and body.best_of != (body.n or 1):
        raise ApiError("`best_of` is not supported: leave it out or give the value of `n`", param="best_of")


def _checked(body: _Body, most_tokens: int) -> CompletionRequest:
    max_tokens = _within(body.max_tokens, "max_tokens", 0, most_tokens, default=16)
    logprobs = body.logprobs
    if isinstance(logprobs, bool):
        logprobs = 1 if logprobs else None
    if logprobs is not None:
        logprobs = _within(logprobs, "logprobs", 0, MOST_LOGPROBS, default=0)
    prompts = _prompts(body.prompt)
    n = _within(body.n, "n", 1, MOST_CHOICES, default=1)
    if n * len(prompts) > MOST_CHOICES:
        raise ApiError(f"{len(prompts)} prompts times `n` {n}: at most {MOST_CHOICES} in one request", param="n")
    stops = (body.stop,) if isinstance(body.stop, str) else tuple(body.stop or ())
    if len(stops) > MOST_STOPS or any(not stop for stop in stops):
        raise ApiError(f"`stop`: expected at most {MOST_STOPS} texts, none of them empty", param="stop")
    return CompletionRequest(
        model=body.model,
        prompts=prompts,
        max_tokens=max_tokens,
        temperature=_within(body.temperature, "temperature", 0.0, 1e6, default=1.0),
        top_p=_top_p(body.top_p),
        top_k=None if body.top_k in (None, 0, -1) else _within(body.top_k, "top_k", 1, 1 << 31, default=1),
        n=n,
        stop=stops,
        seed=None if body.seed is None else _within(body.seed, "seed", 0, SEED_LIMIT, default=0),
        stream=bool(body.stream),
        include_usage=bool((body.stream_options or {}).get("include_usage")),
        logprobs=logprobs,
        echo=bool(body.echo),
        ignore_eos=bool(body.ignore_eos),
        what_if=checked_changes(body.what_if or ()),
    )


def checked_changes(changes: Sequence[str]) -> tuple[str, ...]:
    """Changes in memory that a request asks for, if they are not too many. Raises what `parse` raises."""
    if len(changes) > MOST_CHANGES or any(len(change) > MOST_CHANGE_CHARACTERS for change in changes):
        limit = f"at most {MOST_CHANGES} changes of {MOST_CHANGE_CHARACTERS} characters"
        raise ApiError(f"`what_if`: expected {limit}", param="what_if")
    return tuple(changes)


def _within(value: _Number | None, name: str, least: _Number, most: _Number, *, default: _Number) -> _Number:
    if value is None:
        return default
    if not least <= value <= most:
        raise ApiError(f"`{name}` is {value}: expected {least:,} to {most:,}", param=name)
    return value


def _top_p(value: float | None) -> float:
    if value is None:
        return 1.0
    if not 0 < value <= 1:
        raise ApiError(f"`top_p` is {value}: expected a number above 0 and at most 1", param="top_p")
    return value


def _prompts(prompt: str | list[Any] | None) -> Sequence[str | list[int]]:
    if prompt is None:
        return [""]
    if isinstance(prompt, str):
        return [prompt]
    if all(isinstance(each, str) for each in prompt) and prompt:
        return prompt
    if all(_is_id(each) for each in prompt):
        return [prompt]
    if all(isinstance(each, list) and all(map(_is_id, each)) for each in prompt):
        return prompt
    raise ApiError("`prompt`: expected a text, a list of texts, a list of ids, or a list of such lists", param="prompt")


def _is_id(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


# ---- responses


@dataclass(frozen=True, slots=True)
class TokenLogprob:
    """One token of a response.

    ``log_p`` is the natural logarithm of its probability, None where there is none; ``top`` lists the most probable
    tokens and theirs; ``offset`` is the place of its first character in the text of the choice.
    """

    name: str
    log_p: float | None
    top: dict[str, float] | None
    offset: int


def logprobs_of(tokens: Iterable[TokenLogprob]) -> dict[str, Any]:
    """The field `logprobs` of a choice."""
    tokens = list(tokens)
    return {
        "tokens": [each.name for each in tokens],
        "token_logprobs": [each.log_p for each in tokens],
        "top_logprobs": [each.top for each in tokens] if any(each.top is not None for each in tokens) else None,
        "text_offset": [each.offset for each in tokens],
    }


def choice(index: int, text: str, logprobs: dict[str, Any] | None, finish_reason: str | None) -> dict[str, Any]:
    """A choice of a response, or a piece of one."""
    return {"text": text, "index": index, "logprobs": logprobs, "finish_reason": finish_reason}


def usage(prompt_tokens: int, completion_tokens: int) -> dict[str, int]:
    """The numbers of tokens."""
    return {
        "prompt_tokens": prompt_tokens,
        "completion_tokens": completion_tokens,
        "total_tokens": prompt_tokens + completion_tokens,
    }


def completion(
    identity: str, created: int, model: str, choices: list[dict[str, Any]], counts: dict[str, int] | None
) -> dict[str, Any]:
    """The body of a response, or of one event of a stream."""
    found = {"id": identity, "object": "text_completion", "created": created, "model": model, "choices": choices}
    return found if counts is None else {**found, "usage": counts}
