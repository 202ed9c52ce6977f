"""A versioned store for the parameters of very large sparse graphs: arrays, pages, commits. No torch.

Names are imported on first use, so that ``import sifu_store.errors`` does not wait for zarr.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sifu_store.arrays import Damage
    from sifu_store.branching import Moved
    from sifu_store.collecting import Garbage
    from sifu_store.durable import require_free_bytes
    from sifu_store.history import Commit, History
    from sifu_store.layout import FORMAT_VERSION, PAGE_EDGES
    from sifu_store.store import Store
    from sifu_store.verify import VerifyReport

__all__ = [
    "FORMAT_VERSION",
    "PAGE_EDGES",
    "Commit",
    "Damage",
    "Garbage",
    "History",
    "Moved",
    "Store",
    "VerifyReport",
    "require_free_bytes",
]

_HOMES = {
    "Damage": "arrays",
    "require_free_bytes": "durable",
    "Commit": "history",
    "Garbage": "collecting",
    "History": "history",
    "Moved": "branching",
    "FORMAT_VERSION": "layout",
    "PAGE_EDGES": "layout",
    "Store": "store",
    "VerifyReport": "verify",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'sifu_store' has no attribute {name!r}")
    return getattr(import_module(f"sifu_store.{_HOMES[name]}"), name)
