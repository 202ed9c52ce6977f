"""How much of a text is in another, against sets of documents."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sifu_graph.text import overlap
from sifu_graph.text.encoded import Split

DOCUMENTS = st.lists(st.lists(st.integers(0, 3), max_size=4), max_size=30)


def _split(documents: list[list[int]]) -> Split:
    return Split.from_arrays([np.array(document, np.int32) for document in documents])


@given(DOCUMENTS, DOCUMENTS, DOCUMENTS, st.integers(1, 9))
def test_the_share_is_that_of_equal_documents(
    text: list[list[int]], first: list[list[int]], second: list[list[int]], block: int
) -> None:
    known = {tuple(document) for document in [*first, *second]}
    total = sum(map(len, text))
    wanted = sum(len(document) for document in text if tuple(document) in known) / total if total else 0.0
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(overlap, "BLOCK", block)
        assert overlap.shared_share(_split(text), [_split(first), _split(second)]) == pytest.approx(wanted)
        hashes = overlap.document_hashes(_split(text)).tolist()
    assert hashes == overlap.document_hashes(_split(text)).tolist()
    assert len(set(hashes)) == len({tuple(document) for document in text})
