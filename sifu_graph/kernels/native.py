"""Compiles and loads the sources of this folder, for machines with a C++ compiler.

It knows compilers; it does not know the mathematics. One small library per (source, width, dtype, compiler, processor)
is kept in the user's cache folder. Without a compiler, `load` returns None and torch does the work.
"""

from __future__ import annotations

import atexit
import ctypes
import errno
import functools
import hashlib
import os
import platform
import shutil
import subprocess
import tempfile
import warnings
from importlib import resources
from pathlib import Path

import torch
from sifu_store.durable import reason_of
from sifu_store.places import cache_folder

SAID = "sifu: "  # how the warnings that are meant for users begin
FLAGS = (
    "-O3",
    "-std=c++17",
    "-march=native",
    "-shared",
    "-fPIC",
    "-pthread",
    "-fno-math-errno",
    "-fno-trapping-math",
    "-freciprocal-math",
    "-fno-signed-zeros",
    "-ffp-contract=fast",
)
VECTOR_BYTES = 64
MOST_WIDTH = 128
_FULL = "No space left on device"
HEADERS = ("products.hpp", "step.hpp", "threads.hpp", "vectors.hpp")
_Pointer, _Int, _Float, _Double = ctypes.c_void_p, ctypes.c_int64, ctypes.c_float, ctypes.c_double


def _batch_fields(real: type) -> list[tuple[str, type]]:
    pointers = [
        "first_position",
        "first_edge",
        "place",
        "S",
        "pe",
        "pe_row",
        "default_energy",
        "log_defaults",
        "target",
        "W",
        "b",
    ]
    results = ["logsumexp", "target_energy", "best"]
    return [
        ("groups", _Int),
        *((name, _Pointer) for name in pointers),
        ("scale", real),
        ("weight", real),
        *((name, _Pointer) for name in results),
    ]


def _update_fields(real: type) -> list[tuple[str, type]]:
    rates = ["lr", "beta1", "beta2", "eps", "weight_decay", "clip", "correction1", "correction2"]
    state = ["m_W", "v_W", "m_b", "v_b", "v_edge", "past"]
    return [
        ("kind", _Int),
        *((name, _Pointer) for name in ["gradient_row", "dW", "db", "dS", "dscale"]),
        *((name, real) for name in rates),
        *((name, _Pointer) for name in state),
    ]


class Past(ctypes.Structure):
    """`struct Past` of contest.cpp: the file behind the frames."""

    _fields_ = [("file", _Int), ("beyond", _Int), ("offset", _Int * 6), ("written", _Int), ("error", _Int)]


class BatchFloat(ctypes.Structure):
    """`struct Batch` of contest.cpp for float."""

    _fields_ = _batch_fields(_Float)


class BatchDouble(ctypes.Structure):
    """`struct Batch` for double."""

    _fields_ = _batch_fields(_Double)


class UpdateFloat(ctypes.Structure):
    """`struct Update` of contest.cpp for float."""

    _fields_ = _update_fields(_Float)


class UpdateDouble(ctypes.Structure):
    """`struct Update` for double."""

    _fields_ = _update_fields(_Double)


def structure(name: str, fields: str, **other: type) -> type[ctypes.Structure]:
    """A structure of pointers, except the fields in ``other``."""
    listed = [(field, other.get(field, _Pointer)) for field in fields.split()]
    return type(name, (ctypes.Structure,), {"_fields_": listed})


def compiler() -> str | None:
    """The C++ compiler that would be used: ``$CXX``, else c++, g++ or clang++; None where there is none.

    ``SIFU_KERNEL=torch`` in the environment says that none is to be used.
    """
    if os.environ.get("SIFU_KERNEL") == "torch":
        return None
    for name in (os.environ.get("CXX"), "c++", "g++", "clang++"):
        if name and (found := shutil.which(name)):
            return found
    return None


def supported(width: int, dtype: torch.dtype) -> bool:
    """Whether the kernel is written for this width and dtype (whole vectors of 64 bytes)."""
    return (
        dtype in (torch.float32, torch.float64)
        and width % (VECTOR_BYTES // dtype.itemsize) == 0
        and width <= MOST_WIDTH
    )


def slow_reason(width: int) -> str | None:
    """Why float32 signals of this width are computed by torch, several times slower; None: by the kernel."""
    if not supported(width, torch.float32):
        return (
            f"a width of {width} is computed by torch, about 5 to 20 times slower than a width of {_nearest(width)}: "
            f"the compiled kernel has the multiples of {VECTOR_BYTES // 4} up to {MOST_WIDTH}"
        )
    if compiler() is None and os.environ.get("SIFU_KERNEL") != "torch":
        return "no C++ compiler was found, so torch computes, about 5 times slower: install g++ or clang++"
    return None


def _nearest(width: int) -> int:
    """The width of the kernel that is nearest to this one, in float32."""
    step = VECTOR_BYTES // 4
    return min(MOST_WIDTH, max(step, step * round(width / step)))


def native(like: torch.Tensor) -> ctypes.CDLL | None:
    """The library for tensors like this one [..., d], where it can be used."""
    return load(like.shape[-1], like.dtype) if like.is_cpu else None


@functools.cache
def load(width: int, dtype: torch.dtype) -> ctypes.CDLL | None:
    """The library of `contest.cpp` for signals [..., width] of a dtype (float32 or float64).

    None where `compiled` returns None or, with a warning, the library has other structures than this module.
    """
    loaded = compiled("contest", width, dtype)
    if loaded is None:
        return None
    if not _same_sizes(loaded, dtype):
        warnings.warn(
            f"{SAID}the structures of the kernel in {loaded._name} have other sizes than those of native.py: torch "
            "computes the same, several times slower; delete the file and install sifu again",
            stacklevel=2,
        )
        return None
    return _declared(loaded, dtype)


@functools.cache
def compiled(name: str, width: int, dtype: torch.dtype) -> ctypes.CDLL | None:
    """The library of a source of this folder, compiled on first use (2-3 s).

    None where there is no compiler, the width is not `supported` or, with a warning, the source cannot be compiled.
    """
    chosen = compiler()
    if chosen is None or not supported(width, dtype):
        return None
    folder = resources.files("sifu_graph") / "kernels"
    sources = {file: (folder / file).read_bytes() for file in (f"{name}.cpp", *HEADERS)}
    defines = [f"-DWIDTH={width}", "-DREAL=double" if dtype == torch.float64 else "-DREAL=float"]
    if dtype == torch.float64:
        defines.append("-DREAL_IS_DOUBLE")
    identity = hashlib.sha256(
        b"\0".join(
            [*sources.values(), chosen.encode(), *(f.encode() for f in (*FLAGS, *defines)), _processor().encode()]
        )
    ).hexdigest()[:20]
    library = cache_folder() / f"{name}-{identity}.so"
    try:
        if not library.exists():
            library = _made(chosen, sources, defines, library)
        return ctypes.CDLL(str(library))
    except _NotCompiledError as error:
        _warn_once(str(error))
    except OSError as error:
        cause = str(error).removeprefix(f"{library}: ")
        _warn_once(
            f"a compiled kernel in {library.parent} cannot be loaded ({cause}): delete that folder, or name another in "
            "SIFU_CACHE"
        )
    return None


def _processor() -> str:
    """What -march=native depends on: a library is not to be loaded on another processor."""
    try:
        text = Path("/proc/cpuinfo").read_text().split("\n\n", 1)[0]
        return "".join(line for line in text.splitlines() if line.startswith(("model name", "flags", "Features")))
    except OSError:
        return platform.processor() + platform.machine()


class _NotCompiledError(Exception):
    """A source was not compiled: why, and what to do."""


class _NotWritableError(_NotCompiledError):
    """A folder cannot hold a library: its name and the cause."""

    def __init__(self, folder: Path, error: OSError) -> None:
        self.cause = reason_of(error, folder)
        super().__init__(f"{folder}: {self.cause}")


def _made(chosen: str, sources: dict[str, bytes], defines: list[str], library: Path) -> Path:
    """Compiles a library, in a temporary folder of this process where its own folder cannot be written.

    Returns its path. Raises `_NotCompiledError`.
    """
    try:
        _compile(chosen, sources, defines, library)
    except _NotWritableError as error:
        try:
            temporary = Path(tempfile.mkdtemp(prefix="sifu-")) / library.name
            atexit.register(shutil.rmtree, temporary.parent, ignore_errors=True)
            _compile(chosen, sources, defines, temporary)
        except (OSError, _NotWritableError) as other:
            raise _NotCompiledError(
                f"no folder can hold the compiled kernel ({error}; {_cause_of(other)}): name one with some MiB of free "
                "space in SIFU_CACHE"
            ) from other
        return temporary
    return library


def _cause_of(error: OSError | _NotWritableError) -> str:
    """Why there is no temporary folder for a library."""
    if isinstance(error, _NotWritableError):
        return f"{tempfile.gettempdir()}: {error.cause}"
    return error.strerror or str(error)


def _compile(chosen: str, sources: dict[str, bytes], defines: list[str], library: Path) -> None:
    """Compiles the first of the sources, by their names. The compiler's temporary files are in the same folder."""
    folder = library.parent
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        with tempfile.TemporaryDirectory(dir=folder) as scratch:
            for name, text in sources.items():
                (Path(scratch) / name).write_bytes(text)
            source, result = Path(scratch) / next(iter(sources)), Path(scratch) / "library.so"
            said = _run([chosen, *FLAGS, *defines, str(source), "-o", str(result)], scratch)
            if said is None:
                result.replace(library)
                return
            if _FULL in said:
                raise OSError(errno.ENOSPC, _FULL)
    except OSError as error:
        raise _NotWritableError(folder, error) from error
    raise _NotCompiledError(
        f"{chosen} cannot compile the kernel ({said}): it needs GCC 12 or Clang; CXX names another compiler"
    )


def _run(command: list[str], temporary: str) -> str | None:
    """Runs the compiler, whose messages are in English. Returns the line of its first error; None: it succeeded."""
    environment = {**os.environ, "TMPDIR": temporary, "LC_ALL": "C"}
    try:
        done = subprocess.run(command, capture_output=True, timeout=300, check=False, env=environment)
    except (OSError, subprocess.SubprocessError) as error:
        return str(error)
    if done.returncode == 0:
        return None
    said = done.stderr.decode("utf-8", "replace").splitlines() or [f"exit code {done.returncode}"]
    return next((line for line in said for text in (_FULL, "error") if text in line), said[-1])


@functools.cache
def _warn_once(reason: str) -> None:
    """Says why no kernel is used, not once for each of them."""
    warnings.warn(
        f"{SAID}{reason}; until then torch computes the same, several times slower (SIFU_KERNEL=torch says that this "
        "is meant)",
        stacklevel=4,
    )


def _same_sizes(library: ctypes.CDLL, dtype: torch.dtype) -> bool:
    """Whether the structures of the library have the sizes of those that are filled here."""
    batch, update = (BatchDouble, UpdateDouble) if dtype == torch.float64 else (BatchFloat, UpdateFloat)
    expected = [ctypes.sizeof(structure) for structure in (batch, update, Past)]
    sizes = (_Int * len(expected))()
    library.sifu_sizes(sizes)
    return list(sizes) == expected


def _declared(library: ctypes.CDLL, dtype: torch.dtype) -> ctypes.CDLL:
    library.sifu_forward.argtypes = [_Pointer, _Pointer, _Int]
    library.sifu_train.argtypes = [_Pointer, _Pointer, _Int]
    library.sifu_update.argtypes = [_Int, _Pointer, _Pointer, _Pointer, _Pointer, _Int]
    library.sifu_transfer.argtypes = [_Int, _Int, _Pointer, _Pointer, _Int, _Int]
    library.sifu_transfer.restype = _Int
    real = _Float if dtype == torch.float32 else _Double
    library.sifu_energies.argtypes = [*[_Pointer] * 5, _Int, *[_Pointer] * 3, _Int, real, _Pointer]
    library.sifu_carry.argtypes = [_Int, *[_Pointer] * 8, _Int, _Pointer, _Pointer, *[real] * 3, _Int, real]
    names = ["forward", "train", "update", "energies", "carry"]
    if dtype == torch.float32:
        library.sifu_energies_bfloat16.argtypes = library.sifu_energies.argtypes
        names.append("energies_bfloat16")
    for name in names:
        getattr(library, f"sifu_{name}").restype = None
    return library
