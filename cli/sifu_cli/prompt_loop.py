"""The prompt loop: the user and the graph take turns writing a text.

A line that starts with ``/`` is a command of `COMMANDS`; ``//`` starts a text with ``/``. This module knows terminals
and the line editor of the standard library; the library generates the text.
"""

from __future__ import annotations

import contextlib
import shlex
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from sifu_cli.library_names import with_options
from sifu_cli.output.choices import print_explained
from sifu_cli.output.formats import quoted
from sifu_cli.output.terminal import echo, echo_text, styled

if TYPE_CHECKING:
    from sifu_graph.generation.stream import Stream
    from sifu_graph.graph import Graph

HISTORY_LINES = 1000
"""Greatest number of typed lines that are kept."""
SETTINGS = ("tokens", "temperature", "top-k", "top-p", "greedy", "seed", "stop", "explain")
PROMPT = "» "


@dataclass(slots=True)
class PromptLoop:
    """A running prompt loop.

    Parameters
    ----------
    graph
        The open graph.
    generate
        The context of the command ``generate``: its options define the types and limits of the settings.
    settings
        The settings of generation, by name of the option's parameter.
    stream
        Returns a stream that continues a text with given settings.
    raw
        Print the control characters of the text unescaped.
    text
        The text so far.
    turns
        The text before each turn, oldest first.
    """

    graph: Graph
    generate: click.Context
    settings: dict[str, Any]
    stream: Callable[[Graph, str, dict[str, Any]], Stream]
    raw: bool = False
    text: str = ""
    turns: list[str] = field(default_factory=list)

    def run(self) -> None:
        """Read and answer lines until ``/quit`` or Ctrl-D."""
        echo(
            styled(
                f"{self.graph.path}: type the beginning of a text; the graph continues it. Enter: continue. "
                "/help: commands. Ctrl-C: stop. Ctrl-D: quit.",
                dim=True,
            )
        )
        with _line_editor():
            while True:
                try:
                    line = input(PROMPT)
                except KeyboardInterrupt:
                    echo()
                    continue
                except EOFError:
                    echo()
                    return
                except UnicodeDecodeError:
                    self._show_error("the line is not UTF-8")
                    continue
                if line.startswith("/") and not line.startswith("//"):
                    if self._command(line):
                        return
                else:
                    self._turn(line.removeprefix("/") if line.startswith("//") else line)

    # ---- turns

    def _turn(self, typed: str) -> None:
        from sifu_store.errors import SifuError

        typed = "".join(character for character in typed if not 0xD800 <= ord(character) < 0xE000)
        before = self.text
        glue = " " if self.graph.tokenizer.level == "tokens" and before[-1:].strip() and typed else ""
        text = before + glue + typed
        beginning = text.rpartition("\n")[2]  # a line break ends a document, and the signal with it
        if not beginning:
            self._show_error(
                "there is no text to continue: type something" if not text else "the text ended: type another"
            )
            return
        try:
            seed = self.settings["seed"]
            another = {} if seed is None else {"seed": seed + len(self.turns)}
            pieces = self.stream(self.graph, beginning, {**self.settings, **another})
        except SifuError as error:
            self._show_error(str(error))
            return
        if typed and pieces.unknown:
            echo(styled(f"read as unknown: {quoted(pieces.unknown)}", dim=True), err=True)
        self.turns.append(before)
        answer: list[str] = []
        try:
            self._show(typed, _collected(pieces, answer), pieces)
        except KeyboardInterrupt:
            echo(styled(" [stopped]", dim=True))
        except SifuError as error:
            echo()
            self._show_error(str(error))
        self.text = text + "".join(answer)

    def _show(self, typed: str, answer: Iterator[str], pieces: Stream) -> None:
        if self.settings["explain"]:
            print_explained(typed, answer, pieces, raw=self.raw)
            return
        echo_text(styled(typed, dim=True), nl=False, raw=self.raw)
        for piece in answer:
            echo_text(piece, nl=False, raw=self.raw)
        echo()

    # ---- commands

    def _command(self, line: str) -> bool:
        """Run a command. Returns True if the loop ends."""
        try:
            words = shlex.split(line[1:])
        except ValueError as error:
            self._show_error(f"{line}: {error}".lower())
            return False
        name, rest = (words[0], words[1:]) if words else ("help", [])
        if name not in COMMANDS:
            import difflib

            close = difflib.get_close_matches(name, COMMANDS, n=1)
            self._show_error(f"no command /{name}; " + (f"did you mean /{close[0]}?" if close else "/help lists them"))
            return False
        if rest and name not in ("set", "trace"):
            self._show_error(f"/{name} takes no arguments")
        elif name == "set":
            self._set(rest)
        elif name == "trace":
            self._trace(rest)
        elif name == "quit":
            return True
        else:
            {"help": self._help, "undo": self._undo, "new": self._new, "text": self._text}[name]()
        return False

    def _help(self) -> None:
        width = max(len(usage) for usage, _ in COMMANDS.values())
        for usage, meaning in COMMANDS.values():
            echo(f"  {usage:<{width}}  {meaning}")

    def _set(self, words: list[str]) -> None:
        if not words:
            for name in SETTINGS:
                value = self.settings[name.replace("-", "_")]
                shown = "-" if value is None else value if not isinstance(value, bool) else "on" if value else "off"
                echo(f"  {name:<12} {shown}")
            return
        name, values = words[0].replace("_", "-"), words[1:]
        if name not in SETTINGS:
            self._show_error(f"no setting {name!r}; there are {', '.join(SETTINGS)}")
        elif len(values) != 1:
            self._show_error(
                f"/set {name} needs one value, or the word default: /set {name} {EXAMPLES.get(name, 'on')}"
            )
        else:
            try:
                self.settings[name.replace("-", "_")] = self._value(name, values[0])
            except click.BadParameter as error:
                self._show_error(f"{name}: {error.message.lower()}")

    def _value(self, name: str, value: str) -> Any:
        option = next(param for param in self.generate.command.params if param.name == name.replace("-", "_"))
        if value == "default":
            return option.get_default(self.generate)
        if isinstance(option, click.Option) and option.is_flag:
            if value not in ("on", "off"):
                raise click.BadParameter(f"expected on or off; found {value}")
            return value == "on"
        return option.type.convert(value, None, None)

    def _trace(self, options: list[str]) -> None:
        """Run `sifu trace` on the last line of the text, which is the text that the signal depends on."""
        from sifu_store.errors import SifuError

        from sifu_cli.commands.inspection.trace import command

        text = self.text.rstrip("\n").rpartition("\n")[2]
        if not text:
            self._show_error("there is no text to trace: type something")
            return
        try:
            where = ["--store", str(self.graph.path), "--at", self.graph.store.snapshot]  # the snapshot of the loop
            command.main([*where, *options, "--", text], prog_name="/trace", standalone_mode=False)
        except click.ClickException as error:
            self._show_error(error.format_message().lower())
        except SifuError as error:
            self._show_error(with_options(str(error), command))
        except (click.Abort, KeyboardInterrupt):
            echo()

    def _undo(self) -> None:
        if not self.turns:
            self._show_error("there is no turn to undo")
            return
        self.text = self.turns.pop()
        self._text()

    def _new(self) -> None:
        self.turns.append(self.text)
        self.text = ""

    def _text(self) -> None:
        echo_text(self.text or styled("(no text)", dim=True), raw=self.raw)

    def _show_error(self, message: str) -> None:
        echo(styled(with_options(message, self.generate.command), fg="red"), err=True)


COMMANDS = {
    "help": ("/help", "show this list"),
    "set": ("/set NAME VALUE", f"change a setting: {', '.join(SETTINGS)}; without arguments: show them"),
    "trace": ("/trace [OPTIONS]", "show why the last tokens were chosen: sifu trace of the text so far"),
    "text": ("/text", "show the whole text so far"),
    "undo": ("/undo", "remove the last turn: the text that you typed and its continuation"),
    "new": ("/new", "start a new text"),
    "quit": ("/quit", "quit (also Ctrl-D)"),
}
"""Usage and meaning by command."""
EXAMPLES = {"tokens": "64", "temperature": "0.8", "top-k": "20", "top-p": "0.9", "seed": "1", "stop": "。"}


def _collected(pieces: Stream, answer: list[str]) -> Iterator[str]:
    """The pieces, each added to `answer` before it is shown, so that the answer is complete after Ctrl-C."""
    for piece in pieces:
        answer.append(piece)
        yield piece


def history_file() -> Path:
    """The file that keeps the typed lines from one loop to the next."""
    import platformdirs

    return platformdirs.user_state_path("sifu", appauthor=False) / "history"


@contextlib.contextmanager
def _line_editor() -> Iterator[None]:
    """Line editing, history and completion of commands, on systems with the module `readline`."""
    try:
        import readline
    except ImportError:
        yield
        return
    path = history_file()
    with contextlib.suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        readline.read_history_file(path)
    words = [f"/{name}" for name in COMMANDS] + [f"/set {name} " for name in SETTINGS]

    def complete(text: str, state: int) -> str | None:
        found = [word for word in words if text and word.startswith(text)]
        return found[state] if state < len(found) else None

    readline.set_completer(complete)
    readline.set_completer_delims("")
    readline.parse_and_bind("bind ^I rl_complete" if "libedit" in (readline.__doc__ or "") else "tab: complete")
    try:
        yield
    finally:
        readline.set_completer(None)
        readline.set_history_length(HISTORY_LINES)
        with contextlib.suppress(OSError):
            readline.write_history_file(path)
