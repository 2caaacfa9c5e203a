"""A release: the wheel is the same from each build, and the bill of materials has every locked package."""

from __future__ import annotations

import ast
import json
import os
import re
import shutil
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest

from tests.helpers.guide import ROOT
from tests.helpers.locks import locked

PARTS = ("webhookd", "sql", "pyproject.toml", "README.md", "LICENSE")


def _sources(folder: Path) -> Path:
    folder.mkdir()
    for name in PARTS:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(ROOT / name, folder / name)
    return folder


def _wheel(folder: Path, *command: str) -> bytes:
    program = [sys.executable, "-m", *command]
    done = subprocess.run(program, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    assert done.returncode == 0, done.stdout
    (wheel,) = (folder / "dist").glob("*.whl")
    return wheel.read_bytes()


def test_two_builds_of_the_wheel_are_the_same_bytes(tmp_path: Path) -> None:
    one, other = _sources(tmp_path / "one"), _sources(tmp_path / "another-folder")
    for path in other.rglob("*"):  # another clone has other times, and perhaps other rights
        os.utime(path, (1_000_000_000, 1_000_000_000))
        path.chmod(path.stat().st_mode & ~0o077)
    made = _wheel(one, "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "--wheel-dir", "dist", ".")
    assert made == _wheel(other, "hatchling", "build", "--target", "wheel")  # as deploy/Dockerfile makes the wheel


@pytest.fixture
def bill(tmp_path: Path) -> Path:
    """Returns the bill of materials that `make sbom` writes."""
    pytest.importorskip("cyclonedx_py", reason="cyclonedx-bom is not installed; make setup")
    recipe = subprocess.run(["make", "--dry-run", "sbom"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    (command,) = re.findall(r"python (-W .+ -m cyclonedx_py .+)", recipe)
    target = tmp_path / "bill.json"
    words = [str(target) if word.endswith(".cdx.json") else word for word in command.split()]
    subprocess.run([sys.executable, *words], cwd=ROOT, check=True, capture_output=True)
    return target


def test_the_bill_of_materials_has_every_locked_package(bill: Path) -> None:
    made = json.loads(bill.read_text())
    assert made["bomFormat"] == "CycloneDX"
    subject = made["metadata"]["component"]
    assert (subject["name"], subject["version"]) == ("webhookd", version("webhookd"))
    listed = {of["name"]: of for of in made["components"]}
    wanted = locked("requirements.txt")
    assert listed.keys() == wanted.keys()
    for name, block in wanted.items():
        of = listed[name]
        assert of["version"] in re.findall(r"==([^ ;]+)", block)
        assert of["purl"] == f"pkg:pypi/{name}@{of['version']}"
        hashes = {one["content"] for reference in of["externalReferences"] for one in reference.get("hashes", ())}
        assert hashes == set(re.findall(r"sha256:(\w+)", block))
    # Two bills of one lock are the same: nothing in them is random, or a time.
    assert "serialNumber" not in made
    assert "timestamp" not in made["metadata"]


def test_no_part_that_serves_makes_temporary_files() -> None:
    # The image has no folder to write to. test_container.py runs a whole container so.
    for path in (ROOT / "webhookd").rglob("*.py"):
        if not {"dev", "testing"} & set(path.relative_to(ROOT / "webhookd").parts):
            imports = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Import | ast.ImportFrom)]
            names = {alias.name for node in imports for alias in node.names}
            names |= {node.module for node in imports if isinstance(node, ast.ImportFrom) and node.module}
            assert "tempfile" not in names, path
