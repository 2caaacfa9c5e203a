"""Tests of the facts of transactions: states, what is kept, and merging in any order."""

from __future__ import annotations

import dataclasses
import itertools
import random
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from functools import reduce
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from webhookd.authorizenet.api import reading
from webhookd.authorizenet.api.results import Batch, ReturnedItem, SubscriptionPayment, TransactionRow
from webhookd.authorizenet.settlement import Facts, State, merge, merge_all, of_details, of_row, state_of, unknown_statuses

NOW = datetime(2026, 11, 27, 12, tzinfo=UTC)
STATUSES = {
    "authorizedPendingCapture": State.AUTHORIZED,
    "capturedPendingSettlement": State.PENDING,
    "settledSuccessfully": State.SETTLED,
    "refundPendingSettlement": State.REFUND_PENDING,
    "refundSettledSuccessfully": State.REFUND_SETTLED,
    "FDSPendingReview": State.HELD,
    "FDSAuthorizedPendingReview": State.HELD,
    "approvedReview": State.AUTHORIZED,
    "failedReview": State.DECLINED,
    "underReview": State.HELD,
    "authorizedPendingRelease": State.AUTHORIZED,
    "declined": State.DECLINED,
    "voided": State.VOIDED,
    "expired": State.EXPIRED,
    "couldNotVoid": State.PENDING,
    "communicationError": State.ERROR,
    "generalError": State.ERROR,
    "pendingSettlement": State.PENDING,
    "pendingFinalSettlement": State.PENDING,
    "updatingSettlement": State.PENDING,
    "settlementError": State.SETTLEMENT_FAILED,
    "returnedItem": State.RETURN,
    "chargeback": State.CHARGEBACK,
    "chargebackReversal": State.CHARGEBACK_REVERSAL,
}
# The answer has what must not be kept: a name, a card number, an address, an e-mail address and bank data.
DETAILS = {
    "transaction": {
        "transId": "2148382212",
        "refTransId": "2148382000",
        "submitTimeUTC": "2012-01-12T02:21:53.42Z",
        "transactionType": "authCaptureTransaction",
        "transactionStatus": "settledSuccessfully",
        "subscription": {"id": 77, "payNum": 3},
        "batch": {
            "batchId": "10097820",
            "settlementTimeUTC": "2012-01-12T02:21:55.237Z",
            "settlementState": "settledSuccessfully",
        },
        "order": {"invoiceNumber": "INV-1", "description": "SECRET"},
        "authAmount": Decimal("20.00"),
        "settleAmount": Decimal("12.10"),
        "payment": {"bankAccount": {"routingNumber": "SECRET", "accountNumber": "SECRET", "nameOnAccount": "SECRET"}},
        "customer": {"email": "SECRET"},
        "billTo": {"firstName": "SECRET", "address": "SECRET"},
        "returnedItems": [{"id": "2148382213", "dateUTC": "2012-01-12T02:22:15Z", "code": "R03", "description": "SECRET"}],
    }
}


def batch(identifier: str = "b1", state: str = "settledSuccessfully") -> Batch:
    return Batch(identifier, state, NOW, "creditCard", ())


def row(status: str = "settledSuccessfully", *, returns: bool = False) -> TransactionRow:
    payment = SubscriptionPayment("77", 3)
    return TransactionRow("1", status, NOW - timedelta(days=1), Decimal("6.00"), "Visa", "INV-1", payment, returns)


@pytest.mark.parametrize(("status", "state"), STATUSES.items())
def test_each_status_of_the_provider_has_its_state(status: str, state: State) -> None:
    assert state_of(status) is state
    assert state_of(status.upper()) is state


def test_an_unknown_status_is_kept_and_counted() -> None:
    facts = [dataclasses.replace(of_row(row("quantumSettled"), NOW), id=number) for number in "123"]
    assert facts[0].status == "quantumSettled"
    assert facts[0].state is State.UNKNOWN
    assert facts[0].state.is_open
    assert unknown_statuses([*facts, of_row(row("x" * 500), NOW), of_row(row(), NOW)]) == {"quantumSettled": 3, "x" * 60: 1}


def test_an_unknown_status_outranks_an_open_one_and_no_final_one() -> None:
    unknown, pending, settled = (
        of_row(row(one), NOW) for one in ("quantumSettled", "capturedPendingSettlement", "settledSuccessfully")
    )
    assert merge(unknown, pending).status == "quantumSettled"
    assert merge(unknown, settled).status == "settledSuccessfully"


def test_a_row_and_its_details_give_the_facts() -> None:
    listed = of_row(row(), NOW, batch())
    assert (listed.batch_id, listed.settled_at, listed.amount, listed.account_type) == ("b1", NOW, Decimal("6.00"), "Visa")
    assert (listed.subscription_id, listed.payment_number, listed.invoice_number) == ("77", 3, "INV-1")
    assert not listed.detailed
    found = of_details(reading.transaction(DETAILS), NOW)
    assert (found.amount, found.ref_transaction_id, found.batch_id) == (Decimal("12.10"), "2148382000", "10097820")
    assert (found.subscription_id, found.payment_number, found.echeck, found.detailed) == ("77", 3, True, True)
    assert [(one.id, one.code) for one in found.returned_items] == [("2148382213", "R03")]
    assert found.state is State.RETURNED
    assert found.settlement is State.SETTLED


def test_facts_have_only_the_allowed_fields() -> None:
    found = of_details(reading.transaction(DETAILS), NOW)
    assert "SECRET" not in repr(found)
    assert {one.name for one in dataclasses.fields(Facts)} == {
        "id", "status", "seen_at", "amount", "batch_id", "settled_at", "submitted_at", "type", "ref_transaction_id",
        "account_type", "invoice_number", "subscription_id", "payment_number", "echeck", "detailed", "lists_returns",
        "returned_items", "failed_batches",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("facts", "needs"),
    [
        (of_row(row(), NOW, batch()), False),
        (of_row(row(), NOW), True),
        (of_row(row(returns=True), NOW, batch()), True),
        (of_row(row("refundSettledSuccessfully"), NOW, batch()), True),
        (of_row(row("settlementError"), NOW, batch()), True),
        (of_details(reading.transaction(DETAILS), NOW), False),
        (of_row(row("declined"), NOW, batch()), False),
    ],
)
def test_details_are_needed_for_what_lists_do_not_have(facts: Facts, needs: bool) -> None:
    assert facts.needs_details is needs


def test_a_list_that_reports_a_return_makes_the_transaction_returned() -> None:
    assert of_row(row(returns=True), NOW, batch()).state is State.RETURNED


def test_a_stale_look_takes_no_settlement_back() -> None:
    settled, stale = of_row(row(), NOW, batch()), of_row(row("capturedPendingSettlement"), NOW + timedelta(days=1))
    assert merge(settled, stale).state is State.SETTLED
    assert merge(stale, settled).batch_id == "b1"


def test_the_rank_of_a_state_decides_however_late_a_lower_one_was_seen() -> None:
    ranked = [
        "FDSPendingReview",
        "authorizedPendingCapture",
        "capturedPendingSettlement",
        "newText",
        "generalError",
        "declined",
    ]
    ranked += ["expired", "voided", "settlementError", "settledSuccessfully", "chargeback", "chargebackReversal"]
    for low, high in itertools.pairwise(ranked):
        stale, true = of_row(row(low), NOW + timedelta(days=1)), of_row(row(high), NOW)
        assert merge(stale, true).status == merge(true, stale).status == high


@pytest.mark.parametrize(
    "change",
    [{"batch_id": "b2"}, {"status": "SETTLEDSUCCESSFULLY"}, {"amount": Decimal(7)}, {"settled_at": NOW - timedelta(1)}],
)
def test_of_two_looks_at_the_same_time_the_same_one_decides_in_both_orders(change: dict[str, Any]) -> None:
    one = of_row(row(), NOW, batch())
    other = dataclasses.replace(one, **change)
    assert merge(one, other) == merge(other, one)


def test_a_batch_that_failed_can_settle_later_and_not_the_other_way_round() -> None:
    failed = of_row(row("settlementError"), NOW, batch("b1", "settlementError"))
    settled = of_row(row(), NOW + timedelta(days=1), batch("b2"))
    for found in (merge(failed, settled), merge(settled, failed)):
        assert (found.state, found.batch_id, found.failed_batches) == (State.SETTLED, "b2", frozenset({"b1"}))


def test_facts_of_two_transactions_are_not_merged() -> None:
    with pytest.raises(ValueError, match="two transactions"):
        merge(of_row(row(), NOW), dataclasses.replace(of_row(row(), NOW), id="2"))


def _some(values: st.SearchStrategy[str]) -> st.SearchStrategy[str | None]:
    return st.none() | values


_ITEMS = st.builds(ReturnedItem, st.sampled_from(["i1", "i2"]), st.sampled_from([None, NOW]), st.sampled_from([None, "R03"]))
LOOKS = st.builds(
    Facts,
    id=st.just("1"),
    status=st.sampled_from([*STATUSES, "quantumSettled"]),
    seen_at=st.integers(0, 9).map(lambda days: NOW + timedelta(days=days)),
    amount=st.sampled_from([None, Decimal("1.00"), Decimal("2.50")]),
    batch_id=_some(st.sampled_from(["b1", "b2"])),
    settled_at=st.sampled_from([None, NOW, NOW + timedelta(days=2)]),
    submitted_at=st.sampled_from([None, NOW - timedelta(days=1)]),
    type=_some(st.sampled_from(["authCaptureTransaction", "refundTransaction"])),
    ref_transaction_id=_some(st.sampled_from(["8", "9"])),
    account_type=_some(st.sampled_from(["Visa", "eCheck"])),
    payment_number=st.sampled_from([None, 1, 2]),
    detailed=st.booleans(),
    lists_returns=st.booleans(),
    returned_items=st.lists(_ITEMS, max_size=2, unique_by=lambda one: one.id).map(
        lambda items: tuple(sorted(items, key=lambda one: one.id))
    ),
    failed_batches=st.frozensets(st.sampled_from(["b1", "b2"])),
)


@given(st.lists(LOOKS, min_size=1, max_size=6), st.randoms(use_true_random=False))
def test_the_order_and_the_repetition_of_looks_change_nothing(looks: list[Facts], chance: random.Random) -> None:
    wanted = reduce(merge, looks)
    shuffled = looks + chance.choices(looks, k=3)
    chance.shuffle(shuffled)
    assert reduce(merge, shuffled) == wanted
    assert merge_all(shuffled) == {"1": wanted}
    middle = chance.randrange(len(shuffled))
    if middle:
        assert merge(reduce(merge, shuffled[:middle]), reduce(merge, shuffled[middle:])) == wanted


@given(LOOKS, LOOKS)
def test_a_merge_forgets_no_returned_item_and_no_fixed_value(a: Facts, b: Facts) -> None:
    found = merge(a, b)
    assert {one.id for one in found.returned_items} == {one.id for one in (*a.returned_items, *b.returned_items)}
    assert (found.submitted_at is None) == (a.submitted_at is None and b.submitted_at is None)
    assert found.ref_transaction_id in {a.ref_transaction_id, b.ref_transaction_id}
    if found.settlement is not State.UNKNOWN and not found.settlement.is_open:
        assert not (a.settlement.is_open and b.settlement.is_open)
