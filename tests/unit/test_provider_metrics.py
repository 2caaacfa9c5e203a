"""The metrics of the provider's side are there while a replica asks for an account, and the alerts find them."""

from __future__ import annotations

import pytest
from prometheus_client import CollectorRegistry

from tests.deploy.promql import Selector, named, rules
from webhookd.telemetry.provider_metrics import ProviderMetrics

SELECTORS = sorted({one for rule in rules() if rule.group == "webhookd-provider" for one in named(rule.expression).selectors})


def series(registry: CollectorRegistry) -> list[tuple[str, dict[str, str], float]]:
    return [(one.name, one.labels, one.value) for family in registry.collect() for one in family.samples]


@pytest.fixture
def registry() -> CollectorRegistry:
    """Returns the metrics of a replica that has asked for an account, and has found its webhook inactive."""
    registry = CollectorRegistry()
    metrics = ProviderMetrics(registry)
    metrics.expect("default")
    gauges = (
        metrics.missing,
        metrics.unreadable,
        metrics.days_not_whole,
        metrics.days_not_reconciled,
        metrics.compared,
        metrics.subscriptions_not_reconciled,
    )
    for gauge in (*gauges, metrics.credentials_refused, metrics.swept, metrics.batches_open, metrics.reports_off):
        gauge.labels("default").set(1)
    metrics.note_webhook("default", "ok")
    metrics.note_webhook("default", "inactive")
    return registry


@pytest.mark.parametrize("selector", SELECTORS, ids=str)
def test_each_value_that_an_alert_asks_for_is_there(registry: CollectorRegistry, selector: Selector) -> None:
    for one in selector.alternatives():
        assert [name for name, labels, _ in series(registry) if name == one.name and all(m.fits(labels) for m in one.matchers)]


def test_a_webhook_has_one_state_at_a_time(registry: CollectorRegistry) -> None:
    states = {labels["state"]: value for name, labels, value in series(registry) if name == "webhookd_provider_webhook_state"}
    assert {state for state, value in states.items() if value} == {"inactive"}
    assert len(states) == 7


def test_a_replica_that_has_given_an_account_back_reports_nothing_of_it() -> None:
    registry = CollectorRegistry()
    metrics = ProviderMetrics(registry)
    metrics.expect("default")
    metrics.credentials_refused.labels("default").set(1)
    metrics.note_webhook("default", "missing")
    metrics.days_not_reconciled.labels("default").set(1)
    metrics.subscriptions_not_reconciled.labels("default").set(1)
    metrics.reconciled_days.labels("default", "green").set(1)
    metrics.forget("default")
    left = {name for name, _, _ in series(registry) if not name.endswith("_created")}
    assert left == {
        "webhookd_provider_calls_total",
        "webhookd_provider_recovered_total",
        "webhookd_provider_synthetic_events_total",
        "webhookd_provider_account_held",
    }
