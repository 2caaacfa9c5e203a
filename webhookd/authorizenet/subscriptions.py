"""Finds what no webhook of a subscription reported: failed payments, expiring cards, renewals that did not come. It is pure.

The rules:

1. Schedule. The payment with the number n is due n - 1 intervals after the start. Months are calendar months: a schedule that
   starts on the 31st is due on the last day of a shorter month, and on the 31st again afterwards. A trial payment that costs
   nothing, or whose price is not known, is not expected.
2. A renewal came if an attempt at a payment, failed or not, was made between the day before its own day and the day before the
   next one; or if the provider counts as many payments. Numbers of payments do not decide alone: a subscription that was
   suspended goes on with its next number at a later day.
3. A renewal is missed if it did not come within `MARGIN` after its day, and the subscription is active. Days before webhookd
   first saw the subscription active are not judged.
4. A failed attempt needs an event if no webhook reported it: each report of a failure counts for one attempt, within
   `REPORTED_WITHIN`. A webhook may be late, and the gap closer may still find it, so `GRACE` passes first.
5. A card that expires this month needs one event.

Each decision is made once, and stored. The ids of events depend on the account, the subscription and what happened alone
(`synthetic.event_id`): a sweep that forgot a decision makes events that the ledger knows already.
"""

from __future__ import annotations

import calendar
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, time, timedelta, tzinfo
from decimal import Decimal
from typing import NamedTuple

from webhookd.authorizenet.api.results import PaymentAttempt, Schedule, Subscription, SubscriptionRow
from webhookd.authorizenet.synthetic import SyntheticEvent, Value, event_id
from webhookd.settings.synthetic_types import SyntheticType

MARGIN = timedelta(days=2)  # after the day on which a renewal is due
GRACE = timedelta(hours=6)
REPORTED_WITHIN = timedelta(hours=12)
WITHOUT_END = 9999  # the provider's number of occurrences of a subscription that has no end
_SUSPENDED_LOOKS = timedelta(days=14)  # after a failure, the provider may try again for so long
_DAY = timedelta(days=1)
_LONGEST_RESPONSE = 255
_LONGEST_INTERVAL = 3650
_WEST, _EAST = timedelta(hours=12), timedelta(hours=14)  # the clocks that are the latest and the earliest on Earth


@dataclass(slots=True, frozen=True)
class Known:
    """A subscription, as far as webhookd knows it. Times are UTC; `judged_to` is a day in the account's zone.

    status: the provider's text. status_since: the first look with this status, or the creation.
    card_expires: the month, as YYYY-MM, in which the card expires.
    judged_to: the last day on which a renewal was due and was judged.
    next_look_at: when the details are read again; None if no look is planned.
    """

    id: str
    status: str
    status_since: datetime
    seen_at: datetime
    created_at: datetime | None = None
    amount: Decimal | None = None
    past_occurrences: int | None = None
    total_occurrences: int | None = None
    invoice_number: str | None = None
    card_expires: str | None = None
    schedule: Schedule | None = None
    judged_to: date | None = None
    detailed_at: datetime | None = None
    next_look_at: datetime | None = None

    @property
    def is_active(self) -> bool:
        """Returns whether the provider renews the subscription."""
        return self.status.casefold() == "active"


class Attempt(NamedTuple):
    """An attempt at a payment. `judged`: whether it is decided if its failure needs an event."""

    key: str
    made: PaymentAttempt
    judged: bool = False

    @property
    def failed(self) -> bool:
        """Returns whether no transaction paid."""
        return self.made.transaction_id is None


class Failures(NamedTuple):
    """The judgement on attempts. judged: those that are decided now. silent: those among them that need an event."""

    judged: tuple[Attempt, ...]
    silent: tuple[Attempt, ...]


class Renewals(NamedTuple):
    """The judgement on renewals. missed: the days of those that did not come. judged_to: the last day that was judged."""

    missed: tuple[date, ...]
    judged_to: date | None


def due_days(schedule: Schedule, after: date, until: date) -> list[date]:
    """Returns the days after `after`, up to `until`, on which a payment with a price is due, in their order."""
    return [day for number, day in _days(schedule, until) if day > after and number > _free(schedule)]


def next_due_day(schedule: Schedule, after: date) -> date | None:
    """Returns the first day after `after` on which a payment with a price is due; None if there is none."""
    days = _days(schedule, date.max)
    return next((day for number, day in days if day > after and number > _free(schedule)), None)


def _free(schedule: Schedule) -> int:
    return 0 if schedule.trial_amount else schedule.trial_occurrences or 0


def _days(schedule: Schedule, until: date) -> Iterator[tuple[int, date]]:
    """Yields the numbers and the days of all payments up to a day. The provider's count includes the trial."""
    length, unit = schedule.interval_length or 0, (schedule.interval_unit or "").casefold()
    if schedule.starts_on is None or not 1 <= length <= _LONGEST_INTERVAL or unit not in ("days", "months"):
        return
    total = schedule.total_occurrences
    number = 0
    while total is None or total >= WITHOUT_END or number < total:
        day = _after(schedule.starts_on, number * length, unit)
        if day is None or day > until:
            return
        number += 1
        yield number, day


def _after(start: date, count: int, unit: str) -> date | None:
    """Returns the day that is a number of days or months after another; None if it is beyond the calendar."""
    if unit == "days":
        return start + timedelta(days=count) if count <= (date.max - start).days else None
    year, month = divmod(start.month - 1 + count, 12)
    year += start.year
    if year > date.max.year:
        return None
    return date(year, month + 1, min(start.day, calendar.monthrange(year, month + 1)[1]))


def judge_renewals(known: Known, evidence: Iterable[datetime], now: datetime, zone: tzinfo) -> Renewals:
    """Decides which renewals were missed.

    evidence: the times of all known attempts at payments, failed or not, and of the subscription's transactions.
    """
    if not known.is_active or known.schedule is None or known.judged_to is None:
        return Renewals((), known.judged_to)
    today = now.astimezone(zone).date()
    ripe = [day for day in due_days(known.schedule, known.judged_to, today) if _deadline(day, zone) <= now]
    if not ripe:
        return Renewals((), known.judged_to)
    times = sorted(evidence)
    numbers = {day: number for number, day in _days(known.schedule, today)}
    missed = [
        day
        for day in ripe
        if (known.past_occurrences or 0) < numbers[day] and arrival(known.schedule, day, times, zone) is None
    ]
    return Renewals(tuple(missed), ripe[-1])


def arrival(schedule: Schedule, day: date, evidence: Iterable[datetime], zone: tzinfo) -> datetime | None:
    """Returns the time of the first attempt at the renewal that was due on a day; None if there is none. See rule 2."""
    begin = _midnight(day - _DAY, zone)
    following = next_due_day(schedule, day)
    end = None if following is None else _midnight(following - _DAY, zone)
    return min((at for at in evidence if begin <= at and (end is None or at < end)), default=None)


def is_awaited(known: Known, evidence: Iterable[datetime], now: datetime, zone: tzinfo) -> bool:
    """Returns whether a renewal would be judged as missed now, so that the provider must be asked before."""
    return bool(judge_renewals(known, evidence, now, zone).missed)


def next_look(known: Known, attempts: Iterable[Attempt], now: datetime, zone: tzinfo) -> datetime | None:
    """Returns when the subscription needs the next look at its details, or the next judgement; None if it needs none."""
    looks = [one.made.submitted_at + GRACE for one in attempts if not one.judged and one.failed and one.made.submitted_at]
    if known.status.casefold() == "suspended" and now - known.status_since < _SUSPENDED_LOOKS:
        looks.append(now + _DAY)
    if known.is_active and known.schedule is not None and known.judged_to is not None:
        day = next_due_day(known.schedule, known.judged_to)
        looks += [] if day is None else [_deadline(day, zone)]
    return min(looks, default=None)


def with_row(known: Known | None, row: SubscriptionRow, now: datetime, zone: tzinfo, listed_before: datetime | None) -> Known:
    """Returns what is known after a look at a row of a list. A changed row needs the details at once.

    listed_before: when all subscriptions were listed before; None if never. What was created since then is new at the provider,
        so that its first payment is expected, too.
    """
    is_new = (
        known is None and listed_before is not None and row.created_at is not None and row.created_at >= listed_before - _DAY
    )
    begins = row.created_at if is_new and row.created_at else now
    base = known or Known(row.id, "", begins, now, next_look_at=None)
    found = replace(
        base,
        status=row.status,
        seen_at=now,
        created_at=row.created_at or base.created_at,
        amount=row.amount,
        past_occurrences=row.past_occurrences,
        total_occurrences=row.total_occurrences,
        invoice_number=row.invoice_number,
    )
    if found.status != base.status:
        found = replace(found, status_since=begins)
        if found.is_active:
            day = begins.astimezone(zone).date()
            found = replace(found, judged_to=day - _DAY if is_new else day)
    ended = known is None and not found.is_active and found.status.casefold() != "suspended"
    if not ended and replace(found, seen_at=base.seen_at) != known:
        found = replace(found, next_look_at=now)
    return found


def with_details(known: Known, details: Subscription, now: datetime) -> Known:
    """Returns what is known after a look at the details. The list decides on the status: a later row has it, too."""
    return replace(known, schedule=details.schedule or known.schedule, detailed_at=now)


def attempts_of(details: Subscription) -> dict[str, Attempt]:
    """Returns the attempts of details by their keys. An attempt that nothing names is left out."""
    made = map(_cleaned, details.attempts)
    return {key: Attempt(key, one) for one in made if (key := _key(one)) is not None}


def _cleaned(made: PaymentAttempt) -> PaymentAttempt:
    """Returns an attempt that has either a transaction or, shortened, the reason of its failure."""
    paid_by = None if made.transaction_id == "0" else made.transaction_id
    reason = None if paid_by or made.response is None else made.response[:_LONGEST_RESPONSE]
    return made._replace(transaction_id=paid_by, response=reason)


def _key(made: PaymentAttempt) -> str | None:
    if made.payment_number is not None and made.attempt_number is not None:
        return f"{made.payment_number}.{made.attempt_number}"
    if made.submitted_at is not None:
        return f"at {made.submitted_at.astimezone(UTC).isoformat()}"
    return made.transaction_id and f"transaction {made.transaction_id}"


def judge_failures(attempts: Sequence[Attempt], reports: Iterable[datetime], since: datetime, now: datetime) -> Failures:
    """Decides which failed attempts need an event. An attempt without a time needs none: no report could be compared with it.

    attempts: all that are known of a subscription.
    reports: the times of the webhooks that reported a failed payment of this subscription.
    since: older attempts make no event: webhookd had no credentials then, or has removed the events of that time.
    """
    failed = sorted((one for one in attempts if one.failed and one.made.submitted_at is not None), key=_time)
    silent = {one.key for one in _without_report(failed, reports)}
    decided = [one for one in attempts if not one.judged and not (one.failed and now - _time(one) < GRACE)]
    return Failures(
        tuple(one._replace(judged=True) for one in decided),
        tuple(one for one in decided if one.key in silent and _time(one) >= since),
    )


def _time(one: Attempt) -> datetime:
    return one.made.submitted_at or datetime.min.replace(tzinfo=UTC)


def _without_report(failed: Sequence[Attempt], reports: Iterable[datetime]) -> Iterator[Attempt]:
    """Yields the attempts to which no report belongs. Each report counts for one attempt: the first one that it fits."""
    free = sorted(reports)
    for one in failed:
        match = next((at for at in free if abs(at - _time(one)) <= REPORTED_WITHIN), None)
        if match is None:
            yield one
        else:
            free.remove(match)


def month_of(now: datetime) -> str | None:
    """Returns the present month, as YYYY-MM; None while it is another month elsewhere, so that "this month" is not certain."""
    west, east = now.astimezone(UTC) - _WEST, now.astimezone(UTC) + _EAST
    return f"{west:%Y-%m}" if (west.year, west.month) == (east.year, east.month) else None


def payment_failed(account: str, known: Known, attempt: Attempt) -> SyntheticEvent:
    """Returns the event of a failed attempt that no webhook reported."""
    made = attempt.made
    payload = {"amount": known.amount, "paymentNumber": made.payment_number, "attemptNumber": made.attempt_number}
    return _event(
        account, SyntheticType.PAYMENT_FAILED, known.id, attempt.key, made.submitted_at, payload | {"error": made.response}
    )


def card_expiring(account: str, known: Known, month: str) -> SyntheticEvent:
    """Returns the event of a card that expires in a month. It has no time of its own."""
    return _event(account, SyntheticType.CARD_EXPIRING, known.id, month, None, {"cardExpires": month})


def missed_payment(account: str, known: Known, day: date, zone: tzinfo) -> SyntheticEvent:
    """Returns the event of a renewal that was due on a day and did not come."""
    payload: dict[str, Value | None] = {"amount": known.amount, "expectedOn": day.isoformat()}
    return _event(account, SyntheticType.MISSED_PAYMENT, known.id, day.isoformat(), _midnight(day, zone), payload)


def _event(
    account: str, kind: SyntheticType, identifier: str, key: str, at: datetime | None, payload: dict[str, Value | None]
) -> SyntheticEvent:
    known = {name: value for name, value in payload.items() if value is not None}
    fields: dict[str, Value] = {"id": identifier, "entityName": "subscription", **known}
    return SyntheticEvent(event_id(account, kind, identifier, key), kind, account, identifier, at, fields)


def _midnight(day: date, zone: tzinfo) -> datetime:
    return datetime.combine(day, time(), zone).astimezone(UTC)


def _deadline(day: date, zone: tzinfo) -> datetime:
    return _midnight(day + _DAY, zone) + MARGIN
