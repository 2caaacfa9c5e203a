"""The hooks of pre-commit are the checks of `make lint`, with the programs of the virtual environment."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import yaml

ROOT = Path(__file__).parents[2]
CONFIGURATION = ROOT / ".pre-commit-config.yaml"
HOOKS = [hook for repository in yaml.safe_load(CONFIGURATION.read_text())["repos"] for hook in repository["hooks"]]


def test_every_hook_is_local_and_runs_a_locked_program() -> None:
    assert {repository["repo"] for repository in yaml.safe_load(CONFIGURATION.read_text())["repos"]} == {"local"}
    for hook in HOOKS:
        folder, _, program = hook["entry"].split()[0].rpartition("/")
        assert (folder, hook["language"]) == (".venv/bin", "system"), hook["id"]
        assert Path(sys.executable).with_name(program).exists(), hook["id"]


def test_the_hooks_check_what_make_lint_checks() -> None:
    recipe = (ROOT / "Makefile").read_text().partition("\nlint:")[2].partition("\n\n")[0]
    lint = set(re.findall(r"\$\(BIN\)/(\w[\w-]*(?: (?:check|format))?)", recipe))
    assert len(lint) == 5
    assert lint <= {" ".join(hook["entry"].removeprefix(".venv/bin/").split()[:2]).partition(" --")[0] for hook in HOOKS}
