"""CONTRIBUTING.md names files, names in them, and make targets that exist."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "CONTRIBUTING.md").read_text()
_PATH = r"(?:\.ci|webhookd|sql|tests|deploy)/[\w./-]*|\w+\.(?:md|toml)"
# The names that one file holds: "`A`, `B` or `C` in `path`".
_NAMES = rf"((?:`[\w.]+`(?:,|,? or|,? and)\s+)*`[\w.]+`),?\s+in\s+`({_PATH})`"


def test_every_path_exists() -> None:
    paths = sorted(set(re.findall(rf"[`(' =]({_PATH})(?=[`)' ])", TEXT)))
    assert len(paths) > 60
    assert [path for path in paths if not (ROOT / path).exists()] == []


def test_every_name_stands_in_the_file_that_is_given() -> None:
    found = [(name, path) for names, path in re.findall(_NAMES, TEXT) for name in re.findall(r"`([\w.]+)`", names)]
    assert len(found) > 25
    absent = [(name, path) for name, path in found if not re.search(rf"\b{re.escape(name)}\b", (ROOT / path).read_text())]
    assert absent == []


def test_every_make_target_exists() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    named = set(re.findall(r"(?:`|^|   )make ([a-z-]+)", TEXT, re.MULTILINE))
    assert len(named) > 8
    assert named <= targets
