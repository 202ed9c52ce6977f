"""A graph as a model of lm-evaluation-harness (the package `lm_eval`, which is not installed with sifu).

    import lm_eval
    from sifu_graph.adapters.lm_eval import SifuLM

    lm_eval.simple_evaluate(model=SifuLM("graph.sifu"), tasks=[...])

The log-probabilities are those of `sifu eval`, in natural logarithms: a text is one document, which the graph reads
from its beginning. The module knows requests of that package and probabilities; it does not know tasks.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lm_eval.api.instance import Instance
from lm_eval.api.model import LM
from lm_eval.api.registry import register_model

from sifu_graph.generation.base_walk import walk_of
from sifu_graph.generation.stop_text import StopText
from sifu_graph.generation.stream import GenerateOptions, stream
from sifu_graph.inspection import distributions
from sifu_graph.session import GraphSession


@register_model("sifu")
class SifuLM(LM):
    """A graph as a language model.

    Parameters
    ----------
    store
        Directory of the graph.
    at
        Name of an older snapshot. None: the newest one.

    Raises
    ------
    SifuError
        The graph cannot be opened.
    """

    def __init__(self, store: str | Path, *, at: str | None = None, **_: Any) -> None:
        super().__init__()
        self.graph = GraphSession.open(store, at=at)
        self.graph._fit_memory()
        self._walk = walk_of(self.graph.parameters, self.graph.signal)

    def loglikelihood(self, requests: Sequence[Instance], disable_tqdm: bool = False) -> list[tuple[float, bool]]:
        """log p of each continuation after its context, and whether a greedy choice would give it."""
        return [self._continuation(*request.args) for request in requests]

    def loglikelihood_rolling(self, requests: Sequence[Instance], disable_tqdm: bool = False) -> list[float]:
        """log p of each text, without the end of the document."""
        return [self._continuation("", request.args[0])[0] for request in requests]

    def _continuation(self, context: str, continuation: str) -> tuple[float, bool]:
        tokenizer = self.graph.tokenizer
        begin = [] if tokenizer.separator is None else [tokenizer.separator]
        ids = [*begin, *tokenizer.encode(context + continuation).tolist()]
        known = max(1, len(begin) + len(tokenizer.encode(context)))
        log_p, greedy = 0.0, True
        for place, found in enumerate(distributions.of_text(self.graph, ids, self._walk), 1):
            if place >= known:
                log_p += float(found[ids[place]])
                greedy = greedy and int(found.argmax()) == ids[place]
        return log_p, greedy

    def generate_until(self, requests: Sequence[Instance], disable_tqdm: bool = False) -> list[str]:
        """The continuation of each context up to one of its stop texts; greedy, unless it is sampled."""
        return [self._generate(*request.args) for request in requests]

    def _generate(self, context: str, options: dict[str, Any]) -> str:
        until = options.get("until") or []
        stop = StopText([each for each in ([until] if isinstance(until, str) else until) if each])
        tokens = int(options.get("max_gen_toks", options.get("max_tokens", 256)))
        temperature = float(options.get("temperature", 0.0)) if options.get("do_sample", True) else 0.0
        pieces = stream(self.graph, context or "\n", GenerateOptions(tokens=tokens, temperature=temperature, seed=0))
        text = ""
        for piece in pieces:
            text += stop.push(piece)
            if stop.found:
                return text
        return text + stop.push("", last=True)


if __name__ == "__main__":  # the command of the package, which does not know the model otherwise
    from lm_eval.__main__ import cli_evaluate

    cli_evaluate()
