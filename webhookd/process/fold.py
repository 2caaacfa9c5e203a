"""The fold: commits events' facts to the timeline before handlers run, and ends events that have no handlers."""

from __future__ import annotations

import functools
import time
from collections.abc import Sequence
from uuid import UUID

from webhookd.authorizenet.notification import label
from webhookd.authorizenet.timeline import fold_all
from webhookd.process.handlers import Registry
from webhookd.runtime.failpoints import Failpoint, reach
from webhookd.store.event_store import Claimed, EventStore
from webhookd.store.pools import Connection
from webhookd.telemetry.metrics import Metrics


class Folds:
    """The part of the worker that folds events, many in one statement. A repeat does no harm, so each attempt folds again."""

    def __init__(self, store: EventStore, registry: Registry, *, metrics: Metrics) -> None:
        self._store = store
        self._registry = registry
        self._metrics = metrics
        self._handle_seconds = functools.cache(metrics.handle_seconds.labels)

    def ends(self, event_type: str) -> bool:
        """Returns whether an event of this type ends with its fold. This is so if no handler is registered for the type."""
        return not self._registry.matching(event_type)

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
