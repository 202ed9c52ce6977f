"""The recurrence that all edges share, and its contest: every token trains the same matrix and its own two vectors.

For a stream of tokens x_1, x_2, ..., with the norm of `functional.normalised` and GELU::

    r_i  = GELU( gain * norm(r_{i-1} W)  +  e_{x_i} )                   r_0 is learned; e: the vectors of the nodes
    E(v) = s log p(v | u_i)  +  n_v . r_i  +  c_v  +  a_{u_i v}         p, a: `PairModel`; n, c: the targets' own part
         + [k_v > 0] (f_v + m_v log k_v)  +  h_1 log(1 + k'_v)  +  h_2 log(1 + k''_v)
    loss = log(sum over v of exp E(v)) - E(x_{i+1})

The second line is repetition: in the document of x_i, v comes k_v times before x_i, k'_v times after a node x_i, and
k''_v times after x_{i-1} x_i. A node's f and m are its own part g and a parabola in the logarithm of its frequency::

    (f_v, m_v) = g_v + G (1, z_v, z_v^2)              z_v = 1 + log(q_v) / 10       q: `PairModel.log_lower`

What a rare word says of its return is learned from all rare words.
u_i is the source at x_i: the node, or its clone after the nodes before. At s = 1, and all else 0, the softmax of E is
p: untrained, the model is interpolated Kneser-Ney (of order 2 without clones). In training p leaves out the
document that the token is in, so that s learns how far counts are to be trusted on other text.

The module knows tensors and pair models; it does not know text or files.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from sifu_graph.ops.pair_model import LeftOut

NODE_DEVIATION = 0.1
"""Of the elements of e at the start. On 1.5 million tokens of Tang and Song poems 0.1 gave a held-out perplexity of
157, 0.3 158 and 1.0 176."""


@dataclass(frozen=True, slots=True)
class Recurrent:
    """The parameters, or their gradients.

    Attributes
    ----------
    W, gain
        [d, d] and [d].
    node, start
        e [n, d] and r_0 [d].
    target, bias
        n [n, d] and c [n].
    scale
        s, [1].
    repeat, repeat_shared, repeat_after
        g [n, 2], G [2, 3] and h [2].
    """

    W: Tensor
    gain: Tensor
    node: Tensor
    start: Tensor
    target: Tensor
    bias: Tensor
    scale: Tensor
    repeat: Tensor
    repeat_shared: Tensor
    repeat_after: Tensor

    @classmethod
    def initial(cls, nodes: int, width: int, *, seed: int, dtype: torch.dtype = torch.float32) -> Recurrent:
        """The parameters before training: the recurrence is a random rotation, and the contest that of the counts."""
        generator = torch.Generator().manual_seed(seed)
        rotation = torch.linalg.qr(torch.randn(width, width, generator=generator, dtype=torch.float64))[0]
        node = torch.randn(nodes, width, generator=generator, dtype=torch.float64) * NODE_DEVIATION
        return cls(
            W=rotation.to(dtype).contiguous(),
            gain=torch.ones(width, dtype=dtype),
            node=node.to(dtype),
            start=torch.zeros(width, dtype=dtype),
            target=torch.zeros(nodes, width, dtype=dtype),
            bias=torch.zeros(nodes, dtype=dtype),
            scale=torch.ones(1, dtype=dtype),
            repeat=torch.zeros(nodes, 2, dtype=dtype),
            repeat_shared=torch.zeros(2, 3, dtype=dtype),
            repeat_after=torch.zeros(2, dtype=dtype),
        )

    def tensors(self) -> dict[str, Tensor]:
        """All of them by name."""
        return {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}


@dataclass(frozen=True, slots=True)
class StreamBatch:
    """A `text.streams.Window` as tensors of the same names, shapes and dtypes; a target of -1 is not scored."""

    token: Tensor
    source: Tensor
    target: Tensor
    restart: Tensor
    past: Tensor
    reach: Tensor


class RecurrentBackend(Protocol):
    """Computes windows of streams with one pair model.

    For all methods: ``signal`` [B, d] comes in and is replaced by the last one.
    """

    def carry(self, model: Recurrent, token: Tensor, restart: Tensor, signal: Tensor) -> Tensor:
        """The signals after each token, [B, T, d]."""

    def outcomes(self, model: Recurrent, batch: StreamBatch, r: Tensor) -> tuple[Tensor, Tensor]:
        """The losses in nats and the ranks of the targets after signals r [B, T, d]: [B, T] and int32 [B, T].

        A rank is the number of nodes that win against the target; of equals the first wins. Both are 0 where nothing
        is scored.
        """

    def gradients(
        self,
        model: Recurrent,
        batch: StreamBatch,
        signal: Tensor,
        *,
        piece: Tensor,
        out: LeftOut,
        weight: float,
        keep: Tensor | None = None,
    ) -> tuple[Tensor, Recurrent]:
        """The losses and the gradients of ``weight`` times their sum, by counts without the piece of each token.

        ``piece`` is int32 [B, T], the number of the piece in ``out``; ``keep`` [B, T, d] multiplies the signals in the
        contest (dropout). Gradients do not pass to the windows before.
        """


def repeated(batch: StreamBatch, nodes: int) -> list[Tensor]:
    """How often each node came before in the document, at all, after x_i, and after x_{i-1} x_i: int32 [B, T, n]."""
    past, reach = batch.past.numpy(), batch.reach.numpy()
    streams, steps = reach.shape
    found = [np.zeros((streams, steps, nodes), np.int32) for _ in range(3)]
    for stream, step in np.ndindex(streams, steps):
        now = past.shape[1] - steps + step
        tokens = past[stream, now - reach[stream, step] : now + 1]
        after_one = np.flatnonzero(tokens[:-1] == tokens[-1]) + 1
        after_two = after_one[after_one > 1]
        after_two = after_two[tokens[after_two - 2] == tokens[-2]] if len(after_two) else after_two
        for times, at in zip(found, (slice(0, -1), after_one, after_two), strict=True):
            np.add.at(times[stream, step], tokens[at], 1)
    return list(map(torch.from_numpy, found))
