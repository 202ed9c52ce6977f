"""A versioned store for the parameters of very large sparse graphs: arrays, pages, commits. No torch.

The names are listed in `__init__.pyi` and imported on first use, so that ``import sifu_store.errors`` does not import
zarr.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
