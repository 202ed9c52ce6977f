"""How each token of a generated text was chosen: its energy, its margin, its edge, and the best candidate.

The module reads the energies of the last contest of a `walk.Walk`; it computes no energy, so the bits are those that
the choice used. Generation without explanations does not call it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from sifu_store.short_repr import short_repr

from sifu_graph.arrays import distinct
from sifu_graph.generation.base_walk import AnyWalk
from sifu_graph.generation.walk import Walk


@short_repr
@dataclass(frozen=True, slots=True)
class Choice:
    """One generated token.

    Attributes
    ----------
    token, node, text
        Its name, its id, and the text that became complete with it.
    energy
        Of its edge: || GELU(W S + b + PE) ||_2, or that of `ops.recurrent`.
    margin
        Its energy minus the greatest energy of the other candidates; negative if the token is not the best candidate.
    probability
        Probability (0 to 1) of the softmax over all candidates at temperature 1, for any sampling options. <unk> is
        never a candidate.
    private
        Whether its edge is private.
    rank
        1 for the best: one more than the number of candidates with more energy.
    best
        The name of the best candidate.
    """

    token: str
    node: int
    text: str
    energy: float
    margin: float
    probability: float
    private: bool
    rank: int
    best: str


def explain(walk: AnyWalk, node: int, *, names: Sequence[str], text: str) -> Choice:
    """The choice of ``node`` in the last contest of a walk. Call it before the signal is carried to the node.

    Parameters
    ----------
    walk
        The walk that chose the node.
    node
        The chosen node.
    names
        The names of all nodes [n].
    text
        The text that became complete with the node.
    """
    index, (found, default) = walk.parameters.index, walk.last_energies()
    targets = walk.targets
    banned = walk.banned()
    energy = np.where(np.isin(targets, banned), -np.inf, found.astype(np.float64))
    present = distinct(np.concatenate([targets, banned]))
    defaults = index.nodes - len(present)
    place = int(np.searchsorted(targets, node))
    listed = place < len(targets) and int(targets[place]) == node
    own = float(energy[place]) if listed else default
    best = int(energy.argmax()) if len(energy) else -1
    by_default = defaults > 0 and (best < 0 or default >= energy[best])
    others = np.delete(energy, place) if listed else energy
    other = float(others.max(initial=-np.inf))
    if defaults > (0 if listed else 1):
        other = max(other, default)
    logits = energy * walk.scale
    if defaults:
        logits = np.append(logits, default * walk.scale + np.log(defaults))
    above = int((energy > own).sum()) + (defaults if default > own else 0)
    winner = walk.default_node(present, 0) if by_default and isinstance(walk, Walk) else int(targets[best])
    return Choice(
        token=names[node],
        node=node,
        text=text,
        energy=own,
        margin=own - other,
        probability=float(np.exp(own * walk.scale - np.logaddexp.reduce(logits))),
        private=index.slot_of(walk.node, node) is not None,
        rank=1 + above,
        best=names[node] if above == 0 else names[winner],
    )
