"""The README and the guide are true and complete: their tables, links and commands, and the names in them.

Other tests run what stands there. In tests/integration, test_work.py runs the handlers, test_testing_fixtures.py their tests,
test_operator_commands.py and test_dead_letters.py the operators' commands, test_guide_statements.py the SQL and the backup,
test_guide_move.py, test_guide_without_aws.py and test_simulate.py the pages of these names. tests/acceptance/test_dev.py runs
`webhookd dev` with a handler and the page of the laptop, tests/deploy/test_guide_metrics.py the queries, .ci/run `make run` and
the line after it.
"""

from __future__ import annotations

import functools
import re
from pathlib import Path
from typing import Any

import pytest
import typer
import typer.main

from tests.deploy.promql import families, own_metrics, problems
from tests.helpers.guide import GUIDE, INDEX, PAGES, README, ROOT, anchors, commands, links, readable, shell_lines
from tests.helpers.metrics_page import QUERIES
from tests.helpers.readme import MADE, written
from webhookd.cli.main import app
from webhookd.settings import describe

TEXT = readable()
LINKING = [
    README,
    *PAGES,
    *sorted((ROOT / "deploy").glob("*.md")),
    *(ROOT / "webhookd" / "README.md", ROOT / "CHANGELOG.md", ROOT / "sql" / "migrations" / "README.md"),
    *(ROOT / "tests" / "bench" / "NOTES.md", *sorted((ROOT / "tests").glob("*/README.md"))),
]
ID = "01890a5d-ac96-774b-bcce-b302099a8057"
# Settings of the commands that ask the API, and of users' tests: no daemon has them.
_OF_NO_DAEMON = {"WEBHOOKD_API_URL", "WEBHOOKD_API_TOKEN", "WEBHOOKD_API_TOKEN_FILE", "WEBHOOKD_TEST_DATABASE_URL"}


@pytest.mark.parametrize("name", MADE)
def test_what_is_made_is_as_it_would_be_made_now(name: str) -> None:
    """The settings, metrics and alerts are made from the code and the rules, the figures from the results of the last bench."""
    assert written(name) == MADE[name].make(), "run: .venv/bin/python -m tests.helpers.readme"


def test_the_readme_is_short_and_so_is_each_page_of_the_guide() -> None:
    assert len(README.read_text().splitlines()) <= 150
    for page in PAGES:
        assert len(page.read_text().splitlines()) <= 150, page.name
        assert re.fullmatch(r"[a-z]+(-[a-z]+)*\.md", page.name), page.name


def test_the_index_lists_every_page_by_its_title_and_says_what_is_in_it() -> None:
    listed = re.findall(r"^- \[([^\]]+)\]\(([a-z-]+\.md)\): (.+)\.$", INDEX.read_text(), re.MULTILINE)
    assert [path for _, path, _ in listed] == [link.path for link in links(INDEX.read_text())], "one line for each link"
    assert sorted(path for _, path, _ in listed) == sorted(page.name for page in PAGES if page != INDEX)
    for title, path, _ in listed:
        assert (GUIDE / path).read_text().startswith(f"# {title}\n"), path


@pytest.mark.parametrize("page", LINKING, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_leads_to_a_file_and_to_a_heading(page: Path) -> None:
    for link in links(page.read_text()):
        target = (page.parent / link.path).resolve() if link.path else page
        assert target.exists(), f"[{link.text}]({link.path})"
        assert target.is_relative_to(ROOT), f"[{link.text}]({link.path}) leads out of the repository"
        if link.anchor:
            assert link.anchor in anchors(target.read_text()), f"[{link.text}]({link.path}#{link.anchor})"


def test_the_links_are_read() -> None:
    assert sum(len(list(links(page.read_text()))) for page in LINKING) > 150
    assert any(link.anchor for page in PAGES for link in links(page.read_text()))


@functools.cache
def _program() -> Any:
    return typer.main.get_command(app)


@pytest.mark.parametrize("words", commands(), ids=" ".join)
def test_every_webhookd_command_is_understood(words: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("body.json", "old.csv", "processed.csv", "open.csv"):
        (tmp_path / name).touch()
    monkeypatch.chdir(tmp_path)
    command: Any = _program()
    words = words[: words.index("<")] if "<" in words else words  # the shell reads what follows
    left = [ID if word == "ID" else word for word in words]
    while True:
        try:
            context = command.make_context("webhookd", left)  # fails if the command does not understand the words
        except typer.Exit as ended:  # the command's help was asked for
            assert ended.exit_code == 0  # noqa: PT017
            break
        if not hasattr(command, "resolve_command"):
            break
        rest = [*context._protected_args, *context.args]
        if not rest and command.invoke_without_command:  # a group that is a command, too
            break
        _, command, left = command.resolve_command(context, rest)


def test_there_are_commands() -> None:
    told = {" ".join(words[:2]) for words in commands()}
    assert {"serve", "dev", "doctor", "migrate --check", "trigger all", "dead-letters redrive", "timeline transaction"} <= told
    assert {"events list", "events show", "quarantine release", "stats"} <= told


def test_every_make_target_exists() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    named = set(re.findall(r"^make (\w+)", "\n".join(shell_lines()), re.MULTILINE))
    named |= set(re.findall(r"`make (\w+)`", TEXT))
    assert {"run", "test", "bench"} <= named <= targets


def test_every_setting_that_is_named_exists() -> None:
    known = {name for name, _, _ in describe()} | _OF_NO_DAEMON
    text = TEXT.replace("ALERTS__OPS__", "ALERTS__<NAME>__").replace("__SHOP__", "__<NAME>__")
    named = set(re.findall(r"\bWEBHOOKD_[A-Z_]+(?:<NAME>[A-Z_]+)?", text))
    assert {name for name in named if name not in known and name.removesuffix("_FILE") not in known} - _OF_NO_DAEMON == set()
    assert named > known - {"WEBHOOKD_CONFIG"}


def test_every_metric_that_is_named_exists() -> None:
    known = families() | set(own_metrics())
    # The outcome of a webhook that came at a shutdown, a credential of systemd, and fixtures of users' tests.
    others = {"webhookd_away", "webhookd_database_url", "webhookd_database_schema", "webhookd_handlers"}
    named = set(re.findall(r"\bwebhookd_\w+", TEXT))
    assert named - others - known == set()
    assert others <= named


def test_each_metric_has_a_query_that_uses_it_and_names_labels_that_there_are() -> None:
    assert set(QUERIES) == families()
    for name, query in QUERIES.items():
        assert re.search(rf"\b{name}(_bucket|_sum|_count)?\b", query), name
        assert problems(query, own_metrics()) == [], name
