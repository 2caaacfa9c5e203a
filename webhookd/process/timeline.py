"""The timeline: one row a transaction, subscription, customer and payment profile, folded from events in any order.

A row is a set of facts, and each fact is a last-writer-wins register `(at, rank, value)`: the event's date in
microseconds since 1970, the rank of its step in the entity's life (for events of the same instant), the value as text.
Of two registers the greater one stays, so every order of arrival, with any repetition, ends in the same row. An event
writes only the facts that it carries; a field that is missing or odd is no fact, and erases none.

The fold itself runs in PostgreSQL (`webhookd_fold`, in the migration that makes the tables): to read a row, fold it
here and write it back would cost a second round trip, with a lock in between. Only events of one transaction are folded here
before, since a statement can touch a row once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import orjson

from webhookd.event import Event, money
from webhookd.store.queries import queries

Register = tuple[int, int, str]
Facts = dict[str, Register]
Values = dict[str, str | None]  # a fact's name → its value; None where the event does not carry it

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_LONGEST = 500  # characters: an id of 500, at four bytes each, still fits into the primary key's index


@dataclass(slots=True, frozen=True)
class Entry:
    """What one event says of one entity."""

    table: str  # "transactions", "subscriptions", "customers" or "payment_profiles"
    account: str
    id: str  # the provider's, of the entity
    facts: Facts


def facts_of(event: Event) -> Entry | None:
    """What `event` says; None where its type is not on the timeline, or it names no entity. Raises nothing.

    A transaction with the id "0" is one of the provider's tests, and no entity.
    """
    table, read = _TABLES.get(event.event_type, (None, None))
    if table is None or read is None:
        return None
    try:
        payload = event.payload
    except ValueError:
        return None
    entity = _text(payload.get("id"))
    if entity is None or (table == "transactions" and entity == "0"):
        return None
    at = _microseconds(event.event_date or event.received_at)
    rank, values = read(event.event_type, payload, at)
    values |= {"last_event_at": str(at), "last_event_type": event.event_type}
    facts: Facts = {name: (at, rank, value) for name, value in values.items() if value is not None}
    facts["first_event_at"] = (-at, 0, str(at))  # the greatest -at is the earliest date
    return Entry(table, event.account, entity, facts)


def fold(a: Facts, b: Facts) -> Facts:
    """Both sets of facts in one, as `webhookd_fold` does it: for each name, the greater register."""
    return {name: max(facts[name] for facts in (a, b) if name in facts) for name in a.keys() | b.keys()}


async def keep_timeline(event: Event, connection: Any) -> None:
    """The built-in handler: folds `event` into its entity's row. One round trip; none off the timeline."""
    if entry := facts_of(event):
        keep = _KEEP[entry.table]
        await keep(connection, account=entry.account, id=entry.id, facts=orjson.dumps(entry.facts).decode())


def fold_all(events: Iterable[Event]) -> list[tuple[str, str, str, str]]:
    """What many events say, (table, account, id, facts as JSON) once for each entity, sorted."""
    rows: dict[tuple[str, str, str], Facts] = {}
    for event in events:
        if entry := facts_of(event):
            key = entry.table, entry.account, entry.id
            rows[key] = fold(rows[key], entry.facts) if key in rows else entry.facts
    return [(*key, orjson.dumps(rows[key]).decode()) for key in sorted(rows)]


_KEEP: dict[str, Any] = {
    "transactions": queries.keep_transaction,
    "subscriptions": queries.keep_subscription,
    "customers": queries.keep_customer,
    "payment_profiles": queries.keep_payment_profile,
}

# Transactions: event type → the state when all went well, and the facts that come with it.
_TRANSACTIONS: dict[str, tuple[str, tuple[str, ...]]] = {
    "net.authorize.payment.authorization.created": ("authorized", ("authorized_at", "authorized_amount")),
    "net.authorize.payment.authcapture.created": (
        "captured",
        ("authorized_at", "authorized_amount", "captured_at", "captured_amount"),
    ),
    "net.authorize.payment.capture.created": ("captured", ("captured_at", "captured_amount")),
    "net.authorize.payment.priorAuthCapture.created": ("captured", ("captured_at", "captured_amount")),
    "net.authorize.payment.refund.created": ("refunded", ("refunded_at", "refunded_amount")),
    "net.authorize.payment.void.created": ("voided", ("voided_at",)),
    "net.authorize.payment.fraud.held": ("held", ("held_at", "authorized_amount")),
    "net.authorize.payment.fraud.approved": ("approved", ("approved_at", "authorized_amount")),
    "net.authorize.payment.fraud.declined": ("declined", ("declined_at",)),
}
# The same by responseCode, where a new transaction did not go well.
_REFUSALS: dict[str, tuple[str, tuple[str, ...]]] = {
    "2": ("declined", ("declined_at",)),
    "3": ("error", ()),
    "4": ("held", ("held_at",)),
}
_TRANSACTION_RANKS = {
    "authorized": 1,
    "held": 2,
    "approved": 3,
    "captured": 4,
    "refunded": 4,
    "declined": 5,
    "error": 5,
    "voided": 6,
}
# These act on a transaction that exists; when they fail, it stays as it is.
_FOLLOW_UPS = frozenset({"net.authorize.payment.void.created", "net.authorize.payment.priorAuthCapture.created"})


def _transaction(event_type: str, payload: dict[str, Any], at: int) -> tuple[int, Values]:
    state, written = _TRANSACTIONS[event_type]
    rank = _TRANSACTION_RANKS[state]
    given = payload.get("responseCode")
    code = _text(given)
    # A verdict of the fraud filters is its own answer: its responseCode repeats the transaction's.
    if given is not None and code != "1" and not event_type.startswith("net.authorize.payment.fraud."):
        if event_type in _FOLLOW_UPS:
            return rank, {}
        # A code that nobody knows tells neither success nor failure, so it tells no state.
        state, written = _REFUSALS.get(code or "", ("", ()))
        rank = _TRANSACTION_RANKS.get(state, rank)
    values: Values = {
        "state": state or None,
        "kind": "refund" if event_type == "net.authorize.payment.refund.created" else None,  # a charge unless told
        "response_code": code if code in ("1", "2", "3", "4") else None,
        "auth_code": _text(payload.get("authCode")),
        "avs_response": _text(payload.get("avsResponse")),
        "invoice_number": _text(payload.get("invoiceNumber")),
        "merchant_reference": _text(payload.get("merchantReferenceId")),
        "fraud_filters": _fraud_filters(payload.get("fraudList")),
    }
    for name in written:
        values[name] = str(at) if name.endswith("_at") else _amount(payload.get("authAmount"))
    return rank, values


# Subscriptions: event type → its rank, and the status where the payload tells none.
_SUBSCRIPTIONS: dict[str, tuple[int, str | None]] = {
    "net.authorize.customer.subscription.created": (1, "active"),
    "net.authorize.customer.subscription.updated": (2, None),
    "net.authorize.customer.subscription.expiring": (3, None),
    "net.authorize.customer.subscription.failed": (4, "suspended"),
    "net.authorize.customer.subscription.suspended": (5, "suspended"),
    "net.authorize.customer.subscription.expired": (6, "expired"),
    "net.authorize.customer.subscription.cancelled": (7, "canceled"),
    "net.authorize.customer.subscription.terminated": (8, "terminated"),
}


def _subscription(event_type: str, payload: dict[str, Any], at: int) -> tuple[int, Values]:
    rank, status = _SUBSCRIPTIONS[event_type]
    given = payload.get("status")
    if isinstance(given, str) and (text := _text(given)):
        status = text.lower()
        status = "canceled" if status == "cancelled" else status  # the event says the one, the status the other
    profile = _object(payload.get("profile"))
    values: Values = {
        "name": _text(payload.get("name")),
        "amount": _amount(payload.get("amount")),
        "status": status,
        "customer_profile_id": _text(profile.get("customerProfileId")),
        "payment_profile_id": _text(profile.get("customerPaymentProfileId")),
        "shipping_address_id": _text(profile.get("customerShippingAddressId")),
    }
    if event_type == "net.authorize.customer.subscription.failed":
        details = _object(payload.get("transactionDetails"))
        values |= {
            "last_failure_transaction_id": _text(details.get("transId")),
            "last_failure_error": _text(details.get("error")),
            "last_failure_at": _date(details.get("submitTimeUTC")) or str(at),
        }
    return rank, values


# Customers and payment profiles: event type → its rank, and the state.
_PROFILES: dict[str, tuple[int, str]] = {
    f"net.authorize.customer.{entity}{change}": meaning
    for entity in ("", "paymentProfile.")
    for change, meaning in {"created": (1, "active"), "updated": (2, "active"), "deleted": (3, "deleted")}.items()
}


def _customer(event_type: str, payload: dict[str, Any], _: int) -> tuple[int, Values]:
    rank, state = _PROFILES[event_type]
    return rank, {
        "state": state,
        "merchant_customer_id": _text(payload.get("merchantCustomerId")),
        "payment_profile_ids": _payment_profile_ids(payload.get("paymentProfiles")),
    }


def _payment_profile(event_type: str, payload: dict[str, Any], _: int) -> tuple[int, Values]:
    rank, state = _PROFILES[event_type]
    return rank, {
        "state": state,
        "customer_profile_id": _text(payload.get("customerProfileId")),
        "customer_type": _text(payload.get("customerType")),
    }


# Event type → its table, and who reads its payload.
_TABLES: dict[str, tuple[str, Callable[[str, dict[str, Any], int], tuple[int, Values]]]] = {
    **dict.fromkeys(_TRANSACTIONS, ("transactions", _transaction)),
    **dict.fromkeys(_SUBSCRIPTIONS, ("subscriptions", _subscription)),
    **{
        name: ("payment_profiles", _payment_profile) if ".paymentProfile." in name else ("customers", _customer)
        for name in _PROFILES
    },
}


def _text(value: object) -> str | None:
    """Text, or an integer as text; None where PostgreSQL could not hold it (U+0000, half a surrogate pair)."""
    if isinstance(value, int) and not isinstance(value, bool):
        value = str(value)
    if not isinstance(value, str) or len(value) > _LONGEST or "\x00" in value:
        return None
    try:
        value.encode()
    except UnicodeEncodeError:
        return None
    return value.strip() or None


def _amount(value: object) -> str | None:
    amount = money(value)
    return None if amount is None else format(amount, "f")


def _date(value: object) -> str | None:
    """An ISO date as microseconds since 1970; without a zone it is UTC."""
    if not isinstance(value, str):
        return None
    try:
        date = datetime.fromisoformat(value.strip())
        return str(_microseconds(date.astimezone(UTC) if date.tzinfo else date.replace(tzinfo=UTC)))
    except (ValueError, OverflowError):
        return None


def _microseconds(date: datetime) -> int:
    return (date - _EPOCH) // timedelta(microseconds=1)


def _object(value: object) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _fraud_filters(value: object) -> str | None:
    """The list as JSON; None where any of it is odd, since a part of it would look like the whole."""
    if not isinstance(value, list):
        return None
    names = ("fraudFilter", "fraudAction")
    kept = [{name: text for name in names if (text := _text(_object(item).get(name)))} for item in value]
    return orjson.dumps(kept).decode() if all("fraudFilter" in item for item in kept) else None


def _payment_profile_ids(value: object) -> str | None:
    """The ids as a JSON list; None where any of it is odd."""
    if not isinstance(value, list):
        return None
    ids = [_text(_object(item).get("id")) for item in value]
    return None if None in ids else orjson.dumps(ids).decode()
