"""The command line that the history records: what it says, run again, does the same."""

from __future__ import annotations

import json
import shlex
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import numpy as np
import pytest
from calls import call
from hypothesis import given, settings
from hypothesis import strategies as st
from sifu_cli.command_line import NOT_LOGGED, command_line, logged
from sifu_cli.commands import COMMANDS, load
from sifu_store import Store
from small import whole

from sifu_graph import Corpus, Graph, TextCorpus
from sifu_graph.edit.reports import EditReport

WORDS = st.text(st.characters(codec="utf-8", categories=["L", "N", "P", "S", "Zs"]), min_size=1, max_size=6)
NUMBERS = ["0.25", "3", "1", "0.5", "12", "-2", "all", "2,3", "40%"]
"""Values that are tried for an option, until one is accepted."""


def parsed(name: str, words: list[str]) -> click.Context | None:
    """The context of a command with these words; None: it does not accept them."""
    command = load(name)
    assert command is not None
    try:
        return command.make_context(name, list(words))
    except click.UsageError:
        return None


@st.composite
def lines(draw: st.DrawFn, name: str) -> list[str]:
    """The words of a command line that the command accepts, in which each option is given or not."""
    command = load(name)
    assert command is not None
    options: list[str] = []
    arguments: list[str] = []
    for param in command.params:
        if param.name == "config":
            continue
        if isinstance(param, click.Argument):
            most = 3 if param.nargs == -1 else 1
            arguments += draw(st.lists(WORDS, min_size=int(param.required), max_size=most))
        elif not draw(st.booleans()):
            continue
        elif isinstance(param, click.Option) and param.is_flag:
            options.append(draw(st.sampled_from([*param.opts, *param.secondary_opts])))
        else:
            values = list(param.type.choices) if isinstance(param.type, click.Choice) else NUMBERS
            for _ in range(draw(st.integers(1, 2)) if param.multiple else 1):
                words = [
                    draw(WORDS if param.type is click.STRING else st.sampled_from(values)) for _ in range(param.nargs)
                ]
                option = [max(param.opts, key=len), *words]
                if parsed(name, [*options, *option, "--", *arguments]) is not None:
                    options += option
    return [*options, "--", *arguments]


def values(ctx: click.Context, without: tuple[str, ...] = ()) -> dict[str, Any]:
    return {name: value for name, value in ctx.params.items() if name not in without}


@pytest.mark.parametrize("name", COMMANDS)
def test_what_is_recorded_reads_as_what_was_typed(name: str) -> None:
    """Every option of every command: flags, on and off, values, lists, pairs."""

    @settings(max_examples=6)
    @given(words=lines(name))
    def check(words: list[str]) -> None:
        ctx = parsed(name, words)
        if ctx is None:  # the command refuses this combination
            return
        first, *rest = shlex.split(command_line(ctx))
        again = parsed(first, rest)
        assert again is not None
        assert again.params == ctx.params
        short = parsed(name, shlex.split(logged(ctx))[1:])
        assert short is not None
        assert values(short, NOT_LOGGED) == values(ctx, NOT_LOGGED)

    check()


def parameters(store: Path) -> dict[str, np.ndarray]:
    with Store.open(store) as opened:
        return {name: whole(opened, name) for name in opened.names()}


@pytest.mark.parametrize(
    "words",
    [
        ["train", "--steps", "1", "--batch", "8", "--no-contexts"],
        ["train", "--steps", "1", "--batch", "8", "--contexts"],
        ["train", "--config", "run.toml"],
        ["edit-edge", "春", "風", "--boost", "-2"],
        ["grow", "--min-count", "2", "--init", "default"],
    ],
)
def test_the_log_run_again_makes_the_same_commit(graph: Path, tmp_path: Path, words: list[str]) -> None:
    config = tmp_path / "run.toml"
    config.write_text("steps = 1\nbatch = 8\nlr = 0.05\ncontexts = false\n", encoding="utf-8")
    assert call("prune", "--to-ratio", "0.03", "--yes", "--store", graph).code == 0  # so that `grow` finds something
    again = shutil.copytree(graph, tmp_path / "again.sifu")
    assert call(*words, "--store", graph).code == 0
    config.unlink()  # the file of options may be gone
    with Store.open(graph) as store:
        command = store.history()[0].command
    assert call(*shlex.split(command), "--store", again).code == 0
    with Store.open(again) as store:
        assert store.history()[0].command == command
    before, after = parameters(graph), parameters(again)
    assert before.keys() == after.keys()
    for name, value in before.items():
        assert np.array_equal(value, after[name], equal_nan=value.dtype.kind == "f"), name


TABLE = [{"source": "春", "target": "風", "boost": 1.5}, {"source": "風", "target": "春", "forbid": True}]
EDITS: dict[str, Callable[[Graph], EditReport]] = {
    "edit-edge --scale 0.3333333333333333 春 風": lambda graph: graph.scale_edge("春", "風", 1 / 3),
    "edit-edge --boost -2.0 春 風": lambda graph: graph.boost_edge("春", "風", -2),
    "edit-edge --copy-from 春 風 春 月": lambda graph: graph.copy_edge("春", "月", source=("春", "風")),
    "edit-edge --from table.jsonl": lambda graph: graph.edit_edges("table.jsonl"),
    "edit-edge --to-default 春 風": lambda graph: graph.default_edge("春", "風"),
    "edit-edge --forbid 春 風": lambda graph: graph.forbid_edge("春", "風"),
    "edit-edge --allow 風 月": lambda graph: graph.allow_edge("風", "月"),
    "add-node --like 風 --kind 'a word' -- '春 風' --x": lambda graph: graph.add_node(
        "春 風", "--x", like="風", kind="a word"
    ),
    "add-node --corpus new.txt --train-steps 2 龍": lambda graph: graph.add_node(
        "龍", corpus="new.txt", train_steps=2, progress=False
    ),
    "add-node --corpus - 龍": lambda graph: graph.add_node("龍", corpus=TextCorpus(["龍春", "龍風"]), progress=False),
    "grow --corpus new.txt --document paragraph --min-count 2": lambda graph: graph.grow(
        corpus=Corpus("new.txt", document="paragraph"), min_count=2, progress=False
    ),
    "remove-node 風 月": lambda graph: graph.remove_node("風", "月"),
    "edit-node --rename 龍 風": lambda graph: graph.rename_node("風", "龍"),
    "edit-node --merge-into 月 風": lambda graph: graph.merge_node("風", "月"),
    "edit-node --bias-from 月 風": lambda graph: graph.set_bias("風", like="月"),
    "prune --to-ratio 0.02 --by energy": lambda graph: graph.prune(to_ratio=0.02, by="energy"),
    "grow --corpus new.txt --min-count 2 --init default": lambda graph: graph.grow(
        corpus="new.txt", min_count=2, init="default", progress=False
    ),
    "compact": lambda graph: graph.compact(),
}


@pytest.mark.parametrize("command", EDITS)
def test_the_log_of_an_edit_from_python_run_again_makes_the_same_commit(
    graph: Path, tmp_path: Path, command: str
) -> None:
    (tmp_path / "table.jsonl").write_text("".join(map("{}\n".format, map(json.dumps, TABLE))), encoding="utf-8")
    (tmp_path / "new.txt").write_text("龍春風月\n月龍春風\n" * 9, encoding="utf-8")
    with Graph.open(graph) as opened:  # so that every edit changes something
        opened.prune(to_ratio=0.03)
        opened.forbid_edge("風", "月")
        opened.remove_node("眠")
    again = shutil.copytree(graph, tmp_path / "again.sifu")
    with Graph.open(graph) as opened:
        report = EDITS[command](opened)
        assert report.snapshot == opened.store.snapshot
        assert opened.log().commits[0].command.replace(f"{tmp_path}/", "") == command
    name, *words = shlex.split(command)
    yes = ["--yes"] if name in ("prune", "remove-node") else []
    assert call(name, "--store", again, *yes, *words, stdin="龍春\n龍風".encode()).code == 0  # the texts in memory
    first, second = parameters(graph), parameters(again)
    assert first.keys() == second.keys()
    for name, value in first.items():
        np.testing.assert_array_equal(value, second[name], err_msg=name)
    with Store.open(again) as store:
        assert sorted(shlex.split(store.history()[0].command)) == sorted(shlex.split(command))  # options in any order


def test_a_command_that_is_given_is_recorded(graph: Path) -> None:
    with Graph.open(graph) as opened:
        opened.forbid_edge("春", "風", command="mine")
        assert opened.log().commits[0].command == "mine"
        opened.edit_edges(TABLE[1:])
        assert opened.log().commits[0].command == "edit-edge --from '<a table in memory>'"
        assert opened.log().commits[0].message == "edit 1 edge: forbid 1"
