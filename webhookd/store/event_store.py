"""Every statement about events. Arguments and results are plain values. The SQL is in `events.sql` and `dead_letters.sql`."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple
from uuid import UUID, uuid4

import asyncpg

from webhookd.errors import BusyError
from webhookd.event import Event, Status
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
_LONGEST_RESEND = 43_200.0  # seconds; the query mark_sent has the same bound
_STATEMENT = 5.0  # seconds that the statement of a fold may take for all its rows together


class Outgoing(NamedTuple):
    """Work to be sent: all that its message says, and `due`, the row's version when the work was chosen."""

    id: UUID
    account: str
    event_type: str
    attempts: int = 0
    traceparent: str | None = None
    due: datetime | None = None  # None if the version is not known: then the send is not recorded


class Leased(NamedTuple):
    """Work that a sweeper took for sending, by its lane."""

    fresh: list[Outgoing]
    rest: list[Outgoing]  # work that was redriven, put back, or tried once
    later: list[Outgoing]  # work that was tried more often
    lost: list[Outgoing]  # work whose message the queue has lost

    @property
    def all(self) -> list[Outgoing]:
        """Returns all the work, the fresh first."""
        return [*self.fresh, *self.rest, *self.later, *self.lost]


class InQueue(NamedTuple):
    """The amount of unfinished work that has a message in SQS, by lane. `turns`: how much all workers do at a time."""

    fresh: int
    rest: int
    later: int
    turns: int


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


class EventStore:
    """The statements about events. All raise UnavailableError while PostgreSQL is away.

    Methods that take a connection run in the caller's transaction. The other methods use the database's `short` pool.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self._worker = uuid4()  # this process's id in the table of processes that work
        self._secret: tuple[UUID | None, bytes] | None = None  # the database's id, and the secret that was read there

    async def _all(self, query: Any, **parameters: Any) -> list[asyncpg.Record]:
        with gateway():
            async with self._database.acquire() as connection:
                return [row async for row in query(connection, **parameters)]

    async def _one(self, query: Any, **parameters: Any) -> Any:
        with gateway():
            async with self._database.acquire() as connection:
                return await query(connection, **parameters)

    # -- relay

    async def mark_sent(self, events: Sequence[Outgoing], *, resend_after: float) -> None:
        """Records that messages of this work reached SQS. Skips work that has changed since it was chosen."""
        await self._all(
            queries.mark_sent,
            ids=[event.id for event in events],
            dues=[event.due for event in events],
            resend_after=resend_after,
        )

    async def lease(
        self, *, fresh: int, rest: int, later: int, lost: int, lease: float, resend_after: float, longest_wait: float
    ) -> Leased:
        """Takes work that is to be sent now, up to the given number of each lane. Nobody else gets it for `lease` seconds."""
        rows = await self._all(
            queries.lease_work,
            fresh=fresh,
            rest=rest,
            later=later,
            lost=lost,
            lease=lease,
            resend_after=min(resend_after, _LONGEST_RESEND),
            longest_wait=longest_wait,
        )
        lanes: dict[str, list[Outgoing]] = {"fresh": [], "rest": [], "later": [], "lost": []}
        names = ("id", "account", "event_type", "attempts", "traceparent", "due")
        for row in rows:
            lanes[row["lane"]].append(Outgoing(*(row[name] for name in names)))
        return Leased(**lanes)

    async def return_lease(self, events: Sequence[Outgoing], *, delay: float) -> None:
        """Makes leased work that could not be sent due again in `delay` seconds."""
        await self._one(
            queries.return_lease, ids=[event.id for event in events], dues=[event.due for event in events], delay=delay
        )

    async def report_worker(self, turns: int, drained_ago: float | None) -> None:
        """Reports that this process does `turns` at a time, and that a poll found the queue empty.

        `drained_ago`: seconds since that poll began; None if there is none.
        """
        await self._one(queries.report_worker, id=self._worker, turns=turns, drained_ago=drained_ago)

    async def count_in_queue(self, *, fresh: int) -> InQueue:
        """Counts the work that has a message in SQS; fresh work no further than `fresh`."""
        return InQueue(*await self._one(queries.count_in_queue, fresh=fresh))

    async def backlog(self) -> tuple[int, float, float]:
        """Returns (events in the outbox, up to 100,000 of each kind; age in seconds of the oldest unfinished event, or 0; the
        same without the events that wait for a retry)."""
        row = await self._one(queries.backlog)
        return row["outbox"], max(row["oldest"] or 0.0, 0.0), max(row["overdue"] or 0.0, 0.0)

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
        row = await self._one(
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
            row = await self._one(queries.mark_dead, **parameters)
        else:
            row = await queries.mark_dead(connection, **parameters)
        return None if row is None else int(row["died"])

    async def revive(self, event_id: UUID, *, died: int, actor: str, reason: str) -> bool:
        """Starts dead work anew, with all its attempts. Returns False if it is not dead, was discarded, or has died anew."""
        return await self._one(queries.revive_event, id=event_id, died=died, actor=actor, reason=reason) is not None

    # -- work that may kill its process

    async def attempts_begun(self, event_id: UUID) -> int:
        """Returns how many attempts at the event have begun and not ended. Each of them may have killed its process."""
        return int(await self._one(queries.attempts_begun, id=event_id) or 0)

    async def begin_attempt(self, claimed: Claimed) -> int:
        """Counts an attempt at work that the caller has locked. Returns how many have begun and not ended, with this one."""
        return int(
            await self._one(
                queries.begin_attempt, id=claimed.event.id, attempts=claimed.attempts, redriven_at=claimed.redriven_at
            )
        )

    async def take_back_attempt(self, claimed: Claimed) -> None:
        """Takes back the count of an attempt that has ended, and so has not killed its process."""
        await self._one(
            queries.take_back_attempt, id=claimed.event.id, attempts=claimed.attempts, redriven_at=claimed.redriven_at
        )

    # -- dead letters

    async def secret(self) -> bytes:
        """Returns the secret that proves dead-letter copies. Reads it once, and again if the database is another one."""
        instance = self._database.instance
        if self._secret is None or self._secret[0] != instance:
            self._secret = instance, bytes(await self._one(queries.secret, name="dead-letter copies"))
        return self._secret[1]

    async def states(self, ids: Sequence[UUID]) -> dict[UUID, asyncpg.Record]:
        """Returns for each event that exists its status, its death, and whether its dead-letter copy was sent."""
        return {row["id"]: row for row in await self._all(queries.states_of_events, ids=ids)}

    async def put_back(self, ids: Sequence[UUID], *, reason: str) -> bool:
        """Puts work back, to be sent again, after SQS moved its message to the dead-letter queue.

        Returns False, and changes nothing, if some of it has ended since or somebody holds it just now.
        """
        return bool(await self._one(queries.put_back, ids=ids, reason=reason))

    async def owed_dead_letters(self, *, grace: float, limit: int) -> list[asyncpg.Record]:
        """Returns dead events whose copy did not reach the dead-letter queue within `grace` seconds."""
        return await self._all(queries.owed_dead_letters, grace=grace, limit=limit)

    async def mark_dead_letter_sent(self, ids: Sequence[UUID]) -> None:
        """Records that these dead events' copies are in the dead-letter queue."""
        await self._one(queries.mark_dead_letter_sent, ids=ids)

    async def count_dead(self, limit: int) -> int | None:
        """Returns how many dead events have a copy in the dead-letter queue; None if more than `limit` are dead."""
        count: int | None = await self._one(queries.count_dead, limit=limit)
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
        return await self._all(queries.audit_trail, id=event_id)


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
    )
    has_body = row["body"] is not None
    work = row["attempts"], row["redriven_at"], row["sends"]
    return Claimed(event, Status(row["status"]), *work, has_body, row["transaction"], row["traceparent"])


def storable(text: str) -> str:
    """Returns `text` as PostgreSQL can hold it: no U+0000, no lone surrogate, and at most 2000 characters."""
    return text.replace("\x00", "\ufffd").encode("utf-8", "replace").decode()[:2000]
