"""Shared transactions: events that only the timeline is for, of several messages, committed in one statement.

No handler of a user runs there, so none can harm a neighbour's event; and where such a transaction fails, each of its events is
to be tried alone.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING
from uuid import UUID

from webhookd.authorizenet.notification import label
from webhookd.batcher import Batcher
from webhookd.errors import BusyError, UnavailableError
from webhookd.failpoints import Failpoint, reach
from webhookd.lifecycle import Watch
from webhookd.logs import logger, where
from webhookd.metrics import Metrics
from webhookd.process.handlers import Registration, Registry
from webhookd.process.result import Outcome, Result
from webhookd.process.timeline import fold_all, keep_timeline
from webhookd.queue.message import Body
from webhookd.store.claims import Claims
from webhookd.store.database import Database
from webhookd.store.events import Claimed, EventStore
from webhookd.store.failures import unavailable

if TYPE_CHECKING:
    from webhookd.tracing import Tracing

BUSY = 1.0  # seconds for each receive so far, until a message comes back whose event another worker has
EARLY = 0.5  # seconds: a retry that comes back this little before its time is not sent away again
_LOCK_WAIT = 5.0  # seconds that events which share a transaction wait for a row
_TRIES = 2  # until what another worker did meanwhile is no longer in the way
_GROUP = 10  # messages whose events share a transaction
_GROUPS = 3  # such transactions at a time
_TIMELINE = (Registration("*", keep_timeline),)
_DONE = Result(Outcome.PROCESSED)


class SharedTransactions:
    """Gathers messages' events, and works on them together; `turns` bounds the transactions of the whole worker."""

    def __init__(
        self,
        database: Database,
        store: EventStore,
        claims: Claims,
        registry: Registry,
        turns: asyncio.Semaphore,
        *,
        metrics: Metrics,
        watch: Watch,
        tracing: Tracing | None = None,
    ) -> None:
        self._database = database
        self._store = store
        self._claims = claims
        self._registry = registry
        self._turns = turns
        self._metrics = metrics
        self._tracing = tracing
        # While some messages' events are worked on, the next ones gather.
        self._groups: Batcher[Sequence[Body], list[Result | None]] = Batcher(
            "timeline", self._work, watch, max_batch=_GROUP, max_pending=100_000, workers=_GROUPS, fill=_GROUP // 2
        )

    async def start(self) -> None:
        """Starts gathering."""
        await self._groups.start()

    async def stop(self) -> None:
        """Ends what is gathered."""
        await self._groups.stop()

    def takes(self, event_type: str) -> bool:
        """Whether an event of this type may share a transaction: only the timeline is for it."""
        return self._registry.matching(event_type) == _TIMELINE

    def submit(self, bodies: Sequence[Body]) -> asyncio.Future[list[Result | None]]:
        """A message's events; the future gets a result for each, None for one that has to be tried alone.

        It raises UnavailableError where PostgreSQL was not there.
        """
        return self._groups.submit(bodies)

    async def _work(self, groups: list[Sequence[Body]]) -> list[list[Result | None]]:
        began = time.time_ns()
        ids = list(dict.fromkeys(body.event_id for bodies in groups for body in bodies))
        token, ours = await self._claims.acquire(ids)
        reach(Failpoint.WORKER_AFTER_CLAIM)
        mine = [event_id for event_id, got in zip(ids, ours, strict=True) if got]
        results: dict[UUID, Result | None] = dict.fromkeys(ids, Result(Outcome.BUSY, BUSY))
        try:
            results |= await self._transact(mine)
        except Exception as error:
            if isinstance(error, UnavailableError):
                raise
            if unavailable(error):
                raise UnavailableError("postgresql", where(error)) from error
            logger.debug("events that shared a transaction are tried alone", count=len(mine), error=where(error))
            results |= dict.fromkeys(mine)
        finally:
            self._claims.release(mine, token)
        told: list[list[Result | None]] = []
        for bodies in groups:
            told.append([results[body.event_id] for body in bodies])
            # Another message of the same event finds it ended.
            for body in bodies:
                result = results[body.event_id]
                if result is not None and result.outcome is Outcome.PROCESSED:
                    results[body.event_id] = Result(Outcome.DUPLICATE)
        if self._tracing is not None:
            for bodies, results_of in zip(groups, told, strict=True):
                for body, result in zip(bodies, results_of, strict=True):
                    if result is not None:  # else it has a span when it is tried alone
                        self._tracing.shared(
                            body.traceparent,
                            body.event_id,
                            body.account,
                            body.event_type,
                            began=began,
                            outcome=result.outcome,
                            attempt=result.attempt,
                        )
        return told

    async def _transact(self, ids: Sequence[UUID]) -> dict[UUID, Result | None]:
        """Reads, folds and commits; None for an event that has to be worked on alone, and for all when this raises."""
        results: dict[UUID, Result | None] = dict.fromkeys(ids)
        async with self._turns, self._database.acquire("work") as connection:
            for _ in range(_TRIES):
                due: list[Claimed] = []
                for claimed in await self._store.read(connection, ids):
                    if claimed.status.finished:
                        results[claimed.event.id] = Result(Outcome.DUPLICATE)
                    elif claimed.wait <= EARLY and claimed.has_body and self.takes(claimed.event.event_type):
                        due.append(claimed)
                if not due:
                    return results
                started = time.perf_counter()
                facts = fold_all(claimed.event for claimed in due)
                reach(Failpoint.WORKER_AFTER_HANDLERS)
                try:
                    async with asyncio.timeout(_LOCK_WAIT):
                        seconds = await self._store.process(connection, due, facts)
                except TimeoutError as error:
                    raise BusyError("another transaction has a row of the events or of the timeline") from error
                if seconds:
                    break
            else:
                return results  # another worker is at them
        reach(Failpoint.WORKER_AFTER_COMMIT)
        spent = (time.perf_counter() - started) / len(due)
        for claimed, age in zip(due, seconds, strict=True):
            results[claimed.event.id] = _DONE if self._tracing is None else _DONE._replace(attempt=claimed.event.attempt)
            self._metrics.handle_seconds.labels(label(claimed.event.event_type)).observe(spent)
            self._metrics.end_to_end_seconds.observe(age)
            self._metrics.attempts.observe(claimed.event.attempt)
        return results
