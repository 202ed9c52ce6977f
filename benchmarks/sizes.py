"""How large a run is: the sizes of the published table, and smaller ones for development and for the tests."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Sizes:
    """The sizes of one run. Times are the least that a measurement takes."""

    name: str
    vocab: int = 4000
    sparsify: float = 0.1
    training_s: float = 60.0
    large_batch: int = 1024  # chunks
    decoding_tokens: int = 20_000
    greedy_tokens: int = 5_000
    long_tokens: int = 100_000
    paging_steps: int = 5  # after two that bring the pages in
    paging_tokens: int = 1000  # of a stretch of text; there are four
    training_budget_bytes: int = 1 << 30
    generating_budget_bytes: int = 512 << 20
    reference_train_vocab: int = 1000
    reference_decode_vocab: int = 2000
    reference_batch: int = 32  # chunks
    reference_candidates: int = 400
    reference_steps: int = 3  # of the released code; each takes about 15 s
    reference_tokens: int = 400  # decoded; the released code stops at 512


SIZES = {
    "full": Sizes(name="full"),
    "quick": Sizes(
        name="quick",
        vocab=1000,
        training_s=8.0,
        decoding_tokens=4000,
        greedy_tokens=1000,
        long_tokens=20_000,
        paging_steps=2,
        paging_tokens=200,
        training_budget_bytes=256 << 20,
        generating_budget_bytes=64 << 20,
        reference_train_vocab=500,
        reference_decode_vocab=500,
        reference_steps=1,
        reference_tokens=100,
    ),
    "smoke": Sizes(
        name="smoke",
        vocab=60,
        training_s=0.0,
        large_batch=16,
        decoding_tokens=50,
        greedy_tokens=10,
        long_tokens=100,
        paging_steps=1,
        paging_tokens=20,
        training_budget_bytes=64 << 20,
        generating_budget_bytes=32 << 20,
        reference_train_vocab=50,
        reference_decode_vocab=50,
        reference_batch=2,
        reference_candidates=10,
        reference_steps=1,
        reference_tokens=10,
    ),
}
