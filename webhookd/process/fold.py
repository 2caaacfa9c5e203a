"""The fold: events' facts go to the timeline before their handlers run, and an event without handlers ends there."""

from __future__ import annotations

import time
from collections.abc import Sequence
from uuid import UUID

from webhookd.authorizenet.notification import label
from webhookd.failpoints import Failpoint, reach
from webhookd.metrics import Metrics
from webhookd.process.handlers import Registry
from webhookd.process.timeline import fold_all
from webhookd.store.database import Connection
from webhookd.store.events import Claimed, EventStore


class Folds:
    """Folds events that were read, many in one statement. A repeat does no harm, so each attempt folds anew."""

    def __init__(self, store: EventStore, registry: Registry, *, metrics: Metrics) -> None:
        self._store = store
        self._registry = registry
        self._metrics = metrics

    def ends(self, event_type: str) -> bool:
        """Whether the fold ends an event of this type: no handler is for it."""
        return not self._registry.matching(event_type)

    async def fold(self, connection: Connection, events: Sequence[Claimed], *, waits: bool = True) -> set[UUID]:
        """Commits what `events` report, and the end of those that no handler is for; returns what it has ended.

        One that is missing had ended, or died, before. Raises BusyError if another transaction keeps one of the rows;
        `waits`: for a moment.
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
            self._metrics.handle_seconds.labels(label(types[row["id"]])).observe(spent)
            self._metrics.end_to_end_seconds.observe(row["seconds"])
            self._metrics.attempts.observe(row["attempt"])
        return {row["id"] for row in ended}
