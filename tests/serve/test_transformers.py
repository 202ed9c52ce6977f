"""A graph as a model of `transformers`: the probabilities, the ids and the text of sifu's own."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from small import write_text

from sifu_graph import Graph, build_graph
from sifu_graph.errors import OptionError, StoreNotFoundError
from sifu_graph.verification import verify

transformers = pytest.importorskip("transformers")
adapter = pytest.importorskip("sifu_graph.adapters.transformers")

TEXTS = ["春風花月", "月夜不有人山雲x花月夜不有人", "花"]
STORES = {
    "recurrent": {"signal": "recurrent"},
    "tuned": {"signal": "tuned"},
    "brillm05": {"signal": "brillm05"},
    "bpe": {"signal": "recurrent", "level": "bpe", "vocab": 300},
    "word": {"signal": "recurrent", "level": "word"},
}


@pytest.fixture(scope="module", params=STORES)
def path(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("graph")
    options = {"vocab": 40, "sparsify": 0.5, "length": 8, "holdout": 0.1} | STORES[request.param]
    build_graph(write_text(folder / "poems.txt"), folder / "graph.sifu", **options)
    return folder / "graph.sifu"


@pytest.fixture
def opened(path: Path) -> Iterator[tuple[Any, Any]]:
    model, tokenizer = adapter.load(path)
    yield model, tokenizer
    model.graph.close()


def generated(model: Any, tokenizer: Any, texts: list[str], **options: Any) -> list[str]:
    """What follows each text; it does not end with the document."""
    model.generation_config.eos_token_id = None
    inputs = tokenizer(texts, return_tensors="pt", padding=True)
    ids = model.generate(**inputs, **options)
    return tokenizer.batch_decode(ids[:, inputs["input_ids"].shape[1] :])


def test_the_logits_are_those_of_score(path: Path, opened: tuple[Any, Any]) -> None:
    model, tokenizer = opened
    inputs = tokenizer(TEXTS, return_tensors="pt", padding=True)
    labels = inputs["input_ids"].masked_fill(inputs["attention_mask"] == 0, -100)
    found = model(**inputs, labels=labels)
    log_p = torch.log_softmax(found.logits, -1)
    every = []
    with Graph.open(path) as graph:
        for row, text in enumerate(TEXTS):
            kept = inputs["attention_mask"][row].bool()
            ids = inputs["input_ids"][row][kept].tolist()
            expected = [token.log_p for token in graph.score(text).tokens]
            after = torch.tensor([*ids[1:], 1])[:, None]
            raw, values = (
                every_node[row][kept].gather(-1, after)[:, 0].tolist() for every_node in (found.logits, log_p)
            )
            assert raw == expected if model.graph.signal.base else raw == pytest.approx(expected, abs=1e-6)
            assert values == pytest.approx(expected, abs=1e-6)
            assert found.logits[row][kept].exp().sum(-1).tolist() == pytest.approx([1.0] * len(ids))
            every += expected[:-1]
    assert float(found.loss) == pytest.approx(-math.fsum(every) / len(every), abs=1e-6)
    right = tokenizer(TEXTS, return_tensors="pt", padding=True, padding_side="right")
    mask = right["attention_mask"].bool()
    assert torch.equal(model(**right).logits[mask], found.logits[inputs["attention_mask"].bool()])
    assert torch.equal(model(**inputs, logits_to_keep=1).logits, found.logits[:, -1:])


def test_greedy_generation_is_that_of_the_graph(path: Path, opened: tuple[Any, Any]) -> None:
    model, tokenizer = opened
    texts = ["春風", "月夜不有人山", "花"]
    with Graph.open(path) as graph:
        expected = [graph.generate(text, tokens=40, greedy=True).text for text in texts]
    assert generated(model, tokenizer, texts, max_new_tokens=40, do_sample=False) == expected
    assert [generated(model, tokenizer, [text], max_new_tokens=40)[0] for text in texts] == expected


def test_generation_ends_with_the_document(opened: tuple[Any, Any]) -> None:
    model, tokenizer = opened
    torch.manual_seed(0)
    ids = model.generate(**tokenizer(["花"] * 4, return_tensors="pt"), max_new_tokens=60, do_sample=True)
    for row in ids.tolist():
        end = row.index(1, 1)
        assert set(row[end:]) == {1}


def test_generation_with_beams_and_with_samples(opened: tuple[Any, Any]) -> None:
    """As many beams as nodes find the most probable two tokens; <unk> is never generated."""
    model, tokenizer = opened
    inputs = tokenizer("春風", return_tensors="pt")
    model.generation_config.eos_token_id = None
    beams = len(tokenizer)
    found = model.generate(**inputs, max_new_tokens=2, do_sample=False, num_beams=beams)[0, -2:].tolist()

    def log_p(ids: torch.Tensor) -> torch.Tensor:
        return torch.log_softmax(model(ids, generating=True).logits[:, 0], -1)

    first = log_p(inputs["input_ids"])[0]
    texts = torch.cat([inputs["input_ids"].expand(beams, -1), torch.arange(beams)[:, None]], 1)
    both = first[:, None] + log_p(texts)
    assert divmod(int(both.argmax()), beams) == tuple(found)
    torch.manual_seed(0)
    ids = model.generate(**inputs, max_new_tokens=100, do_sample=True, num_return_sequences=2, temperature=3.0)
    assert not (ids == tokenizer.unk_token_id).any()


def test_the_ids_are_those_of_the_graph(path: Path, opened: tuple[Any, Any], tmp_path: Path) -> None:
    _, tokenizer = opened
    tokenizer.save_pretrained(tmp_path)
    saved = transformers.AutoTokenizer.from_pretrained(tmp_path)
    texts = [*TEXTS, "<sep>春 風<unk>", " a\tb  c ", "春\n風", "é😀", ""]
    with Graph.open(path) as graph:
        for text in texts:
            ids = graph.tokenizer.encode(text).tolist()
            for one in (tokenizer, saved):
                assert one(text)["input_ids"] == [1, *ids]
                assert one(text, add_special_tokens=False)["input_ids"] == ids
                assert one.decode(ids) == graph.tokenizer.decode(ids)
        assert len(saved) == saved.vocab_size == len(graph.tokenizer)
        assert saved.get_vocab() == {name: node for node, name in enumerate(graph.tokenizer.vocabulary)}
        assert saved.convert_ids_to_tokens([0, 1, 2]) == graph.tokenizer.vocabulary[:3]


def test_the_auto_classes(path: Path, opened: tuple[Any, Any], tmp_path: Path) -> None:
    model, tokenizer = opened
    model.save_pretrained(tmp_path / "saved")
    assert json.loads((tmp_path / "saved" / "config.json").read_text())["store"] == str(path.resolve())
    inputs = tokenizer(TEXTS, return_tensors="pt", padding=True)
    auto = transformers.AutoModelForCausalLM
    for other in (auto.from_pretrained(tmp_path / "saved"), auto.from_pretrained(path, config=adapter.SifuConfig())):
        assert torch.equal(other(**inputs).logits, model(**inputs).logits)
        other.graph.close()
    copy = Path(shutil.copytree(path, tmp_path / "copy.sifu"))
    inside = adapter.load(copy)[0]
    inside.save_pretrained(copy)  # the store then opens by its own path
    inside.graph.close()
    other = auto.from_pretrained(copy)
    assert (other.graph.path, other.config.store) == (copy, None)
    other.graph.close()
    with Graph.open(copy) as graph:
        graph.forbid_edge("春", "春")
        assert not verify(graph.store).damage
    older = auto.from_pretrained(copy, at="HEAD~1")
    assert "花" in older.graph.tokenizer.vocabulary
    older.graph.close()


def test_what_is_refused(path: Path, opened: tuple[Any, Any]) -> None:
    model, tokenizer = opened
    with pytest.raises(OptionError, match=r"inference only: train the graph with `Graph.train`"):
        model.train()
    with pytest.raises(OptionError, match="the graph has the nodes 0 to"):
        model(torch.tensor([[1, 10_000]]))
    with pytest.raises(OptionError, match="`device_map` has no meaning"):
        adapter.SifuForCausalLM.from_pretrained(path, config=adapter.SifuConfig(), device_map="auto")
    right = tokenizer(TEXTS, return_tensors="pt", padding=True, padding_side="right")
    with pytest.raises(OptionError, match="on the left"):
        model.generate(**right, max_new_tokens=1)
    with pytest.raises(OptionError, match="no token"):
        model(torch.tensor([[1]]), attention_mask=torch.tensor([[0]]))
    with pytest.raises(OptionError, match="no token"):
        model(torch.zeros(1, 0, dtype=torch.int64))
    with pytest.raises(StoreNotFoundError):
        adapter.load(path / "nowhere")


def test_a_forbidden_edge(path: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(path, tmp_path / "copy.sifu"))
    with Graph.open(copy) as graph:
        graph.forbid_edge("人", "風")
    model, tokenizer = adapter.load(copy)
    ids = tokenizer("天人風天", return_tensors="pt")["input_ids"]
    logits = model(ids).logits
    values = logits[0, :-1].gather(-1, ids[0, 1:, None])[:, 0]
    assert values.isinf().tolist() == [False, False, True, False]
    assert logits.exp().sum(-1)[0].tolist() == pytest.approx([1.0] * 5)
    model.graph.close()
