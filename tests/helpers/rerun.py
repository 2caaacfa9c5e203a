"""A pytest plugin: after a run with failures, prints for each failed test the one command that runs this test alone.

The command is for a shell in the project's folder. It has the run's seed, from which pytest-randomly seeds each test.
"""

from __future__ import annotations

import shlex
import sys
from pathlib import Path

import pytest

_MOST = 20  # commands; if more tests fail, they seldom fail one by one


def command(nodeid: str, *options: str) -> str:
    """Returns the command that runs the test `nodeid` with pytest's `options`.

    `--dist loadgroup` ends an id with "@" and the test's group. The command is without it.
    """
    end = nodeid.rfind("@")
    own = nodeid[:end] if end > nodeid.rfind("]") else nodeid
    # The interpreter's path is not resolved: in a virtual environment, the program is a link to another Python.
    python = Path(sys.executable)
    program = python.relative_to(Path.cwd()) if python.is_relative_to(Path.cwd()) else python
    return shlex.join([str(program), "-m", "pytest", *options, own])


def _options(config: pytest.Config) -> list[str]:
    options = ["--faults-long"] if config.getoption("faults_long", default=False) else []
    seed = config.getoption("randomly_seed", default=None)
    return options if seed is None else [*options, f"--randomly-seed={seed}"]


@pytest.hookimpl(trylast=True)
def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Prints the commands. A test that fails in its teardown, too, is printed once."""
    reports = [*terminalreporter.stats.get("failed", []), *terminalreporter.stats.get("error", [])]
    failed = list(dict.fromkeys(report.nodeid for report in reports if report.nodeid))
    if not failed:
        return
    terminalreporter.section("to run a failed test alone")
    for nodeid in failed[:_MOST]:
        terminalreporter.write_line(command(nodeid, *_options(config)))
    if len(failed) > _MOST:
        terminalreporter.write_line(f"and {len(failed) - _MOST} more: write another id into the command")
