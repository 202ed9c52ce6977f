"""The prompt loop, on a terminal of its own: keys in, screen out."""

from __future__ import annotations

import codecs
import os
import re
import select
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from warm import WarmProcess

pty = pytest.importorskip("pty")
PROMPT = "» "
PATIENCE_S = 60.0
START = """
import fcntl, os, termios
os.setsid()
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
from sifu_cli.main import main
main()
"""
CODES = re.compile(r"\x1b\[[0-9;?]*[a-zA-Z]|\x1b[=>]|\r")


class Terminal:
    """A process that believes it sits at a terminal."""

    def __init__(self, *args: str | Path, state: Path) -> None:
        self.master, slave = pty.openpty()
        self.process = WarmProcess(START, *args, env={"TERM": "xterm", "XDG_STATE_HOME": str(state)}, terminal=slave)
        os.close(slave)
        self.decoder = codecs.getincrementaldecoder("utf-8")("ignore")  # a read may end amid a character
        self.greeting = self.wait()

    def wait(self, until: str = PROMPT) -> str:
        """What came on the screen, up to and with a text."""
        seen, end = "", time.monotonic() + PATIENCE_S
        while until not in CODES.sub("", seen[-4096:]):
            assert time.monotonic() < end, seen
            if select.select([self.master], [], [], 0.2)[0]:
                try:
                    piece = os.read(self.master, 1 << 16)
                except OSError:  # the terminal is gone
                    break
                if not piece:
                    break
                seen += self.decoder.decode(piece)
        return CODES.sub("", seen)

    def keys(self, text: str) -> None:
        os.write(self.master, text.encode())

    def rest(self) -> None:
        """Until it waits for a key: on a busy machine it may have drawn one and not yet come back for the next."""
        status = Path(f"/proc/{self.process.pid}/stat")
        time.sleep(0.2)
        while status.exists() and status.read_text().rpartition(")")[2].split()[0] != "S":
            time.sleep(0.05)

    def type(self, line: str) -> str:
        """Types a line and returns what came, without the line itself and the next prompt."""
        self.keys(line + "\n")
        came = self.wait("\n")
        if PROMPT not in came.split("\n", 1)[1]:
            came += self.wait()
        return came.split("\n", 1)[1].rpartition(PROMPT)[0]

    def leave(self) -> int:
        """Ctrl-D."""
        self.keys("\x04")
        return self.process.wait(PATIENCE_S)

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        os.close(self.master)


@pytest.fixture
def terminal(built: Path, tmp_path: Path) -> Iterator[Callable[..., Terminal]]:
    made: list[Terminal] = []

    def start(*options: str) -> Terminal:
        made.append(Terminal("generate", "--store", built, "--seed", "1", *options, state=tmp_path / "state"))
        return made[-1]

    yield start
    for each in made:
        each.close()


def test_a_person_and_the_graph_write_in_turns(terminal: Callable[..., Terminal]) -> None:
    loop = terminal("--tokens", "3")
    first = loop.type("春").strip()
    assert first.startswith("春")
    assert len(first) == 4
    more = loop.type("").strip()  # no Enter alone: more of the same
    assert loop.type("/text").strip() == first + more
    assert loop.type("/undo").strip() == first
    assert loop.type("/undo").strip() == "(no text)"
    assert "no turn to undo" in loop.type("/undo")
    assert loop.type("春").strip() == first  # the same seed for the same turn
    loop.type("/new")
    assert loop.type("/text").strip() == "(no text)"
    assert loop.leave() == 0


@pytest.mark.parametrize(
    ("option", "value", "says"),
    [
        ("--host-memory", "much", "memory is 'much'"),
        ("--device", "gpu", "device is 'gpu'"),
        ("--device-memory", "much", "memory is 'much'"),
        ("--precision", "bf16", "float32"),
        ("--at", "nowhere", "'nowhere'"),
        ("--count", "3", "--count needs a prompt"),
    ],
)
def test_options_of_the_graph_hold_in_the_loop(
    terminal: Callable[..., Terminal], option: str, value: str, says: str
) -> None:
    loop = terminal(option, value)
    assert says in loop.greeting
    assert PROMPT not in loop.greeting
    assert loop.process.wait(PATIENCE_S) == 2


def test_statistics_follow_the_loop(terminal: Callable[..., Terminal]) -> None:
    loop = terminal("--tokens", "2", "--stats")
    loop.type("春")
    loop.keys("\x04")
    assert "pages were in memory" in loop.wait("waiting\n")


def test_settings(terminal: Callable[..., Terminal]) -> None:
    loop = terminal()
    assert loop.type("/set temperature 0.8") == loop.type("/set tokens 5") == loop.type("/set greedy on") == ""
    shown = loop.type("/set")
    assert re.search(r"temperature +0\.8\n", shown)
    assert re.search(r"greedy +on\n", shown)
    assert re.search(r"seed +1\n", shown)
    assert len(loop.type("春").strip()) == 6
    loop.type("/set tokens default")
    assert re.search(r"tokens +100\n", loop.type("/set"))
    for line, says in (
        ("/set temperature hot", "temperature: expected a number, at least 0; found hot"),
        ("/set tokens -1", "expected an integer, at least 0; found -1"),
        ("/set greedy maybe", "expected on or off; found maybe"),
        ("/set colour red", "no setting 'colour'"),
        ("/set temperature", "/set temperature 0.8"),
        ("/sett", "did you mean /set?"),
        ("/undo it", "takes no arguments"),
        ('/set stop "', "no closing quotation"),
    ):
        assert says in loop.type(line), line
    assert "/undo" in loop.type("/help")
    assert loop.process.poll() is None


def test_what_cannot_be_gone_on_from_is_said_and_the_loop_goes_on(terminal: Callable[..., Terminal]) -> None:
    loop = terminal("--tokens", "2")
    assert "type something" in loop.type("")
    assert "unknown characters only" in loop.type("xyz")
    assert "read as unknown: 'x'" in loop.type("x春")
    assert loop.type("//").count("Traceback") == 0
    assert len(loop.type("/trace").splitlines()) > 3
    loop.type("/set explain on")
    explained = loop.type("月")
    assert "margin" in explained
    assert "2 tokens, median margin" in explained
    loop.keys("/quit\n")
    assert loop.process.wait(PATIENCE_S) == 0


def test_ctrl_c_stops_the_answer_and_keeps_what_came(terminal: Callable[..., Terminal]) -> None:
    loop = terminal("--tokens", "100000000")
    loop.keys("春風\n")
    loop.wait("。")
    loop.keys("\x03")
    seen = loop.wait("[stopped]\n" + PROMPT)
    assert "[stopped]" in seen
    assert "春風" in loop.type("/text")
    loop.keys("half a line")
    loop.wait("half a line")
    loop.rest()  # a signal between the echo and the wait for the next key would be seen at that key only
    loop.keys("\x03")
    loop.wait()
    assert loop.type("/set tokens 2") == ""
    assert loop.leave() == 0


def test_lines_are_kept_from_one_loop_to_the_next(terminal: Callable[..., Terminal], tmp_path: Path) -> None:
    pytest.importorskip("readline")
    loop = terminal("--tokens", "2")
    loop.type("/set top-k 7")
    assert loop.leave() == 0
    assert "/set top-k 7" in (tmp_path / "state" / "sifu" / "history").read_text()
    again = terminal("--tokens", "2")
    again.keys("\x1b[A\n")  # the arrow up
    again.wait("top-k 7\n" + PROMPT)
    assert re.search(r"top-k +7\n", again.type("/set"))
    assert again.leave() == 0
