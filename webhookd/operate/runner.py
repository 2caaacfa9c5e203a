"""The runner: does the work of ordered operations, a batch at a time."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections import Counter
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any
from uuid import UUID, uuid4

import asyncpg

from webhookd.errors import UnavailableError
from webhookd.operate.cursor import NIL, Cursor, ids_between
from webhookd.operate.dead_letters import choose_dead
from webhookd.operate.destination_replays import IMPORTED, Choice, DestinationReplays
from webhookd.operate.filter import DeadEventFilter, Filter, choose
from webhookd.operate.operations import Kind
from webhookd.operate.operator_queries import OperatorQueries
from webhookd.runtime.loops import Loop, Watch, shielded
from webhookd.store.database import Database
from webhookd.store.event_store import storable
from webhookd.store.failures import STATEMENT_ERRORS
from webhookd.store.pools import Connection
from webhookd.store.queries import queries
from webhookd.telemetry.logs import logger, where

_IDLE = 2.0  # seconds between two looks for operations that another process has left, or was given
_TURN = 0.25  # seconds between two batches
_LEASE = 30.0  # seconds until another process may take the operations of a process that died
_AT_ONCE = 16  # operations of a lane that a process works on side by side; hold_operations explains the lanes
_COUNTED = 4000  # events that a batch looks at
_DISCARDED = 500
_STATEMENT = 15.0  # seconds
_WAITED = 5.0  # seconds after which a fresh event counts as waiting
_BACKLOG = 100  # replays and redrives pause while so many fresh events wait
_AHEAD = 10.0  # an operation may have as many events under way as its rate gives in so many seconds, but ten at least
_AHEAD_AT_LEAST = 10  # with fewer, the traffic of a destination that works would hold a slow replay for ever
_PAUSE = 5.0  # seconds for which an operation that waits takes no place among those at once: less than _AHEAD
_NAMES = 50  # reasons that are counted by name; all further reasons are "other"
_OLD = 400 * 86_400.0  # seconds for which ended operations are kept
_UPKEEP = 3600.0


@dataclass(slots=True)
class _Work:
    """An operation that this process works on."""

    id: UUID
    kind: Kind
    state: str
    dry_run: bool
    actor: str
    reason: str
    selection: dict[str, Any]
    rate: float
    limit: int | None
    created_at: datetime
    total: int
    done: int
    skipped: int
    after_at: datetime
    after_id: UUID
    event_types: Counter[str]
    reasons: Counter[str]
    held_by: str | None = None
    error: str | None = None

    @property
    def destination(self) -> str | None:
        """Returns the destination of a replay that sends events to a destination, and runs no handler."""
        return self.selection.get("destination")


@dataclass(slots=True)
class _Page:
    """The events that a batch chose. `last`: where the next batch begins, None at the end."""

    rows: list[Choice] = field(default_factory=list)
    last: Cursor | None = None


class Runner:
    """The worker for operations: counts the chosen events, then changes them.

    A batch and the record of its progress commit together. If a process dies or stops, another process continues its operations
    from there, and nothing is done twice. Fresh events go first: replays and redrives pause while 100 fresh events have waited
    for more than 5 s, or while events that were put back before are still to be tried. An operation does not choose events
    that ended after it was ordered: an event that dies again is not redriven twice.
    """

    def __init__(self, database: Database, replays: DestinationReplays, watch: Watch) -> None:
        self._database = database
        self._replays = replays
        self._statements = OperatorQueries(database)
        self._me = uuid4()
        self._due: dict[UUID, float] = {}
        self._cleaned = time.monotonic()
        self.loop = Loop("operations", self._step, watch, every=_IDLE)

    async def start(self) -> None:
        """Starts looking for operations."""
        await self.loop.start()

    async def stop(self) -> None:
        """Stops after the present batch. Other processes continue the operations at once."""
        await self.loop.stop()
        if not self._due:
            return
        # If this fails, other processes take the operations when the lease ends.
        with contextlib.suppress(*STATEMENT_ERRORS):
            await self._statements.one(queries.let_go_of_operations, holder=self._me)

    async def _step(self) -> bool:
        if not self._database.up:
            return False
        held = await self._statements.all(
            queries.hold_operations, holder=self._me, seconds=_LEASE, destinations=self._replays.names(), limit=_AT_ONCE
        )
        self._due = {row["id"]: self._due.get(row["id"], 0.0) for row in held}
        failure: Exception | None = None
        for row in held:
            if time.monotonic() >= self._due[row["id"]]:
                try:
                    await self._advance(_work(row))
                except (UnavailableError, TimeoutError) as error:
                    # Go on with the other operations: an operation whose statements take too long must not delay them.
                    failure = error
        if failure is not None:
            raise failure
        if held:
            await asyncio.sleep(_TURN)
        elif time.monotonic() - self._cleaned > _UPKEEP:
            self._cleaned = time.monotonic()
            await self._statements.one(queries.remove_operations, age=_OLD)
        return bool(held)

    async def _advance(self, work: _Work) -> None:
        try:
            if work.state != "counting":
                await shielded(self._do(work), _STATEMENT)
                return
            until = time.monotonic() + _TURN
            while await shielded(self._count(work), _STATEMENT) and time.monotonic() < until:
                pass
        except _GoneError:
            pass
        except (UnavailableError, TimeoutError):
            raise  # PostgreSQL has rolled the batch back, and the loop tries it again
        except Exception as error:  # noqa: BLE001  a mistake in webhookd must not end other operations; it is logged
            logger.exception("an operation failed", operation=str(work.id))
            work.error = where(error)
            with contextlib.suppress(_GoneError):
                async with self._statements.connection() as connection:
                    await self._record(connection, work, "failed")

    async def _count(self, work: _Work) -> bool:
        """Counts a batch; returns whether another batch follows."""
        async with self._statements.connection() as connection, connection.transaction():
            page = await self._page(connection, work, _COUNTED)
            for row in page.rows:
                if row.left_out is not None:
                    work.reasons[row.left_out] += 1
                    continue
                work.total += 1
                work.event_types[row.event_type] += 1
                work.reasons[_name(work.reasons, row.reason)] += 1
            full = work.limit is not None and work.total >= work.limit
            if page.last is not None and not full:
                work.after_at, work.after_id = page.last
                await self._record(connection, work, "counting")
                return True
            # The count is complete. Begin again at the first event, now to change the events.
            work.after_at, work.after_id = _BEGIN
            await self._record(connection, work, "done" if work.dry_run or not work.total else "working")
            return False

    async def _do(self, work: _Work) -> None:
        if work.kind is not Kind.DISCARD and await self._held(work):
            return
        size = _DISCARDED if work.kind is Kind.DISCARD else max(1, round(work.rate * _TURN))
        async with self._statements.connection() as connection, connection.transaction(isolation="read_committed"):
            if work.kind is not Kind.DISCARD:
                await queries.lock_ends(connection)
            page = await self._page(connection, work, size)
            rows = [row for row in page.rows if row.left_out is None]
            if rows:
                changed = await self._change(connection, work, rows)
                work.done += changed
                work.skipped += len(rows) - changed
            if page.last is not None:
                work.after_at, work.after_id = page.last
            else:
                # The others were chosen, and are not chosen any more: they have changed since the count.
                work.skipped = max(work.skipped, work.total - work.done)
            full = work.limit is not None and work.done + work.skipped >= work.limit
            await self._record(connection, work, "done" if page.last is None or full else "working")
        pause = 0.0 if work.kind is Kind.DISCARD else len(rows) / work.rate
        # A batch that was late makes the next one earlier, but by one turn at most.
        self._due[work.id] = max(self._due.get(work.id, 0.0) + pause, time.monotonic() + pause - _TURN)

    async def _held(self, work: _Work) -> bool:
        ahead = max(round(work.rate * _AHEAD), _AHEAD_AT_LEAST)
        async with self._statements.connection() as connection:
            if work.destination is not None:
                held_by = await self._replays.held_by(connection, work.destination, ahead)
            else:
                row = await queries.traffic(connection, settled=_WAITED, fresh_limit=_BACKLOG, redriven_limit=ahead)
                held_by = None
                if row["fresh"] >= _BACKLOG:
                    held_by = "fresh events go first"
                elif row["redriven"] >= ahead:
                    held_by = "events that were put back earlier still wait for an attempt"
            if held_by is not None:
                work.held_by = held_by
                await self._record(connection, work, "working")
        return held_by is not None

    async def _page(self, connection: Connection, work: _Work, size: int) -> _Page:
        if work.limit is not None:
            size = max(min(size, work.limit - (work.total if work.state == "counting" else work.done + work.skipped)), 1)
        if work.destination is not None:
            return await self._stored(connection, work, work.destination, size)
        return await (self._finished if work.kind is Kind.REPLAY else self._dead)(connection, work, size)

    async def _dead(self, connection: Connection, work: _Work, size: int) -> _Page:
        cursor = Cursor(work.after_at, work.after_id)
        rows, last = await choose_dead(connection, dead_of(work.selection), work.created_at, cursor, _COUNTED, size)
        return _Page([_choice(row) for row in rows], last)

    async def _finished(self, connection: Connection, work: _Work, size: int) -> _Page:
        wanted, (after_id, below), every = _wanted(work)
        found = [
            row
            async for row in queries.choose_finished(
                connection,
                after_id=after_id,
                below=below,
                wanted=wanted,
                imported=work.state == "counting" or every,  # counts those that it leaves out
                until=work.created_at,
                looked=_COUNTED,
                limit=size,
            )
        ]
        rows = [row for row in found if row["id"] is not None]
        last = rows[-1]["id"] if len(rows) == size else found[0]["last_id"]
        choices = [_choice(row, left_out=IMPORTED if row["imported"] and not every else None) for row in rows]
        return _Page(choices, None if last is None else Cursor(work.created_at, last))

    async def _stored(self, connection: Connection, work: _Work, destination: str, size: int) -> _Page:
        wanted, ids, imported = _wanted(work)
        page = await self._replays.choose(
            connection, destination, wanted, ids=ids, until=work.created_at, imported=imported, looked=_COUNTED, size=size
        )
        if page is None:
            raise _GoneError
        return _Page(page[0], None if page[1] is None else Cursor(work.created_at, page[1]))

    async def _change(self, connection: Connection, work: _Work, rows: list[Choice]) -> int:
        note = storable(f"{work.kind} {work.id}" + (f": {work.reason}" if work.reason else ""))
        ids = [row.id for row in rows]
        if work.destination is not None:
            return await self._replays.start(connection, work.destination, ids, actor=work.actor, reason=note)
        # Each event must still have the end that was chosen: leave alone an event that was put back since and has ended again.
        given = {"ids": ids, "ended": [row.ended for row in rows], "actor": work.actor, "reason": note}
        if work.kind is Kind.DISCARD:
            return int(await queries.discard_events(connection, **given))
        return int(await queries.redrive_events(connection, **given, forced=work.kind is Kind.REPLAY))

    async def _record(self, connection: Connection, work: _Work, state: str) -> None:
        row = await queries.advance_operation(
            connection,
            id=work.id,
            holder=self._me,
            state=state,
            total=work.total,
            done=work.done,
            skipped=work.skipped,
            held_by=work.held_by if state == "working" else None,
            pause=_PAUSE,
            error=work.error,
            event_types=json.dumps(work.event_types),
            reasons=json.dumps(work.reasons),
            after_at=work.after_at,
            after_id=work.after_id,
            ended=state in ("done", "failed"),
        )
        if row is None:
            raise _GoneError


class _GoneError(Exception):
    """The operation was cancelled, or is for another process now: the changes of this batch are rolled back."""


_BEGIN = datetime(1970, 1, 1, tzinfo=UTC), NIL


def _wanted(work: _Work) -> tuple[Filter, tuple[UUID, UUID], bool]:
    """Returns the filter of a replay, the ids between which its next page lies, and whether it chooses imported history."""
    chosen = choose(Filter, {name: value for name, value in work.selection.items() if name not in ("destination", "imported")})
    low, high = ids_between(chosen.received_from, chosen.received_to or work.created_at)
    return chosen, (max(work.after_id, low), high), bool(work.selection.get("imported"))


def _choice(row: asyncpg.Record, *, left_out: str | None = None) -> Choice:
    return Choice(row["id"], row["event_type"], row["dead_reason"] or row["status"], left_out, row["finished_at"])


def _name(names: Counter[str], name: str) -> str:
    return name if name in names or len(names) < _NAMES else "other"


def _work(row: asyncpg.Record) -> _Work:
    return _Work(
        id=row["id"],
        kind=Kind(row["kind"]),
        state=row["state"],
        dry_run=row["dry_run"],
        actor=row["actor"],
        reason=row["reason"],
        selection=json.loads(row["selection"]),
        rate=row["rate"],
        limit=row["max_events"],
        created_at=row["created_at"],
        total=row["total"],
        done=row["done"],
        skipped=row["skipped"],
        # A new operation has -infinity here, which asyncpg returns as a time without a zone.
        after_at=row["after_at"] if row["after_at"].tzinfo else _BEGIN[0],
        after_id=row["after_id"],
        event_types=Counter(json.loads(row["event_types"])),
        reasons=Counter(json.loads(row["reasons"])),
    )


def dead_of(selection: dict[str, Any]) -> DeadEventFilter | tuple[UUID, ...]:
    """Returns the dead events of a redrive's or discard's selection. A discarded event is redriven by its id only."""
    if (ids := selection.get("ids")) is not None:
        return tuple(UUID(one) for one in ids)
    return choose(DeadEventFilter, selection)
