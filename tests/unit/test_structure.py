"""The rules of the code in CONTRIBUTING.md that no other tool checks."""

from __future__ import annotations

import ast
import functools
from collections.abc import Iterator
from pathlib import Path

PACKAGE = Path(__file__).parents[2] / "webhookd"
TEXTS = {str(path.relative_to(PACKAGE)): path.read_text() for path in sorted(PACKAGE.rglob("*.py"))}
LONGEST_MODULE, LONGEST_CLASS = 350, 250  # lines


@functools.cache
def modules() -> dict[str, ast.Module]:
    """Returns the tree of each module by its path."""
    return {path: ast.parse(text) for path, text in TEXTS.items()}


def names_of_asyncpg(module: ast.Module) -> Iterator[str]:
    """Yields what a module takes from asyncpg: each module that it imports a name from, and each attribute."""
    for node in ast.walk(module):
        if isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] == "asyncpg":
            yield f"from {node.module}"
        elif isinstance(node, ast.Import):
            yield from (f"import {alias.name} as {alias.asname}" for alias in node.names if _is_odd(alias))
        elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "asyncpg":
            yield node.attr


def _is_odd(alias: ast.alias) -> bool:
    return alias.name.startswith("asyncpg.") or (alias.name == "asyncpg" and alias.asname is not None)


def test_asyncpg_ends_in_store_but_for_the_type_of_a_row() -> None:
    taken = {(path, name) for path, module in modules().items() for name in names_of_asyncpg(module)}
    assert len({path for path, _ in taken if path.startswith("store/")}) > 5
    outside = {(path, name) for path, name in taken if not path.startswith("store/")}
    assert {(path, name) for path, name in outside if name != "Record"} == set()


def test_no_module_and_no_class_is_too_long() -> None:
    lengths = {path: text.count("\n") for path, text in TEXTS.items()}
    assert len(lengths) > 100
    assert {path: length for path, length in lengths.items() if length > LONGEST_MODULE} == {}
    classes = {
        f"{path}: {node.name}": (node.end_lineno or 0) - node.lineno + 1
        for path, module in modules().items()
        for node in ast.walk(module)
        if isinstance(node, ast.ClassDef)
    }
    assert len(classes) > 100
    assert {name: length for name, length in classes.items() if length > LONGEST_CLASS} == {}
