"""The lines of the table, and how they are shown. It knows text; it does not know what was measured."""

from __future__ import annotations

import dataclasses
import datetime
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass(frozen=True, slots=True)
class Line:
    """One measure.

    Attributes
    ----------
    met
        Whether ``measured`` is what it must be; None: it is shown for information, or was not measured.
    limit
        What the machine itself can do, measured in the same run, and the share of it that was reached.
    figures
        The numbers behind the text.
    """

    measure: str
    must: str
    measured: str
    limit: str = ""
    met: bool | None = None
    figures: dict[str, Any] = field(default_factory=dict)


def markdown(lines: Sequence[Line]) -> str:
    """The table."""
    rows = ["| measure | must be | measured | beside the machine's limit |", "|---|---|---|---|"]
    for line in lines:
        mark = {True: " (met)", False: " **(not met)**", None: ""}[line.met]
        rows.append(f"| {line.measure} | {line.must} | {line.measured}{mark} | {line.limit} |")
    return "\n".join(rows) + "\n"


def write(lines: Sequence[Line], settings: dict[str, Any], *, folder: Path, prefix: str = "") -> list[Path]:
    """Writes the table and the numbers as ``<date>.md`` and ``<date>.json``; a quick run has its size in the name."""
    folder.mkdir(parents=True, exist_ok=True)
    name = prefix + datetime.date.today().isoformat() + ("" if settings["sizes"] == "full" else f"-{settings['sizes']}")
    table, numbers = folder / f"{name}.md", folder / f"{name}.json"
    table.write_text(markdown(lines), encoding="utf-8")
    record = {**settings, "lines": [dataclasses.asdict(line) for line in lines]}
    numbers.write_text(json.dumps(record, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    return [table, numbers]


def giga(value: float) -> str:
    """12.3, in units of 10^9."""
    return f"{value / 1e9:.1f}"


def percent(value: float) -> str:
    """23 %."""
    return f"{100 * value:.0f} %"


def mib(size_bytes: float) -> str:
    """123 MiB."""
    return f"{size_bytes / (1 << 20):,.0f} MiB"
