"""The nodes that an edit names, and what is to be said about the names.

It knows names and counts; it does not know edges or commits.
"""

from __future__ import annotations

from collections.abc import Sequence

from sifu_graph.edit.working_copy import WorkingCopy
from sifu_graph.text.node_lookup import names_of_new, node_named, other_form_note


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
