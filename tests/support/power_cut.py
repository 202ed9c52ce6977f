"""Power cuts, replayed: what a command did to its files (strace), and the directories that POSIX allows after a cut.

Without an fsync, nothing is promised: the content of a file may be missing, zeros, random, a part or all of it, and
each name in a directory may be that of before or of any later moment, whatever the other names are. A file's fsync
keeps its content, a directory's fsync its names, and syncfs and sync keep everything.
"""

from __future__ import annotations

import os
import random
import re
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

CALLS = (
    "open,openat,write,pwrite64,lseek,ftruncate,rename,renameat,renameat2,unlink,unlinkat,mkdir,mkdirat,rmdir,"
    "link,linkat,symlink,symlinkat,fsync,fdatasync,syncfs,sync,sendfile,copy_file_range,writev,pwritev,truncate"
)
_CALL = re.compile(r"(\d+) +(\w+)\((.*)\) += (-?\d+)(?:<(.*)>)?(?:\(deleted\))?(?: .*)?$", re.DOTALL)
_HEX = re.compile(r"(?:\\x[0-9a-f]{2})+")
_SAID = re.compile(rb"(?:committed as|snapshot) +([0-9A-HJKMNP-TV-Z]{8})")


@dataclass(frozen=True, slots=True)
class Call:
    """One system call that succeeded: its name, its arguments, and what it returned (with the path of a file)."""

    name: str
    arguments: tuple[bytes, ...]
    returned: int
    path: bytes = b""


@cache
def can_record() -> bool:
    """Whether strace is there and may trace."""
    if shutil.which("strace") is None:
        return False
    return subprocess.run(["strace", "-o", os.devnull, "true"], capture_output=True, check=False).returncode == 0


def record(command: Sequence[str], folder: Path, **options: object) -> list[Call]:
    """Run a command in a folder and return its system calls that touch files, in the order of their ends."""
    log = folder.with_name(folder.name + ".strace")
    trace = ["strace", "-f", "--seccomp-bpf", "-y", "-xx", "-s", str(1 << 28), "-e", f"trace={CALLS}", "-o", str(log)]
    subprocess.run([*trace, *command], cwd=folder, check=True, capture_output=True, **options)  # type: ignore[call-overload]
    calls, begun = [], {}
    with log.open(encoding="ascii", errors="replace") as lines:
        for line in lines:
            text = line.rstrip("\n")
            process = text.split(" ", 1)[0]
            if text.endswith("<unfinished ...>"):
                begun[process] = text.removesuffix("<unfinished ...>").rstrip()
                continue
            resumed = re.match(r"\d+ +<\.\.\. \w+ resumed>(.*)", text, re.DOTALL)
            if resumed:
                text = begun.pop(process) + resumed[1]
            found = _CALL.match(text)
            if found and int(found[4]) >= 0:
                calls.append(Call(found[2], _split(found[3]), int(found[4]), _decoded(found[5] or "")))
    log.unlink()
    return calls


def _split(text: str) -> tuple[bytes, ...]:
    """The arguments of a call. All strings are in hexadecimal, so that a comma separates."""
    return tuple(_decoded(part.strip()) for part in text.split(","))


def _decoded(text: str) -> bytes:
    return _HEX.sub(lambda found: bytes.fromhex(found[0].replace("\\x", "")).decode("latin1"), text).encode("latin1")


@dataclass(eq=False, slots=True)
class _File:
    content: bytearray = field(default_factory=bytearray)
    kept: bytes | None = None  # at the last sync; None: never synced

    def sync(self) -> None:
        self.kept = bytes(self.content)


@dataclass(eq=False, slots=True)
class _Directory:
    names: dict[str, _Node] = field(default_factory=dict)
    kept: dict[str, _Node] = field(default_factory=dict)  # at the last sync
    since: dict[str, list[_Node | None]] = field(default_factory=dict)  # what each name was since then

    def set(self, name: str, node: _Node | None) -> None:
        self.since.setdefault(name, []).append(node)
        if node is None:
            self.names.pop(name, None)
        else:
            self.names[name] = node

    def sync(self) -> None:
        self.kept, self.since = dict(self.names), {}


@dataclass(eq=False, slots=True)
class _Link:
    target: str

    def sync(self) -> None:
        pass


_Node = _File | _Directory | _Link


class Disk:
    """A folder as its files are, and as much of it as is certain to survive a power cut.

    Parameters
    ----------
    folder
        The folder before the command, all of it synced.
    at
        Where it was when the command ran; None: there.
    """

    def __init__(self, folder: Path, at: Path | None = None) -> None:
        self.folder, self.at = folder, at or folder
        self._folder = str(self.at.resolve())
        self._root = self._read(folder)
        self._links: dict[str, str] = {}  # elsewhere, to a place in the folder
        self._offsets: dict[tuple[bytes, str], int] = {}
        self.said: set[str] = set()
        """First characters of the snapshots that the command reported to its user."""

    def _read(self, folder: Path) -> _Directory:
        found = _Directory()
        for path in folder.iterdir():
            node: _Node
            if path.is_symlink():
                node = _Link(str(path.readlink()))
            elif path.is_dir():
                node = self._read(path)
            else:
                node = _File(bytearray(path.read_bytes()), path.read_bytes())
            found.names[path.name] = node
        found.sync()
        return found

    def apply(self, call: Call) -> bool:
        """Make a call. Returns whether it changed anything here."""
        method = getattr(self, f"_{call.name.rstrip('2').removesuffix('at')}", None)
        if method is None:
            inside = self._folder.encode()
            if any(inside in argument for argument in call.arguments):
                raise NotImplementedError(f"{call.name} {call.arguments[0]!r}")
            return False
        return bool(method(call, call.arguments))

    # ---- calls

    def _open(self, call: Call, arguments: tuple[bytes, ...]) -> bool:
        flags = arguments[2] if call.name == "openat" else arguments[1]
        if not flags.startswith((b"O_WRONLY", b"O_RDWR")) or b"O_TMPFILE" in flags:
            return False
        place = self._place(call.path)
        if place is None:
            return False
        directory, name = place
        new = name not in directory.names
        if new:
            directory.set(name, _File())
        file = directory.names[name]
        assert isinstance(file, _File)
        cut = b"O_TRUNC" in flags and bool(file.content)
        if cut:
            file.content.clear()
        start = len(file.content) if b"O_APPEND" in flags else 0
        self._offsets[b"%d" % call.returned, self._text(call.path)] = start
        return new or cut

    def _write(self, call: Call, arguments: tuple[bytes, ...]) -> bool:
        descriptor, path = _descriptor(arguments[0])
        data = _string(b",".join(arguments[1:-1]))[: call.returned]
        if descriptor in (b"1", b"2"):
            known = len(self.said)
            self.said |= {each.decode() for each in _SAID.findall(data)}
            return len(self.said) > known
        file = self._file(path)
        if file is None:
            return False
        key = (descriptor, self._text(path))
        start = self._offsets.get(key, len(file.content))
        self._put(file, start, data)
        self._offsets[key] = start + len(data)
        return True

    def _pwrite64(self, call: Call, arguments: tuple[bytes, ...]) -> bool:
        file = self._file(_descriptor(arguments[0])[1])
        if file is None:
            return False
        self._put(file, int(arguments[-1]), _string(b",".join(arguments[1:-2]))[: call.returned])
        return True

    def _put(self, file: _File, start: int, data: bytes) -> None:
        file.content.extend(bytes(max(0, start - len(file.content))))
        file.content[start : start + len(data)] = data

    def _sendfile(self, call: Call, arguments: tuple[bytes, ...]) -> bool:
        target, source = (self._file(_descriptor(argument)[1]) for argument in arguments[:2])
        if target is None or not call.returned:
            return False
        if source is None or len(source.content) != call.returned:
            raise NotImplementedError("a copy of a part of a file, or of one from elsewhere")
        target.content.extend(source.content)
        return True

    def _lseek(self, call: Call, arguments: tuple[bytes, ...]) -> bool:
        descriptor, path = _descriptor(arguments[0])
        self._offsets[descriptor, self._text(path)] = call.returned
        return False

    def _ftruncate(self, call: Call, arguments: tuple[bytes, ...]) -> bool:
        file, size = self._file(_descriptor(arguments[0])[1]), int(arguments[1])
        if file is None:
            return False
        del file.content[size:]
        file.content.extend(bytes(size - len(file.content)))
        return True

    def _rename(self, call: Call, arguments: tuple[bytes, ...]) -> bool:
        old, new, flags = _two_paths(call, arguments)
        source, target = self._place(old), self._place(new)
        if source is None or target is None:
            if source is target:
                return False
            raise NotImplementedError(f"a rename into or out of the folder: {old!r}, {new!r}")
        moved, there = source[0].names[source[1]], target[0].names.get(target[1])
        target[0].set(target[1], moved)
        source[0].set(source[1], there if b"EXCHANGE" in flags else None)
        return True

    def _link(self, call: Call, arguments: tuple[bytes, ...]) -> bool:
        old, new, _ = _two_paths(call, arguments)
        source, target = self._place(old), self._place(new)
        if source is None or target is None:
            return False
        target[0].set(target[1], source[0].names[source[1]])
        return True

    def _symlink(self, call: Call, arguments: tuple[bytes, ...]) -> bool:
        path, target = _path(arguments[1:]), _string(arguments[0]).decode()
        place = self._place(path)
        if place is None:
            self._links[os.path.normpath(self._text(path))] = target
            return False
        place[0].set(place[1], _Link(target))
        return True

    def _unlink(self, call: Call, arguments: tuple[bytes, ...]) -> bool:
        place = self._place(_path(arguments))
        if place is None:
            return False
        place[0].set(place[1], None)
        return True

    _rmdir = _unlink

    def _mkdir(self, call: Call, arguments: tuple[bytes, ...]) -> bool:
        place = self._place(_path(arguments))
        if place is None:
            return False
        place[0].set(place[1], _Directory())
        return True

    def _fsync(self, call: Call, arguments: tuple[bytes, ...]) -> bool:
        node = self._node(_descriptor(arguments[0])[1])
        if node is not None:
            node.sync()
        return node is not None

    _fdatasync = _fsync

    def _syncfs(self, call: Call, arguments: tuple[bytes, ...]) -> bool:
        self._sync_all(self._root)
        return True

    _sync = _syncfs

    def _sync_all(self, node: _Node) -> None:
        node.sync()
        if isinstance(node, _Directory):
            for each in node.names.values():
                self._sync_all(each)

    # ---- paths

    def _text(self, path: bytes) -> str:
        return path.decode("utf-8", "surrogateescape")

    def _place(self, path: bytes) -> tuple[_Directory, str] | None:
        """The directory and the name of a path in the folder; None: it is elsewhere."""
        text = os.path.normpath(os.path.join(self._folder, self._text(path)))  # noqa: PTH118
        for link in self._links:
            if text.startswith(link + "/"):
                text = self._links[link] + text.removeprefix(link)
        if not text.startswith(self._folder + "/"):
            return None
        *parents, name = text.removeprefix(self._folder + "/").split("/")
        at: _Node | None = self._root
        for each in parents:
            at = at.names.get(each) if isinstance(at, _Directory) else None
        return (at, name) if isinstance(at, _Directory) else None

    def _node(self, path: bytes) -> _Node | None:
        if self._text(path) == self._folder:
            return self._root
        place = self._place(path)
        return None if place is None else place[0].names.get(place[1])

    def _file(self, path: bytes) -> _File | None:
        node = self._node(path)
        return node if isinstance(node, _File) else None

    # ---- after a power cut

    def cut(self, folder: Path, rng: random.Random, how: str) -> None:
        """Write the folder as it may be after a power cut now.

        `how` is "old" (only what was synced), "empty" (all new names, but no content that was not synced) or "random".
        """
        folder.mkdir()
        self._write_out(self._root, folder, rng, how)

    def _write_out(self, directory: _Directory, folder: Path, rng: random.Random, how: str) -> None:
        chosen: dict[str, _Node | None] = dict(directory.kept)
        for name, values in directory.since.items():
            possible = [directory.kept.get(name), *values]
            chosen[name] = {"old": possible[0], "empty": possible[-1]}.get(how, rng.choice(possible))
        for name, node in chosen.items():
            path = folder / name
            if isinstance(node, _Directory):
                path.mkdir()
                self._write_out(node, path, rng, how)
            elif isinstance(node, _File):
                path.write_bytes(_content(node, rng, how))
            elif isinstance(node, _Link):
                path.symlink_to(node.target)


def _content(file: _File, rng: random.Random, how: str) -> bytes:
    """A content that a file may have after a power cut."""
    now = bytes(file.content)
    if now == file.kept:
        return now
    if how != "random":
        return file.kept or b""
    part = now[: rng.randrange(len(now) + 1)]
    return rng.choice([b"", bytes(len(now)), rng.randbytes(len(now)), part, now, file.kept or b""])


def _descriptor(argument: bytes) -> tuple[bytes, bytes]:
    """Number and path of a file descriptor, written as `3</path>`."""
    number, _, path = argument.partition(b"<")
    return number, path.removesuffix(b">")


def _string(argument: bytes) -> bytes:
    return argument.strip()[1:-1]


def _path(arguments: tuple[bytes, ...]) -> bytes:
    """The path of a call: `"name"`, or a descriptor of a directory and `"name"`."""
    if arguments[0].startswith(b'"'):
        return _string(arguments[0])
    name = _string(arguments[1])
    return name if name.startswith(b"/") else _descriptor(arguments[0])[1] + b"/" + name


def _two_paths(call: Call, arguments: tuple[bytes, ...]) -> tuple[bytes, bytes, bytes]:
    """The two paths of a call, and its flags."""
    if "at" in call.name:
        return _path(arguments[:2]), _path(arguments[2:4]), b"".join(arguments[4:])
    return _string(arguments[0]), _string(arguments[1]), b""


def states(disk: Disk, calls: list[Call], count: int, rng: random.Random) -> Iterator[tuple[int, str, bool]]:
    """Make the calls, and stop at `count` moments of a power cut, spread over the calls that change something.

    Yields
    ------
    tuple of (int, str, bool)
        Number of the call, how the disk is to be cut, and whether the command has ended.
    """
    probe = Disk(disk.folder, disk.at)
    changing = [number for number, call in enumerate(calls) if probe.apply(call)]
    moments = sorted(rng.choice(changing) for _ in range(max(0, count - 4)))
    for number, call in enumerate(calls):
        disk.apply(call)
        while moments and moments[0] == number:
            moments.pop(0)
            yield number, rng.choice(["old", "empty", "random", "random"]), False
    for how in ("old", "empty", "random", "random"):
        yield len(calls), how, True
