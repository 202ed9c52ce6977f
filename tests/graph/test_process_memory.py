"""`host_memory` bounds the whole process, without Python and its libraries: measured in processes of their own."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from small import write_poems

from sifu_graph import build_graph

CHILD = """
import json, sys, threading, time
from sifu_graph import Graph
from sifu_graph.estimate import estimate
from sifu_graph.paging.process_memory import anonymous_bytes
import sifu_graph.training.loop, sifu_graph.generation.stream, sifu_graph.inspection.trace

path, what, share = sys.argv[1], sys.argv[2], float(sys.argv[3])
with Graph.open(path) as graph:
    found = estimate(graph, batch=64)
allowed = int(share * found.least_bytes)
peak = 0
def watch():
    global peak
    while True:
        peak = max(peak, anonymous_bytes())
        time.sleep(0.002)
with Graph.open(path, host_memory=allowed) as graph:
    graph.parameters
    threading.Thread(target=watch, daemon=True).start()
    if what == "train":
        graph.train(steps=2, batch=64, eval_every=1)
    elif what == "evaluate":
        graph.evaluate(limit=5000)
    else:
        graph.generate("春風", tokens=100)
        graph.trace("春風")
    print(json.dumps({"allowed": allowed, "taken": peak - graph._library_bytes, "tables": graph._table_bytes}))
"""
COMMANDS = ("train", "evaluate", "generate")


def taken(path: Path, what: str, share: float) -> dict[str, int]:
    """Bytes that a command was allowed, and that its process took at most."""
    child = subprocess.run(
        [sys.executable, "-c", CHILD, str(path), what, str(share)], capture_output=True, text=True, timeout=600
    )
    assert child.returncode == 0, child.stderr
    found: dict[str, int] = json.loads(child.stdout)
    return found


def build(folder: Path, signal: str, *, poems: int, vocab: int) -> Path:
    path = folder / f"{signal}{poems}.sifu"
    text = write_poems(folder / "poems.txt", poems=poems)
    build_graph(text, path, vocab=vocab, sparsify=0.3, holdout=0.05, signal=signal)
    return path


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads /proc")
@pytest.mark.parametrize("signal", ["tuned", "recurrent"])
def test_commands_keep_to_their_memory(tmp_path: Path, signal: str) -> None:
    path = build(tmp_path, signal, poems=1500, vocab=400)
    for what in COMMANDS:
        found = taken(path, what, 1.1)
        assert found["taken"] <= found["allowed"], (what, found)


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads /proc")
@pytest.mark.parametrize("share", [1.0, 1.5])
@pytest.mark.parametrize("signal", ["tuned", "recurrent"])
def test_commands_of_a_large_graph_keep_to_their_memory(tmp_path: Path, signal: str, share: float) -> None:
    path = build(tmp_path, signal, poems=40_000, vocab=2500)
    for what in COMMANDS:
        found = taken(path, what, share)
        assert found["taken"] <= found["allowed"], (what, found)
