"""Retention makes partitions ahead of time and removes what is old, on whichever replica has the duty."""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar
from uuid import UUID

import asyncpg

from webhookd.errors import UnavailableError, WebhookdError
from webhookd.runtime.loops import Loop, Watch
from webhookd.store.database import Database
from webhookd.store.failures import gateway
from webhookd.store.pools import Connection
from webhookd.store.queries import queries
from webhookd.telemetry.logs import logger, where
from webhookd.telemetry.metrics import Metrics

T = TypeVar("T")

WEEKS_AHEAD = 4
REMOVALS = ("bodies", "audit", "events", "quarantine")
_MEASURE = 60.0  # seconds
_HOURLY = 3600.0
_DAILY = 86_400.0
_AGAIN = 600.0  # seconds until the next try of a task that failed, left something over, or is another replica's duty
# Seconds after the start: replicas that start together do not begin together, and a machine that has just started may not know
# the time yet. If PostgreSQL is on the same machine, no other check finds the wrong time.
_FIRST = (600.0, 1200.0)
_HOLD = 300.0  # seconds for which a process has a duty; each batch renews it
_BATCH = 1000  # rows
_CLOCKS = 86_400.0  # seconds that PostgreSQL's clock may differ from ours; beyond that, nothing is removed
_TRIES = 5  # tries in a round to get a partition's lock
_NIL = UUID(int=0)


@dataclass(slots=True, frozen=True)
class Ages:
    """The seconds for which each kind is kept. `window`: a repeat whose eventDate is older than this is quarantined."""

    bodies: float
    audit: float
    events: float
    quarantine: float
    window: float


class Retention:
    """The upkeep that makes partitions ahead and removes what is old. A receiver waits at most a moment for its locks.

    Every process runs it. For each task, a duty lets one process work; two at once would do no harm. A failed task is counted
    and logged, and tried again later.
    """

    def __init__(self, database: Database, ages: Ages, *, metrics: Metrics, watch: Watch) -> None:
        self._database = database
        self._ages = ages
        self._metrics = metrics
        self._loops = (
            Loop("partitions", self.keep_partitions, watch, every=_MEASURE),
            Loop("retention", self._remove_what_is_due, watch, every=_MEASURE),
        )
        first = time.monotonic() + random.uniform(*_FIRST)
        self._due = {"partitions": 0.0} | dict.fromkeys(REMOVALS, first)
        for task in self._due:  # make the series at the start, so that a task that never succeeds shows, too
            metrics.retention_last_success.labels(task)
            metrics.retention_failures.labels(task)
        self._stopping = asyncio.Event()
        self._statements: set[asyncio.Task[bool]] = set()  # statements that PostgreSQL runs now
        self._looked_at = _NIL  # the id up to which an earlier pass has looked at the events
        self._whole_pass_at = 0.0  # when the next pass begins at the first event

    async def start(self) -> None:
        """Starts both loops. The first looks at the partitions at once."""
        self._stopping.clear()
        for loop in self._loops:
            await loop.start()

    async def stop(self) -> None:
        """Cancels the statements in hand, which may take ten minutes, and returns when PostgreSQL has ended them."""
        self._stopping.set()
        for statement in self._statements:
            statement.cancel()
        for loop in self._loops:
            await loop.stop()

    async def keep_partitions(self) -> None:
        """Measures how far the partitions reach, and makes those that are missing."""
        if not self._database.up:
            return  # the prober reports it
        missing = await self._measure()
        if not missing:
            self._metrics.retention_last_success.labels("partitions").set_to_current_time()
        elif time.monotonic() >= self._due["partitions"]:
            await self._attempt("partitions", lambda connection: self._make(connection, missing))
            await self._measure()

    async def _measure(self) -> list[asyncpg.Record]:
        with gateway():
            async with self._database.acquire() as connection:
                state = await queries.retention_state(connection)
                missing = [row async for row in queries.missing_partitions(connection, weeks=WEEKS_AHEAD)]
        self._metrics.partitions_ahead.set(state["ahead"])
        self._metrics.quarantine_rows.set(state["quarantine_rows"])
        self._metrics.quarantine_bytes.set(state["quarantine_bytes"])
        return missing

    async def _make(self, connection: Connection, missing: list[asyncpg.Record]) -> bool:
        failure: Exception | None = None
        for row in missing:
            week = f"{row['first']:%Y-%m-%d}"
            try:
                await self._until_free(partial(queries.make_partition, connection, parent=row["parent"], first=row["first"]))
                logger.info("made a partition", table=row["parent"], week=week)
            except asyncpg.PostgresError as error:  # go on: the partitions of other weeks may succeed
                logger.error("could not make a partition", table=row["parent"], week=week, error=where(error))
                failure = error
        if failure is not None:
            raise failure
        return True

    async def _remove_what_is_due(self) -> None:
        for task in REMOVALS:
            if self._database.up and time.monotonic() >= self._due[task] and not self._stopping.is_set():
                await self.remove(task)

    async def remove(self, task: str) -> None:
        """Does `task`, one of REMOVALS, now, unless another process has the duty. Never fails."""
        removals = {
            "bodies": lambda connection: self._retire(connection, task, "bodies", self._ages.bodies),
            "audit": lambda connection: self._retire(connection, task, "audit", self._ages.audit),
            "events": self._remove_events,
            "quarantine": self._remove_quarantine,
        }

        async def checked(connection: Connection) -> bool:
            away = abs((await queries.retention_state(connection))["epoch"] - time.time())
            if away > _CLOCKS:  # if a clock is wrong, rows may look old that are not
                raise WebhookdError(
                    f"PostgreSQL's clock is {away:.0f} s away from this machine's, so retention removes nothing: "
                    "run NTP on both machines"
                )
            return await removals[task](connection)

        await self._attempt(task, checked)

    async def _attempt(self, task: str, work: Callable[[Connection], Coroutine[Any, Any, bool]]) -> None:
        """Runs `work`, which returns whether nothing is left over, unless another process has the duty."""
        pause = _AGAIN
        try:
            with gateway():
                if await self._take(task):
                    try:
                        async with self._database.acquire("upkeep") as connection:
                            pause = _HOURLY if await self._cancellable(work(connection)) else _AGAIN
                    finally:
                        with contextlib.suppress(UnavailableError):
                            await self._take(task, 0.0)
                    self._metrics.retention_last_success.labels(task).set_to_current_time()
        except (WebhookdError, asyncpg.PostgresError) as error:
            self._metrics.retention_failures.labels(task).inc()
            reason = str(error) if isinstance(error, WebhookdError) else where(error)
            logger.error("retention failed; webhookd tries again", task=task, error=reason, seconds=_AGAIN)
        self._due[task] = time.monotonic() + pause

    async def _cancellable(self, work: Coroutine[Any, Any, bool]) -> bool:
        """Returns the result of `work`; False if `stop` cancels it."""
        statement = asyncio.create_task(work)
        self._statements.add(statement)
        try:
            return await statement
        except asyncio.CancelledError:
            if not self._stopping.is_set() or ((caller := asyncio.current_task()) and caller.cancelling()):
                raise
            return False
        finally:
            self._statements.discard(statement)

    async def _take(self, task: str, seconds: float = _HOLD) -> bool:
        return await self._database.take_duty(f"retention: {task}", seconds)

    async def _retire(self, connection: Connection, task: str, table: str, age: float) -> bool:
        """Empties and drops the old partitions of `table`, and trims the default one. Returns whether nothing is left over."""
        done = True
        failure: Exception | None = None
        for child in [row["child"] async for row in queries.old_partitions(connection, parent=table, age=age)]:
            if self._stopping.is_set():
                return False
            try:
                done &= await self._retire_partition(connection, task, child, age)
            except asyncpg.PostgresError as error:  # for example, a backup reads this partition; go on with the others
                logger.warning("an old partition stays for now", partition=child, error=where(error))
                failure = error
        done &= await self._trim(connection, task, f"{queries.schema}.{table}_default", age)
        if failure is not None:
            raise failure
        return done

    async def _retire_partition(self, connection: Connection, task: str, child: str, age: float) -> bool:
        async with _reading_committed(connection):
            outcome = await queries.clear_partition(connection, child=child, age=age)
        if outcome == "cleared":
            self._metrics.retention_removed.labels(f"{task}_partitions").inc()
            logger.info("emptied an old partition", partition=child)
        elif outcome == "mixed":
            if not await self._trim(connection, task, child, age):
                return False
            # The compaction locks out readers of events. After the VACUUM it is short: it need not read deleted rows.
            await connection.execute(await queries.vacuum_of(connection, child=child))
            await self._until_free(partial(_committed, connection, queries.compact_partition, child))
            logger.info("removed rows from an old partition, except those that are still needed", partition=child)
        try:
            if await self._until_free(partial(_committed, connection, queries.drop_partition, child)):
                logger.info("dropped an old partition", partition=child)
        except asyncpg.LockNotAvailableError:
            # The transactions that use the table never paused for long enough. The table is empty, and can wait.
            logger.info("an empty partition is dropped later", partition=child)
            return False
        return True

    async def _until_free(self, attempt: Callable[[], Awaitable[T]]) -> T:
        """Returns the result of `attempt`, and tries again if it did not get its locks. It waits for them in short turns:
        between the turns, sessions that wait behind it go on."""
        for _ in range(_TRIES - 1):
            try:
                return await attempt()
            except asyncpg.LockNotAvailableError:
                if self._stopping.is_set():
                    raise
                await self._pause(random.uniform(0.5, 1.5))
        return await attempt()

    async def _trim(self, connection: Connection, task: str, child: str, age: float) -> bool:
        async def batch(after: UUID) -> tuple[UUID | None, int]:
            async with _reading_committed(connection):
                # An operator's forced retry needs the body, and its work is visible only after its commit.
                await queries.lock_ends(connection)
                row = await queries.trim_partition(connection, child=child, after=after, age=age, most=_BATCH)
            return _progress(row)

        return await self._batches(task, batch)

    async def _remove_events(self, connection: Connection) -> bool:
        # Some events stay for ever, for example without an eventDate. So a pass begins where the last one ended. One pass a day
        # begins at the first event, and finds events that ended late.
        if time.monotonic() >= self._whole_pass_at:
            self._whole_pass_at, self._looked_at = time.monotonic() + _DAILY, _NIL

        async def batch(after: UUID) -> tuple[UUID | None, int]:
            age, window = self._ages.events, self._ages.window
            async with _reading_committed(connection):
                await queries.lock_ends(connection)
                row = await queries.remove_events(connection, after=after, age=age, window=window, limit=_BATCH)
            self._looked_at = row["last"] or after
            return _progress(row)

        return await self._batches("events", batch, self._looked_at)

    async def _remove_quarantine(self, connection: Connection) -> bool:
        async def batch(_: UUID) -> tuple[UUID | None, int]:
            removed = int(await queries.remove_quarantine(connection, age=self._ages.quarantine, limit=_BATCH))
            return _NIL if removed else None, removed

        return await self._batches("quarantine", batch)

    async def _batches(
        self, task: str, batch: Callable[[UUID], Awaitable[tuple[UUID | None, int]]], after: UUID = _NIL
    ) -> bool:
        """Runs batch after batch, with a pause after each as long as it took. Returns False if it did not reach the end."""
        while not self._stopping.is_set():
            started = time.monotonic()
            last, removed = await batch(after)
            self._metrics.retention_removed.labels(task).inc(removed)
            if last is None:
                return True
            after = last
            await self._pause(max(time.monotonic() - started, 0.02))
            if not await self._take(task):
                break  # the batch took so long that another process has the duty
        return False

    async def _pause(self, seconds: float) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._stopping.wait()


def _reading_committed(connection: Connection) -> Any:
    # Do not rely on the database's default level: after a wait for a lock, a statement must see what was committed meanwhile.
    return connection.transaction(isolation="read_committed")


async def _committed(connection: Connection, query: Any, child: str) -> bool:
    async with _reading_committed(connection):
        return bool(await query(connection, child=child))


def _progress(row: Any) -> tuple[UUID | None, int]:
    return row["last"], int(row["removed"])
