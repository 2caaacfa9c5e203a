"""Compares the provider's history with the ledger: what is missing, and which days are whole. Pure functions, without I/O.

Ids are compared, never dates, bodies or delivery statuses: dates and bodies differ between the two sources, and a proxy can
have answered 200 to a webhook that never reached webhookd.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from enum import StrEnum
from typing import NamedTuple

from webhookd.authorizenet.api.results import History, HistoryRow

MARGIN = timedelta(days=1)  # the zone of the history's days is not known, and notifications may be listed late


class Completeness(StrEnum):
    """The result for a day. Only a day of which everything is known is ever called whole."""

    WHOLE = "whole"
    MISSING = "missing"  # at least one notification is not in the ledger yet
    UNREADABLE = "unreadable"  # all is in the ledger but what the provider's answers do not let webhookd read
    OPEN = "open"  # the day is not over, or its last notifications may be on their way
    NOT_KNOWN = "not known"  # the provider's list is not settled, or lacks notifications that webhookd got


@dataclass(slots=True, frozen=True)
class Ledger:
    """The ids that webhookd knows, in lower case.

    delivered: the events that came as webhooks, each with its day: the day of its eventDate in UTC.
    recovered: the events that came from the history.
    unreadable: notifications that the history lists and whose answer cannot become an event.
    foreign: notifications for another webhook than ours, which are none of our business.
    """

    delivered: Mapping[str, date]
    recovered: frozenset[str] = field(default_factory=frozenset)
    unreadable: frozenset[str] = field(default_factory=frozenset)
    foreign: frozenset[str] = field(default_factory=frozenset)


class Day(NamedTuple):
    """The counts of one day, in UTC. `listed` is the provider's count, `held` ours of these, `recovered` a part of `held`.

    unlisted: events that webhookd got and the provider does not list. waiting: notifications that are younger than the grace.
    """

    day: date
    completeness: Completeness
    listed: int = 0
    held: int = 0
    recovered: int = 0
    missing: int = 0
    waiting: int = 0
    unreadable: int = 0
    unlisted: int = 0


class Comparison(NamedTuple):
    """The result of a comparison. `missing` are the notifications to fetch, the oldest first."""

    missing: tuple[HistoryRow, ...]
    days: tuple[Day, ...]


def span(cursor: date, now: datetime) -> tuple[date, date]:
    """Returns the first and the last day to ask the history for. `cursor` is the newest day that is known to be compared."""
    return cursor - MARGIN, now.astimezone(UTC).date() + MARGIN


def compare(history: History, ledger: Ledger, first: date, now: datetime, grace: timedelta) -> Comparison:
    """Compares the history with the ledger.

    first: the first day that was asked for. Days from the one after it are judged: the margin makes their lists whole.
    grace: the age from which a notification counts as missing; a younger one may be on its way.
    """
    today = now.astimezone(UTC).date()
    rows = [row for row in history.rows if row.notification_id not in ledger.foreign]
    missing = [row for row in rows if _lacks(ledger, row) and not _is_young(row, now, grace)]
    by_day: dict[date, list[HistoryRow]] = {}
    for row in rows:
        by_day.setdefault(row.event_date.date() if row.event_date else today, []).append(row)
    listed = {row.notification_id for row in rows}
    unlisted: dict[date, int] = {}
    for identifier, day in ledger.delivered.items():
        if identifier not in listed:
            unlisted[day] = unlisted.get(day, 0) + 1
    judged = _days(first + MARGIN, today)
    days = tuple(
        _judged(day, by_day.get(day, ()), ledger, unlisted.get(day, 0), now, grace, settled=history.settled) for day in judged
    )
    oldest = datetime.min.replace(tzinfo=UTC)
    return Comparison(tuple(sorted(missing, key=lambda row: (row.event_date or oldest, row.notification_id))), days)


def advanced(cursor: date, days: Iterable[Day]) -> date:
    """Returns the new cursor: the last day of an unbroken sequence, after `cursor`, of days that need no further look."""
    done = {one.day for one in days if one.completeness in (Completeness.WHOLE, Completeness.UNREADABLE)}
    while cursor + timedelta(days=1) in done:
        cursor += timedelta(days=1)
    return cursor


def _judged(
    day: date, rows: Iterable[HistoryRow], ledger: Ledger, unlisted: int, now: datetime, grace: timedelta, *, settled: bool
) -> Day:
    listed = held = recovered = missing = waiting = unreadable = 0
    for row in rows:
        listed += 1
        if row.notification_id in ledger.delivered:
            held += 1
        elif row.notification_id in ledger.recovered:
            held += 1
            recovered += 1
        elif row.notification_id in ledger.unreadable:
            unreadable += 1
        elif _is_young(row, now, grace):
            waiting += 1
        else:
            missing += 1
    end = datetime.combine(day + timedelta(days=1), datetime.min.time(), UTC)
    if missing:
        result = Completeness.MISSING
    elif now < end + grace:
        result = Completeness.OPEN
    elif not settled or unlisted:
        result = Completeness.NOT_KNOWN
    else:
        result = Completeness.UNREADABLE if unreadable else Completeness.WHOLE
    return Day(day, result, listed, held, recovered, missing, waiting, unreadable, unlisted)


def _lacks(ledger: Ledger, row: HistoryRow) -> bool:
    identifier = row.notification_id
    return identifier not in ledger.delivered and identifier not in ledger.recovered and identifier not in ledger.unreadable


def _is_young(row: HistoryRow, now: datetime, grace: timedelta) -> bool:
    return row.event_date is not None and now - row.event_date < grace


def _days(first: date, last: date) -> list[date]:
    return [first + timedelta(days=number) for number in range((last - first).days + 1)]
