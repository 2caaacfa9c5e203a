"""A pytest plugin: `--long-slice HASH/N` runs one of N parts of the long cases, for a bounded time.

CI has no time for all long cases. The commit's hash chooses the part, so each part has its turn in the course of some commits.
A long case is a test that is marked so, or a case of the fault suite, which makes more rounds then. The parts have the same
number of cases. Neighbours, such as the parameters of one test, take about the same time, and are in different parts.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import NamedTuple

import pytest

_SECONDS = 150.0  # after this time, no further case of a part begins

_BEGAN = pytest.StashKey[float]()  # by the monotonic clock


class Slice(NamedTuple):
    """One of `parts` parts: number `number`, from 0."""

    number: int
    parts: int

    def of(self, ids: Sequence[str]) -> set[str]:
        """Returns the ids of this part."""
        return set(sorted(ids)[self.number :: self.parts])


def slice_of(text: str) -> Slice:
    """Returns the part that HASH/N names. HASH is hexadecimal, of any length. Raises UsageError if it is none."""
    commit, _, count = text.partition("/")
    try:
        return Slice(int(commit, 16) % int(count), int(count))
    except (ValueError, ZeroDivisionError):
        message = f"--long-slice is {text!r}: give a hexadecimal number and the number of parts, such as 3/8"
        raise pytest.UsageError(message) from None


def pytest_addoption(parser: pytest.Parser) -> None:
    """Adds the option."""
    parser.addoption("--long-slice", metavar="HASH/N", help="of the long cases, one of N parts, for about two minutes")


def pytest_configure(config: pytest.Config) -> None:
    """Takes the option for `--faults-long`, too. Raises UsageError if the option names no part."""
    if text := config.getoption("long_slice"):
        slice_of(text)
        config.option.faults_long = True
    config.stash[_BEGAN] = time.monotonic()


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leaves the part's cases among the collected tests."""
    if not (text := config.getoption("long_slice")):
        return
    part = slice_of(text)
    ids = [item.nodeid for item in items if item.get_closest_marker("long") or "rig" in getattr(item, "fixturenames", ())]
    chosen = part.of(ids)
    config.hook.pytest_deselected(items=[item for item in items if item.nodeid not in chosen])
    items[:] = [item for item in items if item.nodeid in chosen]


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Leaves out a case whose turn comes too late."""
    if item.config.getoption("long_slice") and time.monotonic() - item.config.stash[_BEGAN] > _SECONDS:
        pytest.skip(f"LEFT OUT: the part had run for {_SECONDS:.0f} s; `make test-faults` runs it")


@pytest.hookimpl(trylast=True)
def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Names the part, and the command that runs it again."""
    if text := config.getoption("long_slice"):
        part = slice_of(text)
        counted = [report for kind in ("passed", "failed", "skipped") for report in terminalreporter.stats.get(kind, [])]
        cases = len({report.nodeid for report in counted})
        again = f"make test-slice SLICE={part.number:x}/{part.parts}"
        terminalreporter.write_line(f"part {part.number} of {part.parts} of the long cases: {cases} cases; again: {again}")
