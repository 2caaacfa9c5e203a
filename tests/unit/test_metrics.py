"""The metrics' names and labels are a contract with users, because dashboards and alerts depend on them."""

from __future__ import annotations

from webhookd.telemetry.metrics import Metrics

CONTRACT = {
    "received_total": ("account", "outcome"),
    "ack_seconds": (),
    "commit_batch_size": (),
    "duplicates_total": ("layer",),
    "queue_depth": ("queue", "state"),
    "outbox_pending": (),
    "oldest_unfinished_seconds": (),
    "in_flight": (),
    "processed_total": ("event_type", "outcome"),
    "retries_total": ("event_type",),
    "attempts": (),
    "handle_seconds": ("event_type",),
    "end_to_end_seconds": (),
    "dead_total": ("reason",),
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


def test_two_daemons_in_one_process_have_metrics_of_their_own() -> None:
    one, other = Metrics(), Metrics()
    one.outbox_pending.set(5)
    assert other.registry.get_sample_value("webhookd_outbox_pending") == 0
