"""Pruning around one node: only edges out of it and into it go."""

from __future__ import annotations

from pathlib import Path

import pytest
from sifu_store.errors import OptionError
from small import write_text

from sifu_graph import Graph, build_graph


@pytest.fixture(scope="module", params=["recurrent", "tuned"])
def path(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("around")
    text = write_text(folder / "poems.txt")
    build_graph(text, folder / "graph.sifu", vocab=40, sparsify=0.5, width=16, length=8, signal=request.param)
    return folder / "graph.sifu"


def counts(graph: Graph) -> dict[tuple[str, str], int]:
    """The private edges and their counts."""
    index, names = graph._at_rest.index, graph.tokenizer.vocabulary
    pairs = (divmod(key, len(names)) for key in index.keys().tolist())
    return {(names[u], names[v]): count for (u, v), count in zip(pairs, index.count.tolist(), strict=True)}


def test_the_rare_edges_of_the_node_go_and_no_others(path: Path) -> None:
    with Graph.open(path) as graph:
        before = counts(graph)
        for node in ("春", "<sep>", "月"):
            least = sorted(count for pair, count in before.items() if node in pair)[3] + 1
            gone = {pair for pair, count in before.items() if node in pair and count < least}
            report = graph.prune(min_count=least, node=node)
            assert report.edges_removed == len(gone) >= 4
            assert before.keys() - counts(graph).keys() == gone
            graph.undo()


def test_a_node_needs_a_count_alone(path: Path) -> None:
    with Graph.open(path) as graph:
        for limits, said in (
            ({"to_ratio": 0.1}, "give both"),
            ({"clones": 0}, "give both"),
            ({"to_ratio": 0.1, "min_count": 3}, "prune around one node by `min_count`"),
            ({"min_count": 3, "node": "xyz"}, "'xyz' is not a node"),
        ):
            with pytest.raises(OptionError, match=said):
                graph.prune(**{"node": "春", **limits}, dry_run=True)
