"""The README's settings, figures and commands are true. tests/integration/test_work.py runs its handler."""

from __future__ import annotations

import re

import pytest
from typer.testing import CliRunner

from tests.helpers.readme import MADE, README, written
from webhookd.cli.main import app

TEXT = README.read_text()
COMMANDS = "\n".join(re.findall(r"```sh\n(.+?)```", TEXT, re.DOTALL))


@pytest.mark.parametrize("part", MADE)
def test_what_is_made_is_as_it_would_be_made_now(part: str) -> None:
    """The settings are made from the code, the figures from the results of the last bench."""
    assert written(part) == MADE[part](), "run: .venv/bin/python -m tests.helpers.readme"


def test_every_webhookd_command_and_option_exists() -> None:
    found = re.findall(r"^(?:\w+=\S+ )*(?:\.venv/bin/)?webhookd ([\w-]+(?: [a-z]+\b)?)([^#\n]*)", COMMANDS, re.MULTILINE)
    assert {command for command, _ in found} >= {"serve", "migrate", "dev", "doctor", "dead-letters redrive"}
    for command, rest in found:
        # A wide terminal, so that the help's table cuts no option.
        help_ = CliRunner().invoke(app, [*command.split(), "--help"], env={"COLUMNS": "200", "NO_COLOR": "1"})
        assert help_.exit_code == 0, command
        for option in re.findall(r"--[a-z-]+", rest):
            assert option in help_.output, f"{command} {option}"


def test_every_make_target_exists() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (README.parent / "Makefile").read_text(), re.MULTILINE))
    assert set(re.findall(r"^make (\w+)", COMMANDS, re.MULTILINE)) <= targets
