"""The provider's answers as types. They hold no names, addresses, card numbers or bank data: these are left where they are.

Statuses and types are the provider's texts, since new ones appear. A field that an answer lacks is None. Times are UTC.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import date, datetime
from decimal import Decimal
from typing import Any, NamedTuple


class Webhook(NamedTuple):
    """A webhook, as it is registered. `status` is `active` or `inactive`; no field says why, or since when.

    problem: why webhookd cannot read this row of the list of webhooks. Then the other fields are empty if they are unreadable.
    """

    id: str  # in lower case
    url: str
    status: str
    event_types: tuple[str, ...]
    name: str | None = None
    problem: str | None = None


class HistoryRow(NamedTuple):
    """A row of the provider's history. `delivery_status` does not tell whether the notification is in the ledger."""

    notification_id: str  # in lower case
    event_type: str
    event_date: datetime | None  # at most three decimals: never join the ledger's dates with these
    delivery_status: str | None


class HistoryPage(NamedTuple):
    """A page of the history. `unreadable`: the number of its rows that cannot be read."""

    rows: tuple[HistoryRow, ...]
    unreadable: int = 0


class History(NamedTuple):
    """Rows of the history.

    complete: whether the list was read to its end, and again with the same result. If not, it may lack rows.
    unreadable: the number of further rows, which cannot be read.
    moving: the days, in UTC, whose rows still changed from one pass to the next, so that only they may lack rows.
    """

    rows: tuple[HistoryRow, ...]
    complete: bool
    unreadable: int = 0
    moving: frozenset[date] = frozenset()


@dataclass(slots=True, frozen=True)
class PastNotification:
    """A notification from the history.

    body: the answer's bytes. They are an envelope that `notification.parse` reads, but not the bytes that were signed.
    """

    row: HistoryRow
    webhook_id: str | None
    body: bytes = field(repr=False)
    has_payload: bool = True


class Merchant(NamedTuple):
    """The account that a key belongs to."""

    gateway_id: str | None
    name: str | None
    test_mode: bool
    time_zone: str | None
    currencies: tuple[str, ...]
    payment_methods: tuple[str, ...]


class SubscriptionPayment(NamedTuple):
    """The payment of a subscription that a transaction is for. `number` counts the payments from 1."""

    subscription_id: str
    number: int | None


class TransactionRow(NamedTuple):
    """A transaction in a list. The amount of a refund is positive, too: only `status` tells that it is a refund."""

    id: str
    status: str
    submitted_at: datetime | None
    settle_amount: Decimal | None
    account_type: str | None
    invoice_number: str | None
    subscription_payment: SubscriptionPayment | None
    has_returned_items: bool


class BatchStatistic(NamedTuple):
    """The sums of a batch for one type of card, or for eCheck."""

    account_type: str | None
    charge_amount: Decimal
    charge_count: int
    refund_amount: Decimal
    refund_count: int
    void_count: int
    decline_count: int
    error_count: int


class Batch(NamedTuple):
    """A batch of transactions that are settled together."""

    id: str
    settlement_state: str
    settled_at: datetime | None
    payment_method: str | None
    statistics: tuple[BatchStatistic, ...]


class ReturnedItem(NamedTuple):
    """A return of an eCheck. `code`: NACHA's, such as R03."""

    id: str
    returned_at: datetime | None
    code: str | None


@dataclass(slots=True, frozen=True)
class Transaction:
    """A transaction's details, or its summary, which lacks most fields.

    ref_transaction_id: the transaction that a refund, a capture or a void is for.
    recurring: whether the provider marks it as a recurring charge, as each payment of a subscription is.
    """

    id: str
    status: str
    submitted_at: datetime | None
    type: str | None
    ref_transaction_id: str | None
    response_code: int | None
    response_reason_code: int | None
    auth_amount: Decimal | None
    settle_amount: Decimal | None
    invoice_number: str | None
    subscription_payment: SubscriptionPayment | None
    batch: Batch | None
    payment_method: str | None
    returned_items: tuple[ReturnedItem, ...]
    recurring: bool = False


class SubscriptionRow(NamedTuple):
    """A subscription in a list. `total_occurrences` is 9999 for a subscription without end."""

    id: str
    status: str
    created_at: datetime | None
    amount: Decimal | None
    past_occurrences: int | None
    total_occurrences: int | None
    invoice_number: str | None


class PaymentAttempt(NamedTuple):
    """One attempt at a payment of a subscription. A failed attempt has no transaction, and the reason as `response`."""

    transaction_id: str | None
    submitted_at: datetime | None
    payment_number: int | None
    attempt_number: int | None
    response: str | None


class Schedule(NamedTuple):
    """The schedule of a subscription.

    interval_unit: days or months.
    total_occurrences: the number of all payments; 9999 if there is no end.
    trial_occurrences: the number of the first payments, which cost `trial_amount`.
    """

    interval_length: int | None
    interval_unit: str | None
    starts_on: date | None
    total_occurrences: int | None
    trial_occurrences: int | None = None
    trial_amount: Decimal | None = None


class Subscription(NamedTuple):
    """A subscription, with its latest attempts at payments. `id` is the one that was asked for: the answer need not have it."""

    id: str
    status: str | None
    amount: Decimal | None
    attempts: tuple[PaymentAttempt, ...]
    schedule: Schedule | None = None


class ListPage(NamedTuple):
    """The rows of one page, and the number of rows of all pages, if the answer has it."""

    rows: tuple[Any, ...]
    total: int | None
