"""All locks come from one resolution. Each has what its purpose needs, and no package more."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

from tests.helpers.locks import locked, locked_here, needed

PROJECT = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())
CORE: list[str] = PROJECT["project"]["dependencies"]
EXTRAS: dict[str, list[str]] = PROJECT["project"]["optional-dependencies"]
# Each lock, and the requirements that it is for.
WANTED = {
    "requirements.txt": CORE,
    "requirements-run.txt": [*CORE, *EXTRAS["dev"]],
    "requirements-build.txt": PROJECT["build-system"]["requires"],
    "requirements-uv.txt": ["uv"],
    "requirements-dev.txt": [*CORE, *EXTRAS["dev"], *EXTRAS["tracing"], *PROJECT["dependency-groups"]["test"]],
}


@pytest.mark.parametrize("file", WANTED)
def test_a_lock_has_what_is_needed_and_no_package_more(file: str) -> None:
    assert locked_here(file) == needed(WANTED[file])


@pytest.mark.parametrize("file", WANTED.keys() - {"requirements-dev.txt"})
def test_a_lock_has_the_versions_and_hashes_with_which_the_tests_run(file: str) -> None:
    own, everything = locked(file), locked("requirements-dev.txt")
    assert {name: _pins(block) for name, block in own.items()} == {name: _pins(everything[name]) for name in own}


def _pins(block: str) -> set[str]:
    """Returns the versions and hashes of a package. Markers differ: a lock asks only what its own packages ask."""
    return set(re.findall(r"==[^ ;]+|sha256:\w+", block))
