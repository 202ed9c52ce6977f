"""``sifu estimate``: estimates memory, disk space and time of a run."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource
from sifu_store.durable import format_bytes

from sifu_cli.number_types import Float, Integer
from sifu_cli.opening import open_graph
from sifu_cli.options import common_options, host_memory_option
from sifu_cli.output.formats import duration, number
from sifu_cli.output.messages import say
from sifu_cli.output.results import Row, print_json, print_table

if TYPE_CHECKING:
    from sifu_graph.estimate import Estimate

GRAPH_SIZES = ("vocab", "sparsify", "width", "length")


@click.command(
    "estimate",
    short_help="Estimate memory, disk space and time of a run.",
    epilog="""\b
Examples:
  sifu estimate --host-memory 1GiB
  sifu estimate --vocab 40000 --sparsify 0.001 --optimizer adamw
""",
)
@click.option("--vocab", type=Integer(min=1), metavar="N", default=4000, show_default=True, help="Number of nodes.")
@click.option(
    "--sparsify",
    type=Float(min=0, max=1),
    metavar="X",
    default=0.1,
    show_default=True,
    help="Greatest share of all pairs that get a private edge.",
)
@click.option("--width", type=Integer(min=1), metavar="D", default=32, show_default=True, help="Width of the signal.")
@click.option("--length", type=Integer(min=2), metavar="N", default=32, show_default=True, help="Tokens per chunk.")
@click.option("--batch", type=Integer(min=1), metavar="N", default=512, show_default=True, help="Chunks per step.")
@click.option(
    "--optimizer",
    type=click.Choice(["rowwise", "adamw", "adamw-dense"]),
    metavar="NAME",
    default="rowwise",
    show_default=True,
    help="rowwise, adamw or adamw-dense; its state is paged with the edges.",
)
@host_memory_option("enough for all edges, or most of the free memory for them")
@common_options
@click.pass_context
def command(ctx: click.Context, /, *, store: Path, quiet: bool, as_json: bool, **options: Any) -> None:
    """Estimate what training and generation need, for the graph in the store or for a graph that is not built yet.

    With --vocab, --sparsify, --width or --length, or if there is no store, the estimate is for a new graph with
    these options.
    """
    from sifu_graph.estimate import estimate

    planned = any(ctx.get_parameter_source(name) is ParameterSource.COMMANDLINE for name in GRAPH_SIZES)
    if planned or not store.exists():
        found = estimate(**options, folder=store)
    else:
        for name in GRAPH_SIZES:
            options.pop(name)
        with open_graph(store) as graph:
            found = estimate(graph, **options)
    if as_json:
        print_json(dataclasses.asdict(found))
        return
    if planned or not store.exists():
        say("estimate for a new graph with the greatest number of private edges:", quiet=quiet)
    print_table(_rows(found))


def _rows(found: Estimate) -> list[Row]:
    paged = found.pages > 0 or found.private_edges == 0
    what = "all edges" if paged else "what all edges share"
    rows: list[Row] = [
        (
            "private edges",
            number(found.private_edges),
            f"of {found.nodes:,} nodes" + (f", {format_bytes(found.page_bytes)} per page" if paged else ""),
        ),
        ("parameters", number(found.stored_parameters), f"dense: {found.dense_parameters:,}"),
        ("to train", format_bytes(found.whole_bytes), f"for {what} with the optimizer state"),
        ("to generate", format_bytes(found.decoding_bytes), f"for {what}"),
        ("least memory", format_bytes(found.least_bytes), "the smallest possible --host-memory"),
        (
            "memory used",
            format_bytes(found.host_bytes),
            ("all edges fit" if paged else "it is always in memory")
            if found.fits
            else "other pages are read when needed; the results are the same",
        ),
        (
            "process",
            format_bytes(found.process_bytes),
            f"at most, with {format_bytes(found.library_bytes)} of Python and libraries, which --host-memory does not "
            f"count; {format_bytes(found.free_memory_bytes)} are free",
        ),
    ]
    if paged:
        rows += [
            (
                "on a GPU",
                format_bytes(found.device_bytes),
                f"to train with all edges there; the least --device-memory is {format_bytes(found.device_least_bytes)}",
            ),
            ("scratch file", format_bytes(found.scratch_bytes), "greatest size on disk, during training"),
        ]
    rows += [
        (
            "store",
            format_bytes(found.store_bytes),
            f"greatest size on disk, after training; {format_bytes(found.free_disk_bytes)} are free",
        ),
        (
            "tokens/s",
            number(found.tokens_per_s),
            "of training, from half to twice of it: from the rate of matrix products, measured now"
            if found.fits
            else f"of training, from half to twice of it; {number(found.resident_tokens_per_s)} with all in memory",
        ),
    ]
    if found.epoch_s is not None:
        rows.append(("one epoch", duration(found.epoch_s), f"{found.epoch_tokens:,} tokens"))
    return rows
