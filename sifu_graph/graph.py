"""`Graph`: an open graph, with one method for each operation on it.

Each method calls one function of a package; it is imported on first use, so that opening
a graph does not load torch or matplotlib. Other methods are in classes that `Graph` inherits: those that edit in
`edit.methods`, of the history in `edit.history_methods`, of predictions in `inspection.methods`, of other libraries in
`interop.methods`; the state of the graph, and how it is opened and closed, in `session`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from sifu_graph.edit.history_methods import HistoryMethods
from sifu_graph.edit.methods import EditMethods
from sifu_graph.inspection.methods import PredictionMethods
from sifu_graph.interop.methods import ConversionMethods
from sifu_graph.progress_bar import reporting
from sifu_graph.session import operations

if TYPE_CHECKING:
    from sifu_graph.config import OptimizerConfig, Say
    from sifu_graph.edit.evaluate_edits import EditsReport
    from sifu_graph.evaluation import EvalReport
    from sifu_graph.inspection.diff import Difference
    from sifu_graph.inspection.trace import Trace
    from sifu_graph.plot.graph_map import GraphMap
    from sifu_graph.plot.picture import Picture
    from sifu_graph.progress import ProgressOption
    from sifu_graph.session import GraphSession
    from sifu_graph.text.corpus import Corpora
    from sifu_graph.training.options import StepReport, TrainReport


@operations
class Graph(EditMethods, HistoryMethods, PredictionMethods, ConversionMethods):
    """An open graph. `Graph.open` returns one; `close` it, or use it in a ``with`` statement.

    n is the number of nodes, d the width of the signal. Nodes are named by their tokens.

    Attributes
    ----------
    settings
        What the store records of the graph: text, build, nodes, width, signal, training. A dict of JSON values.
    signal
        The mathematics of the signal: a `SignalConfig`.
    tokenizer
        Makes nodes of texts, and texts of nodes.
    host_memory, device_memory, device, precision, scratch
        The arguments of `open`.
    memory_note
        What is to be said about the memory of the last operation, or None.

    Notes
    -----
    Several threads may use a graph: their calls run one after the other. Processes open it each for itself.

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

    # ---- training, evaluation

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
        progress: ProgressOption = None,
        say: Say | None = None,
        command: str = "train",
    ) -> TrainReport:
        """Trains the graph and commits the result.

        A graph that was trained before continues where it stopped. Give at least one of ``steps``, ``epochs`` and
        ``minutes``; the first that is reached ends the run.

        Parameters
        ----------
        corpus
            Files, folders, names of shipped corpora, or a `Corpus`. None: the text that the graph was built from.
        texts
            Texts in memory instead of ``corpus``: any iterable of them; at level ``tokens``, lists of tokens.
        steps, epochs, minutes
            How much longer: steps of the optimizer, passes over the text, or minutes of time, which include the closed
            form and the evaluations: a warning says so where they leave no time for a step. A run that ``minutes``
            alone limit ends, in a graph whose edges share a base, with the parameters of the run that predicted
            held-out text best, or with those before it, if they are clearly better: ``notes`` of the report says so.
        batch
            Chunks of text in a step; in a graph whose edges share a base, streams of 32 tokens. It is kept: None is as
            in the last run, or 512 (64 with a base).
        optimizer
            An `OptimizerConfig`. None: that of the last run, or the defaults.
        candidates
            ``all``: the softmax over all nodes; a number: sampled candidates for each source. None: as before, or all.
        commit_every, eval_every
            Steps between commits, and between evaluations of held-out text; 0: only at the end. None: every 15 minutes,
            and every 2 minutes.
        seed
            Of the order of the text, 0 or more. None: that of the last run, or 0.
        contexts
            Begin with the closed form. None: where the graph was never trained and its mathematics allows it.
        on_step
            Called with a `StepReport` after every step, and once more, with ``last`` set, when a run of any steps
            is over and committed. An exception that it raises ends the run as Ctrl-C does: what is done is committed,
            and then the exception is raised.
        progress
            How far it is: a callback, called with a `ProgressReport` ten times a second at most. None: a bar, where a
            person looks (in a terminal or a notebook). True: elsewhere lines on stderr, too. False: nothing.
        say
            Called with notes, lines of text.
        command
            What the history records as the command.

        Returns
        -------
        TrainReport
            Where the run ended: steps, tokens, loss (nats a token), perplexities before and after, and the snapshot.

        Raises
        ------
        CorpusError
            There is no text, or nothing in it to train on.
        DivergedError
            The loss is not finite; the last commit stays.
        OptionError
            No limit is given, or a value has no meaning.

        Examples
        --------
        >>> report = graph.train(minutes=5)                                         # doctest: +SKIP
        >>> report.heldout_before, report.heldout_perplexity                        # doctest: +SKIP
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
            progress=progress,
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
        progress: ProgressOption = None,
    ) -> EvalReport:
        """Perplexity, bits per token and accuracy on held-out text, or on another text.

        Parameters
        ----------
        corpus
            Files, folders, names of shipped corpora, or a `Corpus`, all of which is evaluated. None: the held-out
            documents of the text that the graph was built from.
        texts
            Texts in memory instead of ``corpus``: any iterable of them.
        limit
            Stop after this number of tokens. Documents come in an order that is always the same. None: all.
        with_baselines
            Add unigram and Kneser-Ney models of the training text, on the same tokens.
        like
            Another open graph: use the held-out documents of its text, to compare the two.
        progress
            How far it is: a callback, called with a `ProgressReport` ten times a second at most. None: a bar, where a
            person looks (in a terminal or a notebook). True: elsewhere lines on stderr, too. False: nothing.

        Returns
        -------
        EvalReport
            ``perplexity``, ``bits_per_token``, ``bits_per_character``, ``top1`` and ``top5`` (shares, 0 to 1), the
            share of unknown tokens and the figures without them.

        Raises
        ------
        CorpusError
            There is nothing to evaluate on, or no token of the text is a node.
        OptionError
            ``limit`` is not positive.

        Examples
        --------
        >>> graph.evaluate(limit=20_000).perplexity                                 # doctest: +SKIP
        >>> graph.evaluate(texts=["春眠不覺曉"]).bits_per_character                    # doctest: +SKIP
        """
        from sifu_graph.evaluation import evaluate

        return evaluate(
            self,
            self._corpus(corpus, texts),
            limit=limit,
            with_baselines=with_baselines,
            like=like,
            progress=progress,
        )

    def evaluate_edits(
        self, edits: int, *, limit: int = 30_000, seed: int = 0, progress: ProgressOption = None
    ) -> EditsReport:
        """How well the graph can be edited: edits against the text, on a copy, measured and undone.

        Each edit makes another node win after some place of held-out text than the one that wins there. All of them
        are one commit on a copy of the store in a temporary folder, which is deleted; the graph is only read.

        Parameters
        ----------
        edits
            Their number; each is of another source. Fewer are made where the text has fewer sources.
        limit
            Held-out tokens, at most.
        seed
            0 or more; of the choice of places and of nodes.
        progress
            How far it is: a callback, called with a `ProgressReport` ten times a second at most. None: a bar, where a
            person looks (in a terminal or a notebook). True: elsewhere lines on stderr, too. False: nothing.

        Returns
        -------
        EditsReport
            ``efficacy``, ``paraphrase``, ``neighbourhood``, their harmonic mean ``score``, ``same_bits``, perplexities
            before and after, seconds and bytes of an edit, and whether undo is exact.

        Raises
        ------
        CorpusError
            There is no held-out text, or nothing in it to edit.
        DiskFullError
            The copy does not fit in the temporary folder.
        OptionError
            A value has no meaning, or the edges of the graph do not share a base.

        Examples
        --------
        >>> graph.evaluate_edits(100).efficacy.share                                # doctest: +SKIP
        """
        from sifu_graph.edit.evaluate_edits import evaluate_edits

        return evaluate_edits(self, edits, limit=limit, seed=seed, progress=progress)

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
        """The signals, energies and candidates of a text, position by position.

        Computed as in `generate`, probabilities and losses leave <unk> out; `score` and `evaluate` keep it.

        Parameters
        ----------
        text
            The text; at level ``tokens`` a list of tokens.
        top
            Candidates in detail at each position, those of greatest energy. None: 5, or 16 for a page.
        last
            Number of last positions to return. None: all.
        like
            Compute as ``generate``, without <unk>, or as ``eval``, with it.
        also
            Names of nodes that are shown at every position, whatever their energy.
        what_if
            Changes of the graph in memory, such as ``"edge 春 風 = default"``; the trace then has ``before`` too.
        html
            A file for the trace as one page of HTML. None: no page.
        force
            Replace that file if it exists.

        Returns
        -------
        Trace
            Its ``positions`` have candidates, weights and exact contributions, as tensors and tuples.

        Raises
        ------
        OptionError
            The text is empty or consists of unknown characters only, an option has no meaning, or the file exists.

        Examples
        --------
        >>> trace = graph.trace("江南春", html="trace.html")                          # doctest: +SKIP
        >>> trace.positions[-1].candidates[0].name                                  # doctest: +SKIP
        """
        from sifu_graph.inspection.trace import TraceOptions, trace
        from sifu_graph.plot.trace_html import trace_to_page, with_page

        options = TraceOptions(top=top, last=last, like=like, also=also, what_if=what_if)
        if html is None:
            return with_page(self, trace(self, text, options))
        return trace_to_page(self, text, options, html, force=force)

    def diff(
        self,
        before: str = "HEAD~1",
        after: str = "HEAD",
        *,
        top: int = 10,
        progress: ProgressOption = None,
    ) -> Difference:
        """The differences between two snapshots, in energies at the first step.

        Parameters
        ----------
        before, after
            Names of snapshots: ``HEAD``, a branch, a tag, or the beginning of an id, each with ``~N``.
        top
            Number of edges in ``largest``.
        progress
            How far it is: a callback, called with a `ProgressReport` ten times a second at most. None: a bar, where a
            person looks (in a terminal or a notebook). True: elsewhere lines on stderr, too. False: nothing.

        Returns
        -------
        Difference
            Nodes, edges, arrays and settings that differ, and the edges whose energy changed most.

        Raises
        ------
        OptionError
            A name refers to no snapshot.

        Examples
        --------
        >>> graph.diff("HEAD~1", "HEAD").edges_added                                # doctest: +SKIP
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
        progress: ProgressOption = None,
    ) -> GraphMap:
        """A map of the most frequent nodes and their strongest edges, drawn to files.

        Parameters
        ----------
        files
            ``.html``: a page that needs no network; ``.png``, ``.svg``, ``.pdf``: a picture. None given: only the map.
        nodes, edges
            Numbers of nodes (the most frequent) and of edges (the strongest private ones among them).
        by
            The measure of strength: ``information`` (mutual, of neighbours), ``energy`` at rest or ``count``.
        unfold
            Names of nodes whose clones are drawn too.
        seed
            Of the layout: same graph, options and seed, same map.
        force
            Replace files that exist.
        progress
            How far it is: a callback, called with a `ProgressReport` ten times a second at most. None: a bar, where a
            person looks (in a terminal or a notebook). True: elsewhere lines on stderr, too. False: nothing.

        Returns
        -------
        GraphMap
            Names, places (float32 [nodes, 2]) and communities of the nodes, and the edges.

        Raises
        ------
        OptionError
            A value has no meaning, or a file exists or has another suffix.

        Examples
        --------
        >>> graph.map("map.html", nodes=500).communities                            # doctest: +SKIP
        """
        from sifu_graph.plot.draw_map import draw_map

        with reporting(progress) as stages:
            return draw_map(
                self, *files, nodes=nodes, edges=edges, by=by, unfold=unfold, seed=seed, force=force, stages=stages
            )

    def plot(
        self,
        kind: Literal["loss", "rows", "counts", "energy", "alpha", "pages"],
        out: str | Path | None = None,
        *,
        dark: bool = False,
        force: bool = False,
    ) -> Picture:
        """One picture of the graph or of its training, which a notebook shows where a cell ends with it.

        Parameters
        ----------
        kind
            ``loss``: of all training runs by step. ``rows``: private edges out of and into each node. ``counts``: of
            the pairs, and the threshold of private edges. ``energy``: of the private edges by count. ``alpha``: the
            mixing logits by position. ``pages``: which are stored, and how often they are used. The last two are not
            of graphs whose edges share a base.
        out
            A file to write it to: ``.png``, ``.svg`` or ``.pdf``. None: it is only returned.
        dark
            On a dark background, in the colours of the dark pages of maps and traces.
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

        return plot(self, kind, out, dark=dark, force=force)
