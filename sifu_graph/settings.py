"""The settings that are stored with a graph: a JSON object, whose keys and types are declared here.

`docs/format.md` describes the meaning of each key. Keys that this release does not know stay in the object, so that
they are written back unchanged.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, NotRequired, TypedDict, cast

import msgspec
from sifu_store.errors import StoreDamagedError
from sifu_store.reading import StoreReader

from sifu_graph.config import MOST_INTEGER, OptimizerConfig, SignalConfig

MOST_WIDTH = 1024
"""Greatest width of a signal: a page of so wide edges takes 2 GiB."""
MOST_LENGTH = 1 << 16
"""Greatest number of tokens in a chunk; every one has a mixing logit."""

Count = Annotated[int, msgspec.Meta(ge=0, le=MOST_INTEGER)]
Number = Annotated[float, msgspec.Meta(ge=0, le=1e300)]  # no NaN, and not infinite
Share = Annotated[float, msgspec.Meta(ge=0, le=1)]
Triple = Annotated[list[Annotated[float, msgspec.Meta(ge=0, le=3)]], msgspec.Meta(min_length=3, max_length=3)]
"""Kneser-Ney discounts of counts 1, 2, and 3 or more."""


class SourceRecord(TypedDict):
    """A file of a corpus."""

    name: str
    bytes: Count
    sha256: str


class ReadingRecord(TypedDict, total=False):
    """How the files of a corpus are read; a key that is missing has its usual value."""

    document: Annotated[str, msgspec.Meta(pattern="^(line|paragraph|file|separator:(.|\n)+)$")]  # a line
    field: str  # text
    skip_bad: bool  # False


class CorpusRecord(TypedDict):
    """A corpus: see `Corpus.record`."""

    tokens: bool
    sources: list[SourceRecord]
    reading: NotRequired[ReadingRecord]


class InitialSettings(TypedDict):
    """The inputs from which the parameters of untrained edges are computed."""

    method: Literal["counts", "uniform"]
    seed: Count
    discounts: Triple
    pair_discounts: NotRequired[
        Annotated[list[Triple], msgspec.Meta(min_length=1)]
    ]  # the same of nodes, of clones of two nodes, ..., with clones
    nodes: NotRequired[Count]  # n at the build; since the first edit
    keys: NotRequired[Count]  # keys given out so far; since the first edit


class BuildSettings(TypedDict):
    """The text and the options that the graph was built with."""

    corpus: dict[str, Any]  # see `CorpusRecord`
    level: Annotated[str, msgspec.Meta(pattern="^(char|word|bpe|tokens)$")]
    lowercase: NotRequired[bool]  # at level word; False
    vocab: Count
    sparsify: Share
    min_count: Count
    length: Annotated[int, msgspec.Meta(ge=2, le=MOST_LENGTH)]  # tokens of a chunk
    holdout: Annotated[float, msgspec.Meta(ge=0, lt=1)]
    corpus_tokens: Count
    heldout_tokens: Count
    distinct_pairs: Count
    coverage: Number
    signal_preset: str | None
    clones: NotRequired[Count]  # that were asked for
    counted: NotRequired[list[dict[str, Any]]]  # further texts whose occurrences were added, as `corpus`
    imported: NotRequired[dict[str, Any]]  # the file that the graph was imported from


class RestSettings(TypedDict):
    """The rest of a run whose learning rate falls to its end."""

    schedule: Count  # the step at which the fall begins
    ends: Count | None  # the step at which the run would end; None: no limit
    minutes: Number | None  # that are left; None: no limit
    done: Share  # share of the run that is over, 0 to 1


class TrainingSettings(TypedDict):
    """The state of the last training run, from which the next one resumes."""

    step: Count
    tokens: Count
    position: Count  # batches taken from the text
    batch: Annotated[int, msgspec.Meta(ge=1, lt=2**31)]
    seed: Count
    corpus: str  # key of the token file
    began: Count  # the step at which the optimizer began
    smooth: NotRequired[Number | None]  # smoothed loss in nats
    optimizer: dict[str, Any]  # see `OptimizerConfig.to_json`
    candidates: Count | None
    rest: NotRequired[RestSettings]  # of a run that was not completed, of a graph whose edges share a base


class GraphSettings(TypedDict):
    """All settings of a graph."""

    format_version: int
    created_by: str
    nodes: Annotated[int, msgspec.Meta(ge=1, lt=2**31)]
    width: Annotated[int, msgspec.Meta(ge=2, le=MOST_WIDTH, multiple_of=2)]
    signal: dict[str, Any]  # see `SignalConfig.to_json`
    initial: InitialSettings
    build: BuildSettings
    training: TrainingSettings | None


def checked(settings: Any) -> GraphSettings:
    """The settings, unchanged, if they are complete and every value is possible.

    Raises
    ------
    ValueError
        The message says which setting is not.
    """
    try:
        found = msgspec.convert(settings, GraphSettings)
        SignalConfig.from_json(found["signal"])
        base = msgspec.convert(found["signal"], SignalConfig).base
        msgspec.convert([found["build"]["corpus"], *found["build"].get("counted", [])], list[CorpusRecord])
        if found["training"] is not None:
            msgspec.convert(found["training"]["optimizer"], OptimizerConfig)
    except (ValueError, TypeError, RecursionError) as error:
        raise ValueError(str(error)) from error
    if base and not {"nodes", "keys"} <= found["initial"].keys():
        raise ValueError("initial.nodes and initial.keys are missing, which a graph whose edges share a base has")
    return cast(GraphSettings, settings)


def read_settings(store: StoreReader) -> GraphSettings:
    """The settings of the graph in a store; a new object with each call.

    Raises
    ------
    StoreDamagedError
        A setting is missing, or its value is not possible.
    """
    try:
        return checked(store.settings)
    except ValueError as error:
        raise StoreDamagedError(f"{store.path}: the settings of the graph are damaged: {error}") from error
