"""The built-in handler: one row a transaction, subscription, customer and payment profile, right under any order of arrival.

Each event becomes facts, and a row is what its events' facts fold to. A fact is a last-writer-wins register `(at, rank, value)`;
`sql/migrations/0002_timeline.sql` tells how they fold, and what the columns are.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import orjson

from webhookd.event import Event, money
from webhookd.store.queries import queries

Register = tuple[int, int, Any]  # microseconds since 1970, rank, text or list of texts
Facts = dict[str, Register]

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_LONGEST = 500  # characters of a fact

# Of two states of one instant, the later one in a transaction's life.
_RANK = {"authorized": 1, "held": 2, "approved": 3, "captured": 4, "refunded": 4, "declined": 5, "error": 5, "voided": 6}
_STATE = {
    "payment.authorization.created": "authorized",
    "payment.authcapture.created": "captured",
    "payment.capture.created": "captured",
    "payment.priorAuthCapture.created": "captured",
    "payment.refund.created": "refunded",
    "payment.void.created": "voided",
    "payment.fraud.held": "held",
    "payment.fraud.approved": "approved",
    "payment.fraud.declined": "declined",
}
_BY_RESPONSE_CODE = {2: "declined", 3: "error", 4: "held"}

_STATUS = {
    "created": "active",
    "suspended": "suspended",
    "failed": "suspended",
    "terminated": "terminated",
    "cancelled": "canceled",  # the event's spelling, and the status's
    "expired": "expired",
}
_STATUS_RANK = {"active": 1, "suspended": 2, "expired": 3, "canceled": 4, "terminated": 5}


@dataclass(slots=True, frozen=True)
class Entry:
    """What one event tells about one entity."""

    table: str
    account: str
    entity_id: str
    at: datetime
    facts: Facts


def fold(a: Facts, b: Facts) -> Facts:
    """The facts of both: of two registers the greater one. The same as webhookd_fold in SQL."""
    folded = dict(a)
    for name, register in b.items():
        if name not in folded or _order(register) > _order(folded[name]):
            folded[name] = register
    return folded


def _order(register: Register) -> tuple[int, int, str]:
    at, rank, value = register
    return at, rank, value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)  # as PostgreSQL writes it


def _text(value: object) -> str | None:
    if isinstance(value, int) and not isinstance(value, bool):
        value = str(value) if value.bit_length() < 1000 else None
    if not isinstance(value, str) or not value or len(value) > _LONGEST or "\x00" in value:
        return None
    return value


def _texts(values: object, name: str) -> list[str] | None:
    if not isinstance(values, list):
        return None
    found = [text for value in values[:50] if isinstance(value, dict) and (text := _text(value.get(name)))]
    return found or None


def facts_of(event: Event) -> Entry | None:
    """What `event` tells, or None where it is about nothing that the timeline keeps. Odd fields are no facts."""
    kind = event.event_type.removeprefix("net.authorize.")
    tell: Callable[[str, dict[str, Any]], dict[str, tuple[int, Any]]]
    if kind in _STATE:
        table, tell = "transactions", _transaction
    elif kind.startswith("customer.subscription."):
        table, tell = "subscriptions", _subscription
    elif kind.startswith("customer.paymentProfile."):
        table, tell = "payment_profiles", _payment_profile
    elif kind in ("customer.created", "customer.updated", "customer.deleted"):
        table, tell = "customers", _customer
    else:
        return None
    payload = event.payload
    entity_id = _text(payload.get("id"))
    if entity_id is None or len(entity_id) > 200 or (table == "transactions" and entity_id == "0"):
        return None  # "0" is what test transactions share: no entity
    when = event.event_date or event.received_at
    at = (when - _EPOCH) // timedelta(microseconds=1)
    told = {name: ranked for name, ranked in tell(kind, payload).items() if ranked[1] is not None}
    told["last"] = (told.get("state", told.get("status", (0, None)))[0], event.event_type)
    return Entry(table, event.account, entity_id, when, {name: (at, rank, value) for name, (rank, value) in told.items()})


def _transaction(kind: str, payload: dict[str, Any]) -> dict[str, tuple[int, Any]]:
    code = payload.get("responseCode")
    code = code if isinstance(code, int) and not isinstance(code, bool) and 0 <= code < 1000 else None
    state: str | None = _STATE[kind]
    if "fraud" not in kind and code not in (None, 1):
        # What was asked for did not happen; a void that failed leaves its transaction as it was.
        state = None if state == "voided" else _BY_RESPONSE_CODE.get(code or 0)
    amount = money(payload.get("authAmount"))
    told: dict[str, tuple[int, Any]] = {
        "response_code": (_RANK.get(state or "", 0), None if code is None else str(code)),
        "auth_code": (0, _text(payload.get("authCode"))),
        "avs_response": (0, _text(payload.get("avsResponse"))),
        "invoice_number": (0, _text(payload.get("invoiceNumber"))),
        "merchant_reference": (0, _text(payload.get("merchantReferenceId"))),
        "fraud_filters": (0, _texts(payload.get("fraudList"), "fraudFilter")),
        "kind": (0, "refund" if kind == "payment.refund.created" else None),
    }
    if state is not None:
        told["state"] = (_RANK[state], state)
        told[state] = (0, kind)  # when it came about; the instant is what counts
        if state in ("authorized", "captured", "refunded"):
            told[f"{state}_amount"] = (0, None if amount is None else format(amount, "f"))
    return told


def _subscription(kind: str, payload: dict[str, Any]) -> dict[str, tuple[int, Any]]:
    what = kind.rpartition(".")[2]
    status = _text(payload.get("status"))
    status = _STATUS.get(what) if status is None else status.strip().lower()
    if status == "cancelled":
        status = "canceled"
    amount = money(payload.get("amount"))
    profile = payload.get("profile")
    profile = profile if isinstance(profile, dict) else {}
    told: dict[str, tuple[int, Any]] = {
        "name": (0, _text(payload.get("name"))),
        "amount": (0, None if amount is None else format(amount, "f")),
        "status": (_STATUS_RANK.get(status or "", 0), status),
        "customer_profile_id": (0, _text(profile.get("customerProfileId"))),
        "payment_profile_id": (0, _text(profile.get("customerPaymentProfileId"))),
        "shipping_address_id": (0, _text(profile.get("customerShippingAddressId"))),
    }
    if what == "failed":
        details = payload.get("transactionDetails")
        details = details if isinstance(details, dict) else {}
        told["failed"] = (0, what)
        told["last_failure_transaction_id"] = (0, _text(details.get("transId")))
        told["last_failure_error"] = (0, _text(details.get("error")))
    return told


def _customer(kind: str, payload: dict[str, Any]) -> dict[str, tuple[int, Any]]:
    return {
        **_existence(kind),
        "merchant_customer_id": (0, _text(payload.get("merchantCustomerId"))),
        "payment_profile_ids": (0, _texts(payload.get("paymentProfiles"), "id")),
    }


def _payment_profile(kind: str, payload: dict[str, Any]) -> dict[str, tuple[int, Any]]:
    return {
        **_existence(kind),
        "customer_profile_id": (0, _text(payload.get("customerProfileId"))),
        "customer_type": (0, _text(payload.get("customerType"))),
    }


def _existence(kind: str) -> dict[str, tuple[int, Any]]:
    return {"state": (2, "deleted") if kind.endswith(".deleted") else (1, "active")}


_KEEP = {
    "transactions": queries.keep_transactions,
    "subscriptions": queries.keep_subscriptions,
    "customers": queries.keep_customers,
    "payment_profiles": queries.keep_payment_profiles,
}


async def keep_timeline(event: Event, connection: Any) -> None:
    """The handler: one statement for an event that the timeline knows, none for another."""
    entry = facts_of(event)
    if entry is not None:
        await _KEEP[entry.table](
            connection,
            account=entry.account,
            entity_id=entry.entity_id,
            at=entry.at,
            facts=orjson.dumps(entry.facts).decode(),
        )
