"""A graph that is open: its store, its settings, its tokenizer and its parameters, and what can be done with it.

This is the front door of the package. Each method calls one function of another module; the reading and writing of
a graph's arrays has its home here.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sifu_graph.editable import Editable
from sifu_graph.session import GraphSession
from sifu_graph.text.corpus import Corpus

if TYPE_CHECKING:
    from sifu_store.branching import Moved
    from sifu_store.history import History

    from sifu_graph.evaluation import EvalReport
    from sifu_graph.generation.stream import Generation
    from sifu_graph.inspection.diff import Difference
    from sifu_graph.inspection.inspect import EdgeReport, NodeReport
    from sifu_graph.inspection.trace import Trace
    from sifu_graph.interop.export import ExportReport
    from sifu_graph.plot.graph_map import GraphMap
    from sifu_graph.training.options import TrainReport


class Graph(Editable, GraphSession):
    """An open graph. Get one with `Graph.open` or `sifu_graph.build_graph`; close it, or use it in a ``with``.

    Examples
    --------
    >>> with Graph.open("graph.sifu") as graph:        # doctest: +SKIP
    ...     graph.train(minutes=1)
    ...     print(graph.generate("春風", tokens=32).text)
    """

    # ---- what can be done with it

    def train(self, corpus: Corpus | Sequence[str | Path] | None = None, **options: Any) -> TrainReport:
        """Trains the graph and commits. See `sifu_graph.training.loop.train` for the options."""
        from sifu_graph.training.loop import train
        from sifu_graph.training.options import TrainOptions

        return train(self, corpus, TrainOptions(**options))

    def evaluate(self, corpus: Corpus | Sequence[str | Path] | None = None, **options: Any) -> EvalReport:
        """Held-out perplexity. See `sifu_graph.evaluation.evaluate` for the options."""
        from sifu_graph.evaluation import evaluate

        return evaluate(self, corpus, **options)

    def generate(self, prompt: str | Sequence[str], **options: Any) -> Generation:
        """Continues a prompt. See `sifu_graph.generation.stream.generate` for the options."""
        from sifu_graph.generation.stream import GenerateOptions, generate

        return generate(self, prompt, GenerateOptions(**options))

    def stream(self, prompt: str | Sequence[str], **options: Any) -> Iterator[str]:
        """The same, piece by piece, as it comes."""
        from sifu_graph.generation.stream import GenerateOptions, stream

        return stream(self, prompt, GenerateOptions(**options))

    def export(self, kind: str, path: str | Path | None = None, **options: Any) -> ExportReport:
        """Writes the graph in another format. See `sifu_graph.interop.export.export`."""
        from sifu_graph.interop.export import export

        return export(self, kind, path, **options)

    def to_scipy(self) -> Any:
        """Counts and first energies, two sparse matrices [n, n]. See `sifu_graph.interop.converters.to_scipy`."""
        from sifu_graph.interop.converters import to_scipy

        return to_scipy(self)

    def to_networkx(self) -> Any:
        """A `networkx.DiGraph`. See `sifu_graph.interop.converters.to_networkx`."""
        from sifu_graph.interop.converters import to_networkx

        return to_networkx(self)

    def to_pyg(self) -> Any:
        """A `torch_geometric.data.Data`. See `sifu_graph.interop.converters.to_pyg`."""
        from sifu_graph.interop.converters import to_pyg

        return to_pyg(self)

    def to_torch_sparse(self) -> Any:
        """A `torch_sparse.SparseTensor`. See `sifu_graph.interop.converters.to_torch_sparse`."""
        from sifu_graph.interop.converters import to_torch_sparse

        return to_torch_sparse(self)

    def map(self, *files: str | Path, **options: Any) -> GraphMap:
        """A map of the graph, drawn to files. See `sifu_graph.plot.draw_map.draw_map` for the options."""
        from sifu_graph.plot.draw_map import draw_map

        return draw_map(self, *files, **options)

    def plot(self, kind: str, out: str | Path, *, force: bool = False) -> dict[str, Any]:
        """One picture of the graph or of its training. See `sifu_graph.plot.figures.plot` for the kinds."""
        from sifu_graph.plot.figures import plot

        return plot(self, kind, out, force=force)

    def trace(self, text: str | Sequence[str], **options: Any) -> Trace:
        """What the signal does, position by position: tensors. See `sifu_graph.inspection.trace.trace` for the options."""
        from sifu_graph.inspection.trace import TraceOptions, trace

        return trace(self, text, TraceOptions(**options))

    def inspect(self, node: str, target: str | None = None, *, top: int = 10) -> NodeReport | EdgeReport:
        """One node, or the edge between two. See `sifu_graph.inspection.inspect`."""
        from sifu_graph.inspection.inspect import inspect_edge, inspect_node

        return inspect_node(self, node, top=top) if target is None else inspect_edge(self, node, target)

    # ---- its history

    def log(self) -> History:
        """All commits: of every branch and tag, and what was undone."""
        return self.store.tree()

    def diff(self, before: str = "HEAD~1", after: str = "HEAD", *, top: int = 10) -> Difference:
        """What is different between two snapshots. See `sifu_graph.inspection.diff.diff`."""
        from sifu_graph.inspection.diff import diff

        return diff(self.path, before, after, top=top)

    def undo(self, steps: int = 1) -> Moved:
        """Goes back to the commit before the newest one. See `Store.undo`."""
        with self.writing() as store:
            return store.undo(steps)

    def redo(self, steps: int = 1) -> Moved:
        """Takes back an `undo`. See `Store.redo`."""
        with self.writing() as store:
            return store.redo(steps)

    def branch(self, name: str, at: str = "HEAD") -> str:
        """Makes a branch, and stays where it is. Returns the snapshot. See `Store.create_branch`."""
        with self.writing() as store:
            return store.create_branch(name, at)

    def switch(self, name: str) -> str:
        """Goes to another branch. Returns its newest snapshot. See `Store.switch`."""
        with self.writing() as store:
            return store.switch(name)

    def tag(self, name: str, at: str = "HEAD") -> str:
        """Gives a snapshot a name that never moves. See `Store.create_tag`."""
        with self.writing() as store:
            return store.create_tag(name, at)
