"""Where text comes from: files, folders, standard input and the corpora inside the package, as documents.

One line is one document; blank lines are skipped. Text is streamed: memory holds a few blocks of one MiB,
never a corpus. A line of more than `MAX_LINE_BYTES` is cut into pieces of at most that size (between characters),
and each piece is a document of its own. The module does not know nodes or tokenizers.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import lzma
import os
import re
import shutil
import sys
import tempfile
import weakref
import zlib
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any, BinaryIO, cast

from sifu_store.durable import format_bytes
from sifu_store.errors import CorpusError, OptionError

from sifu_graph.input_file import HEAD_BYTES, kind_of, open_regular
from sifu_graph.text.decompress import MOST_XZ_BYTES, decompressed
from sifu_graph.text.json_lines import Document as Document
from sifu_graph.text.json_lines import parse_line

SHIPPED = ("tang", "wordnet")
STDIN, TEXTS = "-", "texts"
COPIED = {STDIN: "standard input", TEXTS: "texts in memory"}
"""Sources that are copied to a temporary file, by name: a graph does not keep them."""
KINDS = (".txt", ".jsonl")
COMPRESSIONS = ("", ".gz", ".xz")
MAX_LINE_BYTES = 4 << 20  # a longer line of text is cut; see the module's docstring
MAX_JSON_LINE_BYTES = 8 << 20  # JSON cannot be cut: a longer line is an error; as objects it takes 20 times as much
_BLOCK_BYTES = 1 << 20
_BOM = b"\xef\xbb\xbf"
_LINE_END = re.compile("\r+\n?")


@dataclass(frozen=True, slots=True)
class Source:
    """One file that documents are read from.

    Attributes
    ----------
    name
        What the graph records and messages say: an absolute path, the name of a shipped corpus, or `-`.
    kind
        `.txt` or `.jsonl`.
    compression
        ``""``, `.gz` or `.xz`.
    location
        What is opened; None: it is gone, and only its record is left.
    """

    name: str
    kind: str
    compression: str
    location: Path | Traversable | None


class Corpus:
    """One or more sources of documents.

    Parameters
    ----------
    sources
        Paths of `.txt` and `.jsonl` files (plain, `.gz` or `.xz`), folders (every such file below them,
        sorted, names that begin with a dot left out), `-` for standard input (copied to a temporary file,
        since a corpus is read more than once), or the name of a shipped corpus (`tang`, `wordnet`), unless
        a file of that name exists.
    tokens
        Documents are lists of tokens (every source is JSONL, standard input too) instead of text.
    stdin
        What `-` reads; `sys.stdin.buffer` if not given.

    Raises
    ------
    CorpusError
        A source is missing, or its suffix is unknown. (Errors inside a file are raised when it is read.)
    """

    def __init__(
        self, sources: Iterable[str | Path] | str | Path, *, tokens: bool = False, stdin: BinaryIO | None = None
    ) -> None:
        self.tokens = tokens
        self._records: list[dict[str, Any]] | None = None
        self.sources: list[Source] = []
        for given in [sources] if isinstance(sources, (str, os.PathLike)) else sources:
            if str(given) == "-":
                self.sources.append(self._spool(stdin))
            else:
                self.sources.extend(_resolve(given))
        if not self.sources:
            raise CorpusError("no corpus was named: name a file, a folder, - or one of " + ", ".join(SHIPPED))
        for source in self.sources:
            if tokens and source.kind != ".jsonl":
                raise CorpusError(f"{source.name}: lists of tokens are read from .jsonl, not from {source.kind}")

    def _spool(self, stdin: BinaryIO | None) -> Source:
        if any(source.name == "-" for source in self.sources):
            raise CorpusError("-: standard input was named twice, but it can be read only once")
        handle, name = tempfile.mkstemp(prefix="sifu-stdin-")
        weakref.finalize(self, Path(name).unlink, missing_ok=True)
        with os.fdopen(handle, "wb") as spool:
            shutil.copyfileobj(stdin if stdin is not None else sys.stdin.buffer, spool, _BLOCK_BYTES)
        return Source(name="-", kind=".jsonl" if self.tokens else ".txt", compression="", location=Path(name))

    # ---- documents

    def documents(self) -> Iterator[Document]:
        """Yield every document: `str`, or `list[str]` with ``tokens=True``.

        Raises
        ------
        CorpusError
            A file is not UTF-8, binary, damaged, not the JSON expected, or there is no document at all.
        """
        found = False
        for source in self.sources:
            for document in _read_documents(source, tokens=self.tokens):
                found = True
                yield document
        if not found:
            names = ", ".join(source.name for source in self.sources[:3])
            more = f" and {len(self.sources) - 3} more" if len(self.sources) > 3 else ""
            raise CorpusError(f"{names}{more}: empty, expected at least one line of text")

    def training(self, *, holdout: float) -> Documents:
        """The documents for training; each `iter()` reads them from the start."""
        return Documents(corpus=self, holdout=holdout, held_out=False)

    def heldout(self, *, holdout: float) -> Documents:
        """The documents for evaluation; each `iter()` reads them from the start."""
        return Documents(corpus=self, holdout=holdout, held_out=True)

    # ---- identity

    def record(self) -> dict[str, Any]:
        """The description of the corpus that a graph stores; `from_record` opens the corpus again.

        Returns
        -------
        dict
            `tokens`, and `sources`: a list of `name` (absolute path, shipped name, or `-`), `bytes` and
            `sha256` of the file (compressed, if it is).
        """
        if self._records is None:
            self._records = [_describe(source) for source in self.sources]
        return {"tokens": self.tokens, "sources": [dict(entry) for entry in self._records]}

    def fingerprint(self) -> str:
        """A hash (hex) of the content of the corpus. Paths do not change it."""
        kinds = [(source.kind, source.compression) for source in self.sources]
        hashes = [entry["sha256"] for entry in self.record()["sources"]]
        return hashlib.sha256(json.dumps([self.tokens, kinds, hashes]).encode()).hexdigest()

    @classmethod
    def from_record(cls, record: dict[str, Any]) -> Corpus:
        """Open the corpus that `record` describes.

        Raises
        ------
        CorpusError
            A file is missing or has changed. (What was standard input or in memory is missing when it is read; what a
            graph has encoded of it can be used without.)
        """
        entries = record["sources"]
        sources: list[Source] = []
        for entry in entries:
            name = entry["name"]
            if name in COPIED:
                kind = ".jsonl" if record["tokens"] or name == TEXTS else ".txt"
                sources.append(Source(name=name, kind=kind, compression="", location=None))
            elif name in SHIPPED:  # even if a file of that name exists
                sources.append(_shipped(name))
            elif Path(name).is_file():
                sources.append(_file(Path(name)))
            else:
                raise CorpusError(f"{name}: missing; the graph was built from it: restore it, or name a corpus")
        corpus = cls.__new__(cls)
        corpus.tokens, corpus.sources = bool(record["tokens"]), sources
        corpus._records = [
            dict(entry) if source.location is None else _describe(source)
            for source, entry in zip(sources, entries, strict=True)
        ]
        for entry, now in zip(entries, corpus._records, strict=True):
            if (entry["bytes"], entry["sha256"]) != (now["bytes"], now["sha256"]):
                raise CorpusError(
                    f"{entry['name']}: changed since the graph was built (then {entry['bytes']:,} bytes, "
                    f"sha256 {entry['sha256'][:12]}; now {now['bytes']:,}, {now['sha256'][:12]}): "
                    "restore it, or name a corpus"
                )
        return corpus


Corpora = Corpus | str | Path | Sequence[str | Path]
"""What a function takes as a text: a corpus, or the sources of one. A single source is not iterated."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Documents:
    """One side of the held-out split of a corpus. Every `iter()` reads it from the start.

    ``holdout`` is the share (0 to below 1) of held-out documents, ``held_out`` selects the side.

    Raises
    ------
    OptionError
        From `iter()`: the share is out of range.
    """

    corpus: Corpus
    holdout: float
    held_out: bool

    def __iter__(self) -> Iterator[Document]:
        wanted, fraction = self.held_out, self.holdout
        check_fraction(fraction)
        return (doc for doc in self.corpus.documents() if is_held_out(doc, fraction=fraction) is wanted)


def check_fraction(fraction: float) -> None:
    """Raise `OptionError` unless a share of held-out documents is at least 0 and below 1."""
    if not 0 <= fraction < 1:
        raise OptionError(f"the held-out share is {fraction}; expected a number from 0 to below 1")


def is_held_out(document: Document, *, fraction: float) -> bool:
    """Whether a document is kept for evaluation. This depends on its content only.

    The 64-bit BLAKE2b hash of the UTF-8 text (line ends as ``\\n``, none at the end; a token list as compact JSON)
    is compared with ``fraction * 2**64``: a larger fraction holds out a superset.
    """
    if fraction <= 0:
        return False
    if not isinstance(document, str):
        document = json.dumps(document, ensure_ascii=False, separators=(",", ":"))
    elif "\n" in document or "\r" in document:
        document = document.replace("\r\n", "\n").rstrip("\r\n")
    digest = hashlib.blake2b(document.encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest, "big") < fraction * 2**64


def batched(documents: Iterable[Document], *, units: int = 1 << 20) -> Iterator[list[Document]]:
    """Group documents into lists of about `units` characters (or tokens), in order."""
    batch: list[Document] = []
    held = 0
    for document in documents:
        batch.append(document)
        held += len(document) + 2
        if held >= units:
            yield batch
            batch, held = [], 0
    if batch:
        yield batch


# ---- finding files


def _shipped(name: str) -> Source:
    location = resources.files("sifu_graph") / "corpora" / f"{name}.txt.xz"
    return Source(name=name, kind=".txt", compression=".xz", location=location)


def _suffixes(name: str) -> tuple[str, str] | None:
    """(kind, compression) of a file name; None: unknown."""
    lower = name.lower()
    for compression in COMPRESSIONS:
        for kind in KINDS:
            if lower.endswith(kind + compression):
                return kind, compression
    return None


def _resolve(given: str | Path) -> list[Source]:
    path = Path(given)
    if str(given) in SHIPPED and not path.exists():
        return [_shipped(str(given))]
    expected = "expected .txt or .jsonl, plain or with .gz or .xz"
    try:
        path = path.absolute()
        if path.resolve() == Path(path.anchor):
            raise CorpusError(f"{path}: the root of a file system: name the folders below it that hold text")
        if path.is_dir():
            files = sorted(
                (
                    below
                    for below in path.rglob("*")
                    if _suffixes(below.name)
                    and not any(part.startswith(".") for part in below.relative_to(path).parts)
                    and below.is_file()
                ),
                key=lambda below: below.relative_to(path).parts,
            )
            if not files:
                raise CorpusError(f"{path}: a folder without a single text; {expected}")
            return [_file(below) for below in files]
        if not path.exists():
            raise CorpusError(f"{path}: not found; name a file, a folder, - or one of {', '.join(SHIPPED)}")
    except (OSError, ValueError) as error:  # ValueError: a NUL byte in the name
        raise CorpusError(f"{given}: cannot be opened: {error}") from error
    if _suffixes(path.name) is None:
        raise CorpusError(f"{path}: the suffix {path.suffix!r} is not known; {expected}")
    return [_file(path)]


def _file(path: Path) -> Source:
    kind, compression = _suffixes(path.name) or ("", "")
    return Source(name=str(path), kind=kind, compression=compression, location=path)


def _describe(source: Source) -> dict[str, Any]:
    try:
        with _open_raw(source) as raw:
            digest = hashlib.file_digest(cast(io.BufferedReader, raw), "sha256").hexdigest()
            return {"name": source.name, "bytes": raw.tell(), "sha256": digest}
    except OSError as error:
        raise CorpusError(f"{source.name}: cannot be read: {error.strerror or error}") from error


def _open_raw(source: Source) -> BinaryIO:
    if source.location is None:
        raise CorpusError(f"the recorded corpus was {COPIED[source.name]}, which is gone: name a corpus")
    if isinstance(source.location, Path):
        return open_regular(source.location)
    return cast(BinaryIO, source.location.open("rb"))


# ---- reading them


def _blocks(source: Source) -> Iterator[bytes]:
    """The bytes of a source, decompressed. A thread reads the next block while the caller uses this one."""
    try:
        with _open_raw(source) as raw, ThreadPoolExecutor(1) as pool:
            stream = decompressed(raw, compression=source.compression)
            coming = pool.submit(stream.read, _BLOCK_BYTES)
            while block := coming.result():
                coming = pool.submit(stream.read, _BLOCK_BYTES)
                yield block
    except (EOFError, lzma.LZMAError, zlib.error, gzip.BadGzipFile) as error:
        if "Memory usage limit" in str(error):
            limit = f"needs more than {format_bytes(MOST_XZ_BYTES)} of memory to be decompressed"
            raise CorpusError(f"{source.name}: {limit}: compress it again with xz -9 or less") from error
        what = f"truncated or not a valid {source.compression} file"
        raise CorpusError(f"{source.name}: {what} ({error}): copy or compress it again") from error
    except OSError as error:
        raise CorpusError(f"{source.name}: cannot be read: {error.strerror or error}") from error


def _text_blocks(source: Source) -> Iterator[tuple[int, str]]:
    """Runs of whole lines (or one piece of a very long line) as text, each with the number of its first line."""
    line, offset, rest, head = 1, 0, b"", b""
    for block in _blocks(source):
        head = head or block[:HEAD_BYTES]
        if offset == 0 and not rest and block.startswith(_BOM):
            block, offset = block[len(_BOM) :], len(_BOM)
        rest += block
        while True:
            first_end = rest.find(b"\n")
            first_bytes = first_end if first_end >= 0 else len(rest)  # no other line can be longer than a block
            if source.kind == ".jsonl" and first_bytes > MAX_JSON_LINE_BYTES:
                limit = f"longer than {MAX_JSON_LINE_BYTES >> 20} MiB"
                raise CorpusError(f"{source.name}: line {line} is {limit}: cut it in several")
            giant = source.kind == ".txt" and first_bytes > MAX_LINE_BYTES
            cut = _long_line_end(rest) if giant else rest.rfind(b"\n") + 1
            if cut:
                yield line, _decode(rest[:cut], name=source.name, head=head, line=line, offset=offset)
                line += rest.count(b"\n", 0, cut)
                offset += cut
                rest = rest[cut:]
            if not giant:
                break
    if rest:
        yield line, _decode(rest, name=source.name, head=head, line=line, offset=offset)


def _long_line_end(data: bytes) -> int:
    """Where text that has no ``\\n`` in its first `MAX_LINE_BYTES` is cut: after a ``\\r``, else between characters."""
    return data.rfind(b"\r", 0, MAX_LINE_BYTES) + 1 or _character_start(data, MAX_LINE_BYTES)


def clean(text: str) -> str:
    """Text with ``\\n`` at the ends of its lines (of CR, CRLF and CR CR LF), and without byte order marks."""
    if "\r" in text:
        text = _LINE_END.sub("\n", text)
    return text.replace("\ufeff", "") if "\ufeff" in text else text


def _character_start(data: bytes, position: int) -> int:
    """The last byte at or before `position` where a UTF-8 character begins (the data may be malformed)."""
    for back in range(4):
        if data[position - back] & 0xC0 != 0x80:
            return position - back
    return position


def decode_text(content: bytes, *, name: str) -> str:
    """The text of a file or of another input called `name`, as `clean` returns it.

    Raises
    ------
    CorpusError
        It is not UTF-8.
    """
    begin = len(_BOM) if content.startswith(_BOM) else 0
    return clean(_decode(content[begin:], name=name, head=content[:HEAD_BYTES], line=1, offset=begin))


def _decode(block: bytes, *, name: str, head: bytes, line: int, offset: int) -> str:
    """The text of a block; `head` is the beginning of the file, `line` and `offset` where the block begins."""

    def where(position: int) -> str:
        number = line + block.count(b"\n", 0, position)
        return f"line {number}, byte {offset + position:,}"

    def refused(what: str, found: str, remedy: str) -> CorpusError:
        kind = kind_of(head)
        return CorpusError(f"{name}: {what if kind is None else kind} ({found}){remedy if kind is None else _TEXT}")

    if (position := block.find(b"\0")) >= 0:
        raise refused("binary or UTF-16", f"a NUL byte in {where(position)}", _TEXT)
    try:
        return block.decode("utf-8")
    except UnicodeDecodeError as error:
        found = f"0x{block[error.start]:02x} in {where(error.start)}"
        raise refused("not UTF-8", found, ": convert it to UTF-8") from None


_TEXT = "; expected text in UTF-8"


def _read_documents(source: Source, *, tokens: bool) -> Iterator[Document]:
    for first, text in _text_blocks(source):
        lines = clean(text).split("\n")
        del text
        if source.kind == ".txt":
            yield from (line for line in lines if line and not line.isspace())
            continue
        for number, line in enumerate(lines, first):
            if not line or line.isspace():
                continue
            document = parse_line(line, tokens=tokens, where=f"{source.name}: line {number}")
            if isinstance(document, str):
                document = clean(document)
            if document and not (isinstance(document, str) and document.isspace()):
                yield document
