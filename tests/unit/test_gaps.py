"""The comparison of the provider's history with the ledger finds each gap, and calls no day whole on a guess."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, date, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from webhookd.authorizenet.api.results import History, HistoryRow
from webhookd.authorizenet.gaps import Comparison, Completeness, Day, Ledger, advanced, compare, span

NOW = datetime(2026, 11, 28, 12, 0, tzinfo=UTC)
GRACE = timedelta(minutes=15)
FIRST = date(2026, 11, 24)
DAY = date(2026, 11, 26)


def row(name: str, at: datetime | None = datetime(2026, 11, 26, 9, tzinfo=UTC)) -> HistoryRow:
    return HistoryRow(name, "net.authorize.payment.authcapture.created", at, "Delivered")


def ledger(*names: str, day: date = DAY) -> Ledger:
    return Ledger(dict.fromkeys(names, day))


def compared(*rows: HistoryRow, own: Ledger, settled: bool = True, now: datetime = NOW) -> Comparison:
    return compare(History(rows, settled), own, FIRST, now, GRACE)


def of_day(comparison: Comparison, day: date = DAY) -> Day:
    return next(one for one in comparison.days if one.day == day)


def test_a_notification_that_is_not_in_the_ledger_is_missing_whatever_its_delivery_status() -> None:
    found = compared(row("a"), row("b"), own=ledger("a"))
    assert [one.notification_id for one in found.missing] == ["b"]
    assert of_day(found) == Day(DAY, Completeness.MISSING, listed=2, held=1, missing=1)


def test_a_recovered_notification_makes_the_day_whole() -> None:
    own = replace(ledger("a"), recovered=frozenset({"b"}))
    found = compared(row("a"), row("b"), own=own)
    assert found.missing == ()
    assert of_day(found) == Day(DAY, Completeness.WHOLE, listed=2, held=2, recovered=1)


def test_a_notification_that_came_twice_by_both_ways_counts_once() -> None:
    own = replace(ledger("a"), recovered=frozenset({"a"}))
    assert of_day(compared(row("a"), own=own)) == Day(DAY, Completeness.WHOLE, listed=1, held=1)


def test_a_young_notification_may_be_on_its_way() -> None:
    young = row("a", NOW - GRACE + timedelta(seconds=1))
    old = row("b", NOW - GRACE)
    found = compared(young, old, own=ledger())
    assert [one.notification_id for one in found.missing] == ["b"]
    assert of_day(found, NOW.date()).waiting == 1


def test_a_notification_without_a_date_is_fetched() -> None:
    assert [one.notification_id for one in compared(row("a", None), own=ledger()).missing] == ["a"]


def test_a_day_that_is_not_over_is_open() -> None:
    found = compared(own=ledger())
    assert of_day(found, NOW.date()).completeness is Completeness.OPEN
    midnight = datetime(2026, 11, 28, 0, 0, tzinfo=UTC)
    for now, wanted in ((midnight + GRACE - timedelta(seconds=1), Completeness.OPEN), (midnight + GRACE, Completeness.WHOLE)):
        assert of_day(compared(own=ledger(), now=now), date(2026, 11, 27)).completeness is wanted


@pytest.mark.parametrize("rows", [(), (row("a"),)])
def test_no_day_is_whole_if_the_list_is_not_settled(rows: tuple[HistoryRow, ...]) -> None:
    found = compared(*rows, own=ledger(*(one.notification_id for one in rows)), settled=False)
    assert of_day(found).completeness is Completeness.NOT_KNOWN


def test_no_day_is_whole_if_the_list_lacks_what_came() -> None:
    found = compared(row("a"), own=ledger("a", "b"))
    assert of_day(found) == Day(DAY, Completeness.NOT_KNOWN, listed=1, held=1, unlisted=1)
    assert of_day(compared(own=ledger("a"))).completeness is Completeness.NOT_KNOWN, "an empty list by mistake"


def test_what_cannot_be_read_is_not_fetched_again_and_the_day_is_not_whole() -> None:
    found = compared(row("a"), own=replace(ledger(), unreadable=frozenset({"a"})))
    assert found.missing == ()
    assert of_day(found).completeness is Completeness.UNREADABLE


def test_notifications_of_another_webhook_do_not_count() -> None:
    found = compared(row("a"), row("b"), own=replace(ledger("a"), foreign=frozenset({"b"})))
    assert of_day(found) == Day(DAY, Completeness.WHOLE, listed=1, held=1)


def test_the_margin_is_asked_for_and_not_judged() -> None:
    assert span(date(2026, 11, 25), NOW) == (FIRST, date(2026, 11, 29))
    assert [one.day for one in compared(own=ledger()).days] == [FIRST + timedelta(days=number) for number in range(1, 5)]


def test_the_cursor_stops_before_the_first_day_that_needs_another_look() -> None:
    states = (Completeness.WHOLE, Completeness.UNREADABLE, Completeness.MISSING, Completeness.WHOLE)
    days = [Day(FIRST + timedelta(days=number), state) for number, state in enumerate(states, 1)]
    assert advanced(FIRST, days) == FIRST + timedelta(days=2)
    assert advanced(FIRST, days[1:]) == FIRST
    for state in (Completeness.OPEN, Completeness.NOT_KNOWN):
        assert advanced(FIRST, [Day(FIRST + timedelta(days=1), state)]) == FIRST


_NAMES = st.sets(st.sampled_from("abcdefghij"))
_TIMES = st.integers(0, 108 * 3600).map(lambda seconds: datetime(2026, 11, 24, tzinfo=UTC) + timedelta(seconds=seconds))


@given(st.dictionaries(st.sampled_from("abcdefghij"), _TIMES), _NAMES, _NAMES, _NAMES, _NAMES, st.booleans())
def test_nothing_is_lost_between_the_counts(
    listed: dict[str, datetime],
    delivered: set[str],
    recovered: set[str],
    unreadable: set[str],
    foreign: set[str],
    settled: bool,
) -> None:
    own = Ledger(dict.fromkeys(delivered, DAY), frozenset(recovered), frozenset(unreadable), frozenset(foreign))
    found = compared(*(row(name, at) for name, at in listed.items()), own=own, settled=settled)
    for one in found.days:
        assert one.listed == one.held + one.missing + one.waiting + one.unreadable
        assert one.recovered <= one.held
        whole = {name for name, at in listed.items() if at.date() == one.day} - foreign
        assert one.listed == len(whole)
        if one.completeness is Completeness.WHOLE:
            assert settled
            assert whole <= delivered | recovered
            assert one.day < NOW.date()
    gone = {one.notification_id for one in found.missing}
    assert not gone & (delivered | recovered | unreadable | foreign)
    old = {name for name, at in listed.items() if NOW - at >= GRACE}
    assert gone == old - delivered - recovered - unreadable - foreign
