"""The snapshot of a graph that a server answers from, and the change to a newer one while requests run.

The module knows graphs and walks; it does not know requests.
"""

from __future__ import annotations

import contextlib
import threading
from collections import OrderedDict
from collections.abc import Hashable, Iterator
from pathlib import Path
from typing import Any

from sifu_store.errors import OptionError
from sifu_store.places import locate, place_of

from sifu_graph.evaluation import evaluated_tokens
from sifu_graph.generation.base_walk import AnyWalk, walk_of
from sifu_graph.inspection import what_if
from sifu_graph.model.parameters import Known, Parameters
from sifu_graph.session import GraphSession

MOST_IDLE_WALKS = 32
"""Walks that are kept for later sequences: making one takes some milliseconds."""
MOST_CHANGED = 2
"""Sets of changes in memory that are kept for later sequences: each has the tables of pairs."""
Changes = tuple[str, ...]


class _Walks:
    """The walks of a graph that are lent to sequences.

    Parameters
    ----------
    graph
        The graph.
    parameters
        Its parameters, or those with changes.
    """

    def __init__(self, graph: GraphSession, parameters: Parameters) -> None:
        self._graph, self._parameters = graph, parameters
        self._lock = threading.Lock()
        self._first = self._walk(None)
        self._idle = [self._first]

    def _walk(self, beside: AnyWalk | None) -> AnyWalk:
        never = self._graph.tokenizer.never_generated
        return walk_of(self._parameters, self._graph.signal, forbidden=never, beside=beside)

    @contextlib.contextmanager
    def lend(self) -> Iterator[AnyWalk]:
        """A walk for one sequence."""
        with self._lock:
            walk = self._idle.pop() if self._idle else None
        walk = walk or self._walk(self._first)
        try:
            yield walk
        finally:
            with self._lock:
                if len(self._idle) < MOST_IDLE_WALKS:
                    self._idle.append(walk)


class Snapshot:
    """An open graph, its walks, and the number of its users.

    Attributes
    ----------
    graph
        The graph.
    seen
        The `state` of the store before the graph was opened.
    """

    def __init__(self, graph: GraphSession, seen: Hashable) -> None:
        self.graph, self.seen = graph, seen
        self._users, self._retired = 0, False
        self._lock = threading.Lock()
        length = graph.settings["build"]["length"]
        graph._fit_memory(evaluated_edges=0 if graph.signal.base else evaluated_tokens(graph.parameters, length))
        self._walks = _Walks(graph, graph.parameters)
        self._changed: OrderedDict[Changes, _Walks] = OrderedDict()

    def walks(self, changes: Changes = ()) -> _Walks:
        """The walks of the graph, with changes of edges in memory (`inspection.what_if`).

        Raises
        ------
        OptionError
            A change cannot be made.
        """
        if not changes:
            return self._walks
        with self._lock:
            if changes in self._changed:
                self._changed.move_to_end(changes)
                return self._changed[changes]
        parsed = [what_if.parse(change) for change in changes]
        if other := next((change for change in parsed if change.kind != "edge"), None):
            raise OptionError(f"`what_if` {str(other)!r}: a text can be continued with changes of edges only")
        found = _Walks(self.graph, what_if.lay(self.graph.parameters, self.graph.tokenizer, parsed).parameters)
        with self._lock:
            self._changed[changes] = found
            while len(self._changed) > MOST_CHANGED:
                self._changed.popitem(last=False)
        return found

    def enter(self) -> None:
        """Begin to use the graph, until `leave`."""
        with self._lock:
            self._users += 1

    @contextlib.contextmanager
    def in_use(self) -> Iterator[GraphSession]:
        """The graph, which stays open meanwhile."""
        self.enter()
        try:
            yield self.graph
        finally:
            self.leave()

    def leave(self) -> None:
        """End a use. The last one closes a graph that was retired."""
        with self._lock:
            self._users -= 1
        self._close_if_unused()

    @contextlib.contextmanager
    def tracing(self) -> Iterator[GraphSession]:
        """A graph for a trace, which changes the layout of pages of edges: where there are any, it is another one."""
        if self.graph.signal.base:
            yield self.graph
            return
        with GraphSession.open(self.graph.path, at=self.graph.store.snapshot, modest=True) as graph:
            yield graph

    def retire(self) -> None:
        """Close the graph when its last user has left."""
        self._retired = True
        self._close_if_unused()

    def _close_if_unused(self) -> None:
        with self._lock:
            close = self._retired and self._users == 0
            self._retired = self._retired and not close
        if close:
            self.graph.close()


class ServedGraph:
    """The graph at a path, at its newest commit or at a named one.

    Parameters
    ----------
    path
        Directory of the store.
    at
        A name of a snapshot. None: the newest commit.
    options
        Further options of `GraphSession.open`.

    Raises
    ------
    SifuError
        The graph cannot be opened.
    """

    def __init__(self, path: str | Path, *, at: str | None = None, **options: Any) -> None:
        self.path, self._at, self._options = locate(path), at, options
        self.current = self._open(None)

    def open(self) -> Snapshot:
        """Open the newest commit, or the named one. What is as in the graph that is served is not read again."""
        with self.current.in_use() as graph:
            return self._open(graph)

    def _open(self, before: GraphSession | None) -> Snapshot:
        seen = place_of(self.path).state()
        graph = GraphSession.open(self.path, at=self._at, **self._options)
        try:
            if before is not None and (differs := graph.store.changed_arrays(before.store.snapshot)) is not None:
                graph._known = Known(before.parameters, differs)
            return Snapshot(graph, seen)
        except BaseException:
            graph.close()
            raise

    @property
    def name(self) -> str:
        """The name of the model: that of the folder, without its suffix."""
        return place_of(self.path).title

    def has_changed(self) -> bool:
        """Whether a process has committed since the graph that is served was opened."""
        return place_of(self.path).state() != self.current.seen

    def replace(self, newest: Snapshot) -> None:
        """Serve another snapshot. Sequences that run end on the one where they began."""
        replaced, self.current = self.current, newest
        replaced.retire()

    def close(self) -> None:
        """Close the graph."""
        self.current.retire()
