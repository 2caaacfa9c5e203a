"""A transaction is asked for again when its answer may bring something, and never for ever."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest

from webhookd.authorizenet.api.results import ReturnedItem
from webhookd.authorizenet.settlement import Facts
from webhookd.store.provider_facts import StoredFacts
from webhookd.sync.next_looks import ECHECK_DAYS, next_look

NOW = datetime(2026, 6, 10, 12, tzinfo=UTC)
DAY = timedelta(days=1)


def facts(status: str, *, age: float = 1, **more: object) -> StoredFacts:
    given: dict[str, object] = {"amount": Decimal("1.00"), "submitted_at": NOW - age * DAY, "batch_id": "b1"}
    return StoredFacts(Facts("1", status, NOW, **given | more))  # type: ignore[arg-type]


def check(age: float, **more: object) -> StoredFacts:
    return facts("settledSuccessfully", age=age + 3, echeck=True, settled_at=NOW - age * DAY, **more)


@pytest.mark.parametrize("status", ["declined", "voided", "expired", "settledSuccessfully", "generalError", "returnedItem"])
def test_what_has_ended_is_never_asked_for(status: str) -> None:
    for alone in (False, True):
        assert next_look(None, facts(status), NOW, alone=alone) is None


def test_what_needs_details_is_asked_for_at_once_and_after_an_answer_in_vain_later() -> None:
    one = facts("refundSettledSuccessfully")
    assert next_look(None, one, NOW, alone=False) == NOW
    waiting = replace(one, next_look_at=NOW + DAY)
    assert next_look(waiting, one, NOW, alone=False) == NOW + DAY, "a list does not bring a look forward"
    assert next_look(one, one, NOW, alone=True) == NOW + DAY / 8
    assert next_look(one, facts("refundSettledSuccessfully", detailed=True), NOW, alone=True) is None


@pytest.mark.parametrize("status", ["authorizedPendingCapture", "FDSPendingReview", "capturedPendingSettlement", "newStatus"])
def test_what_is_open_is_asked_for_if_no_list_had_it_for_two_days(status: str) -> None:
    assert next_look(None, facts(status, age=40), NOW, alone=False) == NOW + 2 * DAY
    assert next_look(None, facts(status, age=1), NOW, alone=True) == NOW + 2 * DAY
    assert next_look(None, facts(status, age=40), NOW, alone=True) == NOW + 5 * DAY
    assert next_look(None, facts(status, age=181), NOW, alone=True) is None


def test_what_failed_is_asked_for_again_since_it_may_settle_later_but_not_for_ever() -> None:
    failed = facts("settlementError", detailed=True)
    assert next_look(None, failed, NOW, alone=False) == NOW + 2 * DAY
    assert next_look(None, facts("settlementError", age=31, detailed=True), NOW, alone=True) is None


def test_an_echeck_is_asked_for_on_the_days_after_its_settlement() -> None:
    looks = []
    stored, now = check(0), NOW
    while (due := next_look(stored, stored, now, alone=True)) is not None:
        looks.append((due - NOW) / DAY)
        now = due
    assert looks == list(ECHECK_DAYS)


def test_a_list_neither_skips_nor_repeats_a_look_at_an_echeck() -> None:
    overdue = replace(check(1.5), next_look_at=NOW - DAY / 2)
    assert next_look(overdue, check(1.5), NOW, alone=False) == overdue.next_look_at
    early = replace(check(1.5), next_look_at=NOW + DAY / 2)
    assert next_look(early, check(1.5), NOW, alone=False) == NOW + DAY / 2
    pending = replace(facts("pendingSettlement", echeck=True), next_look_at=NOW - DAY)
    assert next_look(pending, check(0), NOW, alone=False) == NOW + DAY, "its settlement begins the days"


def test_a_card_is_not_asked_for_after_its_settlement() -> None:
    assert next_look(None, facts("settledSuccessfully", settled_at=NOW), NOW, alone=False) is None


def test_a_return_that_a_list_shows_is_asked_for_at_once() -> None:
    listed = check(2, lists_returns=True)
    assert next_look(replace(check(2), next_look_at=NOW + DAY), listed, NOW, alone=False) == NOW
    named = check(2, lists_returns=True, returned_items=(ReturnedItem("9", NOW, "R01"),))
    assert next_look(listed, named, NOW, alone=True) == NOW + DAY


@pytest.mark.parametrize("status", ["authorizedPendingCapture", "refundSettledSuccessfully", "settlementError"])
def test_a_transaction_without_any_time_of_its_own_is_not_asked_for_for_ever(status: str) -> None:
    """The provider does not know it any more, so its last look stays."""
    undated = facts(status, submitted_at=None)
    assert next_look(undated, undated, NOW + DAY, alone=True) is not None
    assert next_look(undated, undated, NOW + 181 * DAY, alone=True) is None
