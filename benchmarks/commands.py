"""The measures taken through the command line, as a user would: build, evaluate, train.

It knows processes, their memory and files. This module must not import torch: on Linux the peak memory that is reported
of a child is at least its parent's.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from report import Line, mib
from sizes import Sizes

BUILD_S, BUILD_PEAK_BYTES, BUILD_STORE_BYTES = 40.0, 1.5 * (1 << 30), 100e6
UNTRAINED_PERPLEXITY = 300.0


@dataclass(frozen=True, slots=True)
class Finished:
    """A command that ended well: its last line of JSON, how long it took, and its greatest resident size."""

    fields: dict[str, Any]
    seconds: float
    peak_bytes: int


def run(command: list[str]) -> Finished:
    """Runs a command to its end; its messages go to our stderr.

    Raises
    ------
    subprocess.CalledProcessError
    """
    with tempfile.TemporaryFile("w+") as out:
        start = time.perf_counter()
        process = subprocess.Popen(command, stdout=out)
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - start
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            raise subprocess.CalledProcessError(process.returncode, command)
        out.seek(0)
        lines = out.read().splitlines()
    unit = 1 if sys.platform == "darwin" else 1024
    return Finished(json.loads(lines[-1]), seconds, usage.ru_maxrss * unit)


def forget(folder: Path) -> None:
    """Asks the system to drop a folder's files from its cache."""
    for file in folder.rglob("*"):
        if file.is_file():
            handle = os.open(file, os.O_RDONLY)
            os.fsync(handle)
            os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_DONTNEED)
            os.close(handle)


def sifu(*arguments: str | Path) -> Finished:
    """``sifu ... --json``."""
    return run([sys.executable, "-m", "sifu_cli", *map(str, arguments), "--json", "--quiet"])


def size_bytes(folder: Path) -> int:
    """Of all files in a folder."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def build(store: Path, corpus: list[str], sizes: Sizes) -> Line:
    """`sifu build-graph`: time, memory, and all that it leaves on disk (the encoded text among it)."""
    done = sifu(
        "build-graph", "--signal", "tuned", "--vocab", str(sizes.vocab), "--sparsify", str(sizes.sparsify),
        "--store", store, *corpus,
    )  # fmt: skip
    on_disk, cache = size_bytes(store), size_bytes(store / "cache")
    fields = done.fields
    return Line(
        measure=f"`sifu build-graph --signal tuned --vocab {sizes.vocab} --sparsify {sizes.sparsify}`, "
        f"{fields['corpus_tokens']:,} tokens, {fields['private_edges']:,} private edges",
        must="at most 40 s, 1.5 GiB peak memory, store 100 MB",
        measured=f"{done.seconds:.1f} s, {mib(done.peak_bytes)} peak, {on_disk / 1e6:.1f} MB on disk "
        f"({cache / 1e6:.1f} MB of it the encoded text)",
        met=done.seconds <= BUILD_S and done.peak_bytes <= BUILD_PEAK_BYTES and on_disk <= BUILD_STORE_BYTES,
        figures={
            "seconds": done.seconds,
            "peak_bytes": done.peak_bytes,
            "disk_bytes": on_disk,
            "cache_bytes": cache,
            "build": fields,
        },
    )


def untrained(store: Path) -> Line:
    """`sifu eval` on all held-out text."""
    done = sifu("eval", "--store", store)
    perplexity, tokens = done.fields["perplexity"], done.fields["tokens"]
    return Line(
        measure="held-out perplexity of the untrained, count-initialised graph",
        must="at most 300",
        measured=f"{perplexity:.1f} over {tokens:,} tokens, {tokens / done.seconds:,.0f} tokens/s with the start",
        met=perplexity <= UNTRAINED_PERPLEXITY,
        figures={"perplexity": perplexity, "tokens": tokens, "seconds": done.seconds},
    )


def trained(store: Path, *, minutes: float, before: float) -> Line:
    """`sifu train --minutes` with the defaults, then `sifu eval` on all held-out text again."""
    run_ = sifu("train", "--minutes", str(minutes), "--store", store).fields
    after = sifu("eval", "--store", store).fields["perplexity"]
    seen = run_.get("tokens_done", run_["tokens"])
    return Line(
        measure=f"held-out perplexity after `sifu train --minutes {minutes:g}` with the defaults",
        must="lower than before",
        measured=f"{before:.1f} before, {after:.1f} after {seen:,} tokens ({run_['tokens_per_s']:,.0f} tokens/s, "
        f"{mib(run_['peak_host_bytes'])} peak)",
        met=after < before,
        figures={"before": before, "after": after, "train": run_},
    )
