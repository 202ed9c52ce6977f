"""The metrics file: one line of JSON for every step of every run.

It knows lines and branches; it does not know how a step is computed or drawn.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Collection
from pathlib import Path
from typing import Any

from sifu_store.durable import is_disk_full, reason_of, write_durably
from sifu_store.errors import DiskFullError, StoreError
from sifu_store.links import open_to_append, refuse_link
from sifu_store.refs import MAIN

METRICS = "metrics.jsonl"


def log_step(metrics: Path, report: dict[str, Any], branch: str) -> None:
    """Appends the figures of one step to the log as a line of JSON, with the time in seconds since 1970.

    Raises
    ------
    DiskFullError, StoreError
        The line cannot be written.
    """
    fields = {k: v for k, v in report.items() if v is not None and k != "eta_s"}
    try:
        with open_to_append(metrics) as log:
            log.write((json.dumps({"time": round(time.time(), 3), "branch": branch, **fields}) + "\n").encode())
    except OSError as error:
        kind = DiskFullError if is_disk_full(error) else StoreError
        raise kind(
            f"{metrics}: {reason_of(error, metrics)}; the figures of step {report['step']:,} cannot be noted, and "
            "the graph stays at its last commit"
        ) from error


def drop_later_lines(metrics: Path, step: int, branch: str) -> float:
    """Takes out what an earlier run logged after its last commit on this branch: those steps never happened.

    Returns the last logged step, or infinity if the branch has no log.

    Raises
    ------
    StoreError
        The log is a symbolic link.
    """
    refuse_link(metrics)
    if not metrics.exists():
        return math.inf
    lines = metrics.read_text(encoding="utf-8", errors="replace").splitlines()
    steps = [_step_of(line, branch) for line in lines]
    kept = [line for line, found in zip(lines, steps, strict=True) if found <= step]
    if len(kept) != len(lines):
        write_durably(metrics, "".join(line + "\n" for line in kept).encode())
    return max((found for found in steps if 0 <= found <= step), default=math.inf)


def _step_of(line: str, branch: str) -> float:
    """The step of a line; that of another branch comes before all others."""
    try:
        found = json.loads(line)
        return float(found["step"]) if found.get("branch", MAIN) == branch else -math.inf
    except (ValueError, KeyError, TypeError, AttributeError):
        return math.inf


def curve(steps: list[dict[str, Any]], branch: str, snapshots: Collection[str]) -> list[dict[str, Any]]:
    """The steps that led to the head of a branch: its own, and those of the branches that it came from.

    Parameters
    ----------
    steps
        Of all branches: see `read_metrics`.
    snapshots
        The commits up to that head. What was logged after the last of them, of this branch, is under way; what was
        logged on another branch after the last of them, or undone, is another story.
    """
    last: dict[str, int] = {}  # the line of each branch's newest commit that is among them
    gone: dict[str, int] = {}  # and of its newest one that is not
    for at, step in enumerate(steps):
        if "snapshot" in step:
            (last if step["snapshot"] in snapshots else gone)[step.get("branch", MAIN)] = at
    out = []
    for at, step in enumerate(steps):
        name = step.get("branch", MAIN)
        under_way = name == branch and at > gone.get(name, -1)
        if at <= last.get(name, -1) or under_way:
            out.append(step)
    return sorted(out, key=lambda step: float(step["step"]))


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The steps in a metrics file, in order. A line that was cut off by a crash is left out."""
    steps = []
    if path.exists():
        for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
            try:
                step = json.loads(line)
                if math.isfinite(step["step"]) and math.isfinite(step["loss"]):
                    steps.append(step)
            except (ValueError, KeyError, TypeError):
                continue
    return steps
