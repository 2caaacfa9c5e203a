"""The builder of the worker: puts its parts together."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING

from webhookd.process.alone import Alone
from webhookd.process.attempt import Attempts
from webhookd.process.fold import Folds
from webhookd.process.handlers import Registry
from webhookd.process.records import Records
from webhookd.process.retry import Policy
from webhookd.process.runner import HandlerRunner
from webhookd.process.shared_folds import SharedFolds
from webhookd.process.turns import Turns
from webhookd.process.worker import Worker
from webhookd.queue.acks import Acks
from webhookd.queue.dead_letters import DeadLetters
from webhookd.queue.leases import Leases
from webhookd.runtime.loops import Loop, Watch
from webhookd.store.database import Database
from webhookd.store.event_store import EventStore
from webhookd.store.idempotency import IdempotencyKeys
from webhookd.telemetry.metrics import Metrics

if TYPE_CHECKING:
    from webhookd.telemetry.tracing import Tracing


FOLDS = 4  # folds at a time, each on a connection of the pool `fold`


_LEAST_KILLS = 3  # kills of its process until an event may be given up for them


@dataclass(slots=True, frozen=True)
class Limits:
    """The worker's limits, from the settings of the same names."""

    handler_timeout: float  # seconds
    retry: Policy
    concurrency: int  # transactions at a time; also, handlers that cannot be ended until the daemon stops


def make_worker(
    database: Database,
    store: EventStore,
    idempotency: IdempotencyKeys,
    leases: Leases,
    acks: Acks,
    dead_letters: DeadLetters,
    registry: Registry,
    limits: Limits,
    *,
    metrics: Metrics,
    watch: Watch,
    tracing: Tracing | None = None,
) -> Worker:
    """Builds a worker for the handlers of `registry`."""
    turns = Turns(limits.concurrency)
    folding = asyncio.Semaphore(FOLDS)
    folds = Folds(store, registry, metrics=metrics)
    runner = HandlerRunner(
        registry,
        timeout=limits.handler_timeout,
        most_stuck=limits.concurrency,
        metrics=metrics,
        watch=watch,
        tracing=tracing,
    )
    most_begun = max(limits.retry.attempts, _LEAST_KILLS)
    attempts = Attempts(database, store, runner, turns, most_begun=most_begun, metrics=metrics)
    records = Records(store, dead_letters, limits.retry, metrics=metrics)
    alone = Alone(database, store, idempotency, folds, attempts, records, folding, metrics=metrics, tracing=tracing)
    shared = SharedFolds(database, store, folds, folding, watch=watch, tracing=tracing)
    owed = Loop("counts of attempts", attempts.take_back_what_is_owed, watch, every=1.0)
    return Worker(leases, acks, folds, shared, alone, owed, metrics=metrics, tracing=tracing)
