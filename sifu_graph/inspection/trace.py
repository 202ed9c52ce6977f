"""A trace: everything that the signal of one text does, position by position, and an account of who won and why.

The stages have names that stay: `r` (the signals), `mix` (S), `z` (what reaches a candidate, before GELU) and `energy`.
The energies are not computed here. ``like="generate"`` walks as generation does (`walk.Walk`: its rows, its
positional encodings, its candidates); ``like="eval"`` runs the sweep of evaluation (`step.plan`, `step.carry`,
`ContestBackend.forward`, in the same chunks). The two differ where the settings of the signal say so (the offset of the
positional encoding, the self edge), and in what they let win: generation never chooses <unk>.

Only rows of nodes that the text meets are read. This module knows one text and a graph; not screens, pages of HTML or
how an energy is split (`attribution`), nor what an overlay changes (`what_if`).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from sifu_store.errors import OptionError
from sifu_store.layout import BIAS, WEIGHT
from torch import Tensor

from sifu_graph.config import SignalConfig, require_positive
from sifu_graph.generation.walk import Walk
from sifu_graph.inspection import what_if
from sifu_graph.inspection.attribution import METHOD, Account, account
from sifu_graph.model import forward
from sifu_graph.model.parameters import Parameters
from sifu_graph.ops.functional import mix_weights, step_encoding
from sifu_graph.text.node_lookup import node_named
from sifu_graph.text.tokenizer import SEPARATOR, UNKNOWN

if TYPE_CHECKING:
    from sifu_graph.session import GraphSession

DEFAULT_TOP, PAGE_TOP = 5, 16
Like = Literal["generate", "eval"]


@dataclass(frozen=True, slots=True, kw_only=True)
class TraceOptions:
    """What to trace.

    Attributes
    ----------
    top
        Candidates a position that are looked at closely, the strongest first. None: 5, or 16 for a page.
    last
        Only the last so many positions. None: all.
    like
        Compute as ``generate`` (the default) or as ``eval``.
    also
        Names of nodes that are looked at closely at every position, however weak.
    what_if
        Changes of the graph, in memory only: see `what_if`. The trace then has the one without them as `before`.
    html, force
        Write a page to this file (`trace_html`), over one that is there.
    """

    top: int | None = None
    last: int | None = None
    like: Like = "generate"
    also: Sequence[str] = ()
    what_if: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class Candidate:
    """A node that the signal may go to next. All default edges of a position share one energy: they are one entry.

    ``among`` is their number (1 for a private edge), ``node`` then the most frequent of them unless one was asked for;
    ``p`` is the probability of one of them, ``count`` how often the pair was counted (None: not known).
    """

    node: int
    name: str
    private: bool
    count: int | None
    among: int
    energy: float
    p: float
    rank: int | None
    """1 for the winner; None: it cannot be chosen here."""


@dataclass(frozen=True, slots=True)
class Position:
    """One contest: the row of ``node`` after the text so far.

    ``candidates`` are the ``contenders`` strongest entries, the winner and the runner-up first, then those that were
    asked for and the node that came, where they are not among them. Row i of ``account`` belongs to candidate i.
    """

    position: int
    node: int
    name: str
    begin: int  # the position where the signal started
    private_edges: int
    came: int | None
    came_name: str | None
    came_at: int | None  # its place in `candidates`
    rank: int | None
    loss: float | None
    contenders: int
    candidates: tuple[Candidate, ...]
    weights: NDArray[np.float64]  # [position - begin + 1], of the signals from `begin` on
    account: Account

    @property
    def margin(self) -> Account | None:
        """The winner's account less the runner-up's; None where there is only one candidate."""
        return self.account.margin(0, 1) if self.contenders > 1 else None


@dataclass(frozen=True, slots=True)
class Trace:
    """What `trace` found. I = positions shown, m = signals they mix, n = nodes, k = `top` and what else was asked for.

    Attributes
    ----------
    silent
        Positions whose signal was kept out of the mix.
    first
        The position of ``r[0]``: the signals before it play no part in what is shown.
    r : [m, d]
        The signals.
    mix : [I, d]
        S, as the candidates see it.
    energy : [I, n]
        Of every node, the same bits as in generation (or evaluation); default edges have that of the default edge.
    candidate, private : bool [I, n]
        Which of them can be chosen, and which come over a private edge.
    shown : int64 [I, k]
        Nodes that were looked at closely; the last column is the node that came (where none came: the winner).
    z : [I, k, d]
        What reaches the shown nodes, before GELU (computed by torch: the kernel hands out energies only).
    scale
        Energies times this are the logits: a margin of energy times this is in nats.
    """

    names: tuple[str, ...]
    nodes: tuple[int, ...]
    unknown: tuple[str, ...]
    like: Like
    what_if: tuple[str, ...]
    scale: float
    silent: frozenset[int]
    first: int
    positions: tuple[Position, ...]
    r: Tensor
    mix: Tensor
    energy: Tensor
    candidate: Tensor
    private: Tensor
    shown: Tensor
    z: Tensor
    before: Trace | None = None
    page_bytes: int | None = None
    """Size of the page, if one was written."""

    @property
    def text_positions(self) -> int:
        """Positions of the whole text, shown or not."""
        return self.positions[-1].position + 1

    def to_json(self) -> dict[str, Any]:
        """The trace as a JSON object, without the tensors; stable names."""
        return {
            "like": self.like,
            "what_if": list(self.what_if),
            "method": METHOD,
            "scale": self.scale,
            "unknown": list(self.unknown),
            "text_positions": self.text_positions,
            "positions": [_position_json(position) for position in self.positions],
            "before": None if self.before is None else self.before.to_json(),
        }


@dataclass(frozen=True, slots=True)
class Contest:
    """One position, as generation or evaluation computed it."""

    position: int
    begin: int
    node: int
    came: int | None
    mix: Tensor  # [d]
    offset: int  # of the positional encoding
    energies: NDArray[np.floating[Any]]  # [private edges of the row]
    default: float
    loss: float | None  # where the kernel computed it


def trace(graph: GraphSession, text: str | Sequence[str], options: TraceOptions) -> Trace:
    """Traces a text.

    Parameters
    ----------
    text
        Taken as `generate` takes a prompt; with ``like="eval"`` as one document of a corpus.

    Raises
    ------
    OptionError
        The text is empty or consists of unknown characters only, or an option has no meaning.
    """
    require_positive(top=options.top, last=options.last)
    text = text if isinstance(text, str) else list(text)
    if not len(text):
        raise OptionError("the text is empty: give at least one token to trace")
    if options.like not in ("generate", "eval"):
        raise OptionError(f"like is {options.like!r}: expected generate or eval")
    tokenizer = graph.tokenizer
    unknown = tokenizer.unknown_characters(text)
    if not (tokenizer.encode(text) != UNKNOWN).any():
        shown = "".join(unknown[:10])
        raise OptionError(f"the text consists of unknown characters only ({shown}): none of them is a node")
    changes = [what_if.parse(words) for words in options.what_if]
    graph.fit_memory(evaluated_edges=len(text) + 2)
    parameters = dataclasses.replace(graph.parameters, tier=None)  # on the CPU
    real = what_if.Overlay(parameters, tokenizer, frozenset())
    found = _trace(graph, real, text, options, ())
    if changes:
        laid = what_if.lay(parameters, tokenizer, changes)
        last = len(found.nodes) - 1
        for position in sorted(laid.silent):
            if position > last:
                raise OptionError(f"what-if 'position {position} off': the text has the positions 0 to {last}")
        if laid.silent and options.like == "eval":
            raise OptionError("a position can be off only as in generation: leave out like eval")
        after = _trace(graph, laid, text, options, tuple(map(str, changes)))
        found = dataclasses.replace(after, before=found)
    return found


def _trace(
    graph: GraphSession,
    laid: what_if.Overlay,
    text: str | list[str],
    options: TraceOptions,
    what_if: tuple[str, ...],
) -> Trace:
    ids = [SEPARATOR, *map(int, laid.tokenizer.encode(text))]
    if options.like == "eval":
        ids.append(SEPARATOR)
    gone = {words[len("node ") : -len(" off")] for words in what_if if words.startswith("node ")}
    return follow(
        laid.parameters,
        graph.signal,
        ids,
        names=tuple(laid.tokenizer.vocabulary),
        length=graph.settings["build"]["length"],
        silent=laid.silent,
        also=[node_named(laid.tokenizer, name) for name in options.also if name not in gone],
        options=options,
        unknown=tuple(laid.tokenizer.unknown_characters(text)),
        what_if=what_if,
    )


def follow(
    parameters: Parameters,
    config: SignalConfig,
    ids: Sequence[int],
    *,
    names: tuple[str, ...],
    length: int,
    options: TraceOptions,
    silent: frozenset[int] = frozenset(),
    also: Sequence[int] = (),
    unknown: tuple[str, ...] = (),
    what_if: tuple[str, ...] = (),
) -> Trace:
    """Traces nodes, the separator at the beginning included.

    ``length`` is that of a chunk of evaluation (in tokens); the other parameters are those of `TraceOptions`.
    """
    if options.like == "eval":
        restart = length - 1 if config.reset_after is None else min(length - 1, config.reset_after)
        signals, contests = _as_eval(parameters, config, ids, length, options.last)
    else:
        restart = len(ids) if config.reset_after is None else config.reset_after
        signals, contests = _as_generate(parameters, config, ids, restart, options.last, silent)
    alpha = parameters.alpha.tolist()
    top = options.top or DEFAULT_TOP
    first = contests[0].begin
    r = torch.stack([signals[place] for place in range(first, contests[-1].position + 1)])
    forbidden = {UNKNOWN} if options.like == "generate" else set()
    every = [
        _position(parameters, config, found, r[found.begin - first : found.position - first + 1],
                  mix_weights(config, alpha, found.position - found.begin, {k - found.begin for k in silent}),
                  names, forbidden, also, options.like, top)
        for found in contests
    ]  # fmt: skip
    k = max(len(one.shown) for one in every)
    return Trace(
        names=names,
        nodes=tuple(ids),
        unknown=unknown,
        like=options.like,
        what_if=what_if,
        scale=float(parameters.scale),
        silent=silent,
        first=first,
        positions=tuple(one.position for one in every),
        r=r,
        mix=torch.stack([found.mix for found in contests]),
        energy=torch.stack([one.energy for one in every]),
        candidate=torch.stack([one.candidate for one in every]),
        private=torch.stack([one.private for one in every]),
        shown=torch.stack([_filled(one.shown, k) for one in every]),
        z=torch.stack([_filled(one.z, k) for one in every]),
    )


def _filled(rows: Tensor, k: int) -> Tensor:
    """As many rows as k: the last but one again where there are fewer, so that the last stays the last."""
    if len(rows) == k:
        return rows
    return torch.cat([rows[:-1], rows[-2:-1].expand(k - len(rows), *rows.shape[1:]), rows[-1:]])


# ---- the two ways to compute


def _as_generate(
    parameters: Parameters,
    config: SignalConfig,
    ids: Sequence[int],
    restart: int,
    last: int | None,
    silent: frozenset[int],
) -> tuple[dict[int, Tensor], list[Contest]]:
    """As generation: after every token of the prompt the contest for the next one."""
    window = 0 if last is None else max(0, len(ids) - last)
    walk = Walk(parameters, config, forbidden=[UNKNOWN])
    signals: dict[int, Tensor] = {}
    contests: list[Contest] = []
    begin = window // restart * restart
    for position in range(begin, len(ids)):
        if (position - begin) % restart == 0:
            begin = position
            walk.silent = frozenset(k - begin for k in silent if k >= begin)
            walk.start(ids[position])
        else:
            walk.carry(ids[position])
        signals[position] = walk.signal.r[0].clone()
        if position >= window:
            energies, default = walk.energies()
            came = ids[position + 1] if position + 1 < len(ids) else None
            offset = walk.signal.step + config.decode_offset
            mix = walk.signal.mix[0].clone()
            contests.append(Contest(position, begin, ids[position], came, mix, offset, energies.copy(), default, None))
    return signals, contests


def _as_eval(
    parameters: Parameters, config: SignalConfig, ids: Sequence[int], length: int, last: int | None
) -> tuple[dict[int, Tensor], list[Contest]]:
    """As evaluation: the document in chunks of ``length`` tokens that overlap by one, and cut at the resets."""
    positions = len(ids) - 1
    window = 0 if last is None else max(0, positions - last)
    begins = list(_begins(positions, length - 1, config.reset_after))
    stops = [*begins[1:], positions]
    sizes = np.array([stop - begin + 1 for begin, stop in zip(begins, stops, strict=True)])
    tokens = np.zeros((len(begins), int(sizes.max())), np.int32)
    for row, (begin, size) in enumerate(zip(begins, sizes, strict=True)):
        tokens[row, :size] = ids[begin : begin + size]
    batch = forward.plan(parameters, config, tokens, sizes)
    sweep = forward.carry(parameters, config, batch)
    parts = forward.rows_in_memory(parameters.edges, batch, sweep.rows)
    outcome, flat = parameters.backend.forward(sweep.rows, batch.plan, sweep.S, energies=True, parts=parts)
    assert flat is not None
    loss = outcome.loss(sweep.rows.scale)
    signals, contests, at = {}, [], 0
    row_sizes = torch.diff(batch.plan.first_edge).tolist()
    first_position = batch.plan.first_position.tolist()
    for group, size in enumerate(row_sizes):
        for t in range(first_position[group], first_position[group + 1]):
            sequence, place = divmod(int(batch.places[t]), batch.steps)
            position = begins[sequence] + place
            signals[position] = sweep.tape.r[sequence, place]
            contests.append(
                Contest(
                    position, begins[sequence], ids[position], ids[position + 1], sweep.S[t],
                    place + config.train_offset, flat[at : at + size].numpy(), float(outcome.default_energy[t]),
                    float(loss[t]),
                )
            )  # fmt: skip
            at += size
    contests.sort(key=lambda found: found.position)
    return signals, [found for found in contests if found.position >= window]


def _begins(positions: int, stride: int, reset_after: int | None) -> Iterator[int]:
    for chunk in range(0, positions, stride):
        yield from range(chunk, min(chunk + stride, positions), reset_after or stride)


# ---- one position


@dataclass(frozen=True, slots=True)
class _One:
    position: Position
    energy: Tensor  # [n]
    candidate: Tensor  # [n]
    private: Tensor  # [n]
    shown: Tensor  # [k]
    z: Tensor  # [k, d]


def _position(
    parameters: Parameters,
    config: SignalConfig,
    found: Contest,
    r: Tensor,
    weights: Tensor,
    names: tuple[str, ...],
    forbidden: set[int],
    also: Sequence[int],
    like: Like,
    top: int,
) -> _One:
    index = parameters.index
    row = index.row(found.node)
    targets, counts, slots = index.target[row], index.count[row], index.slot[row]
    energy = np.full(index.nodes, found.default, dtype=found.energies.dtype)
    energy[targets] = found.energies
    private = np.zeros(index.nodes, bool)
    private[targets] = True
    candidate = np.ones(index.nodes, bool)
    candidate[list(forbidden)] = False
    if like == "generate" and not config.self_decode:
        candidate[found.node] = False
    candidate[index.forbidden_after(found.node)] = False

    # The order of the contest: by energy; the default edges win a tie, among them the most frequent node.
    frequency = np.arange(index.nodes)
    if index.by_frequency is not None:
        frequency[index.by_frequency] = np.arange(index.nodes)
    order = np.lexsort((np.where(private, np.arange(index.nodes), frequency), private, -energy.astype(np.float64)))
    order = order[candidate[order]]
    rank = np.zeros(index.nodes, np.int64)
    rank[order] = np.arange(1, len(order) + 1)
    logits = np.where(candidate, float(parameters.scale) * energy.astype(np.float64), -np.inf)
    normaliser = float(np.logaddexp.reduce(logits))

    defaults = int((candidate & ~private).sum())
    ahead = order[~private[order]][:1]  # stands for all default edges
    entries = np.concatenate([order[private[order]], ahead])
    entries = entries[np.argsort(rank[entries], kind="stable")][: max(2, top)]
    came = found.came
    shown = list(dict.fromkeys([*map(int, entries), *also, *([] if came is None else [came])]))
    if not shown:
        raise OptionError(f"no node can follow {names[found.node]!r}: every one of them is out of the contest")
    candidates = []
    for node in shown:
        is_private = bool(private[node])
        candidates.append(
            Candidate(
                node=node,
                name=names[node],
                private=is_private,
                count=int(counts[np.searchsorted(targets, node)]) if is_private else None,
                among=1 if is_private else max(1, defaults),
                energy=float(energy[node]),
                p=float(np.exp(logits[node] - normaliser)),
                rank=int(rank[node]) or None,
            )
        )
    last = shown[0] if came is None else came
    every = np.array([*shown, last])
    places = np.searchsorted(targets, every)
    W, b = _edges(parameters, np.array([slots[p] if private[v] else -1 for v, p in zip(every, places, strict=True)]))
    encoding = step_encoding(config, found.offset, found.mix)
    loss = found.loss
    if loss is None and came is not None and candidate[came]:
        loss = normaliser - float(logits[came])
    k = len(shown)
    return _One(
        Position(
            position=found.position,
            node=found.node,
            name=names[found.node],
            begin=found.begin,
            private_edges=len(targets),
            came=came,
            came_name=None if came is None else names[came],
            came_at=None if came is None else shown.index(came),
            rank=None if came is None else int(rank[came]) or None,
            loss=loss,
            contenders=len(entries),
            candidates=tuple(candidates),
            weights=weights.numpy(),
            account=account(
                config,
                W=W[:k],
                b=b[:k],
                encoding=encoding,
                r=r,
                weights=weights,
                energy=torch.from_numpy(energy[every[:k]]),
            ),
        ),
        torch.from_numpy(energy),
        torch.from_numpy(candidate),
        torch.from_numpy(private),
        torch.from_numpy(every),
        torch.from_numpy(found.mix.numpy() @ W.numpy()) + b + encoding,
    )


def _edges(parameters: Parameters, slots: NDArray[np.int64]) -> tuple[Tensor, Tensor]:
    """W [k, d, d] and b [k, d] of edges by their slots, -1: the default edge."""
    own = slots >= 0
    parts = []
    for name, default in ((WEIGHT, parameters.default_W), (BIAS, parameters.default_b)):
        values = np.empty((len(slots), *default.shape), dtype=default.numpy().dtype)
        values[~own] = default.numpy()
        if own.any():
            values[own] = parameters.edges.get(name, slots[own]).numpy()
        parts.append(torch.from_numpy(values))
    return parts[0], parts[1]


# ---- as JSON


def _position_json(position: Position) -> dict[str, Any]:
    margin = position.margin
    return {
        "position": position.position,
        "node": position.name,
        "begin": position.begin,
        "private_edges": position.private_edges,
        "came": position.came_name,
        "rank": position.rank,
        "loss": position.loss,
        "weights": position.weights.tolist(),
        "candidates": [
            {
                "node": candidate.name,
                "private": candidate.private,
                "among": candidate.among,
                "count": candidate.count,
                "energy": candidate.energy,
                "p": candidate.p,
                "rank": candidate.rank,
                "account": _account_json(position.account, at),
            }
            for at, candidate in enumerate(position.candidates)
        ],
        "margin": None if margin is None else {"energy": float(margin.energy[0]), **_account_json(margin, 0)},
    }


def _account_json(found: Account, at: int) -> dict[str, Any]:
    return {
        "signals": found.signals[at].tolist(),
        "bias": float(found.bias[at]),
        "encoding": float(found.encoding[at]),
        "remainder": float(found.remainder[at]),
    }
