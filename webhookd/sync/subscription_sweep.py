"""The sweep of an account's subscriptions: daily lists, and details of those that changed or whose renewal is due.

Each list and each subscription is recorded as soon as it is read, so a sweep that is cut off goes on where it was. The events
are committed before the decisions that they follow from. A crash in between makes the same events again, which are duplicates.

A run reads one list, or some details.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Callable, Iterable
from dataclasses import replace
from datetime import datetime, timedelta, tzinfo

from webhookd.authorizenet import subscriptions as rules
from webhookd.authorizenet.api.client import ProviderClient
from webhookd.authorizenet.api.errors import CallRejectedError, FeatureOffError, RecordNotFoundError, UnreadableAnswerError
from webhookd.authorizenet.api.results import SubscriptionRow
from webhookd.authorizenet.subscriptions import Attempt, Known
from webhookd.store.database import Database
from webhookd.store.provider_subscriptions import SubscriptionStore
from webhookd.store.settlement_store import SettlementStore
from webhookd.sync.synthetic_intake import SyntheticIntake
from webhookd.telemetry.logs import logger

_DAILY = timedelta(hours=21, minutes=30)  # from the end of the lists to the next ones, which take a run each, an hour apart
_AFTER_START = timedelta(minutes=59)  # the other jobs begin with calls of their own
_LATER = timedelta(days=1)  # until the next try of a subscription of which the provider has no answer
_TRIED_FOR = timedelta(days=7)  # since its row has changed: it may be of an account whose credentials were replaced
_DETAILS = 100  # subscriptions that one run looks at
_ROWS = 500  # rows of a list that are recorded together
_CARDS = "cardExpiringThisMonth"
_LISTS = ("subscriptionActive", "subscriptionInactive", _CARDS)  # it is not known in which of them a suspended one is


class SubscriptionSweep:
    """The sweep of one account's subscriptions.

    listed: whether the last run read a list.
    oldest: returns the time from which events may be made, since retention may have removed older ones.
    zone: returns the account's time zone.
    """

    def __init__(
        self,
        account: str,
        client: ProviderClient,
        database: Database,
        intake: SyntheticIntake,
        oldest: Callable[[datetime], datetime],
        zone: Callable[[], tzinfo],
    ) -> None:
        self._account = account
        self._client = client
        self._now = database.now
        self._settlement = SettlementStore(database, account)
        self._store = SubscriptionStore(database, account)
        self._intake = intake
        self._oldest = oldest
        self._zone = zone
        self.listed = False

    async def run(self) -> bool:
        """Does a part of the sweep. Returns whether more is left, so that another run should follow at once.

        Raises the client's errors. What was done before an error stays.
        """
        self.listed = False
        now, zone = self._now(), self._zone()
        sweep = await self._settlement.begin(self._oldest(now), now)
        listed_at, lists = await self._store.lists()
        if lists or listed_at is None or not -_DAILY < now - listed_at < _DAILY:
            if abs(now - sweep.begun_at) < _AFTER_START:
                return False
            self.listed = True
            with contextlib.suppress(FeatureOffError):  # an account without subscriptions: the client asks again in a day
                await self._list(lists, now, zone, listed_at)
            return False
        since = max(sweep.swept_from, self._oldest(now))
        waiting = await self._store.to_look_at(now, _DETAILS)
        for known in waiting:
            await self._look_at(known, zone, since)
        return len(waiting) == _DETAILS

    async def _list(self, number: int, now: datetime, zone: tzinfo, listed_at: datetime | None) -> None:
        """Reads one of the lists, and records that it was read."""
        month = rules.month_of(now)
        search = _LISTS[number]
        if search != _CARDS or month is not None:
            async for rows in _chunks(self._client.subscriptions(search)):
                await self._record(rows, now, zone, listed_at)
                if search == _CARDS and month is not None:
                    await self._record_cards(rows, month)
        await self._store.note_list(number + 1, now if search == _LISTS[-1] else None)

    async def _record(self, rows: list[SubscriptionRow], now: datetime, zone: tzinfo, listed_at: datetime | None) -> None:
        known = await self._store.read([row.id for row in rows])
        found = {row.id: rules.with_row(known.get(row.id), row, now, zone, listed_at) for row in rows}
        await self._store.write(one for one in found.values() if not _is_same(one, known.get(one.id)))

    async def _record_cards(self, rows: list[SubscriptionRow], month: str) -> None:
        known = await self._store.read([row.id for row in rows])
        new = [replace(one, card_expires=month) for one in known.values() if one.card_expires != month]
        await self._intake.take([rules.card_expiring(self._account, one, month) for one in new])
        await self._store.write(new)

    # One subscription

    async def _look_at(self, known: Known, zone: tzinfo, since: datetime) -> None:
        """Reads the details if they may have changed or a renewal seems to be missing; then decides what was missed."""
        now = self._now()
        attempts = await self._store.attempts(known.id)
        payments = await self._store.payments(known.id)
        changed = known.detailed_at is None or known.detailed_at < known.seen_at or known.status.casefold() == "suspended"
        if changed or rules.is_awaited(known, _times(attempts, payments), now, zone):
            try:
                details = await self._client.subscription(known.id)
            except (RecordNotFoundError, CallRejectedError, UnreadableAnswerError) as error:
                logger.warning(
                    "a subscription could not be read", account=self._account, subscription=known.id, problem=str(error)
                )
                again = now + _LATER if now - known.seen_at < _TRIED_FOR else None
                await self._store.write([replace(known, next_look_at=again)])
                return
            known = rules.with_details(known, details, now)
            for key, one in rules.attempts_of(details).items():
                attempts[key] = one._replace(judged=key in attempts and attempts[key].judged)
        await self._decide(known, attempts, _times(attempts, payments), zone, since, now)

    async def _decide(
        self, known: Known, attempts: dict[str, Attempt], times: list[datetime], zone: tzinfo, since: datetime, now: datetime
    ) -> None:
        reports = await self._store.reported_failures(known.id)
        failures = rules.judge_failures(list(attempts.values()), reports, since, now)
        renewals = rules.judge_renewals(known, times, now, zone)
        await self._intake.take(
            [
                *(rules.payment_failed(self._account, known, one) for one in failures.silent),
                *(rules.missed_payment(self._account, known, day, zone) for day in renewals.missed),
            ]
        )
        attempts |= {one.key: one for one in failures.judged}
        await self._store.write_attempts(known.id, attempts.values())
        await self._store.note_missed(known.id, renewals.missed, known.amount)
        for day in await self._store.missed(known.id):
            came_at = known.schedule and rules.arrival(known.schedule, day, times, zone)
            if came_at is not None:
                await self._store.note_late(known.id, day, came_at)
        known = replace(known, judged_to=renewals.judged_to)
        await self._store.write([replace(known, next_look_at=rules.next_look(known, attempts.values(), now, zone))])


def _is_same(one: Known, known: Known | None) -> bool:
    return known is not None and replace(one, seen_at=known.seen_at) == known


def _times(attempts: dict[str, Attempt], payments: Iterable[datetime]) -> list[datetime]:
    """Returns the times of all attempts and transactions of a subscription."""
    return [*payments, *(one.made.submitted_at for one in attempts.values() if one.made.submitted_at is not None)]


async def _chunks(rows: AsyncIterator[SubscriptionRow]) -> AsyncIterator[list[SubscriptionRow]]:
    """Yields rows, some at a time, so that what was read before an error is recorded."""
    some: list[SubscriptionRow] = []
    async for row in rows:
        some.append(row)
        if len(some) == _ROWS:
            yield some
            some = []
    if some:
        yield some
