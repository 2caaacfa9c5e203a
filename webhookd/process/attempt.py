"""An attempt: an event claimed, its handlers run, their effects and `processed` committed, all in one transaction."""

from __future__ import annotations

import asyncio
import contextlib
from typing import NamedTuple
from uuid import UUID

import asyncpg
from asyncpg.transaction import Transaction

from webhookd.errors import Permanent, Retryable
from webhookd.failpoints import Failpoint, reach
from webhookd.lifecycle import shielded
from webhookd.metrics import Metrics
from webhookd.process.failure import AttemptFailedError, Failure, TransactionEndedError, attempting
from webhookd.process.result import Outcome, standing
from webhookd.process.runner import HandlerRunner
from webhookd.store.database import Connection, Database
from webhookd.store.events import Claimed, EventStore
from webhookd.store.failures import gateway

_BOOKKEEPING = 10.0  # seconds, for each step after the handlers


class Step(NamedTuple):
    """The outcome of an event in a transaction of its own."""

    claimed: Claimed | None  # None if there is no such event
    outcome: Outcome


class Attempts:
    """Makes attempts, each in a transaction of its own, so that no event's handlers can harm a neighbour.

    `turns` bounds the transactions in which the worker runs handlers.
    """

    def __init__(
        self, database: Database, store: EventStore, runner: HandlerRunner, turns: asyncio.Semaphore, *, metrics: Metrics
    ) -> None:
        self._database = database
        self._store = store
        self._runner = runner
        self._turns = turns
        self._metrics = metrics

    async def make(self, event_id: UUID, *, wait: bool) -> Step:
        """Makes an attempt at the event; the outcome says whether the event needed one.

        `wait`: for a moment, for a lock that another transaction has.
        Raises AttemptFailedError after a rollback, BusyError if another worker has the event, UnavailableError.
        """
        with gateway():
            async with self._turns, self._database.acquire("work", reset=True) as connection:
                transaction = connection.transaction()
                await transaction.start()
                committed = False
                try:
                    step = await self._work(connection, transaction, event_id, wait=wait)
                    committed = step.outcome is Outcome.PROCESSED
                    return step
                finally:
                    if not committed and not _is_lost(connection):
                        await shielded(_roll_back(transaction), _BOOKKEEPING)

    async def _work(self, connection: Connection, transaction: Transaction, event_id: UUID, *, wait: bool) -> Step:
        claimed = await self._store.claim(connection, event_id, wait=wait)
        if claimed is None:
            return Step(None, Outcome.UNKNOWN)
        if (outcome := standing(claimed)) is not None:
            return Step(claimed, outcome)
        with attempting(claimed):
            if not claimed.has_body:
                raise Permanent("its body is gone from the database")
            failure = await self._runner.run(claimed.event, connection)
            reach(Failpoint.WORKER_AFTER_HANDLERS)
            if _is_lost(connection):
                # By PostgreSQL or by a handler: it counts as an attempt, or a handler that closes it would be called for ever.
                failure = failure or Failure.of(Retryable("the connection was lost while the handlers ran"))
            elif not connection.is_in_transaction():
                failure = Failure.of(TransactionEndedError())
            if failure is not None:
                raise AttemptFailedError(claimed, failure)
            # This fails if a handler had swallowed a database error, which aborts the transaction.
            seconds = await shielded(self._commit(connection, transaction, claimed), _BOOKKEEPING)
        reach(Failpoint.WORKER_AFTER_COMMIT)
        self._metrics.end_to_end_seconds.observe(seconds)
        self._metrics.attempts.observe(claimed.event.attempt)
        return Step(claimed, Outcome.PROCESSED)

    async def _commit(self, connection: Connection, transaction: Transaction, claimed: Claimed) -> float:
        seconds = await self._store.mark_processed(connection, claimed)
        if seconds is None:
            raise TransactionEndedError()
        await transaction.commit()
        return seconds


async def _roll_back(transaction: Transaction) -> None:
    # A commit that failed has ended the transaction already; the pool resets the connection in any case.
    with contextlib.suppress(asyncpg.InterfaceError):
        await transaction.rollback()


def _is_lost(connection: Connection) -> bool:
    try:
        return connection.is_closed()
    except asyncpg.InterfaceError:  # closed, and therefore back with its pool, which no longer lets it be asked
        return True
