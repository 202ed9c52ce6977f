"""Unknown tokens: their share, the perplexity without them, and the characters of the text."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from sifu_store.errors import CorpusError

from sifu_graph import Graph, build_graph
from sifu_graph import build as build_module
from sifu_graph.evaluation import evaluate_split
from sifu_graph.model import base_forward
from sifu_graph.text.corpus import Corpus
from sifu_graph.text.encoded import Split, encode_corpus
from sifu_graph.text.imported import read_vocabulary
from sifu_graph.text.tokenizer import SEPARATOR, UNKNOWN
from sifu_graph.text.unknown import characters_of_nodes, token_counts, unknown_share

SIGNALS = ["tuned", "recurrent"]


@pytest.fixture(scope="module", params=SIGNALS)
def few(request: pytest.FixtureRequest, text: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A graph of which a third of the text is unknown. Not to be changed."""
    path = tmp_path_factory.mktemp("few") / "g.sifu"
    build_graph(text, path, vocab=8, sparsify=1.0, length=8, holdout=0.2, signal=request.param, clones=None)
    return path


def heldout_losses(graph: Graph) -> tuple[np.ndarray, np.ndarray]:
    """Loss and target of every token of the held-out text, document by document."""
    from sifu_graph.inspection.contests import as_evaluation

    text, losses, targets = graph._tokens().heldout, [], []
    for at in range(text.documents):
        ids = [int(node) for node in text.document(at)]
        if graph.signal.base:
            parameters = graph.parameters
            for found, _ in base_forward.examine(parameters.base, parameters.index, Split.from_arrays([np.array(ids)])):
                losses += found.loss.tolist()
        else:
            losses += [one.loss for one in as_evaluation(graph.parameters, graph.signal, ids, 8, None)[1]]
        targets += ids[1:]
    return np.array(losses), np.array(targets)


def test_the_perplexity_without_unknown_tokens_leaves_them_out(few: Path) -> None:
    with Graph.open(few) as graph:
        report = graph.evaluate(with_baselines=True)
        losses, targets = heldout_losses(graph)
        text = graph._tokens().heldout
        share = unknown_share(text, graph.tokenizer, token_counts(text, graph.tokenizer))
        trained = evaluate_split(
            graph.parameters, graph.signal, graph._tokens().heldout, 8, None, tokenizer=graph.tokenizer
        )
    known = targets != UNKNOWN
    assert report.tokens == len(losses)
    assert report.known.tokens == known.sum() < report.tokens
    assert report.perplexity == pytest.approx(math.exp(losses.mean()), rel=1e-5)
    assert report.known.perplexity == pytest.approx(math.exp(losses[known].mean()), rel=1e-5)
    assert report.known.perplexity != pytest.approx(report.perplexity, rel=0.05)
    assert report.unknown_share == share == (~known).sum() / (targets != SEPARATOR).sum() > 0.2
    assert trained.unknown_share == share
    assert trained.known_perplexity == pytest.approx(report.known.perplexity, rel=1e-6)
    assert len(report.notes) == 1
    assert f"{share:.1%} of the tokens" in report.notes[0]
    for baseline in report.baselines:
        assert baseline.known_perplexity != pytest.approx(baseline.perplexity, rel=0.01)
    assert report.characters == report.tokens  # an unknown token is a character here


def test_a_graph_that_knows_all_of_a_text_says_nothing(graph: Graph) -> None:
    report = graph.evaluate(with_baselines=True)
    assert (report.unknown_share, report.notes) == (0.0, [])
    assert report.known.perplexity == report.perplexity
    assert [one.known_perplexity for one in report.baselines] == [one.perplexity for one in report.baselines]


def test_a_text_of_which_nothing_is_known_is_refused(few: Path, tmp_path: Path) -> None:
    english = tmp_path / "english.txt"
    english.write_text("the quick brown fox\n" * 20, encoding="utf-8")
    with Graph.open(few) as graph:
        before = graph.store.snapshot
        with pytest.raises(CorpusError, match="no token of the text is a node"):
            graph.evaluate([english])
        with pytest.raises(CorpusError, match="no token of the text is a node"):
            graph.train([english], steps=1)
        assert graph.store.snapshot == before


def test_training_reports_the_unknown_tokens(few: Path, tmp_path: Path) -> None:
    import shutil

    said: list[str] = []
    with Graph.open(shutil.copytree(few, tmp_path / "g.sifu")) as graph:
        report = graph.train(steps=1, batch=4, say=said.append)
        text = graph._tokens().train
        share = unknown_share(text, graph.tokenizer, token_counts(text, graph.tokenizer))
        after = graph.evaluate()
    assert report.unknown_share == share
    assert report.heldout_unknown_share == after.unknown_share
    assert report.heldout_known_perplexity == pytest.approx(after.known.perplexity, rel=1e-5)
    assert any("of the training text are unknown" in line for line in said)


@pytest.mark.parametrize("limit", [1, 2, 37, 100, 250])
@pytest.mark.parametrize("signal", SIGNALS)
def test_a_limit_is_exact(text: Path, tmp_path: Path, signal: str, limit: int) -> None:
    build_graph(text, tmp_path / "g.sifu", vocab=40, length=8, holdout=0.2, signal=signal, clones=None)
    with Graph.open(tmp_path / "g.sifu") as graph:
        report = graph.evaluate(limit=limit, with_baselines=True)
        assert report.tokens == limit
        assert graph.evaluate(limit=10**9).tokens == graph._tokens().heldout.transitions
        assert graph.evaluate(limit=limit).perplexity == report.perplexity


def test_characters_are_those_of_the_text(tmp_path: Path) -> None:
    """Whatever the vocabulary calls its unknown node, and whether unknown text is kept or left out."""
    path = tmp_path / "a.txt"
    lines = ["abcabcxyz", "ab", "zzzabc", "xyzzy"]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    characters = sum(map(len, lines))
    for names, unknown in (
        (["[UNK]", "a", "b", "c"], True),
        (["a", "b", "c"], False),
        (["<unk>", "<sep>", "abc", "z"], True),
    ):
        tokenizer = read_vocabulary(names, level="char")
        text = encode_corpus(Corpus([path]), tokenizer, directory=tmp_path / "cache", holdout=0.0).train
        memory = Split.from_documents(lines, tokenizer)
        assert text.characters == memory.characters == characters
        counts = token_counts(text, tokenizer)
        table = characters_of_nodes(text, tokenizer, counts)
        assert table is not None
        ends = 0 if tokenizer.separator is None else 2 * len(lines)
        assert table[text.ids].sum() == pytest.approx(characters + ends)
        if unknown:
            assert table[0] < 5
        missing = sum(line.count(letter) for line in lines for letter in "xyz")
        if not unknown:
            assert unknown_share(text, tokenizer, counts) == pytest.approx(missing / characters)


def test_a_token_file_without_characters_is_written_again(tmp_path: Path) -> None:
    import json

    path = tmp_path / "a.txt"
    path.write_text("abc\nab\n", encoding="utf-8")
    tokenizer = read_vocabulary(["a", "b", "c"], level="char")
    written = encode_corpus(Corpus([path]), tokenizer, directory=tmp_path / "cache", holdout=0.0)
    meta = json.loads((written.path / "meta.json").read_text())
    del meta["characters"]  # as earlier releases wrote it
    (written.path / "meta.json").write_text(json.dumps(meta))
    again = encode_corpus(Corpus([path]), tokenizer, directory=tmp_path / "cache", holdout=0.0)
    assert again.train.characters == 5


@pytest.mark.parametrize(
    ("lines", "options", "said"),
    [
        (["春風"] * 3, {}, "nothing is held out: a share of 0.01 of 3 documents"),
        (["春風花月夜"] * 30, {"vocab": 4}, "of the tokens of the text are unknown"),
        (["春風花月夜", "夜風春", "月花風", "春月"] * 30, {"sparsify": 0.05}, "`sparsify=0."),
    ],
)
def test_a_build_says_what_will_mislead(tmp_path: Path, lines: list[str], options: dict[str, float], said: str) -> None:
    path = tmp_path / "a.txt"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    report = build_graph(path, tmp_path / "g.sifu", **options)  # type: ignore[arg-type]
    assert any(said in note for note in report.notes), report.notes


def test_the_share_of_pairs_that_a_build_names_is_enough(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("春風花月夜\n夜風春\n月花風\n春月\n" * 30, encoding="utf-8")
    poor = build_graph(path, tmp_path / "g.sifu", sparsify=0.05)
    [note] = [note for note in poor.notes if "sparsify" in note]
    share = float(note.split("`sparsify=")[2].split("`")[0])
    good = build_graph(path, tmp_path / "h.sifu", sparsify=share)
    assert poor.coverage < 0.8
    assert good.coverage >= 0.95
    assert not any("sparsify" in note for note in good.notes)


def four_texts(kind: str) -> tuple[list[str], str]:
    """Lines of a kind of text, and the level that suits it."""
    if kind == "code":
        source = Path(build_module.__file__).read_text(encoding="utf-8")
        return [line for line in source.splitlines() if line.strip()] * 2, "bpe"
    name = "tang" if kind == "poems" else "wordnet"
    lines = [str(document) for document, _ in zip(Corpus([name]).documents(), range(500), strict=False)]
    return lines, "bpe" if kind == "words" else "char"


@pytest.mark.parametrize("kind", ["poems", "letters", "words", "code"])
def test_a_new_graph_is_no_worse_than_a_smoothed_bigram_model(kind: str, tmp_path: Path) -> None:
    """On four kinds of text, with the default settings: the counts of pairs, or of contexts where those are better."""
    lines, level = four_texts(kind)
    path = tmp_path / "a.txt"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    for clones, most in ((0, 1.01), (None, 1.02)):
        build_graph(path, tmp_path / "g.sifu", vocab=400, level=level, holdout=0.1, clones=clones, force=True)
        with Graph.open(tmp_path / "g.sifu") as graph:
            report = graph.evaluate(with_baselines=True)
        bigram = next(one for one in report.baselines if one.name == "kneser-ney-2")
        assert report.perplexity < most * bigram.perplexity
