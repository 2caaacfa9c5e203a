"""Each alert has a section in the guide's runbook, and the queries, paths and log lines that a section names exist.

tests/unit/test_readme.py checks the commands, settings, metrics and links of all pages. In tests/integration,
test_guide_statements.py runs their SQL, and test_operator_commands.py and test_dead_letters.py their commands.
"""

from __future__ import annotations

import re

import pytest

from tests.conftest import Start
from tests.deploy.promql import own_metrics, problems, rules
from tests.helpers.guide import GUIDE, ROOT, RUNBOOK, anchor, blocks, prose, runbook_pages
from webhookd.admin.app import ROLES

TEXT = "\n".join(page.read_text() for page in (GUIDE / "runbook.md", *RUNBOOK))
SECTIONS = {
    title: text
    for page in RUNBOOK
    for title, text in re.findall(r"^## ([^\n]+)\n(.*?)(?=^## |\Z)", page.read_text(), re.MULTILINE | re.DOTALL)
}
ALERTS = list(dict.fromkeys(rule.alert for rule in rules() if rule.alert))  # in the order of the rules


def inline() -> list[str]:
    return re.findall(r"`([^`\n]+)`", prose(TEXT))


def test_each_alert_has_one_section_and_each_section_an_alert() -> None:
    titles = [title for page in RUNBOOK for title in re.findall(r"^## (.+)$", page.read_text(), re.MULTILINE)]
    assert sorted(titles) == sorted(ALERTS)
    for page in RUNBOOK:
        here = [title for title in titles if runbook_pages()[anchor(title)] == page]
        assert here == sorted(here, key=ALERTS.index), f"{page.name}: in the order of the rules"
    for rule in rules():
        if rule.alert:
            assert rule.annotations["runbook_url"].partition("#")[2] == anchor(rule.alert)


@pytest.mark.parametrize("title", SECTIONS)
def test_a_section_says_what_it_means_what_to_do_and_when_it_ends(title: str) -> None:
    section = SECTIONS[title]
    for part in ("**For users:**", "**Look:**", "**Causes", "emedy:**", "**It ends**"):
        assert part in section, part
    told = re.findall(r"\*(page|ticket)\*?", section.partition("**For users:**")[0])
    assert set(told) == {rule.severity for rule in rules() if rule.alert == title}


@pytest.mark.parametrize("expression", [line for block in blocks(TEXT, "promql") for line in block.splitlines()])
def test_a_query_names_metrics_and_labels_that_there_are(expression: str) -> None:
    assert problems(expression, own_metrics()) == []


async def test_every_path_that_is_named_is_served(start: Start) -> None:
    daemon = await start(roles="work")
    assert daemon.admin is not None
    served = {path for _, path in daemon.admin[ROLES]} | {"/webhooks/authorize-net"}
    words = [word for text in (*inline(), *blocks(TEXT, "sh")) for word in text.split()]
    told = {re.sub(r"^\w+://[^/]+", "", word) for word in words if "://" in word}
    told |= {text for text in inline() if text.startswith("/") and not text.startswith("/usr/")}
    assert {"/readyz", "/livez"} <= told
    assert told <= served


def test_what_the_log_is_said_to_hold_is_what_the_code_logs() -> None:
    code = "\n".join(file.read_text() for file in sorted((ROOT / "webhookd").rglob("*.py")))
    for section in SECTIONS.values():
        for text in re.findall(r"[Tt]he log (?:has|tells) `([^`]+)`(?:, or `([^`]+)`)?", " ".join(section.split())):
            for message in filter(None, text):
                assert message in code, message
