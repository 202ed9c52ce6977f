"""The plain model of a store's history: dictionaries, no files. A commit is a number."""

from __future__ import annotations

import copy
from dataclasses import dataclass, field
from typing import Any


@dataclass
class Plain:
    """What branches, tags, undo and garbage mean."""

    parent: dict[int, int | None] = field(default_factory=lambda: {0: None})
    train: set[int] = field(default_factory=set)
    branches: dict[str, int] = field(default_factory=lambda: {"main": 0})
    tags: dict[str, int] = field(default_factory=dict)
    redo: dict[str, int] = field(default_factory=dict)
    undone: set[int] = field(default_factory=set)
    current: str = "main"
    gone: set[int] = field(default_factory=set)
    names_used: set[str] = field(default_factory=set)

    def copy(self) -> Plain:
        return copy.deepcopy(self)

    def line(self, commit: int | None) -> list[int]:
        found = []
        while commit is not None:
            if commit not in self.gone:
                found.append(commit)
            commit = self.parent[commit]
        return found

    def reached(self, tips: Any) -> set[int]:
        return {commit for tip in tips for commit in self.line(tip)}

    @property
    def head(self) -> int:
        return self.branches[self.current]

    def commit(self, number: int, *, train: bool) -> None:
        self.parent[number] = self.head
        self.branches[self.current] = number
        if train:
            self.train.add(number)

    def can_undo(self) -> bool:
        return len(self.line(self.head)) > 1

    def undo(self) -> None:
        tip = self.redo.get(self.current)
        if tip is None or self.head not in self.line(tip):
            if tip is not None:
                self.undone.add(tip)
            self.redo[self.current] = self.head
        self.branches[self.current] = self.line(self.head)[1]

    def forward(self) -> list[int]:
        """What can be redone, the newest first."""
        line = self.line(self.redo.get(self.current))
        return line[: line.index(self.head)] if self.head in line else []

    def redo_some(self, steps: int = 1) -> None:
        self.branches[self.current] = self.forward()[-steps]

    def delete_branch(self, name: str) -> None:
        tip = self.branches.pop(name)
        self.undone |= {tip, self.redo.pop(name, tip)} - self.reached([*self.branches.values(), *self.tags.values()])

    def collect(self, keep: int, *, keep_undone: bool) -> None:
        on_branches = self.reached(self.branches.values())
        named = on_branches | self.reached(self.tags.values())
        everything = named | self.reached(self.redo.values()) | self.reached(self.undone)
        kept = {*self.branches.values(), *self.tags.values()}
        kept |= (everything if keep_undone else named) - self.train
        groups = [set(self.line(head)) for head in self.branches.values()]
        if keep_undone:
            groups += [set(self.line(tip)) - on_branches for tip in self.redo.values()]
            groups.append(self.reached(self.undone) - on_branches)
        for group in groups:
            kept |= set(sorted(group & self.train, reverse=True)[:keep])
        self.gone |= everything - kept
        if not keep_undone:
            self.redo, self.undone = {}, set()
        self.redo = {name: self.line(tip)[0] for name, tip in self.redo.items() if self.line(tip)}
        self.undone = {self.line(tip)[0] for tip in self.undone if self.line(tip)} - named

    def view(self) -> dict[str, Any]:
        named = self.reached([*self.branches.values(), *self.tags.values()])
        every = named | self.reached([*self.redo.values(), *self.undone])
        return {
            "current": self.current,
            "lines": {name: self.line(head) for name, head in self.branches.items()},
            "tags": dict(self.tags),
            "redo": self.forward(),
            "undone": every - named,
            "content": float(self.head),
        }
