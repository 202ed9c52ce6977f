"""Models in torch alone to compare with: an LSTM and a Transformer of usual design, and the paper's definition 2.1(3).

They know node ids and documents.

All read windows of parallel streams (`sifu_graph/text/streams.py`) with a learned vector added to the first token of
a document, and train by AdamW (edges by its sparse form) with a warm-up and a half cosine. The LSTM and the Transformer
share the vectors of tokens between input and output and begin with the logarithms of the frequencies as biases; these
two learn faster than the rest.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from sifu_graph.config import OptimizerConfig
from sifu_graph.ops.pair_model import PairModel
from sifu_graph.text.encoded import Split
from sifu_graph.text.pair_counts import count_pairs
from sifu_graph.text.streams import windows

STREAMS, CONTEXT = 8, 64
RATES = {"lstm": (4e-3, 3.0), "transformer": (1e-3, 10.0), "paper-sum": (2e-2, 1.0)}
"""Rates of learning, and how many times as fast the vectors and biases of tokens learn.

Chosen for 3 minutes on one core and the held-out text of Tang + Song; other work ran beside them. Perplexities of the
Transformer, 8 streams: rates 1e-3, 2e-3, all as fast: 380, 375; 1e-3 and 3, 10, 20 times as fast: 350, 262, 281; 2e-3
and 10: 281; 5e-4 and 20: 294; 4 streams, 1e-3 and 6: 312; 2 layers: 271; 2 layers of width 192, 15: 281. Of the LSTM:
4e-3, all as fast: 233; 2e-3 and 5: 195; 4e-3 and 3: 194. Without the frequencies as biases and with windows that see
the document before, all as fast: 386 for 375."""
WARM_UP = 300
"""Steps."""


class Lstm(nn.Module):
    """One layer of 192 units; its state passes from window to window."""

    def __init__(self, nodes: int, frequency: Tensor, width: int = 192) -> None:
        super().__init__()
        self.token = nn.Embedding(nodes, width)
        nn.init.normal_(self.token.weight, std=0.05)
        self.restart = nn.Parameter(torch.zeros(width))
        self.layer = nn.LSTM(width, width, batch_first=True)
        self.bias = nn.Parameter(frequency.log())
        self.state: tuple[Tensor, Tensor] | None = None

    def forward(self, token: Tensor, restart: Tensor) -> Tensor:
        """Energies [B, T, n] for int64 [B, T] and bool [B, T]."""
        x = self.token(token) + restart[..., None] * self.restart
        out, state = self.layer(x, self.state)
        self.state = (state[0].detach(), state[1].detach())
        return out @ self.token.weight.T + self.bias


class Transformer(nn.Module):
    """3 layers of width 128 with 4 heads, normalisation first, learned positions; a window of the document is what it
    sees.
    """

    def __init__(self, nodes: int, frequency: Tensor, width: int = 128, layers: int = 3, heads: int = 4) -> None:
        super().__init__()
        self.token = nn.Embedding(nodes, width)
        self.place = nn.Embedding(CONTEXT, width)
        self.restart = nn.Parameter(torch.zeros(width))
        self.layers = nn.ModuleList(
            nn.TransformerEncoderLayer(
                width, heads, 4 * width, dropout=0.0, activation="gelu", batch_first=True, norm_first=True
            )
            for _ in range(layers)
        )
        for table in (self.token, self.place):
            nn.init.normal_(table.weight, std=0.02)
        for layer in self.layers:
            for weight in (layer.linear2.weight, layer.self_attn.out_proj.weight):
                nn.init.normal_(weight, std=0.02 / math.sqrt(2 * layers))
        self.norm = nn.LayerNorm(width)
        self.bias = nn.Parameter(frequency.log())
        self.heads = heads

    def forward(self, token: Tensor, restart: Tensor) -> Tensor:
        """Energies [B, T, n] for int64 [B, T] and bool [B, T], T at most `CONTEXT`."""
        steps, document = token.shape[1], restart.cumsum(1)
        hidden = torch.ones(steps, steps, dtype=torch.bool).triu(1) | (document[:, :, None] != document[:, None])
        mask = torch.zeros(hidden.shape).masked_fill(hidden, -1e9).repeat_interleave(self.heads, 0)
        x = self.token(token) + self.place.weight[:steps] + restart[..., None] * self.restart
        for layer in self.layers:
            x = layer(x, src_mask=mask)
        return self.norm(x) @ self.token.weight.T + self.bias


class PaperSum(nn.Module):
    """Definition 2.1(3) of the paper: every node so far sends over its own edge to each candidate, and energies add up.

    E_i(v) = sum over k <= i in the document of alpha_{i-k} a(x_k, v) + c_v. An edge's matrix meets a signal that does
    not depend on the past, so it is one number a: the model is log-linear in skip-bigrams. It begins as the Kneser-Ney
    model of pairs, alpha = (1, 0, 0, ...). A window is all it sees.
    """

    def __init__(self, nodes: int, pairs: PairModel) -> None:
        super().__init__()
        rows = torch.from_numpy((pairs.rows(np.arange(nodes)) - pairs.log_lower).astype(np.float32))
        self.edge = nn.Embedding.from_pretrained(rows, freeze=False, sparse=True)
        self.restart = nn.Parameter(torch.zeros(nodes))
        self.alpha = nn.Parameter((torch.arange(CONTEXT) == 0).float())
        self.bias = nn.Parameter(torch.from_numpy(pairs.log_lower.astype(np.float32)))

    def forward(self, token: Tensor, restart: Tensor) -> Tensor:
        """Energies [B, T, n] for int64 [B, T] and bool [B, T], T at most `CONTEXT`."""
        document, at = restart.cumsum(1), torch.arange(token.shape[1])
        lag = at[:, None] - at
        seen = (lag >= 0) & (document[:, :, None] == document[:, None, :])
        sent = self.edge(token) + restart[..., None] * self.restart
        return (seen * self.alpha[lag.clamp(min=0)]) @ sent + self.bias


Model = Lstm | Transformer | PaperSum


def _batches(split: Split) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    for window in windows(split, streams=STREAMS, steps=CONTEXT):
        yield (
            torch.from_numpy(window.token).long(),
            torch.from_numpy(window.target).long(),
            torch.from_numpy(window.restart),
        )


@dataclass(frozen=True, slots=True)
class Trained:
    """A model after training, on held-out text: nats a token, and the share of tokens that were most probable."""

    nats: float
    top1: float
    parameters: int
    tokens: int
    seconds: float


def run(name: str, train: Split, heldout: Split, *, nodes: int, minutes: float) -> Trained:
    """Trains ``lstm``, ``transformer`` or ``paper-sum``."""
    model: Model
    (rate, faster), counts = RATES[name], count_pairs(train, n=nodes)
    frequency = torch.from_numpy((counts.node_count + 1.0) / (counts.node_count + 1.0).sum()).float()
    if name == "paper-sum":
        model = PaperSum(nodes, PairModel.of(counts))
        edges, tokens = list(model.edge.parameters()), []
    else:
        model = (Lstm if name == "lstm" else Transformer)(nodes, frequency)
        edges, tokens = [], [model.token.weight, model.bias]
    optimizer = OptimizerConfig(
        kind="adamw", lr=rate, beta2=0.99, weight_decay=0.01, warmup_steps=WARM_UP, final_fraction=0.05
    )
    betas = optimizer.beta1, optimizer.beta2
    apart = {id(parameter) for parameter in (*edges, *tokens)}
    others = [parameter for parameter in model.parameters() if id(parameter) not in apart]
    groups = [{"params": others, "faster": 1.0}, {"params": tokens, "faster": faster}]
    steps: list[torch.optim.Optimizer] = [
        torch.optim.AdamW(groups, lr=rate, betas=betas, weight_decay=optimizer.weight_decay)
    ]
    if edges:
        steps.append(torch.optim.SparseAdam(edges, lr=rate, betas=betas))
    started, done, step, finished = time.perf_counter(), 0, 0, 0.0
    while finished < 1.0:
        if isinstance(model, Lstm):
            model.state = None
        for token, target, restart in _batches(train):
            finished = (time.perf_counter() - started) / (60 * minutes)
            if finished >= 1.0:
                break
            step += 1
            for one in steps:
                for group in one.param_groups:
                    group["lr"] = group.get("faster", 1.0) * optimizer.rate_at(step, finished)
                one.zero_grad(set_to_none=True)
            energy = model(token, restart)
            loss = nn.functional.cross_entropy(energy.flatten(0, 1), target.flatten(), ignore_index=-1)
            loss.backward()
            nn.utils.clip_grad_norm_([*others, *tokens], 1.0)
            for one in steps:
                one.step()
            done += int((target >= 0).sum())
    seconds = time.perf_counter() - started
    size = sum(parameter.numel() for parameter in model.parameters())
    return Trained(*score(model.eval(), heldout), size, done, seconds)


@torch.no_grad()
def score(model: Model, heldout: Split) -> tuple[float, float]:
    """Nats a token and top-1, over all tokens that follow another.

    The Transformer and the sum see at least half a window before each, if there is one.
    """
    nats, hits, count = 0.0, 0, 0
    if isinstance(model, Lstm):
        model.state = None
        for token, target, restart in _batches(heldout):
            energy = model(token, restart).flatten(0, 1)
            nats += float(nn.functional.cross_entropy(energy, target.flatten(), ignore_index=-1, reduction="sum"))
            hits += int((energy.argmax(1) == target.flatten()).sum())
            count += int((target >= 0).sum())
        return nats / count, hits / count
    half, before = CONTEXT // 2, None
    for window in windows(heldout, streams=STREAMS, steps=half):
        now = torch.from_numpy(window.token).long(), torch.from_numpy(window.restart)
        token, restart = now if before is None else tuple(torch.cat(pair, 1) for pair in zip(before, now, strict=True))
        target = torch.from_numpy(window.target).long()
        energy = model(token, restart)[:, -half:].flatten(0, 1)
        nats += float(nn.functional.cross_entropy(energy, target.flatten(), ignore_index=-1, reduction="sum"))
        hits += int((energy.argmax(1) == target.flatten()).sum())
        count += int((target >= 0).sum())
        before = now
    return nats / count, hits / count
