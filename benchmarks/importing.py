"""A checkpoint as large as those of the released BriLLM code: how fast it comes in, and in how much memory.

    python benchmarks/importing.py                 # 4,000 nodes, an 8 GB file; 25 GB of disk, a few minutes
    python benchmarks/importing.py --gigabytes 1

The values are random numbers, the same 64 MiB over and over. The file is out of the system's file cache when the import
begins. Writing and importing run in processes of their own; this one stays small, for a child's peak is at least that.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import commands
import numpy as np
import report
from report import Line, mib

CHECKPOINT, VOCAB, FREQUENCY = "model.bin", "vocab.json", "word_frequency.json"
BLOCK_FLOATS = 16 << 20
MOST_BYTES, LEAST_RATE = 1.5 * (1 << 30), 150e6


def write_files(folder: Path, *, nodes: int, size_bytes: int, width: int = 32) -> None:
    """The checkpoint, its vocabulary, and the frequencies of every ordered pair; those that are 0 have no row."""
    import torch

    rows = min(nodes * nodes, size_bytes // (4 * width * (width + 1)))
    names = [chr(0x4E00 + node) for node in range(nodes)]
    vocab = json.dumps(dict(zip(names, range(nodes), strict=True)), ensure_ascii=False)
    (folder / VOCAB).write_text(vocab, encoding="utf-8")
    private = np.zeros(nodes * nodes, bool)
    private[np.random.default_rng(0).choice(nodes * nodes, rows, replace=False)] = True
    with (folder / FREQUENCY).open("w", encoding="utf-8") as file:
        file.write("{")
        for u, name in enumerate(names):
            row = private[u * nodes : (u + 1) * nodes].astype(int).tolist()
            text = json.dumps(dict(zip(names, row, strict=True)), ensure_ascii=False)
            file.write(f"{', ' if u else ''}{json.dumps(name, ensure_ascii=False)}: {text}")
        file.write("}")
    block = np.random.default_rng(1).uniform(-0.5, 0.5, BLOCK_FLOATS).astype(np.float32)
    with tempfile.TemporaryFile(dir=folder) as values:  # so that it takes no memory of its own

        def tensor(*shape: int) -> torch.Tensor:
            size, begin = int(np.prod(shape)), values.seek(0, os.SEEK_END)
            values.truncate(begin + 4 * size)
            array = np.memmap(values, np.float32, "r+", offset=begin, shape=(size,))
            for at in range(0, size, BLOCK_FLOATS):
                array[at : at + BLOCK_FLOATS] = block[: size - at]
            return torch.from_numpy(array).reshape(shape)

        state = {
            "positions": tensor(1, 512, 1),
            "weights": tensor(rows + 1, width, width),
            "biases": tensor(rows + 1, 1, width),
            "node_bias": tensor(nodes, 1, width),
        }
        torch.save(state, folder / CHECKPOINT)


def main() -> int:
    """The command."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--gigabytes", type=float, default=8.0, help="of the checkpoint (default: 8)")
    parser.add_argument("--nodes", type=int, default=4000, help="default: 4000")
    parser.add_argument("--work", type=Path, help="folder for the files (default: a temporary one)")
    parser.add_argument("--write", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.write:
        write_files(options.write, nodes=options.nodes, size_bytes=int(options.gigabytes * 1e9))
        return 0
    with tempfile.TemporaryDirectory(dir=options.work, prefix="importing-") as scratch:
        folder = Path(scratch)
        subprocess.run([sys.executable, __file__, *sys.argv[1:], "--write", scratch], check=True)
        checkpoint, vocab, frequency = (folder / name for name in (CHECKPOINT, VOCAB, FREQUENCY))
        commands.forget(folder)
        done = commands.sifu(
            "import-brillm", checkpoint, "--vocab", vocab, "--frequency", frequency, "--store", folder / "graph.sifu"
        )
        size_bytes = checkpoint.stat().st_size
    rate = size_bytes / done.seconds
    line = Line(
        f"import of a synthetic checkpoint of {size_bytes / 1e9:.1f} GB",
        "at most 1.5 GiB, at least 150 MB/s",
        f"{mib(done.peak_bytes)}, {rate / 1e6:.0f} MB/s ({done.seconds:.0f} s)",
        met=done.peak_bytes <= MOST_BYTES and rate >= LEAST_RATE,
    )
    print(report.markdown([line]), end="")
    return 0 if line.met else 1


if __name__ == "__main__":
    sys.exit(main())
