"""The settings that are stored with a graph: a JSON object, whose keys and types are declared here.

`docs/format.md` describes the meaning of each key. Keys that this release does not know stay in the object, so that
they are written back unchanged.
"""

from __future__ import annotations

from typing import Any, Literal, NotRequired, TypedDict, cast

import msgspec
from sifu_store.errors import StoreDamagedError
from sifu_store.store import Store


class InitialSettings(TypedDict):
    """The inputs from which the parameters of untrained edges are computed."""

    method: Literal["counts", "uniform"]
    seed: int
    discounts: list[float]  # Kneser-Ney discounts of counts 1, 2, and 3 or more
    pair_discounts: NotRequired[list[list[float]]]  # the same of nodes, of clones of two nodes, ..., with clones
    nodes: NotRequired[int]  # n at the build; since the first edit
    keys: NotRequired[int]  # keys given out so far; since the first edit


class BuildSettings(TypedDict):
    """The text and the options that the graph was built with."""

    corpus: dict[str, Any]  # see `Corpus.record`
    level: str
    vocab: int
    sparsify: float
    min_count: int
    length: int  # tokens of a chunk
    holdout: float
    corpus_tokens: int
    heldout_tokens: int
    distinct_pairs: int
    coverage: float
    signal_preset: str | None
    clones: NotRequired[int]  # that were asked for
    counted: NotRequired[list[dict[str, Any]]]  # further texts whose occurrences were added, as `corpus`
    imported: NotRequired[dict[str, Any]]  # the file that the graph was imported from


class RestSettings(TypedDict):
    """The rest of a run whose learning rate falls to its end."""

    schedule: int  # the step at which the fall begins
    ends: int | None  # the step at which the run would end; None: no limit
    minutes: float | None  # that are left; None: no limit
    done: float  # share of the run that is over, 0 to 1


class TrainingSettings(TypedDict):
    """The state of the last training run, from which the next one resumes."""

    step: int
    tokens: int
    position: int  # batches taken from the text
    batch: int
    seed: int
    corpus: str  # key of the token file
    began: int  # the step at which the optimizer began
    smooth: NotRequired[float | None]  # smoothed loss in nats
    optimizer: dict[str, Any]  # see `OptimizerConfig.to_json`
    candidates: int | None
    rest: NotRequired[RestSettings]  # of a run that was not completed, of a graph whose edges share a base


class GraphSettings(TypedDict):
    """All settings of a graph."""

    format_version: int
    created_by: str
    nodes: int
    width: int
    signal: dict[str, Any]  # see `SignalConfig.to_json`
    initial: InitialSettings
    build: BuildSettings
    training: TrainingSettings | None


def read_settings(store: Store) -> GraphSettings:
    """The settings of the graph in a store; a new object with each call.

    Raises
    ------
    StoreDamagedError
        A setting is missing or has another type.
    """
    settings = store.settings
    try:
        msgspec.convert(settings, GraphSettings)
    except msgspec.ValidationError as error:
        raise StoreDamagedError(f"{store.path}: the settings of the graph are damaged: {error}") from error
    return cast(GraphSettings, settings)
