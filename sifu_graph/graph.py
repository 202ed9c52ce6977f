"""`Graph`: an open graph, with one method for each operation on it.

Each method calls one function of a package, which documents the options; it is imported on first use, so that opening
a graph does not load torch or matplotlib. The methods that edit are in `edit.methods`; the state of the graph, and how
it is opened and closed, in `session`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from sifu_graph.edit.methods import EditMethods
from sifu_graph.session import operations

if TYPE_CHECKING:
    import numpy as np
    import scipy.sparse
    from sifu_store.branching import Moved
    from sifu_store.history import History

    from sifu_graph.config import OptimizerConfig, Say
    from sifu_graph.evaluation import EvalReport
    from sifu_graph.generation.stream import Generation, Stream
    from sifu_graph.inspection.diff import Difference
    from sifu_graph.inspection.inspect import EdgeReport, NodeReport
    from sifu_graph.inspection.inspect_clone import CloneReport
    from sifu_graph.inspection.predictions import NextNode, Score
    from sifu_graph.inspection.trace import Trace
    from sifu_graph.interop.export import ExportReport
    from sifu_graph.plot.graph_map import GraphMap
    from sifu_graph.plot.picture import Picture
    from sifu_graph.session import GraphSession
    from sifu_graph.text.corpus import Corpora
    from sifu_graph.training.options import StepReport, TrainReport


@operations
class Graph(EditMethods):
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
        texts: Iterable[str | Sequence[str]] | None = None,
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
        return train(self, self._corpus(corpus, texts), options)

    def _corpus(self, corpus: Corpora | None, texts: Iterable[str | Sequence[str]] | None) -> Corpora | None:
        from sifu_graph.text.in_memory import chosen

        return chosen(corpus, texts, tokens=self.tokenizer.level == "tokens")

    def evaluate(
        self,
        corpus: Corpora | None = None,
        *,
        texts: Iterable[str | Sequence[str]] | None = None,
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

        return evaluate(self, self._corpus(corpus, texts), limit=limit, with_baselines=with_baselines, like=like)

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

    def next(self, text: str | Sequence[str], *, k: int = 10) -> list[NextNode]:
        """The ``k`` most probable next nodes after a text. See `inspection.predictions.next_nodes`."""
        from sifu_graph.inspection.predictions import next_nodes

        return next_nodes(self, text, k=k)

    def score(self, text: str | Sequence[str]) -> Score:
        """The log-probability of a text, token by token. See `inspection.predictions.score`."""
        from sifu_graph.inspection.predictions import score

        return score(self, text)

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

    def plot(self, kind: str, out: str | Path | None = None, *, force: bool = False) -> Picture:
        """One picture of the graph or of its training, which a notebook shows where a cell ends with it.

        Parameters
        ----------
        kind
            ``loss``: of all training runs by step. ``rows``: private edges out of and into each node. ``counts``: of
            the pairs, and the threshold of private edges. ``energy``: of the private edges by count. ``alpha``: the
            mixing logits by position. ``pages``: which are stored, and how often they are used.
        out
            A file to write it to: ``.png``, ``.svg`` or ``.pdf``. None: it is only returned.
        force
            Replace the file if it exists.

        Returns
        -------
        Picture
            A `matplotlib.figure.Figure`; its attribute ``figures`` is a dict of the numbers in it.

        Raises
        ------
        OptionError
            There is no such kind, nothing to draw, the file exists, or matplotlib is not installed.

        Examples
        --------
        >>> graph.plot("loss")                    # doctest: +SKIP
        >>> graph.plot("rows", "rows.svg").figures["median"]    # doctest: +SKIP
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

    def to_pandas(self, what: Literal["nodes", "edges", "history"] = "edges") -> Any:
        """A `pandas.DataFrame` of nodes, private edges or commits. See `interop.tables.to_pandas` for its columns.

        Raises
        ------
        OptionError
            pandas is not installed.
        """
        from sifu_graph.interop.tables import to_pandas

        return to_pandas(self, what)

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
