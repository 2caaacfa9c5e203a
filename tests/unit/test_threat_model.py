"""The threat model names tests that exist."""

from __future__ import annotations

import ast
import functools
import re
from pathlib import Path

import pytest

MODEL = Path("webhookd/guide/threat-model.md")
ROWS = [line for line in MODEL.read_text().splitlines() if line.startswith("| ") and not line.startswith("| threat")]


@functools.cache
def functions_of(path: Path) -> set[str]:
    found = ast.walk(ast.parse(path.read_text()))
    return {node.name for node in found if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)}


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.split("|")[1].strip()[:60])
def test_each_defence_is_shown_by_tests_that_exist(row: str) -> None:
    _, threat, defence, shown, _ = row.split("|")
    assert threat.strip() and defence.strip()  # noqa: PT018
    named = re.findall(r"`([^`]+)`", shown)
    assert named, "no test shows it"
    for name in named:
        path, _, test = name.partition("::")
        assert (Path("tests") / path).is_file(), name
        assert test in functions_of(Path("tests") / path), name


def test_the_table_is_read() -> None:
    assert len(ROWS) > 25
