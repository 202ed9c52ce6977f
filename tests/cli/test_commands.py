"""The commands, used as they are meant: on a small graph, in one process."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from calls import call
from sifu_cli.commands.inspection.plot import KINDS, REMARKS
from sifu_store.store import Store

from sifu_graph.plot.figures import FIGURES

GRAPH = [
    "nodes",
    "dense_parameters",
    "private_edges",
    "stored_parameters",
    "ratio",
    "coverage",
    "corpus_tokens",
    "store_bytes",
]
FIELDS = {  # names that stay
    "build-graph": [*GRAPH, "seconds"],
    "train": [
        "step",
        "tokens",
        "loss",
        "perplexity",
        "heldout_perplexity",
        "tokens_per_s",
        "peak_host_bytes",
        "peak_device_bytes",
        "cache",
        "snapshot",
    ],
    "generate": ["prompt", "text", "tokens", "tokens_per_s", "cache"],
    "eval": ["perplexity", "tokens", "bits_per_token", "top1", "baselines"],
    "info": [*GRAPH, "settings", "training", "format_version", "snapshot"],
}


def objects(text: str) -> list[dict[str, Any]]:
    """The JSON objects of an output, one a line."""
    return [json.loads(line) for line in text.splitlines()]


def test_the_four_commands_work_in_an_empty_folder_one_after_another(poems: Path) -> None:
    result = call("build-graph", poems, "--vocab", "30", "--holdout", "0.2")
    assert result.code == 0
    assert "private edges" in result.out
    assert "counting the pairs" in result.err
    assert call("train", "--steps", "2").code == 0
    result = call("generate", "春風", "--tokens", "10", "--seed", "1")
    assert result.code == 0
    assert result.out.startswith("春風")
    assert result.err == ""
    result = call("info")
    assert result.code == 0
    assert "trained steps" in result.out


@pytest.mark.parametrize(
    ("command", "args"),
    [
        ("build-graph", ["--holdout", "0.2", "--force"]),
        ("train", ["--steps", "1", "--batch", "8"]),
        ("generate", ["春", "--tokens", "3"]),
        ("eval", []),
        ("map", ["map.html", "--nodes", "20"]),
        ("plot", ["rows"]),
        ("info", []),
        ("inspect", ["春", "風"]),
        ("trace", ["春風"]),
        ("log", []),
        ("verify", []),
        ("gc", ["--yes"]),
        ("diff", ["HEAD", "main"]),
        ("branch", []),
        ("switch", ["main"]),
        ("tag", []),
        ("env", []),
    ],
)
def test_json_is_one_object_with_the_promised_fields(graph: Path, poems: Path, command: str, args: list[str]) -> None:
    corpus = [poems] if command == "build-graph" else []
    result = call(command, *corpus, *args, "--json", "--quiet", "--store", graph)
    assert (result.code, result.err) == (0, "")
    [found] = objects(result.out)
    assert set(FIELDS.get(command, [])) <= set(found)


def test_quiet_leaves_only_results(graph: Path) -> None:
    before, after = call("-q", "eval"), call("eval", "-q")
    assert before.err == after.err == ""
    assert "perplexity" in before.out
    assert before.out == after.out


def test_the_store_is_the_options_then_the_ones_before_the_command_then_the_environments(
    built: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert call("log").code == 1
    assert call("--store", built, "log").code == 0
    assert call("--store", "nothing-there", "log", "--store", built).code == 0
    monkeypatch.setenv("SIFU_STORE", str(built))
    assert call("log").code == 0
    assert call("--store", "nothing-there", "log").code == 1


# ---- training


def test_train_goes_on_where_it_ended_and_the_log_names_the_commands(graph: Path) -> None:
    assert call("train", "--steps", "2", "--batch", "16", "--lr", "0.05").code == 0
    [report] = objects(call("train", "--steps", "1", "--json", "-q").out)
    assert (report["step"], report["steps_done"], report["final"], report["go_on"]) == (3, 1, True, None)
    [log] = objects(call("log", "--json").out)
    commands = [commit["command"] for commit in log["commits"]]
    assert commands[:2] == ["train --steps 1", "train --steps 2 --batch 16 --lr 0.05"]
    assert commands[2].startswith("build-graph --holdout 0.2 ")
    with Store.open(graph) as store:
        training = store.settings["training"]
    assert (training["optimizer"]["lr"], training["batch"]) == (0.05, 16)  # the last run's


def test_train_streams_a_line_for_every_look_at_the_heldout_text_and_every_commit(graph: Path) -> None:
    options = ["--steps", "3", "--batch", "16", "--eval-every", "1", "--commit-every", "2", "--json"]
    result = call("train", *options)
    assert result.code == 0
    found = objects(result.out)
    assert [(line["step"], line["final"]) for line in found] == [
        (1, False),
        (2, False),
        (3, False),
        (3, True),
    ]
    assert found[1]["snapshot"] is not None
    assert "held-out perplexity" in result.err
    for line in found:
        assert set(FIELDS["train"]) <= set(line)


def test_train_without_a_limit_makes_one_pass(graph: Path) -> None:
    result = call("train", "--batch", "64")
    assert result.code == 0
    assert "one pass over the text" in result.err


def test_train_reads_its_options_from_a_file_and_the_command_line_wins(graph: Path, tmp_path: Path) -> None:
    config = tmp_path / "run.toml"
    config.write_text('steps = 5\nbatch = 16\nlr = 0.25\noptimizer = "rowwise"\nweight-decay = 0.001\n')
    [report] = objects(call("train", "--config", config, "--steps", "1", "--json", "-q").out)
    assert report["steps_done"] == 1
    with Store.open(graph) as store:
        optimizer = store.settings["training"]["optimizer"]
    assert (optimizer["lr"], optimizer["weight_decay"]) == (0.25, 0.001)


@pytest.mark.parametrize("kind", ["adamw", "adamw-dense"])
def test_every_optimizer_runs_without_further_options(graph: Path, kind: str) -> None:
    [report] = objects(call("train", "--steps", "2", "--batch", "16", "--optimizer", kind, "--json", "-q").out)
    assert report["heldout_perplexity"] < 2 * report["heldout_before"]


def test_train_draws_its_loss(graph: Path, tmp_path: Path) -> None:
    result = call("train", "--steps", "2", "--batch", "16", "--plot", "loss.png")
    assert result.code == 0
    assert (tmp_path / "loss.png").read_bytes().startswith(b"\x89PNG")


# ---- generation


def test_generate_is_the_same_for_the_same_seed_and_continuations_differ(built: Path) -> None:
    args = ["generate", "春", "--store", built, "--tokens", "12", "--count", "3", "--seed", "5", "--json"]
    first, second = call(*args), call(*args)
    texts = [line["text"] for line in objects(first.out)]
    assert texts == [line["text"] for line in objects(second.out)]
    assert len(set(texts)) == 3
    assert [line["seed"] for line in objects(first.out)] == [5, 6, 7]
    plain = call(*args[:-1]).out
    assert [block.partition("\n")[2] for block in plain.split("--- ")[1:]] == [f"春{text}\n" for text in texts]


def test_generate_reads_stdin_without_its_final_newline(built: Path) -> None:
    args = ["--store", built, "--tokens", "5", "--greedy", "--json"]
    [piped] = objects(call("generate", *args, stdin="春風\n".encode()).out)
    [given] = objects(call("generate", "春風", *args).out)
    assert (piped["prompt"], piped["text"]) == (given["prompt"], given["text"]) == ("春風", given["text"])


def test_generate_says_what_it_does_not_know_and_how_fast_it_is(built: Path) -> None:
    result = call("generate", "春x風", "--store", built, "--tokens", "4", "--stats")
    assert result.code == 0
    assert "'x'" in result.err
    assert "tokens/s" in result.err
    assert result.out.startswith("春x風")


def test_generate_stops_at_a_text(built: Path) -> None:
    args = ["generate", "春", "--store", built, "--tokens", "60", "--seed", "1", "--json"]
    [free] = objects(call(*args).out)
    stop = free["text"][5]
    [stopped] = objects(call(*args, "--stop", stop).out)
    assert stopped["text"] == free["text"][: free["text"].index(stop)]


def test_generate_takes_a_signal_from_a_file(built: Path, tmp_path: Path) -> None:
    vector = np.linspace(-1, 1, 32, dtype=np.float32)
    np.save(tmp_path / "v.npy", vector)
    (tmp_path / "v.json").write_text(json.dumps(vector.tolist()))
    (tmp_path / "v.txt").write_text("\n".join(map(str, vector.tolist())))
    texts = set()
    for name in ("v.npy", "v.json", "v.txt"):
        args = ["--store", built, "--tokens", "20", "--greedy", "--json", "--signal-vector", name]
        [found] = objects(call("generate", "春", *args).out)
        texts.add(found["text"])
    assert len(texts) == 1


def test_generate_can_generate_nothing(built: Path) -> None:
    assert call("generate", "春風", "--store", built, "--tokens", "0").out == "春風\n"


def test_a_prompt_of_100_000_characters(built: Path) -> None:
    prompt = "春風吹綠江南岸明月" * 11_112
    result = call("generate", "--store", built, "--tokens", "3", "--json", stdin=prompt.encode())
    [found] = objects(result.out)
    assert (result.code, found["tokens"], len(found["prompt"])) == (0, 3, len(prompt))


# ---- evaluation and health


def test_eval_on_a_file_and_with_a_limit(built: Path, poems: Path) -> None:
    [everything] = objects(call("eval", poems, "--store", built, "--json").out)
    [limited] = objects(call("eval", poems, "--store", built, "--json", "--limit", "100").out)
    assert everything["tokens"] > 2000
    assert limited["tokens"] <= everything["tokens"]


def test_log_is_the_newest_first_and_can_be_limited(graph: Path) -> None:
    assert call("train", "--steps", "1", "--batch", "8", "-q").code == 0
    lines = call("log").out.splitlines()
    assert "train: step 1" in lines[0]
    assert lines[1].strip() == "sifu train --steps 1 --batch 8"
    assert "build:" in lines[2]
    assert len(call("log", "--limit", "1").out.splitlines()) == 2


def test_verify_lists_damage_and_fails(graph: Path) -> None:
    assert call("train", "--steps", "1", "--batch", "8", "-q").code == 0
    result = call("verify")
    assert (result.code, result.out.splitlines()[0]) == (0, "intact: everything is readable and consistent")
    largest = max((graph / "repository" / "chunks").iterdir(), key=lambda path: path.stat().st_size)
    data = bytearray(largest.read_bytes())
    data[len(data) // 2] ^= 0x55
    largest.write_bytes(data)
    result = call("verify")
    assert result.code == 1
    assert any(line.startswith("damaged: edges/weight, page ") for line in result.out.splitlines())
    result = call("verify", "--json")
    [found] = objects(result.out)
    assert (result.code, found["ok"], found["damage"][0]["array"]) == (1, False, "edges/weight")


def test_gc_drops_old_training_commits_only(graph: Path) -> None:
    for _ in range(3):
        assert call("train", "--steps", "1", "--batch", "8", "-q").code == 0
    [found] = objects(call("gc", "--yes", "--keep-training", "1", "--json", "-q").out)
    assert found["bytes_freed"] > 0
    [log] = objects(call("log", "--json").out)
    assert [commit["command"].split()[0] for commit in log["commits"]] == ["train", "build-graph"]


def test_gc_asks(graph: Path) -> None:
    for _ in range(2):
        assert call("train", "--steps", "1", "--batch", "8", "-q").code == 0
    result = call("gc", "--keep-training", "1", stdin=b"n\n", typed=True)
    assert result.code == 1
    assert "deletes 1 of 2 training commits" in result.err
    assert len(call("log").out.splitlines()) == 6
    assert call("gc", "--keep-training", "1", stdin=b"y\n", typed=True).code == 0
    assert len(call("log").out.splitlines()) == 4


def test_env_names_the_versions_and_the_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    [found] = objects(call("env", "--json").out)
    assert {"sifu", "python", "torch", "numpy", "zarr", "icechunk", "tokenizers", "cpu", "cores"} <= set(found)
    assert found["kernel"] in ("native", "torch")
    assert "icechunk" in call("env").out


# ---- pictures and explanations


def test_a_map_and_a_plot_are_drawn_and_their_figures_told(built: Path, tmp_path: Path) -> None:
    result = call("map", "map.html", "map.png", "--nodes", "15", "--edges", "20", "--store", built)
    assert result.code == 0
    assert "communities" in result.out
    assert {path.name for path in tmp_path.iterdir()} == {"map.html", "map.png"}
    result = call("map", "map.html", "--store", built)
    assert (result.code, result.out) == (2, "")
    assert "map.html exists: name another path, or replace it with --force" in result.error
    assert call("map", "map.html", "--store", built, "--force", "-q").err == ""
    for kind in KINDS:
        result = call("plot", kind, "--store", built)
        if kind == "loss":
            assert "no training of the branch main was recorded" in result.error
        else:
            assert (result.code, result.err) == (0, f"wrote {kind}.png\n")
            assert (tmp_path / f"{kind}.png").exists()


def test_every_figure_of_every_plot_is_explained(graph: Path) -> None:
    assert tuple(FIGURES) == KINDS
    call("train", "--steps", "1", "-q")
    told = set()
    for kind in KINDS:
        [found] = objects(call("plot", kind, "--json", "-q").out)
        told |= set(found) - {"kind", "file", "bytes"}
    assert told == set(REMARKS)


def test_generate_explains_itself(built: Path) -> None:
    args = ["generate", "春風", "--tokens", "6", "--seed", "3", "--store", built]
    plain, result = call(*args), call(*args, "--explain")
    lines = result.out.splitlines()
    assert lines[0].split()[:3] == ["token", "energy", "margin"]
    last = next(at for at, line in enumerate(lines) if line.startswith("6 tokens, median margin"))
    assert "\n".join(lines[8:last]) == plain.out.strip()  # which may hold line breaks
    assert "\x1b" not in result.out
    [found] = objects(call(*args, "--explain", "--json").out)
    assert [choice["text"] for choice in found["choices"]] == list(plain.out.removesuffix("\n").removeprefix("春風"))
    assert {"energy", "margin", "probability", "private", "rank", "best"} <= set(found["choices"][0])
    [found] = objects(call(*args, "--json").out)
    assert "choices" not in found


def test_help_as_a_command() -> None:
    for words, meant in ((["help"], ["--help"]), (["help", "train"], ["train", "--help"])):
        assert call(*words) == call(*meant)
        assert call(*words).code == 0
    assert "did you mean train?" in call("help", "trian").error


def test_texts_as_people_have_them(tmp_path: Path) -> None:
    folder = tmp_path / "notes"
    folder.mkdir()
    (folder / "a.md").write_text("\n\n".join(f"The {k}th line\nof prose" for k in range(300)), encoding="utf-8")
    (folder / "b.bin").write_bytes(b"\0\1")
    built = call("build-graph", folder, "--vocab", "60")
    assert built.code == 0
    assert "1 file read; left out: 1 that are not text in UTF-8 (.bin)" in built.err
    assert "note: a document is a paragraph: " in built.err
    assert "(--document chooses another unit)" in built.err
    table = tmp_path / "t.csv"
    table.write_text("id,body\n1,The 5th line\n2\n3,of prose\n", encoding="utf-8")
    assert (
        "no column 'text' in its first line; there are id, body: --field names the one to read"
        in call("eval", table).error
    )
    assert "line 3: 1 field, expected at least 2" in call("eval", table, "--field", "body").error
    skipped = call("eval", table, "--field", "body", "--skip-bad")
    assert skipped.code == 0
    assert "1 line or file could not be read and was left out" in skipped.err
    assert "sifu eval" not in call("log").out
    trained = call("train", table, "--field", "body", "--skip-bad", "--steps", "1")
    assert trained.code == 0, trained
    assert "sifu train --steps 1 --field body --skip-bad" in call("log").out
