"""The locks of the dependencies: the files deploy/requirements*.txt, which `make lock` writes."""

from __future__ import annotations

import re
from importlib.metadata import requires
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

DEPLOY = Path(__file__).parents[2] / "deploy"


def locked(file: str) -> dict[str, str]:
    """Returns the text of each package of a lock, from its name to its last hash, by name; several versions in one text."""
    found: dict[str, str] = {}
    for block in _blocks(file):
        name = canonicalize_name(re.split(r"[=\[ ]", block)[0])
        found[name] = f"{found[name]}\n{block}" if name in found else block
    return found


def locked_here(file: str) -> set[str]:
    """Returns the names of the packages that a lock has for this platform and this Python."""
    heads = [Requirement(block.partition("\\")[0]) for block in _blocks(file)]
    return {canonicalize_name(head.name) for head in heads if head.marker is None or head.marker.evaluate()}


def _blocks(file: str) -> list[str]:
    return re.findall(r"^\S[^\n]*(?:\n {4}[^\n]*)*", (DEPLOY / file).read_text(), re.MULTILINE)


def needed(requirements: list[str]) -> set[str]:
    """Returns the names of all packages that the requirements need here, by the metadata of the installed packages."""
    waiting = [Requirement(text) for text in requirements]
    seen: set[tuple[str, str]] = set()
    while waiting:
        one = waiting.pop()
        name = canonicalize_name(one.name)
        for extra in {"", *one.extras} if one.marker is None or one.marker.evaluate() else ():
            if (name, extra) not in seen:
                seen.add((name, extra))
                waiting += [found for text in requires(name) or () if _applies(found := Requirement(text), extra)]
    return {name for name, _ in seen}


def _applies(requirement: Requirement, extra: str) -> bool:
    """Returns whether a package with this `extra` has the requirement, and takes the marker off it, which is then decided."""
    applies = requirement.marker is None or requirement.marker.evaluate({"extra": extra})
    requirement.marker = None
    return applies
