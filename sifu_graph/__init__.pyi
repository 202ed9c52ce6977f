__version__: str
from .build import BuildReport as BuildReport
from .build import build_graph as build_graph
from .config import PRESETS as PRESETS
from .config import SignalConfig as SignalConfig
from .graph import Graph as Graph
from .interop.brillm_import import import_brillm as import_brillm
from .interop.safetensors import import_safetensors as import_safetensors
from .session import GraphInfo as GraphInfo

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
