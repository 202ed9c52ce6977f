"""What the arrays, the settings and the tokenizer of a graph must be, besides readable and consistent.

It knows arrays in memory; `verification` reads them from a store, an import from a file.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from typing import Any

import numpy as np
from sifu_store.consistency import Contents
from sifu_store.errors import SifuError
from sifu_store.layout import (
    CLONE_DISCOUNTED,
    CLONE_ENERGY,
    CLONE_PARENT,
    CLONE_TOKEN,
    ENERGY,
    KEY,
    ORIGIN,
    PAIR_DISCOUNTED,
)

from sifu_graph.settings import GraphSettings
from sifu_graph.text.clone_tree import CloneTree
from sifu_graph.text.registry import read_tokenizer
from sifu_graph.text.tokenizer import SURROGATE, Tokenizer

VOCABULARY, TOKENIZER = "nodes/vocabulary", "nodes/tokenizer"
SHOWN = 3  # names in a message


def not_finite(name: str, values: np.ndarray) -> str | None:
    """What is wrong with the numbers of an array [...]; None: nothing.

    `edges/energy` may have NaN (the values come from the hash), and `clones/energy` -inf (the edge is forbidden).
    """
    if values.dtype.kind != "f":
        return None
    wrong = ~np.isfinite(values)
    if name == ENERGY:
        wrong = np.isinf(values)
    elif name == CLONE_ENERGY:
        wrong &= values != -np.inf
    return f"{int(wrong.sum()):,} values are not finite numbers" if wrong.any() else None


def faults(contents: Contents, settings: GraphSettings) -> Iterator[tuple[str, str]]:
    """What is wrong with the arrays that are not paged, as pairs of array and fault.

    Parameters
    ----------
    contents
        The arrays by name, which `sifu_store.consistency.inconsistencies` has found to agree; None: not readable.
    settings
        Those of the graph.
    """
    counted, bias = contents.get("nodes/count"), contents.get("default/bias")
    if counted is None or bias is None:
        return
    if (len(counted), len(bias)) != (settings["nodes"], settings["width"]):
        found = f"{settings['nodes']:,} nodes of width {settings['width']}"
        yield "settings", f"they have {found}, the arrays {len(counted):,} of width {len(bias)}"
        return
    yield from _tokenizer_faults(contents, len(counted))
    for name in ("rows/discounted", PAIR_DISCOUNTED, CLONE_DISCOUNTED):
        values = contents.get(name)
        if values is not None and len(values) and values.min() < 0:
            yield name, f"{int((values < 0).sum()):,} discounts are negative"
    alpha = contents.get("signal/alpha")
    if alpha is not None and not len(alpha):
        yield "signal/alpha", "it has no element, expected at least one"
    for name in (KEY, ORIGIN):
        keys = contents.get(name)
        if keys is not None and keys.size and not -1 <= keys.min() <= keys.max() < settings["initial"].get("keys", 0):
            yield name, f"a key is not below initial.keys, {settings['initial'].get('keys', 0):,}"
    parent, token = contents.get(CLONE_PARENT), contents.get(CLONE_TOKEN)
    if parent is not None and token is not None and len(parent):
        depth = int(CloneTree(nodes=len(counted), parent=parent, token=token).depth.max())
        levels = len(settings["initial"].get("pair_discounts", ()))
        if depth >= levels:
            yield "settings", f"initial.pair_discounts has {levels} levels, the clones have {depth + 1}"


def _tokenizer_faults(contents: Contents, nodes: int) -> Iterator[tuple[str, str]]:
    """Whether the tokenizer can be read, and its nodes are those of the vocabulary, each with a name of its own."""
    record, vocabulary = (_json(contents.get(name)) for name in (TOKENIZER, VOCABULARY))
    if record is None or vocabulary is None:
        return
    try:
        if not isinstance(record, dict):
            raise ValueError("not a JSON object")
        tokenizer = read_tokenizer(record)
    except (SifuError, ValueError, KeyError) as error:
        yield TOKENIZER, str(error) if isinstance(error, SifuError) else f"it cannot be read ({error!r})"
        return
    if len(tokenizer) != nodes:
        yield TOKENIZER, f"it has {len(tokenizer):,} nodes, the graph {nodes:,}"
    if (fault := _name_fault(tokenizer)) is not None:
        yield TOKENIZER, fault
    named = [entry.get("token") if isinstance(entry, dict) else None for entry in vocabulary]
    if len(named) == len(tokenizer) and named != tokenizer.vocabulary:
        at = next(at for at, name in enumerate(tokenizer.vocabulary) if named[at] != name)
        yield VOCABULARY, f"node {at} is {named[at]!r}, in the tokenizer {tokenizer.vocabulary[at]!r}"


def _name_fault(tokenizer: Tokenizer) -> str | None:
    names = tokenizer.vocabulary
    if twice := [name for name, times in Counter(names).items() if times > 1]:
        return f"{len(twice):,} names belong to several nodes ({', '.join(map(repr, twice[:SHOWN]))})"
    odd = next((node for node, name in enumerate(names) if not name or SURROGATE.search(name)), None)
    return None if odd is None else f"the name of node {odd} is not text: {names[odd]!r}"


def _json(content: np.ndarray | None) -> Any:
    """The JSON in an array; None: it cannot be read, which `inconsistencies` says."""
    try:
        return None if content is None else json.loads(content.tobytes().decode("utf-8"))
    except (ValueError, RecursionError):
        return None
