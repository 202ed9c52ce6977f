"""sifu: a sparse-graph engine for SiFu / BriLLM language models.

The names are listed in `__init__.pyi` and imported on first use, so that ``import sifu_graph`` does not import torch.

>>> import sifu_graph                                                # doctest: +SKIP
>>> sifu_graph.build_graph("tang", "graph.sifu", vocab=4000)         # doctest: +SKIP
>>> graph = sifu_graph.Graph.open("graph.sifu")                      # doctest: +SKIP
>>> graph.train(minutes=1)                                           # doctest: +SKIP
>>> graph.generate("春風", tokens=32).text                            # doctest: +SKIP
"""

import lazy_loader

from sifu_graph._version import __version__ as __version__

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
