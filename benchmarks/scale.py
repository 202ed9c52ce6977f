"""A graph of a hundred billion parameters on one machine: every command, its time, memory and disk space.

    python benchmarks/scale.py --work DIR                      # 40,000 nodes, 96 million private edges; an hour, 40 GB
    python benchmarks/scale.py --work DIR --tokens 6e6 --nodes 10000

Each step runs in a process of its own. Memory is the greatest sum of anonymous and shared memory (RssAnon + RssShmem)
that the process had, sampled; files that are mapped are not counted, because the system drops their pages when it needs
memory. This module must not import torch before a step begins.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from commands import size_bytes
from report import mib

SAMPLED_S = 0.05
HOST_MEMORY = "2GiB"
BATCH = 2  # chunks of a step of training: each reads and writes some million edges
TOKENS = 1000  # generated
EVALUATED = 100  # tokens; each meets a row of some ten thousand edges
PRUNED = 0.997  # of the private edges that are kept


def steps(arguments: argparse.Namespace) -> dict[str, Callable[[], dict[str, Any]]]:
    """What is measured, by its name, in order. Each returns the figures to show."""
    from synthetic import SyntheticCorpus

    from sifu_graph import Graph, build_graph

    path = arguments.work / "scale.sifu"
    corpus = SyntheticCorpus(int(arguments.tokens), kinds=arguments.nodes)

    def graph() -> Graph:
        return Graph.open(path, host_memory=HOST_MEMORY)

    def build() -> dict[str, Any]:
        found = build_graph(
            corpus, path, vocab=arguments.nodes, sparsify=arguments.sparsify, signal="tuned", holdout=0, force=True
        )
        names = ("nodes", "private_edges", "stored_parameters", "corpus_tokens", "distinct_pairs", "coverage")
        return {name: getattr(found, name) for name in names}

    def info() -> dict[str, Any]:
        with graph() as opened:
            found = opened.info()
        return {"private_edges": found.private_edges, "trained_pages": found.trained_pages}

    def generate(tokens: int) -> dict[str, Any]:
        with graph() as opened:
            prompt = "".join(opened.tokenizer.vocabulary[2:4])
            began = time.perf_counter()
            text = opened.generate(prompt, tokens=tokens).text
            return {"generating_s": time.perf_counter() - began, "characters": len(text)}

    def evaluate() -> dict[str, Any]:
        with graph() as opened:
            other = SyntheticCorpus(EVALUATED, kinds=arguments.nodes, seed=1)
            return {"perplexity": opened.evaluate(other).perplexity}

    def train() -> dict[str, Any]:
        with graph() as opened:
            report = opened.train(corpus, steps=3, batch=BATCH, eval_every=0)
            return {"steps": report.steps_done, "trained_pages": opened.info().trained_pages}

    def add_node() -> dict[str, Any]:
        with graph() as opened:
            return {"edges_added": opened.add_node("new", like=opened.tokenizer.vocabulary[100]).edges_added}

    def prune() -> dict[str, Any]:
        with graph() as opened:
            edges = opened.info().private_edges
            report = opened.prune(to_ratio=PRUNED * edges / len(opened.tokenizer) ** 2)
            return {"edges_removed": report.edges_removed}

    def undo() -> dict[str, Any]:
        with graph() as opened:
            opened.undo(steps=2)
            return {"private_edges": opened.info().private_edges}

    return {
        "build": build,
        "open and info": info,
        "first token": lambda: generate(1),
        f"{TOKENS} tokens": lambda: generate(TOKENS),
        f"eval of {EVALUATED} tokens": evaluate,
        "add a node like another one": add_node,
        "prune 0.3 % of the edges": prune,
        "undo both": undo,
        f"3 steps of training, {BATCH} chunks each": train,
    }


def held_bytes(pid: int) -> int:
    """The anonymous and shared memory of a process; 0 if it has ended."""
    try:
        status = Path(f"/proc/{pid}/status").read_text(encoding="ascii")
    except OSError:
        return 0
    fields = dict(line.split(":", 1) for line in status.splitlines())
    return sum(1024 * int(fields.get(name, "0 kB").split()[0]) for name in ("RssAnon", "RssShmem"))


def measured(arguments: argparse.Namespace, name: str) -> dict[str, Any]:
    """Runs one step in a process of its own."""
    command = [sys.executable, str(Path(__file__).resolve()), *sys.argv[1:], "--step", name]
    began, peak, disk, looked = time.perf_counter(), 0, 0, 0.0
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        while process.poll() is None:
            peak = max(peak, held_bytes(process.pid))
            if time.perf_counter() - looked > 2.0:
                stat, looked = os.statvfs(arguments.work), time.perf_counter()
                disk = max(disk, arguments.free_bytes - stat.f_bavail * stat.f_frsize)
            time.sleep(SAMPLED_S)
        assert process.stdout is not None
        out = process.stdout.read()
    if process.returncode:
        return {"step": name, "failed": process.returncode}
    figures = json.loads(out.splitlines()[-1])
    return {
        "step": name,
        "seconds": round(time.perf_counter() - began, 1),
        "peak_bytes": peak,
        "disk_peak_bytes": disk,
        "store_bytes": size_bytes(arguments.work / "scale.sifu"),
        **figures,
    }


def main() -> None:
    """Measures all steps, and prints a table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--nodes", type=int, default=40_000)
    parser.add_argument("--sparsify", type=float, default=0.06)
    parser.add_argument("--tokens", type=float, default=4e8)
    parser.add_argument("--from", dest="first", default="build", help="the step to begin with")
    parser.add_argument("--step", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    arguments.work.mkdir(parents=True, exist_ok=True)
    every = steps(arguments)
    if arguments.step:
        print(json.dumps(every[arguments.step]()))
        return
    stat = os.statvfs(arguments.work)
    arguments.free_bytes = stat.f_bavail * stat.f_frsize
    names = list(every)
    print("| step | seconds | memory | disk, at most | figures |\n|---|---|---|---|---|")
    for name in names[names.index(arguments.first) :]:
        found = measured(arguments, name)
        rest = {key: value for key, value in found.items() if key not in ("step", "seconds", "peak_bytes", "failed")}
        seconds, peak = found.get("seconds", "failed"), mib(found.get("peak_bytes", 0))
        disk, store = (rest.pop(key, 0) / 1e9 for key in ("disk_peak_bytes", "store_bytes"))
        print(f"| {name} | {seconds} | {peak} | {disk:.1f} GB, store {store:.1f} GB | {rest} |", flush=True)


if __name__ == "__main__":
    main()
