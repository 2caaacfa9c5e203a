"""The statements about events, their work and their dead letters. The SQL is in `events.sql` and `dead_letters.sql`."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple
from uuid import UUID

import asyncpg

from webhookd.errors import BusyError
from webhookd.event import Event, Status, origin_of
from webhookd.store.database import Database
from webhookd.store.failures import gateway
from webhookd.store.pools import Connection
from webhookd.store.queries import queries

if TYPE_CHECKING:
    from datetime import datetime

_LOCK_WAIT = 2.0  # seconds that `claim` waits for an event's row
# How long a fold waits for a row. The fold of one event waits for the short time: it has waited in a shared transaction before.
_LOCK_TIMEOUT = "300ms"
_SHORT_LOCK_TIMEOUT = "20ms"
_STATEMENT = 5.0  # seconds that the statement of a fold may take for all its rows together


class AttemptKey(NamedTuple):
    """The identity of an attempt: its event, and the number of earlier attempts since their count last began anew."""

    event_id: UUID
    attempts: int
    redriven_at: datetime | None  # when the count last began anew; None if never


class Claimed(NamedTuple):
    """An event as the worker's transaction read it. `claim` also locks the event's work, and `read` does not."""

    event: Event
    status: Status
    attempts: int
    redriven_at: datetime | None  # when the count of the event's attempts last began anew; None if never
    sends: int  # number of sends since the last attempt that ended
    has_body: bool
    transaction: str  # the transaction's number, which shows whether effects and status still commit together
    traceparent: str | None
    failed: bool = False  # whether an attempt failed, or ended for lack of details, since the count last began anew

    @property
    def key(self) -> AttemptKey:
        """Returns the identity of the attempt that the transaction may make."""
        return AttemptKey(self.event.id, self.attempts, self.redriven_at)


class EventStore:
    """The statements about events. All raise UnavailableError while PostgreSQL is away.

    Methods that take a connection run in the caller's transaction. The other methods use the database's `short` pool.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self._secret: tuple[UUID | None, bytes] | None = None  # the database's id, and the secret that was read there

    # -- work, in the worker's transaction

    async def claim(self, connection: Connection, event_id: UUID, *, wait: bool = True) -> Claimed | None:
        """Locks the event and reads it. Returns None if there is no such event.

        `wait`: waits up to 2 s for another transaction's lock (the relay's locks are short). Without `wait`, waits not at all.
        Raises BusyError if the other transaction keeps the lock.
        """
        query = queries.claim_event if wait else queries.claim_event_if_free
        try:
            async with asyncio.timeout(_LOCK_WAIT):
                row = await query(connection, id=event_id)
        except (asyncpg.LockNotAvailableError, TimeoutError) as error:
            raise BusyError("another transaction has the event's row") from error
        return None if row is None else _claimed(row)

    async def read(self, connection: Connection, ids: Sequence[UUID]) -> list[Claimed]:
        """Reads events as `claim` does, but locks none. Leaves out ids of which there is no event."""
        return [_claimed(row) async for row in queries.read_events(connection, ids=ids)]

    async def process(
        self,
        connection: Connection,
        ending: Sequence[Claimed],
        facts: Sequence[tuple[str, str, str, str]],
        *,
        waits: bool = True,
    ) -> list[asyncpg.Record]:
        """Folds `facts` (entity's name, account, id, JSON) and ends the work of `ending`, in one statement that commits.

        Returns a row (id, attempt, seconds since receipt or redrive) for each event whose work ended, in any order. Other
        events had ended, or died, before. Raises BusyError after 300 ms (20 ms without `waits`) for one row, or 5 s in all.
        """
        if not ending and not facts:
            return []
        names, accounts, entities, texts = zip(*facts, strict=True) if facts else ((), (), (), ())
        rows = queries.process_events(
            connection,
            lock_timeout=_LOCK_TIMEOUT if waits else _SHORT_LOCK_TIMEOUT,
            ids=[e.event.id for e in ending],
            entity_names=names,
            accounts=accounts,
            entity_ids=entities,
            facts=texts,
        )
        try:
            async with asyncio.timeout(_STATEMENT):
                return [row async for row in rows]
        except (asyncpg.LockNotAvailableError, TimeoutError) as error:
            raise BusyError("another transaction has a row of the events or of the timeline") from error

    async def mark_processed(self, connection: Connection, claimed: Claimed) -> float | None:
        """Sets `processed` in the transaction of the event's effects. Returns the seconds since its receipt.

        Returns None, and sets nothing, if `connection` is in another transaction than the one that claimed the event.
        """
        row = await queries.mark_processed(connection, id=claimed.event.id, transaction=claimed.transaction)
        return None if row is None else float(row["seconds"])

    # -- work, after the worker's transaction

    async def mark_retrying(self, claimed: Claimed, *, reason: str, delay: float) -> bool:
        """Records a failed attempt, with the next one in `delay` seconds. Returns False if the work moved on meanwhile."""
        row = await self._database.one(
            queries.mark_retrying,
            id=claimed.event.id,
            attempts=claimed.attempts,
            redriven_at=claimed.redriven_at,
            from_status=str(claimed.status),
            reason=storable(reason),
            delay=delay,
        )
        return row is not None

    async def mark_dead(
        self, claimed: Claimed, *, reason: str, detail: str, spent: int = 1, connection: Connection | None = None
    ) -> int | None:
        """Gives the work up and adds `spent` attempts, in the transaction of `connection`, if it is given.

        Returns the time of death (microseconds since 1970); None if the work moved on meanwhile.
        `reason` goes to the dead-letter queue as well and holds no customer data; `detail` stays in the database.
        """
        parameters = {
            "id": claimed.event.id,
            "attempts": claimed.attempts,
            "redriven_at": claimed.redriven_at,
            "from_status": str(claimed.status),
            "reason": storable(reason),
            "detail": storable(detail),
            "spent": spent,
        }
        if connection is None:
            row = await self._database.one(queries.mark_dead, **parameters)
        else:
            row = await queries.mark_dead(connection, **parameters)
        return None if row is None else int(row["died"])

    async def revive(self, event_id: UUID, *, died: int, actor: str, reason: str) -> bool:
        """Starts dead work anew, with all its attempts. Returns False if it is not dead, was discarded, or has died anew."""
        return await self._database.one(queries.revive_event, id=event_id, died=died, actor=actor, reason=reason) is not None

    # -- work that may kill its process

    async def attempts_begun(self, event_id: UUID) -> int:
        """Returns how many attempts at the event have begun and not ended. Each of them may have killed its process."""
        return int(await self._database.one(queries.attempts_begun, id=event_id) or 0)

    async def begin_attempt(self, key: AttemptKey) -> int:
        """Counts an attempt at work that the caller has locked. Returns how many have begun and not ended, with this one."""
        return int(
            await self._database.one(queries.begin_attempt, id=key.event_id, attempts=key.attempts, redriven_at=key.redriven_at)
        )

    async def take_back_attempt(self, key: AttemptKey) -> None:
        """Takes back the count of an attempt that has ended, and so has not killed its process."""
        await self._database.one(queries.take_back_attempt, id=key.event_id, attempts=key.attempts, redriven_at=key.redriven_at)

    # -- dead letters

    async def secret(self) -> bytes:
        """Returns the secret that proves dead-letter copies. Reads it once, and again if the database is another one."""
        instance = self._database.instance
        if self._secret is None or self._secret[0] != instance:
            self._secret = instance, bytes(await self._database.one(queries.secret, name="dead-letter copies"))
        return self._secret[1]

    async def states(self, ids: Sequence[UUID]) -> dict[UUID, asyncpg.Record]:
        """Returns for each event that exists its status, its death, and whether its dead-letter copy was sent."""
        return {row["id"]: row for row in await self._database.all(queries.states_of_events, ids=ids)}

    async def put_back(self, ids: Sequence[UUID], *, reason: str) -> bool:
        """Puts work back, to be sent again, after SQS moved its message to the dead-letter queue.

        Returns False, and changes nothing, if some of it has ended since or somebody holds it just now.
        """
        return bool(await self._database.one(queries.put_back, ids=ids, reason=reason))

    async def owed_dead_letters(self, *, grace: float, limit: int) -> list[asyncpg.Record]:
        """Returns dead events whose copy did not reach the dead-letter queue within `grace` seconds."""
        return await self._database.all(queries.owed_dead_letters, grace=grace, limit=limit)

    async def mark_dead_letter_sent(self, ids: Sequence[UUID]) -> None:
        """Records that these dead events' copies are in the dead-letter queue."""
        await self._database.one(queries.mark_dead_letter_sent, ids=ids)

    async def count_dead(self, limit: int) -> int | None:
        """Returns how many dead events have a copy in the dead-letter queue; None if more than `limit` are dead."""
        count: int | None = await self._database.one(queries.count_dead, limit=limit)
        return count

    async def owe_dead_letters(
        self, found: Sequence[UUID], *, settled: float, after: tuple[datetime, UUID], looked: int
    ) -> tuple[int, tuple[datetime, UUID] | None]:
        """Records as owed again the copies of all but `found` among `looked` dead events after the place `after` (death, id).

        Leaves alone copies sent within `settled` seconds. Returns how many are owed, and the next place, None at the end.
        """
        with gateway():
            async with self._database.acquire() as connection, connection.transaction():
                # Statistics from a time with few dead events must not make PostgreSQL read and sort all of them.
                await queries.forbid_bitmaps(connection)
                row = await queries.owe_dead_letters(
                    connection, ids=found, settled=settled, after_death=after[0], after_id=after[1], looked=looked
                )
        return row["owed"], None if row["last_id"] is None else (row["last_at"], row["last_id"])

    async def take_duty(self, name: str, seconds: float) -> bool:
        """Takes or keeps a duty that one process at a time has."""
        return await self._database.take_duty(name, seconds)

    async def audit_trail(self, event_id: UUID) -> list[asyncpg.Record]:
        """Returns every change of the status, oldest first: at, from_status, to_status, actor, attempt, reason, consumer."""
        return await self._database.all(queries.audit_trail, id=event_id)


def _claimed(row: asyncpg.Record) -> Claimed:
    event = Event(
        id=row["id"],
        account=row["account"],
        notification_id=row["notification_id"],
        event_type=row["event_type"],
        event_date=row["event_date"],
        received_at=row["received_at"],
        attempt=row["attempts"] + 1,
        raw=row["body"] or b"",
        origin=origin_of(row["key_fingerprint"]),
    )
    has_body = row["body"] is not None
    work = row["attempts"], row["redriven_at"], row["sends"]
    return Claimed(event, Status(row["status"]), *work, has_body, row["transaction"], row["traceparent"], row["failed"])


def storable(text: str) -> str:
    """Returns `text` as PostgreSQL can hold it: no U+0000, no lone surrogate, and at most 2000 characters."""
    return text.replace("\x00", "\ufffd").encode("utf-8", "replace").decode()[:2000]
