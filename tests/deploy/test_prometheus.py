"""promtool accepts deploy/prometheus, and a real Prometheus scrapes a real daemon and sees the daemon fail."""

from __future__ import annotations

import asyncio
import json
import shutil
import subprocess
import urllib.request
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.deploy.conftest import Observed, Page
from tests.deploy.promql import Rule, Selector, named, own_metrics, problems, recorded, rules
from tests.helpers.guide import GUIDE, blocks
from tests.helpers.prometheus import CONFIGURATION, RULES, needs_prometheus, promtool
from tests.helpers.readme import runbook_url
from tests.helpers.wait import until

pytestmark = [needs_prometheus, pytest.mark.xdist_group("prometheus")]
UNIT_TESTS = sorted(RULES.parent.glob("*.test.yml"))
ALERTS = [rule for rule in rules() if rule.alert]


def unit_tests() -> list[dict[str, Any]]:
    return [group for file in UNIT_TESTS for group in yaml.safe_load(file.read_text())["tests"]]


def test_the_configuration_and_the_rules_are_valid() -> None:
    assert not promtool("check", "config", "--lint=all", "--lint-fatal", CONFIGURATION)


@pytest.mark.parametrize("file", UNIT_TESTS, ids=lambda file: str(file.name))
def test_the_unit_tests_of_the_rules_pass(file: Path) -> None:
    assert not promtool("test", "rules", file)


def test_each_alert_is_shown_to_fire_and_not_to_fire_just_below_its_threshold() -> None:
    fired: set[tuple[str, str]] = set()
    quiet: set[str] = set()
    for group in unit_tests():
        for case in group.get("alert_rule_test", ()):
            found = [one["exp_labels"] for one in case.get("exp_alerts", ())]
            fired |= {(case["alertname"], labels["severity"]) for labels in found}
            namespaces = {
                part
                for series in group.get("input_series", ())
                for part in ("over", "under")
                if f'"{part}"' in series["series"]
            }
            assert all(labels.get("namespace") != "under" for labels in found), case
            if found and namespaces == {"over", "under"}:
                quiet.add(case["alertname"])
    assert fired == {(rule.alert, rule.severity) for rule in ALERTS}
    assert quiet == {rule.alert for rule in ALERTS}


def test_each_alert_says_what_whom_and_where_to_read_on() -> None:
    for rule in ALERTS:
        assert rule.severity in ("page", "ticket"), rule
        assert set(rule.annotations) == {"summary", "description", "runbook_url"}, rule
        section = runbook_url(rule.alert.lower())
        assert rule.annotations["runbook_url"] == section, "run: .venv/bin/python -m tests.helpers.readme"


def addressed(rules_file: dict[str, Any]) -> list[Any]:
    """Returns the groups of a file of rules, with the address of the guide's example in each `runbook_url`."""
    text = json.dumps(rules_file["groups"])
    assert text.count("http://webhookd.example.internal:9090/guide/") == len(ALERTS)
    changed: list[Any] = json.loads(text.replace("http://webhookd.example.internal:9090", "https://ops.example.com"))
    return changed


def test_the_guides_commands_put_an_address_into_the_rules_and_make_a_prometheusrule(tmp_path: Path) -> None:
    plain, operator = blocks((GUIDE / "deploy.md").read_text(), "sh")
    shutil.copytree(RULES.parent, tmp_path / "deploy" / "prometheus")
    for commands in (plain.replace("/etc/prometheus/", ""), operator.replace("kubectl ", "echo ")):
        subprocess.run(["bash", "-euc", commands], cwd=tmp_path, check=True, stdout=subprocess.DEVNULL)
    expected = addressed(yaml.safe_load(RULES.read_text()))
    assert yaml.safe_load((tmp_path / "webhookd.rules.yml").read_text())["groups"] == expected
    resource = yaml.safe_load((tmp_path / "webhookd-alerts.yaml").read_text())
    assert resource == {
        "apiVersion": "monitoring.coreos.com/v1",
        "kind": "PrometheusRule",
        "metadata": {"name": "webhookd"},
        "spec": {"groups": expected},
    }


@pytest.mark.parametrize("rule", rules(), ids=lambda rule: str(rule.alert or rule.record))
def test_a_rule_names_metrics_and_labels_that_there_are(rule: Rule) -> None:
    assert problems(rule.expression, {**own_metrics(), **recorded()}) == []


def test_the_page_needs_no_token_and_has_no_timestamps(observed: Observed) -> None:
    with urllib.request.urlopen(f"{observed.daemon.admin_url}/metrics", timeout=10) as answer:
        lines = [line for line in answer.read().decode().splitlines() if not line.startswith("#")]
    assert lines
    # Each line has a name, labels if the metric has some, and a value; a timestamp would be one more word.
    assert all(line.rpartition("}")[2].split()[1:] == [] or "}" not in line for line in lines)
    assert all(len(line.split()) == 2 for line in lines if "{" not in line)


def test_prometheus_takes_the_page_but_for_what_nobody_asks_for(observed: Observed) -> None:
    [target] = observed.prometheus.get("targets")["activeTargets"]
    assert (target["health"], target["lastError"]) == ("up", "")
    names = observed.prometheus.values("__name__", '{job="webhookd"}')
    assert "webhookd_received_total" in names
    assert not [name for name in names if name.endswith("_created")]
    [held] = observed.prometheus.query('scrape_samples_post_metric_relabeling{job="webhookd"}')
    assert held.value < 1000, "series of one replica"


def test_every_rule_is_evaluated_without_an_error(observed: Observed) -> None:
    evaluated = observed.prometheus.rules()
    assert sorted(rule["name"] for rule in evaluated) == sorted(rule.alert or rule.record for rule in rules())
    assert {rule["name"]: rule["lastError"] for rule in evaluated if rule.get("lastError") or rule["health"] != "ok"} == {}


@pytest.mark.parametrize("name", sorted(recorded()))
def test_every_recording_rule_has_data(observed: Observed, name: str) -> None:
    found = observed.query(name)
    assert found
    for one in found:
        assert one.labels["namespace"] == "tests"
        assert set(one.labels) - {"__name__"} == recorded()[name]


# test_exporters.py looks at the other exporters, and tests/unit/test_provider_metrics.py at the provider's side.
ELSEWHERE = ("webhookd-surroundings",)
SELECTORS = {one for rule in rules() if rule.group not in ELSEWHERE for one in named(rule.expression).selectors}


@pytest.mark.parametrize("selector", sorted(SELECTORS), ids=str)
def test_every_value_of_a_label_that_a_rule_asks_for_is_one(observed: Observed, selector: Selector) -> None:
    empty = [str(one) for one in selector.alternatives() if not observed.prometheus.get("query", query=str(one))["result"]]
    assert empty == []


def test_what_an_alert_counts_is_there_before_it_counts(observed: Observed) -> None:
    """If a counter first appears with 1, Prometheus sees no increase: the first dead event would go unnoticed."""

    def series(page: Page, selector: Selector) -> set[frozenset[tuple[str, str]]]:
        fitting = {labels for name, labels in page if name == selector.name}
        return {labels for labels in fitting if all(one.fits({"job": "webhookd", **dict(labels)}) for one in selector.matchers)}

    counters = {one for rule in rules() for one in named(rule.expression).selectors if one.name.endswith("_total")}
    assert len(counters) > 10
    assert [str(one) for selector in counters for one in selector.alternatives() if not series(observed.start, one)] == []
    now = asyncio.run(observed.daemon.metrics())
    assert {str(one): late for one in counters if (late := series(now, one) - series(observed.start, one))} == {}
    accounts = {dict(labels)["account"] for labels in series(observed.start, Selector("webhookd_received_total"))}
    assert accounts == {"default", "unknown"}


def test_a_replica_that_does_not_answer_is_seen(observed: Observed) -> None:
    assert "WebhookdDown" in observed.before
    assert "WebhookdDown" not in observed.prometheus.firing()


def test_the_first_dead_event_and_other_faults_are_seen(observed: Observed) -> None:
    for alert in ("WebhookdDeadEvents", "WebhookdBodyMismatch", "WebhookdDeliveriesDead"):
        observed.prometheus.fires(alert)


def test_postgresql_away_is_seen_and_that_it_is_back(observed: Observed) -> None:
    prometheus = observed.prometheus
    quiet = {"WebhookdPostgreSQLDown", "WebhookdAnswers503", "WebhookdRedisDown"}
    assert not quiet & prometheus.firing()
    observed.admit(connections=False)
    try:
        for _ in range(10):
            asyncio.run(until(observed.put_off, "a webhook is put off", deadline=30))
        prometheus.fires("WebhookdPostgreSQLDown")
        prometheus.fires("WebhookdAnswers503")
        assert "WebhookdRedisDown" not in prometheus.firing()
    finally:
        observed.admit(connections=True)
    prometheus.ends("WebhookdPostgreSQLDown")
    prometheus.scraped(2)  # so that other tests find the former state
