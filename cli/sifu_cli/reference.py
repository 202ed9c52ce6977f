"""docs/cli.md, generated from the commands: ``python -m sifu_cli.reference > docs/cli.md``."""

from __future__ import annotations

import inspect

import click

from sifu_cli.commands import COMMANDS, GROUPS, load
from sifu_cli.output.terminal import echo_text

HEAD = """\
# The command line

<!-- Generated: python -m sifu_cli.reference > docs/cli.md -->

Results go to stdout; messages, progress and errors go to stderr. Exit codes: 0 done, 1 failed, 2 wrong usage,
130 interrupted (143 by SIGTERM, 129 by SIGHUP). An error is one line, `sifu: error: ...`, and leaves the store
unchanged; with `SIFU_DEBUG=1` a traceback precedes it. `--store` and `--quiet` can also be given before the command.
With `--json`, stdout has one JSON object and nothing else (`train` and `generate`: one per line). `NO_COLOR` switches
colours off. Control characters in names and texts are printed escaped (`\\x1b`), so that none acts on the terminal.
"""


def reference() -> str:
    """The whole document, in Markdown."""
    sections = [HEAD, "| command | |\n|---|---|"]
    for group in GROUPS:
        sections[-1] += f"\n| **{group.title}** | |"
        for name in group.modules:
            sections[-1] += f"\n| [`{name}`](#sifu-{name}) | {_command(name).get_short_help_str(200)} |"
    sections += [_section(name, _command(name)) for name in COMMANDS]
    return "\n\n".join(section.strip() for section in sections) + "\n"


def _command(name: str) -> click.Command:
    command = load(name)
    assert command is not None
    return command


def _section(name: str, command: click.Command) -> str:
    arguments = [param for param in command.params if isinstance(param, click.Argument)]
    shown = " ".join(param.metavar or f"[{(param.name or '').upper()}]" for param in arguments)
    lines = [
        f"## sifu {name}",
        f"    sifu {name} [OPTIONS] {shown}".rstrip(),
        inspect.cleandoc(command.help or "").replace("\b\n", ""),
    ]
    rows = ["| option | |", "|---|---|"]
    for param in command.params:
        if isinstance(param, click.Option):
            names = ", ".join(f"`{option}`" for option in (*param.opts, *param.secondary_opts))
            value = "" if param.is_flag else f" `{param.metavar}`"
            default = f"  [default: {param.default}]" if param.show_default else ""
            rows.append(f"| {_cell(names + value)} | {_cell((param.help or '') + default)} |")
    lines.append("\n".join(rows))
    example = (command.epilog or "").replace("\b", "").strip().splitlines()
    lines += ["\n".join(["```", *(line.strip() for line in example[1:]), "```"])]
    return "\n\n".join(lines)


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


if __name__ == "__main__":
    echo_text(reference(), nl=False)
