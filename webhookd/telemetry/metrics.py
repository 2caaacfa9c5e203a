"""Every metric of the daemon, in one registry. Names, labels and meanings are a contract with users."""

from __future__ import annotations

from collections.abc import Iterable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, disable_created_metrics
from prometheus_client.gc_collector import GCCollector
from prometheus_client.platform_collector import PlatformCollector
from prometheus_client.process_collector import ProcessCollector

from webhookd.telemetry.provider_metrics import ProviderMetrics

_FAST = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.0, 2.5, 5.0, 10.0)  # 2.0: the objective of an answer
_SLOW = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 900.0, 3600.0, 21600.0)
ATTEMPT_BOUNDS, DELIVERY_BOUNDS = (*_FAST, float("inf")), (*_SLOW, float("inf"))  # of the histograms of destinations
_DEATHS = ("permanent", "attempts_spent", "transaction_ended", "worker_ended")

disable_created_metrics()  # type: ignore[no-untyped-call]  # a third of all series, and no rule and no panel asks when a counter began


class Metrics:
    """The metrics of one daemon. Hot paths keep the child of a label, since each `.labels(…)` costs a lock and a hash."""

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        for collector in (ProcessCollector, PlatformCollector, GCCollector):
            collector(registry=registry)
        self.provider = ProviderMetrics(registry)

        def counter(name: str, text: str, *labels: str, values: tuple[str, ...] = ()) -> Counter:
            made = Counter(f"webhookd_{name}", text, labels, registry=registry)
            # The series exist from the start. If a series began at 1, Prometheus would see no increase.
            for value in values:
                made.labels(value)
            return made

        def gauge(name: str, text: str, *labels: str) -> Gauge:
            return Gauge(f"webhookd_{name}", text, labels, registry=registry)

        def histogram(name: str, text: str, buckets: tuple[float, ...], *labels: str) -> Histogram:
            return Histogram(f"webhookd_{name}", text, labels, buckets=buckets, registry=registry)

        self.received = counter(
            "received_total",
            "Webhook requests by outcome: accepted, duplicate, quarantined, test (a ping), or the reason of the refusal.",
            "account",
            "outcome",
        )
        self.refused_samples = counter(
            "refused_samples_total",
            "Samples of refused webhooks: kept, or dropped because PostgreSQL was away.",
            "outcome",
            values=("kept", "dropped"),
        )
        self.accepted = counter("accepted_total", "New events that were committed, however they came.", "event_type")
        self.ack_seconds = histogram(
            "ack_seconds", "Seconds from the first byte of an authentic webhook to its answer 200, including the commit.", _FAST
        )
        self.clock_ahead = gauge(
            "clock_ahead_seconds",
            "Seconds that this machine's clock is ahead of PostgreSQL's clock; negative if it is behind. Only "
            "PostgreSQL's counts.",
        )
        self.loop_lag_seconds = gauge(
            "loop_lag_seconds", "Seconds that the event loop was late for its timers: the worst value of the last 10 s."
        )
        self.shedding = gauge(
            "shedding", "1 while the receiver answers new webhooks 503 because its capacity is used up, else 0."
        )
        self.connections = gauge("connections", "Open connections to the public listener.")
        self.open_requests = gauge("open_requests", "Requests to the public listener that are complete and not yet answered.")
        self.connections_closed = counter(
            "connections_closed_total",
            "Connections that webhookd closed: head_timeout, head_too_large, idle (to make room), full, unread, tls.",
            "reason",
        )
        self.admin_connections = gauge("admin_connections", "Open connections to the admin listener.")
        self.admin_connections_closed = counter(
            "admin_connections_closed_total",
            "Connections to the admin listener that webhookd closed, by reason as in connections_closed_total.",
            "reason",
        )
        self.commit_batch_size = histogram(
            "commit_batch_size", "Events in one group commit.", (1, 2, 4, 8, 16, 32, 64, 128, 256)
        )
        self.duplicates = counter("duplicates_total", "Duplicates by the layer that found them.", "layer")
        self.body_mismatches = counter(
            "body_mismatches_total", "Webhooks whose notification id is known, but with another body.", "account"
        )
        self.queue_depth = gauge(
            "queue_depth", "Messages in SQS by SQS's own count: visible, in_flight, delayed.", "queue", "state"
        )
        self.queue_unfit = gauge(
            "queue_unfit",
            "1 while an attribute of the queue does not fit, by check: redrive policy, retention, message size, delay.",
            "check",
        )
        self.outbox_pending = gauge(
            "outbox_pending",
            "Committed events that have not ended and are not recorded as sent to SQS (the record follows "
            "within 5 s); counted up to 100,000.",
        )
        self.oldest_unfinished = gauge(
            "oldest_unfinished_seconds",
            "Age in seconds of the oldest event that is neither processed nor dead; 0 if there is none.",
        )
        self.oldest_overdue = gauge(
            "oldest_overdue_seconds",
            "As oldest_unfinished_seconds, but without the events that wait for the delay of a retry.",
        )
        self.relayed = counter(
            "relayed_total",
            "Events that the relay sent to SQS, by outcome: sent, failed, refused, left (the sweeper sends them).",
            "outcome",
        )
        self.in_flight = gauge("in_flight", "Messages that this process holds.")
        self.processed = counter(
            "processed_total",
            "Deliveries of an event to a worker, by outcome: processed, retrying, waiting (for details), dead, duplicate, "
            "stale, redriven, busy, interrupted, unknown.",
            "event_type",
            "outcome",
        )
        self.retries = counter("retries_total", "Failed attempts that another attempt follows.", "event_type")
        self.attempts = histogram("attempts", "Number of attempts of a finished event.", (1, 2, 3, 4, 5, 6, 8, 10, 15, 20))
        self.handle_seconds = histogram("handle_seconds", "Seconds that the handlers of an event ran.", _SLOW, "event_type")
        self.stuck_handlers = counter(
            "stuck_handlers_total",
            "Handlers that did not end when they were cancelled, so that webhookd closed their connection.",
        )
        self.unended_handlers = gauge("unended_handlers", "Handlers that were cancelled, and have not ended yet.")
        self.end_to_end_seconds = histogram(
            "end_to_end_seconds", "Seconds from receipt to processed, by PostgreSQL's clock.", _SLOW
        )
        self.dead = counter(
            "dead_total",
            "Events that died, by reason: permanent, attempts_spent, transaction_ended, worker_ended (its "
            "process, or its connection to PostgreSQL, ended each time).",
            "account",
            "reason",
        )
        self.dead_letters_moved = counter(
            "dead_letters_total",
            "Actions on the dead-letter queue: copied, put_back (events whose message SQS moved there), "
            "removed, lost, redriven, unproven (copies that webhookd did not write).",
            "action",
            values=("copied", "put_back", "removed", "lost", "redriven", "unproven"),
        )
        self.deliveries = counter(
            "deliveries_total", "Attempts to deliver, by outcome: delivered, retrying, dead.", "destination", "outcome"
        )
        self.deliveries_repeated = counter(
            "deliveries_repeated_total", "Attempts after one without a recorded result: perhaps the second.", "destination"
        )
        self.filter_failures = counter(
            "destination_filter_failures_total", "Events that a destination gets because its filter failed.", "destination"
        )
        self.delivery_seconds = histogram(
            "delivery_seconds",
            "Seconds from an event's receipt, or its redrive, until the destination accepted the event.",
            _SLOW,
            "destination",
        )
        self.delivery_attempt_seconds = histogram(
            "delivery_attempt_seconds", "Seconds of one request to a destination.", _FAST, "destination"
        )
        self.deliveries_waiting = gauge(
            "deliveries_waiting", "Deliveries that are still to be made; each status counted up to 100,000.", "destination"
        )
        self.circuit_open = gauge("circuit_open", "1 while a destination is down, and gets only probes; else 0.", "destination")
        self.deliveries_dead = gauge(
            "deliveries_dead", "Deliveries that were given up, and wait for an operator; counted up to 100,000.", "destination"
        )
        self.partitions_ahead = gauge(
            "partitions_ahead_seconds",
            "Seconds that the partitions of bodies and audit trail reach beyond PostgreSQL's present time; 0 "
            "if none covers it.",
        )
        self.retention_last_success = gauge(
            "retention_last_success_timestamp_seconds",
            "When this process last completed a task of retention: partitions, bodies, audit, events, quarantine.",
            "task",
        )
        self.retention_removed = counter(
            "retention_removed_total",
            "Rows that retention removed (bodies, audit, events, quarantine), and partitions "
            "(bodies_partitions, audit_partitions).",
            "kind",
            values=("bodies", "audit", "events", "quarantine", "bodies_partitions", "audit_partitions"),
        )
        self.retention_failures = counter(
            "retention_failures_total", "Tasks of retention that failed. Each is tried again.", "task"
        )
        self.quarantine_rows = gauge("quarantine_rows", "Bodies that wait in quarantine, counted up to 100,000.")
        self.quarantine_bytes = gauge("quarantine_bytes", "Bytes on disk of the table quarantine and its indexes.")
        self.table_bytes = gauge("table_bytes", "Bytes on disk of a table with its indexes and partitions.", "table")
        self.default_partition_bytes = gauge(
            "default_partition_bytes", "Bytes of the rows of bodies and audit that lie outside every partition.", "table"
        )
        self.database_bytes = gauge("database_bytes", "Bytes on disk of the whole database, with your own tables.")
        self.standbys = gauge("standbys", "Replication connections of PostgreSQL: its standbys, and backups in progress.")
        self.replication_lag = gauge(
            "replication_lag_seconds",
            "Seconds that the slowest standby is behind; NaN if webhookd's role may not see it (pg_read_all_stats).",
        )
        self.pool_connections = gauge(
            "pool_connections",
            "Connections to PostgreSQL by pool (short, fold, work, upkeep, admin): in_use, idle, and most, the limit.",
            "pool",
            "state",
        )
        self.pool_waiting = gauge("pool_waiting", "Tasks that wait for a connection of the pool.", "pool")
        self.dependency_up = gauge(
            "dependency_up",
            "1 if the dependency answered the last time, else 0. Also 0 while PostgreSQL opens no new sessions.",
            "dependency",
        )
        self.key_last_used = gauge(
            "signature_key_last_used_timestamp_seconds",
            "When a Signature Key, by its fingerprint, last verified a webhook.",
            "account",
            "key",
        )
        self.certificate_ends = gauge(
            "tls_certificate_expiry_timestamp_seconds", "When the public listener's certificate expires; 0 if it has none."
        )
        self.reloads = counter(
            "reloads_total",
            "Reloads of keys, tokens and certificate: done, failed.",
            "outcome",
            values=("done", "failed"),
        )
        self.spans = counter(
            "spans_total", "Spans of traces by outcome: exported, or failed because the collector did not take them.", "outcome"
        )
        self.admin_refused = counter(
            "admin_refused_total",
            "Requests to the admin listener that were refused: no_token, wrong_token, not_allowed, cross_site, unknown_host, "
            "malformed, overload (too many connections), error (a defect of webhookd).",
            "reason",
            values=("no_token", "wrong_token", "not_allowed", "cross_site", "unknown_host", "malformed", "overload", "error"),
        )
        self.admin_delayed = counter(
            "admin_delayed_total",
            "Requests to the admin listener that waited up to 5 s because many wrong tokens had come before.",
        )
        self.acks = counter("acks_total", "Deletions of messages from SQS after their events ended, by outcome.", "outcome")
        self.lease_extensions = counter(
            "lease_extensions_total", "Extensions of a message's visibility timeout, by outcome.", "outcome"
        )
        self.alert_messages = counter(
            "alert_messages_total",
            "Messages about alerts to channels: sent, failed (each is tried again), dropped (not sent within two days).",
            "outcome",
            values=("sent", "failed", "dropped"),
        )
        self.redis_skipped = counter(
            "redis_skipped_total",
            "Operations that went on without Redis because Redis was away: seen, mark, claim, release. They "
            "are correct, but slower.",
            "operation",
            values=("seen", "mark", "claim", "release"),
        )

    def expect(self, accounts: Iterable[str]) -> None:
        """Makes the series of these accounts that count deaths. If a series began at 1, Prometheus would see no increase."""
        for account in accounts:
            for reason in _DEATHS:
                self.dead.labels(account, reason)
