"""Tests of synthetic events: which change makes which event, once, in any order of looks."""

from __future__ import annotations

import random
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from functools import reduce
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.test_settlement import LOOKS
from webhookd.authorizenet.api.results import ReturnedItem
from webhookd.authorizenet.settlement import Facts, merge
from webhookd.authorizenet.synthetic import HELD_LIMIT, SyntheticEvent, event_id, observe
from webhookd.settings.synthetic_types import SyntheticType

NOW = datetime(2026, 11, 27, 12, tzinfo=UTC)
ITEM = ReturnedItem("i1", NOW + timedelta(days=4), "R03")
SUBMITTED = NOW - timedelta(days=1)


def look(status: str, batch_id: str | None = None, *, days: float = 0, items: tuple[ReturnedItem, ...] = ()) -> Facts:
    return Facts(
        "1",
        status,
        NOW + timedelta(days=days),
        amount=Decimal("6.00"),
        batch_id=batch_id,
        settled_at=NOW if batch_id else None,
        submitted_at=SUBMITTED,
        invoice_number="INV-1",
        returned_items=items,
        failed_batches=frozenset({batch_id} if batch_id and status == "settlementError" else ()),
    )


PENDING = look("capturedPendingSettlement")
SETTLED = look("settledSuccessfully", "b1", days=1)


def seen(*looks: Facts, account: str = "default") -> list[SyntheticEvent]:
    """Returns the events of looks, one after the other."""
    found: list[SyntheticEvent] = []
    before = None
    for one in looks:
        before, events = observe(account, before, one)
        found += events
    return found


def types(*looks: Facts) -> list[SyntheticType]:
    return [one.type for one in seen(*looks)]


@pytest.mark.parametrize(
    ("facts", "wanted"),
    [
        (SETTLED, SyntheticType.SETTLED),
        (look("refundSettledSuccessfully", "b1"), SyntheticType.REFUND_SETTLED),
        (look("settlementError", "b1"), SyntheticType.SETTLEMENT_FAILED),
        (look("expired"), SyntheticType.EXPIRED),
        (look("FDSPendingReview", days=2), SyntheticType.HELD_TOO_LONG),
    ],
)
def test_a_change_makes_its_event_once(facts: Facts, wanted: SyntheticType) -> None:
    (event,) = seen(PENDING if wanted is not SyntheticType.HELD_TOO_LONG else look("FDSPendingReview", days=1.9), facts, facts)
    assert event.type is wanted
    assert (event.account, event.entity_id) == ("default", "1")
    assert event.payload["settleAmount"] == Decimal("6.00")
    assert event.payload["id"] == "1"
    assert event.payload["entityName"] == "transaction"
    assert types(facts) == [wanted], "the first look finds it, too"


@pytest.mark.parametrize(
    "status", ["capturedPendingSettlement", "declined", "voided", "returnedItem", "newText", "generalError"]
)
def test_other_states_make_no_event(status: str) -> None:
    assert seen(look(status, "b1")) == []


def test_a_return_makes_an_event_for_each_item_beside_the_settlement() -> None:
    second = ReturnedItem("i2", None, None)
    found = seen(SETTLED, replace(SETTLED, returned_items=(ITEM,)), replace(SETTLED, returned_items=(ITEM, second)))
    assert [(one.type, one.payload.get("returnedItemId")) for one in found] == [
        (SyntheticType.SETTLED, None),
        (SyntheticType.RETURNED, "i1"),
        (SyntheticType.RETURNED, "i2"),
    ]
    assert (found[1].at, found[1].payload["returnCode"]) == (ITEM.returned_at, "R03")
    assert types(replace(SETTLED, returned_items=(ITEM,))) == [SyntheticType.SETTLED, SyntheticType.RETURNED]


def test_no_event_comes_before_its_batch_or_its_item_is_known() -> None:
    assert seen(look("settledSuccessfully"), look("settledSuccessfully")) == []
    assert types(look("settledSuccessfully"), SETTLED) == [SyntheticType.SETTLED]
    assert types(replace(SETTLED, lists_returns=True)) == [SyntheticType.SETTLED]


def test_ids_are_the_same_for_ever() -> None:
    assert event_id("default", SyntheticType.SETTLED, "1", "b1") == UUID("ed6d12cc-e4bb-55d7-affa-9f6bb2a3c17d")
    (event,) = seen(SETTLED)
    assert event.id == event_id("default", SyntheticType.SETTLED, "1", "b1")
    assert event.id.version == 5


def test_ids_differ_by_account_type_transaction_and_key() -> None:
    parts = [
        ("a", SyntheticType.SETTLED, "1", "2"),
        ("b", SyntheticType.SETTLED, "1", "2"),
        ("a", SyntheticType.RETURNED, "1", "2"),
    ]
    parts += [("a", SyntheticType.SETTLED, "12", ""), ("a", SyntheticType.SETTLED, "1", "3")]
    assert len({event_id(*one) for one in parts}) == len(parts)


def test_a_failure_is_reported_for_each_batch_and_the_settlement_after_it_corrects_it() -> None:
    first, second = look("settlementError", "b1"), look("settlementError", "b2", days=1)
    settled = look("settledSuccessfully", "b3", days=2)
    found = seen(first, second, first, settled, second)
    assert [(one.type, one.payload["batchId"]) for one in found] == [
        (SyntheticType.SETTLEMENT_FAILED, "b1"),
        (SyntheticType.SETTLEMENT_FAILED, "b2"),
        (SyntheticType.SETTLED, "b3"),
    ]
    assert types(second, first) == [SyntheticType.SETTLEMENT_FAILED] * 2, "the earlier failure was seen later"
    assert found[-1].payload["corrects"] == "settlement failed"
    assert "corrects" not in seen(PENDING, settled)[0].payload


def test_what_is_untrue_after_the_settlement_is_not_reported() -> None:
    stale = [look("settlementError", "b0"), look("expired"), look("FDSPendingReview", days=9)]
    assert types(SETTLED, *stale) == [SyntheticType.SETTLED]


def test_a_hold_is_too_long_from_the_limit_on_and_its_date_does_not_depend_on_the_look() -> None:
    exact = HELD_LIMIT - (NOW - SUBMITTED)
    assert seen(look("FDSPendingReview", days=(exact - timedelta(seconds=1)) / timedelta(days=1))) == []
    for late in (exact, exact + timedelta(days=3)):
        (event,) = seen(replace(look("FDSPendingReview"), seen_at=NOW + late))
        assert event.at == SUBMITTED + HELD_LIMIT
    assert seen(replace(look("FDSPendingReview", days=9), submitted_at=None)) == []


def test_a_hold_is_reported_once_even_if_a_stale_look_knows_more() -> None:
    long = replace(look("FDSPendingReview", days=5), amount=None)
    assert types(long, look("FDSPendingReview"), look("FDSPendingReview", days=6)) == [SyntheticType.HELD_TOO_LONG]


@st.composite
def lives(draw: st.DrawFn) -> list[Facts]:
    """Draws the looks at one possible life, in its order."""
    life = [look("FDSPendingReview", days=day / 2) for day in range(draw(st.integers(0, 8)))]
    if draw(st.booleans()):
        life.append(look("authorizedPendingCapture", days=5))
    end = draw(st.sampled_from(["expired", "voided", "settled", "refunded", "failed", "open"]))
    if end in ("expired", "voided"):
        return [*life, look(end, days=6)]
    refund = end == "refunded"
    life.append(look("refundPendingSettlement" if refund else "capturedPendingSettlement", days=6))
    failures = draw(st.integers(0 if end != "failed" else 1, 2))
    life += [look("settlementError", f"f{number}", days=7 + number) for number in range(failures)]
    if end in ("settled", "refunded"):
        done = look("refundSettledSuccessfully" if refund else "settledSuccessfully", "b9", days=9)
        life += [replace(done, batch_id=None, settled_at=None), done]
        items = tuple(ReturnedItem(f"i{number}", NOW, "R03") for number in range(draw(st.integers(0, 2))))
        life += [replace(done, seen_at=NOW + timedelta(days=10 + n), returned_items=items[: n + 1]) for n in range(len(items))]
    return life


def check(events: list[SyntheticEvent]) -> None:
    """Asserts what is true of the events of any looks: none comes twice, and none contradicts an earlier one."""
    assert len({one.id for one in events}) == len(events)
    kinds = [one.type for one in events]
    settled = [index for index, one in enumerate(kinds) if one in (SyntheticType.SETTLED, SyntheticType.REFUND_SETTLED)]
    assert len(settled) <= 1
    assert kinds.count(SyntheticType.EXPIRED) <= 1
    assert kinds.count(SyntheticType.HELD_TOO_LONG) <= 1
    for index in settled:
        assert set(kinds[index + 1 :]) <= {SyntheticType.RETURNED}


@given(lives(), st.randoms(use_true_random=False))
def test_out_of_order_and_repeated_looks_make_no_other_events_than_the_life_in_its_order(
    life: list[Facts], chance: random.Random
) -> None:
    wanted = seen(*life)
    check(wanted)
    assert {one.type for one in wanted} or life[-1].status in {
        "voided", "capturedPendingSettlement", "refundPendingSettlement",
    }  # fmt: skip
    looks = life + chance.choices(life, k=len(life))
    chance.shuffle(looks)
    events = seen(*looks)
    check(events)
    assert {one.id for one in events} <= {one.id for one in wanted}
    last = observe("default", None, reduce(merge, life)).events
    assert {one.id for one in last} <= {one.id for one in events}, "what is true at the end was reported"
    assert {one.id for one in last} <= {one.id for one in wanted}, "a sweep that forgot all facts makes the same ids"
    assert observe("default", reduce(merge, looks), chance.choice(looks)).events == ()


@given(st.lists(LOOKS, max_size=8))
def test_even_looks_that_contradict_each_other_make_no_event_twice(looks: list[Facts]) -> None:
    events = seen(*looks)
    check(events)
    before = reduce(merge, looks) if looks else None
    for one in looks:
        assert observe("default", before, one).events == ()


@pytest.mark.parametrize("later", ["settledSuccessfully", "refundSettledSuccessfully"])
def test_a_transaction_that_a_second_batch_lists_as_settled_settles_once(later: str) -> None:
    again = look(later, "b9", days=9)
    assert types(SETTLED, again, SETTLED) == [SyntheticType.SETTLED]


@pytest.mark.parametrize(("status", "state"), [("expired", "expired"), ("voided", "voided"), ("declined", "declined")])
def test_a_settlement_after_a_state_without_money_names_this_state(status: str, state: str) -> None:
    settled = seen(look(status), SETTLED)[-1]
    assert (settled.type, settled.payload["corrects"]) == (SyntheticType.SETTLED, state)


def test_the_failure_of_an_earlier_batch_names_that_batch_even_if_it_is_seen_later() -> None:
    failures = seen(look("settlementError", "b2", days=1), look("settlementError", "b1"))
    assert [one.payload["batchId"] for one in failures] == ["b2", "b1"]
