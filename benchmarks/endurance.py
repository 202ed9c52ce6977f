"""Killed and short of memory, against never killed and all in memory: the same bits, or not.

    python benchmarks/endurance.py             # 1,000 nodes, AdamW, ten minutes of kills; 8 GB of disk, half an hour
    python benchmarks/endurance.py --vocab 4000 --minutes 60 --work /some/folder

One graph trains with ``--share`` of the memory that it takes, is killed (-9) at random moments for ``--minutes``, and
goes on each time where its last commit stands; then the other trains as many steps in one piece, with all the memory
that there is. Every array of the two stores is compared, their settings, the losses that they noted, their held-out
perplexity and the text that they generate. This module must not import torch: see `commands`.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path

import commands
import numpy as np
import report
from report import Line, mib
from sifu_store import Store

HERE = Path(__file__).resolve().parent
FOREVER = 1_000_000  # steps
PAGES = 64  # of an array, compared at a time


class BrokenPromiseError(Exception):
    """A commit that was reported as saved is not there, or something was left behind."""


@dataclass(slots=True)
class Killed:
    """What became of the run that was killed: ``steps_lost`` were made after its last commits, and made again."""

    kills: int = 0
    seconds: float = 0.0
    steps_lost: int = 0
    peak_bytes: int = 0
    cache: dict[str, float] = field(default_factory=dict)


def train(store: Path, *options: object) -> list[str]:
    """The command."""
    fixed = ("--eval-every", 0, "--quiet", "--json", "--store", store)
    return [sys.executable, "-m", "sifu_cli", "train", *map(str, (*options, *fixed))]


def step_of(store: Path) -> int:
    """The step of the last commit."""
    with Store.open(store) as opened:
        saved = opened.settings["training"]
        return int(saved["step"]) if saved else 0


def metrics(store: Path) -> list[dict[str, object]]:
    """The lines of the metrics file, a torn last one left out."""
    path, found = store / "metrics.jsonl", []
    for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else []:
        try:
            found.append(json.loads(line))
        except json.JSONDecodeError:
            break
    return found


def curve(store: Path) -> list[list[object]]:
    """What the metrics file says of every step, apart from times, snapshots and the cache."""
    names = ("step", "tokens", "loss", "perplexity", "heldout_perplexity")
    return [[line.get(name) for name in names] for line in metrics(store)]


def anonymous_bytes(pid: int) -> int:
    """Memory of a process that no file stands behind; 0 where the system does not say or it is gone."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text(encoding="ascii").splitlines()
    except OSError:
        return 0
    return sum(int(line.split()[1]) * 1024 for line in lines if line.startswith(("RssAnon", "RssShmem")))


def kill_for(store: Path, minutes: float, command: list[str], *, seed: int, most_steps: int) -> Killed:
    """Starts the command again and again and kills it, until so many minutes have passed and it made a commit.

    Each time it makes some new steps, one to ``most_steps``; then it is killed within about the time of one more.
    """
    rng, done, last, began = random.Random(seed), Killed(), 0, time.monotonic()
    while done.seconds < minutes * 60 or last == 0:
        goal, seen, slowest, tick = last + rng.randint(1, most_steps), last, 0.0, time.monotonic()
        child = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        end = None
        while end is None or time.monotonic() < end:
            time.sleep(0.02)
            if child.poll() is not None:
                raise BrokenPromiseError(f"the run ended by itself, with exit code {child.returncode}")
            done.peak_bytes = max(done.peak_bytes, anonymous_bytes(child.pid))
            step = int(str(metrics(store)[-1]["step"])) if end is None and metrics(store) else seen
            if step > seen:
                seen, slowest, tick = step, max(slowest, time.monotonic() - tick), time.monotonic()
                end = tick + rng.uniform(0, slowest) if step >= goal else None
        child.send_signal(signal.SIGKILL)
        child.wait()
        done.kills += 1
        done.seconds = time.monotonic() - began
        step, lines = step_of(store), metrics(store)
        said = [int(str(line["step"])) for line in lines if "snapshot" in line]
        if step < max([last, *said]):
            raise BrokenPromiseError(f"the store stands at step {step}; step {max([last, *said])} was saved")
        if list((store / "scratch").glob("*")):
            raise BrokenPromiseError(f"{store / 'scratch'} is not empty")
        done.steps_lost += max([step, *(int(str(line["step"])) for line in lines)]) - step
        last = step
        shown = f"kill {done.kills} after {done.seconds:.0f} s: step {step}, {mib(done.peak_bytes)} peak"
        print(shown, file=sys.stderr, flush=True)
    return done


def differences(one: Path, two: Path) -> tuple[list[str], int]:
    """What differs between two stores, and the bytes that were compared."""
    found, compared = [], 0
    with Store.open(one) as a, Store.open(two) as b:
        if a.settings != b.settings:
            found.append("settings")
        found += sorted(set(a.names()) ^ set(b.names()))
        for name in sorted(set(a.names()) & set(b.names())):
            pages = len(a.page_stored()) if a.is_paged(name) else 0
            for first in range(0, max(1, pages), PAGES):
                run = first, min(first + PAGES, pages)
                x, y = (s.read_pages(name, *run) if pages else s.read(name) for s in (a, b))
                compared += x.nbytes
                if x.dtype != y.dtype or not np.array_equal(x.view(np.uint8), y.view(np.uint8)):
                    found.append(name)
                    break
    return found, compared


def endure(options: argparse.Namespace, folder: Path) -> Line:
    """Both runs, and what differs."""
    whole, paged = folder / "whole.sifu", folder / "paged.sifu"
    built = commands.sifu(
        "build-graph", "--signal", "tuned", "--vocab", str(options.vocab), "--sparsify", str(options.sparsify),
        "--store", whole, "tang",
    ).fields  # fmt: skip
    shutil.copytree(whole, paged)
    estimate = commands.sifu("estimate", "--store", whole, "--optimizer", options.optimizer).fields
    touched = int(estimate["whole_bytes"])
    budget = int(touched * options.share)
    same = ("--optimizer", options.optimizer, "--batch", options.batch, "--seed", options.seed)
    short = ("--host-memory", budget, "--commit-every", options.commit_every)

    killed = kill_for(
        paged,
        options.minutes,
        train(paged, "--steps", FOREVER, *same, *short),
        seed=options.seed,
        most_steps=options.most_steps,
    )
    last = commands.run(train(paged, "--steps", options.commit_every, *same, *short)).fields
    killed.cache = last["cache"]
    steps = step_of(paged)
    uninterrupted = commands.run(train(whole, "--steps", steps, *same, "--commit-every", 0))

    wrong, compared = differences(whole, paged)
    if curve(whole) != curve(paged):
        wrong.append("metrics.jsonl")
    text = ("generate", "春風", "--tokens", "200", "--seed", "1")
    results: list[list[object]] = []
    for store, limit in ((whole, ()), (paged, ("--host-memory", str(budget)))):
        scored = commands.sifu("eval", "--store", store, *limit).fields
        written = commands.sifu(*text, "--store", store, *limit).fields
        results.append([scored["perplexity"], written["text"]])
    wrong += [what for what, a, b in zip(("perplexity", "text"), *results, strict=True) if a != b]
    with Store.open(paged) as store:
        if not store.verify().ok:
            wrong.append("sifu verify")
    print(f"{results[0][0]}\n{results[0][1]}", file=sys.stderr)
    return Line(
        measure=f"{built['nodes']:,} nodes, {built['private_edges']:,} private edges, {options.optimizer}: "
        f"{mib(touched)} touched within {mib(budget)}, killed (-9) for {options.minutes:g} minutes and resumed",
        must="the same bits as never killed nor short of memory",
        measured=f"{'the same' if not wrong else 'DIFFERENT: ' + ', '.join(wrong)}: {compared:,} bytes, "
        f"{steps:,} steps, {killed.kills} kills in {killed.seconds / 60:.1f} minutes, {killed.steps_lost} steps made "
        f"again, {mib(killed.peak_bytes)} peak anonymous memory against {mib(uninterrupted.peak_bytes)}",
        met=not wrong,
        figures={"killed": asdict(killed), "steps": steps, "budget_bytes": budget, "touched_bytes": touched},
    )


def parsed(arguments: list[str] | None = None) -> argparse.Namespace:
    """The options."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--vocab", type=int, default=1000)
    parser.add_argument("--sparsify", type=float, default=0.1)
    parser.add_argument("--optimizer", default="adamw")
    parser.add_argument("--batch", type=int, default=32, help="chunks (default: 32)")
    parser.add_argument("--share", type=float, default=0.1, help="of the memory that all takes (default: 0.1)")
    parser.add_argument("--minutes", type=float, default=10.0, help="of being killed (default: 10)")
    parser.add_argument("--commit-every", type=int, default=3, help="steps (default: 3)")
    parser.add_argument("--most-steps", type=int, default=12, help="until the next kill (default: 12)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--work", type=Path, help="folder for the two graphs, kept; default: a temporary one")
    parser.add_argument("--output", type=Path, default=HERE / "results", help="default: benchmarks/results")
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> int:
    """The command."""
    options = parsed(arguments)
    with tempfile.TemporaryDirectory() as scratch:
        folder = options.work or Path(scratch)
        folder.mkdir(parents=True, exist_ok=True)
        line = endure(options, folder)
    print(report.markdown([line]))
    settings = {"sizes": "full", "settings": {k: v for k, v in vars(options).items() if k not in ("work", "output")}}
    for path in report.write([line], settings, folder=options.output, prefix="endurance-"):
        print(f"written: {path}", file=sys.stderr)
    return 0 if line.met else 1


if __name__ == "__main__":
    sys.exit(main())
