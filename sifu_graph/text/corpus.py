"""Where text comes from: files, folders, standard input and the corpora inside the package, as documents.

Text is streamed: memory holds a few blocks of one MiB, or one document (`units`), never a corpus. The module does not
know nodes or tokenizers.
"""

from __future__ import annotations

import copy
import hashlib
import io
import json
import os
import shutil
import sys
import tempfile
import weakref
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO, cast

from sifu_store.errors import CorpusError, OptionError

from sifu_graph.progress import SILENT, Stage, Stages
from sifu_graph.text import csv_rows, sources, units
from sifu_graph.text.json_lines import Document as Document
from sifu_graph.text.json_lines import parse_line
from sifu_graph.text.sources import COPIED, SHIPPED, STDIN, TEXT, Source, resolve
from sifu_graph.text.text_blocks import numbered_lines, text_blocks

_BLOCK_BYTES = 1 << 20
READING = "reading the corpus"
"""What the stage of a pass is called."""
SAMPLED = 32
"""Number of files whose beginnings are looked at to guess what a document is."""


@dataclass(slots=True)
class Skipped:
    """What one pass over a corpus could not read and left out."""

    count: int = 0
    first: str = ""

    def reset(self) -> None:
        """Before another pass."""
        self.count, self.first = 0, ""

    def add(self, error: CorpusError | str) -> None:
        """Counts one more line, row or file; the first error is kept."""
        self.first = self.first if self.count else str(error)
        self.count += 1


class Corpus:
    """One or more sources of documents.

    Parameters
    ----------
    sources
        Paths of texts in UTF-8: `.jsonl` or `.ndjson` (one JSON object a line), `.csv` or `.tsv` (one column of them),
        and any other file as text; all also compressed (`.gz`, `.xz`, `.bz2`, `.zst`). Folders: every text below them,
        sorted, hidden files and graphs left out (`notes` counts them). `-`: standard input (copied to a temporary
        file, since a corpus is read more than once). The name of a shipped corpus (`tang`, `wordnet`), unless a file of
        that name exists.
    tokens
        Documents are lists of tokens (every source is JSONL, standard input too) instead of text. None: as the graph
        has them that reads the corpus, or text.
    document
        What one document of a text is: ``line``, ``paragraph`` (what is between blank lines), ``file``, or
        ``separator:STR`` (what is between two of these; ``\\n`` is a line break). None: as in the graph that reads the
        corpus; a build guesses it from the text, and notes it. A row of JSON lines or CSV is always a document.
    field
        The member of JSON lines, or the column of CSV, that has the text. None: as in the graph, or ``text``.
    glob
        Patterns (``*.md``) of names or of paths below a folder: only files that match one of them are read.
    skip_bad
        Leave out what cannot be read (a line, a row, the rest of a file), and count it in `notes`, instead of an error.
    everywhere
        Read the root of a file system, and folders below which another device is mounted, instead of an error.
    stdin
        What `-` reads; `sys.stdin.buffer` if not given.

    Raises
    ------
    CorpusError
        A source is missing, or is the root of a file system. (Errors inside a file are raised when it is read.)
    OptionError
        ``document`` has no meaning.
    """

    def __init__(
        self,
        sources: Iterable[str | Path] | str | Path,
        *,
        tokens: bool | None = None,
        document: str | None = None,
        field: str | None = None,
        glob: Sequence[str] = (),
        skip_bad: bool = False,
        everywhere: bool = False,
        stdin: BinaryIO | None = None,
    ) -> None:
        if document is not None:
            units.check_unit(document)
        self.tokens, self.document, self.field, self.skip_bad = tokens, document, field, skip_bad
        self._records: list[dict[str, Any]] | None = None
        self._notes: list[str] = []
        self._origin: Corpus | None = None  # deletes the copy of standard input when it is collected
        self.skipped = Skipped()
        self.sources: list[Source] = []
        for given in [sources] if isinstance(sources, (str, os.PathLike)) else sources:
            if str(given) == STDIN:
                self.sources.append(self._spool(stdin))
            else:
                self.sources.extend(resolve(given, glob=glob, notes=self._notes, everywhere=everywhere))
        if not self.sources:
            raise CorpusError("no corpus was named: name a file, a folder, - or one of " + ", ".join(SHIPPED))
        self._check_kinds()

    def _check_kinds(self) -> None:
        for source in self.sources:
            if self.tokens and source.kind != ".jsonl":
                suffix = Path(source.name).suffix or source.kind
                raise CorpusError(f"{source.name}: lists of tokens are read from .jsonl, not from {suffix}")

    def settled(self, *, tokens: bool, like: dict[str, Any] | None = None) -> Corpus:
        """The corpus for a graph: what was not given is as in the record ``like`` of the graph's own text.

        Without a record, what a document is is guessed from the text. ``tokens``: whether the graph reads lists of
        tokens.
        """
        found = copy.copy(self)
        found._notes, found._origin = list(self._notes), self  # `skipped` is that of both
        reading = (like or {}).get("reading", {})
        if found.tokens is None:
            found.tokens = tokens
            if tokens:
                found.sources = [replace(each, kind=".jsonl") if each.name == "-" else each for each in self.sources]
                found._records = None
            found._check_kinds()
        if found.field is None:
            found.field = reading.get("field")
        if found.document is None:
            found.document = reading.get("document", "line") if like is not None else found._guessed()
        return found

    def _guessed(self) -> str:
        """What a document is, by the beginnings of the texts. Anything but a line is noted."""
        texts = [source for source in self.sources if source.kind == TEXT]
        if self.tokens or not texts or any(source.name in SHIPPED for source in texts):
            return "line"
        step = max(1, len(texts) // SAMPLED)
        samples = [head.decode("utf-8", "replace") for _, head in sources.heads(texts[::step])]
        sizes = [source.location.stat().st_size for source in texts if isinstance(source.location, Path)]
        unit, why = units.guess(samples, files=len(texts), mean_bytes=sum(sizes) / max(1, len(sizes)))
        if why:
            self._notes.append(f"a document is a {unit}: {why} (`document` chooses another unit)")
        return unit

    @property
    def unit(self) -> str:
        """What one document of a text is, in words."""
        unit = self.document or "line"
        return f"what is between two {unit.removeprefix(units.SEPARATED)!r}" if unit not in units.UNITS else f"a {unit}"

    @property
    def notes(self) -> list[str]:
        """What there is to say about the corpus: what a folder left out, what a document is, what was skipped."""
        if not self.skipped.count:
            return list(self._notes)
        count = self.skipped.count
        what = f"{count:,} line{'s' * (count != 1)} or file{'s' * (count != 1)} could not be read and "
        return [*self._notes, f"{what}{'were' if count != 1 else 'was'} left out; the first: {self.skipped.first}"]

    def _spool(self, stdin: BinaryIO | None) -> Source:
        if any(source.name == "-" for source in self.sources):
            raise CorpusError("-: standard input was named twice, but it can be read only once")
        handle, name = tempfile.mkstemp(prefix="sifu-stdin-")
        weakref.finalize(self, Path(name).unlink, missing_ok=True)
        with os.fdopen(handle, "wb") as spool:
            shutil.copyfileobj(stdin if stdin is not None else sys.stdin.buffer, spool, _BLOCK_BYTES)
        return Source(name="-", kind=".jsonl" if self.tokens else TEXT, compression="", location=Path(name))

    # ---- documents

    def documents(self, stages: Stages = SILENT, what: str = READING) -> Iterator[Document]:
        """Yield every document: `str`, or `list[str]` with ``tokens=True``. The pass is a stage, called ``what``.

        Raises
        ------
        CorpusError
            A file is not UTF-8, binary, damaged, not the JSON expected, or there is no document at all.
        """
        found, skipped = False, self.skipped
        skipped.reset()
        stage = stages.stage(what, self.size_bytes, "bytes")
        for source in self.sources:
            try:
                for document in self._documents_of(source, skipped, stage):
                    found = True
                    yield document
            except CorpusError as error:
                if not self.skip_bad:
                    raise
                skipped.add(error)
        if not found and skipped.count:
            raise CorpusError(f"nothing in the corpus can be read; the first: {skipped.first}")
        if not found:
            names = ", ".join(source.name for source in self.sources[:3])
            more = f" and {len(self.sources) - 3} more" if len(self.sources) > 3 else ""
            raise CorpusError(f"{names}{more}: empty, expected at least one line of text")

    def _documents_of(self, source: Source, skipped: Skipped, stage: Stage) -> Iterator[Document]:
        def bad(error: CorpusError) -> None:
            if not self.skip_bad:
                raise error
            skipped.add(error)

        blocks = text_blocks(source, bad, stage)
        if source.kind == TEXT:
            yield from units.split((units.normal(text) for _, text in blocks), self.document or "line")
            return
        field = self.field or "text"
        if source.kind == ".jsonl":
            for number, line in numbered_lines(blocks):
                try:
                    where = f"{source.name}: line {number}"
                    document = parse_line(line, tokens=bool(self.tokens), where=where, field=field)
                except CorpusError as error:
                    bad(error)
                    continue
                if document and not (isinstance(document, str) and document.isspace()):
                    yield units.normal(document) if isinstance(document, str) else document
            return
        lines = (line for _, line in numbered_lines(blocks, blank=True))
        rows = csv_rows.column(lines, field=field, kind=source.kind, name=source.name, bad=bad)
        yield from (document for row in rows if (document := units.normal(row)) and not document.isspace())

    def training(self, *, holdout: float, stages: Stages = SILENT, what: str = READING) -> Documents:
        """The documents for training; each `iter()` reads them from the start, which is a stage."""
        return Documents(corpus=self, holdout=holdout, held_out=False, stages=stages, what=what)

    def heldout(self, *, holdout: float) -> Documents:
        """The documents for evaluation; each `iter()` reads them from the start."""
        return Documents(corpus=self, holdout=holdout, held_out=True)

    # ---- identity

    @property
    def size_bytes(self) -> int:
        """The bytes of the files, compressed if they are."""
        return sum(entry["bytes"] for entry in self.record()["sources"])

    def record(self) -> dict[str, Any]:
        """The description of the corpus that a graph stores; `from_record` opens the corpus again.

        Returns
        -------
        dict
            `tokens`, and `sources`: a list of `name` (absolute path, shipped name, or `-`), `bytes` and
            `sha256` of the file (compressed, if it is). `reading`, if it is not the usual one: what a `document` is,
            the `field` with the text, and whether what cannot be read is left out (`skip_bad`).
        """
        if self._records is None:
            self._records = [_describe(source) for source in self.sources]
        record = {"tokens": bool(self.tokens), "sources": [dict(entry) for entry in self._records]}
        return {**record, "reading": self._reading()} if self._reading() else record

    def _reading(self) -> dict[str, Any]:
        """How the sources are read, where that is not as usual."""
        usual = {"document": (None, "line"), "field": (None, "text"), "skip_bad": (False,)}
        return {name: getattr(self, name) for name in usual if getattr(self, name) not in usual[name]}

    def fingerprint(self) -> str:
        """A hash (hex) of the content of the corpus. Paths do not change it."""
        kinds = [(each.kind, "" if each.name in COPIED else each.compression) for each in self.sources]
        hashes = [entry["sha256"] for entry in self.record()["sources"]]
        parts = [bool(self.tokens), kinds, hashes, *filter(None, [self._reading()])]
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()

    @classmethod
    def from_record(cls, record: dict[str, Any], copies: Path | None = None) -> Corpus:
        """Open the corpus that `record` describes.

        Parameters
        ----------
        record
            What `record` returned.
        copies
            The folder with copies of what was standard input or in memory (`kept_texts`); None: there is none.

        Raises
        ------
        CorpusError
            A file is missing or has changed. (A copy is missing when it is read; what a graph has encoded of it can be
            used without.)
        """
        entries = record["sources"]
        found: list[Source] = []
        for entry in entries:
            name = entry["name"]
            if name in COPIED:
                found.append(sources.copied(name, tokens=bool(record["tokens"]), sha256=entry["sha256"], folder=copies))
            elif name in SHIPPED:  # even if a file of that name exists
                found.append(sources.shipped(name))
            elif Path(name).is_file():
                found.append(sources.file(Path(name)))
            else:
                raise CorpusError(f"{name}: missing; the graph was built from it")
        corpus = cls.__new__(cls)
        corpus.tokens, corpus.sources = bool(record["tokens"]), found
        reading = {"document": "line", "field": None, "skip_bad": False, **record.get("reading", {})}
        corpus.document, corpus.field, corpus.skip_bad = (reading[each] for each in ("document", "field", "skip_bad"))
        corpus._notes, corpus.skipped = [], Skipped()
        corpus._origin = None
        corpus._records = [
            dict(entry) if source.name in COPIED else _describe(source)
            for source, entry in zip(found, entries, strict=True)
        ]
        for entry, now in zip(entries, corpus._records, strict=True):
            if (entry["bytes"], entry["sha256"]) != (now["bytes"], now["sha256"]):
                raise CorpusError(
                    f"{entry['name']}: changed since the graph was built (then {entry['bytes']:,} bytes, "
                    f"sha256 {entry['sha256'][:12]}; now {now['bytes']:,}, {now['sha256'][:12]})"
                )
        return corpus


Corpora = Corpus | str | Path | Sequence[str | Path]
"""What a text parameter takes: a corpus, a path, the name of a shipped corpus, or several of these two."""


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
    stages: Stages = SILENT
    what: str = READING

    def __iter__(self) -> Iterator[Document]:
        wanted, fraction = self.held_out, self.holdout
        check_fraction(fraction)
        return (
            doc
            for doc in self.corpus.documents(self.stages, self.what)
            if is_held_out(doc, fraction=fraction) is wanted
        )


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


# ---- identity of a file


def _describe(source: Source) -> dict[str, Any]:
    try:
        with sources.open_source(source) as raw:
            digest = hashlib.file_digest(cast(io.BufferedReader, raw), "sha256").hexdigest()
            return {"name": source.name, "bytes": raw.tell(), "sha256": digest}
    except OSError as error:
        raise CorpusError(f"{source.name}: cannot be read: {error.strerror or error}") from error
