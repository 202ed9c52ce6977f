"""The encoded corpus on disk: node ids in a flat file, the start of each document, chunks and batches.

A token file is a cache. Its key is made of the hashes of corpus and tokenizer; a file that is incomplete or has
another key is ignored and written again. The module does not know characters or edges.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
from filelock import FileLock
from numpy.typing import NDArray
from sifu_store.errors import CorpusError, DiskFullError, ResourceError

from sifu_graph.arrays import Bools, Integers, Ints
from sifu_graph.text.corpus import Corpus, Document, batched, check_fraction, is_held_out
from sifu_graph.text.tokenizer import Tokenizer

FORMAT = 1

PARTS = ("train", "heldout")
_PARTIAL = "partial-"


@dataclass(frozen=True, slots=True)
class Split:
    """Documents as nodes, one after another.

    Attributes
    ----------
    ids
        [tokens] node ids (uint16 or int32; a memory map of a file, or in memory), separators included.
    offsets
        int64 [documents + 1]: where each document begins; the last is the number of tokens.
    """

    ids: Integers
    offsets: Ints

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
        ids, lengths = [np.empty(0, np.int32)], [np.zeros(1, np.int64)]
        for batch in batched(documents):
            batch_ids, batch_lengths = tokenizer.encode_batch(batch)
            ids.append(batch_ids)
            lengths.append(batch_lengths)
        return cls(np.concatenate(ids), np.cumsum(np.concatenate(lengths)))


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


def encode_corpus(corpus: Corpus, tokenizer: Tokenizer, *, directory: Path, holdout: float) -> TokenFile:
    """Encode a corpus into `directory`, or open the files that an earlier call wrote there.

    Parameters
    ----------
    corpus, tokenizer
        The text and its tokenizer.
    directory
        The folder of all token files; made if missing. Each key has its own folder in it.
    holdout
        Share of the documents that goes to the held-out part (`is_held_out`).

    Raises
    ------
    CorpusError
        The corpus cannot be read, or every document is held out.
    DiskFullError, ResourceError
        The cache cannot be written.
    """
    check_fraction(holdout)
    key = _key(corpus, tokenizer, holdout=holdout)
    path = directory / key
    found = _open(path, key=key)
    if found is not None:
        return found
    try:
        directory.mkdir(parents=True, exist_ok=True)
        with FileLock(directory / "lock"):
            found = _open(path, key=key)  # another process may have been faster
            if found is None:
                # the writer of a partial folder held the lock, so it no longer runs
                for abandoned in directory.glob(_PARTIAL + "*"):
                    shutil.rmtree(abandoned, ignore_errors=True)
                _write(corpus, tokenizer, path=path, key=key, holdout=holdout)
                found = _open(path, key=key)
    except OSError as error:
        message = f"{directory}: the encoded corpus cannot be written: {error.strerror or error}"
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise DiskFullError(message + ": free some space") from error
        raise ResourceError(message) from error
    if found is None:
        raise ResourceError(f"{path}: the encoded corpus was written, but cannot be read back")
    return found


def _key(corpus: Corpus, tokenizer: Tokenizer, *, holdout: float) -> str:
    parts = [FORMAT, corpus.fingerprint(), tokenizer.fingerprint, repr(float(holdout))]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:32]


def _write(corpus: Corpus, tokenizer: Tokenizer, *, path: Path, key: str, holdout: float) -> None:
    dtype = np.dtype("<u2" if len(tokenizer) <= 1 << 16 else "<i4")
    partial = Path(tempfile.mkdtemp(prefix=_PARTIAL, dir=path.parent))
    try:
        tokens, documents = _write_parts(corpus, tokenizer, partial=partial, dtype=dtype, holdout=holdout)
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
        }
        with (partial / "meta.json").open("w", encoding="utf-8") as file:
            json.dump(meta, file)
            _sync(file)
        if path.is_dir():  # torn or foreign
            shutil.rmtree(path)
        path.unlink(missing_ok=True)
        partial.rename(path)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _write_parts(
    corpus: Corpus, tokenizer: Tokenizer, *, partial: Path, dtype: np.dtype[Any], holdout: float
) -> tuple[dict[str, int], dict[str, int]]:
    tokens, documents = dict.fromkeys(PARTS, 0), dict.fromkeys(PARTS, 0)
    names = [f"{part}.{kind}" for part in PARTS for kind in ("ids", "offsets")]
    files = {name: (partial / name).open("wb") for name in names}
    try:
        for part in PARTS:
            files[f"{part}.offsets"].write(np.zeros(1, "<i8").tobytes())
        for batch in batched(corpus.documents()):
            sides: dict[str, list[Document]] = {part: [] for part in PARTS}
            for document in batch:
                sides[PARTS[is_held_out(document, fraction=holdout)]].append(document)
            for part, side in sides.items():
                ids, lengths = tokenizer.encode_batch(side)
                files[f"{part}.ids"].write(ids.astype(dtype).data)
                files[f"{part}.offsets"].write((np.cumsum(lengths) + tokens[part]).astype("<i8").data)
                tokens[part] += len(ids)
                documents[part] += len(side)
        for file in files.values():
            _sync(file)
    finally:
        for file in files.values():
            file.close()
    return tokens, documents


def _sync(file: IO[Any]) -> None:
    file.flush()
    os.fsync(file.fileno())


def _open(path: Path, *, key: str) -> TokenFile | None:
    """The token file at `path`; None: it is missing, incomplete, or has another key."""
    try:
        meta = json.loads((path / "meta.json").read_text(encoding="utf-8"))
        if meta["format"] != FORMAT or meta["key"] != key:
            return None
        parts = {
            part: Split(
                _map(path / f"{part}.ids", dtype=meta["dtype"], length=meta["tokens"][part]),
                _map(path / f"{part}.offsets", dtype="<i8", length=meta["documents"][part] + 1),
            )
            for part in PARTS
        }
        if any(int(part.offsets[-1]) != part.tokens for part in parts.values()):
            return None
        return TokenFile(path=path, n=int(meta["n"]), train=parts["train"], heldout=parts["heldout"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _map(path: Path, *, dtype: str, length: int) -> NDArray[Any]:
    if path.stat().st_size != length * np.dtype(dtype).itemsize:
        raise ValueError("the file has another size than was written")
    if length == 0:
        return np.empty(0, dtype=dtype)
    return np.asarray(np.memmap(path, dtype=dtype, mode="r"))
