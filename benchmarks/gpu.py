"""Checks and times everything that sifu does on one GPU, in a few minutes.

    python benchmarks/gpu.py                          # needs a CUDA device; exit code 2 where there is none
    python benchmarks/gpu.py --device cpu --small     # all of it at toy size, on CPU tensors: no figure means a thing

Prints a table in Markdown and writes it, with the numbers behind it, to ``--output``. Rates are of whole steps (the
device has finished when a step returns its loss); limits are measured in the same process. Rows that check come
first: where one of them fails, the exit code is 1.
"""

from __future__ import annotations

import argparse
import dataclasses
import random
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import report
import torch
from report import Line, giga, mib, percent
from sifu_store.layout import BIAS, WEIGHT

from sifu_graph import build_graph
from sifu_graph import device as devices
from sifu_graph.config import PRESETS, OptimizerConfig
from sifu_graph.device import Precision
from sifu_graph.generation.sampler import Sampler
from sifu_graph.generation.walk import Walk
from sifu_graph.graph import Graph
from sifu_graph.model import forward
from sifu_graph.ops import contest
from sifu_graph.ops.contest import ContestBackend
from sifu_graph.ops.contest_native import cpu_contest
from sifu_graph.ops.contest_tiled import TiledContest
from sifu_graph.paging.device_pool import DevicePool
from sifu_graph.text.batches import Batches
from sifu_graph.text.tokenizer import UNKNOWN
from sifu_graph.training import step as steps

HERE = Path(__file__).resolve().parent
DATA = HERE.parents[1] / "shared" / "data"
TEXTS = ("zh_tang.txt.xz", "zh_song.txt.xz")
ORACLE = HERE.parent / "tests" / "support"


@dataclass(frozen=True, slots=True, kw_only=True)
class Size:
    """How much is done."""

    vocab: int = 4000
    sparsify: float = 0.1
    batch: int = 1024  # chunks
    steps: int = 5  # that are timed, after two
    tokens: int = 2000  # decoded
    matrix: int = 8192
    copied_bytes: int = 1 << 30


SMALL = Size(vocab=110, sparsify=1.0, batch=4, steps=1, tokens=20, matrix=64, copied_bytes=1 << 20)


@dataclass(frozen=True, slots=True)
class Bench:
    """What every measure is given."""

    device: torch.device
    store: Path
    size: Size

    @property
    def name(self) -> str:
        """As `Graph.open` takes it."""
        return str(self.device)

    def wait(self) -> None:
        """Until the device has finished."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def best_s(self, work: Callable[[], object], *, tries: int = 5) -> float:
        """The shortest of several runs, after one that does not count."""
        times = []
        for _ in range(tries + 1):
            self.wait()
            began = time.perf_counter()
            work()
            self.wait()
            times.append(time.perf_counter() - began)
        return min(times[1:])


# ---- is it right


def against_the_oracle(bench: Bench) -> list[Line]:
    """A random graph, one position and one edge at a time, in float64."""
    sys.path.insert(0, str(ORACLE))
    try:
        import oracle
        from graphs import random_graph, texts
    except ImportError:
        return [Line("losses against the naive oracle", "1e-10 (float64)", "not run: tests/support is not here")]
    finally:
        sys.path.remove(str(ORACLE))
    worst = 0.0
    for seed, preset in enumerate(PRESETS):
        config = PRESETS[preset]
        graph = random_graph(seed, nodes=40, share=0.5, config=config)
        parameters = graph.parameters
        pool = parameters.edges
        parameters.tier = DevicePool(pool, TiledContest(bench.device), device_bytes=pool.pages * pool.page_bytes())
        tokens, lengths = texts(seed, nodes=40, batch=3, length=10)
        loss, _, _ = forward.evaluate(parameters, config, tokens, lengths)
        wanted = torch.cat(
            [oracle.run(graph.model, config, row[:n].tolist())[1] for row, n in zip(tokens, lengths, strict=True)]
        )
        worst = max(worst, float((loss.sort()[0] - wanted.detach().flatten().sort()[0]).abs().max()))
    return [_check("losses against the naive oracle, all presets, float64", worst, 1e-10)]


def against_the_cpu(bench: Bench) -> list[Line]:
    """One contest of the real graph, with its gradients and updates, on the device and on the CPU."""
    lines = []
    with Graph.open(bench.store) as graph:
        config, parameters = graph.signal, graph.parameters
        index = parameters.index
        batch = _batches(graph, min(bench.size.batch, 32)).batch_at(0)
        planned = forward.plan(parameters, config, batch.tokens, batch.lengths.astype(np.int64))
        sweep = forward.carry(parameters, config, planned)
        parameters.edges.require(planned.plan.slot.numpy())
        slots, place = np.unique(planned.plan.slot.numpy(), return_inverse=True)
        values = {name: parameters.edges.get(name, slots) for name in (WEIGHT, BIAS)}
        values[WEIGHT] += 0.05 * torch.randn(values[WEIGHT].shape, generator=torch.Generator().manual_seed(0))
        assert index.edges
    found: dict[str, dict[str, torch.Tensor]] = {}
    engines: dict[str, tuple[ContestBackend, torch.device, torch.dtype]] = {
        "float64": (cpu_contest(parameters.width, torch.float64), torch.device("cpu"), torch.float64),
        "float32 on the CPU": (cpu_contest(parameters.width, torch.float32), torch.device("cpu"), torch.float32),
    }
    precisions: list[Precision] = ["float32"]
    if bench.device.type == "cuda":
        precisions += ["tf32", "bf16"]
    for precision in precisions:
        engines[precision] = (TiledContest(bench.device, precision=precision), bench.device, torch.float32)
    for name, (engine, device, dtype) in engines.items():
        found[name] = _trained(engine, device, dtype, planned, sweep, values, torch.from_numpy(place))
    for name, tolerance in (("float32 on the CPU", 1e-4), ("float32", 1e-4), ("tf32", None), ("bf16", None)):
        if name in found:
            gaps = {
                key: float((value.double() - found["float64"][key]).abs().max())
                / max(1e-30, float(found["float64"][key].abs().max()))
                for key, value in found[name].items()
            }
            where = max(gaps, key=lambda key: gaps[key])
            line = _check(
                f"loss, dS, dW, W of a batch of the real graph, {name}, against float64", gaps[where], tolerance
            )
            lines.append(dataclasses.replace(line, limit=f"relative; the farthest: {where}", figures=gaps))
    return lines


def _trained(
    engine: ContestBackend,
    device: torch.device,
    dtype: torch.dtype,
    planned: forward.Batch,
    sweep: forward.Sweep,
    values: dict[str, torch.Tensor],
    place: torch.Tensor,
) -> dict[str, torch.Tensor]:
    """Loss, dS, dW and W after one contest with row-wise updates; every seventh edge is set aside."""
    W, b = (values[name].to(dtype).to(device, copy=True) for name in (WEIGHT, BIAS))
    small = {name: getattr(sweep.rows, name).to(dtype).to(device) for name in ("default_W", "default_b", "pe")}
    rows = contest.Rows(W, b, place, **small, scale=sweep.rows.scale)
    aside = torch.full((len(place),), -1)
    aside[::7] = torch.arange(len(aside[::7]))
    d, group = W.shape[1], dataclasses.replace(planned.plan, log_defaults=planned.plan.log_defaults.to(dtype))
    dW, db = W.new_zeros(len(aside[::7]), d, d), W.new_zeros(len(aside[::7]), d)
    sink = contest.Sink(aside, dW, db, OptimizerConfig(), 1, {"v_row": [W.new_zeros(len(W))]})
    S = sweep.S.to(dtype).to(device)
    outcome, grads = engine.train(rows, group, S, weight=1.0 / len(S), sink=sink)
    loss = outcome.loss(rows.scale)
    return {name: x.cpu() for name, x in {"loss": loss, "dS": grads.dS, "dW": dW, "db": db, "W": W, "b": b}.items()}


def _check(measure: str, gap: float, tolerance: float | None) -> Line:
    must = "" if tolerance is None else f"at most {tolerance:g}"
    met = None if tolerance is None else gap <= tolerance
    return Line(measure=measure, must=must, measured=f"{gap:.1e}", met=met, figures={"gap": gap})


def same_bits(bench: Bench) -> list[Line]:
    """Losses and parameters after three steps, with all of the graph on the device and with parts of it."""
    found = []
    for share in (1.0, 0.5, 0.25, 0.1):
        run = Run(bench, share=share, batch=max(1, bench.size.batch // 4))
        losses = [run.step()[0] for _ in range(3)]
        slots = np.arange(0, run.pool.slots, 61)
        values = [run.pool.get(name, slots).cpu() for name in run.pool.arrays]
        found.append((share, run.frames, losses, values))
        run.close()
    _, _, losses, values = found[0]
    same = all(
        losses == others and all(torch.equal(a, b) for a, b in zip(values, more, strict=True))
        for _, _, others, more in found[1:]
    )
    shares = ", ".join(f"{100 * share:.0f} % ({frames:,} pages)" for share, frames, _, _ in found)
    measured = "the same bits" if same else "OTHER BITS"
    line = Line(f"three steps with {shares} of the graph on the device", "the same bits", measured, met=same)
    return [dataclasses.replace(line, figures={"losses": [losses for _, _, losses, _ in found]})]


# ---- how fast is it


class Run:
    """Takes training steps on the device; nothing is committed."""

    def __init__(
        self,
        bench: Bench,
        *,
        share: float = 1.0,
        batch: int | None = None,
        precision: Precision = "float32",
        compiled: bool = False,
        prefetch: bool = True,
    ) -> None:
        batch = bench.size.batch if batch is None else batch
        self.graph = Graph.open(bench.store)
        self.length, self.optimizer = self.graph.settings["build"]["length"], OptimizerConfig()
        parameters = self.graph.parameters
        self.graph._fit_memory(state=steps.edge_state_arrays(self.optimizer, parameters.width))
        host = parameters.edges
        grouped = TiledContest(bench.device, precision=precision, compiled=compiled)
        device_bytes = max(int(share * host.pages) * host.page_bytes(), host.least_bytes())
        self.pool = parameters.tier = DevicePool(host, grouped, device_bytes=device_bytes, prefetch=prefetch)
        self.frames = self.pool.frames
        self.batches = _batches(self.graph, batch)
        self.done = self.positions = 0
        self.flops = 0.0

    def step(self) -> tuple[float, float]:
        """Loss and seconds."""
        parameters = self.graph.parameters
        batch = self.batches.batch_at(self.done)
        lengths = batch.lengths.astype(np.int64)
        following = self.batches.batch_at(self.done + 1).tokens if self.pool.missing else None
        self.done += 1
        began = time.perf_counter()
        loss, seen = steps.train(
            parameters, self.graph.signal, self.optimizer, batch.tokens, lengths, step=self.done, following=following
        )
        seconds = time.perf_counter() - began
        inner = np.arange(batch.tokens.shape[1] - 1) < lengths[:, None] - 1
        met = parameters.index.row_sizes()[batch.tokens[:, :-1][inner]].sum()
        self.positions += seen
        self.flops += 3 * 2 * float(met) * parameters.width**2
        return loss, seconds

    def timed(self, many: int) -> tuple[float, float]:
        """Positions and floating point operations a second of so many steps, after two that do not count."""
        for _ in range(2):
            self.step()
        self.positions, self.flops = 0, 0.0
        self.pool.stats.reset()
        seconds = sum(self.step()[1] for _ in range(many))
        return self.positions / seconds, self.flops / seconds

    def close(self) -> None:
        """Gives the device's memory back."""
        self.graph.close()


def _batches(graph: Graph, batch: int) -> Batches:
    return Batches(graph._tokens().train, length=graph.settings["build"]["length"], batch=batch, seed=1)


def training(bench: Bench) -> list[Line]:
    """Tokens a second, beside the limit of the matrix products; then with parts of the graph on the device."""
    flops = {"float32": _matrix_flops(bench, "float32")}
    runs: list[tuple[str, dict[str, object]]] = [("float32", {})]
    if bench.device.type == "cuda":
        runs += [("float32, compiled", {"compiled": True}), ("tf32", {"precision": "tf32"})]
        runs += [("bf16", {"precision": "bf16"}), ("bf16, compiled", {"precision": "bf16", "compiled": True})]
        flops |= {name: _matrix_flops(bench, name) for name in ("tf32", "bf16")}
    runs += [(f"float32, {s:.0%} of the graph on the device{w}", {"share": s, "prefetch": p})
             for s in (0.25, 0.1) for p, w in ((True, ""), (False, ", no prefetch"))]  # fmt: skip
    lines, whole = [], 0.0
    for name, options in runs:
        measure = f"training, exact softmax, batches of {bench.size.batch:,} chunks, {name}"
        try:
            run = Run(bench, **options)  # type: ignore[arg-type]
            speed, reached = run.timed(bench.size.steps)
        except Exception as error:  # what does not work here is a line of the table: the others are still wanted
            traceback.print_exc()
            lines.append(Line(measure, "", f"failed: {type(error).__name__}", met=False))
            continue
        whole = whole or speed
        limit = flops[name.split(",")[0]]
        cache = run.pool.report()
        lines.append(
            Line(
                measure=measure,
                must="",
                measured=f"{speed:,.0f} tokens/s ({percent(speed / whole)} of the first row); "
                f"{mib(devices.peak_bytes(bench.device))} at most; hit rate {percent(cache['device_hit_rate'])}, "
                f"{cache['device_stall_s'] / bench.size.steps:.2f} s waited a step",
                limit=f"{percent(reached / limit)} of {giga(limit)} GFLOP/s",
                figures={"tokens_per_s": speed, "flops": reached, "matrix_flops": limit, "cache": cache},
            )
        )
        run.close()
    return lines


def _matrix_flops(bench: Bench, precision: str) -> float:
    """Floating point operations a second of large products."""
    n = bench.size.matrix
    a, b = torch.randn(2, n, n, device=bench.device)
    if precision == "bf16":
        a, b = a.bfloat16(), b.bfloat16()
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high" if precision == "tf32" else "highest")
    try:
        return 2.0 * n**3 / bench.best_s(lambda: torch.mm(a, b))
    finally:
        torch.set_float32_matmul_precision(before)


def copying(bench: Bench) -> list[Line]:
    """All pages in, and the changed ones out, beside plain copies of pinned memory."""
    pinned = torch.empty(bench.size.copied_bytes, dtype=torch.uint8, pin_memory=bench.device.type == "cuda")
    there = torch.empty_like(pinned, device=bench.device)
    link = {
        "in": len(pinned) / bench.best_s(lambda: there.copy_(pinned, non_blocking=True)),
        "out": len(pinned) / bench.best_s(lambda: pinned.copy_(there, non_blocking=True)),
    }
    run = Run(bench)
    host, pool = run.graph.parameters.edges, run.pool
    host.buffer.bring(np.arange(host.pages))
    for array in host.arrays.values():
        array += 0.0  # pages that nobody wrote to are not real memory yet
    began = time.perf_counter()
    pool.require(np.arange(pool.slots))
    found = {"in": pool.copies.bytes_in / (time.perf_counter() - began)}
    pool.touch(np.arange(pool.pages))
    began = time.perf_counter()
    pool.write_back()
    found["out"] = pool.copies.bytes_out / (time.perf_counter() - began)
    run.close()
    return [
        Line(
            measure=f"{pool.pages:,} pages {way} the device",
            must="",
            measured=f"{giga(found[key])} GB/s",
            limit=f"{percent(found[key] / link[key])} of {giga(link[key])} GB/s, pinned memory in one piece",
            figures={"bytes_per_s": found[key], "link": link[key]},
        )
        for key, way in (("in", "to"), ("out", "back from"))
    ]


def decoding(bench: Bench) -> list[Line]:
    """Greedy along held-out text, on the device with all of the graph, with a tenth of it, and on the CPU."""
    lines, chosen_by = [], {}
    for name, share in (("the device", 1.0), ("the device, 10 % of the graph there", 0.1), ("the CPU", None)):
        with Graph.open(bench.store) as graph:
            graph._fit_memory()
            parameters, ids = graph.parameters, graph._tokens().heldout.ids[: bench.size.tokens].astype(int).tolist()
            host = parameters.edges
            host.buffer.bring(np.arange(host.pages))
            if share is not None:
                device_bytes = max(int(share * host.pages) * host.page_bytes(), host.least_bytes())
                parameters.tier = DevicePool(host, TiledContest(bench.device), device_bytes=device_bytes)
                if parameters.tier.resident:
                    parameters.tier.require(np.arange(host.slots))
            walk, sampler = Walk(parameters, graph.signal, forbidden=[UNKNOWN]), Sampler(temperature=0.0)
            rng = np.random.default_rng(0)
            parameters.working.stats.reset()
            walk.start(ids[0])
            chosen, began = [], time.perf_counter()
            for node in ids[1:]:
                chosen.append(walk.choose(sampler, rng))
                walk.carry(node)
            speed = len(chosen) / (time.perf_counter() - began)
            chosen_by[name] = chosen
            hits = graph.cache().get("device_hit_rate", 1.0)
            lines.append(
                Line(
                    measure=f"decoding, greedy, along {len(ids):,} tokens of held-out text, on {name}",
                    must="",
                    measured=f"{speed:,.0f} tokens/s; hit rate {percent(hits)}",
                    figures={"tokens_per_s": speed, "hit_rate": hits},
                )
            )
    first, tenth, cpu = chosen_by.values()
    agree = sum(a == b for a, b in zip(first, cpu, strict=True)) / max(1, len(cpu))
    measured = "the same" if first == tenth else "OTHERS"
    lines.append(
        Line(
            "tokens chosen with 10 % of the graph on the device", "those with all of it", measured, met=first == tenth,
            limit=f"{percent(agree)} are those that the CPU chooses", figures={"agree_with_cpu": agree},
        )
    )  # fmt: skip
    return lines


MEASURES = {
    "oracle": against_the_oracle,
    "cpu": against_the_cpu,
    "bits": same_bits,
    "training": training,
    "copying": copying,
    "decoding": decoding,
}


def built(folder: Path, size: Size, *, small: bool) -> Path:
    """A graph of poems; a small one of a few characters."""
    corpus: list[str | Path] = [DATA / name for name in TEXTS if (DATA / name).is_file()] or ["tang"]
    if small:
        draw = random.Random(0)
        text = folder / "text.txt"
        characters = [chr(0x4E00 + k) for k in range(100)]
        lines = ("".join(draw.choices(characters, range(150, 50, -1), k=40)) for _ in range(300))
        text.write_text("\n".join(lines), encoding="utf-8")
        corpus = [text]
    build_graph(
        corpus,
        folder / "graph.sifu",
        vocab=size.vocab,
        sparsify=size.sparsify,
        holdout=0.1 if small else 0.02,
        signal="tuned",
    )
    return folder / "graph.sifu"


def main(arguments: list[str] | None = None) -> int:
    """The command."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--device", default="cuda", help="cuda, cuda:N, or cpu (with --small)")
    parser.add_argument("--small", action="store_true", help="toy size: to see that all of it runs")
    parser.add_argument("--only", nargs="+", choices=MEASURES, help="only these")
    parser.add_argument("--output", type=Path, default=HERE / "results", help="default: benchmarks/results")
    options = parser.parse_args(arguments)
    try:
        device = devices.parse_device(options.device)
    except devices.OptionError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    size = SMALL if options.small else Size()
    torch.manual_seed(0)
    lines: list[Line] = []
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(device, built(Path(folder), size, small=options.small), size)
        for name, measure in MEASURES.items():
            if options.only is None or name in options.only:
                began = time.perf_counter()
                try:
                    found = measure(bench)
                except Exception as error:  # the other measures are still wanted
                    traceback.print_exc()
                    found = [Line(name, "", f"failed: {type(error).__name__}: {error}"[:200], met=False)]
                for line in found:
                    print(f"  {line.measure}: {line.measured}; {line.limit}", file=sys.stderr, flush=True)
                lines += found
                print(f"{name}: {time.perf_counter() - began:.0f} s", file=sys.stderr, flush=True)
    what = torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU tensors: no figure means a thing"
    print(f"{what}, torch {torch.__version__}\n\n{report.markdown(lines)}")
    settings = {"sizes": "small" if options.small else "full", "device": what, "torch": torch.__version__}
    for path in report.write(lines, settings, folder=options.output, prefix="gpu-"):
        print(f"written: {path}", file=sys.stderr)
    return 0 if all(line.met is not False for line in lines) else 1


if __name__ == "__main__":
    sys.exit(main())
