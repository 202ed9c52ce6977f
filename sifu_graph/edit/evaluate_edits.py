"""How well a graph can be edited: counterfactual edits on a copy of its store, measured, and undone.

The copy is in a temporary folder and is deleted at the end; the graph itself is only read. The module knows stores and
commits; what is measured is in `counterfactuals`.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from sifu_store.copying import clone
from sifu_store.durable import require_free_bytes
from sifu_store.errors import CorpusError, OptionError
from sifu_store.places import place_of
from sifu_store.short_repr import short_repr
from sifu_store.staging import size_of
from sifu_store.transfer import repository_files

from sifu_graph.config import require_positive, require_seed
from sifu_graph.edit.counterfactuals import Counterfactuals, EditEffect
from sifu_graph.edit.session import apply
from sifu_graph.evaluation import NO_TEXT, SEED
from sifu_graph.model.base_forward import documents_of
from sifu_graph.progress import ProgressOption, Stages
from sifu_graph.progress_bar import reporting
from sifu_graph.session import GraphSession
from sifu_graph.text.encoded import CACHE
from sifu_graph.text.node_lookup import source_name
from sifu_graph.text.own_text import own_corpus

TOKENS = 30_000
"""Held-out tokens on which edits are measured, at most."""


@short_repr
@dataclass(frozen=True, slots=True, kw_only=True)
class EditsReport(EditEffect):
    """What counterfactual edits changed, what they left, and what they cost: `EditEffect`, and these.

    Attributes
    ----------
    seconds_per_edit, bytes_per_edit
        Time and disk space of the commit of all edits, divided by their number.
    undo_exact
        After the undo, the log-probabilities of all tokens have the bits from before the edits.
    copied_bytes
        The disk space that the copy took while the edits were measured.
    notes
        What is to be said about the figures.
    """

    seconds_per_edit: float
    bytes_per_edit: float
    undo_exact: bool
    copied_bytes: int
    notes: list[str]


def evaluate_edits(
    graph: GraphSession, edits: int, *, limit: int = TOKENS, seed: int = 0, progress: ProgressOption = None
) -> EditsReport:
    """The measures of counterfactual edits, all of which are one commit on a copy of the graph.

    Parameters
    ----------
    graph
        The open graph, whose edges share a base. It is not changed.
    edits
        The number of edits, each of another source. Fewer are made where the text has fewer sources.
    limit
        Held-out tokens, at most; the documents are those of `evaluation.evaluate` with this limit.
    seed
        Of the choice of places and of successors.
    progress
        See `progress_bar.reporting`.

    Raises
    ------
    CorpusError
        There is no held-out text, or no place of it has another node that could follow.
    DiskFullError
        The copy does not fit in the temporary folder.
    OptionError
        A value has no meaning, or the edges of the graph do not share a base.
    """
    require_positive(edits=edits, limit=limit)
    require_seed(seed)
    if not graph.signal.base:
        raise OptionError(
            "edits are measured in graphs whose edges share a base: in this one each edge has a matrix of its own, and "
            "what a boost adds to its energy depends on the text before"
        )
    with reporting(progress) as stages:
        own = own_corpus(graph.settings["build"], graph.path / CACHE, instead=None)
        text, _ = documents_of(graph._tokens(own, stages=stages).heldout, limit, seed=SEED)
        if not text.transitions:
            raise CorpusError(NO_TEXT)
        with copied(graph) as copy:
            copy._fit_memory(evaluated_edges=1)
            frequency = copy.store.read("nodes/count")
            records = Counterfactuals(
                copy.parameters, copy.signal, text, edits=edits, frequency=frequency, seed=seed, stages=stages
            )
            return _report(copy, records, edits, stages)


def _report(copy: GraphSession, records: Counterfactuals, wanted: int, stages: Stages) -> EditsReport:
    table, size = edge_table(copy, records, records.boosts(stages)), size_of(copy.path)
    stages.stage("making the edits")
    began = time.perf_counter()
    apply(copy, lambda edit: edit.edit_edges(table), command="eval", dry_run=False)
    seconds, added = time.perf_counter() - began, size_of(copy.path) - size
    effect = records.effect(copy.parameters, stages)
    with copy._writing() as store:
        store.undo()
    made = len(table)
    few = f"{made:,} edits instead of {wanted:,}: the held-out text has no other sources"
    return EditsReport(
        **{field.name: getattr(effect, field.name) for field in dataclasses.fields(effect)},
        seconds_per_edit=seconds / made,
        bytes_per_edit=added / made,
        undo_exact=records.same_as_before(copy.parameters, stages),
        copied_bytes=size,
        notes=[few] if made < wanted else [],
    )


def edge_table(graph: GraphSession, records: Counterfactuals, boosts: Mapping[int, float]) -> list[dict[str, Any]]:
    """The edits as a table of `Graph.edit_edges`."""
    names, tree = graph.tokenizer.vocabulary, records.pairs.tree
    return [
        {
            "source": source_name(graph.tokenizer, tree, source),
            "target": names[records.target[source]],
            "boost": boosts[source],
        }
        for source in records.place
    ]


@contextmanager
def copied(graph: GraphSession) -> Iterator[GraphSession]:
    """A copy of a graph in a temporary folder, at the same snapshot; its encoded text is not copied.

    Raises
    ------
    DiskFullError
        It does not fit.
    """
    with TemporaryDirectory(prefix="sifu-edits-") as folder:
        path, size = Path(folder) / "copy.sifu", sum(repository_files(place_of(graph.path)).values())
        require_free_bytes(path, size, "a copy of the graph, on which edits are measured,")
        clone(graph.path, path)
        resources = {name: getattr(graph, name) for name in ("host_memory", "device", "device_memory")}
        with GraphSession.open(path, modest=graph._modest, **resources) as copy:
            if (snapshot := graph.store.snapshot) != copy.store.snapshot:
                with copy._writing() as store:
                    store.create_branch(branch := f"at-{snapshot}", snapshot)
                    store.switch(branch)
            yield copy
