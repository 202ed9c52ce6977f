"""``python tests/support/write_format_fixture.py [FOLDER]``: a small store of the present format, and its figures.

Writes ``format-N.zip`` and ``format-N.json`` (by default to ``tests/data``), where N is `FORMAT_VERSION`. Run it once,
when a new format is released, and commit both files: `tests/graph/test_format_versions.py` reads the store of every
format. An existing fixture is not replaced, since only a release of that time can show how it wrote the format.

The store's content is the same in every run; the ids and times of its commits are not.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path
from typing import Any

from sifu_store.layout import FORMAT_VERSION
from small import write_text

from sifu_graph import Graph

DATA = Path(__file__).parents[1] / "data"
PROMPT = "春"
COMMANDS = (  # the text comes from stdin, so that the store records no path
    "build-graph - --vocab 23 --sparsify 0.1 --width 8 --holdout 0.1 --seed 1 --signal tuned",
    "train - --steps 4 --batch 4 --optimizer adamw",
    "compact --codec zstd",
    "compact --precision bfloat16 --codec blosc",
    "add-node 龍 --like 風",
    "edit-edge 春 風 --boost 1",
    "prune --to-ratio 0.08 --yes",
    "compact --precision bitround:10",
)


def poems(folder: Path) -> Path:
    """The text on which the figures are measured: the first 20 lines of the one that the graph is built from."""
    lines = write_text(folder / "poems.txt", documents=60).read_text(encoding="utf-8").splitlines(keepends=True)[:20]
    path = folder / "twenty-poems.txt"
    path.write_text("".join(lines), encoding="utf-8")
    return path


def figures(graph: Graph, folder: Path) -> dict[str, Any]:
    """What a store must still give when a later release opens it."""
    damage = graph.store.verify().damage
    assert not damage, damage
    info = graph.info()
    return {
        "format_version": info.format_version,
        "nodes": info.nodes,
        "private_edges": info.private_edges,
        "perplexity": round(graph.evaluate([poems(folder)]).perplexity, 6),
        "greedy": graph.generate(PROMPT, tokens=12, greedy=True).text,
    }


def history(store: Path, folder: Path) -> dict[str, dict[str, Any]]:
    """The figures of every commit, by its name: HEAD~0, HEAD~1, ..."""
    with Graph.open(store) as graph:
        commits = [f"HEAD~{back}" for back in range(len(graph.store.history()))]
    found = {}
    for commit in commits:
        with Graph.open(store, at=commit) as graph:
            found[commit] = figures(graph, folder)
    return found


def write_store(path: Path) -> None:
    """Builds and trains a graph, stores its pages in several ways, and edits it in between."""
    text = poems(path.parent).with_name("poems.txt").read_bytes()
    for command in COMMANDS:
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "OMP_NUM_THREADS": "1"}
        words = [sys.executable, "-m", "sifu_cli", *command.split(), "--store", path.name]
        subprocess.run(words, cwd=path.parent, input=text, env=environment, check=True, stdout=subprocess.DEVNULL)


def main(target: Path) -> None:
    name = f"format-{FORMAT_VERSION}"
    archive, record = target / f"{name}.zip", target / f"{name}.json"
    for path in (archive, record):
        if path.exists():
            raise SystemExit(f"{path} exists: the fixture of a format is written once")
    with tempfile.TemporaryDirectory() as work:
        folder = Path(work)
        store = folder / f"{name}.sifu"
        write_store(store)
        recorded = history(store, folder)
        record.write_text(json.dumps(recorded, ensure_ascii=False, indent=2) + "\n", encoding="utf-8")
        with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as out:
            for path in sorted(store.rglob("*")):
                entry = zipfile.ZipInfo(f"{path.relative_to(folder)}" + ("/" if path.is_dir() else ""))
                entry.compress_type = zipfile.ZIP_DEFLATED
                out.writestr(entry, b"" if path.is_dir() else path.read_bytes())
    sys.stdout.write(f"{archive}: {archive.stat().st_size:,} bytes\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else DATA)
