"""The role `work`: its parts, and the order in which they stop."""

from __future__ import annotations

from contextlib import nullcontext
from typing import TYPE_CHECKING

from webhookd.process.alone import Alone
from webhookd.process.attempt import Attempts
from webhookd.process.details import EventDetails
from webhookd.process.fold import Folds
from webhookd.process.handlers import Registry
from webhookd.process.hooks import Hooks
from webhookd.process.records import Records
from webhookd.process.retry import Policy
from webhookd.process.runner import HandlerRunner
from webhookd.process.shared_folds import SharedFolds
from webhookd.process.turns import Turns
from webhookd.process.worker import Worker
from webhookd.queue.acks import Acks
from webhookd.queue.contract import Queue
from webhookd.queue.dead_letters import DeadLetters
from webhookd.queue.leases import Leases
from webhookd.queue.poller import Poller
from webhookd.runtime.loops import Loop, Part, Watch
from webhookd.settings import Settings
from webhookd.store.database import Database
from webhookd.store.details import DetailsStore
from webhookd.store.event_store import EventStore
from webhookd.store.idempotency import IdempotencyKeys
from webhookd.store.outbox import Outbox
from webhookd.telemetry.metrics import Metrics

if TYPE_CHECKING:
    from webhookd.telemetry.tracing import Tracing


class WorkRole:
    """The workers of a process. The owner starts `parts` in their order, and stops them in reverse order, after `drain`."""

    def __init__(
        self,
        settings: Settings,
        registry: Registry,
        database: Database,
        store: EventStore,
        outbox: Outbox,
        queue: Queue,
        idempotency: IdempotencyKeys,
        dead_letters: DeadLetters,
        *,
        metrics: Metrics,
        watch: Watch,
        tracing: Tracing | None,
    ) -> None:
        leases = Leases(queue, visibility_timeout=settings.visibility_timeout, metrics=metrics, watch=watch)
        acks = Acks(queue, metrics=metrics, watch=watch)
        policy = Policy.of(settings)
        folds = Folds(database, store, registry, metrics=metrics)
        runner = HandlerRunner(
            registry,
            timeout=settings.handler_timeout,
            most_stuck=settings.concurrency,
            metrics=metrics,
            watch=watch,
            around=nullcontext if tracing is None else tracing.handler,
        )
        turns = Turns(settings.concurrency)
        details = DetailsStore(database)
        attempts = Attempts(
            database, store, runner, EventDetails(details, registry), turns, most=policy.attempts, metrics=metrics
        )
        owed = Loop("counts of attempts", attempts.take_back_what_is_owed, watch, every=1.0)
        records = Records(store, details, dead_letters, policy, metrics=metrics)
        alone = Alone(store, idempotency, folds, attempts, records, tracing=tracing)
        shared = SharedFolds(database, store, folds, watch=watch, tracing=tracing)
        self.worker = worker = Worker(leases, acks, folds, shared, alone, metrics=metrics)
        self._poller = Poller(settings, queue, worker, able=lambda: database.workable, report=outbox.report_worker, watch=watch)
        self._hooks = Hooks(registry.hooks, watch)
        # Leases stop after the acks are flushed, and both after the pollers returned. What handlers share outlives them all.
        self.parts: list[Part] = [self._hooks, leases, acks, owed, shared, self._poller]

    async def drain(self, seconds: float) -> None:
        """Receives no more messages, and ends the events in hand within `seconds`."""
        await self._poller.stop(seconds)

    def stop_hooks_by(self, moment: float) -> None:
        """Sets the monotonic time by which users' hooks must have stopped."""
        self._hooks.stop_by(moment)
