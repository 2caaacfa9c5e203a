"""Each alert on a merchant's traffic is shown to fire, and not to fire, for 20 events a day and for 50 a second.

promtool runs the tests themselves in test_prometheus.py.
"""

from __future__ import annotations

import re
from collections import defaultdict
from dataclasses import dataclass, field

import pytest
import yaml

from tests.deploy.promql import EXPORTERS, named, rules
from tests.helpers.prometheus import RULES

FILES = sorted(RULES.parent.glob("webhookd.rules.merchants*.test.yml"))
# Metrics that are the same however many webhooks come. An alert on these alone needs no cases of the two merchants.
STEADY = {
    "up",
    "process_start_time_seconds",
    "webhookd_admin_refused_total",
    "webhookd_circuit_open",
    "webhookd_clock_ahead_seconds",
    "webhookd_default_partition_bytes",
    "webhookd_dependency_up",
    "webhookd_loop_lag_seconds",
    "webhookd_partitions_ahead_seconds",
    "webhookd_provider_compared_timestamp_seconds",
    "webhookd_provider_credentials_refused",
    "webhookd_provider_webhook_state",
    "webhookd_queue_unfit",
    "webhookd_reloads_total",
    "webhookd_replication_lag_seconds",
    "webhookd_retention_failures_total",
    "webhookd_retention_last_success_timestamp_seconds",
    "webhookd_standbys",
    "webhookd_tls_certificate_expiry_timestamp_seconds",
    *EXPORTERS,
}
# Alerts that a small merchant never gets, since they compare many events. For each: the small merchant with the same trouble,
# and the alert that this merchant gets.
INSTEAD = {
    "WebhookdAcknowledgementsSlow": ("small-acknowledges-slowly", "WebhookdObjectiveMissed"),
    "WebhookdEventsSlow": ("small-late", "WebhookdObjectiveMissed"),
    "WebhookdOutboxGrowing": ("small-sqs-away", "WebhookdOutboxStuck"),
    "WebhookdRetryStorm": ("small-handlers-fail", "WebhookdDeadEvents"),
}


@dataclass
class Merchant:
    """A namespace of the tests: the metrics that it has, and the alerts that fire for it at some time."""

    metrics: set[str] = field(default_factory=set)
    alerts: set[str] = field(default_factory=set)


def merchants() -> dict[tuple[str, str], Merchant]:
    """Returns the merchants by the name of their test and their namespace."""
    found: dict[tuple[str, str], Merchant] = defaultdict(Merchant)
    for test in (test for file in FILES for test in yaml.safe_load(file.read_text())["tests"]):
        for series in test["input_series"]:
            name, labels = re.fullmatch(r"(\w+)\{(.*)\}", series["series"]).groups()  # type: ignore[union-attr]
            if namespace := re.search(r'namespace="([^"]+)"', labels):
                found[test["name"], namespace[1]].metrics.add(name)
        for case in test.get("alert_rule_test", ()):
            for one in case.get("exp_alerts", ()):
                found[test["name"], one["exp_labels"]["namespace"]].alerts.add(case["alertname"])
        for case in test.get("promql_expr_test", ()):
            assert 'ALERTS{alertstate="firing"}' in case["expr"]
            for sample in case.get("exp_samples", ()):
                labels = dict(re.findall(r'(\w+)="([^"]*)"', sample["labels"]))
                found[test["name"], labels["namespace"]].alerts.add(labels["alertname"])
    return found


def metrics_of(alert: str) -> set[str]:
    """Returns the metrics that the rules of an alert read, also by way of recording rules."""
    expressions = [rule.expression for rule in rules() if rule.alert == alert]
    found: set[str] = set()
    while expressions:
        for name in {selector.name for selector in named(expressions.pop()).selectors} - found:
            found.add(name)
            expressions += [rule.expression for rule in rules() if rule.record == name]
    return {name for name in found if ":" not in name}


MERCHANTS = merchants()
ALERTS = sorted({rule.alert for rule in rules() if rule.alert and metrics_of(rule.alert) - STEADY})


def test_the_alerts_on_traffic_are_known() -> None:
    assert {"WebhookdDeadEvents", "WebhookdNoWebhooks", "WebhookdObjectiveMissed", "WebhookdDeliveriesWaiting"} <= set(ALERTS)
    assert not {"WebhookdDown", "WebhookdRetentionStale", "WebhookdDiskFills"} & set(ALERTS)
    assert {name for _, name in MERCHANTS if not name.startswith(("small", "large", "new"))} == set()
    assert set(INSTEAD) <= set(ALERTS)


@pytest.mark.parametrize("size", ["small", "large"])
@pytest.mark.parametrize("alert", ALERTS)
def test_an_alert_fires_and_does_not_fire_for_each_merchant(alert: str, size: str) -> None:
    read = metrics_of(alert) - STEADY
    concerned = {key: one for key, one in MERCHANTS.items() if key[1].startswith(size) and one.metrics & read}
    firing = {key for key, one in concerned.items() if alert in one.alerts}
    assert set(concerned) - firing, f"no {size} merchant for which {alert} must not fire"
    if size == "small" and alert in INSTEAD:
        name, other = INSTEAD[alert]
        assert not firing
        assert [other in one.alerts for (_, namespace), one in concerned.items() if namespace == name] == [True]
    else:
        assert firing, f"no {size} merchant for which {alert} must fire"
