"""``sifu env``: what this machine is, for a bug report."""

from __future__ import annotations

import os
import platform
from importlib import metadata
from pathlib import Path
from typing import Any

import click

import sifu_graph
from sifu_cli.options import json_option, quiet_option, store_option
from sifu_cli.screen import print_json, size

PACKAGES = ("torch", "numpy", "scipy", "zarr", "icechunk", "tokenizers", "click", "rich")
WIDTH = 32


@click.command(
    "env",
    short_help="Versions and machine, for a bug report.",
    epilog="""\b
Example:
  sifu env
""",
)
@store_option
@quiet_option
@json_option
def command(*, store: Path, quiet: bool, as_json: bool) -> None:
    """Versions and machine, for a bug report. (It tries the native kernel: seconds.)"""
    import psutil
    import torch

    from sifu_graph.kernels import native as kernel

    found: dict[str, Any] = {
        "sifu": sifu_graph.__version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        **{package: _version(package) for package in PACKAGES},
        "cpu": _cpu(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "memory_bytes": psutil.virtual_memory().total,
        "compiler": kernel.compiler(),
        "kernel": "native" if kernel.load(WIDTH, torch.float32) is not None else "torch",
        "store": str(store.resolve()),
        "store_exists": store.exists(),
        "disk_free_bytes": psutil.disk_usage(str(_existing(store.resolve()))).free,
    }
    if as_json:
        print_json(found)
        return
    for name, value in found.items():
        shown = size(value) if name.endswith("_bytes") else {True: "yes", False: "no", None: "none"}.get(value, value)
        label = name.removesuffix("_bytes").replace("_", " ")
        click.echo(f"{click.style(f'{label:<12}', dim=True)}  {shown}")


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def _existing(path: Path) -> Path:
    """The path, or the nearest folder above it that is there."""
    return path if path.exists() else _existing(path.parent)
