"""The comparison of the provider's history with the ledger finds each gap, and calls no day whole on a guess."""

from __future__ import annotations

import itertools
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from webhookd.authorizenet.api.results import History, HistoryRow
from webhookd.authorizenet.gaps import (
    APART,
    LAST_LOOK,
    LONGEST,
    PATIENCE,
    Comparison,
    Completeness,
    Day,
    Ledger,
    advanced,
    around,
    compare,
    needs_proof,
    revisits,
    span,
)

NOW = datetime(2026, 11, 28, 12, 0, tzinfo=UTC)
GRACE = timedelta(minutes=15)
FIRST = date(2026, 11, 24)
DAY = date(2026, 11, 26)


def row(name: str, at: datetime | None = datetime(2026, 11, 26, 9, tzinfo=UTC)) -> HistoryRow:
    return HistoryRow(name, "net.authorize.payment.authcapture.created", at, "Delivered")


def ledger(*names: str, day: date = DAY) -> Ledger:
    return Ledger(dict.fromkeys(names, day))


def compared(
    *rows: HistoryRow,
    own: Ledger,
    now: datetime = NOW,
    before: Comparison | None = None,
    complete: bool = True,
    unreadable: int = 0,
    moving: frozenset[date] = frozenset(),
) -> Comparison:
    earlier = {one.day: one for one in before.days} if before else {}
    return compare(History(rows, complete, unreadable, moving), own, FIRST, now, GRACE, earlier)


def twice(*rows: HistoryRow, own: Ledger, complete: bool = True, moving: frozenset[date] = frozenset()) -> Comparison:
    """Returns the second of two looks that found the same, an hour apart."""
    first = compared(*rows, own=own, now=NOW - APART, complete=complete, moving=moving)
    return compared(*rows, own=own, before=first, complete=complete, moving=moving)


def of_day(comparison: Comparison, day: date = DAY) -> Day:
    return next(one for one in comparison.days if one.day == day)


def counts(comparison: Comparison, day: date = DAY) -> Day:
    """Returns a day's result without what is known of the looks."""
    return of_day(comparison, day)._replace(most=0, looks=0, looked_at=None)


def test_a_notification_that_is_not_in_the_ledger_is_missing_whatever_its_delivery_status() -> None:
    found = twice(row("a"), row("b"), own=ledger("a"))
    assert [one.notification_id for one in found.missing] == ["b"]
    assert counts(found) == Day(DAY, Completeness.MISSING, listed=2, ours=1, missing=1)


def test_a_recovered_notification_makes_the_day_whole() -> None:
    first = compared(row("a"), row("b"), own=ledger("a"), now=NOW - APART)
    found = compared(row("a"), row("b"), own=replace(ledger("a"), recovered={"b": DAY}), before=first)
    assert found.missing == ()
    assert counts(found) == Day(DAY, Completeness.WHOLE, listed=2, ours=2, recovered=1)


def test_a_notification_that_came_twice_by_both_ways_counts_once() -> None:
    own = replace(ledger("a"), recovered={"a": DAY})
    assert counts(twice(row("a"), own=own)) == Day(DAY, Completeness.WHOLE, listed=1, ours=1)


def test_a_young_notification_may_be_on_its_way() -> None:
    young = row("a", NOW - GRACE + timedelta(seconds=1))
    old = row("b", NOW - GRACE)
    found = compared(young, old, own=ledger())
    assert [one.notification_id for one in found.missing] == ["b"]
    assert [one.notification_id for one in found.lacking] == ["b", "a"]
    assert of_day(found, NOW.date()).waiting == 1


def test_a_day_that_is_not_over_is_open() -> None:
    found = compared(own=ledger())
    assert of_day(found, NOW.date()).completeness is Completeness.OPEN
    midnight = datetime(2026, 11, 28, 0, 0, tzinfo=UTC)
    first = compared(own=ledger(), now=midnight + GRACE - timedelta(seconds=1))
    second = compared(own=ledger(), now=midnight + GRACE - timedelta(seconds=1) + APART, before=first)
    third = compared(own=ledger(), now=midnight + GRACE - timedelta(seconds=1) + 2 * APART, before=second)
    results = [of_day(one, date(2026, 11, 27)).completeness for one in (first, second, third)]
    assert results == [Completeness.OPEN, Completeness.OPEN, Completeness.WHOLE], "a look at an open day proves nothing"


def test_a_day_is_whole_after_a_second_thorough_look_an_hour_later() -> None:
    first = compared(row("a"), own=ledger("a"), now=NOW)
    assert of_day(first).looks == 1
    for seconds, quick, wanted in ((-1, False, False), (0, True, False), (0, False, True)):
        found = compared(
            row("a"), own=ledger("a"), now=NOW + APART + timedelta(seconds=seconds), before=first, complete=not quick
        )
        assert (of_day(found).completeness is Completeness.WHOLE) is wanted
    late = of_day(first, NOW.date() - timedelta(days=1))
    assert late.completeness is Completeness.NOT_KNOWN, "not proven long after its end"
    soon = datetime(2026, 11, 28, tzinfo=UTC) + GRACE + PATIENCE - timedelta(seconds=1)
    assert of_day(compared(own=ledger(), now=soon), late.day).completeness is Completeness.OPEN


@pytest.mark.parametrize("rows", [(), (row("a"),)])
def test_no_day_is_whole_if_the_list_is_not_complete(rows: tuple[HistoryRow, ...]) -> None:
    own = ledger(*(one.notification_id for one in rows))
    assert of_day(twice(*rows, own=own, complete=False)).completeness is Completeness.NOT_KNOWN
    moving = twice(*rows, own=own, moving=frozenset({DAY}))
    assert of_day(moving).completeness is Completeness.NOT_KNOWN
    assert of_day(moving, DAY - timedelta(days=1)).completeness is Completeness.WHOLE, "a day that moves spoils no other"


def test_no_day_is_whole_if_the_list_lacks_what_came() -> None:
    found = twice(row("a"), own=ledger("a", "b"))
    assert counts(found) == Day(DAY, Completeness.NOT_KNOWN, listed=1, ours=1, unlisted=1)
    assert of_day(twice(own=ledger("a"))).completeness is Completeness.NOT_KNOWN, "an empty list by mistake"
    recovered = replace(ledger(), recovered={"a": DAY})
    assert of_day(twice(own=recovered)).completeness is Completeness.NOT_KNOWN, "recovered events count, too"


def test_a_list_that_was_empty_by_mistake_proves_no_day() -> None:
    empty, full = (), (row("a"),)
    found, whole = None, []
    for hours, rows in enumerate([empty, full, full]):  # the row is in the history all the time
        found = compared(*rows, own=ledger("a") if rows else ledger(), now=NOW + hours * APART, before=found)
        whole.append(of_day(found).completeness is Completeness.WHOLE)
    assert whole == [False, False, True], "two looks after the mistake, not one"
    for own in (ledger("a"), replace(ledger(), recovered={"a": DAY}), Ledger({}, foreign=frozenset({"a"}))):
        first = compared(*full, own=own, now=NOW)
        for hours in (1, 2, 3):
            later = compared(*empty, own=own, now=NOW + hours * APART, before=first)
            assert of_day(later).completeness is Completeness.NOT_KNOWN, "an earlier look found a row"


def test_no_day_is_whole_with_fewer_rows_than_an_earlier_look_found() -> None:
    own = Ledger({}, foreign=frozenset({"a", "b"}))
    found = compared(row("a"), row("b"), own=own, now=NOW - 9 * APART)
    for hours in range(8, 0, -1):
        found = compared(row("a"), own=own, now=NOW - hours * APART, before=found)
        assert of_day(found).completeness is Completeness.NOT_KNOWN
    assert of_day(found).most == 2
    for hours, wanted in ((0, Completeness.NOT_KNOWN), (1, Completeness.WHOLE)):
        found = compared(row("a"), row("b"), own=own, now=NOW + hours * APART, before=found)
        assert of_day(found).completeness is wanted


def test_a_row_that_was_seen_counts_even_if_the_list_drops_it() -> None:
    own = replace(ledger(), seen={"a": row("a"), "b": row("b")}, foreign=frozenset({"b"}))
    found = twice(own=own)
    assert [one.notification_id for one in found.missing] == ["a"]
    assert of_day(found).completeness is Completeness.MISSING


def test_a_look_that_did_not_read_all_changes_no_day_of_which_more_is_known() -> None:
    whole = twice(row("a"), row("b"), own=ledger("a", "b"))
    quick = compared(row("a"), own=ledger("a", "b"), now=NOW + APART, before=whole, complete=False)
    assert of_day(quick) == of_day(whole)
    more = compared(row("a"), row("b"), row("c"), own=ledger("a", "b", "c"), now=NOW + APART, before=whole, complete=False)
    assert of_day(more).completeness is Completeness.NOT_KNOWN, "a new row needs new looks"


def test_a_day_whose_list_no_look_reads_any_more_does_not_stay_open() -> None:
    night = datetime(2026, 11, 26, 23, tzinfo=UTC)
    before = compared(row("a"), row("b"), own=ledger("a", "b"), now=night)
    assert of_day(before).completeness is Completeness.OPEN
    for late, expected in ((timedelta(), Completeness.OPEN), (PATIENCE, Completeness.NOT_KNOWN)):
        now = datetime(2026, 11, 27, tzinfo=UTC) + GRACE + late
        found = compared(row("a"), own=ledger("a", "b"), now=now, before=before, complete=False)
        assert of_day(found) == of_day(before)._replace(completeness=expected)


def test_a_day_whose_list_no_look_reads_any_more_does_not_lack_what_is_known_by_now() -> None:
    lacking = compared(row("a"), row("b"), own=ledger("a"), complete=False)
    assert of_day(lacking).completeness is Completeness.MISSING
    for known in (ledger("a", "b"), replace(ledger("a"), foreign=frozenset({"b"}))):
        found = compared(row("a"), own=known, before=lacking, complete=False)
        assert counts(found) == Day(DAY, Completeness.NOT_KNOWN, listed=1, ours=1)
    seen = replace(ledger("a"), seen={"b": row("b")})
    found = compared(row("a"), own=seen, before=lacking, complete=False)
    assert of_day(found).completeness is Completeness.MISSING, "the list dropped the notification that the ledger lacks"


def test_a_day_that_lacked_something_needs_one_more_look_an_hour_after_the_last_one() -> None:
    lacking = twice(row("a"), row("b"), own=ledger("a"))
    later = NOW + timedelta(minutes=5)
    found = compared(row("a"), own=ledger("a", "b"), now=later, before=lacking, complete=False)
    assert revisits(NOW.date(), {DAY: of_day(found)}, NOW + APART, GRACE) == (DAY,)
    again = compared(row("a"), row("b"), own=ledger("a", "b"), now=NOW + APART, before=found)
    assert counts(again) == Day(DAY, Completeness.WHOLE, listed=2, ours=2)


def test_a_notification_without_a_date_is_fetched_and_no_day_is_whole_until_its_day_is_known() -> None:
    found = twice(row("a", None), own=ledger())
    assert [one.notification_id for one in found.missing] == ["a"]
    assert {one.completeness for one in found.days if one.day < NOW.date()} == {Completeness.NOT_KNOWN}
    found = twice(row("a", None), own=replace(ledger(), recovered={"a": DAY}))
    assert counts(found) == Day(DAY, Completeness.WHOLE, listed=1, ours=1, recovered=1)
    found = twice(row("a", None), own=replace(ledger(), unreadable=frozenset({"a"})))
    assert of_day(found).completeness is Completeness.UNREADABLE
    found = twice(row("a", None), own=replace(ledger(), foreign=frozenset({"a"})))
    assert of_day(found).completeness is Completeness.WHOLE


def test_what_cannot_be_read_is_not_fetched_again_and_the_day_is_not_whole() -> None:
    found = twice(row("a"), own=replace(ledger(), unreadable=frozenset({"a"})))
    assert found.missing == ()
    assert of_day(found).completeness is Completeness.UNREADABLE
    first = compared(own=ledger(), now=NOW - APART)
    assert of_day(compared(own=ledger(), before=first, unreadable=1)).completeness is Completeness.UNREADABLE


def test_notifications_of_another_webhook_do_not_count() -> None:
    found = twice(row("a"), row("b"), own=replace(ledger("a"), foreign=frozenset({"b"})))
    assert counts(found) == Day(DAY, Completeness.WHOLE, listed=1, ours=1)
    first = compared(row("a"), row("b"), own=ledger("a"), now=NOW - APART)
    found = compared(row("a"), row("b"), own=replace(ledger("a"), foreign=frozenset({"b"})), before=first)
    assert of_day(found).completeness is Completeness.WHOLE, "known as another webhook's only after the first look"


def test_the_margin_is_asked_for_and_not_judged() -> None:
    assert span(date(2026, 11, 25), NOW) == (FIRST, date(2026, 11, 29))
    assert [one.day for one in compared(own=ledger()).days] == [FIRST + timedelta(days=number) for number in range(1, 5)]
    first, last = around(DAY)
    only = compare(History((), True), ledger(), first, NOW, GRACE, last=DAY)
    assert [one.day for one in only.days] == [DAY]
    assert (first, last) == (date(2026, 11, 25), date(2026, 11, 28))


def test_the_cursor_stops_before_the_first_day_that_needs_a_look_every_time() -> None:
    states = (Completeness.WHOLE, Completeness.WHOLE, Completeness.MISSING, Completeness.WHOLE)
    days = [Day(FIRST + timedelta(days=number), state) for number, state in enumerate(states, 1)]
    assert advanced(FIRST, days, NOW) == FIRST + timedelta(days=2)
    assert advanced(FIRST, days[1:], NOW) == FIRST


@pytest.mark.parametrize(
    ("state", "age"),
    [
        (Completeness.OPEN, LONGEST),
        (Completeness.MISSING, LONGEST),
        (Completeness.NOT_KNOWN, timedelta(days=2)),
        (Completeness.UNREADABLE, timedelta(days=2)),
    ],
)
def test_a_day_that_stays_not_whole_keeps_the_cursor_for_some_time_and_not_for_ever(
    state: Completeness, age: timedelta
) -> None:
    end = datetime(2026, 11, 27, tzinfo=UTC)
    for late, wanted in ((-1, DAY - timedelta(days=1)), (0, DAY)):
        assert advanced(DAY - timedelta(days=1), [Day(DAY, state)], end + age + timedelta(seconds=late)) == wanted


def test_a_day_behind_the_cursor_that_is_not_whole_is_looked_at_again_ever_more_seldom() -> None:
    now = datetime(2026, 11, 29, tzinfo=UTC)
    one, at = Day(DAY, Completeness.NOT_KNOWN, looked_at=now), []
    assert revisits(DAY, {DAY: one}, now + APART, GRACE) == (), "the look at the cursor's day is the ordinary one"
    while now < datetime(2027, 1, 5, tzinfo=UTC):
        now += timedelta(minutes=10)
        if revisits(now.date() - timedelta(days=1), {DAY: one}, now, GRACE):
            at.append(now)
            one = one._replace(looked_at=now)
    waits = [later - earlier for earlier, later in itertools.pairwise(at)]
    assert waits == sorted(waits)
    assert len(at) < 30
    assert at[-1].date() - DAY <= LONGEST
    assert now - at[-1] < timedelta(days=14)
    whole = one._replace(completeness=Completeness.WHOLE, looked_at=None)
    assert revisits(now.date(), {DAY: whole}, now, GRACE) == ()


def test_a_day_that_lacks_something_is_looked_at_again_after_an_hour_however_old_it_is() -> None:
    looked_at = datetime(2026, 12, 20, tzinfo=UTC)
    for state, wait in (
        (Completeness.MISSING, APART),
        (Completeness.UNREADABLE, (looked_at - datetime(2026, 11, 27, tzinfo=UTC)) / 7),
    ):
        days = {DAY: Day(DAY, state, looks=2, looked_at=looked_at)}
        assert revisits(looked_at.date(), days, looked_at + wait - timedelta(seconds=1), GRACE) == ()
        assert revisits(looked_at.date(), days, looked_at + wait, GRACE) == (DAY,)


def test_a_day_that_was_judged_while_the_clock_was_ahead_is_judged_anew() -> None:
    ahead = NOW + timedelta(days=40)
    wrong = compared(row("a"), own=ledger("a"), now=ahead, before=compared(row("a"), own=ledger("a"), now=ahead - APART))
    days = {one.day: one for one in wrong.days}
    assert days[DAY].completeness is Completeness.WHOLE
    assert DAY in revisits(NOW.date(), days, NOW, GRACE)
    assert needs_proof(DAY, days, NOW, GRACE)
    right = of_day(compared(row("a"), own=ledger("a"), before=wrong))
    assert (right.completeness, right.looks, right.looked_at) == (Completeness.NOT_KNOWN, 1, NOW)


LAST = datetime(2026, 11, 27, tzinfo=UTC) + LAST_LOOK  # the time of the day's last look


def test_a_whole_day_gets_one_last_look_when_it_is_seven_days_old() -> None:
    whole = of_day(twice(row("a"), own=ledger("a")))
    for now, due in ((LAST - timedelta(seconds=1), ()), (LAST, (DAY,))):
        assert revisits(now.date(), {DAY: whole}, now, GRACE) == due
    last = of_day(compared(row("a"), own=ledger("a"), now=LAST, before=Comparison((), (whole,))))
    assert last == whole._replace(looked_at=LAST)
    for days in range(31):
        assert revisits(LAST.date() + timedelta(days), {DAY: last}, LAST + timedelta(days), GRACE) == ()


@pytest.mark.parametrize("rows", [(), (row("a"),), (row("b", None),)])
@pytest.mark.parametrize("complete", [True, False])
def test_a_day_stays_whole_if_the_provider_no_longer_lists_its_old_rows(rows: tuple[HistoryRow, ...], complete: bool) -> None:
    whole = of_day(twice(row("a"), row("b"), own=ledger("a", "b")))
    found = compared(*rows, own=ledger("a", "b"), now=LAST, before=Comparison((), (whole,)), complete=complete)
    assert of_day(found) == whole._replace(looked_at=LAST, looks=0)


def test_a_last_look_that_finds_fewer_rows_than_before_is_repeated_ever_more_seldom_and_the_day_stays_whole() -> None:
    whole = of_day(twice(row("a"), row("b"), own=ledger("a", "b")))
    now, one, at = LAST, whole, list[datetime]()
    while now < datetime(2027, 1, 5, tzinfo=UTC):
        if revisits(now.date(), {DAY: one}, now, GRACE):
            at.append(now)
            one = of_day(compared(row("a"), own=ledger("a", "b"), now=now, before=Comparison((), (one,)), complete=False))
            assert one.completeness is Completeness.WHOLE, "two looks have proven it"
        now += timedelta(minutes=10)
    waits = [later - earlier for earlier, later in itertools.pairwise(at)]
    assert waits == sorted(waits)
    assert waits[0] > timedelta(hours=20)
    assert 5 < len(at) < 15
    full = of_day(compared(row("a"), row("b"), own=ledger("a", "b"), now=at[1], before=Comparison((), (one,)), complete=False))
    assert full.looks == 2
    assert revisits(at[-1].date(), {DAY: full}, at[-1], GRACE) == (), "the last look"
    late = [row(name) for name in ("a", "b", "late")]
    found = compared(*late, own=ledger("a", "b"), now=at[1], before=Comparison((), (one,)), complete=False)
    assert [one.notification_id for one in found.missing] == ["late"]


def test_a_row_that_is_dated_far_ahead_is_missing_at_once_and_no_day_is_whole_without_it() -> None:
    for ahead, missing in ((timedelta(days=1), []), (timedelta(days=1, seconds=1), ["a"]), (timedelta(days=9000), ["a"])):
        found = twice(row("a", NOW + ahead), own=ledger())
        assert [one.notification_id for one in found.missing] == missing
        assert (of_day(found).completeness is Completeness.WHOLE) == (not missing)
        own = replace(ledger(), recovered={"a": (NOW + ahead).date()})
        assert of_day(twice(row("a", NOW + ahead), own=own)).completeness is Completeness.WHOLE


def test_a_row_that_is_listed_late_is_found_by_the_last_look_and_the_day_is_whole_again_after_two_more() -> None:
    whole = of_day(twice(row("a"), own=ledger("a")))
    found = compared(row("a"), row("late"), own=ledger("a"), now=LAST, before=Comparison((), (whole,)))
    assert [one.notification_id for one in found.missing] == ["late"]
    assert of_day(found).completeness is Completeness.MISSING
    own = replace(ledger("a"), recovered={"late": DAY})
    quick = compared(row("a"), row("late"), own=own, now=LAST, before=Comparison((), (whole,)), complete=False)
    assert counts(quick) == Day(DAY, Completeness.NOT_KNOWN, listed=2, ours=2, recovered=1)
    assert revisits(LAST.date(), {DAY: of_day(quick)}, LAST, GRACE) == (DAY,)
    first = compared(row("a"), row("late"), own=own, now=LAST, before=quick)
    assert revisits(LAST.date(), {DAY: of_day(first)}, LAST + APART, GRACE) == (DAY,)
    again = compared(row("a"), row("late"), own=own, now=LAST + APART, before=first)
    assert counts(again) == Day(DAY, Completeness.WHOLE, listed=2, ours=2, recovered=1)
    unreadable = replace(ledger("a"), unreadable=frozenset({"late"}))
    found = compared(row("a"), row("late"), own=unreadable, now=LAST, before=Comparison((), (whole,)))
    assert of_day(found).completeness is not Completeness.WHOLE


def test_a_last_look_at_a_list_that_lost_rows_and_lacks_what_came_late_is_not_repeated_for_ever() -> None:
    """Such a look would keep all younger days from their looks."""
    whole = of_day(twice(row("a"), row("b"), own=ledger("a", "b")))
    own = ledger("a", "b", "came late")
    quick = compared(row("a"), own=own, now=LAST, before=Comparison((), (whole,)), complete=False)
    assert of_day(quick).completeness is Completeness.NOT_KNOWN
    assert revisits(LAST.date(), {DAY: of_day(quick)}, LAST, GRACE) == (DAY,), "by a thorough look"
    last = compared(row("a"), own=own, now=LAST, before=quick)
    assert of_day(last).completeness is Completeness.NOT_KNOWN
    assert revisits(LAST.date(), {DAY: of_day(last)}, LAST + APART, GRACE) == ()
    proven = compared(row("a"), row("b"), row("came late"), own=own, now=LAST, before=quick)
    again = compared(row("a"), row("b"), row("came late"), own=own, now=LAST + APART, before=proven)
    assert counts(again) == Day(DAY, Completeness.WHOLE, listed=3, ours=3)


def test_only_a_day_that_is_over_and_not_proven_needs_a_thorough_look() -> None:
    midnight = datetime(2026, 11, 28, tzinfo=UTC)
    cursor, yesterday = date(2026, 11, 26), date(2026, 11, 27)
    days = {cursor: Day(cursor, Completeness.WHOLE)}
    assert not needs_proof(cursor, days, midnight + GRACE - timedelta(seconds=1), GRACE)
    assert needs_proof(cursor, days, midnight + GRACE, GRACE)
    days[yesterday] = Day(yesterday, Completeness.OPEN, looks=1, looked_at=midnight + GRACE)
    assert not needs_proof(cursor, days, midnight + GRACE + APART - timedelta(seconds=1), GRACE)
    assert needs_proof(cursor, days, midnight + GRACE + APART, GRACE)


_NAMES = st.sets(st.sampled_from("abcdefghij"))
_TIMES = st.integers(0, 108 * 3600).map(lambda seconds: datetime(2026, 11, 24, tzinfo=UTC) + timedelta(seconds=seconds))


@given(st.dictionaries(st.sampled_from("abcdefghij"), _TIMES), _NAMES, _NAMES, _NAMES, _NAMES, st.booleans())
def test_nothing_is_lost_between_the_counts(
    listed: dict[str, datetime],
    delivered: set[str],
    recovered: set[str],
    unreadable: set[str],
    foreign: set[str],
    complete: bool,
) -> None:
    own = Ledger(dict.fromkeys(delivered, DAY), dict.fromkeys(recovered, DAY), frozenset(unreadable), frozenset(foreign))
    found = twice(*(row(name, at) for name, at in listed.items()), own=own, complete=complete)
    for one in found.days:
        assert one.listed == one.ours + one.missing + one.waiting + one.unreadable
        assert one.recovered <= one.ours
        whole = {name for name, at in listed.items() if at.date() == one.day} - foreign
        assert one.listed == len(whole)
        if one.completeness is Completeness.WHOLE:
            assert complete
            assert whole <= delivered | recovered
            assert one.day < NOW.date()
    gone = {one.notification_id for one in found.missing}
    assert not gone & (delivered | recovered | unreadable | foreign)
    old = {name for name, at in listed.items() if NOW - at >= GRACE}
    assert gone == old - delivered - recovered - unreadable - foreign
