"""One index reaches rows in memory and, behind them, those of a file."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sifu_graph.paging.mapped_array import GRAIN, FileRows, MappedArray

OVERCOMMIT = Path("/proc/sys/vm/overcommit_memory")


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(held=st.integers(0, 5000), rows=st.integers(0, 300), width=st.integers(0, 40), skipped=st.integers(0, 2))
def test_rows_of_a_file_lie_behind_those_in_memory(
    held: int, rows: int, width: int, skipped: int, tmp_path: Path
) -> None:
    shape = (width,) if width else ()
    values = np.random.default_rng(held).random((rows, *shape), dtype=np.float32)
    with (tmp_path / "rows").open("w+b", buffering=0) as file:
        file.truncate(skipped * GRAIN + values.nbytes)
        array = MappedArray(held, shape, behind=FileRows(file.fileno(), skipped * GRAIN, rows))
        os.pwrite(file.fileno(), values.tobytes(), skipped * GRAIN)  # seen at once
        assert array.beyond >= held
        assert array.rows.shape == (array.beyond + rows, *shape)
        assert not array.rows[:held].any()
        array.rows[:held] = 1
        first, stop = sorted((held % (rows + 1), rows))
        array.load(first, stop)
        assert np.array_equal(array.rows[array.beyond :].numpy(), values)
        array.release(first, stop)
        assert np.array_equal(array.rows[array.beyond :].numpy(), values)
        assert array.rows[:held].all()
        if rows:
            picked = torch.tensor([array.beyond + rows - 1, *([0] if held else [])])
            assert np.array_equal(array.rows[picked][0].numpy(), values[-1])


def test_memory_without_a_file() -> None:
    array = MappedArray(3, (2, 2), torch.float64)
    assert array.beyond == 3
    assert array.rows.shape == (3, 2, 2)
    assert array.rows.dtype == torch.float64
    assert MappedArray(0, (4,)).rows.shape == (0, 4)


def test_a_file_that_cannot_be_mapped(tmp_path: Path) -> None:
    read_end, write_end = os.pipe()
    with pytest.raises(OSError, match=r"."):
        MappedArray(3, (2,), behind=FileRows(read_end, 0, 5))
    os.close(read_end)
    os.close(write_end)


def test_rows_that_cannot_be_read(tmp_path: Path) -> None:
    """A file that became shorter; to touch the rows would end the process."""
    with (tmp_path / "rows").open("w+b", buffering=0) as file:
        file.truncate(4 * GRAIN)
        array = MappedArray(1, (GRAIN // 4,), behind=FileRows(file.fileno(), 0, 4))
        file.truncate(GRAIN)
        array.load(0, 1)
        with pytest.raises(OSError, match=r"."):
            array.load(0, 4)


@pytest.mark.skipif(
    not OVERCOMMIT.exists() or OVERCOMMIT.read_text().strip() == "2", reason="the system maps no more than it has"
)
def test_more_than_the_machine_has_can_be_mapped() -> None:
    array = MappedArray(2 * psutil.virtual_memory().total // 4096, (1024,))
    array.rows[-1] = 1.0
    assert float(array.rows[0].sum() + array.rows[-1].sum()) == 1024.0
