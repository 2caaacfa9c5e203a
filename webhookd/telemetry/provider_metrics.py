"""The metrics of the provider's side: calls of its API, and what its history says."""

from __future__ import annotations

import contextlib

from prometheus_client import CollectorRegistry, Counter, Gauge

from webhookd.settings.synthetic_types import SyntheticType

WEBHOOK_STATES = ("ok", "inactive", "missing", "url", "event_types", "doubled", "unknown")
RESULTS = ("green", "differences", "not known")
OUTCOMES = ("done", "refused", "off", "rejected", "unreadable", "unavailable")


class ProviderMetrics:
    """The metrics of the role `sync`. Each gauge is of the replica that asks the provider for the account, and only there."""

    def __init__(self, registry: CollectorRegistry) -> None:
        def counter(name: str, text: str, *labels: str) -> Counter:
            return Counter(f"webhookd_provider_{name}", text, labels, registry=registry)

        def gauge(name: str, text: str) -> Gauge:
            return Gauge(f"webhookd_provider_{name}", text, ("account",), registry=registry)

        self.calls = counter(
            "calls_total",
            "Calls of Authorize.Net's API, by outcome: done, refused (credentials), off (a part of the API that the account "
            "may not use), rejected, unreadable, unavailable.",
            "account",
            "outcome",
        )
        self.recovered = counter(
            "recovered_total", "Notifications that never came as webhooks, and that webhookd took from the history.", "account"
        )
        self.missing = gauge(
            "missing", "Notifications of the last 14 days that the history lists and the ledger lacks, beyond the grace."
        )
        self.unreadable = gauge(
            "unreadable", "Notifications of the last 14 days whose answer of the history cannot become an event."
        )
        self.days_not_whole = gauge(
            "days_not_whole", "Days of the last 14, without today, that are missing notifications, unreadable or not known."
        )
        self.compared = gauge(
            "compared_timestamp_seconds", "When a comparison of the history with the ledger last ended; 0 if none has."
        )
        self.synthetic = counter(
            "synthetic_events_total",
            "Synthetic events that were committed, by type: webhookd.transaction.settled and the others.",
            "account",
            "event_type",
        )
        self.batches_open = gauge(
            "batches_open", "Batches of settlement that are not final at Authorize.Net, or whose transactions do not add up."
        )
        self.swept = gauge("swept_timestamp_seconds", "When a sweep of the settlement last ended; 0 if none has.")
        self.reports_off = gauge(
            "reports_off", "1 while Authorize.Net refuses the account its reports (Transaction Details API), else 0."
        )
        self.held = gauge("account_held", "1 if this replica asks Authorize.Net for the account, else 0.")
        self.credentials_refused = gauge(
            "credentials_refused", "1 while Authorize.Net refuses the account's credentials, else 0."
        )
        self.details_wanted = gauge(
            "details_wanted", "Events whose handlers wait for Authorize.Net's details of their transaction."
        )
        self.details_wanted_seconds = gauge(
            "details_wanted_seconds", "For how long the oldest event has waited for details; 0 if none waits."
        )

        self.reconciled_days = Gauge(
            "webhookd_provider_reconciled_days",
            "Settlement days of the last 14 by the result of their reconciliation: green, differences, not known.",
            ("account", "result"),
            registry=registry,
        )
        self.days_not_reconciled = gauge(
            "days_not_reconciled",
            "Settlement days of the last 14 that are over for three days, and have differences or are not known.",
        )
        self.subscriptions_not_reconciled = gauge(
            "subscriptions_not_reconciled",
            "Subscriptions that differ from Authorize.Net's lists, and renewals of the last 14 days that did not come; one "
            "more if the lists are older than two days.",
        )
        self.webhook_state = Gauge(
            "webhookd_provider_webhook_state",
            "1 for the state of the webhook that the guardian last found, 0 for the others: ok, inactive, missing, url, "
            "event_types, doubled, unknown.",
            ("account", "state"),
            registry=registry,
        )

    def note_webhook(self, account: str, state: str | None) -> None:
        """Sets the state of an account's webhook. None: nobody has set one up yet."""
        for one in WEBHOOK_STATES:
            self.webhook_state.labels(account, one).set(one == state)

    def expect(self, account: str) -> None:
        """Makes the series of an account's counters. If a series began at 1, Prometheus would see no increase."""
        for outcome in OUTCOMES:
            self.calls.labels(account, outcome)
        self.recovered.labels(account)
        for event_type in SyntheticType:
            self.synthetic.labels(account, event_type)
        self.held.labels(account).set(0)

    def forget(self, account: str) -> None:
        """Removes the gauges of an account for which another replica asks from now on."""
        gauges = self.missing, self.unreadable, self.days_not_whole, self.days_not_reconciled, self.compared, self.swept
        details = self.details_wanted, self.details_wanted_seconds
        for gauge in (
            *gauges,
            *details,
            self.subscriptions_not_reconciled,
            self.batches_open,
            self.reports_off,
            self.credentials_refused,
        ):
            with contextlib.suppress(KeyError):
                gauge.remove(account)
        for state in WEBHOOK_STATES:
            with contextlib.suppress(KeyError):
                self.webhook_state.remove(account, state)
        for result in RESULTS:
            with contextlib.suppress(KeyError):
                self.reconciled_days.remove(account, result)
        self.held.labels(account).set(0)
