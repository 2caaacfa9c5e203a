"""The rules of details: which events have them, when stored facts serve an event, and what an answer lacks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest

from webhookd import Details
from webhookd.authorizenet.api.results import ReturnedItem, SubscriptionPayment, Transaction
from webhookd.authorizenet.details import are_good_for, can_have_details, details_of, missing_part, transaction_of
from webhookd.authorizenet.notification import EVENT_TYPES, PREFIX
from webhookd.authorizenet.settlement import Facts
from webhookd.errors import DetailsNotYetError, HandlerError, Permanent
from webhookd.event import Event, Status, give_details, missed_details
from webhookd.process.decision import GiveUp
from webhookd.process.details import LIMIT, EventDetails, missing, wait_or_give_up
from webhookd.process.handlers import Registry
from webhookd.settings.synthetic_types import SyntheticType
from webhookd.store.details import Known
from webhookd.store.event_store import Claimed
from webhookd.testing import MisuseError, event

NOW = datetime(2026, 11, 26, 12, tzinfo=UTC)
SALE = f"{PREFIX}payment.authcapture.created"
CAPTURE = f"{PREFIX}payment.priorAuthCapture.created"
make: Callable[..., Any] = event  # for values that mypy refuses


async def handler(event: Event, connection: Any) -> None:
    """A handler."""


def facts(status: str = "capturedPendingSettlement", *, detailed: bool = True, seen_at: datetime = NOW) -> Facts:
    return Facts("60000000010", status, seen_at, amount=Decimal("7.10"), detailed=detailed, invoice_number="Jane Doe 7")


def answer(status: str = "capturedPendingSettlement", *, recurring: bool = False, linked: bool = False) -> Transaction:
    payment = SubscriptionPayment("4415001", 1) if linked else None
    nothing: Any = dict.fromkeys(Transaction.__slots__)
    known = {"id": "1", "status": status, "subscription_payment": payment, "returned_items": (), "recurring": recurring}
    return Transaction(**nothing | known)


def claimed(of: Event, *, failed: bool = False) -> Claimed:
    return Claimed(of, Status.QUEUED, 0, None, 1, True, "1", None, failed)


def test_only_events_of_transactions_have_details() -> None:
    with_details = {name for name in EVENT_TYPES if can_have_details(name)}
    assert with_details == {name for name in EVENT_TYPES if name.startswith(f"{PREFIX}payment.")}
    assert can_have_details("webhookd.transaction.settled")


@pytest.mark.parametrize(
    ("payload", "found"),
    [
        ({"entityName": "transaction", "id": "60000000010"}, "60000000010"),
        ({"entityName": "Transaction", "id": 60000000010}, "60000000010"),
        ({"entityName": "transaction", "id": "0"}, None),
        ({"entityName": "transaction", "id": "7; DROP"}, None),
        ({"entityName": "transaction", "id": "\u0667"}, None),
        ({"entityName": "transaction", "id": "1" * 41}, None),
        ({"entityName": "subscription", "id": "4415001"}, None),
        ({"id": "60000000010"}, None),
        ({}, None),
    ],
)
def test_the_transaction_of_an_event_is_in_its_payload(payload: dict[str, Any], found: str | None) -> None:
    assert transaction_of(payload) == found


def test_stored_facts_serve_an_event_if_they_are_details_and_no_older_than_the_event() -> None:
    second = timedelta(seconds=1)
    assert are_good_for(facts(), SALE, NOW)
    assert are_good_for(facts(), SALE, NOW - second)
    assert not are_good_for(facts(), SALE, NOW + second), "the transaction may have changed since"
    assert not are_good_for(facts(detailed=False), SALE, NOW), "a list has no type"
    assert are_good_for(facts("settledSuccessfully"), SALE, NOW + second), "a final state"
    assert not are_good_for(facts("authorizedPendingCapture"), CAPTURE, NOW), "an answer from before the capture"


@pytest.mark.parametrize(
    ("kind", "before", "after"),
    [
        (SyntheticType.SETTLED, "settlementError", "settledSuccessfully"),
        (SyntheticType.REFUND_SETTLED, "settlementError", "refundSettledSuccessfully"),
        (SyntheticType.SETTLEMENT_FAILED, "generalError", "settlementError"),
        (SyntheticType.SETTLEMENT_FAILED, "voided", "settledSuccessfully"),
        (SyntheticType.EXPIRED, "declined", "expired"),
    ],
)
def test_final_facts_from_before_a_synthetic_event_do_not_serve_it(kind: SyntheticType, before: str, after: str) -> None:
    assert not are_good_for(facts(before), kind, NOW)
    assert are_good_for(facts(after), kind, NOW)


def test_facts_without_the_return_do_not_serve_the_event_of_a_return() -> None:
    settled = facts("settledSuccessfully")
    assert not are_good_for(settled, SyntheticType.RETURNED, NOW)
    assert are_good_for(replace(settled, returned_items=(ReturnedItem("9", NOW, "R03"),)), SyntheticType.RETURNED, NOW)


def test_an_answer_lacks_a_subscription_only_if_it_is_a_recurring_charge() -> None:
    assert missing_part(SALE, answer()) is None
    assert missing_part(SALE, answer(recurring=True, linked=True)) is None
    assert "subscription" in (missing_part(SALE, answer(recurring=True)) or "")


def test_an_answer_from_before_the_event_is_asked_for_again() -> None:
    assert "older than the event" in (missing_part(CAPTURE, answer("authorizedPendingCapture")) or "")
    assert missing_part(SALE, answer("authorizedPendingCapture")) is None


def test_the_repr_of_details_has_nothing_that_a_person_wrote() -> None:
    details = details_of(facts())
    assert details.invoice_number == "Jane Doe 7"
    assert repr(details) == "Details(transaction_id='60000000010', status='capturedPendingSettlement', state='pending')"


def test_an_event_without_details_ends_the_attempt_and_notes_it() -> None:
    sale = event("payment.authcapture.created")
    assert missing(sale) is None
    with pytest.raises(DetailsNotYetError):
        sale.details()
    assert missed_details(sale)
    failure = missing(sale)
    assert failure is not None
    assert failure.waits_for == sale.payload["id"]
    give_details(sale, details_of(facts()))
    assert sale.details().amount == Decimal("7.10")


def test_an_event_that_is_not_about_a_transaction_has_no_details() -> None:
    with pytest.raises(Permanent, match="has no details"):
        event("customer.subscription.created").details()
    with pytest.raises(Permanent, match="is a test"):
        event("payment.authcapture.created", id="0").details()


@pytest.mark.parametrize("pattern", ["customer.subscription.failed", "customer.*", "*", "webhookd.subscription.payment_failed"])
def test_details_true_is_refused_for_a_type_that_has_none(pattern: str) -> None:
    with pytest.raises(
        HandlerError, match=r'details=True\) matches the type "(net.authorize.customer|webhookd.subscription)\.'
    ):
        Registry().add(pattern, handler, details=True)


@pytest.mark.parametrize("pattern", ["payment.*", "payment.refund.created", "webhookd.transaction.*"])
def test_details_true_is_taken_for_types_of_transactions(pattern: str) -> None:
    registry = Registry()
    registry.add(pattern, handler, details=True)
    registry.add("customer.*", handler)
    (first, _) = registry
    assert registry.wants_details(first.pattern.replace("*", "refund.created"))
    assert not registry.wants_details(f"{PREFIX}customer.created")


class NoStore:
    """Stands for PostgreSQL; a look fails the test."""

    looks = 0

    async def look(self, *_: Any) -> Known:
        self.looks += 1
        return Known(None, False, False, NOW, None, None, True)


async def test_nothing_is_read_for_an_event_whose_handlers_want_no_details() -> None:
    store: Any = NoStore()
    registry = Registry()
    registry.add("payment.refund.created", handler, details=True)
    registry.add("*", handler)
    details = EventDetails(store, registry)
    nothing: Any = None
    sale = event("payment.authcapture.created")
    assert await details.give(nothing, claimed(sale)) == (False, None)
    assert await details.give(nothing, claimed(event("customer.created"), failed=True)) == (False, None)
    assert store.looks == 0
    assert await details.give(nothing, claimed(sale, failed=True)) == (False, None), "a handler may ask without waiting"
    _, failure = await details.give(nothing, claimed(event("payment.refund.created")))
    assert failure is not None
    assert failure.waits_for
    assert store.looks == 2


def test_a_wait_names_its_reason_and_ends_with_it() -> None:
    waits = Known(None, False, True, NOW, 60.0, "the provider is away", True)
    told = wait_or_give_up("main", "7", waits)
    assert told == "waits for Authorize.Net's details of transaction 7 since 2026-11-26 12:00:00 UTC: the provider is away"
    over = wait_or_give_up("main", "7", waits._replace(waited=LIMIT))
    assert over == GiveUp("details_missing", "the details of transaction 7 did not come within 24 h: the provider is away")
    nobody = wait_or_give_up("main", "7", Known(None, False, False, NOW, None, None, False))
    assert isinstance(nobody, str)
    assert "no process asks Authorize.Net for the account main: give its API Login ID" in nobody


def test_a_test_gives_details_by_name() -> None:
    own = event("payment.refund.created", amount="7.10", details={"ref_transaction_id": "60000000001", "batch_id": None})
    assert own.details() == Details(
        transaction_id=own.payload["id"],
        status="capturedPendingSettlement",
        state="pending",
        amount=Decimal("7.10"),
        ref_transaction_id="60000000001",
    )
    settled = event("payment.refund.created", details={"status": "refundSettledSuccessfully", "amount": "3.00"})
    assert (settled.details().state, str(settled.details().amount)) == ("refund settled", "3.00")


@pytest.mark.parametrize(
    ("event_type", "details", "problem"),
    [
        ("payment.refund.created", {"reference": "1"}, "the nearest is ref_transaction_id"),
        ("payment.refund.created", {"amount": 7.1}, "amount is an amount"),
        ("customer.created", {}, "have no details"),
    ],
)
def test_details_that_no_event_has_are_refused(event_type: str, details: dict[str, Any], problem: str) -> None:
    with pytest.raises(MisuseError, match=problem):
        make(event_type, details=details)
