"""``sifu compact``: stores every row contiguously, removes free slots, rounds and compresses pages if asked to."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import click
from sifu_store.durable import format_bytes

from sifu_cli.command_line import logged
from sifu_cli.opening import open_graph
from sifu_cli.options import common_options, dry_run_option
from sifu_cli.output.edit_reports import common_rows
from sifu_cli.output.formats import number
from sifu_cli.output.progress import Progress
from sifu_cli.output.results import print_json, print_table


@click.command(
    "compact",
    short_help="Store every row contiguously, remove free slots, compress pages.",
    epilog="""\b
Examples:
  sifu compact
  sifu compact --codec blosc
  sifu compact --precision bfloat16
""",
)
@click.option(
    "--precision",
    metavar="NAME",
    help="Round W and b of all stored edges: bfloat16, or bitround:N for N bits of the fraction. float32 rounds "
    "nothing more.  [default: unchanged]",
)
@click.option(
    "--codec",
    metavar="NAME",
    help="Compress all pages: none, zstd, blosc or pcodec.  [default: unchanged; blosc for pages that are rounded "
    "and not compressed]",
)
@dry_run_option
@common_options
@click.pass_context
def command(
    ctx: click.Context,
    /,
    *,
    precision: str | None,
    codec: str | None,
    dry_run: bool,
    store: Path,
    quiet: bool,
    as_json: bool,
) -> None:
    """Store the edges of every row contiguously, as after a build, and remove the slots that edits freed.

    Pages with moved edges are rewritten; the old pages use disk space until no snapshot needs them. Results keep every
    bit, unless `--precision` rounds the parameters. With `--precision` or `--codec`, all pages are rewritten, and older
    releases of sifu refuse to read the store. Pages that later commits write keep the codec. Training and edits store
    their values unrounded, so that the precision of the graph becomes float32 again.
    """
    with open_graph(store) as graph, Progress(quiet=quiet) as progress:
        report = graph.compact(
            precision=precision, codec=codec, dry_run=dry_run, command=logged(ctx), progress=progress
        )
    if as_json:
        print_json({**dataclasses.asdict(report), "dry_run": dry_run})
        return
    before, after = report.page_bytes_before, report.page_bytes_after
    size = (
        "not known before it is done"
        if after is None
        else f"{format_bytes(after)}, before: {format_bytes(before or 0)}"
    )
    asked = precision is not None or codec is not None
    stored = [("stored as", report.precision, f"codec {report.codec}; {size}")] if asked else []
    print_table(
        [
            ("slots", number(report.slots_after), f"before: {report.slots_before:,}"),
            ("runs", number(report.runs_after), f"before: {report.runs_before:,}"),
            ("pages freed", format_bytes(max(0, report.bytes_freed)), ""),
            *stored,
            *common_rows(report, store=store, nodes=False),
        ]
    )
