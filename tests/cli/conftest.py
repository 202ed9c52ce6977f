"""One small graph for all tests of the command line."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from calls import call

LINES = [
    "春風吹綠江南岸。",
    "明月何時照我還。",
    "白日依山盡。",
    "黃河入海流。",
    "春眠不覺曉。",
    "處處聞啼鳥。",
]


@pytest.fixture(scope="module", autouse=True)
def small_tensors(one_thread: None) -> None:
    """In every module of the folder."""


@pytest.fixture(autouse=True)
def clean(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """An empty folder, and nothing from outside that the commands look at."""
    monkeypatch.chdir(tmp_path)
    for name in ("SIFU_STORE", "SIFU_DEBUG", "NO_COLOR"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(scope="session")
def poems(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A text of 240 lines, all different."""
    path = tmp_path_factory.mktemp("text") / "poems.txt"
    lines = [LINES[i % 6] + LINES[i // 6 % 6] + LINES[i // 36 % 6][: 2 + i % 5] for i in range(240)]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory, poems: Path) -> Path:
    """A new graph. Not to be written to: copy it with `graph`."""
    store = tmp_path_factory.mktemp("built") / "graph.sifu"
    assert call("build-graph", poems, "--store", store, "--holdout", "0.2", "--signal", "tuned").code == 0
    return store


@pytest.fixture
def graph(tmp_path: Path, built: Path) -> Path:
    """A graph of the test's own, at ./graph.sifu."""
    return Path(shutil.copytree(built, tmp_path / "graph.sifu"))


@pytest.fixture
def unchanged(built: Path) -> Iterator[Path]:
    """The shared graph, which must be as it was when the test is over (but for what can be built again)."""

    def contents() -> dict[str, bytes]:
        files = (path for path in built.rglob("*") if path.is_file() and built / "cache" not in path.parents)
        return {str(path): path.read_bytes() for path in files if "lock" not in path.name}

    before = contents()
    yield built
    assert contents() == before
