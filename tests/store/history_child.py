"""Commits, undoes, branches, switches, tags and collects for ever, printing each when it is done; to be killed."""

from __future__ import annotations

import random
import sys
from pathlib import Path

import numbered_store
from sifu_store import Store


def main(path: Path, seed: int) -> None:
    """Prints what it is about to do, does it, and prints that it is done."""
    rng = random.Random(seed)
    with Store.open(path, write=True) as store:
        tree = store.tree()
        number = max(int(commit.message) for commit in tree.commits)
        while True:
            tree = store.tree()
            spare = [name for name in ("one", "two") if name not in tree.branches]
            actions = ["train", "train", "edit", "switch", "gc"]
            actions += ["undo"] if len(store.history(2)) == 2 else []
            actions += ["redo"] if tree.redo else []
            actions += ["branch"] if spare else ["delete"] if tree.branch == "main" else []
            action = rng.choice(actions)
            name = ""
            if action in ("train", "edit"):
                number += 1
                name = str(number)
            elif action == "switch":
                name = rng.choice(sorted(tree.branches))
            elif action == "branch":
                name = spare[0]
            elif action == "delete":
                name = "two"
            sys.stdout.write(f"begin {action} {name}\n")
            sys.stdout.flush()
            if action in ("train", "edit"):
                numbered_store.commit(store, number, train=action == "train")
            elif action == "undo":
                store.undo()
            elif action == "redo":
                store.redo()
            elif action == "switch":
                store.switch(name)
            elif action == "branch":
                store.create_branch(name)
            elif action == "delete":
                store.delete_branch(name)
            else:
                store.collect_garbage(1)
            sys.stdout.write(f"end {action} {name}\n")
            sys.stdout.flush()


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
