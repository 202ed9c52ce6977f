"""Small files that ask for much memory: each is read in a process of its own, which may grow by 200 MiB."""

from __future__ import annotations

import lzma
import os
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from foreign_files import Files

MOST_BYTES = 200 << 20
CHILD = """
import sys
from pathlib import Path
from sifu_store.errors import SifuError
from sifu_graph import build_graph, import_brillm, import_safetensors
from sifu_graph.paging.traffic import read_traffic
kind, path, folder = sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3])
names = {"checkpoint": "model.bin", "vocab": "vocab.json", "frequency": "word_frequency.json"}
given = {name: folder / file for name, file in names.items()}
def run(kind, path, target):
    if kind == "safetensors":
        import_safetensors(path, target)
    elif kind in ("text", "tokens"):
        level = "char" if kind == "text" else "tokens"
        build_graph(path, target, level=level, vocab=100, holdout=0, clones=0, length=8)
    else:
        import_brillm(**{**given, kind: path}, path=target)
def memory(name):
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) << 10 for line in lines if line.startswith(name))
import_brillm(**given, path=folder / "warm.sifu")
(folder / "warm.txt").write_text("ab" * 2000)
build_graph(folder / "warm.txt", folder / "warm2.sifu", vocab=10, holdout=0, clones=0, length=8)
Path("/proc/self/clear_refs").write_text("5")  # the peak begins again
before = memory("VmRSS")
try:
    run(kind, path, folder / "hostile.sifu")
    print("accepted", end=" ")
except SifuError as error:
    print(error, end=" ")
print(memory("VmHWM") - before)
"""


def grown(kind: str, path: Path, files: Files) -> tuple[str, int]:
    """What reading a file said, and by how many bytes the process grew."""
    done = subprocess.run(
        [sys.executable, "-c", CHILD, kind, str(path), str(files.folder)],
        capture_output=True,
        text=True,
        check=True,
        timeout=100,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "OMP_NUM_THREADS": "1"},
    )
    said, size_bytes = done.stdout.rsplit(" ", 1)
    return said, int(size_bytes)


def deflated_pickle(path: Path, files: Files) -> None:
    """A checkpoint of 600 KB whose pickle has 600 MB."""
    with zipfile.ZipFile(files.checkpoint) as old, zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as new:
        for name in old.namelist():
            if not name.endswith("data.pkl"):
                new.writestr(name, old.read(name))
                continue
            with new.open(name, "w") as entry:
                for _ in range(600):
                    entry.write(b"]" * (1 << 20))


def lying_tensor(path: Path, files: Files) -> None:
    torch.save({**files.state, "weights": torch.zeros(1).expand(10**6, 32, 32)}, path)


OBJECTS = b'{"a":[' + b"[]," * (20 << 20) + b"1]}"
WRITTEN: dict[str, tuple[str, str, Callable[[], bytes]]] = {
    "a line of 60 MiB": ("text", "line.jsonl", lambda: b'{"text": "' + b"a" * (60 << 20) + b'"}'),
    "a deep line of 60 MiB": ("text", "deep.jsonl", lambda: b'{"x": ' + b"[" * (60 << 20)),
    "7 MiB of text": ("text", "text.jsonl", lambda: b'{"text": "' + b"ab" * (7 << 19) + b'"}'),
    "7 MiB of tokens": ("tokens", "tokens.jsonl", lambda: b"[" + b"11," * (7 << 18) + b"1]"),
    "7 MiB of objects": ("text", "o.jsonl", lambda: b'{"x": [' + b"{}," * (7 << 18) + b'1], "text": "ab"}'),
    "a vocabulary of 60 MiB": ("vocab", "v.json", lambda: OBJECTS),
    "a vocabulary of 7 MiB": ("vocab", "v.json", lambda: b'{"a":[' + b"[]," * (7 << 18) + b"1]}"),
    "frequencies of 60 MiB": ("frequency", "f.json", lambda: OBJECTS),
    "frequencies of one source": ("frequency", "f.json", lambda: b'{"a":{' + b'"a":1,' * (10 << 20) + b'"a":1}}'),
    "a safetensors header": (
        "safetensors",
        "h.safetensors",
        lambda: (7 << 20).to_bytes(8, "little") + (b'{"a":[' + b"{}," * (7 << 18)).ljust(7 << 20),
    ),
    "an xz file that asks for 1 GiB": (
        "text",
        "bomb.txt.xz",
        lambda: lzma.compress(
            b"a" * 100,
            filters=[{"id": lzma.FILTER_LZMA2, "dict_size": 1 << 30, "mf": lzma.MF_HC3, "mode": lzma.MODE_FAST}],
        ),
    ),
}
"""What reads the file, its name and its content."""
MADE = {"a compressed pickle": deflated_pickle, "a tensor that repeats one value": lying_tensor}
"""Checkpoints."""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="the peak of a process can be reset on Linux only")
@pytest.mark.parametrize("name", [*WRITTEN, *MADE])
def test_the_memory_of_a_hostile_file_is_bounded(name: str, files: Files) -> None:
    if name in MADE:
        kind, path = "checkpoint", files.folder / "hostile.bin"
        MADE[name](path, files)
    else:
        kind, file, content = WRITTEN[name]
        path = files.folder / file
        path.write_bytes(content())
    said, size_bytes = grown(kind, path, files)
    assert size_bytes <= max(MOST_BYTES, 3 * path.stat().st_size), (said[:300], size_bytes >> 20)
    assert said == "accepted" or str(path) in said, said[:300]
