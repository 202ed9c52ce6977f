"""Settings as data: the choices in the mathematics of the signal with their presets, and those of an optimizer.

It knows names and numbers; `ops` computes what they mean. It does not import torch, so that reading and editing the
tables of a graph does not either.
"""

from __future__ import annotations

import dataclasses
import difflib
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from sifu_store.errors import OptionError

from sifu_graph.arguments import check_fields

Say = Callable[[str], None]
"""What a long operation calls with a line at the beginning of each step."""
Positional = Literal["sinusoid", "brillm05", "none"]


@dataclass(frozen=True, slots=True, kw_only=True)
class SignalConfig:
    """Every choice in the mathematics of the signal, as data. Stored with the graph.

    ``sifu_graph.PRESETS`` has settings by name: ``recurrent``, ``tuned``, ``paper``, ``paper-v1`` and ``brillm05``;
    their meaning is in ``help(sifu_graph)``. `dataclasses.replace` changes one of them.

    Attributes
    ----------
    first
        r_1 = GELU(r_0 + b + PE_0) (``biased``), or r_0 itself (``raw``).
    drive
        What an edge carries on: the last signal (``chain``), or the mix of all (``mix``).
    mix_from
        The mix begins with r_1, or with r_2 (r_1 alone drives the first step, then leaves).
    initial
        r_0: ``ones``, ones / d (``mean``), or a normal vector drawn from the graph's seed (``random``).
    positional
        PE: position / 10000^(2j/d) (``sinusoid``); position * 10000^(2j/d), as the released code has it (``brillm05``);
        or ``none``.
    train_offset
        PE index of step s (s = 0 carries x_1 to x_2) in training is s + this.
    decode_offset
        The same in decoding (a quirk of the released code makes it differ).
    self_decode
        The self edge (u, u) is a candidate in decoding (in training it always is).
    train_default
        The default edge is trained.
    normalise_mix
        The mean over the width is taken off S_i, and the rest divided by its root mean square.
    skip_current
        S_i leaves out r_i where there are earlier signals: the row of x_i knows x_i already.
    recency
        alpha_k starts as ``recency * k``: 0 mixes all signals equally, more favours the last ones.
    reset_after
        Number of steps after which the signal starts again from the current node (paper, section 3.3).
    learn_scale
        The energy is multiplied by a learned scale before the softmax (starts at 1).
    base
        All edges share a recurrence, whose contest adds to the counts of pairs (`ops.recurrent`). The settings above
        do not apply.
    """

    first: Literal["biased", "raw"] = "biased"
    drive: Literal["chain", "mix"] = "chain"
    mix_from: Literal[1, 2] = 1
    initial: Literal["ones", "mean", "random"] = "ones"
    positional: Positional = "sinusoid"
    train_offset: Literal[0, 1] = 1
    decode_offset: Literal[0, 1] = 1
    self_decode: bool = True
    train_default: bool = False
    normalise_mix: bool = False
    skip_current: bool = False
    recency: float = 0.0
    reset_after: int | None = None
    learn_scale: bool = False
    base: bool = False

    def __post_init__(self) -> None:
        check_fields(self)
        if self.reset_after is not None and self.reset_after < 1:
            raise OptionError(f"`reset_after` is {self.reset_after}: it must be at least 1")
        if not math.isfinite(self.recency):
            raise OptionError(f"`recency` is {self.recency}: it must be a number")

    def to_json(self) -> dict[str, Any]:
        """The settings as a JSON object. ``base`` is left out where it is off: earlier releases do not know it."""
        found = dataclasses.asdict(self)
        if not self.base:
            del found["base"]
        return found

    @classmethod
    def from_json(cls, settings: dict[str, Any]) -> SignalConfig:
        """The inverse of `to_json`; settings that this release does not know are an error."""
        known = {field.name for field in dataclasses.fields(cls)}
        if unknown := sorted(set(settings) - known):
            raise OptionError(f"unknown signal settings {unknown}; this release knows {sorted(known)}")
        return cls(**settings)


PRESETS: dict[str, SignalConfig] = {
    "recurrent": SignalConfig(positional="none", train_default=True, learn_scale=True, base=True),
    "tuned": SignalConfig(
        positional="none",
        normalise_mix=True,
        skip_current=True,
        recency=0.4,
        reset_after=31,
        train_default=True,
        learn_scale=True,
    ),
    "paper": SignalConfig(),
    "paper-v1": SignalConfig(first="raw", drive="mix"),
    "brillm05": SignalConfig(
        drive="mix",
        mix_from=2,
        initial="mean",
        positional="brillm05",
        decode_offset=0,
        self_decode=False,
        train_default=True,
    ),
}


def preset(name: str) -> SignalConfig:
    """The settings of a named preset; `OptionError` for a name that there is not."""
    if name not in PRESETS:
        near = difflib.get_close_matches(name, PRESETS, n=1)
        asked = f"; did you mean {near[0]}?" if near else ""
        raise OptionError(f"`signal` is {name!r}: there are {', '.join(PRESETS)}{asked}")
    return PRESETS[name]


def initial_signal(config: SignalConfig, width: int, seed: int) -> np.ndarray:
    """r_0, float32 [d]."""
    if config.initial == "random":
        return np.random.default_rng(np.random.SeedSequence([seed, 0])).standard_normal(width).astype(np.float32)
    return np.full(width, 1.0 if config.initial == "ones" else 1.0 / width, dtype=np.float32)


Kind = Literal["rowwise", "adamw", "adamw-dense"]


BASE: dict[str, Any] = {
    "kind": "adamw",
    "lr": 8e-3,
    "beta2": 0.99,
    "eps": 1e-8,
    "clip": 1.0,
    "shared_rate": 1.0,
    "warmup_steps": 50,
    "final_fraction": 0.05,
}
"""Of a graph whose edges share a base. On 5 million tokens of Tang and Song poems, in windows of 64 streams of 32
tokens, a rate of 8e-3 gave a held-out perplexity of 132.5; 32 streams and 4e-3 gave 133.3."""


ADAMW: dict[str, Any] = {"lr": 3e-2, "beta2": 0.999, "eps": 1e-4}  # DESIGN 7: a smaller eps undoes the counts


KINDS: tuple[Kind, ...] = ("rowwise", "adamw", "adamw-dense")


@dataclass(frozen=True, slots=True, kw_only=True)
class OptimizerConfig:
    """The settings of a run's optimizer.

    Attributes
    ----------
    kind
        ``rowwise`` (row-wise AdaGrad: one second moment per edge), ``adamw`` (updates the edges of a step) or
        ``adamw-dense`` (updates all edges).
    lr
        The learning rate.
    beta1, beta2
        Decay of the mean gradient (AdamW), and of the second moment; 1 (``rowwise`` only): the sum of all steps.
    eps
        Added to the denominator of the update.
    weight_decay
        Decoupled weight decay.
    clip
        Greatest norm of one row's gradient in one step; 0: no limit. The row is the unit, because no gradient of
        the whole graph ever exists.
    shared_rate
        The rate of the parameters that every text shares (alpha, default edge, energy scale, node biases), as a
        share of ``lr``: their gradients are sums over all positions, a thousand times those of an edge.
    dropout
        The share of the elements of the signal that a step leaves out of the contest, and all others are divided by
        what is left: in a graph whose edges share a base.
    warmup_steps, decay_steps
        The rate rises linearly over the first, and falls as a half cosine to ``final_fraction`` over the second;
        0: none. Steps are counted from when the optimizer began.
    """

    kind: Kind = "rowwise"
    lr: float = 0.12
    beta1: float = 0.9
    beta2: float = 1.0
    eps: float = 1e-3
    weight_decay: float = 0.0
    clip: float = 0.0
    shared_rate: float = 0.0025
    dropout: float = 0.0
    warmup_steps: int = 0
    decay_steps: int = 0
    final_fraction: float = 0.1

    def __post_init__(self) -> None:
        check_fields(self)
        if self.kind not in KINDS:
            raise OptionError(f"`kind` is {self.kind!r}: there are {', '.join(KINDS)}")
        if not self.lr > 0 or not math.isfinite(self.lr):
            raise OptionError(f"`lr` is {self.lr}: it must be a positive number")
        if not 0 < self.eps < math.inf:
            raise OptionError(f"`eps` is {self.eps}: it must be above 0")
        for name in ("weight_decay", "clip", "shared_rate", "warmup_steps", "decay_steps", "final_fraction"):
            value = getattr(self, name)
            if not 0 <= value < math.inf:
                raise OptionError(f"`{name}` is {value}: it must be 0 or more")
        if not 0 <= self.dropout < 1:
            raise OptionError(f"`dropout` is {self.dropout}: expected a number in [0, 1)")
        if not 0 <= self.beta1 < 1 or not 0 <= self.beta2 <= 1:
            raise OptionError(
                f"`beta1` is {self.beta1}, `beta2` {self.beta2}: expected numbers from 0 to 1, beta1 below it"
            )
        if self.kind != "rowwise" and self.beta2 == 1:
            raise OptionError("`beta2` is 1: AdamW needs a number below 1 (0.999 is usual)")

    @classmethod
    def of(cls, kind: Kind, **given: Any) -> OptimizerConfig:
        """The defaults of a kind, with some settings given."""
        return cls(**{**(ADAMW if kind != "rowwise" else {}), "kind": kind, **given})

    def rate(self, step: int) -> float:
        """The learning rate of a step, counted from 1."""
        if not self.decay_steps:
            return self._warm(step)
        return self.rate_at(step, min(1.0, max(0.0, (step - self.warmup_steps) / self.decay_steps)))

    def rate_at(self, step: int, done: float) -> float:
        """As `rate`, of a run of which the share ``done`` in [0, 1] is over, whatever ``decay_steps`` is."""
        return self._warm(step) * (
            self.final_fraction + (1 - self.final_fraction) * 0.5 * (1 + math.cos(math.pi * done))
        )

    def _warm(self, step: int) -> float:
        return self.lr * min(1.0, step / self.warmup_steps) if self.warmup_steps else self.lr

    def to_json(self) -> dict[str, Any]:
        """The settings as a JSON object. ``dropout`` is left out where it is 0: earlier releases do not know it."""
        found = dataclasses.asdict(self)
        if not self.dropout:
            del found["dropout"]
        return found


def require_positive(**values: float | None) -> None:
    """Raises `OptionError` for a value that is given and not positive, or infinite."""
    for name, value in values.items():
        if value == math.inf:
            raise OptionError(f"{name} is infinite: it must be a number (leave it out for no limit)")
        if value is not None and not value > 0:
            raise OptionError(f"`{name}` is {value}: it must be above 0")


MOST_INTEGER = 2**62 - 1
"""The greatest number that the settings of a graph hold, of counts and seeds."""


def require_seed(seed: int | None) -> None:
    """Raises `OptionError` for a seed that is given and that the settings of a graph cannot hold."""
    if seed is not None and not 0 <= seed <= MOST_INTEGER:
        raise OptionError(f"`seed` is {seed}: it must be from 0 to {MOST_INTEGER:,}")
