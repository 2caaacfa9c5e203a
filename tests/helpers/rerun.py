"""A pytest plugin: after a run with failures, prints for each failed test the one command that runs this test alone.

The command is for a shell in the project's folder. It has the run's seed, from which pytest-randomly seeds each test.
`--failed-into FILE` writes pytest's arguments into a file, so that `pytest @FILE` runs all failed tests again.
"""

from __future__ import annotations

import shlex
import sys
from pathlib import Path

import pytest

_MOST = 20  # commands; if more tests fail, they seldom fail one by one


_MOST_AGAIN = 10  # tests that `--failed-into` writes; more failures are no accident


def _without_group(nodeid: str) -> str:
    """`--dist loadgroup` ends an id with "@" and the test's group."""
    end = nodeid.rfind("@")
    return nodeid[:end] if end > nodeid.rfind("]") else nodeid


def command(nodeid: str, *options: str) -> str:
    """Returns the command that runs the test `nodeid` with pytest's `options`."""
    # The interpreter's path is not resolved: in a virtual environment, the program is a link to another Python.
    python = Path(sys.executable)
    program = python.relative_to(Path.cwd()) if python.is_relative_to(Path.cwd()) else python
    return shlex.join([str(program), "-m", "pytest", *options, _without_group(nodeid)])


def _options(config: pytest.Config) -> list[str]:
    options = ["--faults-long"] if config.getoption("faults_long", default=False) else []
    seed = config.getoption("randomly_seed", default=None)
    return options if seed is None else [*options, f"--randomly-seed={seed}"]


def pytest_addoption(parser: pytest.Parser) -> None:
    """Adds the option."""
    parser.addoption(
        "--failed-into", metavar="FILE", help=f"write what runs the failed tests again, if at most {_MOST_AGAIN} failed"
    )


@pytest.hookimpl(trylast=True)
def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, exitstatus: int, config: pytest.Config) -> None:
    """Prints the commands, and writes the file. A test that fails in its teardown, too, is named once.

    The file is not written if something other than tests failed, such as the collection of tests.
    """
    reports = [*terminalreporter.stats.get("failed", []), *terminalreporter.stats.get("error", [])]
    failed = list(dict.fromkeys(report.nodeid for report in reports if report.nodeid))
    if not failed:
        return
    file = config.getoption("failed_into", default=None)
    if file and exitstatus == pytest.ExitCode.TESTS_FAILED and len(failed) <= _MOST_AGAIN:
        Path(file).write_text("".join(f"{word}\n" for word in (*_options(config), *map(_without_group, failed))))
    terminalreporter.section("to run a failed test alone")
    for nodeid in failed[:_MOST]:
        terminalreporter.write_line(command(nodeid, *_options(config)))
    if len(failed) > _MOST:
        terminalreporter.write_line(f"and {len(failed) - _MOST} more: write another id into the command")
