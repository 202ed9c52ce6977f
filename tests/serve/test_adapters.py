"""A graph in other tools: the same probabilities and the same text as sifu's own."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from serving import Running, serving

from sifu_graph import Graph

TEXTS = ("春風花月", "月夜不有人山雲", "花")


class Request:
    """What the harness passes to a model."""

    def __init__(self, *args: Any) -> None:
        self.args = args


@pytest.fixture(params=["recurrent", "tuned"])
def path(request: pytest.FixtureRequest, paths: dict[str, Path]) -> Path:
    return paths[request.param]


@pytest.fixture
def graph(path: Path) -> Iterator[Graph]:
    with Graph.open(path) as found:
        yield found


def log_p(graph: Graph, text: str, first: int = 0) -> float:
    """Of the tokens from ``first`` on, without the end of the document."""
    return sum(token.log_p for token in graph.score(text).tokens[first:-1])


def test_the_harness_gets_the_probabilities_of_score(path: Path, graph: Graph) -> None:
    pytest.importorskip("lm_eval")
    from sifu_graph.adapters.lm_eval import SifuLM

    model = SifuLM(path)
    rolling = model.loglikelihood_rolling([Request(text) for text in TEXTS])
    assert rolling == pytest.approx([log_p(graph, text) for text in TEXTS], abs=1e-6 * 7)
    best = graph.generate("春風", tokens=2, greedy=True).text
    asked = [("春風", best), ("春風", "月無"), ("", "春風"), ("春", "")]
    found = model.loglikelihood([Request(*each) for each in asked])
    for (context, continuation), (value, _) in zip(asked, found, strict=True):
        expected = log_p(graph, context + continuation, len(context))
        assert value == pytest.approx(expected, abs=1e-6 * 4)
    assert not found[1][1] and found[3] == (0.0, True)
    assert found[0][1] or "recurrent" not in path.name  # elsewhere evaluation differs from generation
    plain = graph.generate("春風", tokens=50, greedy=True).text
    until = plain[10:12]
    texts = model.generate_until([Request("春風", {"until": [until], "max_gen_toks": 50}), Request("春風", {})])
    assert texts[0] == plain[: plain.index(until)]
    assert texts[1].startswith(plain)


def test_the_harness_over_http(path: Path, graph: Graph) -> None:
    pytest.importorskip("lm_eval")
    from lm_eval.models.openai_completions import LocalCompletionsAPI

    with serving(path) as server:
        model = LocalCompletionsAPI(
            model=path.stem,
            base_url=f"http://127.0.0.1:{server.port}/v1/completions",
            tokenizer_backend="remote",
            max_length=1000,
        )
        rolling = model.loglikelihood_rolling([Request(text) for text in TEXTS], disable_tqdm=True)
    assert rolling == pytest.approx([log_p(graph, text) for text in TEXTS], abs=1e-6 * 7)


def test_ids_and_texts_over_http(server: Running) -> None:
    info = server.ask("GET", "/tokenizer_info")[1]
    assert (info["eos_token"], info["level"], info["vocab_size"]) == ("<sep>", "char", 23)
    with Graph.open(server.path) as graph:
        ids = graph.tokenizer.encode("春風").tolist()
        assert info["vocab_size"] == len(graph.tokenizer)
    assert server.post({"prompt": "春風"}, path="/tokenize")[1]["tokens"] == ids
    assert server.post({"prompt": "<sep>"}, path="/tokenize")[1]["tokens"] == [1]
    assert server.post({"tokens": [*ids, 1]}, path="/detokenize")[1] == {"prompt": "春風\n"}
    assert server.post({"tokens": [400]}, path="/detokenize")[0] == 400
    assert server.post({"tokens": ["春"]}, path="/detokenize")[0] == 400


def test_the_plugin_of_llm(path: Path, graph: Graph) -> None:
    llm = pytest.importorskip("llm")
    from sifu_graph.adapters.llm_plugin import Sifu

    model = Sifu()
    options = {"store": str(path), "tokens": 20, "seed": 3}
    response = model.prompt("春風", **options)
    assert "".join(response) == graph.generate("春風", tokens=20, seed=3).text
    with pytest.raises(Exception, match="greater than or equal to 0"):
        model.prompt("春風", temperature=-1)
    assert isinstance(model, llm.Model)
