"""The fold: commits events' facts to the timeline before handlers run, and ends events that have no handlers."""

from __future__ import annotations

import asyncio
import functools
import time
from collections.abc import Sequence
from uuid import UUID

from webhookd.authorizenet.notification import label
from webhookd.authorizenet.timeline import fold_all
from webhookd.errors import Permanent
from webhookd.process.attempt import Step
from webhookd.process.failure import attempting
from webhookd.process.handlers import Registry
from webhookd.process.result import Outcome, standing
from webhookd.queue.message import EventReference
from webhookd.runtime.failpoints import Failpoint, reach
from webhookd.store.database import Database
from webhookd.store.event_store import Claimed, EventStore
from webhookd.store.failures import gateway
from webhookd.store.pools import Connection
from webhookd.telemetry.metrics import Metrics

FOLDS = 4  # folds at a time, each on a connection of the pool `fold`


class Folds:
    """The part of the worker that folds events, many in one statement. A repeat does no harm, so each attempt folds again.

    `turns`: bounds how many folds the worker does at a time.
    """

    def __init__(self, database: Database, store: EventStore, registry: Registry, *, metrics: Metrics) -> None:
        self.turns = asyncio.Semaphore(FOLDS)
        self._database = database
        self._store = store
        self._registry = registry
        self._metrics = metrics
        self._handle_seconds = functools.cache(metrics.handle_seconds.labels)

    def ends(self, event_type: str) -> bool:
        """Returns whether an event of this type ends with its fold. This is so if no handler is registered for the type."""
        return not self._registry.matching(event_type)

    @property
    def ends_all(self) -> bool:
        """Returns whether every event ends with its fold, because no handler is registered."""
        return not len(self._registry)

    async def fold(self, connection: Connection, events: Sequence[Claimed], *, waits: bool = True) -> set[UUID]:
        """Commits the facts of `events`, and the end of each event without handlers. Returns the ids of the ended events.

        An event without handlers whose id is not returned had ended, or died, before. `waits`: waits a moment for rows that
        another transaction has locked. Raises BusyError if a row stays locked.
        """
        ending = [claimed for claimed in events if self.ends(claimed.event.event_type)]
        started = time.perf_counter()
        facts = fold_all(claimed.event for claimed in events)
        if ending:
            reach(Failpoint.WORKER_AFTER_HANDLERS)
        ended = await self._store.process(connection, ending, facts, waits=waits)
        reach(Failpoint.WORKER_AFTER_COMMIT if ending else Failpoint.WORKER_AFTER_FOLD)
        spent = (time.perf_counter() - started) / len(events)
        types = {claimed.event.id: claimed.event.event_type for claimed in ending}
        for row in ended:
            self._handle_seconds(label(types[row["id"]])).observe(spent)
            self._metrics.end_to_end_seconds.observe(row["seconds"])
            self._metrics.attempts.observe(row["attempt"])
        return {row["id"] for row in ended}

    async def fold_alone(self, reference: EventReference) -> Step | Claimed:
        """Folds one event in a transaction of its own; returns the event if its handlers must run next.

        If PostgreSQL refuses the fold, the attempt has failed: handlers rely on the timeline's row.
        """
        with gateway():
            async with self.turns, self._database.acquire("fold") as connection:
                claimed = next(iter(await self._store.read(connection, [reference.event_id])), None)
                if claimed is None:
                    return Step(None, Outcome.UNKNOWN)
                if (outcome := standing(claimed, reference.attempts)) is not None:
                    return Step(claimed, outcome)
                with attempting(claimed):
                    if not claimed.has_body:
                        raise Permanent("its body is gone from the database")
                    # Do not wait for locked rows: an event that shared a transaction has waited for these rows there.
                    ended = await self.fold(connection, [claimed], waits=False)
        if not self.ends(claimed.event.event_type):
            return claimed
        return Step(claimed, Outcome.PROCESSED if ended else Outcome.DUPLICATE)
