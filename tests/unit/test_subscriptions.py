"""The rules of subscriptions: due days by the calendar, missed renewals, failures without a report, ids that never change."""

from __future__ import annotations

import calendar
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta, tzinfo
from decimal import Decimal
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from webhookd.authorizenet.api.results import PaymentAttempt, Schedule, Subscription, SubscriptionRow
from webhookd.authorizenet.subscriptions import (
    GRACE,
    MARGIN,
    Attempt,
    Failures,
    Known,
    arrival,
    attempts_of,
    card_expiring,
    due_days,
    is_awaited,
    judge_failures,
    judge_renewals,
    missed_payment,
    month_of,
    next_due_day,
    next_look,
    payment_failed,
    with_details,
    with_row,
)

NOW = datetime(2026, 11, 26, 12, tzinfo=UTC)
PACIFIC = ZoneInfo("America/Los_Angeles")
ZONES = (UTC, PACIFIC, ZoneInfo("Pacific/Kiritimati"), ZoneInfo("Australia/Lord_Howe"))
DAY = timedelta(days=1)
MONTHLY = Schedule(1, "months", date(2026, 1, 31), 9999)


def known(schedule: Schedule | None = MONTHLY, judged_to: date | None = None, status: str = "active", **more: object) -> Known:
    found = Known("44", status, NOW - 300 * DAY, NOW, amount=Decimal("9.99"), schedule=schedule, judged_to=judged_to)
    return replace(found, **more)  # type: ignore[arg-type]


def row(status: str = "active", past: int = 3, created: datetime | None = None, identifier: str = "44") -> SubscriptionRow:
    return SubscriptionRow(identifier, status, created or NOW - 90 * DAY, Decimal("9.99"), past, 9999, None)


def failed(at: datetime | None, payment: int = 2, attempt: int = 1, *, judged: bool = False) -> Attempt:
    made = PaymentAttempt(None, at, payment, attempt, "This transaction has been declined.")
    return Attempt(f"{payment}.{attempt}", made, judged)


def at(day: date, zone: tzinfo = PACIFIC, hours: float = 2) -> datetime:
    return datetime(day.year, day.month, day.day, tzinfo=zone) + timedelta(hours=hours)


# The calendar


def test_a_schedule_that_starts_on_the_31st_is_due_on_the_last_day_of_shorter_months() -> None:
    found = due_days(MONTHLY, date(2025, 1, 1), date(2026, 7, 1))
    assert [day.isoformat()[5:] for day in found] == ["01-31", "02-28", "03-31", "04-30", "05-31", "06-30"]
    assert due_days(Schedule(12, "months", date(2024, 2, 29), 9999), date(2024, 3, 1), date(2028, 3, 1)) == [
        date(2025, 2, 28),
        date(2026, 2, 28),
        date(2027, 2, 28),
        date(2028, 2, 29),
    ]


@given(st.dates(date(1990, 1, 1), date(2090, 1, 1)), st.integers(1, 14), st.integers(1, 60))
def test_the_days_of_a_monthly_schedule_are_calendar_months_apart(start: date, length: int, total: int) -> None:
    found = due_days(Schedule(length, "months", start, total), start - DAY, date(2999, 1, 1))
    assert len(found) == total
    for number, day in enumerate(found):
        assert (day.year * 12 + day.month) - (start.year * 12 + start.month) == number * length
        assert day.day == min(start.day, calendar.monthrange(day.year, day.month)[1])


@given(st.dates(date(1990, 1, 1), date(2090, 1, 1)), st.integers(7, 365), st.integers(1, 60), st.integers(0, 5))
def test_the_days_of_a_schedule_are_its_intervals_apart_and_free_trials_are_not_expected(
    start: date, length: int, total: int, trials: int
) -> None:
    free = Schedule(length, "days", start, total, trials, Decimal(0))
    expected = [start + number * length * DAY for number in range(total)]
    assert due_days(free, date.min, date(2999, 1, 1)) == expected[trials:]
    assert due_days(free._replace(trial_amount=Decimal("1.00")), date.min, date(2999, 1, 1)) == expected
    assert due_days(free._replace(trial_amount=None), date.min, date(2999, 1, 1)) == expected[trials:]
    assert next_due_day(free, expected[-1]) is None


@pytest.mark.parametrize(
    "odd",
    [
        Schedule(None, "months", date(2026, 1, 1), 9),
        Schedule(0, "days", date(2026, 1, 1), 9),
        Schedule(10**17, "months", date(2026, 1, 1), 9),
        Schedule(7, "weeks", date(2026, 1, 1), 9),
        Schedule(7, None, date(2026, 1, 1), 9),
        Schedule(1, "months", None, 9),
        Schedule(1, "months", date(2026, 1, 1), 0),
    ],
)
def test_an_odd_schedule_expects_nothing(odd: Schedule) -> None:
    assert due_days(odd, date.min, date.max) == []
    assert judge_renewals(known(odd, date(2020, 1, 1)), [], NOW, UTC) == ((), date(2020, 1, 1))


def test_a_schedule_ends_with_the_calendar() -> None:
    assert due_days(Schedule(100, "months", date(9990, 1, 1), 9999), date.min, date.max)[-1].year == 9998
    assert due_days(Schedule(3000, "days", date(9990, 1, 1), 9999), date.min, date.max)[-1].year == 9998


# Missed renewals


def test_a_renewal_that_does_not_come_is_missed_once_and_only_after_its_margin() -> None:
    own = known(judged_to=date(2026, 10, 31))
    deadline = at(date(2026, 12, 1), hours=0) + MARGIN
    assert judge_renewals(own, [], deadline - timedelta(seconds=1), PACIFIC) == ((), date(2026, 10, 31))
    assert next_look(own, [], NOW, PACIFIC) == deadline
    found = judge_renewals(own, [], deadline, PACIFIC)
    assert found == ((date(2026, 11, 30),), date(2026, 11, 30))
    assert is_awaited(own, [], deadline, PACIFIC)
    again = replace(own, judged_to=date(2026, 11, 30))
    assert judge_renewals(again, [], deadline + 20 * DAY, PACIFIC).missed == ()
    assert next_look(again, [], deadline, PACIFIC) == at(date(2027, 1, 1), hours=0) + MARGIN


@settings(max_examples=40)
@given(
    st.sampled_from(ZONES),
    st.one_of(
        st.builds(
            Schedule, st.integers(1, 12), st.just("months"), st.dates(date(2024, 1, 1), date(2025, 12, 31)), st.just(9999)
        ),
        st.builds(Schedule, st.integers(7, 90), st.just("days"), st.dates(date(2024, 1, 1), date(2025, 12, 31)), st.just(9999)),
    ),
    st.sets(st.integers(0, 30)),
    st.floats(0, 40),
)
def test_exactly_the_renewals_without_an_attempt_are_missed(
    zone: tzinfo, schedule: Schedule, skipped: set[int], hours: float
) -> None:
    """Attempts come up to 40 hours after the day began, so within the margin; a day's own payment never counts for another."""
    assert schedule.starts_on is not None
    begin = schedule.starts_on - DAY
    due = due_days(schedule, begin, date(2026, 11, 27))
    times = [at(day, zone, hours) for number, day in enumerate(due) if number not in skipped]
    ripe = {day for day in due if at(day + DAY, zone, 0).astimezone(UTC) + MARGIN <= NOW}
    found = judge_renewals(known(schedule, begin), times, NOW, zone)
    assert list(found.missed) == [day for number, day in enumerate(due) if number in skipped and day in ripe]
    step = known(schedule, begin)
    missed: list[date] = []
    for ago in range(800, -1, -40):  # sweeps on the way decide the same, and each day once
        now = NOW - ago * DAY
        part = judge_renewals(step, [one for one in times if one <= now], now, zone)
        missed += part.missed
        step = replace(step, judged_to=part.judged_to)
    assert missed == list(found.missed)


def test_a_payment_that_comes_late_is_found_afterwards() -> None:
    day = date(2026, 9, 30)
    assert arrival(MONTHLY, day, [at(date(2026, 10, 12))], PACIFIC) == at(date(2026, 10, 12))
    assert arrival(MONTHLY, day, [at(date(2026, 9, 28)), at(date(2026, 10, 30))], PACIFIC) is None
    assert arrival(MONTHLY._replace(total_occurrences=9), day, [at(date(2027, 10, 30))], PACIFIC) == at(date(2027, 10, 30))


def test_as_many_payments_as_were_due_leave_none_missed() -> None:
    for past, missed in ((9, 1), (10, 0)):  # the tenth payment is due on October 31
        found = judge_renewals(known(judged_to=date(2026, 9, 30), past_occurrences=past), [], NOW, PACIFIC)
        assert len(found.missed) == missed


@pytest.mark.parametrize("status", ["suspended", "canceled", "terminated", "expired", "a new text"])
def test_a_subscription_that_is_not_active_misses_nothing(status: str) -> None:
    own = known(judged_to=date(2026, 1, 1), status=status)
    assert judge_renewals(own, [], NOW, PACIFIC).missed == ()


def test_days_before_the_subscription_was_seen_active_are_not_judged() -> None:
    first = with_row(None, row(created=NOW - 300 * DAY), NOW, UTC, None)
    assert (first.judged_to, first.status_since, first.next_look_at) == (NOW.date(), NOW, NOW)
    later = NOW + 60 * DAY
    suspended = with_row(first, row("suspended"), later, UTC, later - DAY)
    assert (suspended.judged_to, suspended.status_since) == (NOW.date(), later)
    active = with_row(suspended, row(), later + 30 * DAY, UTC, later)
    assert active.judged_to == (later + 30 * DAY).date()


def test_of_a_new_subscription_the_first_payment_is_expected_too() -> None:
    created = NOW - timedelta(hours=5)
    own = with_row(None, row(created=created, past=0), NOW, UTC, NOW - DAY)
    own = replace(own, schedule=Schedule(1, "months", NOW.date(), 9999))
    assert own.status_since == created
    assert judge_renewals(own, [], NOW + 4 * DAY, UTC).missed == (NOW.date(),)
    assert with_row(None, row(created=created), NOW, UTC, None).judged_to == NOW.date(), "it may be an old one"


def test_a_row_that_changed_needs_the_details_and_one_that_did_not_needs_none() -> None:
    first = replace(with_row(None, row(), NOW, UTC, NOW), next_look_at=NOW + 9 * DAY)
    for other, look in (
        (row(), NOW + 9 * DAY),
        (row(past=4), NOW + DAY),
        (row("suspended"), NOW + DAY),
        (row("expired"), NOW + DAY),
    ):
        assert with_row(first, other, NOW + DAY, UTC, NOW).next_look_at == look
    assert with_row(None, row("canceled"), NOW, UTC, NOW).next_look_at is None, "it ended before webhookd looked"
    assert with_row(None, row("suspended"), NOW, UTC, NOW).next_look_at == NOW


def test_a_suspended_subscription_is_looked_at_daily_for_two_weeks() -> None:
    own = known(status="suspended", status_since=NOW)
    assert next_look(own, [], NOW + 13 * DAY, UTC) == NOW + 14 * DAY
    assert next_look(own, [], NOW + 14 * DAY, UTC) is None


# Failures


def test_a_failure_that_no_webhook_reported_needs_an_event_and_one_that_was_reported_does_not() -> None:
    one, two, three = (failed(NOW - days * DAY, payment=9 - days) for days in (3, 2, 1))
    found = judge_failures([one, two, three], [NOW - 2 * DAY + timedelta(minutes=1)], NOW - 60 * DAY, NOW)
    assert found.silent == (one, three)
    assert {attempt.key for attempt in found.judged} == {one.key, two.key, three.key}
    assert all(attempt.judged for attempt in found.judged)
    assert judge_failures(found.judged, [], NOW - 60 * DAY, NOW) == Failures((), ())


def test_one_report_counts_for_one_attempt() -> None:
    attempts = [failed(NOW - DAY, attempt=1), failed(NOW - DAY + timedelta(hours=1), attempt=2)]
    assert judge_failures(attempts, [NOW - DAY], NOW - 9 * DAY, NOW).silent == (attempts[1],)
    judged = [attempts[0]._replace(judged=True), attempts[1]]
    assert judge_failures(judged, [NOW - DAY], NOW - 9 * DAY, NOW).silent == (attempts[1],), "the first still has its report"


def test_a_young_failure_is_decided_later_an_old_one_and_one_without_a_time_make_no_event() -> None:
    young = failed(NOW - GRACE + timedelta(seconds=1))
    assert judge_failures([young], [], NOW - DAY, NOW) == Failures((), ())
    assert next_look(known(None), [young], NOW, UTC) == NOW + timedelta(seconds=1)
    for one in (failed(NOW - 2 * DAY), failed(None)):
        found = judge_failures([one], [], NOW - DAY, NOW)
        assert (found.silent, [attempt.key for attempt in found.judged]) == ((), [one.key])
    paid = Attempt("1.1", PaymentAttempt("60", NOW - 2 * DAY, 1, 1, None))
    assert judge_failures([paid], [], NOW - 9 * DAY, NOW).silent == ()


def test_attempts_have_keys_and_keep_no_text_that_is_not_a_reason() -> None:
    made = (
        PaymentAttempt("60", NOW, 1, 1, "This transaction has been approved."),
        PaymentAttempt("0", NOW, 2, 1, "x" * 999),
        PaymentAttempt(None, NOW, None, 3, "The credit card has expired."),
        PaymentAttempt("61", None, None, None, None),
        PaymentAttempt(None, None, None, None, "nothing names it"),
    )
    found = attempts_of(Subscription("44", "active", None, made, MONTHLY))
    assert list(found) == ["1.1", "2.1", "at 2026-11-26T12:00:00+00:00", "transaction 61"]
    assert [one.failed for one in found.values()] == [False, True, True, False]
    assert [len(one.made.response or "") for one in found.values()] == [0, 255, 28, 0]
    assert with_details(known(None), Subscription("44", "active", None, made, MONTHLY), NOW).schedule == MONTHLY


# Cards and ids


@pytest.mark.parametrize(
    ("now", "month"),
    [
        (datetime(2026, 11, 30, 9, 59, tzinfo=UTC), "2026-11"),
        (datetime(2026, 11, 30, 10, tzinfo=UTC), None),  # it is December on Kiritimati
        (datetime(2026, 12, 1, 11, 59, tzinfo=UTC), None),
        (datetime(2026, 12, 1, 12, tzinfo=UTC), "2026-12"),
    ],
)
def test_this_month_is_certain_only_if_it_is_the_same_everywhere(now: datetime, month: str | None) -> None:
    assert month_of(now) == month
    assert month_of(now.astimezone(PACIFIC)) == month


def test_the_ids_of_events_never_change() -> None:
    events = (
        payment_failed("default", known(), failed(NOW)),
        card_expiring("default", known(), "2026-11"),
        missed_payment("default", known(), date(2026, 11, 30), PACIFIC),
    )
    assert [str(one.id) for one in events] == [
        "c5d86589-bb4b-50c6-a5c0-5cd006ed16bd",
        "be3179d1-1ff6-58b4-a26c-8bbadbad761a",
        "76245dc7-8cd4-5e06-b682-d2f90894a2f9",
    ]
    assert [one.at for one in events] == [NOW, None, at(date(2026, 11, 30), hours=0)]
    assert [dict(one.payload) for one in events] == [
        {
            "id": "44", "entityName": "subscription", "amount": Decimal("9.99"), "paymentNumber": 2, "attemptNumber": 1,
            "error": "This transaction has been declined.",
        },
        {"id": "44", "entityName": "subscription", "cardExpires": "2026-11"},
        {"id": "44", "entityName": "subscription", "amount": Decimal("9.99"), "expectedOn": "2026-11-30"},
    ]  # fmt: skip


def test_an_event_depends_on_what_happened_and_on_nothing_else() -> None:
    other = known(None, status="suspended", amount=Decimal(1), past_occurrences=7)
    later = Attempt("2.1", PaymentAttempt(None, NOW + DAY, 2, 1, None), judged=True)
    assert payment_failed("default", known(), failed(NOW)).id == payment_failed("default", other, later).id
    assert card_expiring("default", known(), "2026-11").id == card_expiring("default", other, "2026-11").id
    day = date(2026, 11, 30)
    assert missed_payment("default", known(), day, UTC).id == missed_payment("default", other, day, PACIFIC).id
    differing = {
        payment_failed("default", known(), failed(NOW)).id,
        payment_failed("default", known(), failed(NOW, attempt=2)).id,
        payment_failed("default", known(), failed(NOW, payment=3)).id,
        payment_failed("north", known(), failed(NOW)).id,
        payment_failed("default", replace(known(), id="45"), failed(NOW)).id,
        missed_payment("default", known(), day, UTC).id,
        missed_payment("default", known(), day + DAY, UTC).id,
        card_expiring("default", known(), "2026-12").id,
    }
    assert len(differing) == 8
