"""After a failure, the run prints a command that runs the failed test, and no other test."""

from __future__ import annotations

import subprocess

import pytest

from tests.helpers.rerun import command

_TESTS = r"""
import random

import pytest

ODD = ["it's", 'a "b" $HOME `id` \\ !x', "[x]@y::z]", "two\nlines, ü", "-k"]


@pytest.mark.parametrize("text", ["plain", *ODD])
def test_only_plain_passes(text):
    assert text == "plain"


def test_fails_by_chance():
    assert False, f"the number is {random.random()}"


@pytest.fixture
def closing():
    yield
    assert False, "in the teardown"


def test_fails_twice(closing):
    assert False, "in the call"


def test_passes():
    pass
"""
_PLUGINS = ("-p", "tests.helpers.rerun", "-p", "pytest_randomly")
_HEAD = "= to run a failed test alone ="


@pytest.fixture(autouse=True)
def no_other_plugin(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lets the runs under test load no plugin of an installed package but those in `_PLUGINS`."""
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")


def _commands(lines: list[str]) -> list[str]:
    start = next(place for place, line in enumerate(lines) if _HEAD in line)
    return [line for line in lines[start + 1 :] if " -m pytest " in line]


def _words(line: str) -> list[str]:
    """Returns the words of a command after `-m pytest`, as a real shell reads them."""
    shell = subprocess.run(["sh", "-c", f"printf '%s\\0' {line}"], capture_output=True, check=True, text=True)
    words = shell.stdout.split("\0")[:-1]
    return words[words.index("pytest") + 1 :]


def test_each_failed_test_has_a_command_that_runs_it_alone(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(_TESTS)
    first = pytester.runpytest(*_PLUGINS)
    commands = _commands(first.outlines)
    assert len(commands) == len(set(commands)) == 7, "five odd texts, chance, and the test that fails twice"
    chances = [line for line in first.outlines if "the number is" in line]
    for line in commands:
        again = pytester.runpytest(*_PLUGINS, *_words(line))
        outcomes = again.parseoutcomes()
        assert (outcomes["failed"], "passed" in outcomes) == (1, False), line
        assert _commands(again.outlines) == [line]
        if "by_chance" in line:
            assert next(line for line in again.outlines if "the number is" in line) == chances[0], "the same seed"


def test_a_file_runs_all_failed_tests_again(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(_TESTS)
    first = pytester.runpytest(*_PLUGINS, "--failed-into=failed")
    again = pytester.runpytest(*_PLUGINS, "@failed")
    assert "passed" not in again.parseoutcomes()
    assert sorted(_commands(again.outlines)) == sorted(_commands(first.outlines))


@pytest.mark.parametrize(
    ("tests", "why"),
    [
        ("def test_passes(): pass", "nothing failed"),
        ("import nothing_of_this_name", "the collection failed"),
        ("\n".join(f"def test_{number}(): assert False" for number in range(11)), "more than ten failed"),
    ],
)
def test_no_file_is_written(pytester: pytest.Pytester, tests: str, why: str) -> None:
    pytester.makepyfile(tests)
    pytester.runpytest(*_PLUGINS, "--failed-into=failed")
    assert not (pytester.path / "failed").exists(), why


def test_a_run_without_failures_prints_no_command(pytester: pytest.Pytester) -> None:
    pytester.makepyfile("def test_passes(): pass")
    assert _HEAD not in pytester.runpytest(*_PLUGINS).stdout.str()


@pytest.mark.parametrize(
    ("nodeid", "own"),
    [
        ("tests/x.py::test_a@redis", "tests/x.py::test_a"),
        ("tests/x.py::test_a[b]@redis", "'tests/x.py::test_a[b]'"),
        ("tests/x.py::test_a[b@c]@redis", "'tests/x.py::test_a[b@c]'"),
        ("tests/x.py::test_a[b@c]", "'tests/x.py::test_a[b@c]'"),
        ("tests/x.py::test_a", "tests/x.py::test_a"),
    ],
)
def test_the_group_of_a_test_is_no_part_of_its_id(nodeid: str, own: str) -> None:
    assert command(nodeid, "--faults-long").endswith(f" -m pytest --faults-long {own}")
