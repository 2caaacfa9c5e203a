"""An operator's work with events: search for events, show one, retry one."""

from __future__ import annotations

from dataclasses import dataclass
from uuid import UUID

import asyncpg

from webhookd.errors import BusyError, ConflictError, NotFoundError
from webhookd.event import Status
from webhookd.operate.cursor import Cursor, ids_between
from webhookd.operate.filter import Filter
from webhookd.operate.operator_queries import OperatorQueries
from webhookd.operate.search import Page, Rows, Search, ask, page_of
from webhookd.store.event_store import storable
from webhookd.store.failures import locking
from webhookd.store.keys import keys_of_notification
from webhookd.store.queries import queries

_RELATED = 50
_UNFINISHED = {Status.RECEIVED, Status.QUEUED, Status.RETRYING}


@dataclass(slots=True, frozen=True)
class Shown:
    """An event with its audit trail, other events of its entity, and its other notification ids."""

    row: asyncpg.Record
    audit: list[asyncpg.Record]
    related: list[asyncpg.Record]
    aliases: list[asyncpg.Record]
    deliveries: list[asyncpg.Record]  # those that have not ended


@dataclass(slots=True, frozen=True)
class Retry:
    """Advice about a retry: whether it is allowed, and a sentence that says why not, or what the retry does."""

    allowed: bool
    needs_force: bool
    reason: str


class Events:
    """The operator's side of events. Each method raises UnavailableError if PostgreSQL does not answer."""

    def __init__(self, statements: OperatorQueries) -> None:
        self._statements = statements

    async def search(
        self, chosen: Filter, cursor: Cursor, limit: int, *, anything: str | None = None, notification_id: str | None = None
    ) -> Page:
        """Returns a page of at most `limit` events from `cursor` on, newest first.

        `anything` is webhookd's id of an event, a notification id, an entity's id, an invoice number or a merchant's reference.
        If the filters choose few events, the page ends after the search has looked at some thousands. The page says how far
        back the search came.
        """
        if notification_id is not None:
            by_id = self._by_key(chosen, notification_id, notification_only=True, also=anything)
            return await page_of(by_id, _by_receipt, cursor, limit)
        if anything is not None:
            return await page_of(self._by_key(chosen, anything, notification_only=False), _by_receipt, cursor, limit)
        statuses = set(chosen.status or Status)
        if Status.PROCESSED not in statuses and not chosen.by_index:
            return await page_of(self._open(chosen, statuses), _by_wait, cursor, limit)
        return await page_of(self._by_id(chosen), _by_receipt, cursor, limit)

    def _by_id(self, chosen: Filter) -> Search:
        low, high = ids_between(chosen.received_from, chosen.received_to)

        async def search(cursor: Cursor, looked: int, limit: int) -> Rows:
            return await ask(
                self._statements.all,
                queries.search_events,
                below=min(cursor.id, high),
                from_id=low,
                wanted=chosen,
                looked=looked,
                limit=limit,
            )

        return search

    def _open(self, chosen: Filter, statuses: set[Status] | set[str]) -> Search:
        async def search(cursor: Cursor, looked: int, limit: int) -> Rows:
            return await ask(
                self._statements.all_in_order,
                queries.search_open,
                unfinished=bool(_UNFINISHED & statuses),
                dead=Status.DEAD in statuses,
                before=cursor.at,
                below=cursor.id,
                wanted=chosen,
                looked=looked,
                limit=limit,
            )

        return search

    def _by_key(self, chosen: Filter, key: str, *, notification_only: bool, also: str | None = None) -> Search:
        low, high = keys_of_notification(key.lower())

        async def search(cursor: Cursor, looked: int, limit: int) -> Rows:
            return await ask(
                self._statements.all,
                queries.search_key,
                key=key,
                low=low,
                high=high,
                event_id=_uuid(key),
                notification_only=notification_only,
                also=also,
                below=cursor.id,
                wanted=chosen,
                looked=looked,
                limit=limit,
            )

        return search

    async def show(self, event_id: UUID) -> Shown:
        """Returns an event, its body among its columns, and what belongs to the event. Raises NotFoundError."""
        async with self._statements.connection() as connection:
            row = await queries.event_in_full(connection, id=event_id)
            if row is None:
                raise NotFoundError(f"there is no event {event_id}; give webhookd's id, or search for the provider's")
            audit = [change async for change in queries.audit_trail(connection, id=event_id)]
            aliases = [alias async for alias in queries.aliases_of_event(connection, id=event_id)]
            deliveries = [one async for one in queries.deliveries_of_event(connection, id=event_id)]
            related = []
            if row["entity_id"] is not None:
                entity = {name: row[name] for name in ("account", "entity_name", "entity_id")}
                related = [other async for other in queries.events_of_entity(connection, **entity, limit=_RELATED + 1)]
        return Shown(row, audit, [other for other in related if other["id"] != event_id][:_RELATED], aliases, deliveries)

    async def retry(self, event_id: UUID, *, actor: str, note: str, force: bool) -> asyncpg.Record:
        """Has an event tried again, and returns its new row. Raises NotFoundError, and ConflictError with the reason."""
        async with self._statements.connection() as connection, connection.transaction(isolation="read_committed"):
            try:
                with locking():
                    await queries.lock_ends(connection)
                    await queries.lock_work(connection, id=event_id)
            except BusyError as error:
                raise ConflictError("a worker processes the event at the moment; look again in some seconds") from error
            row = await queries.event_in_full(connection, id=event_id)
            if row is None:
                raise NotFoundError(f"there is no event {event_id}; give webhookd's id, or search for the provider's")
            retry = retry_of(row, has_body=row["body"] is not None)
            if not retry.allowed or (retry.needs_force and not force):
                raise ConflictError(retry.reason)
            if row["status"] == Status.RETRYING:
                reason = f"tried at once{f': {note}' if note else ''}"
                await queries.retry_now(connection, id=event_id, actor=actor, reason=storable(reason))
            else:
                forced = row["status"] == Status.PROCESSED
                await queries.redrive_events(
                    connection,
                    ids=[event_id],
                    ended=[row["finished_at"]],
                    forced=forced,
                    actor=actor,
                    reason=storable(f"forced{f': {note}' if note else ''}" if forced else note) or None,
                )
            after: asyncpg.Record = await queries.event_in_full(connection, id=event_id)
            return after


def retry_of(row: asyncpg.Record, *, has_body: bool) -> Retry:
    """Returns whether the event of a row can be tried again, with the reason."""
    match Status(row["status"]):
        case Status.RECEIVED:
            return Retry(False, False, "the event is on its way: it was received, and is not yet sent to the queue")
        case Status.QUEUED:
            return Retry(False, False, "the event is on its way: it is in the queue, or a worker processes it")
        case _ if not has_body:
            return Retry(False, False, "the body is no longer kept, so the event cannot be processed again")
        case Status.RETRYING:
            return Retry(True, False, "the event waits for its next attempt; a retry tries it at once")
        case Status.DEAD:
            return Retry(True, False, "the event was given up; a retry starts anew with all attempts")
    return Retry(
        True,
        True,
        "the event is processed; only a forced retry (--force) runs its handlers again, and their effects happen again",
    )


def _by_receipt(row: asyncpg.Record) -> Cursor:
    return Cursor(row["received_at"], row["id"])


def _by_wait(row: asyncpg.Record) -> Cursor:
    if row["status"] == Status.DEAD:
        return Cursor(row["finished_at"], row["id"])
    return Cursor(row["redriven_at"] or row["received_at"], row["id"])


def _uuid(text: str) -> UUID | None:
    try:
        return UUID(text)
    except ValueError:
        return None
