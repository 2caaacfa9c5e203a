"""The guide's table of metrics, made from the code. Each metric has a query that a person would ask."""

from __future__ import annotations

from tests.deploy.promql import own_metrics
from webhookd.telemetry.metrics import Metrics

# A query for each metric. Queries of the database's own values use max, since every replica reports the same value.
QUERIES = {
    "webhookd_alert_messages_total": "sum by (outcome) (increase(webhookd_alert_messages_total[1d]))",
    "webhookd_received_total": "sum by (outcome) (rate(webhookd_received_total[5m]))",
    "webhookd_refused_samples_total": "sum by (outcome) (increase(webhookd_refused_samples_total[1d]))",
    "webhookd_accepted_total": "sum by (event_type) (rate(webhookd_accepted_total[5m]))",
    "webhookd_ack_seconds": "histogram_quantile(0.99, sum by (le) (rate(webhookd_ack_seconds_bucket[5m])))",
    "webhookd_clock_ahead_seconds": "max(abs(webhookd_clock_ahead_seconds))",
    "webhookd_loop_lag_seconds": "max by (instance) (webhookd_loop_lag_seconds)",
    "webhookd_shedding": "avg_over_time(webhookd_shedding[5m])",
    "webhookd_connections": "sum(webhookd_connections)",
    "webhookd_open_requests": "sum(webhookd_open_requests)",
    "webhookd_connections_closed_total": "sum by (reason) (rate(webhookd_connections_closed_total[5m]))",
    "webhookd_admin_connections": "sum by (instance) (webhookd_admin_connections)",
    "webhookd_admin_connections_closed_total": "sum by (reason) (rate(webhookd_admin_connections_closed_total[5m]))",
    "webhookd_commit_batch_size": (
        "sum(rate(webhookd_commit_batch_size_sum[5m])) / sum(rate(webhookd_commit_batch_size_count[5m]))"
    ),
    "webhookd_duplicates_total": "sum by (layer) (rate(webhookd_duplicates_total[5m]))",
    "webhookd_body_mismatches_total": "sum by (account) (increase(webhookd_body_mismatches_total[1h]))",
    "webhookd_queue_depth": "max by (queue, state) (webhookd_queue_depth)",
    "webhookd_queue_unfit": "max by (check) (webhookd_queue_unfit)",
    "webhookd_outbox_pending": "max(webhookd_outbox_pending)",
    "webhookd_oldest_unfinished_seconds": "max(webhookd_oldest_unfinished_seconds)",
    "webhookd_oldest_overdue_seconds": "max(webhookd_oldest_overdue_seconds)",
    "webhookd_relayed_total": "sum by (outcome) (rate(webhookd_relayed_total[5m]))",
    "webhookd_in_flight": "sum by (instance) (webhookd_in_flight)",
    "webhookd_processed_total": "sum by (outcome) (rate(webhookd_processed_total[5m]))",
    "webhookd_retries_total": "sum by (event_type) (rate(webhookd_retries_total[15m]))",
    "webhookd_attempts": "sum(rate(webhookd_attempts_sum[5m])) / sum(rate(webhookd_attempts_count[5m]))",
    "webhookd_handle_seconds": ("histogram_quantile(0.95, sum by (le, event_type) (rate(webhookd_handle_seconds_bucket[5m])))"),
    "webhookd_stuck_handlers_total": "sum by (instance) (increase(webhookd_stuck_handlers_total[1h]))",
    "webhookd_unended_handlers": "sum by (instance) (webhookd_unended_handlers)",
    "webhookd_end_to_end_seconds": "histogram_quantile(0.95, sum by (le) (rate(webhookd_end_to_end_seconds_bucket[15m])))",
    "webhookd_dead_total": "sum by (reason) (increase(webhookd_dead_total[1d]))",
    "webhookd_dead_letters_total": "sum by (action) (increase(webhookd_dead_letters_total[1d]))",
    "webhookd_deliveries_total": "sum by (destination, outcome) (rate(webhookd_deliveries_total[5m]))",
    "webhookd_deliveries_repeated_total": "sum by (destination) (increase(webhookd_deliveries_repeated_total[1d]))",
    "webhookd_destination_filter_failures_total": (
        "sum by (destination) (increase(webhookd_destination_filter_failures_total[1d]))"
    ),
    "webhookd_delivery_seconds": (
        "histogram_quantile(0.95, sum by (le, destination) (rate(webhookd_delivery_seconds_bucket[15m])))"
    ),
    "webhookd_delivery_attempt_seconds": (
        "histogram_quantile(0.95, sum by (le, destination) (rate(webhookd_delivery_attempt_seconds_bucket[5m])))"
    ),
    "webhookd_deliveries_waiting": "max by (destination) (webhookd_deliveries_waiting)",
    "webhookd_circuit_open": "max by (destination) (webhookd_circuit_open)",
    "webhookd_deliveries_dead": "max by (destination) (webhookd_deliveries_dead)",
    "webhookd_partitions_ahead_seconds": "max(webhookd_partitions_ahead_seconds) / 86400",
    "webhookd_retention_last_success_timestamp_seconds": (
        "time() - (max by (task) (webhookd_retention_last_success_timestamp_seconds) > 0)"
    ),
    "webhookd_retention_removed_total": "sum by (kind) (increase(webhookd_retention_removed_total[1d]))",
    "webhookd_retention_failures_total": "sum by (task) (increase(webhookd_retention_failures_total[2h]))",
    "webhookd_quarantine_rows": "max(webhookd_quarantine_rows)",
    "webhookd_quarantine_bytes": "max(webhookd_quarantine_bytes)",
    "webhookd_table_bytes": "max by (table) (webhookd_table_bytes)",
    "webhookd_default_partition_bytes": "max by (table) (webhookd_default_partition_bytes)",
    "webhookd_database_bytes": "max(webhookd_database_bytes)",
    "webhookd_standbys": "max(webhookd_standbys)",
    "webhookd_replication_lag_seconds": "max(webhookd_replication_lag_seconds)",
    "webhookd_pool_connections": (
        'sum by (instance, pool) (webhookd_pool_connections{state="in_use"}) '
        '/ sum by (instance, pool) (webhookd_pool_connections{state="most"})'
    ),
    "webhookd_pool_waiting": "max by (instance, pool) (webhookd_pool_waiting)",
    "webhookd_dependency_up": "min by (dependency) (webhookd_dependency_up)",
    "webhookd_signature_key_last_used_timestamp_seconds": (
        "time() - max by (account, key) (webhookd_signature_key_last_used_timestamp_seconds)"
    ),
    "webhookd_tls_certificate_expiry_timestamp_seconds": (
        "(min(webhookd_tls_certificate_expiry_timestamp_seconds > 0) - time()) / 86400"
    ),
    "webhookd_provider_account_held": "sum by (account) (webhookd_provider_account_held)",
    "webhookd_provider_calls_total": "sum by (account, outcome) (increase(webhookd_provider_calls_total[1h]))",
    "webhookd_provider_synthetic_events_total": "sum by (event_type) (increase(webhookd_provider_synthetic_events_total[1d]))",
    "webhookd_provider_reports_off": "max by (account) (webhookd_provider_reports_off)",
    "webhookd_provider_batches_open": "max by (account) (webhookd_provider_batches_open)",
    "webhookd_provider_swept_timestamp_seconds": "time() - max by (account) (webhookd_provider_swept_timestamp_seconds)",
    "webhookd_provider_compared_timestamp_seconds": "time() - max by (account) (webhookd_provider_compared_timestamp_seconds)",
    "webhookd_provider_credentials_refused": "max by (account) (webhookd_provider_credentials_refused)",
    "webhookd_provider_days_not_reconciled": "max by (account) (webhookd_provider_days_not_reconciled)",
    "webhookd_provider_subscriptions_not_reconciled": "max by (account) (webhookd_provider_subscriptions_not_reconciled)",
    "webhookd_provider_details_wanted": "max by (account) (webhookd_provider_details_wanted)",
    "webhookd_provider_details_wanted_seconds": "max by (account) (webhookd_provider_details_wanted_seconds)",
    "webhookd_provider_days_not_whole": "max by (account) (webhookd_provider_days_not_whole)",
    "webhookd_provider_missing": "max by (account) (webhookd_provider_missing)",
    "webhookd_provider_reconciled_days": "max by (account, result) (webhookd_provider_reconciled_days)",
    "webhookd_provider_recovered_total": "sum by (account) (increase(webhookd_provider_recovered_total[1d]))",
    "webhookd_provider_unreadable": "max by (account) (webhookd_provider_unreadable)",
    "webhookd_provider_webhook_state": "max by (account, state) (webhookd_provider_webhook_state) == 1",
    "webhookd_reloads_total": "sum by (outcome) (increase(webhookd_reloads_total[1h]))",
    "webhookd_spans_total": "sum by (outcome) (rate(webhookd_spans_total[5m]))",
    "webhookd_admin_refused_total": "sum by (reason) (increase(webhookd_admin_refused_total[1h]))",
    "webhookd_admin_delayed_total": "sum(increase(webhookd_admin_delayed_total[1h]))",
    "webhookd_acks_total": "sum by (outcome) (rate(webhookd_acks_total[5m]))",
    "webhookd_lease_extensions_total": "sum by (outcome) (rate(webhookd_lease_extensions_total[5m]))",
    "webhookd_redis_skipped_total": "sum by (operation) (rate(webhookd_redis_skipped_total[5m]))",
}


def metrics_table() -> str:
    """Returns a table with one row for each metric of the daemon, in the code's order, and a query that uses the metric."""
    known = own_metrics()
    rows = ["| metric | type | labels | meaning | query |", "|---|---|---|---|---|"]
    for family in Metrics().registry.collect():
        if not family.name.startswith("webhookd_"):
            continue
        name = family.name + ("_total" if family.type == "counter" else "")
        series = name + ("_count" if family.type == "histogram" else "")
        labels = ", ".join(f"`{label}`" for label in sorted(known[series] - {"le"}))
        rows.append(f"| `{name}` | {family.type} | {labels} | {family.documentation} | {_code(QUERIES.get(name, ''))} |")
    return "\n".join(rows) + "\n"


def _code(query: str) -> str:
    return f"`{query}`" if query else ""
