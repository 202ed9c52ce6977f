"""A graph as a model of the command `llm` (the package of that name, which is not installed with sifu).

    llm -m sifu 春風 -o store graph.sifu

The module knows the hooks of that package; `generation` makes the text.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from typing import Any

import llm
from pydantic import Field

from sifu_graph.generation.stream import GenerateOptions, Stream
from sifu_graph.session import GraphSession


@llm.hookimpl
def register_models(register: Callable[[llm.Model], None]) -> None:
    """Add the model `sifu`."""
    register(Sifu())


class Sifu(llm.Model):
    """The graph in `$SIFU_STORE`, in `graph.sifu`, or in the option `store`."""

    model_id = "sifu"
    can_stream = True

    class Options(llm.Options):
        """The options of `sifu generate`."""

        store: str = Field(
            default_factory=lambda: os.environ.get("SIFU_STORE", "graph.sifu"), description="Directory of the graph"
        )
        tokens: int = Field(default=100, ge=0, description="Number of tokens to generate")
        temperature: float = Field(default=1.0, ge=0, description="Divides the energies; 0: greedy")
        top_k: int | None = Field(default=None, ge=1, description="Sample from the K most probable candidates")
        top_p: float | None = Field(
            default=0.9, gt=0, le=1, description="Sample from the most probable candidates that have this probability"
        )
        seed: int | None = Field(default=None, ge=0, description="The same seed gives the same text")
        stop: str | None = Field(default=None, description="Stop before this text")

    def execute(
        self,
        prompt: llm.Prompt,
        stream: bool,
        response: llm.Response,
        conversation: Any = None,
    ) -> Iterator[str]:
        """The continuation of a prompt, piece by piece."""
        options = {name: value for name, value in prompt.options if name != "store"}
        with GraphSession.open(prompt.options.store) as graph:
            yield from Stream(graph, prompt.prompt, GenerateOptions(**options))
