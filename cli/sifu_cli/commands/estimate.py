"""``sifu estimate``: memory, disk and time of a run, before it."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from sifu_cli.options import Number, json_option, opened, quiet_option, store_option
from sifu_cli.screen import duration, number, print_json, print_table, say, size

GRAPH_SIZES = ("vocab", "sparsify", "width", "length")


@click.command(
    "estimate",
    short_help="Memory, disk and time of a run, before it.",
    epilog="""\b
Examples:
  sifu estimate --host-memory 1GiB
  sifu estimate --vocab 40000 --sparsify 0.001 --optimizer adamw
""",
)
@click.option("--vocab", type=Number(int, least=1), metavar="N", default=4000, show_default=True, help="Nodes.")
@click.option(
    "--sparsify",
    type=Number(float, least=0, most=1),
    metavar="X",
    default=0.1,
    show_default=True,
    help="Greatest share of all pairs that is private.",
)
@click.option("--width", type=Number(int, least=1), metavar="D", default=32, show_default=True, help="Of the signal.")
@click.option(
    "--length", type=Number(int, least=2), metavar="N", default=32, show_default=True, help="Tokens in a chunk."
)
@click.option(
    "--batch", type=Number(int, least=1), metavar="N", default=512, show_default=True, help="Chunks in a step."
)
@click.option(
    "--optimizer",
    type=click.Choice(["rowwise", "adamw", "adamw-dense"]),
    metavar="NAME",
    default="rowwise",
    show_default=True,
    help="rowwise, adamw or adamw-dense: its state pages with the edges.",
)
@click.option("--host-memory", metavar="SIZE", help="Memory for the edges: 512MiB, 2GB, 50%.")
@store_option
@quiet_option
@json_option
@click.pass_context
def command(ctx: click.Context, /, *, store: Path, quiet: bool, as_json: bool, **options: Any) -> None:
    """Say what training and decoding will take: of the graph, or of one that is not built yet.

    With --vocab, --sparsify, --width or --length, or where there is no store, it is of a graph to be built with these.
    """
    from sifu_graph.estimate import estimate

    planned = any(ctx.get_parameter_source(name) is ParameterSource.COMMANDLINE for name in GRAPH_SIZES)
    if planned or not store.exists():
        found = estimate(**options, folder=store)
    else:
        for name in GRAPH_SIZES:
            options.pop(name)
        with opened(store) as graph:
            found = estimate(graph, **options)
    if as_json:
        print_json(dataclasses.asdict(found))
        return
    if planned or not store.exists():
        say("a graph to be built, with as many private edges as it may have:", quiet=quiet)
    print_table(
        [
            (
                "private edges",
                number(found.private_edges),
                f"of {found.nodes:,} nodes, {size(found.page_bytes)} a page",
            ),
            ("parameters", number(found.stored_parameters), f"dense: {found.dense_parameters:,}"),
            ("to train", size(found.whole_bytes), "for all edges with the optimizer's state"),
            ("to decode", size(found.decoding_bytes), "for all edges"),
            ("least memory", size(found.least_bytes), "the smallest --host-memory that works"),
            (
                "memory taken",
                size(found.host_bytes),
                "all of it fits" if found.fits else "the rest pages in and out; the results are the same",
            ),
            ("process", size(found.process_bytes), f"about, in all; {size(found.free_memory_bytes)} are free"),
            (
                "on a GPU",
                size(found.device_bytes),
                f"to train with everything there; the least --device-memory is {size(found.device_least_bytes)}",
            ),
            ("scratch file", size(found.scratch_bytes), "on disk, at most, while it trains"),
            ("store", size(found.store_bytes), f"on disk, at most, after it; {size(found.free_disk_bytes)} are free"),
            (
                "tokens/s",
                number(found.tokens_per_s),
                "in training, about"
                if found.fits
                else f"in training, about, if the disk keeps up; {number(found.resident_tokens_per_s)} in memory",
            ),
            *(
                [("one epoch", duration(found.epoch_s), f"{found.epoch_tokens:,} tokens")]
                if found.epoch_s is not None
                else []
            ),
        ]
    )
