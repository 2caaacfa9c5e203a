"""The parts of the long cases: each case is in one part, neighbours are in different parts, and a part ends in time."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tests.helpers import slices
from tests.helpers.guide import ROOT
from tests.helpers.slices import Slice, slice_of

_TESTS = """
import pytest

@pytest.fixture
def rig(request):
    return request.config.getoption("faults_long")

@pytest.mark.long
@pytest.mark.parametrize("number", range(8))
def test_marked(number): pass

def test_rounds(rig):
    assert rig

def test_short(): pass
"""
_OPTIONS = """
def pytest_addoption(parser):
    parser.addoption("--faults-long", action="store_true")
"""


@pytest.fixture(autouse=True)
def no_other_plugin(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lets the runs under test load no plugin of an installed package."""
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")


def test_make_runs_each_file_that_has_long_cases() -> None:
    command = subprocess.run(["make", "-n", "test-faults"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    places = tuple(word for word in command.split() if word.startswith("tests/"))
    files = [path for path in (ROOT / "tests").rglob("test_*.py") if path != Path(__file__)]
    long = [str(path.relative_to(ROOT)) for path in files if "mark.long" in path.read_text()]
    assert len(long) > 20
    assert [name for name in long if not name.startswith(places)] == []


def test_each_case_is_in_one_part_and_neighbours_are_in_different_parts() -> None:
    ids = [f"test_{name}[{number}]" for name in "abc" for number in range(7)]
    parts = [Slice(number, 4).of(ids) for number in range(4)]
    assert sorted(one for part in parts for one in part) == sorted(ids)
    assert all(len({one[:6] for one in part}) == 3 for part in parts)
    assert {len(part) for part in parts} == {5, 6}


def test_the_hash_of_a_commit_names_a_part() -> None:
    assert slice_of("61e633bfd9a7d30f7e1ea5644ee0a90b9f078581/8") == Slice(1, 8)
    assert slice_of("3/8") == Slice(3, 8)


@pytest.mark.parametrize("text", ["/8", "3", "3/", "3/0", "x/8"])
def test_another_text_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(pytest.UsageError, match="3/8"):
        slice_of(text)


def test_the_parts_together_run_the_long_cases_and_no_other(pytester: pytest.Pytester) -> None:
    pytester.makeconftest(_OPTIONS)
    pytester.makeini("[pytest]\nmarkers = long: a long case")
    pytester.makepyfile(_TESTS)
    passed = 0
    for number in range(3):
        result = pytester.runpytest("-p", "tests.helpers.slices", f"--long-slice={number}/3")
        passed += result.parseoutcomes()["passed"]
        result.stdout.fnmatch_lines([f"part {number} of 3 of the long cases: 3 cases; again: make test-slice SLICE={number}/3"])
    assert passed == 9
    assert pytester.runpytest("-p", "tests.helpers.slices").parseoutcomes() == {"passed": 9, "failed": 1}


def test_a_case_whose_turn_comes_too_late_is_left_out_by_name(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(slices, "_SECONDS", -1.0)
    pytester.makeconftest(_OPTIONS)
    pytester.makeini("[pytest]\nmarkers = long: a long case")
    pytester.makepyfile(_TESTS)
    result = pytester.runpytest("-p", "tests.helpers.slices", "--long-slice=0/1", "-rs")
    assert result.parseoutcomes()["skipped"] == 9
    assert "LEFT OUT" in result.stdout.str()
