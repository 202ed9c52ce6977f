"""Reading the counts of the text that a graph was built from, from its store."""

from __future__ import annotations

from sifu_store.reading import StoreReader

from sifu_graph.settings import GraphSettings, InitialSettings
from sifu_graph.text.kneser_ney import Counts, Discounts


def discounts_of(initial: InitialSettings) -> Discounts:
    """The Kneser-Ney discounts that the counts of a graph are read with."""
    first, second, third = initial["discounts"]
    return first, second, third


def read_counts(store: StoreReader, settings: GraphSettings) -> Counts:
    """The counts of the text that the energies of untrained edges are computed from."""
    return Counts(
        store.read("rows/total"),
        store.read("rows/discounted"),
        store.read("nodes/predecessors"),
        discounts_of(settings["initial"]),
    )
