"""sifu: a sparse-graph engine for SiFu / BriLLM language models.

>>> import sifu_graph                                                # doctest: +SKIP
>>> sifu_graph.build_graph("tang", "graph.sifu", vocab=4000)         # doctest: +SKIP
>>> graph = sifu_graph.Graph.open("graph.sifu")                      # doctest: +SKIP
>>> graph.train(minutes=1)                                           # doctest: +SKIP
>>> graph.generate("春風", tokens=32).text                            # doctest: +SKIP
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sifu_graph._version import __version__ as __version__

if TYPE_CHECKING:
    from sifu_graph.build import BuildReport, build_graph
    from sifu_graph.config import PRESETS, SignalConfig
    from sifu_graph.graph import Graph
    from sifu_graph.interop.brillm_import import import_brillm
    from sifu_graph.interop.safetensors import import_safetensors
    from sifu_graph.session import GraphInfo

__all__ = [
    "PRESETS",
    "BuildReport",
    "Graph",
    "GraphInfo",
    "SignalConfig",
    "build_graph",
    "import_brillm",
    "import_safetensors",
]

_HOMES = {
    "BuildReport": "build",
    "build_graph": "build",
    "import_brillm": "interop.brillm_import",
    "import_safetensors": "interop.safetensors",
    "Graph": "graph",
    "GraphInfo": "session",
    "PRESETS": "config",
    "SignalConfig": "config",
}


def __getattr__(name: str) -> Any:
    """Names are imported on first use, so that ``import sifu_graph`` does not wait for torch."""
    if name not in _HOMES:
        raise AttributeError(f"module 'sifu_graph' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"sifu_graph.{_HOMES[name]}"), name)
