"""sifu: a sparse-graph engine for SiFu / BriLLM language models.

The names are listed in `__init__.pyi` and imported on first use, so that ``import sifu_graph`` does not import torch.

A graph is built by `build_graph` (or imported by `import_brillm` or `import_safetensors`) and opened by `Graph.open`;
every operation on it is a method of `Graph`. All errors are kinds of `SifuError`. ``PRESETS`` are the settings of the
signal (`SignalConfig`) by the names that ``build_graph(signal=...)`` takes:

- ``recurrent``: all edges share a recurrence, which adds to the counts of pairs and clones (the default).
- ``tuned``: a matrix on each edge, with what improved the paper's mathematics; begins with a closed form.
- ``paper``, ``paper-v1``: as in the second and in the first version of the paper (arXiv 2503.11299).
- ``brillm05``: as in the released code of BriLLM 0.5.

>>> import sifu_graph                                                # doctest: +SKIP
>>> sifu_graph.build_graph("tang", "graph.sifu", vocab=4000)         # doctest: +SKIP
>>> graph = sifu_graph.Graph.open("graph.sifu")                      # doctest: +SKIP
>>> graph.train(minutes=1)                                           # doctest: +SKIP
>>> graph.generate("春風", tokens=32).text                            # doctest: +SKIP
"""

import lazy_loader

from sifu_graph._version import __version__ as __version__

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
