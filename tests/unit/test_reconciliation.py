"""Tests of the reconciliation of a settlement day."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.test_batches import NONE
from webhookd.authorizenet.api.results import Batch, BatchStatistic, ReturnedItem
from webhookd.authorizenet.batches import Line, check
from webhookd.authorizenet.captures import Capture
from webhookd.authorizenet.findings import _TO_DO, Books, Finding, Kind
from webhookd.authorizenet.reconciliation import (
    Inputs,
    OurRow,
    Report,
    ShopRow,
    Unsettled,
    limits,
    reconcile,
    settlement_day,
)
from webhookd.authorizenet.settlement import Facts

ZONE = ZoneInfo("America/Los_Angeles")
DAY = date(2026, 11, 27)
SETTLED_AT = datetime(2026, 11, 27, 16, tzinfo=UTC)
ENDS = datetime(2026, 11, 28, 8, tzinfo=UTC)
AS_OF = ENDS + timedelta(hours=7)
SUBMITTED = datetime(2026, 11, 26, 20, tzinfo=UTC)
FIVE = Decimal("5.00")


def fact(number: str, status: str = "settledSuccessfully", batch_id: str | None = "b1", **values: Any) -> Facts:
    given: dict[str, Any] = {
        "amount": FIVE,
        "settled_at": SETTLED_AT,
        "submitted_at": SUBMITTED,
        "detailed": True,
        "account_type": "Visa",
    }
    return Facts(number, status, AS_OF, batch_id=batch_id, **(given | values))


def capture(
    number: str,
    subscription_id: str | None = None,
    payment_number: int | None = None,
    *,
    amount: Decimal = FIVE,
    submitted_at: datetime | None = SUBMITTED,
) -> Capture:
    return Capture(number, amount, submitted_at, subscription_id, payment_number)


def statistic(facts: Sequence[Facts]) -> BatchStatistic:
    found = NONE
    for one in facts:
        amount = one.amount or Decimal(0)
        match one.status:
            case "settledSuccessfully" | "settlementError":
                found = found._replace(charge_amount=found.charge_amount + amount, charge_count=found.charge_count + 1)
            case "refundSettledSuccessfully":
                found = found._replace(refund_amount=found.refund_amount + amount, refund_count=found.refund_count + 1)
            case "declined":
                found = found._replace(decline_count=found.decline_count + 1)
            case "voided":
                found = found._replace(void_count=found.void_count + 1)
    return found


def inputs(*facts: Facts, **values: Any) -> Inputs:
    """Returns the inputs of a day on which all books agree, with `values` in place of some of them."""
    words = {"settledSuccessfully": "captured", "refundSettledSuccessfully": "refunded"}
    batch = Batch("b1", "settledSuccessfully", SETTLED_AT, "creditCard", (statistic(facts),))
    rows = [(one.id, one.amount, words.get(one.status, one.status)) for one in facts]
    given: dict[str, Any] = {
        "checks": [check(batch, facts, complete=True)],
        "facts": facts,
        "ours": [OurRow(*one) for one in rows],
        "shop": [ShopRow(*one) for one in rows],
        "whole_days": {SUBMITTED.date()},
        "listed_at": AS_OF,
    }
    return Inputs(**(given | values))


def report(*facts: Facts, **values: Any) -> Report:
    return reconcile(DAY, ZONE, inputs(*facts, **values), AS_OF)


def found(*facts: Facts, **values: Any) -> list[tuple[Kind, Books, str]]:
    """Returns the findings, and asserts that they alone keep the report from being green."""
    result = report(*facts, **values)
    assert result.reasons == ()
    assert not result.is_green
    assert all(one.to_do for one in result.findings)
    touched = {number for one in result.findings for number in one.transactions}
    assert not touched & set(result.matched)
    return [(one.kind, one.books, one.subject) for one in result.findings]


SALE, OTHER = fact("1", invoice_number="A"), fact("2", invoice_number="B")
REFUND = fact("3", "refundSettledSuccessfully", type="refundTransaction", ref_transaction_id="1", amount=Decimal("2.00"))


def test_a_day_on_which_all_books_agree_is_green() -> None:
    result = report(SALE, OTHER, REFUND, fact("4", "declined"), fact("5", "voided"))
    assert result.is_green
    assert result.matched == ("1", "2", "3")
    assert (result.charged, result.refunded, result.without_money) == (Decimal("10.00"), Decimal("2.00"), 2)
    assert (result.begins, result.ends, result.as_of) == (datetime(2026, 11, 27, 8, tzinfo=UTC), ENDS, AS_OF)
    assert result.batches == ("b1",)
    assert result.totals["b1"]["visa"][Line.CHARGE_AMOUNT] == Decimal("10.00")


def test_a_transaction_that_moved_no_money_may_be_missing_in_the_books() -> None:
    assert report(SALE, fact("4", "declined"), ours=[OurRow("1", FIVE, "captured")], shop=[ShopRow("1", FIVE, None)]).is_green


def test_the_amount_of_a_transaction_that_moved_no_money_does_not_count() -> None:
    declined = fact("4", "declined", amount=None)
    assert report(declined, ours=[OurRow("4", FIVE, "declined")], shop=None).is_green


def test_ids_are_sorted_as_numbers() -> None:
    assert report(fact("10"), fact("9")).matched == ("9", "10")
    assert [one.subject for one in report(fact("10"), fact("9"), ours=[]).findings] == ["9", "10"]


def test_a_transaction_at_the_provider_that_is_missing_in_the_books_is_named() -> None:
    assert found(SALE, ours=[]) == [(Kind.NOT_HERE, Books.WEBHOOKD, "1")]
    assert found(SALE, shop=[]) == [(Kind.NOT_HERE, Books.SHOP, "1")]


def test_a_transaction_in_the_books_that_the_provider_does_not_have_is_named() -> None:
    ours = [*inputs(SALE).ours, OurRow("9", FIVE, "captured")]
    assert found(SALE, ours=ours) == [(Kind.NOT_AT_PROVIDER, Books.WEBHOOKD, "9")]
    assert report(SALE, ours=ours, elsewhere={"9"}).is_green
    shop = [ShopRow("1", FIVE, None), ShopRow("9", FIVE, None)]
    assert found(SALE, shop=shop) == [(Kind.NOT_AT_PROVIDER, Books.SHOP, "9")]


def test_the_shop_is_compared_only_if_its_rows_are_there() -> None:
    assert report(SALE, shop=None).is_green
    assert not report(SALE, shop=[]).is_green
    assert report(SALE, shop=[ShopRow("1", FIVE, "Captured")]).is_green


@pytest.mark.parametrize("amount", [Decimal("4.99"), Decimal("-5.00"), None])
def test_an_amount_that_differs_is_named(amount: Decimal | None) -> None:
    assert found(SALE, ours=[OurRow("1", amount, "captured")]) == [(Kind.AMOUNT_DIFFERS, Books.WEBHOOKD, "1")]
    assert found(SALE, shop=[ShopRow("1", amount, "captured")]) == [(Kind.AMOUNT_DIFFERS, Books.SHOP, "1")]


def test_an_amount_with_other_zeros_is_the_same() -> None:
    assert report(SALE, ours=[OurRow("1", Decimal(5), "captured")]).is_green


@pytest.mark.parametrize(
    ("facts", "state"),
    [
        (SALE, "voided"),
        (SALE, "authorized"),
        (fact("1", "voided"), "captured"),
        (fact("1", "declined"), "captured"),
        (fact("1", "settlementError"), "captured"),
        (replace(SALE, returned_items=(ReturnedItem("i1", None, "R03"),)), "captured"),
        (replace(REFUND, id="1", ref_transaction_id="7"), "captured"),
    ],
)
def test_a_state_that_differs_is_named(facts: Facts, state: str) -> None:
    own, shop = [OurRow("1", facts.amount, state)], [ShopRow("1", facts.amount, state)]
    assert found(facts, ours=own, shop=None, sales={"7"}) == [(Kind.STATE_DIFFERS, Books.WEBHOOKD, "1")]
    assert (Kind.STATE_DIFFERS, Books.SHOP, "1") in found(facts, ours=own, shop=shop, sales={"7"})


def test_lost_money_has_advice_of_its_own() -> None:
    failed = report(fact("1", "settlementError"), ours=[OurRow("1", FIVE, "captured")], shop=None).findings
    assert failed[0].to_do.startswith("No money came.")
    returned = fact("1", lists_returns=True, returned_items=(ReturnedItem("i1", None, "R03"),))
    for state, green in (("captured", False), ("returned", True)):
        result = report(returned, ours=[OurRow("1", FIVE, state)], shop=None)
        assert result.is_green is green
        assert result.charged == 0
        assert all("eCheck" in one.to_do for one in result.findings)


def test_a_transaction_of_a_failed_batch_is_missing_in_no_books_since_nothing_settled() -> None:
    failed = fact("1", "settlementError")
    report = reconcile(DAY, ZONE, inputs(failed, ours=[], shop=[]), AS_OF)
    assert (report.findings, report.matched, report.without_money) == ((), (), 1)
    told = inputs(failed, ours=[OurRow("1", FIVE, "captured")], shop=[ShopRow("1", Decimal(0), "settlement failed")])
    assert reconcile(DAY, ZONE, told, AS_OF).findings == ()


@pytest.mark.parametrize(
    ("facts", "shop", "left"),
    [
        (fact("1", returned_items=(ReturnedItem("9", SETTLED_AT, "R03"),)), ShopRow("1", FIVE, "Returned"), set()),
        (
            fact("1", returned_items=(ReturnedItem("9", SETTLED_AT, "R03"),)),
            ShopRow("1", FIVE, None),
            {(Kind.STATE_DIFFERS, Books.WEBHOOKD)},
        ),
        (
            fact("1", returned_items=(ReturnedItem("9", SETTLED_AT, "R03"),)),
            ShopRow("1", FIVE, "captured"),
            {(Kind.STATE_DIFFERS, Books.WEBHOOKD), (Kind.STATE_DIFFERS, Books.SHOP)},
        ),
        (fact("1", amount=Decimal("3.00")), ShopRow("1", Decimal("3.00"), "captured"), set()),
        (
            fact("1", amount=Decimal("3.00")),
            ShopRow("1", FIVE, "captured"),
            {(Kind.AMOUNT_DIFFERS, Books.WEBHOOKD), (Kind.AMOUNT_DIFFERS, Books.SHOP)},
        ),
    ],
)
def test_what_the_shop_knows_better_than_the_webhooks_is_no_difference(
    facts: Facts, shop: ShopRow, left: set[tuple[Kind, Books]]
) -> None:
    found = reconcile(DAY, ZONE, inputs(facts, ours=[OurRow("1", FIVE, "captured")], shop=[shop]), AS_OF).findings
    assert {(one.kind, one.books) for one in found} == left


def test_an_invoice_that_was_captured_twice_is_named_with_both_transactions() -> None:
    twin = replace(SALE, id="2")
    assert found(SALE, twin) == [(Kind.CAPTURED_TWICE, Books.PROVIDER, "A")]
    assert report(SALE, twin).findings[0].transactions == ("1", "2")
    assert found(SALE, captures={"A": {capture("1"), capture("77")}}) == [(Kind.CAPTURED_TWICE, Books.PROVIDER, "A")]
    assert report(SALE, captures={"A": {capture("1")}}).is_green
    assert report(replace(SALE, invoice_number=None), replace(twin, invoice_number=None)).is_green
    assert report(SALE, replace(REFUND, invoice_number="A")).is_green


def test_renewals_share_an_invoice_and_only_the_same_payment_is_twice() -> None:
    renewals = [replace(SALE, id=str(number), subscription_id="77", payment_number=number) for number in (1, 2)]
    assert report(*renewals, captures={"A": {capture("1", "77", 1), capture("2", "77", 2), capture("9", "78", 1)}}).is_green
    twice = [(Kind.CAPTURED_TWICE, Books.PROVIDER, "A")]
    assert found(renewals[0], replace(renewals[1], payment_number=1)) == twice
    again = {capture("9", "77", 1), capture("2", "77", 2)}
    assert found(renewals[0], captures={"A": again}) == twice, "the same payment, on another day"
    assert report(renewals[0], captures={"A": again}).findings[0].transactions == ("1", "9")


def test_of_renewals_whose_payment_has_no_number_none_is_twice() -> None:
    renewal = replace(SALE, subscription_id="77")
    assert report(renewal, replace(renewal, id="2"), captures={"A": {capture("9", "77")}}).is_green


def test_a_renewal_and_a_sale_of_other_amounts_or_weeks_are_no_double() -> None:
    renewal, sale = replace(SALE, id="1", subscription_id="77", payment_number=1), replace(SALE, id="2")
    fee = replace(sale, amount=FIVE + 1)
    first = replace(sale, submitted_at=SUBMITTED - timedelta(days=8))
    for other in (fee, first, replace(sale, submitted_at=None)):
        own = capture("2", amount=other.amount or FIVE, submitted_at=other.submitted_at)
        assert report(renewal, captures={"A": {own}}).is_green
        assert report(other, captures={"A": {capture("1", "77", 1)}}).findings == ()
    assert not report(renewal, captures={"A": {capture("2", submitted_at=SUBMITTED - timedelta(days=7))}}).is_green


def test_a_renewal_and_a_sale_with_one_invoice_are_named_on_both_days() -> None:
    renewal, sale = replace(SALE, id="1", subscription_id="77", payment_number=1), replace(SALE, id="2")
    other = capture("3", "77", 2)
    for day in ([renewal, sale], [renewal], [sale]):
        result = report(*day, captures={"A": {capture("1", "77", 1), capture("2"), other}})
        assert [one.kind for one in result.findings] == [Kind.CAPTURED_TWICE]
        assert result.findings[0].transactions == (("1", "2") if sale not in day else ("1", "2", "3"))


def test_a_transaction_that_is_captured_here_and_in_no_batch_is_named_with_both_states() -> None:
    unsettled = [Unsettled("9", "expired", "captured")]
    assert found(SALE, unsettled=unsettled) == [(Kind.NOT_SETTLED, Books.WEBHOOKD, "9")]
    (one,) = report(SALE, unsettled=unsettled).findings
    assert (one.provider, one.other, one.transactions) == ("expired", "captured", ("9",))


def test_an_event_that_is_dead_at_a_consumer_is_named() -> None:
    assert found(SALE, ours=[OurRow("1", FIVE, "captured", dead=2)]) == [(Kind.DEAD, Books.WEBHOOKD, "1")]
    other = [*inputs(SALE).ours, OurRow("9", FIVE, "captured", dead=1)]
    assert found(SALE, ours=other, elsewhere={"9"}) == [(Kind.DEAD, Books.WEBHOOKD, "9")]


def test_a_dead_event_of_a_transaction_that_is_not_in_the_timeline_is_named() -> None:
    dead = [OurRow("1", None, None, dead=1)]
    kinds = [Kind.NOT_HERE, Kind.DEAD]
    assert found(SALE, ours=dead) == [(kind, Books.WEBHOOKD, "1") for kind in kinds]
    assert found(fact("1", "declined"), ours=dead) == [(Kind.DEAD, Books.WEBHOOKD, "1")]


def test_a_refund_without_a_sale_is_named() -> None:
    assert found(REFUND) == [(Kind.REFUND_WITHOUT_SALE, Books.PROVIDER, "3")]
    assert found(SALE, replace(REFUND, ref_transaction_id=None)) == [(Kind.REFUND_WITHOUT_SALE, Books.PROVIDER, "3")]
    assert found(replace(REFUND, ref_transaction_id="3"))[0][0] is Kind.REFUND_WITHOUT_SALE, "a refund is no sale"
    assert report(SALE, REFUND).is_green
    assert report(REFUND, sales={"1"}).is_green
    assert report(REFUND, elsewhere={"1"}).is_green
    failed = replace(REFUND, status="settlementError")
    told = [OurRow("3", failed.amount, "settlement failed")]
    assert report(failed, ours=told, shop=None).findings == (), "no money went back"


def test_a_refund_is_not_judged_before_its_details_are_read() -> None:
    result = report(replace(REFUND, detailed=False, ref_transaction_id=None))
    assert result.findings == ()
    assert result.reasons == ("transaction 3: its details are not read yet",)


def test_a_transaction_in_two_batches_and_one_that_the_shop_has_twice_are_named() -> None:
    twin = replace(SALE, batch_id="b2", settled_at=SETTLED_AT + timedelta(days=2))
    later = check(Batch("b2", "settledSuccessfully", twin.settled_at, None, (statistic([twin]),)), [twin], complete=True)
    given = inputs(SALE)
    assert found(SALE, facts=[SALE, twin], checks=[*given.checks, later]) == [(Kind.LISTED_TWICE, Books.PROVIDER, "1")]
    failed = replace(twin, status="settlementError")
    assert report(SALE, facts=[SALE, failed], checks=[*given.checks, later]).is_green
    shop = [ShopRow("1", FIVE, None)] * 2
    assert found(SALE, shop=shop) == [(Kind.LISTED_TWICE, Books.SHOP, "1")]


# Each case makes a green day not green, and has a word of the reason.
@pytest.mark.parametrize(
    ("values", "word"),
    [
        ({"whole_days": set()}, "history is not known to be whole for 2026-11-26"),
        ({"listed_at": None}, "not listed to the end"),
        ({"listed_at": ENDS + timedelta(hours=5, minutes=59)}, "before the day was surely complete"),
        ({"facts": [replace(SALE, submitted_at=None)]}, "reports no date"),
        ({"facts": [replace(SALE, lists_returns=True)], "ours": [OurRow("1", FIVE, "returned")], "shop": None}, "not read yet"),
        ({"facts": [replace(SALE, status="newText")]}, "still newText"),
        ({"facts": [SALE, fact("2", batch_id="b9")]}, "batch b9: it was not compared"),
        ({"facts": [SALE, fact("2", batch_id="b9", settled_at=None)]}, "batch b9: it was not compared"),
    ],
)
def test_a_day_is_not_green_while_something_is_not_known(values: dict[str, Any], word: str) -> None:
    assert report(SALE, listed_at=ENDS + timedelta(hours=6)).is_green
    result = report(SALE, **values)
    assert not result.is_green
    assert result.findings == ()
    assert len(result.reasons) == 1
    assert word in result.reasons[0]


@pytest.mark.parametrize("change", [{"settlement_state": "pendingSettlement"}, {"statistics": ()}])
def test_a_day_is_not_green_while_a_batch_is_open(change: dict[str, Any]) -> None:
    batch = inputs(SALE).checks[0].batch._replace(**change)
    result = report(SALE, checks=[check(batch, [SALE], complete=True)])
    assert not result.is_green
    assert result.reasons[0].startswith("batch b1: ")


def test_a_batch_without_a_time_keeps_the_days_open_on_which_it_can_settle() -> None:
    pending = check(Batch("b9", "pendingSettlement", None, None, ()), [], complete=True)
    checks = [*inputs(SALE).checks, pending]
    assert not report(SALE, checks=checks).is_green
    late = fact("9", batch_id="b9", settled_at=None, submitted_at=ENDS)
    assert report(SALE, checks=checks, facts=[SALE, late]).is_green
    early = replace(late, submitted_at=ENDS - timedelta(seconds=1))
    assert not report(SALE, checks=checks, facts=[SALE, early]).is_green


def test_batches_of_other_days_do_not_count() -> None:
    other = fact("9", batch_id="b2", settled_at=ENDS)
    batch = Batch("b2", "pendingSettlement", ENDS, None, ())
    checks = [*inputs(SALE).checks, check(batch, [other], complete=True)]
    assert report(SALE, facts=[SALE, other], checks=checks).is_green
    assert reconcile(DAY + timedelta(days=1), ZONE, inputs(SALE, checks=checks), AS_OF).batches == ("b2",)


def test_a_day_without_batches_is_green_only_if_the_list_is_complete() -> None:
    assert reconcile(DAY, ZONE, Inputs([], [], [], listed_at=AS_OF), AS_OF).is_green
    assert not reconcile(DAY, ZONE, Inputs([], [], []), AS_OF).is_green


@pytest.mark.parametrize(("day", "hours"), [(date(2026, 3, 8), 23), (date(2026, 11, 1), 25), (DAY, 24)])
def test_the_day_is_the_accounts_own_even_if_the_clock_changes(day: date, hours: int) -> None:
    begins, ends = limits(day, ZONE)
    assert ends - begins == timedelta(hours=hours)
    assert begins.tzinfo is UTC
    second = timedelta(seconds=1)
    days = [settlement_day(at, ZONE) for at in (begins - second, begins, ends - second, ends)]
    assert days == [day - timedelta(days=1), day, day, day + timedelta(days=1)]


def test_each_kind_of_finding_has_advice() -> None:
    for kind, books in _TO_DO:
        assert Finding(kind, books, "1", ("1",)).to_do.endswith(".")
    assert {kind for kind, _ in _TO_DO} == set(Kind)


# Property: a green day, in which some transactions are spoiled, each in one way.
_SPOILS = ("nothing", "not here", "not in shop", "amount here", "amount in shop", "state", "dead", "no sale", "twice", "stray")


@given(st.lists(st.sampled_from(_SPOILS), max_size=12), st.randoms(use_true_random=False))
def test_the_report_names_exactly_what_was_spoiled_in_a_stable_order(spoils: list[str], chance: random.Random) -> None:
    facts, ours, shop, wanted = [], [], [], []
    for number, spoil in enumerate(spoils, 1000):
        name = str(number)
        amount = Decimal(chance.randrange(1, 10**7)) / 100
        row = fact(name, amount=amount, invoice_number=f"I{name}")
        own, theirs = OurRow(name, amount, "captured"), ShopRow(name, amount, "settled")
        match spoil:
            case "not here":
                wanted.append((Kind.NOT_HERE, Books.WEBHOOKD, name))
            case "not in shop":
                wanted.append((Kind.NOT_HERE, Books.SHOP, name))
            case "amount here":
                own = own._replace(amount=amount - Decimal("0.01"))
                wanted.append((Kind.AMOUNT_DIFFERS, Books.WEBHOOKD, name))
            case "amount in shop":
                theirs = theirs._replace(amount=amount - Decimal("0.01"))
                wanted.append((Kind.AMOUNT_DIFFERS, Books.SHOP, name))
            case "state":
                own = own._replace(state="voided")
                wanted.append((Kind.STATE_DIFFERS, Books.WEBHOOKD, name))
            case "dead":
                own = own._replace(dead=1)
                wanted.append((Kind.DEAD, Books.WEBHOOKD, name))
            case "no sale":
                row = replace(row, status="refundSettledSuccessfully", type="refundTransaction", ref_transaction_id="0")
                own, theirs = own._replace(state="refunded"), theirs._replace(state="refunded")
                wanted.append((Kind.REFUND_WITHOUT_SALE, Books.PROVIDER, name))
            case "twice":
                twin = replace(row, id=f"{name}0")
                facts.append(twin)
                ours.append(own._replace(id=twin.id))
                shop.append(theirs._replace(id=twin.id))
                wanted.append((Kind.CAPTURED_TWICE, Books.PROVIDER, f"I{name}"))
            case "stray":
                wanted.append((Kind.NOT_AT_PROVIDER, Books.WEBHOOKD, name))
                wanted.append((Kind.NOT_AT_PROVIDER, Books.SHOP, name))
        facts += [row] if spoil != "stray" else []
        ours += [own] if spoil != "not here" else []
        shop += [theirs] if spoil != "not in shop" else []
    result = report(*facts, ours=ours, shop=shop)
    assert sorted((one.kind, one.books, one.subject) for one in result.findings) == sorted(wanted)
    assert result.is_green is (not wanted)
    assert len(result.matched) == spoils.count("nothing")
    assert result.charged == sum((one.amount or Decimal(0) for one in facts if not one.is_refund), Decimal(0))
    mixed = inputs(*facts, ours=chance.sample(ours, len(ours)), shop=chance.sample(shop, len(shop)))
    mixed = replace(mixed, facts=chance.sample(facts, len(facts)))
    assert reconcile(DAY, ZONE, mixed, AS_OF) == result
