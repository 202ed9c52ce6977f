"""Tasks of lm-evaluation-harness from the held-out text of a graph: what they ask, and what the harness computes."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
from small import write_poems, write_text

from sifu_graph import Graph, build_graph
from sifu_graph.adapters.lm_eval_tasks import write_tasks
from sifu_graph.errors import CorpusError, OptionError
from sifu_graph.text.corpus import Corpus, is_held_out

HOLDOUT = 0.2


def read(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


@pytest.fixture(scope="module")
def poems(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("poems")
    text = write_poems(folder / "poems.txt", poems=600)
    build_graph(text, folder / "graph.sifu", vocab=500, sparsify=0.1, holdout=HOLDOUT)
    write_tasks(folder / "graph.sifu", folder / "tasks")
    return folder


@pytest.fixture(scope="module")
def words(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("words")
    entries = [str(each) for each, _ in zip(Corpus(["wordnet"]).documents(), range(400), strict=False)]
    (folder / "words.txt").write_text("\n".join(entries), encoding="utf-8")
    build_graph(folder / "words.txt", folder / "graph.sifu", vocab=400, sparsify=0.1, level="bpe", holdout=HOLDOUT)
    write_tasks(folder / "graph.sifu", folder / "tasks")
    return folder


def test_the_documents_are_those_that_are_held_out(poems: Path) -> None:
    every = [str(each) for each in Corpus([poems / "poems.txt"], document="paragraph").documents()]
    found = [record["text"] for record in read(poems / "tasks" / "heldout.jsonl")]
    assert found == [each for each in every if is_held_out(each, fraction=HOLDOUT)]
    assert len(found) > 50


def test_the_next_line_of_a_poem(poems: Path) -> None:
    texts = [record["text"] for record in read(poems / "tasks" / "heldout.jsonl")]
    records, answers = read(poems / "tasks" / "next_line.jsonl"), set()
    assert len(records) > 50
    for record in records:
        right = record["choices"][record["answer"]]
        (poem,) = [text for text in texts if text.startswith(record["context"] + right)]
        assert record["context"] and len(set(record["choices"])) == 4
        for line in record["choices"]:
            assert (len(line), line[-1]) == (len(right), right[-1])
            assert any(line in text for text in texts) and ((line in poem) is (line == right))
        answers.add(record["answer"])
    assert answers == {0, 1, 2, 3}


def test_the_word_of_a_gloss(words: Path) -> None:
    texts = {record["text"] for record in read(words / "tasks" / "heldout.jsonl")}
    records, answers = read(words / "tasks" / "gloss.jsonl"), set()
    assert len(records) > 20
    for record in records:
        assert len(set(record["words"])) == 5
        assert [word + record["gloss"] in texts for word in record["words"]].index(True) == record["answer"]
        assert sum(word + record["gloss"] in texts for word in record["words"]) == 1
        assert all(any(text.startswith(word) for text in texts) for word in record["words"])
        assert record["words"][record["answer"]][:-1].lower() not in record["gloss"].lower()
        answers.add(record["answer"])
    assert answers == {0, 1, 2, 3, 4}


def test_what_is_written(poems: Path, words: Path, tmp_path: Path) -> None:
    assert {path.name for path in (poems / "tasks").iterdir()} == {
        f"{name}.{kind}" for name in ("heldout", "next_line") for kind in ("yaml", "jsonl")
    }
    assert not (words / "tasks" / "next_line.yaml").exists()
    one, other = tmp_path / "one", tmp_path / "a folder: {other}"
    assert write_tasks(poems / "graph.sifu", one, most=7) == {"sifu_heldout": 7, "sifu_next_line": 7}
    with pytest.raises(OptionError, match=r"one exists"):
        write_tasks(poems / "graph.sifu", one)
    before = (one / "next_line.jsonl").read_bytes()
    write_tasks(poems / "graph.sifu", other, most=7)
    assert (other / "next_line.jsonl").read_bytes() == before
    write_tasks(poems / "graph.sifu", one, most=7, seed=1, force=True)
    assert (one / "next_line.jsonl").read_bytes() != before
    data = f"{{test: {json.dumps(str(other / 'heldout.jsonl'))}}}"
    assert data in (other / "heldout.yaml").read_text(encoding="utf-8")
    for wrong in ({"most": 0}, {"seed": -1}):
        with pytest.raises(OptionError):
            write_tasks(poems / "graph.sifu", tmp_path / "x", **wrong)


def test_without_held_out_text(tmp_path: Path) -> None:
    build_graph(write_text(tmp_path / "a.txt", documents=30), tmp_path / "a.sifu", holdout=0.0)
    with pytest.raises(CorpusError, match="no document of the text of the graph is held out"):
        write_tasks(tmp_path / "a.sifu", tmp_path / "tasks")
    assert not (tmp_path / "tasks").exists()


@pytest.mark.filterwarnings("ignore")  # of the package
def test_the_harness_runs_them(poems: Path, words: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The figures of the harness are those that `Graph.score` gives for the records."""
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    lm_eval = pytest.importorskip("lm_eval")
    from lm_eval.tasks import TaskManager

    import sifu_graph.adapters.lm_eval  # noqa: F401  # registers `sifu`

    found = {}
    for folder in (poems, words):
        tasks = TaskManager(include_path=str(folder / "tasks"), include_defaults=False)
        model = f"store={folder / 'graph.sifu'}"
        with monkeypatch.context() as patch:
            patch.setenv("HF_DATASETS_CACHE", str(tmp_path / folder.name))
            results = lm_eval.simple_evaluate(model="sifu", model_args=model, tasks=["sifu"], task_manager=tasks)
        found[folder] = results["results"]
    assert set(found[poems]) == {"sifu_heldout", "sifu_next_line"}
    with Graph.open(poems / "graph.sifu") as graph:
        texts = [record["text"] for record in read(poems / "tasks" / "heldout.jsonl")]
        nats = -sum(token.log_p for text in texts for token in graph.score(text).tokens[:-1])
        size_bytes = sum(len(text.encode()) for text in texts)
        tokens = sum(len(graph.score(text).tokens) - 1 for text in texts)
        bits = found[poems]["sifu_heldout"]["bits_per_byte,none"]
        assert bits * size_bytes * math.log(2) / tokens == pytest.approx(nats / tokens, abs=1e-6)

        def following(context: str, line: str) -> float:
            return sum(token.log_p for token in graph.score(context + line).tokens[len(context) : -1])

        records = read(poems / "tasks" / "next_line.jsonl")
        right = [
            max(record["choices"], key=lambda line: following(record["context"], line))
            == record["choices"][record["answer"]]
            for record in records
        ]
        assert found[poems]["sifu_next_line"]["acc,none"] == pytest.approx(sum(right) / len(right))
    with Graph.open(words / "graph.sifu") as graph:

        def explained(word: str, gloss: str) -> float:
            known = len(graph.tokenizer.encode(word))
            return sum(token.log_p for token in graph.score(word + gloss).tokens[known:-1])

        records = read(words / "tasks" / "gloss.jsonl")
        right = [
            max(range(5), key=lambda at: explained(record["words"][at], record["gloss"])) == record["answer"]
            for record in records
        ]
        assert found[words]["sifu_gloss"]["acc,none"] == pytest.approx(sum(right) / len(right))
