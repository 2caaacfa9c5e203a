"""The timeline: one row for each transaction, subscription, customer and payment profile.

The rule of the fold, which lets events arrive in any order and any number of times:

1. An event reports facts about one entity. The event's type decides which facts, and for a transaction its `responseCode` too:
   see the tables below.
2. A fact is a register `(at, rank, value)`. `at` is the event's date in microseconds since 1970. `rank` is the place of the
   event's type in the entity's life; it decides between events of the same instant. `value` is text, or None, which erases the
   fact: after a void, for example, the captured amount is None. A field that is missing or odd is no fact, and erases nothing.
3. Of two registers with the same name, the greater one stays: the later date, then the higher rank, then None, then the
   greater text. So the row does not depend on the order of arrival, and a repetition changes nothing.
4. Two facts can imply a third (`settle`). A sale that the provider held is captured when the approval comes, because no other
   event will come. If the facts grow, the implied fact grows too, so rule 3 still holds.
5. A void or a capture that failed leaves the transaction as it was, and is stored as the transaction's last failure.

PostgreSQL folds (`process_events`, and `fold` and `settle` in the migrations): reading a row, folding it here and writing it
back would cost a second round trip with a lock in between. The same fold in Python has no side effects. It joins the events of
one statement, because a statement can write a row only once. A row that an earlier release wrote is folded by these rules from
its entity's next event on.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any, Protocol

import orjson

from webhookd.authorizenet.facts import Entry, Values, encode_all
from webhookd.authorizenet.notification import canonical
from webhookd.authorizenet.payload import money

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_LONGEST = 500  # characters: an id of 500, at four bytes each, still fits into the primary key's index
_GREATEST_CODE = 999_999


class Event(Protocol):
    """The part of an event (`event.Event`) that the timeline reads."""

    @property
    def account(self) -> str: ...
    @property
    def event_type(self) -> str: ...
    @property
    def event_date(self) -> datetime | None: ...
    @property
    def received_at(self) -> datetime: ...
    @property
    def payload(self) -> dict[str, Any]: ...


def facts_of(event: Event) -> Entry | None:
    """Returns the facts of `event`; None if its type is not on the timeline, or if it names no entity. Raises nothing.

    A transaction with the id "0" is one of the provider's tests, and no entity.
    """
    event_type = canonical(event.event_type)
    name, read = _ENTITIES.get(event_type, (None, None))
    if name is None or read is None:
        return None
    try:
        payload = event.payload
    except ValueError:
        return None
    entity = _text(payload.get("id"))
    if entity is None or (name == "transaction" and entity == "0"):
        return None
    at = _microseconds(event.event_date or event.received_at)
    return Entry(name, event.account, entity, at, *read(event_type, payload, at))


def fold_all(events: Iterable[Event]) -> list[tuple[str, str, str, str]]:
    """Folds the facts of many events. Returns (entity's name, account, id, facts as JSON) once for each entity, sorted."""
    entities: dict[tuple[str, str, str], list[Entry]] = {}
    for event in events:
        if entry := facts_of(event):
            entities.setdefault((entry.name, entry.account, entry.id), []).append(entry)
    return [(*key, encode_all(entities[key])) for key in sorted(entities)]


@dataclass(slots=True, frozen=True)
class _Outcome:
    """The report of a transaction's event: the state, and the facts that it sets (dates, amounts) and erases."""

    state: str
    sets: tuple[str, ...] = ()
    erases: tuple[str, ...] = ()


# While an amount counts in sums, it stands in one of these facts.
_SUMS = ("authorized_amount", "captured_amount", "refunded_amount")

_AUTHORIZED = _Outcome("authorized", ("authorized_at", "authorized_amount"))
_SOLD = _Outcome("captured", ("authorized_at", "authorized_amount", "captured_at", "captured_amount", "captures_when_approved"))
_CAPTURED = _Outcome("captured", ("captured_at", "captured_amount"))
_REFUNDED = _Outcome("refunded", ("refunded_at", "refunded_amount"))
_HELD = _Outcome("held", ("held_at",), _SUMS)
_HELD_SALE = _Outcome("held", ("held_at", "captures_when_approved"), _SUMS)
_APPROVED = _Outcome("approved", ("approved_at", "authorized_amount", "approved_amount"))
_DECLINED = _Outcome("declined", ("declined_at",), _SUMS)
_ERROR = _Outcome("error", (), _SUMS)
_VOIDED = _Outcome("voided", ("voided_at",), _SUMS)

# responseCode → outcome. A missing code counts as 1. A code that is not in the table reports no state: the "Test Webhook"
# button sends 0 and 21. A recurring charge that failed can carry 8.
_REFUSALS = {2: _DECLINED, 3: _ERROR, 8: _DECLINED}
_ANY = -1  # whatever the code is: the event's type alone decides

# Event type → the rank of the type, and the outcomes.
_TRANSACTIONS: dict[str, tuple[int, dict[int, _Outcome]]] = {
    "net.authorize.payment.authorization.created": (1, {1: _AUTHORIZED, 4: _HELD, **_REFUSALS}),
    "net.authorize.payment.authcapture.created": (1, {1: _SOLD, 4: _HELD_SALE, **_REFUSALS}),
    "net.authorize.payment.capture.created": (1, {1: _CAPTURED, 4: _HELD, **_REFUSALS}),
    "net.authorize.payment.refund.created": (1, {1: _REFUNDED, 4: _HELD, **_REFUSALS}),
    "net.authorize.payment.fraud.held": (2, {_ANY: _HELD}),
    # The bank can still refuse after the approval. 4 is the code of the review that ended, and does not say what the bank did.
    "net.authorize.payment.fraud.approved": (3, {1: _APPROVED, 4: _Outcome("approved", ("approved_at",)), **_REFUSALS}),
    "net.authorize.payment.priorAuthCapture.created": (4, {1: _CAPTURED}),
    "net.authorize.payment.fraud.declined": (5, {_ANY: _DECLINED}),
    "net.authorize.payment.void.created": (6, {1: _VOIDED}),
}
# These types act on a transaction that exists: if they fail, it stays as it was. Their amount is no `requested_amount`.
_FOLLOW_UPS = frozenset({"net.authorize.payment.void.created", "net.authorize.payment.priorAuthCapture.created"})


def _transaction(event_type: str, payload: dict[str, Any], at: int) -> tuple[int, Values]:
    rank, outcomes = _TRANSACTIONS[event_type]
    given = payload.get("responseCode")
    code = 1 if given is None else _code(given)
    outcome = outcomes.get(_ANY) or (None if code is None else outcomes.get(code))
    shown_code = None if given is None or code is None else str(code)
    if outcome is None and event_type in _FOLLOW_UPS:
        # Write a missing code as None: otherwise the code of the failure before would stay.
        return rank, {"last_failure_at": str(at), "last_failure_type": event_type, "last_failure_code": shown_code}
    amount = _amount(payload.get("authAmount"))
    values = _newest(event_type, at, {
        "requested_amount": None if event_type in _FOLLOW_UPS else amount,
        "kind": "refund" if event_type == "net.authorize.payment.refund.created" else None,  # None: the transaction is a charge
        "response_code": shown_code,
        "auth_code": _text(payload.get("authCode")),
        "avs_response": _text(payload.get("avsResponse")),
        "invoice_number": _text(payload.get("invoiceNumber")),
        "merchant_reference": _text(payload.get("merchantReferenceId")),
        "fraud_filters": _fraud_filters(payload.get("fraudList")),
    })  # fmt: skip
    if outcome is None:
        return rank, values
    values["state"] = outcome.state
    for name in outcome.sets:
        value = amount if name.endswith("_amount") else str(at)
        if value is not None or name == "approved_amount":  # the fact's presence means that the approval came
            values[name] = value
    return rank, values | dict.fromkeys(outcome.erases)


def _newest(event_type: str, at: int, values: Values) -> Values:
    """Returns the values that are not None, together with the date and the type of the event."""
    present: Values = {name: value for name, value in values.items() if value is not None}
    present["last_event_at"] = str(at)
    present["last_event_type"] = event_type
    return present


# Subscriptions: event type → its rank, the status that the type means, and whether this status overrides the payload's status:
# the payload of an event that suspends or ends a subscription can still have the status from before.
_SUBSCRIPTIONS: dict[str, tuple[int, str | None, bool]] = {
    "net.authorize.customer.subscription.created": (1, "active", False),
    "net.authorize.customer.subscription.updated": (2, None, False),
    "net.authorize.customer.subscription.expiring": (3, None, False),
    "net.authorize.customer.subscription.failed": (4, None, False),
    "net.authorize.customer.subscription.suspended": (5, "suspended", True),
    "net.authorize.customer.subscription.expired": (6, "expired", True),
    "net.authorize.customer.subscription.cancelled": (7, "canceled", True),
    "net.authorize.customer.subscription.terminated": (8, "terminated", True),
}


def _subscription(event_type: str, payload: dict[str, Any], at: int) -> tuple[int, Values]:
    rank, status, holds = _SUBSCRIPTIONS[event_type]
    given = payload.get("status")
    if not holds and isinstance(given, str) and (text := _text(given)):
        status = text.lower()
        status = "canceled" if status == "cancelled" else status  # the event's type has "cancelled", the status "canceled"
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
    return rank, _newest(event_type, at, values)


# Customers and payment profiles: event type → its rank, and the state.
_PROFILES: dict[str, tuple[int, str]] = {
    f"net.authorize.customer.{entity}{change}": meaning
    for entity in ("", "paymentProfile.")
    for change, meaning in {"created": (1, "active"), "updated": (2, "active"), "deleted": (3, "deleted")}.items()
}


def _customer(event_type: str, payload: dict[str, Any], at: int) -> tuple[int, Values]:
    rank, state = _PROFILES[event_type]
    return rank, _newest(event_type, at, {
        "state": state,
        "merchant_customer_id": _text(payload.get("merchantCustomerId")),
        "payment_profile_ids": _payment_profile_ids(payload.get("paymentProfiles")),
    })  # fmt: skip


def _payment_profile(event_type: str, payload: dict[str, Any], at: int) -> tuple[int, Values]:
    rank, state = _PROFILES[event_type]
    return rank, _newest(event_type, at, {
        "state": state,
        "customer_profile_id": _text(payload.get("customerProfileId")),
        "customer_type": _text(payload.get("customerType")),
    })  # fmt: skip


# Event type → the kind of entity, and the function that reads the payload: it returns the rank and the facts' values.
_ENTITIES: dict[str, tuple[str, Callable[[str, dict[str, Any], int], tuple[int, Values]]]] = {
    **dict.fromkeys(_TRANSACTIONS, ("transaction", _transaction)),
    **dict.fromkeys(_SUBSCRIPTIONS, ("subscription", _subscription)),
    **{
        name: ("customerPaymentProfile", _payment_profile) if ".paymentProfile." in name else ("customerProfile", _customer)
        for name in _PROFILES
    },
}


def _text(value: object) -> str | None:
    """Returns text without the white space around it, or a whole number (7 and 7.0) as text.

    None for other values, and if the text is empty, too long, or not storable in PostgreSQL (U+0000, half a surrogate pair).
    """
    if isinstance(value, Decimal) and (number := money(value)) is not None and number == int(number):
        value = int(number)
    if isinstance(value, int) and not isinstance(value, bool):
        value = str(value)
    if not isinstance(value, str) or len(value) > _LONGEST or "\x00" in value:
        return None
    try:
        value.encode()
    except UnicodeEncodeError:
        return None
    return value.strip() or None


def _code(value: object) -> int | None:
    """Returns a responseCode, given as 1, 1.0, "1" or " 1 "; None if the value cannot be a responseCode."""
    number = money(value)
    return int(number) if number is not None and 0 <= number <= _GREATEST_CODE and number == int(number) else None


def _amount(value: object) -> str | None:
    amount = money(value)
    return None if amount is None else format(amount, "f")


def _date(value: object) -> str | None:
    """Returns an ISO date as microseconds since 1970; a date without a zone is UTC. None for any other value."""
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
    """Returns the list as JSON; None if a part of the list is odd, since the rest would look like the whole list."""
    if not isinstance(value, list):
        return None
    names = ("fraudFilter", "fraudAction")
    kept = [{name: text for name in names if (text := _text(_object(item).get(name)))} for item in value]
    return orjson.dumps(kept).decode() if all("fraudFilter" in item for item in kept) else None


def _payment_profile_ids(value: object) -> str | None:
    """Returns the ids as a JSON list; None if an id is odd."""
    if not isinstance(value, list):
        return None
    ids = [_text(_object(item).get("id")) for item in value]
    return None if None in ids else orjson.dumps(ids).decode()
