"""The statements of the comparison of the provider's history with the ledger. The SQL is in `provider.sql`."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Collection, Iterable, Sequence
from datetime import date, datetime
from typing import Any, NamedTuple
from uuid import UUID

from webhookd.authorizenet.body import load, read
from webhookd.authorizenet.gaps import Completeness, Day
from webhookd.authorizenet.notification import Notification, webhook_of
from webhookd.errors import LeaseEndedError
from webhookd.store.database import Database
from webhookd.store.event_store import storable
from webhookd.store.keys import id_at, keys_of_notification, notification_key
from webhookd.store.queries import queries

_KEYS = 1000  # notifications that one look-up is for
_LOOKED = 5000  # events of the ledger that one statement reads
_BODIES, _LATEST = 50, 5000  # bodies whose webhook is looked at, among so many of the latest events
_TWINS = 20  # events about one entity at one instant
_RECENT = 30 * 86_400.0  # seconds, from which these events are


class Bounds(NamedTuple):
    """How far the comparison has come.

    since: older notifications are not webhookd's business. cursor: the last day that needs no look every time.
    compared_at: when a comparison last ended; if none has, since when the credentials are used.
    webhooks: the ids of all webhooks that were found to be ours.
    """

    since: datetime
    cursor: date | None
    compared_at: datetime
    webhooks: frozenset[str]


class Known(NamedTuple):
    """A notification that is in the ledger. `day`: the day of its eventDate, or of its receipt, in UTC."""

    day: date
    recovered: bool


class Noted(NamedTuple):
    """A notification of the history that was not in the ledger. `due`: it could not be read, and is to be tried again."""

    status: str
    reason: str
    due: bool
    event_type: str
    event_date: datetime | None


class Ping(NamedTuple):
    """A ping that webhookd ordered: its webhook, and the time in which the provider made its sample."""

    webhook_id: str
    opened_at: datetime
    closes_at: datetime


class Refused(NamedTuple):
    """A notification that is not taken, with the status `foreign`, `unreadable` or `seen`, and the reason."""

    notification_id: str
    status: str
    reason: str
    event_type: str
    event_date: datetime | None


class Ordered(NamedTuple):
    """An operator's order to take what is missing since a day. `done`: the days that are done."""

    id: UUID
    since: date
    done: int


class ProviderGaps:
    """The statements of one account's comparison. All raise UnavailableError while PostgreSQL is away.

    holder: this replica. `record`, `advance` and `fail` raise LeaseEndedError, and write nothing, unless it has the right to
        ask the provider for the account.
    """

    def __init__(self, database: Database, account: str, holder: UUID | None = None) -> None:
        self._database = database
        self._account = account
        self._holder = holder

    async def bounds(self) -> Bounds:
        """Returns how far the comparison has come."""
        since, cursor, compared_at, webhooks = await self._one(queries.provider_bounds)
        return Bounds(since, cursor, compared_at, frozenset(webhooks))

    async def days(self, first: date, last: date) -> dict[date, Day]:
        """Returns the results of the last comparisons."""
        rows = await self._all(queries.provider_days, first=first, last=last)
        return {
            row["day"]: Day(row["day"], Completeness(row["completeness"]), **{name: row[name] for name in Day._fields[2:]})
            for row in rows
        }

    async def known(self, ids: Sequence[str]) -> dict[str, Known]:
        """Returns those of the notifications that are in the ledger."""
        found = {}
        for start in range(0, len(ids), _KEYS):
            some = ids[start : start + _KEYS]
            keys = [notification_key(self._account, one) for one in some]
            for row in await self._database.all(queries.known_notifications, notification_keys=keys):
                day = (row["event_date"] or row["received_at"]).date()
                found[some[row["position"] - 1]] = Known(day, row["recovered"])
        return found

    async def event_ids(self, ids: Sequence[str]) -> dict[str, UUID]:
        """Returns the ids of the events that some notifications are, for those that are in the ledger."""
        keys = [notification_key(self._account, one) for one in ids]
        rows = await self._database.all(queries.known_notifications, notification_keys=keys)
        return {ids[row["position"] - 1]: row["event_id"] for row in rows}

    async def events(self, received_from: datetime, since: datetime) -> AsyncIterator[tuple[str, Known]]:
        """Yields the account's events that came at `received_from` or later, and whose eventDate is `since` or later."""
        after: UUID | None = id_at(received_from)
        while after is not None:
            rows = await self._all(queries.events_of_days, after_id=after, since=since, looked=_LOOKED)
            for row in rows:
                if row["notification_id"] is not None:
                    yield row["notification_id"], Known(row["event_date"].date(), row["recovered"])
            after = rows[0]["last_id"]

    async def seen_webhooks(self) -> set[str]:
        """Returns the ids of the webhooks by which the latest events came."""
        rows = await self._all(queries.bodies_of_webhooks, seconds=_RECENT, looked=_LATEST, limit=_BODIES)
        return set(filter(None, (webhook_of(_envelope_of(row["body"])) for row in rows)))

    async def note_webhooks(self, webhooks: Collection[str]) -> None:
        """Adds webhooks to those that are ours."""
        await self._one(queries.note_our_webhooks, webhooks=list(webhooks))

    async def elsewhere(self, ids: Sequence[str]) -> dict[str, str]:
        """Returns those of the notifications that are events of another account, with the account's name."""
        found: dict[str, str] = {}
        for start in range(0, len(ids), _KEYS):
            some = ids[start : start + _KEYS]
            lows, highs = zip(*map(keys_of_notification, some), strict=True)
            for row in await self._all(queries.notifications_elsewhere, lows=lows, highs=highs):
                found[some[row["position"] - 1]] = row["account"]
        return found

    async def twin(self, notification: Notification, body: bytes) -> UUID | None:
        """Returns the event that another notification brought for the same; None if there is none, or nobody can know.

        body: the notification's. Two notifications of one webhook, or of unknown ones, are the same event only if their
        payloads are equal: one request may change an entity twice, at one instant.
        """
        if notification.entity_id is None or notification.event_date is None:
            return None
        rows = await self._all(
            queries.likely_twins,
            event_type=notification.event_type,
            entity_id=notification.entity_id,
            event_date=notification.event_date,
            notification_key=notification_key(self._account, notification.notification_id),
            limit=_TWINS,
        )
        envelope = _envelope_of(body)
        for row in rows:
            # Retention removes bodies first.
            if row["body"] is None or _are_same(envelope, _envelope_of(row["body"])):
                found: UUID = row["id"]
                return found
        return None

    async def add_alias(self, notification_id: str, event_id: UUID) -> None:
        """Makes a notification an alias of an event."""
        key = notification_key(self._account, notification_id)
        await self._one(queries.add_alias, notification_key=key, event_id=event_id, notification_id=notification_id)

    async def noted(self, since: datetime) -> dict[str, Noted]:
        """Returns the notifications that were not in the ledger, and whose eventDate is `since` or later."""
        rows = await self._all(queries.provider_notifications, since=since)
        return await asyncio.to_thread(_noted, rows)  # many notifications of another program may be among them

    async def note(self, refused: Iterable[Refused]) -> None:
        """Records why notifications are not in the ledger."""
        rows = sorted({one.notification_id: one for one in refused}.values())
        if rows:
            await self._one(
                queries.note_provider_notifications,
                notification_ids=[one.notification_id for one in rows],
                statuses=[one.status for one in rows],
                reasons=[storable(one.reason) for one in rows],
                event_types=[storable(one.event_type) for one in rows],
                event_dates=[one.event_date for one in rows],
            )

    async def forget(self, ids: Collection[str]) -> None:
        """Forgets the notes of notifications that are in the ledger now."""
        if ids:
            await self._one(queries.forget_provider_notifications, notification_ids=list(ids))

    async def pings(self, since: datetime) -> tuple[list[Ping], set[str]]:
        """Returns the pings since a time whose sample did not come, and the ids of all samples that came."""
        rows = await self._all(queries.pings_without_sample, since=since)
        samples = await self._all(queries.provider_tests_since, since=since)
        pings = [Ping(row["webhook_id"], row["opened_at"], row["closes_at"]) for row in rows]
        return pings, {row["notification_id"] for row in samples}

    async def record(self, days: Sequence[Day], compared_from: datetime, compared_to: date) -> None:
        """Records the result of a comparison. Raises LeaseEndedError."""
        columns: dict[str, list[Any]] = {name: [getattr(day, name) for day in days] for name in Day._fields}
        columns["days"], columns["looked_ats"] = columns.pop("day"), columns.pop("looked_at")
        await self._as_holder(queries.record_comparison, compared_from=compared_from, compared_to=compared_to, **columns)

    async def figures(self) -> dict[str, int]:
        """Returns the sums of the last 14 days: missing, unreadable, days_not_whole."""
        return dict(await self._one(queries.provider_figures))

    async def ordered(self) -> Ordered | None:
        """Returns the oldest order that has not ended."""
        row = await self._one(queries.ordered_gaps)
        return None if row is None else Ordered(**dict(row))

    async def advance(
        self,
        order: Ordered,
        total: int,
        done: int,
        *,
        taken: int = 0,
        held_by: str | None = None,
        error: str | None = None,
        ended: bool = False,
    ) -> None:
        """Records how far an order has come: `done` of `total` days, and `taken` notifications since the last record.

        held_by: why the order waits. error: why it failed, if it has ended. Raises LeaseEndedError.
        """
        figures = {"total": total, "done": done, "taken": taken, "held_by": held_by, "error": error, "ended": ended}
        await self._as_holder(queries.advance_gaps, id=order.id, **figures)

    async def fail(self, order: Ordered, error: str) -> None:
        """Ends an order with its error. Raises LeaseEndedError."""
        await self._as_holder(queries.fail_gaps, id=order.id, error=error)

    async def _as_holder(self, query: Any, **parameters: Any) -> None:
        if not await self._one(query, holder=self._holder, **parameters):
            raise LeaseEndedError

    async def _one(self, query: Any, **parameters: Any) -> Any:
        return await self._database.one(query, account=self._account, **parameters)

    async def _all(self, query: Any, **parameters: Any) -> list[Any]:
        return await self._database.all(query, account=self._account, **parameters)


def _noted(rows: list[Any]) -> dict[str, Noted]:
    return {row["notification_id"]: Noted(**{name: row[name] for name in Noted._fields}) for row in rows}


def _are_same(one: dict[str, Any], other: dict[str, Any]) -> bool:
    webhook, others = webhook_of(one), webhook_of(other)
    comes_twice = webhook is not None and others is not None and webhook != others
    return comes_twice or one.get("payload") == other.get("payload")


def _envelope_of(body: bytes) -> dict[str, Any]:
    try:
        envelope = load(read(body).text)
    except ValueError:
        return {}
    return envelope if isinstance(envelope, dict) else {}
