"""The files of a corpus: what a path stands for, which files of a folder are texts, and what a folder leaves out.

It knows names and the first bytes of files; it does not know documents.
"""

from __future__ import annotations

import codecs
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import BinaryIO, cast

from sifu_store.errors import CorpusError
from sifu_store.staging import is_store

from sifu_graph.input_file import kind_of, open_regular
from sifu_graph.text.decompress import COMPRESSIONS, READ_ERRORS, decompressed

SHIPPED = ("tang", "wordnet")
STDIN, TEXTS = "-", "texts"
COPIED = {STDIN: "standard input", TEXTS: "texts in memory"}
"""Sources that no file keeps, by name: a graph that is built from one has a copy beside the encoded text."""
KINDS = {".jsonl": ".jsonl", ".ndjson": ".jsonl", ".csv": ".csv", ".tsv": ".tsv"}
"""How a file is read, by its suffix. Every other file is text."""
TEXT = ".txt"
SNIFFED_BYTES = 8192
NAMED = 3
"""Number of suffixes, or of files, that a note names."""


@dataclass(frozen=True, slots=True)
class Source:
    """One file that documents are read from.

    Attributes
    ----------
    name
        What the graph records and messages say: an absolute path, the name of a shipped corpus, or `-`.
    kind
        `.txt` (any text), `.jsonl`, `.csv` or `.tsv`.
    compression
        ``""``, `.gz`, `.xz`, `.bz2` or `.zst`.
    location
        What is opened; None: there is no copy of it, and only its record is left.
    """

    name: str
    kind: str
    compression: str
    location: Path | Traversable | None


@dataclass(slots=True)
class LeftOut:
    """What was not read below a folder: counts by reason, and the suffixes of the files that are no text."""

    hidden: int = 0
    graphs: int = 0
    unmatched: int = 0
    empty: int = 0
    binary: Counter[str] = field(default_factory=Counter)

    def __str__(self) -> str:
        parts = []
        if self.binary:
            kinds = [suffix or "no suffix" for suffix, _ in self.binary.most_common(NAMED)]
            more = ", ..." if len(self.binary) > NAMED else ""
            parts.append(f"{self.binary.total():,} that are not text in UTF-8 ({', '.join(kinds)}{more})")
        if self.unmatched:
            parts.append(f"{self.unmatched:,} that no pattern matches")
        if self.empty:
            parts.append(f"{self.empty:,} empty")
        if self.hidden:
            parts.append(f"{self.hidden:,} hidden (a name that begins with a dot)")
        if self.graphs:
            parts.append(f"{self.graphs:,} graph{'s' * (self.graphs != 1)}")
        return ", ".join(parts)


def shipped(name: str) -> Source:
    """A corpus inside the package."""
    location = resources.files("sifu_graph") / "corpora" / f"{name}.txt.xz"
    return Source(name=name, kind=TEXT, compression=".xz", location=location)


def copy_of(sha256: str) -> Path:
    """The file of a copy (`kept_texts`) in its folder, by the hash of the text."""
    return Path(f"text-{sha256[:32]}.gz")


def copied(name: str, *, tokens: bool, sha256: str, folder: Path | None) -> Source:
    """The copy of a source in a folder; without a location, if there is none."""
    path = None if folder is None else folder / copy_of(sha256)
    kind = ".jsonl" if tokens or name == TEXTS else TEXT
    there = path is not None and path.is_file()
    return Source(name=name, kind=kind, compression=".gz" if there else "", location=path if there else None)


def file(path: Path) -> Source:
    """A file, read as its suffix says."""
    suffix, compression = _suffixes(path.name)
    return Source(name=str(path), kind=KINDS.get(suffix, TEXT), compression=compression, location=path)


def _suffixes(name: str) -> tuple[str, str]:
    """The suffix of a file name without that of its compression, and that of its compression."""
    lower = name.lower()
    compression = next((each for each in COMPRESSIONS if each and lower.endswith(each)), "")
    return Path(lower.removesuffix(compression)).suffix, compression


def resolve(given: str | Path, *, glob: Sequence[str], notes: list[str], everywhere: bool = False) -> list[Source]:
    """The sources that a path or the name of a shipped corpus stands for. What a folder leaves out is noted.

    Raises
    ------
    CorpusError
        It is not there, cannot be opened, or is a folder without a text; or, unless ``everywhere``, the root of a file
        system or a folder below which another device is mounted.
    """
    path = Path(given)
    if str(given) in SHIPPED and not path.exists():
        return [shipped(str(given))]
    try:
        path = path.absolute()
        if path.resolve() == path.resolve().parent and not everywhere:
            raise CorpusError(
                f"{path}: the root of a file system: name the folders below it that hold text, or pass "
                "`everywhere=True` to read all of it"
            )
        if path.is_dir():
            return _folder(path, glob=glob, notes=notes, everywhere=everywhere)
        if not path.exists():
            raise CorpusError(f"{path}: not found; name a file, a folder, - or one of {', '.join(SHIPPED)}")
    except (OSError, ValueError, RuntimeError) as error:  # a NUL byte in the name, a circular link
        raise CorpusError(f"{given}: cannot be opened: {error}") from error
    return [file(path)]


def _folder(path: Path, *, glob: Sequence[str], notes: list[str], everywhere: bool) -> list[Source]:
    left_out, files = LeftOut(), []
    for below in _below(path, left_out, everywhere=everywhere):
        name = below.relative_to(path).as_posix()
        if glob and not any(fnmatchcase(name, each) or fnmatchcase(below.name, each) for each in glob):
            left_out.unmatched += 1
            continue
        source = file(below)
        head = b"" if glob or not below.stat().st_size else _head(source)  # files of /proc have no size, and may wait
        if glob or _is_text(head, known=_suffixes(below.name)[0] in (TEXT, *KINDS)):
            files.append(source)
        elif head:
            left_out.binary[below.suffix.lower()] += 1
        else:
            left_out.empty += 1
    said = str(left_out)
    if not files:
        raise CorpusError(f"{path}: a folder without a single text{said and f'; left out: {said}'}")
    if said:
        notes.append(f"{path}: {len(files):,} file{'s' * (len(files) != 1)} read; left out: {said}")
    return files


def _below(path: Path, left_out: LeftOut, *, everywhere: bool) -> list[Path]:
    """The files below a folder in the order of their names, without those of hidden folders and of graphs.

    Raises
    ------
    CorpusError
        A folder below it is on another device, unless ``everywhere``.
    """
    found, device = [], path.stat().st_dev
    for root, folders, names in os.walk(path):
        here = Path(root)
        for name in list(folders):
            graph = is_store(here / name)  # its files are no text, whatever they look like
            left_out.graphs += graph
            left_out.hidden += name.startswith(".")
            if graph or name.startswith("."):
                folders.remove(name)
            elif not everywhere and not (here / name).is_symlink() and (here / name).stat().st_dev != device:
                raise CorpusError(
                    f"{path}: {here / name} below it is on another device: name the folders that hold text, or pass "
                    "`everywhere=True` to read all of it"
                )
        left_out.hidden += sum(name.startswith(".") for name in names)
        found += [here / name for name in names if not name.startswith(".") and (here / name).is_file()]
    return sorted(found, key=lambda below: below.relative_to(path).parts)


def _head(source: Source) -> bytes:
    """The first bytes of a file; a NUL byte where it cannot be decompressed, so that it counts as no text."""
    try:
        with open_source(source) as raw:
            stream, head = decompressed(raw, compression=source.compression), b""
            while len(head) < SNIFFED_BYTES and (more := stream.read(SNIFFED_BYTES - len(head))):
                head += more
            return head
    except (*READ_ERRORS, CorpusError):
        return b"\0"
    except OSError as error:
        raise CorpusError(f"{source.name}: cannot be read: {error.strerror or error}") from error


def _is_text(head: bytes, *, known: bool) -> bool:
    """Whether a file of a folder is read. One whose suffix says that it is text is read, or its error is said."""
    if known:
        return True
    if not head or b"\0" in head or head.startswith(b"%PDF-"):
        return False
    try:
        whole = len(head) < SNIFFED_BYTES  # else a character may be cut at the end
        codecs.getincrementaldecoder("utf-8")().decode(head, final=whole)
    except UnicodeDecodeError:
        return False
    return kind_of(head) is None


def open_source(source: Source) -> BinaryIO:
    """Opens a source for reading, compressed if it is.

    Raises
    ------
    CorpusError
        It is gone, or no regular file.
    """
    if source.location is None:
        raise CorpusError(
            f"the graph was built from {COPIED[source.name]}, and there is no copy of that text in its folder cache "
            "(no file of `export()` has one): pass the text again, with `train(texts=...)` or `evaluate(texts=...)`"
        )
    if isinstance(source.location, Path):
        return open_regular(source.location)
    return cast(BinaryIO, source.location.open("rb"))


def heads(sources: Sequence[Source]) -> Iterator[tuple[Source, bytes]]:
    """The first bytes of each source, as far as it can be read."""
    for source in sources:
        try:
            yield source, _head(source)
        except CorpusError:  # reported when it is read
            continue
