"""Pages that are rounded and compressed: the same values, another size, in one commit that can be undone."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import needs
import numpy as np
import pytest
import small_store
from hypothesis import given, settings
from hypothesis import strategies as st
from sifu_store import Store, page_codecs
from sifu_store.errors import DiskFullError, OptionError, StoreDamagedError, StoreError
from sifu_store.layout import BIAS, CODEC_VERSION, FIRST_VERSION, WEIGHT
from sifu_store.page_codecs import PageCodec, is_rounded, kept_bits, rounded

PCODEC = pytest.param(
    "pcodec", marks=pytest.mark.skipif(importlib.util.find_spec("pcodec") is None, reason=needs.PCODEC)
)
CODECS = ["none", "zstd", "blosc", PCODEC]
STATE = "optimizer/m_W"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Three pages of random values, the last one short; page 1 is not stored. One array of state, without page 2."""
    rng = np.random.default_rng(1)
    with Store.create(tmp_path / "graph.sifu") as store:
        small_store.fill(store)
        store.create_paged(STATE, (small_store.D, small_store.D), "float32")
        for page in (0, 2):
            for name in (WEIGHT, BIAS, *([STATE] if page == 0 else [])):
                shape = store.read_page(name, page).shape
                store.write_pages(name, page, rng.standard_normal(shape).astype(np.float32))
        store.mark_stored(np.array([0, 2]))
        store.commit("build", command="build-graph", changes={})
    return tmp_path / "graph.sifu"


def values(store: Store) -> dict[str, np.ndarray]:
    return {name: store.read_pages(name, 0, store.pages) for name in (WEIGHT, BIAS, STATE)}


def recode(path: Path, *names: str) -> str:
    with Store.open(path, write=True) as store:
        store.recode_pages(PageCodec(*names))
        return store.commit("codec", command="compact", changes={})


def nearest(value: float, bits: int) -> set[float]:
    """The numbers with so many bits of the fraction that are nearest to a value: of a tie, the even one."""
    if value == 0:
        return {value}
    mantissa, exponent = np.frexp(np.float64(value))
    return {float(np.ldexp(np.rint(np.ldexp(mantissa, bits + 1)), int(exponent) - bits - 1))}


@given(
    st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), min_size=1),
    st.integers(1, 22),
)
@settings(max_examples=200, deadline=None)
def test_rounding_takes_the_nearest_number(numbers: list[float], bits: int) -> None:
    precision = f"bitround:{bits}"
    x = np.array(numbers, np.float32)
    normal = np.abs(x) > np.finfo(np.float32).tiny
    out = rounded(x, precision)
    assert is_rounded(out, precision) and np.isfinite(out).all()
    assert np.array_equal(rounded(out, precision), out)
    largest = 2.0**128 * (1 - 2.0 ** -(bits + 1))
    for value, found in zip(x[normal].tolist(), out[normal].tolist(), strict=True):
        assert found in {float(np.clip(each, -largest, largest)) for each in nearest(value, bits)}
        assert abs(found - value) <= abs(value) * 2.0 ** -(bits + (abs(found) < largest))


def test_bfloat16_is_that_of_torch() -> None:
    torch = pytest.importorskip("torch")
    x = np.random.default_rng(0).standard_normal(10_000).astype(np.float32)
    assert np.array_equal(rounded(x, "bfloat16"), torch.from_numpy(x).bfloat16().float().numpy())
    assert np.array_equal(rounded(x, "bfloat16"), rounded(x, "bitround:7"))
    assert rounded(x, "float32") is x


@pytest.mark.parametrize("precision", ["float16", "bitround", "bitround:0", "bitround:23", "bitround:-1", "bitround:²"])
def test_an_unknown_precision_is_refused(precision: str) -> None:
    with pytest.raises(OptionError, match="expected float32, bfloat16 or bitround:N"):
        kept_bits(precision)


def test_what_is_not_said_stays() -> None:
    plain, both = PageCodec(), PageCodec("bfloat16", "zstd")
    assert plain.with_changes(None, None) == plain
    assert plain.with_changes("bfloat16", None) == PageCodec("bfloat16", "blosc")
    assert plain.with_changes(None, "zstd") == plain.with_changes("float32", "zstd") == PageCodec("float32", "zstd")
    assert both.with_changes("bitround:10", None) == PageCodec("bitround:10", "zstd")
    assert both.with_changes("float32", "none") == plain
    with pytest.raises(OptionError, match="only with a codec"):
        both.with_changes(None, "none")
    with pytest.raises(OptionError, match="expected one of none, zstd, blosc, pcodec"):
        plain.with_changes(None, "gzip")


@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize("precision", ["float32", "bfloat16", "bitround:11"])
def test_pages_keep_their_values(path: Path, codec: str, precision: str) -> None:
    with Store.open(path) as store:
        before, first, size = values(store), store.snapshot, store.page_bytes()
    if codec == "none" and precision != "float32":
        pytest.skip("refused")
    recode(path, precision, codec)
    with Store.open(path) as store:
        assert store.page_codec == PageCodec(precision, codec)
        assert store.format_version == (CODEC_VERSION if codec != "none" else FIRST_VERSION)
        found = values(store)
        for name, array in before.items():
            expected = rounded(array, precision) if name != STATE else array
            assert found[name].tobytes() == expected.tobytes(), name
        assert store.verify().damage == ()
        assert store.page_stored().tolist() == [True, False, True]
        if codec != "none":
            assert store.page_bytes() < size * (1 if precision == "float32" else 0.75)
            assert store.changed_pages(first).tolist() == [True, False, True]
    with Store.open(path, write=True) as store:
        if codec != "none":
            store.undo()
    with Store.open(path) as store:
        assert store.page_codec == PageCodec() and store.format_version == FIRST_VERSION
        assert all(array.tobytes() == before[name].tobytes() for name, array in values(store).items())


@pytest.mark.parametrize("codec", CODECS[1:])
def test_later_pages_have_the_codec_and_keep_their_values(path: Path, codec: str) -> None:
    """What is written later is never rounded without being asked for: the precision of the array becomes float32."""
    recode(path, "bfloat16", codec)
    with Store.open(path, write=True) as store:
        old = values(store)
        store.write_pages(WEIGHT, 2, old[WEIGHT][:276])  # rounded values
        assert store.page_codec == PageCodec("bfloat16", codec)
        new = (old[WEIGHT][512:1024] + np.float32(0.1)).astype(np.float32)
        store.write_pages(WEIGHT, 1, new)
        store.write_pages(BIAS, 1, old[BIAS][512:1024])
        store.mark_stored(np.array([1]))
        store.create_paged("optimizer/v_W", (small_store.D,), "float32")
        store.commit("train", command="train", changes={})
    with Store.open(path) as store:
        assert store.page_codec == PageCodec("float32", codec)
        assert store.read_page(WEIGHT, 1).tobytes() == new.tobytes()
        assert store.read_page(WEIGHT, 0).tobytes() == old[WEIGHT][:512].tobytes()
        assert store.verify().damage == ()
        last = [str(store._array(name).metadata.codecs[-1].to_dict()["name"]) for name in store.names()]
        assert set(last) == {"crc32c"}
    recode(path, "float32", "none")
    with Store.open(path) as store:
        assert store.page_codec == PageCodec()
        assert store.read_page(WEIGHT, 1).tobytes() == new.tobytes()


def test_a_failure_changes_nothing(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(array: np.ndarray, precision: str) -> np.ndarray:
        if len(array) < 512:
            raise OSError(28, "No space left on device")
        return array

    with Store.open(path) as store:
        before = values(store)
    monkeypatch.setattr("sifu_store.writing.rounded", fails)
    with Store.open(path, write=True) as store, pytest.raises(DiskFullError):
        store.recode_pages(PageCodec("float32", "zstd"))
    with Store.open(path) as store:
        assert store.page_codec == PageCodec() and store.verify().damage == ()
        assert all(array.tobytes() == before[name].tobytes() for name, array in values(store).items())


@pytest.mark.parametrize("codec", CODECS[1:])
def test_a_damaged_page_is_named(path: Path, codec: str) -> None:
    recode(path, "float32", codec)
    with Store.open(path) as store:
        whole = store.read_page(WEIGHT, 0)
        written = max((path / "repository" / "chunks").iterdir(), key=lambda file: (file.stat().st_mtime_ns, file.name))
        for file in (path / "repository" / "chunks").iterdir():
            content = bytearray(file.read_bytes())
            if file.stat().st_mtime_ns < written.stat().st_mtime_ns - 10**10 or len(content) < 2000:
                continue
            content[len(content) // 2] ^= 1
            file.write_bytes(content)
    with Store.open(path) as store:
        with pytest.raises(StoreDamagedError, match=r"edges/weight, page 0 .*checksum"):
            store.read_page(WEIGHT, 0)
        assert whole.any() and not store.verify().ok


def test_a_missing_library_is_named(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(page_codecs, "find_spec", lambda name: None)
    with Store.open(path, write=True) as store, pytest.raises(StoreError, match=r'pip install "sifu-graph\[pcodec\]"'):
        store.recode_pages(PageCodec("float32", "pcodec"))


@pytest.mark.skipif(importlib.util.find_spec("pcodec") is None, reason=needs.PCODEC)
def test_pages_cannot_be_read_without_the_library(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recode(path, "float32", "pcodec")
    monkeypatch.setattr(page_codecs, "find_spec", lambda name: None)
    with Store.open(path) as store, pytest.raises(StoreError, match=r'pip install "sifu-graph\[pcodec\]"'):
        store.read_page(WEIGHT, 0)


def test_codecs_of_another_program_are_named(path: Path) -> None:
    with Store.open(path, write=True) as store:
        for name in (WEIGHT, BIAS):
            store._group[name].attrs["precision"] = "half"
        store.commit("other", command="other", changes={})
    with Store.open(path) as store:
        assert store.read_page(WEIGHT, 0).any()
        with pytest.raises(StoreError, match="edges/weight are stored in an unknown way"):
            _ = store.page_codec
