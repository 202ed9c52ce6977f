"""Random histories against the plain model, with a crash at any point at which something is made durable.

A crash is a copy of the directory at that moment, which is then used instead: what a killed process leaves behind.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from unittest import mock

import numbered_store
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test
from plain_history import Plain
from sifu_store import Store, collecting, durable, folder_refs
from sifu_store.errors import OptionError, StoreError

NAMES = st.sampled_from(["one", "two", "three"])
DURABLE = [
    (folder_refs, "sync_filesystem"),
    (folder_refs, "fsync_directory"),
    (folder_refs, "write_reference"),
    (collecting, "replace_durably"),
    (collecting, "drop"),
    (durable, "sync_filesystem"),
    (durable, "write_durably"),
]


@contextmanager
def copied_at(path: Path, image: Path, moment: int) -> Iterator[None]:
    """Copies the directory just before the `moment`-th time that something is made durable."""
    calls = 0

    def before(real: Callable[..., object]) -> Callable[..., object]:
        def called(*arguments: object, **options: object) -> object:
            nonlocal calls
            calls += 1
            if calls == moment:
                shutil.copytree(path, image, symlinks=True)
            return real(*arguments, **options)

        return called

    patches = [mock.patch.object(module, name, before(getattr(module, name))) for module, name in DURABLE]
    for patch in patches:
        patch.start()
    try:
        yield
    finally:
        for patch in patches:
            patch.stop()


class Histories(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp(prefix="sifu-history-"))
        self.path = self.folder / "0"
        numbered_store.make(self.path)
        self.plain = Plain()
        self.number = 0
        self.crash_at: int | None = None
        self.store = Store.open(self.path, write=True)

    def teardown(self) -> None:
        self.store.close()
        shutil.rmtree(self.folder, ignore_errors=True)

    def do(self, real: Callable[[], object], plain: Callable[[], object]) -> None:
        """The same to both; and, if one was announced, a crash meanwhile."""
        before = self.plain.copy()
        plain()
        if self.crash_at is None:
            real()
            return
        image = self.path.with_name(str(int(self.path.name) + 1))
        with copied_at(self.path, image, self.crash_at):
            real()
        self.crash_at = None
        if not image.exists():
            return
        self.store.close()
        shutil.rmtree(self.path)
        self.path = image
        with Store.open(self.path) as reader:  # before anybody mended anything
            read = numbered_store.view(reader)
        self.store = Store.open(self.path, write=True)
        assert self.store.recovered_from is None
        found = numbered_store.view(self.store)
        assert found in (before.view(), self.plain.view())
        assert read["lines"] in (before.view()["lines"], self.plain.view()["lines"])
        if found != self.plain.view():
            self.plain = before
        elif before.view() == found:  # which of the two cannot be seen: drop what only one of them has
            self.plain.names_used |= before.names_used

    @rule(moment=st.integers(1, 12))
    def crash_in_the_next(self, moment: int) -> None:
        self.crash_at = moment

    @rule(train=st.booleans())
    def commit(self, *, train: bool) -> None:
        self.number += 1
        number = self.number
        self.do(
            lambda: numbered_store.commit(self.store, number, train=train),
            lambda: self.plain.commit(number, train=train),
        )

    @rule()
    def undo(self) -> None:
        if self.plain.can_undo():
            self.do(self.store.undo, self.plain.undo)
        else:
            with pytest.raises(StoreError, match="nothing to undo"):
                self.store.undo()

    @rule(steps=st.integers(1, 3))
    def redo(self, steps: int) -> None:
        if steps <= len(self.plain.forward()):
            self.do(lambda: self.store.redo(steps), lambda: self.plain.redo_some(steps))
        else:
            with pytest.raises(StoreError, match="to redo"):
                self.store.redo(steps)

    @rule(name=NAMES)
    def branch(self, name: str) -> None:
        if name in self.plain.branches:
            with pytest.raises(OptionError, match="already"):
                self.store.create_branch(name)
        else:
            self.do(
                lambda: self.store.create_branch(name, "HEAD"),
                lambda: self.plain.branches.update({name: self.plain.head}),
            )

    @rule(data=st.data())
    def switch(self, data: st.DataObject) -> None:
        name = data.draw(st.sampled_from(sorted(self.plain.branches)))
        self.do(lambda: self.store.switch(name), lambda: setattr(self.plain, "current", name))

    @rule(name=NAMES)
    def delete_branch(self, name: str) -> None:
        if name in self.plain.branches and name != self.plain.current:
            self.do(lambda: self.store.delete_branch(name), lambda: self.plain.delete_branch(name))
        else:
            with pytest.raises(OptionError):
                self.store.delete_branch(name)

    @rule(number=st.integers(0, 5))
    def tag(self, number: int) -> None:
        name = f"t{number}"
        if name in self.plain.names_used:
            with pytest.raises(OptionError, match="choose another"):
                self.store.create_tag(name)
        else:

            def tag() -> None:
                self.plain.tags[name] = self.plain.head
                self.plain.names_used.add(name)

            self.do(lambda: self.store.create_tag(name), tag)

    @precondition(lambda self: self.plain.tags)
    @rule(data=st.data())
    def delete_tag(self, data: st.DataObject) -> None:
        name = data.draw(st.sampled_from(sorted(self.plain.tags)))
        self.do(lambda: self.store.delete_tag(name), lambda: self.plain.tags.pop(name))

    @rule(keep=st.integers(0, 2), keep_undone=st.booleans())
    def gc(self, keep: int, *, keep_undone: bool) -> None:
        said = self.store.would_collect(keep, keep_undone=keep_undone)
        before = numbered_store.view(self.store)
        assert before == self.plain.view()
        crashes = self.crash_at is not None
        done = []
        self.do(
            lambda: done.append(self.store.collect_garbage(keep, keep_undone=keep_undone)),
            lambda: self.plain.collect(keep, keep_undone=keep_undone),
        )
        if not crashes:
            assert [commit.snapshot for commit in said.commits] == [commit.snapshot for commit in done[0].commits]
            assert (said.snapshots, said.chunks, said.size_bytes) == (
                done[0].snapshots,
                done[0].chunks,
                done[0].size_bytes,
            )
            for commit in self.store.tree().commits:  # what is kept can be read
                with Store.open(self.path, at=commit.snapshot) as old:
                    assert old.read_page("edges/bias", 0)[0, 1] == float(commit.message)

    @rule(write=st.booleans())
    def reopen(self, *, write: bool) -> None:
        self.store.close()
        if not write:
            with Store.open(self.path) as reader:
                assert numbered_store.view(reader) == self.plain.view()
        self.store = Store.open(self.path, write=True)

    @invariant()
    def same(self) -> None:
        assert numbered_store.view(self.store) == self.plain.view()


def run(examples: int, steps: int) -> None:
    run_state_machine_as_test(
        Histories, settings=settings(max_examples=examples, stateful_step_count=steps, deadline=None)
    )


def test_random_histories() -> None:
    run(examples=8, steps=15)


@pytest.mark.slow
def test_many_random_histories() -> None:
    run(examples=60, steps=40)
