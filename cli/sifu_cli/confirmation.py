"""Confirmation before a command removes or repairs something: ``--yes``, or an answer on the terminal."""

from __future__ import annotations

import sys

import click

from sifu_cli.output.messages import say


def require_answer(ctx: click.Context, *, yes: bool) -> None:
    """Check that a confirmation is given (`yes`) or can be given on the terminal.

    Raises
    ------
    click.UsageError
        It is not given, and stdin is not a terminal.
    """
    if not yes and (sys.stdin is None or not sys.stdin.isatty()):
        raise click.UsageError("this needs confirmation, but stdin is not a terminal; pass --yes to confirm", ctx)


def confirm(ctx: click.Context) -> None:
    """Ask whether to continue. If the answer is no, the command exits with code 1."""
    if not click.confirm("Continue?", err=True):
        say("nothing was changed")
        ctx.exit(1)
