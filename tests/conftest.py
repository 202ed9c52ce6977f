"""Settings that every test shares: hypothesis, order, and the report of what was skipped."""

from __future__ import annotations

import gc
import random
import signal
from collections import Counter
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path

import needs
import pytest
from hypothesis import HealthCheck, is_hypothesis_test, settings

# fixed: the same examples in every run; explore: others each time, with a line for each failure that repeats it.
# pytest --hypothesis-profile=explore chooses.
QUIET = [HealthCheck.too_slow]
settings.register_profile("fixed", deadline=None, suppress_health_check=QUIET, derandomize=True)
settings.register_profile("explore", deadline=None, suppress_health_check=QUIET, print_blob=True)
settings.load_profile("fixed")

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # begun in the background: what the tests start would ignore ^C
    signal.signal(signal.SIGINT, signal.default_int_handler)

SHARED = Path(__file__).resolve().parents[2] / "shared"


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("sifu")
    group.addoption("--examples", type=int, default=1, metavar="K", help="K times as many examples of each property")
    group.addoption("--shuffle", type=int, default=None, metavar="SEED", help="tests in a random order, file by file")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Applies ``--examples`` and ``--shuffle``. A shuffled file stays together: its fixtures are made once."""
    if (times := config.getoption("examples")) > 1:
        for test in {getattr(item, "obj", None) for item in items}:
            if is_hypothesis_test(test):  # no public way leads to the settings of a test
                usual = test._hypothesis_internal_use_settings
                test._hypothesis_internal_use_settings = settings(usual, max_examples=times * usual.max_examples)
    if (seed := config.getoption("shuffle")) is not None:
        draw = random.Random(seed)
        files = [list(tests) for _, tests in groupby(items, key=lambda item: item.path)]
        draw.shuffle(files)
        for tests in files:
            draw.shuffle(tests)
        items[:] = [test for tests in files for test in tests]


def pytest_collection_finish() -> None:
    """Takes what was imported out of every later garbage collection."""
    gc.collect()
    gc.freeze()


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Says what was skipped, what it needs, and how a random failure is repeated."""
    report = terminalreporter
    reasons = Counter(str(test.longrepr[2]).removeprefix("Skipped: ") for test in report.stats.get("skipped", []))
    if reasons:
        report.section("skipped")
        for reason, tests in sorted(reasons.items()):
            report.write_line(f"{tests:4} {'test' if tests == 1 else 'tests'}: {reason}")
    seed = config.getoption("hypothesis_seed", None)
    failed = [test.nodeid for test in report.stats.get("failed", [])]
    if failed and seed is not None:
        chosen = f"--hypothesis-profile=explore --hypothesis-seed={seed} --examples={config.getoption('examples')}"
        report.section("to repeat")
        for test in failed:
            report.write_line(f"python -m pytest {chosen} '{test}'")


@pytest.fixture(scope="session")
def shared() -> Path:
    """Real text and recorded parity data, which lie beside the project where it is developed."""
    if not SHARED.is_dir():
        pytest.skip(needs.SHARED)
    return SHARED


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """For small tensors on a busy machine: threads would only wait for each other."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session", autouse=True)
def _no_noise_of_the_process() -> Iterator[None]:
    """The memory of this process, which holds other tests, says nothing of a graph."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sifu_graph.paging.process_memory.anonymous_bytes", lambda: 0)
        yield
