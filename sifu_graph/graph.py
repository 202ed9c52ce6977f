"""The front door: a graph that is open, and everything that can be done with it.

Each method calls one function of a package, which documents the options; it is imported on first use, so that opening
a graph does not load torch or matplotlib. The state of the graph, and how it is opened and closed, is in `session`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from sifu_graph.session import GraphSession
from sifu_graph.text.corpus import Corpus

if TYPE_CHECKING:
    import numpy as np
    import scipy.sparse
    from sifu_store.branching import Moved
    from sifu_store.history import History

    from sifu_graph.config import OptimizerConfig
    from sifu_graph.edit.reports import (
        AddNodeReport,
        CompactReport,
        EditEdgeReport,
        EditNodeReport,
        EditReport,
        PruneReport,
        RemoveNodeReport,
    )
    from sifu_graph.edit.session import Edit
    from sifu_graph.evaluation import EvalReport
    from sifu_graph.generation.stream import Generation, Stream
    from sifu_graph.inspection.diff import Difference
    from sifu_graph.inspection.inspect import EdgeReport, NodeReport
    from sifu_graph.inspection.trace import Trace
    from sifu_graph.interop.export import ExportReport
    from sifu_graph.plot.graph_map import GraphMap
    from sifu_graph.training.options import StepReport, TrainReport

Corpora = Corpus | Sequence[str | Path]
Report = TypeVar("Report", bound="EditReport")


class Graph(GraphSession):
    """An open graph. Get one with `Graph.open`; close it, or use it in a ``with``.

    The methods that change the graph make one commit each. They take ``dry_run`` (report what the change would do, and
    commit nothing) and ``command`` (what the log says of the commit).

    Examples
    --------
    >>> with Graph.open("graph.sifu") as graph:        # doctest: +SKIP
    ...     graph.train(minutes=1)
    ...     print(graph.generate("春風", tokens=32).text)
    """

    # ---- training, evaluation, generation

    def train(
        self,
        corpus: Corpora | None = None,
        *,
        steps: int | None = None,
        epochs: float | None = None,
        minutes: float | None = None,
        batch: int | None = None,
        optimizer: OptimizerConfig | None = None,
        candidates: int | Literal["all"] | None = None,
        commit_every: int | None = None,
        eval_every: int | None = None,
        seed: int | None = None,
        contexts: bool | None = None,
        on_step: Callable[[StepReport], None] | None = None,
        say: Callable[[str], None] | None = None,
        command: str = "train",
    ) -> TrainReport:
        """Trains the graph and commits. See `training.options.TrainOptions` and `training.loop.train`."""
        from sifu_graph.training.loop import train
        from sifu_graph.training.options import TrainOptions

        options = TrainOptions(
            steps=steps,
            epochs=epochs,
            minutes=minutes,
            batch=batch,
            optimizer=optimizer,
            candidates=candidates,
            commit_every=commit_every,
            eval_every=eval_every,
            seed=seed,
            contexts=contexts,
            on_step=on_step,
            say=say,
            command=command,
        )
        return train(self, corpus, options)

    def evaluate(
        self,
        corpus: Corpora | None = None,
        *,
        limit: int | None = None,
        with_baselines: bool = False,
        like: GraphSession | None = None,
    ) -> EvalReport:
        """Held-out perplexity. See `evaluation.evaluate`."""
        from sifu_graph.evaluation import evaluate

        return evaluate(self, corpus, limit=limit, with_baselines=with_baselines, like=like)

    def generate(
        self,
        prompt: str | Sequence[str],
        *,
        tokens: int = 100,
        temperature: float = 1.0,
        top_k: int | None = None,
        top_p: float | None = 0.9,
        greedy: bool = False,
        seed: int | None = None,
        stop: str | None = None,
        signal_vector: Sequence[float] | np.ndarray | None = None,
        explain: bool = False,
    ) -> Generation:
        """Continues a prompt. See `generation.stream.GenerateOptions` and `generation.stream.generate`."""
        from sifu_graph.generation.stream import GenerateOptions, generate

        options = GenerateOptions(
            tokens=tokens,
            temperature=temperature,
            top_k=top_k,
            top_p=top_p,
            greedy=greedy,
            seed=seed,
            stop=stop,
            signal_vector=signal_vector,
            explain=explain,
        )
        return generate(self, prompt, options)

    def stream(
        self,
        prompt: str | Sequence[str],
        *,
        tokens: int = 100,
        temperature: float = 1.0,
        top_k: int | None = None,
        top_p: float | None = 0.9,
        greedy: bool = False,
        seed: int | None = None,
        stop: str | None = None,
        signal_vector: Sequence[float] | np.ndarray | None = None,
        explain: bool = False,
    ) -> Stream:
        """Continues a prompt: an iterator over the pieces of text. See `generation.stream.stream`."""
        from sifu_graph.generation.stream import GenerateOptions, stream

        options = GenerateOptions(
            tokens=tokens,
            temperature=temperature,
            top_k=top_k,
            top_p=top_p,
            greedy=greedy,
            seed=seed,
            stop=stop,
            signal_vector=signal_vector,
            explain=explain,
        )
        return stream(self, prompt, options)

    # ---- looking into it

    def trace(
        self,
        text: str | Sequence[str],
        *,
        top: int | None = None,
        last: int | None = None,
        like: Literal["generate", "eval"] = "generate",
        also: Sequence[str] = (),
        what_if: Sequence[str] = (),
        html: str | Path | None = None,
        force: bool = False,
    ) -> Trace:
        """What the signal does, position by position: tensors. See `inspection.trace.TraceOptions`.

        ``html``: a file for the trace as one page of HTML; ``force`` overwrites it.
        """
        from sifu_graph.inspection.trace import TraceOptions, trace

        options = TraceOptions(top=top, last=last, like=like, also=also, what_if=what_if)
        if html is None:
            return trace(self, text, options)
        from sifu_graph.plot.trace_html import trace_to_page

        return trace_to_page(self, text, options, html, force=force)

    def inspect(self, node: str, target: str | None = None, *, top: int = 10) -> NodeReport | EdgeReport:
        """One node, or the edge between two. See `inspect.inspect`."""
        from sifu_graph.inspection.inspect import inspect_edge, inspect_node

        return inspect_node(self, node, top=top) if target is None else inspect_edge(self, node, target)

    def diff(self, before: str = "HEAD~1", after: str = "HEAD", *, top: int = 10) -> Difference:
        """What is different between two snapshots. See `inspection.diff.diff`."""
        from sifu_graph.inspection.diff import diff

        return diff(self.path, before, after, top=top)

    def map(
        self,
        *files: str | Path,
        nodes: int = 2000,
        edges: int = 10000,
        by: Literal["information", "energy", "count"] = "information",
        seed: int = 0,
        force: bool = False,
    ) -> GraphMap:
        """A map of the graph, drawn to files. See `plot.draw_map.draw_map`."""
        from sifu_graph.plot.draw_map import draw_map

        return draw_map(self, *files, nodes=nodes, edges=edges, by=by, seed=seed, force=force)

    def plot(self, kind: str, out: str | Path, *, force: bool = False) -> dict[str, Any]:
        """One picture of the graph or of its training. See `plot.figures.plot`."""
        from sifu_graph.plot.figures import plot

        return plot(self, kind, out, force=force)

    # ---- other formats

    def export(
        self,
        kind: str,
        path: str | Path | None = None,
        *,
        force: bool = False,
        on_bytes: Callable[[int, int], None] | None = None,
    ) -> ExportReport:
        """Writes the graph in another format. See `interop.export.export`."""
        from sifu_graph.interop.export import export

        return export(self, kind, path, force=force, on_bytes=on_bytes)

    def to_scipy(self) -> tuple[scipy.sparse.csr_array, scipy.sparse.csr_array]:
        """Counts and energies at the first step, two sparse matrices [n, n]. See `interop.converters.to_scipy`."""
        from sifu_graph.interop.converters import to_scipy

        return to_scipy(self)

    def to_networkx(self) -> Any:
        """A `networkx.DiGraph`. See `interop.converters.to_networkx`."""
        from sifu_graph.interop.converters import to_networkx

        return to_networkx(self)

    def to_pyg(self) -> Any:
        """A `torch_geometric.data.Data`. See `interop.converters.to_pyg`."""
        from sifu_graph.interop.converters import to_pyg

        return to_pyg(self)

    def to_torch_sparse(self) -> Any:
        """A `torch_sparse.SparseTensor`. See `interop.converters.to_torch_sparse`."""
        from sifu_graph.interop.converters import to_torch_sparse

        return to_torch_sparse(self)

    # ---- editing

    @contextmanager
    def edit(self, message: str, *, command: str = "edit") -> Iterator[Edit]:
        """Several edits as one commit, or none of them if an error is raised. See `edit.session.Edit`.

        Examples
        --------
        >>> with graph.edit("a new word") as e:        # doctest: +SKIP
        ...     e.add_node("江南", like="江")
        ...     e.forbid_edge("江", "南")
        """
        from sifu_graph.edit.session import editing

        with editing(self, message, command=command) as edit:
            yield edit

    def add_node(
        self,
        *tokens: str,
        like: str | None = None,
        corpus: Corpora | None = None,
        kind: str = "text",
        train_steps: int = 0,
        dry_run: bool = False,
        command: str = "add-node",
    ) -> AddNodeReport:
        """Adds nodes. See `edit.session.Edit.add_node`."""
        return self._edited(
            lambda edit: edit.add_node(*tokens, like=like, corpus=corpus, kind=kind, train_steps=train_steps),
            dry_run=dry_run,
            command=command,
        )

    def remove_node(self, *tokens: str, dry_run: bool = False, command: str = "remove-node") -> RemoveNodeReport:
        """Removes nodes. See `edit.session.Edit.remove_node`."""
        return self._edited(lambda edit: edit.remove_node(*tokens), dry_run=dry_run, command=command)

    def rename_node(self, token: str, new: str, *, dry_run: bool = False, command: str = "edit-node") -> EditNodeReport:
        """Renames a node. See `edit.session.Edit.rename_node`."""
        return self._edited(lambda edit: edit.rename_node(token, new), dry_run=dry_run, command=command)

    def merge_node(self, token: str, into: str, *, dry_run: bool = False, command: str = "edit-node") -> EditNodeReport:
        """Merges a node into another. See `edit.session.Edit.merge_node`."""
        return self._edited(lambda edit: edit.merge_node(token, into), dry_run=dry_run, command=command)

    def set_bias(self, token: str, *, like: str, dry_run: bool = False, command: str = "edit-node") -> EditNodeReport:
        """Copies the bias of another node. See `edit.session.Edit.set_bias`."""
        return self._edited(lambda edit: edit.set_bias(token, like=like), dry_run=dry_run, command=command)

    def scale_edge(
        self, u: str, v: str, factor: float, *, dry_run: bool = False, command: str = "edit-edge"
    ) -> EditEdgeReport:
        """Multiplies the parameters of an edge. See `edit.session.Edit.scale_edge`."""
        return self._edited(lambda edit: edit.scale_edge(u, v, factor), dry_run=dry_run, command=command)

    def boost_edge(
        self, u: str, v: str, nats: float, *, dry_run: bool = False, command: str = "edit-edge"
    ) -> EditEdgeReport:
        """Raises the energy of an edge at rest. See `edit.session.Edit.boost_edge`."""
        return self._edited(lambda edit: edit.boost_edge(u, v, nats), dry_run=dry_run, command=command)

    def copy_edge(
        self, u: str, v: str, *, source: tuple[str, str], dry_run: bool = False, command: str = "edit-edge"
    ) -> EditEdgeReport:
        """Copies the parameters of another edge. See `edit.session.Edit.copy_edge`."""
        return self._edited(lambda edit: edit.copy_edge(u, v, source=source), dry_run=dry_run, command=command)

    def default_edge(self, u: str, v: str, *, dry_run: bool = False, command: str = "edit-edge") -> EditEdgeReport:
        """Makes a private edge a default edge. See `edit.session.Edit.default_edge`."""
        return self._edited(lambda edit: edit.default_edge(u, v), dry_run=dry_run, command=command)

    def forbid_edge(self, u: str, v: str, *, dry_run: bool = False, command: str = "edit-edge") -> EditEdgeReport:
        """Makes an edge one that is never chosen. See `edit.session.Edit.forbid_edge`."""
        return self._edited(lambda edit: edit.forbid_edge(u, v), dry_run=dry_run, command=command)

    def allow_edge(self, u: str, v: str, *, dry_run: bool = False, command: str = "edit-edge") -> EditEdgeReport:
        """Takes `forbid_edge` back. See `edit.session.Edit.allow_edge`."""
        return self._edited(lambda edit: edit.allow_edge(u, v), dry_run=dry_run, command=command)

    def prune(
        self,
        *,
        to_ratio: float | None = None,
        min_count: int | None = None,
        by: Literal["count", "energy", "usage"] = "count",
        evaluate: bool = False,
        dry_run: bool = False,
        command: str = "prune",
    ) -> PruneReport:
        """Makes private edges default edges. See `edit.session.Edit.prune`."""
        return self._edited(
            lambda edit: edit.prune(to_ratio=to_ratio, min_count=min_count, by=by, evaluate=evaluate),
            dry_run=dry_run,
            command=command,
        )

    def grow(
        self,
        *,
        corpus: Corpora | None = None,
        to_ratio: float | None = None,
        min_count: int | None = None,
        init: Literal["counts", "default"] = "counts",
        evaluate: bool = False,
        dry_run: bool = False,
        command: str = "grow",
    ) -> PruneReport:
        """Makes default edges private edges. See `edit.session.Edit.grow`."""
        return self._edited(
            lambda edit: edit.grow(corpus=corpus, to_ratio=to_ratio, min_count=min_count, init=init, evaluate=evaluate),
            dry_run=dry_run,
            command=command,
        )

    def compact(self, *, dry_run: bool = False, command: str = "compact") -> CompactReport:
        """Makes every row one run of slots again. See `edit.session.Edit.compact`."""
        return self._edited(lambda edit: edit.compact(), dry_run=dry_run, command=command)

    def _edited(self, change: Callable[[Edit], Report], *, dry_run: bool, command: str) -> Report:
        from sifu_graph.edit.session import apply

        return apply(self, change, command=command, dry_run=dry_run)

    # ---- history

    def log(self) -> History:
        """All commits: of every branch and tag, and what was undone."""
        return self.store.tree()

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
