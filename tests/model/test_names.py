"""Each transition of the models names the code that implements it, and that code exists."""

from __future__ import annotations

import pkgutil
import re

import pytest

from tests.model.cases import GUARDS, LONG, SHORT
from tests.model.names import NAMES, Names
from tests.model.spin import FOLDER

QUERIES = FOLDER.parent.parent / "sql" / "queries"


def _models() -> str:
    return "".join(path.read_text() for path in sorted(FOLDER.glob("*.pml")))


def _transitions() -> set[str]:
    return set(re.findall(r"code: ([a-z_]+\.[a-z_]+)", _models()))


def test_each_transition_has_its_names_and_no_name_is_left_over() -> None:
    assert _transitions() == set(NAMES)


@pytest.mark.parametrize("names", NAMES.values(), ids=NAMES.keys())
def test_what_implements_a_transition_is_there(names: Names) -> None:
    queries = set(re.findall(r"^-- name: (\w+)", "".join(path.read_text() for path in QUERIES.glob("*.sql")), re.MULTILINE))
    assert callable(pkgutil.resolve_name(names.code))
    assert set(names.sql) <= queries


def test_each_guard_of_the_models_is_taken_out_once() -> None:
    switches = set(re.findall(r"\bNO_([A-Z_0-9]+)\b", _models())) - {"HOT_PATH", "HANDLERS"}  # cases define these two
    assert sorted(switches) == sorted(guard.name for guard in GUARDS)


def test_the_case_of_each_guard_is_searched_with_all_guards_too() -> None:
    searched = {(case.model, case.defines, case.claim) for case in (*SHORT, *LONG)}
    assert {(guard.case.model, guard.case.defines, guard.case.claim) for guard in GUARDS} <= searched
