"""A graph of words in lower case: its settings, its files out and in again."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from sifu_store.errors import OptionError

from sifu_graph import Graph, build_graph, import_brillm, import_safetensors
from sifu_graph.card import model_card

LINES = [
    "The cat sat on the mat.",
    'A dog said: "Don\'t (ever) run!"',
    "New York is new; a/b 3.14",
    "春眠不覺曉。The end",
]
OTHER = ["the NEW dog in New York", "a  cat.dog, (the end", "春 眠 unheard of"]


def build(path: Path, **options: object) -> Path:
    text = path.with_suffix(".txt")
    text.write_text("\n".join(LINES * 30), encoding="utf-8")
    options = {"vocab": 100, "length": 8, "holdout": 0.1, "level": "word", "lowercase": True, **options}
    build_graph(text, path, **options)  # type: ignore[arg-type]
    return path


def assert_reads_the_same(first: Graph, second: Graph) -> None:
    assert second.tokenizer.vocabulary == first.tokenizer.vocabulary
    assert second.settings["build"]["level"] == "word"
    for text in [*LINES, *OTHER]:
        assert np.array_equal(second.tokenizer.encode(text), first.tokenizer.encode(text))
        assert second.tokenizer.decode(second.tokenizer.encode(text)) == first.tokenizer.decode(
            first.tokenizer.encode(text)
        )


@pytest.mark.parametrize("kind", ["safetensors", "slim"])
def test_files_of_a_graph_carry_its_words(tmp_path: Path, kind: str) -> None:
    with Graph.open(build(tmp_path / "a.sifu")) as first:
        first.add_node("New York")
        report = first.export(kind, tmp_path / "out")
        import_safetensors(report.path, tmp_path / "b.sifu")
        with Graph.open(tmp_path / "b.sifu") as second:
            assert_reads_the_same(first, second)
            assert second.settings["build"]["lowercase"] is True
            text = "\n".join(LINES)
            assert second.score(text).log_p == pytest.approx(first.score(text).log_p, rel=1e-5)


@pytest.mark.parametrize("lowercase", [False, True])
def test_brillm_at_level_word_comes_home(tmp_path: Path, lowercase: bool) -> None:  # noqa: FBT001
    with Graph.open(build(tmp_path / "a.sifu", signal="brillm05", lowercase=lowercase)) as first:
        out = Path(first.export("brillm", tmp_path / "out").path)
        import_brillm(
            out / "model.bin", tmp_path / "b.sifu", vocab=out / "vocab.json",
            frequency=out / "word_frequency.json", tokenizer=out / "tokenizer.json",
        )  # fmt: skip
        with Graph.open(tmp_path / "b.sifu") as second:
            assert_reads_the_same(first, second)


def test_the_settings_of_a_graph_of_words(tmp_path: Path) -> None:
    with Graph.open(build(tmp_path / "a.sifu")) as graph:
        assert graph.info().settings["build"]["lowercase"] is True
        assert "level word, in lower case" in model_card(graph)
        assert graph.generate("The CAT sat", tokens=3, seed=1).text[:1] in " ."
    with Graph.open(build(tmp_path / "b.sifu", lowercase=False)) as graph:
        assert "lowercase" not in graph.info().settings["build"]
    with pytest.raises(OptionError, match="`lowercase` goes with level word, not bpe"):
        build(tmp_path / "c.sifu", level="bpe")
    with pytest.raises(OptionError, match="did you mean word"):
        build(tmp_path / "c.sifu", level="words")
