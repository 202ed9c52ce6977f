"""Editing a graph: several changes as one commit, or none of them if an error is raised.

`Edit` has one method for each kind of change and records the results; `editing` takes the lock, makes the working copy
and commits. `nodes`, `edges`, `pairs` and `prune_grow` compute a change; `working_copy` determines what is written. A
change keeps every bit of the energies that do not involve the edited nodes and edges (DESIGN 8).
"""

from __future__ import annotations

import dataclasses
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import numpy as np
from numpy.typing import NDArray
from sifu_store.errors import CorpusError, OptionError
from sifu_store.layout import SOURCE
from sifu_store.page_codecs import PageCodec
from sifu_store.store import Store

from sifu_graph.edit import base_edits, clone_edges, compacting, forbidding, pairs, prune_grow
from sifu_graph.edit import clones as clone_edits
from sifu_graph.edit import edges as edge_edits
from sifu_graph.edit import nodes as node_edits
from sifu_graph.edit.all_or_nothing import all_or_nothing
from sifu_graph.edit.edge_table import located, read_rows
from sifu_graph.edit.edit_texts import EditTexts
from sifu_graph.edit.names import Names
from sifu_graph.edit.reports import (
    AddNodeReport,
    CompactReport,
    EditEdgeReport,
    EditEdgesReport,
    EditNodeReport,
    EditReport,
    NodeState,
    PruneReport,
    RemoveNodeReport,
    listed,
    number,
)
from sifu_graph.edit.working_copy import WorkingCopy
from sifu_graph.progress import SILENT, ProgressOption, Stages
from sifu_graph.progress_bar import reporting
from sifu_graph.text.corpus import Corpora
from sifu_graph.text.encoded import TokenFile
from sifu_graph.text.node_lookup import shown_name as shown
from sifu_graph.text.pair_counts import PairCounts, count_pairs

if TYPE_CHECKING:
    from sifu_graph.session import GraphSession

Report = TypeVar("Report", bound=EditReport)


@all_or_nothing
class Edit:
    """Changes that will be one commit. `Graph.edit` returns an `Edit`; every method makes one change.

    Nodes and the ends of edges are named by their tokens. Every method raises `OptionError` for an unknown node (the
    message has the nearest names) and for a value without meaning; then the whole edit commits nothing.
    """

    def __init__(self, graph: GraphSession, stages: Stages = SILENT) -> None:
        self.graph, self._stages = graph, stages
        self.copy = WorkingCopy(graph)
        self._texts = EditTexts(self.copy, stages)
        self.messages: list[str] = []
        self.names = Names(self.copy)
        self.changes: dict[str, Any] = {}
        self._nodes, self._edges = self.copy.n, self.copy.private
        self.failed: str | None = None
        self.over = False  # committed, or given up
        self.page_codec: PageCodec | None = None  # how all pages are to be stored; None: unchanged

    # ---- nodes

    def add_node(
        self,
        *tokens: str,
        like: str | None = None,
        corpus: Corpora | None = None,
        kind: str = "text",
        train_steps: int = 0,
    ) -> AddNodeReport:
        """Adds nodes. The tokenizer matches added nodes before its own rules.

        Parameters
        ----------
        tokens
            The texts of the nodes.
        like
            A node whose private edges (out and in), bias and counts are copied to each new node.
        corpus
            A text in which the pairs of the new nodes are counted. The frequent ones become private by the rule of the
            build, with energies computed from the counts. Documents that the graph holds out are not counted, unless
            all documents are held out.
        kind
            The kind of the nodes, which is stored with them: ``text``, ``image``, ...
        train_steps
            Steps of training on that text (without ``corpus``: on the graph's own), of the edges of the new nodes only.

        Raises
        ------
        OptionError
            A token is a node already, is empty, or can never be read from a text; both ``like`` and ``corpus`` are
            given.
        CorpusError
            None of the tokens occurs in the text.
        """
        copy, account = self.copy, self._account()
        if not tokens:
            raise OptionError("name at least one token to add")
        if train_steps < 0:
            raise OptionError(f"`train_steps` is {train_steps}: it must be 0 or more")
        if like is not None and corpus is not None:
            raise OptionError("a new node follows either `like` or `corpus`: give one of both")
        names = self.names.new(tokens)
        model = None if like is None else node_edits.model_of(copy, like)
        with self.names.changed():
            new = copy.add_nodes(names, kind, like=model)
        text: TokenFile | None = None
        edges, occurrences, missing = 0, None, []
        if model is not None:
            edges = len(node_edits.add_like(copy, new, model))
        elif corpus is not None:
            text = self._texts.tokens(corpus)
            counts = count_pairs(text, n=copy.n, stages=self._stages)
            occurrences = int(counts.node_count[new].sum())
            missing = [token for token, node in zip(names, new, strict=True) if not counts.node_count[node]]
            if not occurrences:
                raise CorpusError(f"{listed(names)}: not one occurrence in the text that was given")
            edges = len(self._add_counted(counts, new))
        if train_steps:
            self._stages.stage("training the new nodes")
            node_edits.tune(copy, new, self._texts.tokens(None) if text is None else text, train_steps)
        what = f" like {shown(like)}" if like is not None else " from a corpus" if corpus is not None else ""
        self._note(f"add {listed(names)}{what}: {number(len(names), 'node')}, {number(edges, 'private edge')}")
        return AddNodeReport(
            nodes_added=names, private_edges_added=edges, occurrences=occurrences, missing=missing, **account()
        )

    def remove_node(self, *tokens: str) -> RemoveNodeReport:
        """Removes nodes and all their edges. Their text is unknown afterwards; no other edge changes."""
        account = self._account()
        if not tokens:
            raise OptionError("name at least one node to remove")
        nodes = list(dict.fromkeys(map(self.names.find, tokens)))
        edges = node_edits.remove(self.copy, nodes)
        self._note(f"remove {listed(tokens)}: {number(len(nodes), 'node')}, {number(edges, 'private edge')}")
        return RemoveNodeReport(nodes_removed=list(dict.fromkeys(tokens)), private_edges_removed=edges, **account())

    def rename_node(self, token: str, new: str) -> EditNodeReport:
        """Changes the text of a node. Its edges do not change; its old text is unknown afterwards."""
        account, node = self._account(), self.names.find(token)
        before = self.node_state(node)
        with self.names.changed():
            self.copy.rename_node(node, *self.names.new([new]))
        self._note(f"rename {shown(token)} to {shown(new)}")
        return EditNodeReport(before=before, after=self.node_state(node), **account())

    def merge_node(self, token: str, into: str) -> EditNodeReport:
        """Merges ``token`` into ``into``: counts are added, edges averaged by count, both texts read as ``into``."""
        account, find = self._account(), self.names.find
        node, other = find(token), find(into)
        before = self.node_state(node)
        with self.names.changed():
            node_edits.merge(self.copy, node, other)
        self._note(f"merge {shown(token)} into {shown(into)}")
        return EditNodeReport(before=before, after=self.node_state(find(into)), **account())

    def set_bias(self, token: str, *, like: str) -> EditNodeReport:
        """Copies the bias of ``like``: a text that begins with ``token`` starts with the signal of ``like``."""
        account, find = self._account(), self.names.find
        node, other = find(token), find(like)
        before = self.node_state(node)
        node_edits.bias_from(self.copy, node, other)
        self._note(f"give {shown(token)} the bias of {shown(like)}")
        return EditNodeReport(before=before, after=self.node_state(node), **account())

    # ---- edges

    def scale_edge(self, u: str, v: str, factor: float) -> EditEdgeReport:
        """Multiplies W and b of the edge (u, v) by a finite factor. A default edge becomes private first."""
        return self._edge("scale", u, v, lambda d, i, j: edge_edits.scale(d, i, j, factor), f" by {factor:g}")

    def boost_edge(self, u: str, v: str, nats: float) -> EditEdgeReport:
        """Adds ``nats`` to the log-odds of the edge at rest (`rest_energy`). A default edge becomes private first."""
        by = f" by {nats:g} {'nat' if abs(nats) == 1 else 'nats'}"
        return self._edge("boost", u, v, lambda d, i, j: edge_edits.boost(d, i, j, nats), by)

    def copy_edge(self, u: str, v: str, *, source: tuple[str, str]) -> EditEdgeReport:
        """Copies the parameters of the private edge ``source`` to the edge (u, v), which becomes private."""
        a, b = self.names.find(source[0]), self.names.find(source[1])
        what = f"copy {shown(source[0])} {shown(source[1])} to"
        return self._edge(what, u, v, lambda d, i, j: edge_edits.copy_parameters(d, i, j, a, b))

    def default_edge(self, u: str, v: str) -> EditEdgeReport:
        """Makes the private edge (u, v) a default edge."""
        return self._edge("make", u, v, edge_edits.to_default, " default")

    def forbid_edge(self, u: str, v: str) -> EditEdgeReport:
        """Sets the probability of the edge (u, v) to 0 in training, evaluation and generation."""
        return self._edge("forbid", u, v, forbidding.forbid)

    def allow_edge(self, u: str, v: str) -> EditEdgeReport:
        """Makes the forbidden edge (u, v) what it was before it was forbidden (`forbidding.allow`)."""
        return self._edge("allow", u, v, forbidding.allow)

    def _edge(
        self, what: str, u: str, v: str, change: Callable[[WorkingCopy, int, int], str | None], rest: str = ""
    ) -> EditEdgeReport:
        account, copy = self._account(), self.copy
        pair = self.names.noted(clone_edges.source_of(copy, u)), self.names.find(v)
        [before] = edge_edits.states(copy, [pair])
        note = change(copy, *pair)
        self.names.notes += [] if note is None else [note]
        self._note(f"{what} {shown(u)} {shown(v)}{rest}")
        return EditEdgeReport(before=before, after=edge_edits.states(copy, [pair])[0], **account())

    # ---- many edges

    def edit_edges(self, table: Any) -> EditEdgesReport:
        """Edits the edges of a table (`Graph.edit_edges`), all of which is checked before the first is edited."""
        account, rows = self._account(), read_rows(table)
        ends = []
        for row in rows:
            with located(f"{row.where}, column 'source'"):
                source = self.names.noted(clone_edges.source_of(self.copy, row.u))
            with located(f"{row.where}, column 'target'"):
                ends.append((source, self.names.find(row.v)))
            with located(f"{row.where}, column {row.way!r}"):
                row.values[:] = [self.names.find(one) if isinstance(one, str) else one for one in row.values]
        before = edge_edits.states(self.copy, ends)
        self.names.notes += edge_edits.edit_rows(self.copy, ends, rows)
        done = ", ".join(f"{way.replace('_', ' ')} {count:,}" for way, count in Counter(r.way for r in rows).items())
        self._note(f"edit {number(len(rows), 'edge')}: {done}")
        return EditEdgesReport(before=before, after=edge_edits.states(self.copy, ends), **account())

    def prune(
        self,
        *,
        to_ratio: float | None = None,
        min_count: int | None = None,
        by: prune_grow.By = "count",
        node: str | None = None,
        clones: int | None = None,
        evaluate: bool = False,
    ) -> PruneReport:
        """Makes private edges default (`prune_grow.to_prune`), keeps the best ``clones``. ``evaluate``: perplexity."""
        account, copy, slots = self._account(), self.copy, np.empty(0, np.int64)
        if node is not None and min_count is None:
            raise OptionError("`node` chooses among the edges that `min_count` prunes: give both")
        if clones is None or to_ratio is not None or min_count is not None:
            around = None if node is None else self.names.find(node)
            slots = prune_grow.to_prune(copy, to_ratio=to_ratio, min_count=min_count, by=by, node=around)
        share = pairs.share_of_text(copy, slots)
        heldout = self._texts.heldout(wanted=evaluate)
        before = heldout.perplexity()
        self._stages.stage("removing edges and clones")
        freed, same = prune_grow.stored_bytes(copy, slots), prune_grow.has_no_effect(copy, slots)
        copy.drop(slots)
        removed = 0 if clones is None else clone_edits.prune(copy, clones)
        if removed:
            self._note(f"prune: {number(removed, 'clone')} removed")
        if len(slots) or not removed:
            where = "" if node is None else f" around {shown(node)}"
            self._note(f"prune by {by}{where}: {len(slots):,} edges became default, {copy.private:,} are private")
        return PruneReport(
            edges_added=0,
            edges_removed=len(slots),
            clones_removed=removed,
            bytes_freed=freed,
            corpus_share=share,
            heldout_before=before,
            heldout_after=heldout.perplexity(),
            note="; ".join(filter(None, (prune_grow.NO_EFFECT if same else None, heldout.note))) or None,
            **account(),
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
    ) -> PruneReport:
        """Makes default edges that a text uses often private (`prune_grow.grow`), adds clones (`edit.clones.grow`).

        ``corpus`` None: the text that the graph was built from. ``clones``: as many as the graph has at most then;
        ``gain``: those that are expected to gain more nats. ``evaluate``: the report has held-out perplexities.
        """
        account, copy, stages = self._account(), self.copy, self._stages
        edges, split = (to_ratio, min_count) != (None, None), (clones, gain) != (None, None)
        if not edges and not split:
            raise OptionError("say how far to grow: give `to_ratio`, `min_count`, `clones` or `gain`")
        if init not in ("counts", "default"):
            raise OptionError(f"`init` is {init!r}: expected counts or default")
        build = copy.settings["build"]
        given = self._texts.corpus(corpus)
        known = self._texts.knows(given)
        tokens = self._texts.tokens(given)
        text = count_pairs(tokens, n=copy.n, stages=stages)
        more = None
        if split:
            more = clone_edits.choose(
                copy, tokens, text, known=known, clones=clones, gain=gain, arrays=self._texts.arrays(), stages=stages
            )
        own = self._texts.is_own(given)
        heldout = self._texts.heldout(tokens if own else None, wanted=evaluate)
        other = self._texts.heldout(tokens, "the other text", wanted=evaluate and not own)
        before, other_before = heldout.perplexity(), other.perplexity()
        stages.stage("adding edges and clones")
        slots, demoted, freed = np.empty(0, np.int64), 0, 0
        if edges:
            slots, demoted, freed = prune_grow.grow(
                copy,
                text,
                own_text=known,
                to_ratio=to_ratio,
                min_count=build["min_count"] if min_count is None else min_count,
                init=init,
            )
            self._note(f"grow: {len(slots):,} edges became private, {demoted:,} default, {copy.private:,} are private")
        notes = [prune_grow.NO_EFFECT] if not demoted and prune_grow.has_no_effect(copy, slots) else []
        gained, counted, added = 0.0, 0, None
        if more is not None:
            others, lost = self._texts.others(given) if len(more.parent) else ([], [])
            notes += lost
            gained = clone_edits.grow(copy, more, text, others=others, known=known)
            counted = 0 if known else tokens.train.tokens
            assert copy.pairs is not None  # it has clones
            if clones is not None and (made := len(copy.pairs.tree)) < clones:
                notes.append(f"{made:,} clones instead of {clones:,}: no other context predicts the text better")
            what = f", {number(counted, 'token')} counted" if counted else ""
            added, more = len(more.parent), None  # its arrays are large
            self._note(f"grow: {number(added, 'clone')} added{what}")
        if counted:
            build["counted"] = [*build.get("counted", []), given.record()]
        return PruneReport(
            edges_added=len(slots),
            edges_removed=demoted,
            clones_added=added,
            tokens_counted=counted,
            clone_gain=gained / max(1, text.total),
            bytes_freed=freed - prune_grow.stored_bytes(copy, slots),
            corpus_share=pairs.share_of_text(copy, slots),
            heldout_before=before,
            heldout_after=heldout.perplexity(),
            other_before=other_before,
            other_after=other.perplexity(),
            note="; ".join(filter(None, (*notes, heldout.note, other.note))) or None,
            **account(),
        )

    def compact(self, *, precision: str | None = None, codec: str | None = None) -> CompactReport:
        """Stores every row as one run of slots and removes free slots. No result changes by a bit.

        Parameters
        ----------
        precision
            ``float32``, ``bfloat16`` or ``bitround:N``: the parameters of all stored edges are rounded to it, which
            does change results. None: unchanged.
        codec
            ``none``, ``zstd``, ``blosc`` or ``pcodec``: how all pages are compressed. None: unchanged; rounded
            pages that are not compressed get ``blosc``.

        Raises
        ------
        OptionError
            A name is unknown; values are rounded without a codec; or the edges share a base, so that no page is stored.
        """
        account = self._account()
        found, self.page_codec = compacting.compact(self.copy, precision=precision, codec=codec, note=self._note)
        return CompactReport(**{**account(), **found})

    # ---- reports

    def node_state(self, node: int) -> NodeState:
        """The current values of a node."""
        copy = self.copy
        return NodeState(
            token=copy.tokenizer.vocabulary[node],
            kind=copy.vocabulary[node].get("kind", "text"),
            count=int(copy.nodes["nodes/count"][node]),
            edges_out=len(copy.row_slots(node)),
            edges_in=len(copy.column_slots(node)),
            bias_norm=float(np.linalg.norm(copy.nodes["nodes/bias"][node])),
        )

    def _account(self) -> Callable[[], dict[str, Any]]:
        """Records the counts; the returned function reports them beside the counts at the time of its call."""
        nodes, edges = self.copy.n, self.copy.private

        def close() -> dict[str, Any]:
            return {
                "nodes_before": nodes,
                "nodes_after": self.copy.n,
                "private_edges_before": edges,
                "private_edges_after": self.copy.private,
                "pages_written": len(self.copy.edges.pages_to_write()),
            }

        return close

    def _note(self, message: str) -> None:
        self.messages.append(message)

    def all_changes(self) -> dict[str, Any]:
        """The counts before and after the whole edit."""
        return {
            "nodes": self.copy.n,
            "nodes_before": self._nodes,
            "private_edges": self.copy.private,
            "private_edges_before": self._edges,
            "edits": self.messages[:100],
        }

    # ---- inside

    def _add_counted(self, text: PairCounts, new: NDArray[np.int64]) -> NDArray[np.int64]:
        copy, build = self.copy, self.copy.settings["build"]
        chosen = pairs.of_new_nodes(copy, text, new, sparsify=build["sparsify"], min_count=build["min_count"])
        pairs.note_text(copy, text, new)
        if copy.pairs is not None:
            base_edits.add_counted(copy, text, new)
        slots = copy.add(pairs.counted_rows(copy, text, chosen, new=new))
        node_edits.note_pairs(copy, slots, rows=~np.isin(copy.edges[SOURCE][slots], new))
        return slots


@contextmanager
def editing(graph: GraphSession, message: str | None, *, command: str, stages: Stages = SILENT) -> Iterator[Edit]:
    """Commits the changes of the `Edit` that it yields as one commit, or nothing if an error is raised.

    ``message`` None: the messages of the changes. ``command`` is stored with the commit. The work is in ``stages``.

    Raises
    ------
    StoreLockedError
        Another process writes to the store.
    OptionError
        The graph is open at an older snapshot, or a change failed.
    """
    if graph._pinned:
        raise OptionError("the graph is open at an older snapshot, which can only be read: open it without one to edit")
    with graph._lock, Store.open(graph.path, write=True) as writer:
        writer.require_clock()
        if writer.snapshot != graph.store.snapshot:
            graph._reload(Store.open(graph.path))
        edit = Edit(graph, stages)
        try:
            yield edit
        finally:
            edit.over = True
        graph._require_open()
        if edit.failed is not None:
            raise OptionError(f"nothing was committed, because a change of this edit failed: {edit.failed}")
        if edit.copy.changed:
            stages.stage("committing")
            edit.copy.write(writer)
            if edit.page_codec is not None:
                writer.recode_pages(edit.page_codec, progress=stages.counted("storing all pages", "pages"))
            text = message or "; ".join(edit.messages[:3]) or "edit"
            writer.commit(text, command=command, changes=edit.all_changes())
    if edit.copy.changed:
        graph._reload(Store.open(graph.path))


def apply(
    graph: GraphSession,
    change: Callable[[Edit], Report],
    *,
    command: str,
    dry_run: bool,
    progress: ProgressOption = False,
) -> Report:
    """Makes one change as one commit. With ``dry_run``, commits nothing and returns the report of the change."""
    started = time.perf_counter()
    with reporting(progress) as stages:
        if dry_run:
            report, snapshot = change(edit := Edit(graph, stages)), None
        else:
            with editing(graph, None, command=command, stages=stages) as edit:
                report = change(edit)
            snapshot = graph.store.snapshot if edit.copy.changed else None
    took = time.perf_counter() - started
    return dataclasses.replace(report, seconds=took, snapshot=snapshot, dry_run=dry_run, notes=edit.names.notes)
