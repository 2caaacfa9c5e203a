"""Events that no webhook reports: webhookd makes them from a change of a transaction's facts. Pure functions, without I/O.

An event's id is a UUIDv5 of the account, the type, the transaction and the batch or the returned item. So a repeated sweep,
even one that forgot all facts, makes events that the ledger knows already.

The rules, on top of those of `settlement.merge`:

1. No event comes before the id that names it: a settlement needs its batch, a return needs its returned item.
2. A transaction settles once, expires once, and is held too long once. It fails once for each batch and returns once for
   each item.
3. What a higher state made untrue is not reported any more: no failure, expiry or hold after the settlement. If a settlement
   follows a state without money that was reported or known, the event's payload has this state as `corrects`.

Commit the events first, then the merged facts. A crash in between makes the same events again, which are duplicates. Facts
without their events would lose the events.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from decimal import Decimal
from typing import NamedTuple
from uuid import UUID, uuid5

from webhookd.authorizenet.settlement import Facts, State, merge
from webhookd.settings.synthetic_types import SyntheticType

HELD_LIMIT = timedelta(days=3)  # the provider's own limits are likely five days and, for authorised ones, thirty
_NAMESPACE = UUID("5f0a4b0c-7d6e-5b57-9d3e-3a8c1f2e6b90")  # never change it: all events would come a second time

Value = str | int | Decimal


# Of a transaction with one of these, no other one of these is reported.
_SETTLED = {State.SETTLED: SyntheticType.SETTLED, State.REFUND_SETTLED: SyntheticType.REFUND_SETTLED}
_WITHOUT_MONEY = (State.ERROR, State.DECLINED, State.EXPIRED, State.VOIDED, State.SETTLEMENT_FAILED)


class _Milestone(NamedTuple):
    """The reason of an event. `key`: the batch or the returned item, or "" if the type occurs once in a life."""

    type: SyntheticType
    key: str
    at: datetime | None


@dataclass(slots=True, frozen=True)
class SyntheticEvent:
    """An event for the ledger.

    entity_id: the id of the transaction, or of the subscription.
    at: the provider's date: of the settlement, of the return; for a hold, the time from which it was too long. None if the
        provider reports none. The time of the look never stands here: the event must be the same after each sweep.
    payload: JSON's values, with amounts as Decimal. `id` and `entityName` are named as in the provider's own payloads.
    """

    id: UUID
    type: SyntheticType
    account: str
    entity_id: str
    at: datetime | None
    payload: Mapping[str, Value] = field(default_factory=dict)


class Change(NamedTuple):
    """The result of a look: the facts to store, and the events to store before them."""

    facts: Facts
    events: tuple[SyntheticEvent, ...]


def observe(account: str, before: Facts | None, seen: Facts, held_limit: timedelta = HELD_LIMIT) -> Change:
    """Adds a look at a transaction to its facts, and returns the events of what is new.

    before: the facts from the last time; None at the first look.
    held_limit: the time after which a held transaction is held too long. If you shorten it, a transaction that was already
        held for longer at its last look makes no event.
    """
    after = seen if before is None else merge(before, seen)
    reached = set(_milestones(before, held_limit)) if before else set()
    done = {(one.type, one.key) for one in reached}
    settled = any(one.type in _SETTLED.values() for one in reached)
    events = [
        _event(account, one, before, after)
        for one in sorted(set(_milestones(after, held_limit)), key=lambda one: (list(SyntheticType).index(one.type), one.key))
        if (one.type, one.key) not in done and not (settled and one.type in _SETTLED.values())
    ]
    return Change(after, tuple(events))


def event_id(account: str, event_type: SyntheticType, transaction_id: str, key: str = "") -> UUID:
    """Returns the id of an event. `key`: the id of the batch or of the returned item."""
    return uuid5(_NAMESPACE, json.dumps([account, event_type, transaction_id, key]))


def _milestones(facts: Facts, held_limit: timedelta) -> Iterator[_Milestone]:
    state = facts.settlement
    if state in _SETTLED and facts.batch_id is not None:
        yield _Milestone(_SETTLED[state], facts.batch_id, facts.settled_at)
    if state is State.SETTLEMENT_FAILED:
        for batch_id in facts.failed_batches:
            yield _Milestone(
                SyntheticType.SETTLEMENT_FAILED, batch_id, facts.settled_at if batch_id == facts.batch_id else None
            )
    for item in facts.returned_items:
        yield _Milestone(SyntheticType.RETURNED, item.id, item.returned_at)
    if state is State.EXPIRED:
        yield _Milestone(SyntheticType.EXPIRED, "", None)
    if state is State.HELD and facts.submitted_at is not None and facts.seen_at - facts.submitted_at >= held_limit:
        yield _Milestone(SyntheticType.HELD_TOO_LONG, "", facts.submitted_at + held_limit)


def _event(account: str, reason: _Milestone, before: Facts | None, facts: Facts) -> SyntheticEvent:
    in_batch = reason.type in (*_SETTLED.values(), SyntheticType.SETTLEMENT_FAILED)
    codes = {one.id: one.code for one in facts.returned_items}
    corrected = reason.type in _SETTLED.values() and before is not None and before.settlement in _WITHOUT_MONEY
    payload: dict[str, Value | None] = {
        "id": facts.id,
        "entityName": "transaction",
        "status": facts.status,
        "settleAmount": facts.amount,
        "batchId": reason.key if in_batch else facts.batch_id,
        "refTransId": facts.ref_transaction_id,
        "invoiceNumber": facts.invoice_number,
        "subscriptionId": facts.subscription_id,
        "paymentNumber": facts.payment_number,
        "returnedItemId": reason.key if reason.type is SyntheticType.RETURNED else None,
        "returnCode": codes.get(reason.key) if reason.type is SyntheticType.RETURNED else None,
        "corrects": before.settlement.value if corrected and before else None,
    }
    known = {name: value for name, value in payload.items() if value is not None}
    identifier = event_id(account, reason.type, facts.id, reason.key)
    return SyntheticEvent(identifier, reason.type, account, facts.id, reason.at, known)
