"""`Graph`: an open graph, with one method for each operation on it.

Each method calls one function of a package, which documents the options; it is imported on first use, so that opening
a graph does not load torch or matplotlib. The state of the graph, and how it is opened and closed, is in `session`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from sifu_graph.session import GraphSession

if TYPE_CHECKING:
    import numpy as np
    import scipy.sparse
    from sifu_store.branching import Moved
    from sifu_store.history import History

    from sifu_graph.config import OptimizerConfig, Say
    from sifu_graph.edit.edit_texts import Corpora
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
    from sifu_graph.inspection.inspect_clone import CloneReport
    from sifu_graph.inspection.trace import Trace
    from sifu_graph.interop.export import ExportReport
    from sifu_graph.plot.graph_map import GraphMap
    from sifu_graph.training.options import StepReport, TrainReport

Report = TypeVar("Report", bound="EditReport")


class Graph(GraphSession):
    """An open graph. `Graph.open` returns one; `close` it, or use it in a ``with`` statement.

    n is the number of nodes, d the width of the signal. Nodes are named by their tokens.

    Methods that change the graph make one commit each. ``dry_run`` reports what a change would do and commits nothing;
    ``command`` is the name of the command in the log. All of them raise `StoreLockedError` if another process writes to
    the store, `OptionError` for an unknown node, for a value without meaning, and for a graph that is open at an older
    snapshot, `DiskFullError` if the commit does not fit, and `StoreDamagedError` for a page that cannot be read.

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
        say: Say | None = None,
        command: str = "train",
    ) -> TrainReport:
        """Trains the graph and commits. ``corpus`` None: on the text that the graph was built from.

        See `training.options.TrainOptions` for the other parameters.

        Raises
        ------
        CorpusError
            There is no text, or nothing in it to train on.
        DivergedError
            The loss is not finite; the last commit stays.
        """
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
        """Perplexity, bits per token and accuracy on the held-out text, or on a corpus. See `evaluation.evaluate`.

        Raises
        ------
        CorpusError
            There is nothing to evaluate on.
        """
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
        """Continues a prompt and returns the whole text. See `generation.stream.GenerateOptions` for the parameters.

        ``signal_vector`` is float32 [d].

        Raises
        ------
        OptionError
            The prompt is empty or consists of unknown characters only, or an option has no meaning.
        """
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
        """Continues a prompt: an iterator over pieces of text. For parameters and errors, see `generate`."""
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
        """The signals, energies and candidates of a text, position by position, as tensors.

        See `inspection.trace.TraceOptions` for the parameters and `inspection.trace.Trace` for the shapes. ``html`` is
        a file for the trace as one page of HTML; ``force`` overwrites it.

        Raises
        ------
        OptionError
            The text is empty or consists of unknown characters only, an option has no meaning, or the file exists.
        """
        from sifu_graph.inspection.trace import TraceOptions, trace

        options = TraceOptions(top=top, last=last, like=like, also=also, what_if=what_if)
        if html is None:
            return trace(self, text, options)
        from sifu_graph.plot.trace_html import trace_to_page

        return trace_to_page(self, text, options, html, force=force)

    def inspect(self, node: str, target: str | None = None, *, top: int = 10) -> NodeReport | CloneReport | EdgeReport:
        """One node or clone with its ``top`` strongest edges, or the edge between two, in energies at rest.

        See `inspection.inspect` and `inspection.inspect_clone`. `OptionError`: a node or clone is unknown.
        """
        from sifu_graph.inspection.inspect import inspect_edge, inspect_source

        return inspect_source(self, node, top=top) if target is None else inspect_edge(self, node, target)

    def diff(
        self,
        before: str = "HEAD~1",
        after: str = "HEAD",
        *,
        top: int = 10,
        progress: Callable[[int, int], None] | None = None,
    ) -> Difference:
        """The differences between two snapshots, in energies at the first step. See `inspection.diff.diff`.

        Raises
        ------
        OptionError
            A name refers to no snapshot.
        """
        from sifu_graph.inspection.diff import diff

        return diff(self.path, before, after, top=top, progress=progress)

    def map(
        self,
        *files: str | Path,
        nodes: int = 2000,
        edges: int = 10000,
        by: Literal["information", "energy", "count"] = "information",
        unfold: Sequence[str] = (),
        seed: int = 0,
        force: bool = False,
    ) -> GraphMap:
        """A map of the most frequent nodes and their strongest edges, drawn to files. See `plot.draw_map.draw_map`.

        Raises
        ------
        OptionError
            A value has no meaning, or a file exists or has another suffix.
        """
        from sifu_graph.plot.draw_map import draw_map

        return draw_map(self, *files, nodes=nodes, edges=edges, by=by, unfold=unfold, seed=seed, force=force)

    def plot(self, kind: str, out: str | Path, *, force: bool = False) -> dict[str, Any]:
        """One picture of the graph or of its training. Returns the figures in it. See `plot.figures.plot`.

        Raises
        ------
        OptionError
            There is no such kind, nothing to draw, or the file exists.
        """
        from sifu_graph.plot.figures import plot

        return plot(self, kind, out, force=force)

    # ---- other formats

    def export(
        self,
        kind: str,
        path: str | Path | None = None,
        *,
        clones: int = 0,
        half: bool = False,
        force: bool = False,
        on_bytes: Callable[[int, int], None] | None = None,
    ) -> ExportReport:
        """Writes the graph in another format. See `interop.export.export`.

        Raises
        ------
        OptionError, StoreExistsError
        """
        from sifu_graph.interop.export import export

        return export(self, kind, path, clones=clones, half=half, force=force, on_bytes=on_bytes)

    def to_scipy(self) -> tuple[scipy.sparse.csr_array, scipy.sparse.csr_array]:
        """Counts (int64) and energies at the first step (float32) of the private edges: two sparse matrices [n, n]."""
        from sifu_graph.interop.converters import to_scipy

        return to_scipy(self)

    def to_networkx(self) -> Any:
        """A `networkx.DiGraph` with counts and energies at the first step. See `interop.converters.to_networkx`."""
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
        """Several edits as one commit; nothing is committed if an error is raised. See `edit.session.Edit`.

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
        """Adds nodes. See `edit.session.Edit.add_node`. `CorpusError`: the text cannot be read, or has none of them."""
        return self._edited(
            lambda edit: edit.add_node(*tokens, like=like, corpus=corpus, kind=kind, train_steps=train_steps),
            dry_run=dry_run,
            command=command,
        )

    def remove_node(self, *tokens: str, dry_run: bool = False, command: str = "remove-node") -> RemoveNodeReport:
        """Removes nodes and their edges. See `edit.session.Edit.remove_node`."""
        return self._edited(lambda edit: edit.remove_node(*tokens), dry_run=dry_run, command=command)

    def rename_node(self, token: str, new: str, *, dry_run: bool = False, command: str = "edit-node") -> EditNodeReport:
        """Changes the token of a node. See `edit.session.Edit.rename_node`."""
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
        """Raises the energy at rest of an edge by ``nats`` of log-odds. See `edit.session.Edit.boost_edge`."""
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
        """Sets the probability of an edge to 0. See `edit.session.Edit.forbid_edge`."""
        return self._edited(lambda edit: edit.forbid_edge(u, v), dry_run=dry_run, command=command)

    def allow_edge(self, u: str, v: str, *, dry_run: bool = False, command: str = "edit-edge") -> EditEdgeReport:
        """Makes a forbidden edge a default edge. See `edit.session.Edit.allow_edge`."""
        return self._edited(lambda edit: edit.allow_edge(u, v), dry_run=dry_run, command=command)

    def prune(
        self,
        *,
        to_ratio: float | None = None,
        min_count: int | None = None,
        by: Literal["count", "energy", "usage"] = "count",
        clones: int | None = None,
        evaluate: bool = False,
        dry_run: bool = False,
        command: str = "prune",
    ) -> PruneReport:
        """Makes private edges default edges, and removes clones. See `edit.session.Edit.prune`."""
        return self._edited(
            lambda edit: edit.prune(to_ratio=to_ratio, min_count=min_count, by=by, clones=clones, evaluate=evaluate),
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
        clones: int | None = None,
        gain: float | None = None,
        evaluate: bool = False,
        say: Say | None = None,
        dry_run: bool = False,
        command: str = "grow",
    ) -> PruneReport:
        """Makes default edges private edges, and adds clones. See `edit.session.Edit.grow`."""
        more: dict[str, Any] = {"clones": clones, "gain": gain, "evaluate": evaluate, "say": say}
        return self._edited(
            lambda edit: edit.grow(corpus=corpus, to_ratio=to_ratio, min_count=min_count, init=init, **more),
            dry_run=dry_run,
            command=command,
        )

    def compact(self, *, dry_run: bool = False, command: str = "compact") -> CompactReport:
        """Stores the edges of each row side by side and removes free slots. See `edit.session.Edit.compact`."""
        return self._edited(lambda edit: edit.compact(), dry_run=dry_run, command=command)

    def _edited(self, change: Callable[[Edit], Report], *, dry_run: bool, command: str) -> Report:
        from sifu_graph.edit.session import apply

        return apply(self, change, command=command, dry_run=dry_run)

    # ---- history

    def log(self) -> History:
        """All commits: of every branch and tag, and those undone."""
        return self.store.tree()

    def undo(self, steps: int = 1) -> Moved:
        """Returns to the commit ``steps`` before the newest one. See `Store.undo`. `StoreError`: there are fewer."""
        with self.writing() as store:
            return store.undo(steps)

    def redo(self, steps: int = 1) -> Moved:
        """Restores the last ``steps`` undone commits. See `Store.redo`. `StoreError`: there are fewer."""
        with self.writing() as store:
            return store.redo(steps)

    def branch(self, name: str, at: str = "HEAD") -> str:
        """Creates a branch; the current one stays. Returns the snapshot's id. See `Store.create_branch`."""
        with self.writing() as store:
            return store.create_branch(name, at)

    def switch(self, name: str) -> str:
        """Makes another branch the current one. Returns the id of its newest snapshot. See `Store.switch`."""
        with self.writing() as store:
            return store.switch(name)

    def tag(self, name: str, at: str = "HEAD") -> str:
        """Creates a tag, a fixed name of a snapshot. Returns the snapshot's id. See `Store.create_tag`."""
        with self.writing() as store:
            return store.create_tag(name, at)
