"""Compares the provider's history with the ledger, and takes from the history what no webhook brought."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import UTC, date, datetime, time, timedelta
from itertools import chain
from typing import NamedTuple
from uuid import UUID

from webhookd.authorizenet import gaps as comparison
from webhookd.authorizenet.api.client import ProviderClient
from webhookd.authorizenet.api.errors import CallRejectedError, ProviderError, UnreadableAnswerError
from webhookd.authorizenet.api.results import History, HistoryRow
from webhookd.authorizenet.gaps import MARGIN, Comparison, Completeness, Day, Ledger
from webhookd.errors import LeaseEndedError, UnavailableError
from webhookd.store.database import Database
from webhookd.store.provider_gaps import Bounds, Known, Noted, Ordered, Ping, ProviderGaps, Refused
from webhookd.sync.takeover import Span, Takeover
from webhookd.telemetry.logs import logger, where
from webhookd.telemetry.provider_metrics import ProviderMetrics

_MOST = 1000  # notifications that one look takes; then the history is read anew, so that fresh gaps do not wait for old ones
_FRESH = timedelta(days=1)  # gaps that are younger go first
_PAUSE = 60.0  # seconds until the next try of an order that cannot go on
_SET_URL = "set WEBHOOKD_PUBLIC_URL to the webhook's URL as Authorize.Net has it"
_SKEW = timedelta(days=1)  # by which an eventDate may lie after the receipt


class _Look(NamedTuple):
    """A look at the history. `first` and `last` are asked for; the days from the one after `first` to `judged` are judged.

    since: older notifications are not webhookd's business.
    """

    first: date
    last: date
    judged: date
    since: datetime
    thorough: bool


class _Books(NamedTuple):
    """The knowledge of webhookd about the notifications of a look. `pings`: those whose sample did not come."""

    ledger: Ledger
    noted: dict[str, Noted]
    pings: list[Ping]


class GapCloser:
    """The gap closer of one account.

    It needs no state of its own to go on after a kill: a notification that is in the ledger is never taken again.

    since: webhookd looks at no notification that was made before it had the account's credentials, unless an operator orders
        so: another program may have processed these.
    """

    def __init__(
        self,
        account: str,
        client: ProviderClient,
        database: Database,
        gaps: ProviderGaps,
        takeover: Takeover,
        grace: timedelta,
        metrics: ProviderMetrics,
    ) -> None:
        self._account = account
        self._client = client
        self._database = database
        self._gaps = gaps
        self._takeover = takeover
        self._grace = grace
        self._metrics = metrics
        self._lock = asyncio.Lock()
        self._revisited = False
        self._counted: int | None = None  # of the notifications that were taken, those that an order's record has
        self._orders_from = 0.0  # the time of the event loop from which orders are worked on
        self._url_asked: UUID | None = None  # the order for which the list of webhooks was asked for
        self._unknown = False  # no webhook is known as ours

    async def close(self, back_to: date | None = None) -> bool:
        """Looks at the history once, from `back_to` on if it is earlier than what needs a look anyway.

        Returns whether more is to be taken, so that another look should follow at once. Raises the client's errors.
        """
        async with self._lock:
            bounds = await self._gaps.bounds()
            self._metrics.compared.labels(self._account).set(bounds.compared_at.timestamp())
            now = self._database.now()
            oldest = self._takeover.oldest(now)
            # Note by which webhooks events come: when one of them is gone, what it lost is still ours.
            if new := await self._gaps.seen_webhooks() - bounds.webhooks:
                await self._gaps.note_webhooks(new)
                bounds = bounds._replace(webhooks=bounds.webhooks | new)
            cursor = _cursor(bounds, now)
            stored = await self._gaps.days(now.date() - comparison.LONGEST - _FRESH, now.date())
            since = max(bounds.since, oldest)
            # Every second look may be at an older day, so that many such days delay no fresh gap.
            may_revisit = back_to is None and not self._revisited
            due = comparison.revisits(cursor, stored, now, self._grace) if may_revisit else ()
            due = tuple(day for day in due if day >= _day(since))  # of earlier days, nothing is taken or recorded
            self._revisited = bool(due)
            if due:
                is_proven = comparison.is_proven(stored[due[0]], now)  # so the last look may be a quick one: fewer calls
                look = _Look(*comparison.around(due[0]), due[0], since, not is_proven)
            else:
                thorough = comparison.needs_proof(cursor, stored, now, self._grace)
                first, last = comparison.span(min(cursor, back_to or cursor), now)
                look = _Look(first, last, now.date(), since, thorough)
            return bool(await self._run(look, bounds, cursor, stored, now))

    async def work_on_orders(self) -> bool:
        """Works on the oldest order of an operator, one look at one day. Returns whether more is to be done at once."""
        order = await self._gaps.ordered()
        if order is None:
            self._counted = None
            return False
        loop = asyncio.get_running_loop()
        if loop.time() < self._orders_from:
            return False
        if self._counted is None:
            self._counted = self._takeover.taken
        async with self._lock:
            now = self._database.now()
            day, total = order.since + timedelta(days=order.done), (now.date() - order.since).days + 1
            if day > now.date():
                await self._gaps.advance(order, total, order.done, ended=True)
                return True
            try:
                left = await self._close_day(order, day, now)
            except (CallRejectedError, UnreadableAnswerError) as error:  # the next try would end in the same way
                await self._gaps.advance(order, total, order.done, error=str(error), ended=True)
                raise
            except ProviderError as error:
                self._orders_from = loop.time() + _PAUSE
                await self._gaps.advance(order, total, order.done, held_by=str(error))
                raise
            except (UnavailableError, LeaseEndedError):
                raise
            except Exception as error:  # noqa: BLE001  a defect: the order must not block the account's next orders
                reason = type(error).__name__
                logger.error("an order to close gaps failed", account=self._account, order=str(order.id), problem=where(error))
                await self._gaps.fail(order, f"{reason} at {day}: the daemon's log has more")
                self._counted = None
                return False  # the next order begins in two seconds
            # Count what other looks have taken meanwhile, too: from now on, they also look at days before the credentials.
            taken, self._counted = self._takeover.taken - self._counted, self._takeover.taken
            if self._unknown:
                self._orders_from = loop.time() + _PAUSE
                held_by = f"webhookd does not know which webhook is its own: {_SET_URL}"
                await self._gaps.advance(order, total, order.done, taken=taken, held_by=held_by)
                return False
            await self._gaps.advance(order, total, order.done + (not left), taken=taken)
            return True

    async def _close_day(self, order: Ordered, day: date, now: datetime) -> int:
        bounds = await self._gaps.bounds()
        if self._url_asked != order.id:  # an order finds a webhook whose URL a person has corrected
            webhooks = (await self._takeover.webhooks(bounds.webhooks)).ids
            self._url_asked, bounds = order.id, bounds._replace(webhooks=webhooks)
        oldest = self._takeover.oldest(now)
        if day < _day(oldest):  # retention may have removed events of such a day, so that they would be processed again
            return 0
        since = max(min(bounds.since, datetime.combine(order.since, time(), UTC)), oldest)
        look = _Look(*comparison.around(day), day, since, True)
        stored = await self._gaps.days(day - MARGIN, now.date())
        cursor = _cursor(bounds, now)
        return await self._run(look, bounds, cursor, stored, now)

    async def _run(self, look: _Look, bounds: Bounds, cursor: date, stored: dict[date, Day], now: datetime) -> int:
        """Makes a look. Returns the number of notifications that are still to be taken."""
        young_from = now - self._grace
        history = await self._client.history(look.first, look.last, young_from=young_from, thorough=look.thorough)
        books = await self._books(history, look, bounds.webhooks)
        found = await self._compare(history, books.ledger, look, stored, now)
        left, ours, failure = 0, None, None
        if found.missing:
            try:
                ours = await self._takeover.webhooks(bounds.webhooks)
                if ours.ids:
                    chosen = sorted(found.missing, key=lambda row: row.event_date is not None and now - row.event_date > _FRESH)
                    left = len(chosen[_MOST:])
                    await self._takeover.take(chosen[:_MOST], ours, books.pings, Span(look.since, young_from, now))
            except ProviderError as error:  # record what the list has shown all the same: the day is not whole
                failure = error
            books = await self._books(history, look, bounds.webhooks if ours is None else ours.ids)
            found = await self._compare(history, books.ledger, look, stored, now)
        if ours is not None or failure is None:
            self._note_unknown(unknown=ours is not None and not ours.ids)
        await self._record(found, books, look, cursor, stored, now)
        if failure is not None:
            raise failure
        return left

    async def _compare(
        self, history: History, ledger: Ledger, look: _Look, stored: dict[date, Day], now: datetime
    ) -> Comparison:
        return await asyncio.to_thread(comparison.compare, history, ledger, look.first, now, self._grace, stored, look.judged)

    async def _books(self, history: History, look: _Look, ours: frozenset[str]) -> _Books:
        """Reads what webhookd knows. `ours`: the webhooks that are known as ours by now."""
        start = datetime.combine(look.first, time(), UTC)
        noted = await self._gaps.noted(start)
        # In threads: 200,000 rows would keep the event loop for half a second.
        known = await self._gaps.known(await asyncio.to_thread(_names, history, noted))
        pings, samples = await self._gaps.pings(start)
        async for name, one in self._gaps.events(start - _SKEW, max(look.since, start)):
            known.setdefault(name, one)
        ledger = await asyncio.to_thread(_ledger, history, known, noted, samples, ours, look.since)
        return _Books(ledger, noted, pings)

    async def _record(
        self, found: Comparison, books: _Books, look: _Look, cursor: date, stored: dict[date, Day], now: datetime
    ) -> None:
        fresh = [row for row in found.lacking if row.notification_id not in books.noted]
        await self._gaps.note(Refused(row.notification_id, "seen", "", row.event_type, row.event_date) for row in fresh)
        ledger = books.ledger
        await self._gaps.forget([name for name in books.noted if name in ledger.delivered or name in ledger.recovered])
        days: Sequence[Day] = [day for day in found.days if day.day >= _day(look.since)]
        if self._unknown:  # the missing notifications may all be foreign
            days = [_as_not_known(day) for day in days]
        cursor = comparison.advanced(cursor, (stored | {day.day: day for day in days}).values(), now)
        await self._gaps.record(days, look.since, cursor)
        figures = await self._gaps.figures()
        metrics = self._metrics
        metrics.missing.labels(self._account).set(figures["missing"])
        metrics.unreadable.labels(self._account).set(figures["unreadable"])
        metrics.days_not_whole.labels(self._account).set(figures["days_not_whole"])
        metrics.compared.labels(self._account).set(now.timestamp())

    def _note_unknown(self, *, unknown: bool) -> None:
        if unknown and not self._unknown:
            logger.warning(
                "the history lists notifications that never came, and webhookd does not know which of the account's webhooks "
                f"is its own: {_SET_URL}",
                account=self._account,
            )
        self._unknown = unknown


def _cursor(bounds: Bounds, now: datetime) -> date:
    """Returns the last day that needs no look each time. The recorded day can be wrong, if PostgreSQL's clock was."""
    return min(max(bounds.cursor or date.min, _day(bounds.since)), now.date())


def _names(history: History, noted: dict[str, Noted]) -> list[str]:
    return list(dict.fromkeys(chain((row.notification_id for row in history.rows), noted)))


def _ledger(
    history: History, known: dict[str, Known], noted: dict[str, Noted], samples: set[str], ours: frozenset[str], since: datetime
) -> Ledger:
    """Returns the ids that webhookd knows.

    known: the notifications that are in the ledger. noted: those that were not. samples: of pings.
    ours: the webhooks that are ours. since: older notifications are not webhookd's business.
    """
    foreign = {name for name, one in noted.items() if one.status == "foreign" and one.reason not in ours}
    dates = {name: one.event_date for name, one in noted.items()}
    dates |= {row.notification_id: row.event_date for row in history.rows if row.event_date is not None}
    foreign |= {name for name, at in dates.items() if _is_before(at, since)} | samples
    return Ledger(
        delivered={name: one.day for name, one in known.items() if not one.recovered},
        recovered={name: one.day for name, one in known.items() if one.recovered},
        unreadable=frozenset(name for name, one in noted.items() if one.status == "unreadable" and not one.due),
        foreign=frozenset(foreign - known.keys()),
        seen={
            name: HistoryRow(name, one.event_type, one.event_date, None)
            for name, one in noted.items()
            if one.status == "seen" and name not in foreign
        },
    )


def _as_not_known(day: Day) -> Day:
    return day._replace(completeness=Completeness.NOT_KNOWN) if day.completeness is Completeness.MISSING else day


def _is_before(at: datetime | None, since: datetime) -> bool:
    return at is not None and at < since


def _day(at: datetime) -> date:
    return at.astimezone(UTC).date()
