"""The bytes of a file as runs of whole lines of text, whatever its compression and its line ends.

It knows bytes, lines and UTF-8; it does not know documents.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator

from sifu_store.durable import format_bytes
from sifu_store.errors import CorpusError

from sifu_graph.input_file import HEAD_BYTES, kind_of
from sifu_graph.pools import pool
from sifu_graph.progress import Stage
from sifu_graph.text.decompress import MOST_XZ_BYTES, READ_ERRORS, decompressed
from sifu_graph.text.sources import TEXT, Source, open_source
from sifu_graph.text.units import normal

MAX_LINE_BYTES = 4 << 20  # a longer line of text is cut: see `text_blocks`
MAX_JSON_LINE_BYTES = 8 << 20  # JSON cannot be cut: a longer line is an error; as objects it takes 20 times as much
_BLOCK_BYTES = 1 << 20
_BOM = b"\xef\xbb\xbf"
_LINE_END = re.compile(rb"\r*\n|\r")


def _blocks(source: Source, stage: Stage) -> Iterator[bytes]:
    """The bytes of a source, decompressed. A thread reads the next block while the caller uses this one."""
    at = 0
    try:
        with open_source(source) as raw, pool(1) as ahead:
            stream = decompressed(raw, compression=source.compression)

            def read() -> tuple[bytes, int]:
                return stream.read(_BLOCK_BYTES), raw.tell()

            coming = ahead.submit(read)
            while (found := coming.result())[0]:
                coming = ahead.submit(read)
                yield found[0]
                stage.advance(found[1] - at)
                at = found[1]
    except READ_ERRORS as error:
        if "Memory usage limit" in str(error):
            limit = f"needs more than {format_bytes(MOST_XZ_BYTES)} of memory to be decompressed"
            raise CorpusError(f"{source.name}: {limit}: compress it again with xz -9 or less") from error
        what = f"truncated or not a valid {source.compression} file"
        raise CorpusError(f"{source.name}: {what} ({error}): copy or compress it again") from error
    except OSError as error:
        raise CorpusError(f"{source.name}: cannot be read: {error.strerror or error}") from error


def text_blocks(source: Source, bad: Callable[[CorpusError], None], stage: Stage) -> Iterator[tuple[int, str]]:
    """Runs of whole lines as text, each with the number of its first line.

    A line of more than `MAX_LINE_BYTES` is cut into pieces of at most that size, between characters. Lines end
    with LF, CR, CR LF or CR CR LF. ``bad`` is called with the error of a line that is not text; if it does not raise
    it, the line is left empty. ``stage`` advances by the bytes of the file.
    """
    line, offset, rest, head = 1, 0, b"", b""

    def text(cut: int) -> str:
        try:
            return _decode(rest[:cut], name=source.name, head=head, line=line, offset=offset)
        except CorpusError:
            return _decode_lines(rest[:cut], bad, name=source.name, head=head, line=line, offset=offset)

    for block in _blocks(source, stage):
        head = head or block[:HEAD_BYTES]
        if offset == 0 and not rest and block.startswith(_BOM):
            block, offset = block[len(_BOM) :], len(_BOM)
        rest += block
        while True:
            # A line feed may follow carriage returns at the end.
            known = rest.rstrip(b"\r") if rest.endswith(b"\r") and len(rest) < 2 * MAX_LINE_BYTES else rest
            ends = [at for at in (known.find(b"\n"), known.find(b"\r")) if at >= 0]
            first_bytes = min(ends, default=len(rest))  # no other line can be longer than a block
            if source.kind != TEXT and first_bytes > MAX_JSON_LINE_BYTES:
                limit = f"longer than {MAX_JSON_LINE_BYTES >> 20} MiB"
                raise CorpusError(f"{source.name}: line {line} is {limit}: cut it in several")
            giant = source.kind == TEXT and first_bytes > MAX_LINE_BYTES
            cut = _character_start(rest, MAX_LINE_BYTES) if giant else max(known.rfind(b"\n"), known.rfind(b"\r")) + 1
            if cut:
                yield line, text(cut)
                line += _line_ends(rest[:cut])
                offset += cut
                rest = rest[cut:]
            if not giant:
                break
    if rest:
        yield line, text(len(rest))


def _line_ends(data: bytes) -> int:
    """The number of line ends."""
    return len(_LINE_END.findall(data)) if b"\r" in data else data.count(b"\n")


def numbered_lines(blocks: Iterable[tuple[int, str]], *, blank: bool = False) -> Iterator[tuple[int, str]]:
    """The lines of a text, each with its number; blank ones only if they are asked for."""
    for first, text in blocks:
        lines = normal(text).split("\n")
        if blank and text.endswith(("\n", "\r")):
            lines.pop()
        for number, line in enumerate(lines, first):
            if blank or (line and not line.isspace()):
                yield number, line


def _character_start(data: bytes, position: int) -> int:
    """The last byte at or before `position` where a UTF-8 character begins (the data may be malformed)."""
    for back in range(4):
        if data[position - back] & 0xC0 != 0x80:
            return position - back
    return position


def decode_text(content: bytes, *, name: str) -> str:
    """The text of a file or of another input called `name`, with ``\\n`` as line ends and without a byte order mark.

    Raises
    ------
    CorpusError
        It is not UTF-8.
    """
    begin = len(_BOM) if content.startswith(_BOM) else 0
    return normal(_decode(content[begin:], name=name, head=content[:HEAD_BYTES], line=1, offset=begin))


def _decode(block: bytes, *, name: str, head: bytes, line: int, offset: int) -> str:
    """The text of a block; `head` is the beginning of the file, `line` and `offset` where the block begins."""

    def where(position: int) -> str:
        number = line + _line_ends(block[:position])
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


def _decode_lines(
    block: bytes, bad: Callable[[CorpusError], None], *, name: str, head: bytes, line: int, offset: int
) -> str:
    """The text of a block in which some lines are not text: these are reported, and left empty."""
    found, begin = [], 0
    for number, end in enumerate([*(match.span() for match in _LINE_END.finditer(block)), (len(block), len(block))]):
        try:
            found.append(
                _decode(block[begin : end[0]], name=name, head=head, line=line + number, offset=offset + begin)
            )
        except CorpusError as error:
            bad(error)
            found.append("")
        begin = end[1]
    return "\n".join(found)


_TEXT = "; expected text in UTF-8"
