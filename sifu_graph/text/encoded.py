"""The encoded corpus on disk: node ids in a flat file, the start of each document, chunks and batches.

A token file is a cache. Its key is made of the hashes of corpus and tokenizer; a file that is incomplete or damaged, or
has another key, is ignored and written again. The module does not know characters or edges.
"""

from __future__ import annotations

import hashlib
import json
import os
import zlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray
from sifu_store.arrays import Damage
from sifu_store.durable import is_disk_full, lack_of_inodes, reason_of
from sifu_store.errors import CorpusError, DiskFullError, ResourceError

from sifu_graph.arrays import Bools, Integers, Ints
from sifu_graph.cached_folder import PARTIAL, cached_folder
from sifu_graph.progress import SILENT, Stages
from sifu_graph.text.corpus import Corpus, Document, batched, check_fraction, is_held_out
from sifu_graph.text.sources import copy_of
from sifu_graph.text.tokenizer import Tokenizer

FORMAT = 1
CACHE = "cache"
"""Folder of a graph that has its encoded texts, and copies of those that nothing else keeps (`kept_texts`)."""

PARTS = ("train", "heldout")
FILES = tuple(f"{part}.{kind}" for part in PARTS for kind in ("ids", "offsets"))
DTYPES = ("<u2", "<i4")
COUNTED_TOKENS = 1 << 20  # at a time


@dataclass(frozen=True, slots=True)
class Split:
    """Documents as nodes, one after another.

    Attributes
    ----------
    ids
        [tokens] node ids (uint16 or int32; a memory map of a file, or in memory), separators included.
    offsets
        int64 [documents + 1]: where each document begins; the last is the number of tokens.
    characters
        Number of characters of the text, without the ends of documents; None: not known.
    """

    ids: Integers
    offsets: Ints
    characters: int | None = None

    @property
    def tokens(self) -> int:
        """Number of nodes, separators included."""
        return len(self.ids)

    @property
    def documents(self) -> int:
        """Number of documents."""
        return len(self.offsets) - 1

    @property
    def transitions(self) -> int:
        """Number of pairs of neighbours inside documents: the tokens that can be predicted."""
        return int(np.maximum(np.diff(self.offsets) - 1, 0).sum())

    def node_counts(self, n: int) -> Ints:
        """How often each of ``n`` nodes occurs, int64 [n]."""
        counts = np.zeros(n, np.int64)
        for begin in range(0, self.tokens, COUNTED_TOKENS):
            counts += np.bincount(self.ids[begin : begin + COUNTED_TOKENS], minlength=n)
        return counts

    def begins(self, first: int = 0, stop: int | None = None) -> Bools:
        """Which places from ``first`` to before ``stop`` begin a document, bool [stop - first].

        The end of the last document counts as such a place; ``stop`` None: it is the last place.
        """
        stop = self.tokens + 1 if stop is None else stop
        found = np.zeros(stop - first, bool)
        low, high = np.searchsorted(self.offsets, [first, stop])
        found[self.offsets[low:high] - first] = True
        return found

    def document(self, index: int) -> Integers:
        """The nodes of one document, [tokens]."""
        return self.ids[self.offsets[index] : self.offsets[index + 1]]

    @classmethod
    def from_arrays(cls, documents: Sequence[Integers]) -> Split:
        """Documents in memory, as arrays of node ids [tokens]. No separators are added."""
        lengths = np.array([len(document) for document in documents], dtype=np.int64)
        ids = np.concatenate([np.asarray(d, dtype=np.int32) for d in documents] or [np.empty(0, np.int32)])
        return cls(ids, np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64))

    @classmethod
    def from_documents(cls, documents: Iterable[Document], tokenizer: Tokenizer) -> Split:
        """Encode documents in memory (for small texts; `encode_corpus` has no limit)."""
        ids, lengths, characters = [np.empty(0, np.int32)], [np.zeros(1, np.int64)], 0
        encode = tokenizer.encoder()
        for batch in batched(documents):
            batch_ids, batch_lengths = encode(batch)
            ids.append(batch_ids)
            lengths.append(batch_lengths)
            characters += _characters(batch)
        return cls(np.concatenate(ids), np.cumsum(np.concatenate(lengths)), characters)


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenFile:
    """Both parts of an encoded corpus, as memory maps of the files in `path`; `n` is the number of nodes."""

    path: Path
    n: int
    train: Split
    heldout: Split

    @property
    def tokens(self) -> int:
        """Number of nodes of both parts, separators included."""
        return self.train.tokens + self.heldout.tokens

    @property
    def documents(self) -> int:
        """Number of documents of both parts."""
        return self.train.documents + self.heldout.documents


# ---- the file


def encode_corpus(
    corpus: Corpus, tokenizer: Tokenizer, *, directory: Path, holdout: float, stages: Stages = SILENT
) -> TokenFile:
    """Encode a corpus into `directory`, or open the files that an earlier call wrote there.

    Parameters
    ----------
    corpus, tokenizer
        The text and its tokenizer.
    directory
        The folder of all token files; made if missing. Each key has its own folder in it.
    holdout
        Share of the documents that goes to the held-out part (`is_held_out`).
    stages
        The encoding is a stage, if it is not done already.

    Raises
    ------
    CorpusError
        The corpus cannot be read, or every document is held out.
    DiskFullError, ResourceError
        The cache cannot be written.
    StoreError
        `directory` is a symbolic link.
    """
    check_fraction(holdout)
    key, n = token_key(corpus, tokenizer, holdout=holdout), len(tokenizer)
    path = directory / key
    try:
        found = cached_folder(
            path,
            lambda: _open(path, key=key, n=n),
            lambda folder: _write(corpus, tokenizer, folder=folder, key=key, holdout=holdout, stages=stages),
            mode=0o700,  # it has the text
        )
    except OSError as error:
        message = f"{directory}: the encoded corpus cannot be written: {reason_of(error, directory)}"
        if is_disk_full(error):
            raise DiskFullError(message + ("" if lack_of_inodes(directory) else ": free some space")) from error
        raise ResourceError(message) from error
    if found is None:
        raise ResourceError(f"{path}: the encoded corpus was written, but cannot be read back")
    return found


def written_tokens(directory: Path, tokenizer: Tokenizer, *, key: str) -> TokenFile | None:
    """The token file of a key in `directory`; None: it is not there, or was encoded by another tokenizer."""
    return _open(directory / key, key=key, n=len(tokenizer))


def token_key(corpus: Corpus, tokenizer: Tokenizer, *, holdout: float) -> str:
    """The name of the folder of a token file: a hash (hex) of the corpus, the tokenizer and the held-out share."""
    parts = [FORMAT, corpus.fingerprint(), tokenizer.fingerprint, repr(float(holdout))]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:32]


def _write(corpus: Corpus, tokenizer: Tokenizer, *, folder: Path, key: str, holdout: float, stages: Stages) -> None:
    dtype = np.dtype("<u2" if len(tokenizer) <= 1 << 16 else "<i4")
    tokens, documents, characters, checksums = _write_parts(
        corpus, tokenizer, partial=folder, dtype=dtype, holdout=holdout, stages=stages
    )
    if documents["train"] == 0:
        raise CorpusError(
            f"all {documents['heldout']} documents are held out (a share of {holdout:g}); expected at least one "
            "to train on: give more documents, or hold out fewer"
        )
    meta = {
        "format": FORMAT,
        "key": key,
        "n": len(tokenizer),
        "dtype": dtype.str,
        "tokens": tokens,
        "documents": documents,
        "characters": characters,
        "crc32": checksums,
    }
    with (folder / "meta.json").open("w", encoding="utf-8") as file:
        json.dump(meta, file)
        _sync(file)


def _write_parts(
    corpus: Corpus, tokenizer: Tokenizer, *, partial: Path, dtype: np.dtype[Any], holdout: float, stages: Stages
) -> tuple[dict[str, int], dict[str, int], dict[str, int], dict[str, int]]:
    """Write the files; the tokens, documents and characters of each part, and the CRC-32 of each file."""
    tokens, documents, characters = (dict.fromkeys(PARTS, 0) for _ in range(3))
    files = {name: (partial / name).open("wb") for name in FILES}
    checksums = dict.fromkeys(FILES, 0)

    def write(name: str, data: NDArray[Any]) -> None:
        checksums[name] = zlib.crc32(data.data, checksums[name])
        files[name].write(data.data)

    try:
        for part in PARTS:
            write(f"{part}.offsets", np.zeros(1, "<i8"))
        what, encode = f"encoding the text with {len(tokenizer):,} nodes", tokenizer.encoder()
        for batch in batched(corpus.documents(stages, what)):
            sides: dict[str, list[Document]] = {part: [] for part in PARTS}
            for document in batch:
                sides[PARTS[is_held_out(document, fraction=holdout)]].append(document)
            for part, side in sides.items():
                ids, lengths = encode(side)
                write(f"{part}.ids", ids.astype(dtype))
                write(f"{part}.offsets", (np.cumsum(lengths) + tokens[part]).astype("<i8"))
                tokens[part] += len(ids)
                documents[part] += len(side)
                characters[part] += _characters(side)
        for file in files.values():
            _sync(file)
    finally:
        for file in files.values():
            file.close()
    return tokens, documents, characters, checksums


def _characters(documents: Iterable[Document]) -> int:
    """Number of characters of texts; of lists of tokens, those of the tokens."""
    return sum(len(document) if isinstance(document, str) else sum(map(len, document)) for document in documents)


def _sync(file: IO[Any]) -> None:
    file.flush()
    os.fsync(file.fileno())


def _open(path: Path, *, key: str, n: int) -> TokenFile | None:
    """The token file of `n` nodes at `path`; None: it is missing, incomplete or damaged, or has another key."""
    try:
        found = _read(path)  # earlier releases did not count characters: such a file is written again
        return found if path.name == key and found.n == n and found.train.characters is not None else None
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None


def _read(path: Path) -> TokenFile:
    """The token file at `path`, its checksums and its values checked.

    Raises
    ------
    OSError, ValueError, KeyError, TypeError, RecursionError
        A file is missing or damaged. Files that earlier releases wrote have no checksums; their values are checked.
    """
    meta = json.loads((path / "meta.json").read_text(encoding="utf-8"))
    if path.is_symlink() or meta["format"] != FORMAT or meta["key"] != path.name or meta["dtype"] not in DTYPES:
        raise ValueError("meta.json does not describe these files")
    lengths = {f"{part}.ids": meta["tokens"][part] for part in PARTS}
    lengths |= {f"{part}.offsets": meta["documents"][part] + 1 for part in PARTS}
    arrays = {
        name: _map(path / name, dtype=meta["dtype"] if name.endswith("ids") else "<i8", length=length)
        for name, length in lengths.items()
    }
    checksums = meta.get("crc32")
    for name, array in arrays.items():
        if checksums is not None and zlib.crc32(array.data) != checksums[name]:
            raise ValueError(f"the checksum of {name} does not match")
    n, characters = int(meta["n"]), meta["characters"] if "characters" in meta else dict.fromkeys(PARTS)
    parts = {part: Split(arrays[f"{part}.ids"], arrays[f"{part}.offsets"], characters[part]) for part in PARTS}
    for name, part in parts.items():
        offsets = part.offsets
        if offsets[0] != 0 or offsets[-1] != part.tokens or (offsets[1:] < offsets[:-1]).any():
            raise ValueError(f"{name}.offsets are not where documents begin")
        if part.tokens and not 0 <= int(part.ids.min()) <= int(part.ids.max()) < n:
            raise ValueError(f"{name}.ids has a node that does not exist")
    return TokenFile(path=path, n=n, train=parts["train"], heldout=parts["heldout"])


def _map(path: Path, *, dtype: str, length: int) -> NDArray[Any]:
    if path.stat().st_size != length * np.dtype(dtype).itemsize:
        raise ValueError(f"{path.name} has another size than was written")
    if length == 0:
        return np.empty(0, dtype=dtype)
    return np.asarray(np.memmap(path, dtype=dtype, mode="r"))


def damaged_token_files(directory: Path) -> Iterator[Damage]:
    """Check all token files in `directory`, and yield the damaged ones.

    A damaged token file changes no result: the next command that uses it writes it again from the corpus.
    """
    for path in sorted(directory.iterdir() if directory.is_dir() else ()):
        if path.name == "lock" or path.name.startswith(PARTIAL) or path.match(copy_of("*").name):
            continue
        try:
            _read(path)
        except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
            reason = error.strerror if isinstance(error, OSError) else str(error)
            yield Damage(
                "encoded text",
                None,
                None,
                str(path),
                f"{reason}; delete this folder: it is written again when it is used",
            )
