"""Edits a graph again and again, until it is killed: says before and after each edit where it is."""

from __future__ import annotations

import sys

from sifu_graph import Graph


def main() -> None:
    with Graph.open(sys.argv[1]) as graph:
        number = len(graph.store.history())
        while True:
            sys.stdout.write(f"begin {number}\n")
            sys.stdout.flush()
            with graph.edit(f"edit {number}") as edit:
                edit.add_node(f"<{number}>", like="月")
                edit.boost_edge("春", "風", 0.01)
                if number % 3 == 0:
                    edit.prune(to_ratio=0.3)
                    edit.compact()
                if number % 3 == 2:
                    edit.grow(to_ratio=0.4)
            sys.stdout.write(f"saved {number} {graph.store.snapshot}\n")
            sys.stdout.flush()
            number += 1


if __name__ == "__main__":
    main()
