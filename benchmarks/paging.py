"""A graph that does not fit: training and decoding within a budget of memory, beside all of it in memory.

    python benchmarks/paging.py            # Tang + Song, 4,000 nodes, 10 % private; about 20 minutes, 30 GB of disk
    python benchmarks/paging.py --quick    # 1,000 nodes, a minute or two

Prints a table in Markdown and writes it, with the numbers behind it, to ``--output``. Each measure runs in a process of
its own. Ratios are of steps (or stretches of text) taken in turns within one process, with and without the budget.
"""

from __future__ import annotations

import argparse
import dataclasses
import gc
import json
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import commands
import numpy as np
import report
import torch
from main_job import DATA, TEXTS
from report import Line, mib, percent
from sizes import SIZES, Sizes

from sifu_graph.config import OptimizerConfig
from sifu_graph.generation.sampler import Sampler
from sifu_graph.generation.walk import Walk
from sifu_graph.graph import Graph
from sifu_graph.text.batches import Batches
from sifu_graph.text.tokenizer import UNKNOWN
from sifu_graph.training import step as steps

HERE = Path(__file__).resolve().parent
MEASURES = ("training-memory", "training", "resident", "store", "prefetch", "generating-memory", "decoding")
ALLOWANCE_BYTES = 400 << 20  # for Python, the libraries, the index and a batch's positions


def anonymous_bytes() -> int:
    """Memory of this process that no file stands behind."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return sum(int(line.split()[1]) * 1024 for line in lines if line.startswith(("RssAnon", "RssShmem")))


class Peak:
    """The most anonymous memory since it was made."""

    def __init__(self) -> None:
        self.bytes = anonymous_bytes()
        threading.Thread(target=self._watch, daemon=True).start()

    def _watch(self) -> None:
        while True:
            self.bytes = max(self.bytes, anonymous_bytes())
            time.sleep(0.005)


class Runner:
    """Takes training steps on a graph in memory; nothing is committed."""

    def __init__(self, store: Path, *, host_memory: int | None, batch: int, optimizer: OptimizerConfig) -> None:
        self.graph = Graph.open(store, host_memory=host_memory, scratch=store.parent / "scratch")
        self.length = self.graph.settings["build"]["length"]
        self.optimizer = optimizer
        state = steps.edge_state_arrays(optimizer, self.graph.parameters.width)
        self.graph._fit_memory(state=state, trained_edges=batch * self.length)
        self.pool = self.graph.parameters.edges
        self.batches = Batches(self.graph._tokens().train, length=self.length, batch=batch, seed=1)
        self.done = 0

    @property
    def whole_bytes(self) -> int:
        """What all pages take, with their state."""
        return self.pool.pages * self.pool.page_bytes()

    def step(self) -> tuple[float, float]:
        """Loss and seconds."""
        batch = self.batches.batch_at(self.done)
        following = self.batches.batch_at(self.done + 1).tokens if self.pool.missing else None
        self.done += 1
        began = time.perf_counter()
        loss, _ = steps.train(
            self.graph.parameters, self.graph.signal, self.optimizer, batch.tokens, batch.lengths.astype(np.int64),
            step=self.done, following=following,
        )  # fmt: skip
        return loss, time.perf_counter() - began


def training(store: Path, sizes: Sizes) -> list[Line]:
    """A quarter of what the run touches, against all of it, step by step in turns."""
    return [
        _quarter(store, sizes, batch) for batch in (sizes.large_batch // 2, sizes.large_batch, 2 * sizes.large_batch)
    ]


def _quarter(store: Path, sizes: Sizes, batch: int) -> Line:
    whole = Runner(store, host_memory=None, batch=batch, optimizer=OptimizerConfig())
    paged = Runner(store, host_memory=whole.whole_bytes // 4, batch=batch, optimizer=OptimizerConfig())
    seconds: list[tuple[float, float]] = []
    same = True
    for at in range(2 + sizes.paging_steps):
        (loss, resident_s), (other, paged_s) = whole.step(), paged.step()
        same &= loss == other
        if at >= 2:  # the first steps bring the pages in
            seconds.append((resident_s, paged_s))
    some = np.arange(0, whole.pool.slots, 97)
    same &= all(torch.equal(whole.pool.get(name, some), paged.pool.get(name, some)) for name in whole.pool.arrays)
    ratio = float(np.median([b / a for a, b in seconds]))
    found = paged.pool.report()
    whole_bytes, steps_taken = whole.whole_bytes, paged.done
    whole.graph.close()
    paged.graph.close()
    del whole, paged
    gc.collect()  # the next batch size needs the memory
    return Line(
        measure=f"training within 25 % of {whole_bytes / 2**30:.1f} GiB, batches of {batch:,} chunks",
        must="at most 1.25 times slower, the same bits",
        measured=f"{ratio:.2f} times slower; {'the same bits' if same else 'OTHER BITS'}; "
        f"hit rate {percent(found['hit_rate'])}, {found['stall_s'] / steps_taken:.1f} s waited a step",
        limit=f"{np.median([a for a, _ in seconds]):.1f} s a step with everything in memory",
        met=same and ratio <= 1.25,
        figures={"seconds": seconds, "ratio": ratio, "same": same, "cache": found},
    )


def resident(store: Path, sizes: Sizes) -> list[Line]:
    """What the cache's own work costs where everything is in memory: copies of the path's edges, and bookkeeping."""
    runner = Runner(store, host_memory=None, batch=sizes.large_batch // 2, optimizer=OptimizerConfig())
    pool, spent = runner.pool, [0.0]

    def timed(name: str) -> None:
        work = getattr(pool, name)

        def call(*arguments: object, **options: object) -> object:
            began = time.perf_counter()
            try:
                return work(*arguments, **options)
            finally:
                spent[0] += time.perf_counter() - began

        setattr(pool, name, call)

    for _ in range(2):
        runner.step()
    for name in ("stage", "unstage", "parts", "place"):
        timed(name)
    seconds = sum(runner.step()[1] for _ in range(sizes.paging_steps))
    share = spent[0] / seconds
    return [
        Line(
            measure="everything in memory: the cache's share of a step (copies out and back, tables)",
            must="at most 3 %",
            measured=percent(share),
            limit="of the step's seconds",
            met=share <= 0.03,
            figures={"share": share, "seconds": seconds},
        )
    ]


def training_memory(store: Path, sizes: Sizes) -> list[Line]:
    """The process measures itself: AdamW state pages with its edges."""
    peak = Peak()
    optimizer = OptimizerConfig.of(kind="adamw")
    budget = sizes.training_budget_bytes
    runner = Runner(store, host_memory=budget, batch=sizes.large_batch // 2, optimizer=optimizer)
    for _ in range(2):
        runner.step()
    touched = int(runner.pool.table.dirty.sum()) * runner.pool.page_bytes()
    return [
        _memory_line(
            "training, AdamW", peak.bytes, budget, f"{touched / 2**30:.1f} GiB of pages touched", runner.pool.report()
        )
    ]


def generating_memory(store: Path, sizes: Sizes) -> list[Line]:
    """On the trained store that the measure ``store`` left."""
    peak = Peak()
    budget = sizes.generating_budget_bytes
    with Graph.open(store, host_memory=budget, scratch=store.parent / "scratch") as graph:
        made = graph.generate("春風", tokens=sizes.greedy_tokens, seed=1)
        found = graph.cache()
    remark = f"{made.tokens:,} tokens, {made.tokens_per_s:,.0f} a second from a cold store"
    return [_memory_line("generating", peak.bytes, budget, remark, found)]


def _memory_line(what: str, peak: int, budget: int, remark: str, cache: dict[str, float | int]) -> Line:
    return Line(
        measure=f"peak anonymous memory, {what}, --host-memory {mib(budget)}",
        must=f"at most {mib(budget)} + 400 MiB",
        measured=f"{mib(peak)}; {remark}",
        met=peak <= budget + ALLOWANCE_BYTES,
        figures={"peak_bytes": peak, "budget_bytes": budget, "cache": cache},
    )


def trained_store(store: Path, sizes: Sizes) -> list[Line]:
    """Every page trained and committed, within a budget."""
    with Graph.open(store, host_memory=sizes.training_budget_bytes) as graph:
        began = time.perf_counter()
        done = graph.train(steps=2, batch=sizes.large_batch, eval_every=0)
        seconds = time.perf_counter() - began
        share = float(graph.store.page_stored().mean())
        size = graph.store.size_bytes()
    return [
        Line(
            measure=f"two steps and a commit within {mib(sizes.training_budget_bytes)}",
            must="",
            measured=f"{seconds:.0f} s; {percent(share)} of the pages are stored, {size / 2**30:.1f} GiB",
            figures={"seconds": seconds, "store_bytes": size, "cache": done.cache},
        )
    ]


def prefetch(store: Path, sizes: Sizes) -> list[Line]:
    """The first steps of a run on the trained store, out of the file cache, with and without the background thread."""
    lines = []
    for batch, share in ((sizes.large_batch // 16, 1.0), (sizes.large_batch // 2, 1.0), (sizes.large_batch, 0.25)):
        seconds, stall = {}, {}
        for on in (False, True):
            commands.forget(store)
            pages = Graph.open(store)
            whole = pages.parameters.edges.pages * pages.parameters.edges.page_bytes()
            pages.close()
            budget = None if share == 1.0 else int(share * whole)
            runner = Runner(store, host_memory=budget, batch=batch, optimizer=OptimizerConfig())
            runner.pool.prefetch = on
            seconds[on] = sum(runner.step()[1] for _ in range(3))
            stall[on] = runner.pool.stats.stall_s
            runner.graph.close()
        ratio = seconds[False] / seconds[True]
        where = "everything in memory" if share == 1.0 else f"{percent(share)} in memory"
        lines.append(
            Line(
                measure=f"prefetch on against off, three steps of {batch:,} chunks from a cold store, {where}",
                must="1.5 times faster, or the figure that shows why not",
                measured=f"{ratio:.2f} times faster ({seconds[True]:.1f} against {seconds[False]:.1f} s)",
                limit=f"without it {stall[False]:.1f} of {seconds[False]:.1f} s are waiting, with it {stall[True]:.1f}",
                met=True if ratio >= 1.5 else None,
                figures={"seconds": [seconds[False], seconds[True]], "stall_s": [stall[False], stall[True]]},
            )
        )
    return lines


def decoding(store: Path, sizes: Sizes) -> list[Line]:
    """Along held-out text, greedy, with a tenth of the graph in frames; every page was met once before."""
    whole = Graph.open(store)
    whole._fit_memory()
    pool = whole.parameters.edges
    pool.buffer.bring(np.arange(pool.pages))
    tenth = Graph.open(store, host_memory=pool.pages * pool.page_bytes() // 10, scratch=store.parent / "scratch")
    tenth._fit_memory()
    ids = whole.tokens().heldout.ids[: 4 * sizes.paging_tokens].astype(int).tolist()
    sampler, rng = Sampler(temperature=0.0), np.random.default_rng(0)

    def along(graph: Graph, text: list[int]) -> tuple[float, list[int]]:
        walk = Walk(graph.parameters, graph.signal, forbidden=[UNKNOWN])
        walk.start(text[0])
        chosen, began = [], time.perf_counter()
        for node in text[1:]:
            chosen.append(walk.choose(sampler, rng))
            walk.carry(node)
        return len(chosen) / (time.perf_counter() - began), chosen

    cold, _ = along(tenth, ids[: sizes.paging_tokens])
    along(tenth, ids)
    before = tenth.cache()
    speeds, same = [], True
    for begin in range(0, len(ids), sizes.paging_tokens):
        text = ids[begin : begin + sizes.paging_tokens]
        (full, chosen), (part, other) = along(whole, text), along(tenth, text)
        same &= chosen == other
        speeds.append((full, part))
    after = tenth.cache()
    hits = (after["hits"] - before["hits"]) / (after["requests"] - before["requests"])
    ratio = float(np.median([part / full for full, part in speeds]))
    return [
        Line(
            measure=f"decoding {len(ids):,} tokens of held-out text with 10 % of the graph in frames, warm",
            must="at least 50 % of the speed with all of it, the same tokens",
            measured=f"{percent(ratio)}: {np.median([p for _, p in speeds]):,.0f} tokens/s; "
            f"{'the same tokens' if same else 'OTHER TOKENS'}; hit rate {percent(hits)}; cold {cold:,.0f} tokens/s",
            limit=f"{np.median([f for f, _ in speeds]):,.0f} tokens/s with everything in memory",
            met=same and ratio >= 0.5,
            figures={"speeds": speeds, "hit_rate": hits, "ratio": ratio, "cold": cold},
        )
    ]


def in_child(name: str, options: argparse.Namespace, store: Path) -> list[Line]:
    """One measure in a process of its own."""
    command = [sys.executable, __file__, "--row", name, "--sizes", options.sizes, "--store", str(store)]
    try:
        return [Line(**line) for line in commands.run(command).fields["lines"]]
    except subprocess.CalledProcessError as error:
        return [Line(name, "", f"failed with exit code {error.returncode}", met=False)]


def main() -> int:
    """The command."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--sizes", choices=SIZES, default="full", help="how large (default: full)")
    parser.add_argument("--quick", action="store_const", const="quick", dest="sizes", help="--sizes quick")
    parser.add_argument("--only", nargs="+", choices=MEASURES, help="only these, after the build")
    parser.add_argument("--work", type=Path, help="folder for the graph and the scratch file; default: a temporary one")
    parser.add_argument("--output", type=Path, default=HERE / "results", help="default: benchmarks/results")
    parser.add_argument("--row", choices=MEASURES, help=argparse.SUPPRESS)
    parser.add_argument("--store", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    sizes = SIZES[options.sizes]
    if options.row is not None:
        torch.manual_seed(0)
        work = {
            "training-memory": training_memory, "training": training, "resident": resident, "prefetch": prefetch,
            "store": trained_store, "generating-memory": generating_memory, "decoding": decoding,
        }[options.row]  # fmt: skip
        print(json.dumps({"lines": [dataclasses.asdict(line) for line in work(options.store, sizes)]}))
        return 0
    corpus = [str(DATA / name) for name in TEXTS if (DATA / name).is_file()]
    corpus = corpus if corpus and options.sizes == "full" else ["tang"]
    lines: list[Line] = []
    with tempfile.TemporaryDirectory() as scratch:
        folder = options.work or Path(scratch)
        folder.mkdir(parents=True, exist_ok=True)
        store = folder / "graph.sifu"
        if not (options.work and store.exists()):
            lines.append(commands.build(store, corpus, sizes))
        for name in MEASURES:
            if options.only is None or name in options.only:
                for line in in_child(name, options, store):
                    print(f"  {line.measure}: {line.measured}; {line.limit}", file=sys.stderr, flush=True)
                    lines.append(line)
    print(report.markdown(lines))
    settings = {"sizes": options.sizes, "settings": dataclasses.asdict(sizes)}
    for path in report.write(lines, settings, folder=options.output, prefix="paging-"):
        print(f"written: {path}", file=sys.stderr)
    return 0 if all(line.met is not False for line in lines) else 1


if __name__ == "__main__":
    sys.exit(main())
