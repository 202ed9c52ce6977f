"""How the pages of an array are stored: the precision of their values, and the codec that compresses them.

The checksum is always the last codec (`checksums`). Rounding is no codec: rounded values are float32 numbers with zero
bits at the end, and an attribute of the array says so. This module knows names and codecs; not arrays or pages.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

import numpy as np
import numpy.typing as npt
from numcodecs.bitround import BitRound
from zarr.codecs import BloscCodec, Crc32cCodec, ZstdCodec
from zarr.codecs.numcodecs import PCodec

from sifu_store.errors import OptionError, StoreError

NONE, ZSTD, BLOSC, PCODEC = "none", "zstd", "blosc", "pcodec"
CODECS = (NONE, ZSTD, BLOSC, PCODEC)
FLOAT32, BFLOAT16, BITROUND = "float32", "bfloat16", "bitround"
PRECISION_ATTRIBUTE = "precision"
_MANTISSA_BITS = 23
"""Bits of the fraction of a float32; bfloat16 keeps the first 7 of them."""
_KEPT_BITS = {FLOAT32: _MANTISSA_BITS, BFLOAT16: 7}
_PCODEC_LEVEL = 8

Progress = Callable[[int, int], None]
"""Called with the number of pages stored so far and in all."""

# pcodec is not in the specification of Zarr, and zarr says so whenever such an array is opened.
warnings.filterwarnings("ignore", message="Numcodecs codecs are not in the Zarr version 3 specification")


@dataclass(frozen=True, slots=True)
class PageCodec:
    """How pages are stored.

    Parameters
    ----------
    precision
        `float32`; `bfloat16` or `bitround:N` (N from 1 to 22): values are rounded to the nearest number whose fraction
        has 7 or N bits, ties to even.
    codec
        `none`, `zstd`, `blosc` (LZ4 of transposed bits) or `pcodec`.

    Raises
    ------
    OptionError
        A name or a number of bits is unknown, or values are rounded without a codec, which saves no space.
    """

    precision: str = FLOAT32
    codec: str = NONE

    def __post_init__(self) -> None:
        kept_bits(self.precision)
        if self.codec not in CODECS:
            raise OptionError(f"`codec` is {self.codec!r}: expected one of {', '.join(CODECS)}")
        if self.codec == NONE and self.precision != FLOAT32:
            raise OptionError(
                f"`codec` none with `precision` {self.precision}: rounded values take less space only with a codec, so "
                f"give another codec, or `precision` {FLOAT32}"
            )

    def __str__(self) -> str:
        return f"{self.precision}, codec {self.codec}"

    @property
    def unrounded(self) -> PageCodec:
        """The same codec for values that are not rounded."""
        return PageCodec(FLOAT32, self.codec)

    def with_changes(self, precision: str | None, codec: str | None) -> PageCodec:
        """Another precision and codec; None: as here, but rounded values get the codec `blosc` if they have none.

        Raises
        ------
        OptionError
            As `PageCodec`.
        """
        precision = self.precision if precision is None else precision
        if codec is None:
            kept_bits(precision)
            codec = BLOSC if self.codec == NONE and precision != FLOAT32 else self.codec
        return PageCodec(precision, codec)

    def pipeline(self) -> dict[str, Any]:
        """The serializer and the compressors of Zarr, as arguments of `create_array`.

        Raises
        ------
        StoreError
            A library is missing.
        """
        require_library(self.codec)
        if self.codec == PCODEC:
            return {"serializer": PCodec(level=_PCODEC_LEVEL), "compressors": [Crc32cCodec()]}
        compressors: dict[str, list[Any]] = {
            NONE: [],
            ZSTD: [ZstdCodec(level=3)],
            BLOSC: [BloscCodec(cname="lz4", clevel=5, shuffle="bitshuffle")],
        }
        return {"compressors": [*compressors[self.codec], Crc32cCodec()]}


def kept_bits(precision: str) -> int:
    """Bits of the fraction that a precision keeps.

    Raises
    ------
    OptionError
        It is none.
    """
    name, _, bits = precision.partition(":")
    if name == BITROUND and bits.isascii() and bits.isdigit() and 1 <= int(bits) < _MANTISSA_BITS:
        return int(bits)
    if precision not in _KEPT_BITS:
        raise OptionError(
            f"`precision` is {precision!r}: expected {FLOAT32}, {BFLOAT16} or {BITROUND}:N, N from 1 to "
            f"{_MANTISSA_BITS - 1}"
        )
    return _KEPT_BITS[precision]


def rounded(values: npt.NDArray[np.float32], precision: str) -> npt.NDArray[np.float32]:
    """The nearest values of a precision, of the same shape, ties to even; the array itself if it is float32.

    A value that would round to infinity becomes the largest number of the precision.
    """
    bits = kept_bits(precision)
    if bits == _MANTISSA_BITS:
        return values
    codec = BitRound(keepbits=bits)
    out: npt.NDArray[np.float32] = codec.decode(codec.encode(values)).view(np.float32).reshape(values.shape)
    beyond = np.isinf(out) & np.isfinite(values)
    if beyond.any():
        largest = (np.array(0x7F7FFFFF, np.uint32) & _kept(bits)).view(np.float32)
        out[beyond] = np.copysign(largest, values[beyond])
    return out


def is_rounded(values: npt.NDArray[np.float32], precision: str) -> bool:
    """Whether all values, of any shape, are numbers of a precision."""
    return not (np.ascontiguousarray(values).view(np.uint32) & ~_kept(kept_bits(precision))).any()


def _kept(bits: int) -> np.uint32:
    """The bits of a float32 that are kept."""
    return np.uint32(0xFFFFFFFF >> (_MANTISSA_BITS - bits) << (_MANTISSA_BITS - bits))


def codec_of(codecs: tuple[Any, ...]) -> str:
    """The name of the codec of an array, from the codecs of its metadata; of codecs of other programs, their names."""
    names = [str(each.to_dict()["name"]) for each in codecs]
    known: dict[tuple[str, ...], str] = {
        ("bytes", "crc32c"): NONE,
        ("bytes", "zstd", "crc32c"): ZSTD,
        ("bytes", "blosc", "crc32c"): BLOSC,
        ("numcodecs.pcodec", "crc32c"): PCODEC,
    }
    return known.get(tuple(names), "+".join(names))


def require_library(codec: str) -> None:
    """Check that the library of a codec is installed.

    Raises
    ------
    StoreError
        It is missing.
    """
    if codec == PCODEC and find_spec("pcodec") is None:
        raise StoreError('pages with the codec pcodec need the library of this name: pip install "sifu-graph[pcodec]"')
