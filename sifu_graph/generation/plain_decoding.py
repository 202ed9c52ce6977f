"""One text in a graph with a base, in Python: the reference of the compiled kernel, `ops.decoding_native`."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from sifu_graph.arrays import Floats
from sifu_graph.model.base import Base
from sifu_graph.ops.threads import padded, product
from sifu_graph.text.clones import MOST_NODES


class PlainText:
    """A text. For what is not said here, see `ops.decoding_native.NativeText`.

    Parameters
    ----------
    base
        What the edges of the graph share.
    """

    def __init__(self, base: Base) -> None:
        self._base = base
        self._vectors = padded(base.model.target).T
        self._rest = base.at_rest.lower()
        self._repetition = base.repetition()
        self._path: list[int] = []  # as many nodes as a source can depend on
        self.signal, self.source = base.model.start.clone(), -1
        self.energy: Floats = np.zeros(base.pairs.nodes, np.float32)

    def begin(self, signal: Tensor) -> None:
        """Begin a document, with the signal before its first node, [d]."""
        self.signal, self._path = signal.clone(), []

    def carry(self, node: int, *, silent: bool) -> None:
        """Move to a node."""
        (self._repetition.carry if self._path else self._repetition.start)(node, silent=silent)
        self._path = [*self._path[1 - MOST_NODES :], node]
        self.source = self._base.pairs.tree.source_of(self._path)
        if not silent:
            token, restart = torch.full((1, 1), node, dtype=torch.int32), torch.zeros(1, 1, dtype=torch.bool)
            self._base.backend.carry(self._base.model, token, restart, self.signal[None])

    def contest(self) -> None:
        """Compute the energies."""
        found: Floats = product(self.signal[None], self._vectors)[0, : len(self.energy)].numpy()
        found += self._rest
        self._base.add_row(found, self.source)
        self._repetition.add_to(found)
        self.energy = found

    def repetition(self) -> Floats:
        """What repetition adds to the energies of all nodes, float32 [n]."""
        return self._repetition.energies()
