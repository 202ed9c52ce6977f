"""Counterfactual edits: after a source, another successor than the winner; what they change, and what they leave.

A record is a place of a text: the source u there (a node or a clone), the node w that wins there, and another node v,
drawn by its frequency. The edge from u to v is boosted until v wins at that place by `MARGIN` nats. The measures are
those of ROME (arXiv 2202.05262, section 3.3), with places of the text instead of prompts. The module knows parameters
and node ids; it does not know how an edit is made: any parameters can be measured.
"""

from __future__ import annotations

import itertools
import math
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

import numpy as np
from sifu_store.errors import CorpusError
from sifu_store.short_repr import short_repr

from sifu_graph.arrays import Bools, Doubles, Ints
from sifu_graph.config import SignalConfig
from sifu_graph.generation.base_walk import BaseWalk
from sifu_graph.inspection.distributions import log_p_after
from sifu_graph.model.parameters import Parameters
from sifu_graph.progress import SILENT, Stages
from sifu_graph.text.encoded import Split
from sifu_graph.text.tokenizer import SPECIAL, UNKNOWN

MARGIN = 1.0
PLACES = 10
"""Places of paraphrase and of neighbourhood of one record, at most."""
Comparison = tuple[int, int, int]
"""A place, and two nodes there of which the first is to be more probable."""


@short_repr
@dataclass(frozen=True, slots=True)
class Share:
    """A share (0 to 1) of ``of`` places of text; None: there are no such places."""

    share: float | None
    of: int

    @classmethod
    def among(cls, found: Iterable[bool] | Bools) -> Share:
        """The share of k places at which something was found, k booleans."""
        values = np.fromiter(found, bool)
        return cls(float(values.mean()) if len(values) else None, len(values))


@short_repr
@dataclass(frozen=True, slots=True, kw_only=True)
class EditEffect:
    """What edits changed, and what they left.

    Attributes
    ----------
    edits
        The number of records.
    efficacy
        At the places of the records: v is more probable than w.
    paraphrase
        At other places with the source of a record where its w won, at most `PLACES` for each record: the same.
    neighbourhood
        At places whose source has no edited edge and where the w of a record won, at most `PLACES` for each record: w
        is still more probable than v.
    score
        S of ROME: the harmonic mean of the three shares (0 to 1). None: one of them has no places.
    same_bits
        At all places whose source has no edited edge: the log-probability of the token of the text has the same bits.
    tokens
        The number of predicted tokens of the text.
    perplexity_before, perplexity_after
        Of the whole text.
    """

    edits: int
    efficacy: Share
    paraphrase: Share
    neighbourhood: Share
    score: float | None
    same_bits: Share
    tokens: int
    perplexity_before: float
    perplexity_after: float


def harmonic_mean(*shares: float | None) -> float | None:
    """The harmonic mean of shares; None if one of them is None, and 0 if one is 0."""
    known = [share for share in shares if share is not None]
    if len(known) < len(shares):
        return None
    return len(known) / sum(1 / share for share in known) if all(known) else 0.0


@dataclass(frozen=True, slots=True)
class Passed:
    """What one pass over a text saw at each of its T places.

    Attributes
    ----------
    source, winner
        int64 [T]: the source, and the most probable node after it (never the unknown node).
    log_p
        Float64 [T]: log p of the next token of the text; NaN at the end of a document.
    kept
        log p of the nodes that were asked for, by place and node.
    """

    source: Ints
    winner: Ints
    log_p: Doubles
    kept: dict[int, dict[int, float]]


def pass_over(
    parameters: Parameters,
    config: SignalConfig,
    text: Split,
    asked: Mapping[int, Collection[int]],
    *,
    stages: Stages,
    what: str,
) -> Passed:
    """One pass over a text of a graph whose edges share a base. ``asked``: nodes whose log p is kept, by place."""
    walk = BaseWalk(parameters, config)
    ids, begins = np.asarray(text.ids).astype(np.int64), text.begins()
    source, winner, log_p = np.empty(len(ids), np.int64), np.empty(len(ids), np.int64), np.empty(len(ids))
    kept: dict[int, dict[int, float]] = {}
    for at, node in enumerate(stages.stage(what, len(ids), "tokens").track(ids.tolist())):
        (walk.start if begins[at] else walk.carry)(node)
        walk.energies()
        found = log_p_after(walk)
        source[at] = walk.source
        log_p[at] = math.nan if at + 1 == len(ids) or begins[at + 1] else found[ids[at + 1]]
        if at in asked:
            kept[at] = {node: float(found[node]) for node in asked[at]}
        found[UNKNOWN] = -math.inf
        winner[at] = found.argmax()
    return Passed(source, winner, log_p, kept)


class Counterfactuals:
    """Records on a text of a graph whose edges share a base, and the places at which their effect is measured.

    Parameters
    ----------
    parameters, config
        The graph before the edits.
    text
        The text.
    edits
        The number of records; each has another source, so there may be fewer.
    frequency
        The occurrences of each node, [n].
    seed
        Of the choice of places and of nodes v.
    stages
        Each pass over the text is a stage.

    Attributes
    ----------
    place, target
        The place of the record of each source, and its v.
    before
        What the graph says before the edits.

    Raises
    ------
    CorpusError
        The text has no place at which another node could follow.
    """

    def __init__(
        self,
        parameters: Parameters,
        config: SignalConfig,
        text: Split,
        *,
        edits: int,
        frequency: Ints,
        seed: int,
        stages: Stages = SILENT,
    ) -> None:
        base = parameters.base
        assert base is not None
        self.parameters, self.config, self.text, self.pairs = parameters, config, text, base.pairs
        self.before = pass_over(parameters, config, text, {}, stages=stages, what="finding records")
        self._scored = ~np.isnan(self.before.log_p)
        draw = np.random.default_rng(seed)
        self.place: dict[int, int] = {}
        self.target: dict[int, int] = {}
        self._draw_records(draw, edits, frequency.astype(np.float64))
        if not self.place:
            raise CorpusError("no place of the held-out text has another node that could follow")
        self._choose_places(draw)

    def _draw_records(self, draw: np.random.Generator, edits: int, frequency: Doubles) -> None:
        frequency[: len(SPECIAL)] = 0
        every = np.arange(len(frequency))
        for at in draw.permutation(np.flatnonzero(self._scored)).tolist():
            source = int(self.before.source[at])
            if len(self.place) == edits:
                break
            if source in self.place:
                continue
            chances = np.where(self.pairs.is_banned(np.full(len(every), source), every), 0.0, frequency)
            chances[self.before.winner[at]] = 0
            if chances.any():
                self.place[source] = at
                self.target[source] = int(np.searchsorted(np.cumsum(chances), draw.random() * chances.sum(), "right"))

    def _choose_places(self, draw: np.random.Generator) -> None:
        """The places of each measure, and the nodes that it compares there."""
        tree, before = self.pairs.tree, self.before
        edited = np.zeros(tree.sources, bool)
        edited[list(self.place)] = True
        for source in range(tree.nodes, tree.sources):  # parents come before children
            edited[source] |= edited[tree.parents[source]]
        self._elsewhere = np.flatnonzero(self._scored & ~edited[before.source])
        near, same = defaultdict[int, list[int]](list), defaultdict[int, list[int]](list)
        for at in np.flatnonzero(self._scored).tolist():
            source, w = int(before.source[at]), int(before.winner[at])
            if not edited[source]:
                near[w].append(at)
            elif source in self.place and at != self.place[source] and w == self._winner(source):
                same[source].append(at)
        self._efficacy: list[Comparison] = []
        self._paraphrase: list[Comparison] = []
        self._neighbourhood: list[Comparison] = []
        for source, v in self.target.items():
            w = self._winner(source)
            self._efficacy.append((self.place[source], v, w))
            self._paraphrase += [(at, v, w) for at in draw.permutation(same[source])[:PLACES].tolist()]
            self._neighbourhood += [(at, w, v) for at in draw.permutation(near[w])[:PLACES].tolist()]

    def _winner(self, source: int) -> int:
        """The w of a record."""
        return int(self.before.winner[self.place[source]])

    def boosts(self, stages: Stages = SILENT) -> dict[int, float]:
        """The nats that the edge from each source to its v needs, with what the edits of its ancestors add."""
        above = {source: [one for one in self.pairs.chain(source)[1:] if one in self.place] for source in self.place}
        asked = {
            at: {self._winner(source), *(self.target[one] for one in (source, *above[source]))}
            for source, at in self.place.items()
        }
        found = pass_over(self.parameters, self.config, self.text, asked, stages=stages, what="computing the edits")
        boost: dict[int, float] = {}
        for source in sorted(self.place):  # parents come before children
            log_p = found.kept[self.place[source]]
            for one in above[source]:
                log_p[self.target[one]] += boost[one]
            boost[source] = max(log_p.values()) - log_p[self.target[source]] + MARGIN
        return boost

    def effect(self, parameters: Parameters, stages: Stages = SILENT) -> EditEffect:
        """The measures, of the parameters after the edits."""
        measures = (self._efficacy, self._paraphrase, self._neighbourhood)
        asked = defaultdict[int, set[int]](set)
        for at, first, second in itertools.chain(*measures):
            asked[at] |= {first, second}
        after = pass_over(parameters, self.config, self.text, asked, stages=stages, what="measuring the edits")
        efficacy, paraphrase, neighbourhood = (
            Share.among(after.kept[at][first] > after.kept[at][second] for at, first, second in measure)
            for measure in measures
        )
        possible = self._scored & np.isfinite(self.before.log_p) & np.isfinite(after.log_p)
        perplexity = [math.exp(-found.log_p[possible].mean()) for found in (self.before, after)]
        return EditEffect(
            edits=len(self.place),
            efficacy=efficacy,
            paraphrase=paraphrase,
            neighbourhood=neighbourhood,
            score=harmonic_mean(efficacy.share, paraphrase.share, neighbourhood.share),
            same_bits=Share.among(after.log_p[self._elsewhere] == self.before.log_p[self._elsewhere]),
            tokens=int(self._scored.sum()),
            perplexity_before=perplexity[0],
            perplexity_after=perplexity[1],
        )

    def same_as_before(self, parameters: Parameters, stages: Stages = SILENT) -> bool:
        """Whether all log-probabilities of the text have the bits from before the edits."""
        now = pass_over(parameters, self.config, self.text, {}, stages=stages, what="checking the undo")
        return bool(np.array_equal(now.log_p, self.before.log_p, equal_nan=True))
