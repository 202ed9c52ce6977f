"""Copies of the texts that a graph alone can read again: those that were in memory, or came from standard input.

They are in the folder of the encoded texts, so that a text can be encoded again when an edit has changed the nodes. The
module knows files and their hashes; it does not know documents.
"""

from __future__ import annotations

import gzip
import hashlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from sifu_store.arrays import Damage
from sifu_store.durable import disk_errors

from sifu_graph.text.corpus import Corpus
from sifu_graph.text.decompress import READ_ERRORS
from sifu_graph.text.sources import COPIED, copy_of, open_source

PATTERN = copy_of("*").name
_BLOCK_BYTES = 1 << 20


def keep_copies(corpus: Corpus, folder: Path) -> None:
    """Copies the sources of a corpus that nothing else keeps to the folder of a graph's encoded texts.

    Raises
    ------
    DiskFullError, ResourceError
        A copy cannot be written.
    """
    for source, entry in zip(corpus.sources, corpus.record()["sources"], strict=True):
        if source.name not in COPIED:
            continue
        path = folder / copy_of(entry["sha256"])
        with disk_errors(path, "keeping a copy of the text"), open_source(source) as raw, path.open("wb") as file:
            with gzip.GzipFile(filename="", fileobj=file, mode="wb", mtime=0) as out:
                shutil.copyfileobj(raw, out, _BLOCK_BYTES)
            file.flush()
            os.fsync(file.fileno())


def damaged_copies(folder: Path) -> Iterator[Damage]:
    """Checks all copies in a folder, and yields the damaged ones."""
    for path in sorted(folder.glob(PATTERN)):
        digest = hashlib.sha256()
        try:
            with gzip.open(path, "rb") as file:
                while block := file.read(_BLOCK_BYTES):
                    digest.update(block)
            reason = "" if path.name == copy_of(digest.hexdigest()).name else "its hash is another one than in its name"
        except (*READ_ERRORS, OSError) as error:
            reason = str(error)
        if reason:
            yield Damage("copy of the text", None, None, str(path), f"{reason}; delete it, and pass the text again")
