"""The model of the flow keeps its invariants in every state. If a guard is removed, its invariant breaks."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.model.cases import GUARDS, LONG, SHORT, Case, Guard
from tests.model.spin import NO_SPIN, has_spin, search

pytestmark = pytest.mark.skipif(not has_spin(), reason=NO_SPIN)


def _id(case: Case) -> str:
    return f"{case.model} {case.defines} {case.claim}".strip()


@pytest.mark.parametrize(
    "case", [*SHORT, *(pytest.param(case, marks=[pytest.mark.long, pytest.mark.timeout(1800)]) for case in LONG)], ids=_id
)
def test_no_invariant_breaks(case: Case, tmp_path: Path) -> None:
    found = search(case, tmp_path)
    assert found.broken == ""
    assert found.states > 10


@pytest.mark.long  # a program for each guard, which takes a compiler some seconds
@pytest.mark.parametrize("guard", GUARDS, ids=[guard.name for guard in GUARDS])
def test_without_its_guard_an_invariant_breaks(guard: Guard, tmp_path: Path) -> None:
    assert search(guard.case, tmp_path, guard.name).broken == guard.invariant
