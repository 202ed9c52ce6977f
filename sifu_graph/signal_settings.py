"""The settings of the signal: every choice in the mathematics, as data, and the presets.

It knows names and numbers only; what they mean is computed in `signal`. Whoever only reads or edits a graph needs no
more than this, and does not wait for torch.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from sifu_store.errors import OptionError

Positional = Literal["sinusoid", "brillm05", "none"]


@dataclass(frozen=True, slots=True, kw_only=True)
class SignalConfig:
    """Every choice in the mathematics, as data. Stored with the graph; see `PRESETS`."""

    first: Literal["biased", "raw"] = "biased"
    """r_1 = GELU(r_0 + b + PE_0), or r_0 itself."""
    drive: Literal["chain", "mix"] = "chain"
    """What an edge carries on: the last signal, or the mix of all."""
    mix_from: Literal[1, 2] = 1
    """The mix begins with r_1, or with r_2 (r_1 alone drives the first step, then leaves)."""
    initial: Literal["ones", "mean", "random"] = "ones"
    """r_0: ones, ones / d, or a normal vector drawn from the graph's seed."""
    positional: Positional = "sinusoid"
    """PE: position / 10000^(2j/d); position * 10000^(2j/d), as the released code has it; or none."""
    train_offset: Literal[0, 1] = 1
    """PE index of step s (s = 0 carries x_1 to x_2) in training is s + this."""
    decode_offset: Literal[0, 1] = 1
    """The same in decoding (a quirk of the released code makes it differ)."""
    self_decode: bool = True
    """The self edge (u, u) is a candidate in decoding (in training it always is)."""
    train_default: bool = False
    """The default edge is trained."""
    normalise_mix: bool = False
    """The mean over the width is taken off S_i, and the rest divided by its root mean square."""
    skip_current: bool = False
    """S_i leaves out r_i where there are earlier signals: the row of x_i knows x_i already."""
    recency: float = 0.0
    """alpha_k starts as ``recency * k``: 0 mixes all signals equally, more favours the last ones."""
    reset_after: int | None = None
    """After so many steps the signal starts again from the current node (paper, section 3.3)."""
    learn_scale: bool = False
    """The energy is multiplied by a learned scale before the softmax (starts at 1)."""

    def __post_init__(self) -> None:
        if self.reset_after is not None and self.reset_after < 1:
            raise OptionError(f"signal reset after {self.reset_after} steps: it must be at least 1")

    def to_json(self) -> dict[str, Any]:
        """The settings as a JSON object."""
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, settings: dict[str, Any]) -> SignalConfig:
        """The inverse of `to_json`; settings that this release does not know are an error."""
        known = {field.name for field in dataclasses.fields(cls)}
        if unknown := sorted(set(settings) - known):
            raise OptionError(f"unknown signal settings {unknown}; this release knows {sorted(known)}")
        return cls(**settings)


PRESETS: dict[str, SignalConfig] = {
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
    "tuned": SignalConfig(
        positional="none",
        normalise_mix=True,
        skip_current=True,
        recency=0.4,
        reset_after=31,
        train_default=True,
        learn_scale=True,
    ),
}


def preset(name: str) -> SignalConfig:
    """The settings of a named preset; `OptionError` for a name that there is not."""
    if name not in PRESETS:
        raise OptionError(f"no signal preset {name!r}; there are {', '.join(PRESETS)}")
    return PRESETS[name]


def initial_signal(config: SignalConfig, width: int, seed: int) -> np.ndarray:
    """r_0, float32 [d]."""
    if config.initial == "random":
        return np.random.default_rng(np.random.SeedSequence([seed, 0])).standard_normal(width).astype(np.float32)
    return np.full(width, 1.0 if config.initial == "ones" else 1.0 / width, dtype=np.float32)
