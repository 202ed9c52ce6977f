"""A trace: the signals and energies of one text, position by position, and the decomposition of each energy.

The stages have fixed names: `r` (the signals), `mix` (S), `z` (the input of GELU for a candidate) and `energy`.

Only the rows of nodes in the text are read. The module knows one text and a graph; it does not know screens, or how an
energy is decomposed (`attribution`).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from sifu_store.errors import OptionError
from sifu_store.layout import BIAS, WEIGHT
from sifu_store.short_repr import short_repr
from torch import Tensor

from sifu_graph.config import SignalConfig, require_positive
from sifu_graph.inspection import what_if
from sifu_graph.inspection.attribution import METHOD, Account, account, account_on_base, moved_shares
from sifu_graph.inspection.base_contests import on_base
from sifu_graph.inspection.contests import Contest, Contestants, Like, as_evaluation, as_generation
from sifu_graph.inspection.notebook import WithPage
from sifu_graph.model.parameters import Parameters
from sifu_graph.ops.functional import mix_weights
from sifu_graph.ops.positional import step_encoding
from sifu_graph.text.node_lookup import node_named, shown_name
from sifu_graph.text.prompts import known_ids, read_prompt
from sifu_graph.text.tokenizer import SEPARATOR

if TYPE_CHECKING:
    from sifu_graph.session import GraphSession

DEFAULT_TOP, PAGE_TOP = 5, 16


@dataclass(frozen=True, slots=True, kw_only=True)
class TraceOptions:
    """Options of a trace.

    Attributes
    ----------
    top
        Number of candidates in detail at each position, those of greatest energy. None: 5, or 16 for a page.
    last
        Number of last positions to return. None: all.
    like
        Compute as ``generate`` (the default) or as ``eval``.
    also
        Names of nodes that are shown in detail at every position, whatever their energy.
    what_if
        Changes of the graph, in memory only: see `what_if`. The trace then has the one without them as `before`.
    """

    top: int | None = None
    last: int | None = None
    like: Like = "generate"
    also: Sequence[str] = ()
    what_if: Sequence[str] = ()


@short_repr
@dataclass(frozen=True, slots=True)
class Candidate:
    """A candidate for the next node. All default edges of a position have the same energy and are one entry.

    ``among`` is their number (1 for a private edge), ``node`` the most frequent of them (or the one in ``also``);
    ``p`` is the probability of one of them, ``count`` the occurrences of the pair (None: not known).
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


@short_repr
@dataclass(frozen=True, slots=True)
class Position:
    """One contest: the row of ``node`` after the text so far.

    ``candidates`` has the ``contenders`` entries of greatest energy, the winner and the runner-up first, then the nodes
    of ``also`` and the next node of the text (``came``), if they are not among them. Row i of ``account`` belongs to
    candidate i. ``loss`` is in nats.
    """

    position: int
    node: int
    name: str
    begin: int  # the position where the signal started
    private_edges: int
    came: int | None
    came_name: str | None
    came_at: int | None  # index of `came` in `candidates`
    rank: int | None
    loss: float | None
    contenders: int
    candidates: tuple[Candidate, ...]
    source: tuple[str, ...]  # the nodes of its name: the node alone, or those of its clone
    weights: NDArray[np.float64]  # [position - begin + 1], of the signals from `begin` on; with a base: `moved_shares`
    account: Account
    unknown_p: float  # probability of <unk> among all nodes, where ``p`` and ``loss`` leave it out; else 0

    @property
    def margin(self) -> Account | None:
        """The account of the winner minus that of the runner-up; None if there is only one candidate."""
        return self.account.margin(0, 1) if self.contenders > 1 else None


@short_repr
@dataclass(frozen=True, slots=True)
class Trace(WithPage):
    """The result of `trace`. I: positions shown, m: signals in their mixes, n: nodes, k: candidates in detail.

    Attributes
    ----------
    silent
        Positions whose signal does not enter the mix.
    first
        The position of ``r[0]``; earlier signals do not enter any mix shown.
    r : [m, d]
        The signals.
    mix : [I, d]
        S, the input of the candidates' edges; with a base, the signal.
    energy : [I, n]
        Of every node, the same bits as in generation (or evaluation); default edges have that of the default edge.
        Their softmax is not `p`: that leaves out the nodes that cannot be chosen, such as <unk> in generation.
    candidate, private : bool [I, n]
        Which nodes can be chosen, and which are reached over a private edge.
    shown : int64 [I, k]
        Nodes in detail; the last column is the next node of the text (at its end: the winner).
    z : [I, k, d]
        The input of GELU for the nodes in detail (computed by torch: the kernel returns energies only); 0 with a base.
    scale
        Factor from energies to logits: a margin times this is in nats.
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
    base: bool = False
    """All edges share a base: every node has an energy of its own."""
    before: Trace | None = None
    page_bytes: int | None = None
    """Size of the page, if one was written."""

    @property
    def p(self) -> Tensor:
        """Probability of every node, float64 [I, n]: the softmax of ``scale * energy`` over the candidates; else 0."""
        logits = self.scale * self.energy.double()
        return torch.softmax(logits.masked_fill(~self.candidate, -torch.inf), dim=1)

    @property
    def unknown_p(self) -> float:
        """Mean of `Position.unknown_p` over the positions."""
        return float(np.mean([one.unknown_p for one in self.positions]))

    @property
    def unchanged(self) -> bool:
        """Whether ``what_if`` changes no energy and no candidate of the positions shown."""
        before = self.before
        return before is not None and all(
            torch.equal(getattr(self, name), getattr(before, name)) for name in ("energy", "candidate")
        )

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
            "unchanged": self.unchanged,
        }


def trace(graph: GraphSession, text: str | Sequence[str], options: TraceOptions) -> Trace:
    """Traces a text.

    Parameters
    ----------
    graph
        The open graph.
    text
        Encoded as a prompt of `generate`; with ``like="eval"`` as one document of a corpus.
    options
        The options.

    Raises
    ------
    OptionError
        The text is empty or consists of unknown characters only, or an option has no meaning.
    """
    require_positive(top=options.top, last=options.last)
    text = read_prompt(graph.tokenizer, text, "text")
    if options.like not in ("generate", "eval"):
        raise OptionError(f"`like` is {options.like!r}: expected generate or eval")
    tokenizer = graph.tokenizer
    known_ids(tokenizer, text, "text")
    changes = [what_if.parse(words) for words in options.what_if]
    graph._fit_memory(evaluated_edges=len(text) + 2)
    parameters = dataclasses.replace(graph.parameters, tier=None)  # on the CPU
    found = _trace(graph, what_if.Overlay(parameters, tokenizer), text, options)
    if changes:
        laid = what_if.lay(parameters, tokenizer, changes)
        last = len(found.nodes) - 1
        for position in sorted(laid.silent):
            if position > last:
                raise OptionError(f"`what_if` 'position {position} off': the text has the positions 0 to {last}")
        if laid.silent and options.like == "eval":
            raise OptionError('a position can be off only as in generation: use `like="generate"`')
        after = _trace(graph, laid, text, options)
        found = dataclasses.replace(after, before=found, what_if=tuple(map(str, changes)))
    return found


def _trace(graph: GraphSession, laid: what_if.Overlay, text: str | list[str], options: TraceOptions) -> Trace:
    ids = [SEPARATOR, *map(int, laid.tokenizer.encode(text))]
    if options.like == "eval":
        ids.append(SEPARATOR)
    return follow(
        laid.parameters,
        graph.signal,
        ids,
        names=tuple(laid.tokenizer.vocabulary),
        length=graph.settings["build"]["length"],
        silent=laid.silent,
        also=[node_named(laid.tokenizer, name) for name in options.also if shown_name(name) not in laid.removed],
        options=options,
        unknown=tuple(laid.tokenizer.unknown_characters(text)),
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
) -> Trace:
    """Traces nodes.

    Parameters
    ----------
    parameters, config
        The parameters of the graph, and its settings of the signal.
    ids
        The nodes, with the separator at the beginning.
    names
        The names of all nodes [n].
    length
        Tokens in a chunk of evaluation.
    options
        The options; ``also`` and ``what_if`` are not read.
    silent
        Positions whose signal does not enter the mix (generation only).
    also
        Nodes that are shown in detail at every position.
    unknown
        Characters of the text that are no nodes; for the report.
    """
    if config.base:
        signals, contests = on_base(parameters, config, ids, like=options.like, last=options.last, silent=silent)
    elif options.like == "eval":
        restart = length - 1 if config.reset_after is None else min(length - 1, config.reset_after)
        signals, contests = as_evaluation(parameters, config, ids, length, options.last)
    else:
        restart = len(ids) if config.reset_after is None else config.reset_after
        signals, contests = as_generation(parameters, config, ids, restart, options.last, silent)
    first = contests[0].begin
    r = torch.stack([signals[place] for place in range(first, contests[-1].position + 1)])
    view = _View(parameters, config, names, also, options.like, options.top or DEFAULT_TOP)
    alpha = parameters.alpha.tolist()
    every = []
    for found in contests:
        off = {k - found.begin for k in silent}
        weights = (
            mix_weights(config, alpha, found.position - found.begin, off)
            if found.without is None
            else moved_shares(found.mix, found.without)
        )
        every.append(view.position(found, r[found.begin - first : found.position - first + 1], weights))
    k = max(len(one.shown) for one in every)
    return Trace(
        names=names,
        nodes=tuple(ids),
        unknown=unknown,
        like=options.like,
        what_if=(),
        scale=1.0 if config.base else float(parameters.scale),
        silent=silent,
        first=first,
        positions=tuple(one.position for one in every),
        r=r,
        mix=torch.stack([found.mix for found in contests]),
        energy=torch.stack([torch.from_numpy(one.nodes.energy) for one in every]),
        candidate=torch.stack([torch.from_numpy(one.nodes.candidate) for one in every]),
        private=torch.stack([torch.from_numpy(one.nodes.private) for one in every]),
        shown=torch.stack([_filled(one.shown, k) for one in every]),
        z=torch.stack([_filled(one.z, k) for one in every]),
        base=config.base,
    )


def _filled(rows: Tensor, k: int) -> Tensor:
    """Exactly k rows: the last but one is repeated if there are fewer, so that the last row stays the last."""
    if len(rows) == k:
        return rows
    return torch.cat([rows[:-1], rows[-2:-1].expand(k - len(rows), *rows.shape[1:]), rows[-1:]])


# ---- one position


@dataclass(frozen=True, slots=True)
class _Seen:
    """The result of one position."""

    position: Position
    nodes: Contestants
    shown: Tensor  # int64 [k + 1]
    z: Tensor  # [k + 1, d]


@dataclass(frozen=True, slots=True)
class _View:
    """The nodes in detail at every position: the ``top`` entries of greatest energy, ``also``, and the next node."""

    parameters: Parameters
    config: SignalConfig
    names: tuple[str, ...]
    also: Sequence[int]
    like: Like
    top: int

    def position(self, found: Contest, r: Tensor, weights: Tensor) -> _Seen:
        """One contest, with the signals r [m, d] since the start and their weights [m] in the mix."""
        nodes = Contestants.of(self.parameters, self.config, found, self.like)
        entries, came = nodes.top(max(2, self.top)), found.came
        shown = list(dict.fromkeys([*map(int, entries), *self.also, *([] if came is None else [came])]))
        if not shown:
            raise OptionError(f"no node can follow {self.names[found.node]!r}: none of them can be chosen")
        k, every = len(shown), np.array([*shown, shown[0] if came is None else came])
        energy = torch.from_numpy(nodes.energy[every[:k]])
        if found.without is not None:
            assert self.parameters.base is not None and found.repeated is not None
            target = every[:k].astype(np.int64)
            split = account_on_base(
                self.parameters.base, source=found.source, target=target, r=found.mix,
                without=found.without, repeated=found.repeated[target], energy=energy,
            )  # fmt: skip
            z = found.mix.new_zeros(len(every), len(found.mix))
        else:
            W, b = _edges(self.parameters, [nodes.slot_of(node) for node in every.tolist()])
            encoding = step_encoding(self.config, found.offset, found.mix)
            split = account(self.config, W=W[:k], b=b[:k], encoding=encoding, r=r, weights=weights, energy=energy)
            z = torch.from_numpy(found.mix.numpy() @ W.numpy()) + b + encoding
        position = Position(
            position=found.position,
            node=found.node,
            name=self.names[found.node],
            begin=found.begin,
            private_edges=len(nodes.targets),
            came=came,
            came_name=None if came is None else self.names[came],
            came_at=None if came is None else shown.index(came),
            rank=None if came is None else int(nodes.rank[came]) or None,
            loss=_loss(found, nodes),
            contenders=len(entries),
            candidates=tuple(self._candidate(nodes, node) for node in shown),
            source=self._name(found),
            weights=weights.numpy(),
            account=split,
            unknown_p=nodes.unknown_p,
        )
        return _Seen(position, nodes, torch.from_numpy(every), z)

    def _name(self, found: Contest) -> tuple[str, ...]:
        base = self.parameters.base
        nodes = [found.node] if base is None else base.pairs.tree.name(found.source)
        return tuple(self.names[node] for node in nodes)

    def _candidate(self, nodes: Contestants, node: int) -> Candidate:
        private = bool(nodes.private[node])
        return Candidate(
            node=node,
            name=self.names[node],
            private=private,
            count=nodes.count_of(node),
            among=1 if private or not nodes.alike else max(1, len(nodes.default())),
            energy=float(nodes.energy[node]),
            p=nodes.probability(node),
            rank=int(nodes.rank[node]) or None,
        )


def _loss(found: Contest, nodes: Contestants) -> float | None:
    """-log p of the next node of the text, in nats, by the kernel if it computed it; None: it cannot follow."""
    if found.loss is not None or found.came is None or not nodes.candidate[found.came]:
        return found.loss
    return nodes.normaliser - float(nodes.logits[found.came])


def _edges(parameters: Parameters, slots: Sequence[int | None]) -> tuple[Tensor, Tensor]:
    """W [k, d, d] and b [k, d] of edges by their slots, None: the default edge."""
    own = np.array([slot is not None for slot in slots])
    taken = np.array([slot for slot in slots if slot is not None], dtype=np.int64)
    parts = []
    for name, default in ((WEIGHT, parameters.default_W), (BIAS, parameters.default_b)):
        values = np.empty((len(slots), *default.shape), dtype=default.numpy().dtype)
        values[~own] = default.numpy()
        if len(taken):
            values[own] = parameters.edges.get(name, taken).numpy()
        parts.append(torch.from_numpy(values))
    return parts[0], parts[1]


# ---- as JSON


def _position_json(position: Position) -> dict[str, Any]:
    margin = position.margin
    return {
        "position": position.position,
        "node": position.name,
        "source": list(position.source),
        "begin": position.begin,
        "private_edges": position.private_edges,
        "came": position.came_name,
        "rank": position.rank,
        "loss": position.loss,
        "unknown_p": position.unknown_p,
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
        "counts": float(found.counts[at]),
        "clones": found.clones[at].tolist(),
        "together": float(found.together[at]),
        "repetition": float(found.repeated[at]),
        "remainder": float(found.remainder[at]),
    }
