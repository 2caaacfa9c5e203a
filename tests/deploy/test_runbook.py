"""In deploy/RUNBOOK.md, each alert has a section, and the commands, settings and metrics that a section names exist."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import asyncpg
import pytest
import typer.main

from tests.conftest import Start
from tests.deploy.promql import families, own_metrics, problems, rules
from tests.helpers.guide import anchor
from tests.helpers.prometheus import DEPLOY
from webhookd.admin.app import ROLES
from webhookd.cli.main import app
from webhookd.settings import describe

RUNBOOK = DEPLOY / "RUNBOOK.md"
TEXT = RUNBOOK.read_text()
ID = "01890a5d-ac96-774b-bcce-b302099a8057"
SECTIONS = dict(re.findall(r"^## ([^\n]+)\n(.*?)(?=^## |\Z)", TEXT, re.MULTILINE | re.DOTALL))
# Settings of the commands that ask the API, and of no daemon.
_OF_THE_COMMANDS = {"WEBHOOKD_API_URL", "WEBHOOKD_API_TOKEN", "WEBHOOKD_API_TOKEN_FILE"}


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", TEXT, re.MULTILINE | re.DOTALL)


def inline() -> list[str]:
    return re.findall(r"`([^`\n]+)`", re.sub(r"^```.*?^```$", "", TEXT, flags=re.MULTILINE | re.DOTALL))


def commands() -> Iterator[list[str]]:
    """Yields the words of every `webhookd …` command in the runbook."""
    lines = [line for block in blocks("sh") for line in block.splitlines()] + inline()
    for line in lines:
        if line.startswith("webhookd ") and "…" not in line:
            yield [ID if word == "ID" else word for word in shlex.split(line, comments=True)[1:]]


def test_each_alert_has_a_section_and_each_section_an_alert() -> None:
    alerts = [rule for rule in rules() if rule.alert]
    assert list(SECTIONS) == list(dict.fromkeys(rule.alert for rule in alerts)), "in the order of the rules"
    anchors = {anchor(title) for title in SECTIONS}
    for rule in alerts:
        path, _, fragment = rule.annotations["runbook_url"].partition("#")
        assert (DEPLOY.parent / path).samefile(RUNBOOK)
        assert fragment in anchors
    for fragment in re.findall(r"\]\(#([^)]+)\)", TEXT):
        assert fragment in anchors, f"a link to #{fragment}"
    for path in re.findall(r"\]\(([^#)][^)]*)\)", TEXT):
        assert (DEPLOY / path).exists(), path


@pytest.mark.parametrize("title", SECTIONS)
def test_a_section_says_what_it_means_what_to_do_and_when_it_ends(title: str) -> None:
    section = SECTIONS[title]
    for part in ("**For users:**", "**Look:**", "**Causes", "emedy:**", "**It ends**"):
        assert part in section, part
    told = re.findall(r"\*(page|ticket)\*?", section.partition("**For users:**")[0])
    assert set(told) == {rule.severity for rule in rules() if rule.alert == title}


@pytest.mark.parametrize("words", [*commands()], ids=" ".join)
def test_a_command_is_one_that_webhookd_understands(words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "body.json").touch()
    monkeypatch.chdir(tmp_path)
    command: Any = typer.main.get_command(app)
    while True:
        context = command.make_context("webhookd", list(words))  # fails if the command does not understand the words
        if not hasattr(command, "resolve_command"):
            break
        _, command, words = command.resolve_command(context, [*context._protected_args, *context.args])


def test_there_are_commands() -> None:
    told = {" ".join(words[:2]) for words in commands()}
    assert {"events list", "events show", "dead-letters redrive", "quarantine release", "doctor", "stats"} <= told


def test_every_metric_that_is_named_exists() -> None:
    known = families() | set(own_metrics())
    # `webhookd_away` is no metric: it is the outcome of a webhook that came at a shutdown.
    others = {"webhookd_away"}
    named = set(re.findall(r"\bwebhookd_\w+", TEXT))
    assert named - others - known == set()
    assert others <= named


@pytest.mark.parametrize("expression", [line for block in blocks("promql") for line in block.splitlines()])
def test_a_query_names_metrics_and_labels_that_there_are(expression: str) -> None:
    assert problems(expression, own_metrics()) == []


def test_every_setting_that_is_named_exists() -> None:
    known = {name for name, _, _ in describe()} | _OF_THE_COMMANDS
    assert set(re.findall(r"\bWEBHOOKD_[A-Z_]+(?:<NAME>[A-Z_]+)?", TEXT)) - known == set()


async def test_every_statement_of_sql_is_one(connection: asyncpg.Connection[asyncpg.Record]) -> None:
    assert blocks("sql")
    for statement in blocks("sql"):
        if statement.startswith("CALL"):
            await connection.execute(statement)
        else:
            await connection.fetch(statement)


async def test_every_path_that_is_named_is_served(start: Start) -> None:
    daemon = await start(roles="work")
    assert daemon.admin is not None
    served = {path for _, path in daemon.admin[ROLES]} | {"/webhooks/authorize-net"}
    told = {re.sub(r"^\w+://[^/]+", "", word) for text in [*inline(), *blocks("sh")] for word in text.split() if "://" in word}
    told |= {text for text in inline() if text.startswith("/")}
    assert {"/readyz", "/livez"} <= told
    assert told <= served


def test_what_the_log_is_said_to_hold_is_what_the_code_logs() -> None:
    code = "\n".join(file.read_text() for file in sorted((DEPLOY.parent / "webhookd").rglob("*.py")))
    for section in SECTIONS.values():
        for text in re.findall(r"[Tt]he log (?:has|tells) `([^`]+)`(?:, or `([^`]+)`)?", " ".join(section.split())):
            for message in filter(None, text):
                assert message in code, message
