"""A real store whose commits have their number as their message, seen as `plain_history.Plain` sees them."""

from __future__ import annotations

from typing import Any

import small_store
from sifu_store import Store


def view(store: Store) -> dict[str, Any]:
    """What `Plain.view` says, of a real store."""
    tree = store.tree()
    commits = {commit.snapshot: commit for commit in tree.commits}

    def line(snapshot: str | None) -> list[int]:
        found = []
        while snapshot is not None:
            found.append(int(commits[snapshot].message))
            snapshot = commits[snapshot].parent
        return found

    return {
        "current": tree.branch,
        "lines": {name: line(snapshot) for name, snapshot in tree.branches.items()},
        "tags": {name: line(snapshot)[0] for name, snapshot in tree.tags.items()},
        "redo": [int(commits[snapshot].message) for snapshot in reversed(tree.redo)],
        "undone": {int(commits[snapshot].message) for snapshot in tree.undone},
        "content": float(store.read_page("edges/bias", 0)[0, 1]),
    }


def commit(store: Store, number: int, *, train: bool) -> str:
    small_store.write_page(store, 0, float(number))
    return store.commit(str(number), command="train" if train else "edit-edge", changes={"number": number})


def make(path: Any) -> None:
    with Store.create(path) as store:
        small_store.fill(store, slots=600)
        small_store.write_page(store, 0, 0.0)
        store.commit("0", command="build-graph", changes={})
