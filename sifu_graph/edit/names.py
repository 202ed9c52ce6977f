"""The nodes that an edit names, and what is to be said about the names.

It knows names, counts and clones; it does not know edges or commits.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from sifu_store.errors import OptionError

from sifu_graph.edit.working_copy import WorkingCopy
from sifu_graph.text.node_lookup import hiding_a_clone, names_of_new, node_named, other_form_note, shown_name


class Names:
    """Finds the nodes of a working copy by their names; ``notes`` says where another node was probably meant."""

    def __init__(self, copy: WorkingCopy) -> None:
        self._copy = copy
        self.notes: list[str] = []

    def find(self, name: str) -> int:
        """The node of a name. Raises `OptionError` if there is none."""
        return self.noted(node_named(self._copy.tokenizer, name))

    def noted(self, node: int) -> int:
        """The node itself (a clone has no note)."""
        if node < self._copy.n:
            note = other_form_note(self._copy.tokenizer, node, self._copy.nodes["nodes/count"])
            self.notes += [] if note is None or note in self.notes else [note]
        return node

    def new(self, names: Sequence[str]) -> list[str]:
        """The names of new nodes, as `names_of_new` reads them."""
        found, notes = names_of_new(self._copy.tokenizer, names)
        self.notes += notes
        return found

    @contextmanager
    def changed(self) -> Iterator[None]:
        """Around a change of names. Raises `OptionError` if a node gets the name of a clone, which hides the clone."""
        before = self._hiding()
        yield
        if taken := sorted(self._hiding() - before):
            raise OptionError(
                f"{shown_name(taken[0])!r} would be a node and a clone of this graph: choose another name"
            )

    def _hiding(self) -> set[str]:
        pairs = self._copy.pairs
        return set() if pairs is None else hiding_a_clone(self._copy.tokenizer, pairs.tree)
