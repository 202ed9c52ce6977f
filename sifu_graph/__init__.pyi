__version__: str
from . import errors as errors
from .build import BuildReport as BuildReport
from .build import build_graph as build_graph
from .config import PRESETS as PRESETS
from .config import OptimizerConfig as OptimizerConfig
from .config import SignalConfig as SignalConfig
from .errors import CorpusError as CorpusError
from .errors import DeviceMemoryError as DeviceMemoryError
from .errors import DiskFullError as DiskFullError
from .errors import DivergedError as DivergedError
from .errors import ForeignFileError as ForeignFileError
from .errors import HostMemoryError as HostMemoryError
from .errors import OptionError as OptionError
from .errors import OptionTypeError as OptionTypeError
from .errors import ResourceError as ResourceError
from .errors import SifuError as SifuError
from .errors import StoreChangedError as StoreChangedError
from .errors import StoreConflictError as StoreConflictError
from .errors import StoreDamagedError as StoreDamagedError
from .errors import StoreError as StoreError
from .errors import StoreExistsError as StoreExistsError
from .errors import StoreLockedError as StoreLockedError
from .errors import StoreNotFoundError as StoreNotFoundError
from .errors import StoreUnreachableError as StoreUnreachableError
from .errors import StoreVersionError as StoreVersionError
from .evaluation import EvalReport as EvalReport
from .generation.stream import Generation as Generation
from .graph import Graph as Graph
from .graph_info import GraphInfo as GraphInfo
from .interop.brillm_import import import_brillm as import_brillm
from .interop.safetensors import import_safetensors as import_safetensors
from .progress import ProgressReport as ProgressReport
from .text.corpus import Corpus as Corpus
from .text.in_memory import TextCorpus as TextCorpus
from .training.options import StepReport as StepReport
from .training.options import TrainReport as TrainReport

__all__ = [
    "PRESETS",
    "BuildReport",
    "Corpus",
    "CorpusError",
    "DeviceMemoryError",
    "DiskFullError",
    "DivergedError",
    "EvalReport",
    "ForeignFileError",
    "Generation",
    "Graph",
    "GraphInfo",
    "HostMemoryError",
    "OptimizerConfig",
    "OptionError",
    "OptionTypeError",
    "ProgressReport",
    "ResourceError",
    "SifuError",
    "SignalConfig",
    "StepReport",
    "StoreChangedError",
    "StoreConflictError",
    "StoreDamagedError",
    "StoreError",
    "StoreExistsError",
    "StoreLockedError",
    "StoreNotFoundError",
    "StoreUnreachableError",
    "StoreVersionError",
    "TextCorpus",
    "TrainReport",
    "build_graph",
    "import_brillm",
    "import_safetensors",
]
