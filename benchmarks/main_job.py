"""The main job, end to end on real text: build, evaluate, train, decode, each beside the machine's own limit.

The edges of the graph have matrices of their own (`--signal tuned`).

    python benchmarks/main_job.py                      # everything, about 45 minutes with --minutes 20
    python benchmarks/main_job.py --quick              # smaller sizes, 2-3 minutes
    python benchmarks/main_job.py --reference PATH     # and the released BriLLM code, on the same text

Prints a table in Markdown and writes it, with the numbers behind it, to ``--output``. Every measure runs in a process
of its own, so that none sees the memory of another; this one stays small (see `commands`).
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import commands
import report
from report import Line
from sizes import SIZES, Sizes

HERE = Path(__file__).resolve().parent
DATA = HERE.parents[1] / "shared" / "data"
TEXTS = ("zh_tang.txt.xz", "zh_song.txt.xz")
MEASURES = ("machine", "training", "decoding", "long", "reference-training", "reference-decoding")

ELSEWHERE = [
    Line(
        "kill -9 at 100 random moments of a train-and-commit loop",
        "100 of 100 stores whole",
        "not run here: `make slow` (`tests/store/test_store_crash.py`)",
    ),
    Line(
        "grouped against naive: energies, loss, gradients",
        "1e-5 (float32), 1e-12 (float64)",
        "not run here: `make test` (`tests/mathematics/test_grouped.py`)",
    ),
]


def parsed(arguments: list[str] | None = None) -> argparse.Namespace:
    """The options."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--corpus", nargs="+", help="files; default: Tang and Song beside the project, else `tang`")
    parser.add_argument("--minutes", type=float, default=20.0, help="of `sifu train`; 0: none (default: 20)")
    parser.add_argument("--sizes", choices=SIZES, default="full", help="how large (default: full)")
    parser.add_argument("--quick", action="store_const", const="quick", dest="sizes", help="--sizes quick --minutes 0")
    parser.add_argument("--reference", type=Path, help="a checkout of https://github.com/brillm05/BriLLM0.5")
    parser.add_argument("--output", type=Path, default=HERE / "results", help="default: benchmarks/results")
    parser.add_argument("--work", type=Path, help="folder for the graph, kept; default: a temporary one")
    parser.add_argument("--only", nargs="+", choices=[*MEASURES, "train"], help="only these, after the build")
    parser.add_argument("--row", choices=MEASURES, help=argparse.SUPPRESS)  # the work of a child process
    parser.add_argument("--store", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.sizes != "full":
        options.minutes = 0.0
    if options.corpus is None:
        found = [str(DATA / name) for name in TEXTS if (DATA / name).is_file()]
        options.corpus = found if found and options.sizes == "full" else ["tang"]
    return options


def measured(options: argparse.Namespace, name: str) -> list[Line]:
    """One measure, in this process."""
    import torch  # heavy, and only needed here

    torch.manual_seed(0)
    sizes = SIZES[options.sizes]
    if name == "machine":
        return machine_lines()
    if name.startswith("reference"):
        import reference

        work = reference.training if name == "reference-training" else reference.decoding
        return work(options.reference, options.corpus, sizes)
    import engine

    measure = {"training": engine.training, "decoding": engine.decoding, "long": engine.long_generation}[name]
    return measure(options.store, sizes)


def machine_lines() -> list[Line]:
    """What the machine can do."""
    import machine

    rate, memory, load = machine.matrix_flops(), machine.bandwidth(), machine.busy()
    busy = f"; {load:.1f} processes wanted a core in the last minute" if load > 0.5 else ""
    return [
        Line(
            measure=f"the machine: {machine.processor()}, {machine.cores()} cores",
            must="",
            measured=f"{rate / 1e9:.0f} GFLOP/s float32, reads {report.giga(memory['read'])} GB/s, "
            f"copies {report.giga(memory['copy'])} GB/s (read and written){busy}",
            figures={"matrix_flops": rate, "cores": machine.cores(), "load": load, **memory},
        )
    ]


def in_child(options: argparse.Namespace, name: str, store: Path) -> list[Line]:
    """One measure, in a process of its own. One that fails is a line of the table, and the others go on."""
    command = [sys.executable, __file__, "--row", name, "--sizes", options.sizes, "--store", str(store)]
    command += ["--corpus", *options.corpus]
    if options.reference is not None:
        command += ["--reference", str(options.reference)]
    try:
        return [Line(**line) for line in commands.run(command).fields["lines"]]
    except subprocess.CalledProcessError as error:
        return [Line(name, "", f"failed with exit code {error.returncode}", met=False)]


def everything(options: argparse.Namespace, folder: Path) -> list[Line]:
    """All measures, in the order of the table; progress on stderr."""
    sizes: Sizes = SIZES[options.sizes]
    store = folder / "graph.sifu"
    wanted = [name for name in MEASURES if options.only is None or name in options.only]
    if options.reference is None:
        wanted = [name for name in wanted if not name.startswith("reference")]
    lines: list[Line] = []

    def add(more: list[Line]) -> None:
        for line in more:
            say(f"  {line.measure}: {line.measured}; {line.limit}")
        lines.extend(more)

    if "machine" in wanted:
        say("machine")
        add(in_child(options, "machine", store))
    say("build, evaluate")
    if store.exists():
        shutil.rmtree(store)
    add([commands.build(store, options.corpus, sizes)])
    untrained = commands.untrained(store)
    add([untrained])
    for name in wanted:
        if name != "machine":
            say(name)
            add(in_child(options, name, store))
    if options.minutes > 0 and (options.only is None or "train" in options.only):
        say(f"train for {options.minutes:g} minutes")
        add([commands.trained(store, minutes=options.minutes, before=untrained.figures["perplexity"])])
    return [*lines, *ELSEWHERE]


def say(text: str) -> None:
    """Progress."""
    print(text, file=sys.stderr, flush=True)


def main() -> int:
    """The command."""
    options = parsed()
    if options.row is not None:
        lines = measured(options, options.row)
        print(json.dumps({"lines": [dataclasses.asdict(line) for line in lines]}))
        return 0
    with tempfile.TemporaryDirectory() as scratch:
        folder = options.work or Path(scratch)
        folder.mkdir(parents=True, exist_ok=True)
        lines = everything(options, folder)
    print(report.markdown(lines))
    settings = {
        "sizes": options.sizes,
        "corpus": [os.path.basename(name) for name in options.corpus],  # noqa: PTH119 (may be no path)
        "settings": dataclasses.asdict(SIZES[options.sizes]),
        "minutes": options.minutes,
    }
    for path in report.write(lines, settings, folder=options.output):
        say(f"written: {path}")
    return 0 if all(line.met is not False for line in lines) else 1


if __name__ == "__main__":
    sys.exit(main())
