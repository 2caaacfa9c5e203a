"""Compares the provider's history with the ledger: what is missing, and which days are whole. Pure functions, without I/O.

Ids are compared, never dates, bodies or delivery statuses: dates and bodies differ between the two sources, and a proxy can
have answered 200 to a webhook that never reached webhookd.

A day is whole only after two thorough looks, an hour apart. Both read the list to its end and found as many rows as any look
ever found, all of them in the ledger. So one answer with too few rows makes no day whole.

A whole day gets one last look when it is seven days old: the provider may list a notification late. The last look takes away
no proof. If it finds nothing more, the day stays whole, even if the provider no longer lists such old rows. But a list that has
fewer rows than before may be a mistake, so that such a look is not the last one.

A row that is dated more than a day ahead is no young row: its date is wrong. It is taken at once, and until then, it may belong
to each of the days, as a row without a date may.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from enum import StrEnum
from itertools import chain
from typing import NamedTuple

from webhookd.authorizenet.api.results import History, HistoryRow

MARGIN = timedelta(days=1)  # the zone of the history's days is not known, and notifications may be listed late
LOOKS = 2  # thorough looks that a whole day needs
APART = timedelta(hours=1)  # between these, so that in each hour a quiet account needs but one call more
PATIENCE = timedelta(hours=6)  # a day that is over for longer, and not proven, is not known
STRAY = timedelta(days=2)  # from this age on, a day that is not known no longer keeps the cursor from later days
LAST_LOOK = timedelta(days=7)  # the age of a whole day at its last look
LONGEST = timedelta(days=30)  # after which a day is not looked at again
AHEAD = timedelta(days=1)  # by which a date may lie ahead: the zone of the history's dates is not known for certain
_DAY = timedelta(days=1)


class Completeness(StrEnum):
    """The result for a day. Only a day of which everything is known is ever called whole."""

    WHOLE = "whole"
    MISSING = "missing"  # at least one notification is not in the ledger yet
    UNREADABLE = "unreadable"  # all is in the ledger but what the provider's answers do not let webhookd read
    OPEN = "open"  # the day is not over, its last notifications may be on their way, or a second look is to come
    NOT_KNOWN = "not known"  # the provider's list cannot be read whole, has fewer rows than before, or lacks what came


@dataclass(slots=True, frozen=True)
class Ledger:
    """The ids that webhookd knows, in lower case.

    delivered: the events that came as webhooks, each with its day: the day of its eventDate in UTC.
    recovered: the events that came from the history, with their days.
    unreadable: notifications that the history lists and whose answer cannot become an event.
    foreign: notifications for another webhook than ours, which are none of our business.
    seen: rows of earlier looks (`Comparison.lacking`) that the ledger lacked then. They count, even if the list drops them.
    """

    delivered: Mapping[str, date]
    recovered: Mapping[str, date] = field(default_factory=dict)
    unreadable: frozenset[str] = frozenset()
    foreign: frozenset[str] = frozenset()
    seen: Mapping[str, HistoryRow] = field(default_factory=dict)

    def lacks(self, identifier: str) -> bool:
        """Returns whether webhookd knows nothing of a notification."""
        known = (self.delivered, self.recovered, self.unreadable, self.foreign)
        return not any(identifier in ids for ids in known)


class Day(NamedTuple):
    """The counts of one day, in UTC. `listed` is the provider's count, `ours` webhookd's of these, `recovered` a part of it.

    unlisted: events that webhookd got and the provider does not list. waiting: notifications that are younger than the grace.
    most: the highest number of rows that a look found for the day, those for other webhooks included.
    looks: the number of thorough looks in a row, after the day's end, that found this number. A whole day with 0 needs its last
        look again.
    looked_at: the time of the last thorough look that counted.
    """

    day: date
    completeness: Completeness
    listed: int = 0
    ours: int = 0
    recovered: int = 0
    missing: int = 0
    waiting: int = 0
    unreadable: int = 0
    unlisted: int = 0
    most: int = 0
    looks: int = 0
    looked_at: datetime | None = None


class Comparison(NamedTuple):
    """The result of a comparison. `missing` are the notifications to fetch, the oldest first.

    lacking: these and those that may be on their way. Give them to the next comparisons as `Ledger.seen`.
    """

    missing: tuple[HistoryRow, ...]
    days: tuple[Day, ...]
    lacking: tuple[HistoryRow, ...] = ()


def span(cursor: date, now: datetime) -> tuple[date, date]:
    """Returns the first and the last day to ask the history for. `cursor` is the newest day that is known to be compared."""
    return cursor - MARGIN, _today(now) + MARGIN


def around(day: date) -> tuple[date, date]:
    """Returns the first and the last day to ask the history for, so that `day` can be judged in every zone."""
    return day - MARGIN, day + 2 * MARGIN  # the last day may not belong to the list


def needs_proof(cursor: date, earlier: Mapping[date, Day], now: datetime, grace: timedelta) -> bool:
    """Returns whether the look at `span(cursor, now)` must be thorough, since a day that is over needs a look that counts."""
    return any(_is_due(day, earlier.get(day), now, grace) for day in _days(cursor, _today(now) - _DAY))


def revisits(cursor: date, earlier: Mapping[date, Day], now: datetime, grace: timedelta) -> tuple[date, ...]:
    """Returns the days behind the cursor that need another look, at `around(day)`, the oldest first.

    If a day is not whole, a thorough look is due after an eighth of the day's age: more seldom from day to day, and for at
    most 30 days; if something is missing, after an hour. A whole day needs its last look, which need not be thorough: it
    proves nothing. If the last look found fewer rows than before, another one follows in the same way.
    """
    days = _days(_today(now) - LONGEST, cursor - _DAY)
    return tuple(day for day in days if day in earlier and _is_due(day, earlier[day], now, grace))


def is_ahead(at: datetime, now: datetime) -> bool:
    """Returns whether a date lies so far ahead that it must be wrong."""
    return at - now > AHEAD


def is_proven(one: Day, now: datetime) -> bool:
    """Returns whether a day is whole, and was not judged by a clock that was ahead: by such a clock, it was not over."""
    return one.completeness is Completeness.WHOLE and (one.looked_at is None or one.looked_at <= now)


def compare(
    history: History,
    ledger: Ledger,
    first: date,
    now: datetime,
    grace: timedelta,
    earlier: Mapping[date, Day] | None = None,
    last: date | None = None,
) -> Comparison:
    """Compares the history with the ledger.

    first: the first day that was asked for. Days from the one after it are judged: the margin makes their lists whole.
    now: the time before the history was asked for.
    grace: the age from which a notification counts as missing; a younger one may be on its way.
    earlier: the results of the last comparison of each day.
    last: the last day to judge; by default today.
    """
    look = _Look(history, ledger, now, grace)
    days = _days(first + MARGIN, last or _today(now))
    judged = tuple(look.judge(day, (earlier or {}).get(day, Day(day, Completeness.OPEN))) for day in days)
    oldest = datetime.min.replace(tzinfo=UTC)
    lacking = sorted(look.lacking, key=lambda row: (row.event_date or oldest, row.notification_id))
    return Comparison(tuple(row for row in lacking if not look.is_young(row)), judged, tuple(lacking))


def advanced(cursor: date, days: Iterable[Day], now: datetime) -> date:
    """Returns the new cursor: the last day of an unbroken sequence, after `cursor`, of days that need no look every time.

    These are whole days; after two days, those that are not known or unreadable; after 30 days, all. `revisits` has the rest.
    """
    done = {one.day for one in days if _may_pass(one, now)}
    while cursor + _DAY in done:
        cursor += _DAY
    return cursor


def _may_pass(one: Day, now: datetime) -> bool:
    age = now - _end(one.day)
    if one.completeness is Completeness.WHOLE or age >= LONGEST:
        return True
    return one.completeness in (Completeness.NOT_KNOWN, Completeness.UNREADABLE) and age >= STRAY


class _Look:
    """One look at the history, beside the ledger."""

    def __init__(self, history: History, ledger: Ledger, now: datetime, grace: timedelta) -> None:
        self._history = history
        self._ledger = ledger
        self._now = now
        self._grace = grace
        listed = {row.notification_id for row in history.rows}
        dropped = [row for name, row in ledger.seen.items() if name not in listed and ledger.lacks(name)]
        self.lacking = [row for row in chain(history.rows, dropped) if ledger.lacks(row.notification_id)]
        self._rows: dict[date | None, list[HistoryRow]] = {}
        for row in chain(history.rows, dropped):
            self._rows.setdefault(self._day_of(row), []).append(row)
        self._totals = Counter(map(self._day_of, history.rows))
        ours = {**ledger.recovered, **ledger.delivered}
        self._unlisted = Counter(day for name, day in ours.items() if name not in listed)
        # A row without a date may belong to each of the days, until the ledger has its event.
        undated = [row.notification_id for row in self._rows.get(None, ()) if row.notification_id not in ledger.foreign]
        self._lacks_undated = any(map(ledger.lacks, undated))
        self._unreadable = bool(history.unreadable or undated)

    def is_young(self, row: HistoryRow) -> bool:
        """Returns whether the notification may be on its way."""
        at = row.event_date
        return at is not None and self._now - at < self._grace and not is_ahead(at, self._now)

    def judge(self, day: date, before: Day) -> Day:
        """Returns the result for a day. `before`: its result of the look before this one."""
        counts = self._count(day)
        total = self._totals[day]
        thorough = self._history.complete and day not in self._history.moving
        if self._is_old_and_whole(before) and not counts.missing and counts.listed + counts.unlisted <= before.listed:
            return before._replace(looked_at=self._now, looks=LOOKS if total >= before.most else 0)
        if total < before.most and not thorough and not counts.missing:
            return self._aged(before)  # this look did not read the day's whole list, and tells nothing new but the time
        one = self._with_looks(counts, before, total, thorough=thorough)
        return one._replace(completeness=self._completeness(one, total))

    def _is_old_and_whole(self, before: Day) -> bool:
        return before.completeness is Completeness.WHOLE and self._now - _end(before.day) >= LAST_LOOK

    def _aged(self, before: Day) -> Day:
        """Returns an earlier result as it is now: a day does not stay open if no look reads its list.

        If the last look finds more than was proven, the day needs thorough looks again. They also end the last look.
        Notifications that the day lacked are known by now. They count again when a look reads the day's whole list.
        """
        if before.missing:
            rest, looks = before.listed - before.missing, min(before.looks, LOOKS - 1)
            before = before._replace(completeness=Completeness.OPEN, listed=rest, missing=0, looks=looks)
        is_late = self._now - _end(before.day) - self._grace >= PATIENCE
        if (before.completeness is Completeness.OPEN and is_late) or self._is_old_and_whole(before):
            return before._replace(completeness=Completeness.NOT_KNOWN)
        return before

    def _with_looks(self, counts: Day, before: Day, total: int, *, thorough: bool) -> Day:
        most, looks, looked_at = max(total, before.most), before.looks, before.looked_at
        is_over = self._now >= _end(counts.day) + self._grace
        if total != before.most:
            looks = 0
        if looked_at is not None and looked_at > self._now:  # the clock was put back since
            looks, looked_at = 0, None
        if thorough and is_over and (looks == 0 or looked_at is None or self._now - looked_at >= APART):
            looks = looks + 1 if total == most else 0
            looked_at = self._now
        return counts._replace(most=most, looks=looks, looked_at=looked_at)

    def _completeness(self, one: Day, total: int) -> Completeness:
        over_for = self._now - _end(one.day) - self._grace
        if one.missing:
            return Completeness.MISSING
        if over_for < timedelta():
            return Completeness.OPEN
        if one.unlisted or total < one.most or self._lacks_undated:
            return Completeness.NOT_KNOWN
        if one.looks < LOOKS:
            return Completeness.OPEN if over_for < PATIENCE else Completeness.NOT_KNOWN
        return Completeness.UNREADABLE if one.unreadable or self._unreadable else Completeness.WHOLE

    def _count(self, day: date) -> Day:
        ledger = self._ledger
        listed = ours = recovered = missing = waiting = unreadable = 0
        for row in self._rows.get(day, ()):
            name = row.notification_id
            if name in ledger.foreign:
                continue
            listed += 1
            if name in ledger.delivered:
                ours += 1
            elif name in ledger.recovered:
                ours += 1
                recovered += 1
            elif name in ledger.unreadable:
                unreadable += 1
            elif self.is_young(row):
                waiting += 1
            else:
                missing += 1
        return Day(day, Completeness.OPEN, listed, ours, recovered, missing, waiting, unreadable, self._unlisted[day])

    def _day_of(self, row: HistoryRow) -> date | None:
        if row.event_date is not None and not is_ahead(row.event_date, self._now):
            return row.event_date.date()
        return self._ledger.delivered.get(row.notification_id, self._ledger.recovered.get(row.notification_id))


def _is_due(day: date, before: Day | None, now: datetime, grace: timedelta) -> bool:
    age = now - _end(day)
    if age < grace:
        return False
    if before is not None and is_proven(before, now):
        if before.looked_at is None or before.looked_at < _end(day) + LAST_LOOK:
            return age >= LAST_LOOK
        return before.looks < LOOKS and now - before.looked_at >= age / 8
    if before is None or before.looked_at is None or before.looked_at > now:  # the clock was put back since
        return True
    soon = 0 < before.looks < LOOKS or before.completeness is Completeness.MISSING
    return now - before.looked_at >= (APART if soon else max(APART, age / 8))


def _today(now: datetime) -> date:
    return now.astimezone(UTC).date()


def _end(day: date) -> datetime:
    return datetime.combine(day + _DAY, datetime.min.time(), UTC)


def _days(first: date, last: date) -> list[date]:
    return [first + timedelta(days=number) for number in range((last - first).days + 1)]
