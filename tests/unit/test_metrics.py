"""The metrics' names and labels are a contract with users, because dashboards and alerts depend on them."""

from __future__ import annotations

import math

from prometheus_client import generate_latest
from prometheus_client.openmetrics import exposition as openmetrics

from webhookd.operate.statistics import _buckets, bounds
from webhookd.telemetry.metrics import Metrics

CONTRACT = {
    "received_total": ("account", "outcome"),
    "ack_seconds": (),
    "commit_batch_size": (),
    "duplicates_total": ("layer",),
    "queue_depth": ("queue", "state"),
    "outbox_pending": (),
    "oldest_unfinished_seconds": (),
    "oldest_overdue_seconds": (),
    "in_flight": (),
    "processed_total": ("event_type", "outcome"),
    "retries_total": ("event_type",),
    "attempts": (),
    "handle_seconds": ("event_type",),
    "end_to_end_seconds": (),
    "dead_total": ("account", "reason"),
    "dependency_up": ("dependency",),
    "signature_key_last_used_timestamp_seconds": ("account", "key"),
}


def test_every_metric_of_the_contract_exists_with_its_labels() -> None:
    found = {
        collector._name + ("_total" if collector._type == "counter" else ""): collector._labelnames
        for collector in vars(Metrics()).values()
        if hasattr(collector, "_labelnames")
    }
    assert {f"webhookd_{name}": labels for name, labels in CONTRACT.items()}.items() <= found.items()
    assert all(name.startswith("webhookd_") for name in found)


def test_no_exposition_says_when_a_counter_began() -> None:
    metrics = Metrics()
    metrics.received.labels("default", "accepted").inc()
    metrics.ack_seconds.observe(0.1)
    newer = openmetrics.generate_latest(metrics.registry)  # type: ignore[no-untyped-call]
    for page in (generate_latest(metrics.registry), newer):
        assert b"webhookd_received_total" in page
        assert b"_created" not in page
    assert not [sample for family in metrics.registry.collect() for sample in family.samples if "_created" in sample.name]


def test_the_stored_buckets_have_the_places_of_the_release_before() -> None:
    metrics = Metrics()
    metrics.ack_seconds.observe(2.2)
    assert bounds(metrics.ack_seconds) == [
        0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, math.inf,
    ]  # fmt: skip
    assert _buckets(metrics.ack_seconds).index(1) == 10


def test_two_daemons_in_one_process_have_metrics_of_their_own() -> None:
    one, other = Metrics(), Metrics()
    one.outbox_pending.set(5)
    assert other.registry.get_sample_value("webhookd_outbox_pending") == 0
