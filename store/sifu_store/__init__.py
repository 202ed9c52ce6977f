"""A versioned store for the parameters of very large sparse graphs: arrays, pages, commits. No torch."""

from __future__ import annotations

from sifu_store.arrays import Damage
from sifu_store.durable import require_free_bytes
from sifu_store.history import Commit, Garbage
from sifu_store.layout import FORMAT_VERSION, PAGE_EDGES
from sifu_store.store import Store
from sifu_store.verify import VerifyReport

__all__ = [
    "FORMAT_VERSION",
    "PAGE_EDGES",
    "Commit",
    "Damage",
    "Garbage",
    "Store",
    "VerifyReport",
    "require_free_bytes",
]
