"""Decoding in the compiled kernel, `kernels/decoding.cpp`: several texts side by side in a graph with a base.

The module knows arrays and their addresses; the equations are those of `recurrent`, `pair_model` and `repetition`.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from sifu_graph.arrays import Floats
from sifu_graph.kernels import native as kernel
from sifu_graph.ops.pair_model import PairModel
from sifu_graph.ops.recurrent import Recurrent
from sifu_graph.ops.recurrent_native import MOST_NODES
from sifu_graph.ops.repetition import AMOUNT
from sifu_graph.text.streams import MOST_PAST

_Int, _Double = ctypes.c_int64, ctypes.c_double

TextState = kernel.structure(
    "Text",
    "signal path room length source energy top_k top_p temperature uniform chosen",
    **dict.fromkeys(("room", "length", "source", "top_k", "chosen"), _Int),
    **dict.fromkeys(("top_p", "temperature", "uniform"), _Double),
)
"""`struct Text` of the kernel: one text, and what is asked of it."""


class NativeDecoding:
    """What all texts share: parameters and counts. Later changes of the parameters do not reach it.

    Parameters
    ----------
    library
        What `kernels.native.compiled` returns for `decoding`.
    model, pairs
        The parameters and the counts.
    weights
        f and m of every node (`ops.repetition`), [n, 2].
    banned
        Nodes that are never chosen.

    Attributes
    ----------
    dtype, width
        Of signals and energies; d.
    nodes, places
        n, and the length of an array of energies in the kernel.
    """

    def __init__(
        self, library: ctypes.CDLL, model: Recurrent, pairs: PairModel, *, weights: Floats, banned: Sequence[int]
    ) -> None:
        self.dtype = model.W.dtype
        real = ctypes.c_float if self.dtype == torch.float32 else _Double
        kind = np.float32 if self.dtype == torch.float32 else np.float64
        self.width = len(model.gain)
        sizes = (_Int * 3)()
        library.sifu_decoding_sizes(sizes)
        self.nodes, column = pairs.nodes, int(sizes[2])
        self.places = -(-self.nodes // column) * column
        bias = np.full(self.places, -1e30, kind)
        bias[: self.nodes] = model.bias.numpy()
        discount = np.zeros((MOST_NODES, 4))
        discount[: len(pairs.discounts), 1:] = pairs.discounts
        count = pairs.count if pairs.count.dtype in (np.int32, np.int64) else pairs.count.astype(np.int64)
        columns = {
            "W": (model.W.numpy(), kind), "gain": (model.gain.numpy(), kind), "node": (model.node.numpy(), kind),
            "target": (_in_columns(model.target.numpy(), self.places, column), kind), "bias": (bias, kind),
            "repeat": (weights, kind), "repeat_after": (model.repeat_after.numpy(), kind),
            "amount": (np.array(AMOUNT), kind), "lower": (pairs.lower, np.float64), "first": (pairs.first, np.int64),
            "successor": (pairs.target, np.int32), "count": (count, count.dtype), "total": (pairs.total, np.int64),
            "left": (pairs.left, np.float64), "added": (pairs.added, np.float64),
            "parent": (pairs.tree.parents, np.int32), "name": (pairs.tree.keys, np.int64),
            "discount": (discount, np.float64), "banned": (np.array(banned), np.int32),
        }  # fmt: skip
        arrays = {
            name: None if values is None else np.ascontiguousarray(values, dtype)
            for name, (values, dtype) in columns.items()
        }
        self._kept = arrays
        numbers = dict.fromkeys(("nodes", "clones", "count_bytes", "bans"), _Int)
        fields = (
            "nodes clones W gain node target bias repeat repeat_after amount scale lower first successor count "
            "count_bytes total left added parent name discount banned bans"
        )
        structure = kernel.structure("Model", fields, **numbers, scale=real)
        if [ctypes.sizeof(structure), ctypes.sizeof(TextState)] != list(sizes[:2]):
            raise RuntimeError(f"the structures of {library._name} have other sizes than those of decoding_native.py")
        self._model = structure(
            nodes=self.nodes,
            clones=len(pairs.tree),
            count_bytes=count.itemsize,
            bans=len(banned),
            scale=float(model.scale),
            **{name: None if array is None else array.ctypes.data for name, array in arrays.items()},
        )
        self._address = ctypes.addressof(self._model)
        # A step takes a microsecond, in which no other thread of Python is let in.
        held = ctypes.PyDLL(library._name)
        self._carry, self._repetition, self._contest = (
            held.sifu_decoding_carry, library.sifu_decoding_repetition, library.sifu_decoding_contest,
        )  # fmt: skip
        pointer = ctypes.c_void_p
        self._carry.argtypes = [pointer, pointer, ctypes.c_int32, _Int]
        self._repetition.argtypes = [pointer] * 3
        self._contest.argtypes = [pointer, pointer, _Int, _Int, _Int]
        for function in (self._carry, self._repetition, self._contest):
            function.restype = None

    def text(self) -> NativeText:
        """A text, before its first node."""
        return NativeText(self)

    def carry(self, text: int, node: int, *, silent: bool) -> None:
        """Move the text at an address to a node."""
        if not 0 <= node < self.nodes:
            raise ValueError(f"{node} is not one of the {self.nodes:,} nodes")
        self._carry(self._address, text, node, silent)

    def repetition(self, text: int) -> Floats:
        """What repetition adds to the energies of all nodes in the text at an address, float32 [n]."""
        found: Floats = np.zeros(self.nodes, np.float32 if self.dtype == torch.float32 else np.float64)
        self._repetition(self._address, text, found.ctypes.data)
        return found

    def contest(self, texts: Sequence[int], *, choose: bool = False, threads: int = 1) -> None:
        """The energies of the texts at some addresses, and, by choice, their next nodes (``state.chosen``)."""
        self._contest(self._address, (ctypes.c_void_p * len(texts))(*texts), len(texts), choose, threads)


class NativeText:
    """One text of the kernel.

    Parameters
    ----------
    decoding
        What it shares with others.

    Attributes
    ----------
    decoding
        The same.
    state, address
        The structure of the kernel, and where it is.
    signal
        After the current node, [d].
    energy
        Of all nodes after the last contest, float32 [n].
    """

    def __init__(self, decoding: NativeDecoding) -> None:
        self.decoding = decoding
        self.signal = torch.zeros(decoding.width, dtype=decoding.dtype)
        path, energy = np.empty(2 * (MOST_PAST + 1), np.int32), torch.empty(decoding.places, dtype=decoding.dtype)
        self.energy: Floats = energy.numpy()[: decoding.nodes]
        self.state = TextState(
            signal=self.signal.data_ptr(), path=path.ctypes.data, room=MOST_PAST + 1, energy=energy.data_ptr()
        )
        self.address = ctypes.addressof(self.state)
        self._kept = path, energy

    @property
    def source(self) -> int:
        """The current node, or its clone after the nodes before."""
        return int(self.state.source)

    def begin(self, signal: Tensor) -> None:
        """Begin a document, with the signal before its first node, [d]."""
        self.signal.copy_(signal)
        self.state.length = 0

    def carry(self, node: int, *, silent: bool) -> None:
        """Move to a node. One that is silent does not move the signal, and does not count as repetition."""
        self.decoding.carry(self.address, node, silent=silent)

    def contest(self) -> None:
        """Compute the energies."""
        self.decoding.contest([self.address])

    def repetition(self) -> Floats:
        """What repetition adds to the energies of all nodes, float32 [n]."""
        return self.decoding.repetition(self.address)


def _in_columns(target: Floats, places: int, column: int) -> Floats:
    """Vectors [n, d] as [places / column, d, column]."""
    full = np.zeros((places, target.shape[1]), target.dtype)
    full[: len(target)] = target
    return full.reshape(places // column, column, -1).transpose(0, 2, 1)
