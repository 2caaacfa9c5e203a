"""The list of guards is true: each guard stands in the code, names a test that exists, and is listed in the README."""

from __future__ import annotations

import ast

import pytest

from tests.faults.guards import GUARDS, README, ROOT, Guard, table


@pytest.mark.parametrize("guard", GUARDS, ids=lambda guard: guard.name)
def test_a_guard_stands_in_the_code_and_its_test_exists(guard: Guard) -> None:
    text = (ROOT / guard.file).read_text()
    assert guard.before in text
    if guard.file.endswith(".py"):  # a test must fail because the guard is missing, not because of a syntax error
        ast.parse(text.replace(guard.before, guard.after, 1))
    path, _, name = guard.test.partition("::")
    assert f"def {name.partition('[')[0]}(" in (ROOT / path).read_text()


def test_the_readme_lists_every_guard() -> None:
    assert table() in README.read_text()
