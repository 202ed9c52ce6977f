from .arrays import Damage
from .branching import Moved
from .collecting import Garbage
from .durable import require_free_bytes
from .history import Commit, History
from .layout import FORMAT_VERSION, PAGE_EDGES
from .store import Store
from .verify import VerifyReport

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
