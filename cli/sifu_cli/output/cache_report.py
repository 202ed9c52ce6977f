"""The report of the page cache (``--stats``), on stderr."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sifu_store.durable import format_bytes

from sifu_cli.output.formats import duration, percent
from sifu_cli.output.messages import say


def print_cache(report: Mapping[str, Any]) -> None:
    """Print hit rates, bytes moved and waiting time from the counters of `Graph.cache`."""
    if not report["host_pool_bytes"]:
        say("cache: not used: no edge has a matrix, and what all edges share is in memory as a whole")
        return
    read_bytes = report["scratch_bytes_read"] + report["store_bytes_read"]
    say(
        f"cache: {percent(report['hit_rate'])} of {report['requests']:,} pages were in memory "
        f"({format_bytes(report['host_used_bytes'])} of {format_bytes(report['host_pool_bytes'])} used); "
        f"{report['from_store']:,} read from the store, {report['from_scratch']:,} from the scratch file, "
        f"{report['generated']:,} generated from counts"
    )
    say(
        f"       {format_bytes(read_bytes)} read, {format_bytes(report['streamed_bytes'])} of rows processed in the "
        f"scratch file, {format_bytes(report['scratch_bytes_written'])} written to the scratch file, "
        f"{format_bytes(report['store_bytes_written'])} to the store; {report['evicted']:,} evictions; "
        f"{duration(report['stall_s'])} waiting"
    )
    if "device_pool_bytes" in report:
        say(
            f"device: {percent(report['device_hit_rate'])} of {report['device_requests']:,} pages were on the device "
            f"({format_bytes(report['device_used_bytes'])} of {format_bytes(report['device_pool_bytes'])} used), "
            f"{percent(report['overall_hit_rate'])} there or in memory; {format_bytes(report['device_bytes_in'])} in, "
            f"{format_bytes(report['device_bytes_out'])} out; {report['device_evicted']:,} evictions; "
            f"{duration(report['device_stall_s'])} waiting"
        )
