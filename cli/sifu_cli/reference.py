"""docs/cli.md, generated from the commands: ``python -m sifu_cli.reference > docs/cli.md``."""

from __future__ import annotations

import inspect

import click

from sifu_cli.main import cli

HEAD = """\
# The command line

<!-- Generated: python -m sifu_cli.reference > docs/cli.md -->

Results go to stdout; messages, progress and errors to stderr. Exit codes: 0 done, 1 failed, 2 wrong usage,
130 interrupted. An error is one line, `sifu: error: ...`, and the store stays as it was; `SIFU_DEBUG=1` adds
where it came from. `--store` and `--quiet` are understood before the command as well. With `--json` stdout
holds one JSON object and nothing else (`train` and `generate`: one a line). `NO_COLOR` is honoured.
"""


def reference() -> str:
    """The whole document."""
    root = click.Context(cli, info_name="sifu")
    sections = [HEAD, "| command | |\n|---|---|"]
    commands = {name: cli.get_command(root, name) for name in cli.list_commands(root)}
    for name, command in commands.items():
        assert command is not None
        sections[-1] += f"\n| [`{name}`](#sifu-{name}) | {command.get_short_help_str(200)} |"
    sections += [_section(name, command) for name, command in commands.items() if command is not None]
    return "\n\n".join(section.strip() for section in sections) + "\n"


def _section(name: str, command: click.Command) -> str:
    arguments = [param for param in command.params if isinstance(param, click.Argument)]
    shown = " ".join(param.metavar or f"[{(param.name or '').upper()}]" for param in arguments)
    lines = [
        f"## sifu {name}",
        f"    sifu {name} [OPTIONS] {shown}".rstrip(),
        inspect.cleandoc(command.help or ""),
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
    click.echo(reference(), nl=False)
