"""The methods of `Graph`: each has the keywords and the defaults of what it calls, and a docstring."""

from __future__ import annotations

import dataclasses
import inspect
import re
from collections.abc import Callable
from typing import Any

import pytest
from sifu_store import Store, errors

from sifu_graph import Graph, evaluation
from sifu_graph.edit import evaluate_edits
from sifu_graph.edit import session as edits
from sifu_graph.edit.session import Edit
from sifu_graph.generation.stream import GenerateOptions
from sifu_graph.inspection import diff, predictions, trace
from sifu_graph.inspection import inspect as inspection
from sifu_graph.interop import converters, export, tables
from sifu_graph.plot import draw_map, figures, trace_html
from sifu_graph.progress import SILENT
from sifu_graph.session import GraphSession
from sifu_graph.training.options import TrainOptions

TARGETS: dict[str, tuple[Any, ...]] = {
    "train": (TrainOptions,),
    "evaluate": (evaluation.evaluate,),
    "evaluate_edits": (evaluate_edits.evaluate_edits,),
    "generate": (GenerateOptions,),
    "stream": (GenerateOptions,),
    "trace": (trace.TraceOptions, trace_html.trace_to_page),
    "next": (predictions.next_nodes,),
    "score": (predictions.score,),
    "inspect": (inspection.inspect_node,),
    "diff": (diff.diff,),
    "map": (draw_map.draw_map,),
    "plot": (figures.plot,),
    "export": (export.export,),
    "to_scipy": (converters.to_scipy,),
    "to_pandas": (tables.to_pandas,),
    "to_networkx": (converters.to_networkx,),
    "to_pyg": (converters.to_pyg,),
    "to_torch_sparse": (converters.to_torch_sparse,),
    "edit": (edits.editing,),
    "log": (Store.tree,),
    "undo": (Store.undo,),
    "redo": (Store.redo,),
    "branch": (Store.create_branch,),
    "switch": (Store.switch,),
    "tag": (Store.create_tag,),
}
EDITS = (
    "add_node", "remove_node", "rename_node", "merge_node", "set_bias", "scale_edge", "boost_edge", "copy_edge",
    "edit_edges", "default_edge", "forbid_edge", "allow_edge", "prune", "grow", "compact",
)  # fmt: skip
METHODS = sorted(
    name
    for name in set(dir(Graph)) - set(dir(GraphSession))
    if callable(getattr(Graph, name)) and not name.startswith("_")
)
NO_DEFAULT = inspect.Parameter.empty


def keywords(target: Callable[..., Any]) -> dict[str, Any]:
    """The keyword-only parameters of a function, or the fields of a dataclass of options, and their defaults."""
    if dataclasses.is_dataclass(target):
        return {
            field.name: NO_DEFAULT if field.default is dataclasses.MISSING else field.default
            for field in dataclasses.fields(target)
        }
    parameters = inspect.signature(target).parameters.values()
    return {one.name: one.default for one in parameters if one.kind is one.KEYWORD_ONLY}


def positional(target: Callable[..., Any]) -> list[tuple[str, Any]]:
    """The other parameters, but ``self``, and their defaults."""
    parameters = list(inspect.signature(target).parameters.values())[1:]
    return [(one.name, one.default) for one in parameters if one.kind is not one.KEYWORD_ONLY]


def test_every_method_is_listed_here() -> None:
    assert sorted([*TARGETS, *EDITS]) == METHODS


@pytest.mark.parametrize("name", sorted(TARGETS))
def test_a_method_has_the_keywords_and_defaults_of_what_it_calls(name: str) -> None:
    wanted: dict[str, Any] = {}
    for target in TARGETS[name]:
        wanted |= keywords(target)
    found = keywords(getattr(Graph, name))
    if name == "trace":  # without a file, no page is written
        assert found.pop("html") is None
    if name in ("train", "evaluate"):  # texts in memory become a corpus before the call
        assert found.pop("texts") is None
    if name == "branch":  # `switch -c` of the command line makes and takes it in one step
        assert wanted.pop("switch") is False
    if name == "edit":  # of a single change the method itself is the command
        assert (found.pop("command"), wanted.pop("command")) == ("edit", NO_DEFAULT)
        assert wanted.pop("stages") is SILENT
    if name in ("map", "to_scipy", "to_networkx", "to_pyg", "to_torch_sparse"):  # the method shows the stages
        assert (found.pop("progress"), wanted.pop("stages")) == (None, SILENT)
    assert found == wanted


@pytest.mark.parametrize("name", ["diff", "log", "undo", "redo", "branch", "switch", "tag", "inspect", "to_pandas"])
def test_a_method_has_the_positional_parameters_of_what_it_calls(name: str) -> None:
    wanted = positional(TARGETS[name][0])
    if name == "inspect":
        wanted = [("node", NO_DEFAULT), ("target", None)]
    assert positional(getattr(Graph, name)) == wanted


@pytest.mark.parametrize("name", EDITS)
def test_a_change_has_the_parameters_of_the_edit(name: str) -> None:
    found = keywords(getattr(Graph, name))
    if name in ("add_node", "prune", "grow", "compact"):  # the others take no time
        assert found.pop("progress") is None
    assert found.pop("command") is None  # the command line that makes the same edit
    assert found == {**keywords(getattr(Edit, name)), "dry_run": False}
    assert positional(getattr(Graph, name)) == positional(getattr(Edit, name))


@pytest.mark.parametrize("name", METHODS)
def test_a_method_takes_no_other_keywords_and_is_documented(name: str) -> None:
    method = getattr(Graph, name)
    kinds = {one.kind for one in inspect.signature(method).parameters.values()}
    assert inspect.Parameter.VAR_KEYWORD not in kinds
    assert method.__doc__


def test_the_documented_errors_exist() -> None:
    """Names of errors in the docstrings of `Graph` are those of `sifu_store.errors`."""
    for name in METHODS:
        for error in re.findall(r"\b[A-Z]\w+Error\b", getattr(Graph, name).__doc__ or ""):
            assert hasattr(errors, error), (name, error)
