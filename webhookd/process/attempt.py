"""Attempts: one transaction claims an event, runs its handlers, and commits their effects together with `processed`."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import NamedTuple

from webhookd.errors import Permanent, Retryable, UnavailableError
from webhookd.process.decision import GiveUp
from webhookd.process.details import EventDetails, missing
from webhookd.process.failure import AttemptFailedError, Failure, TransactionEndedError, attempting
from webhookd.process.result import Outcome, standing
from webhookd.process.runner import HandlerRunner
from webhookd.process.turns import Turns
from webhookd.queue.message import EventReference
from webhookd.runtime.failpoints import Failpoint, reach
from webhookd.runtime.loops import shielded
from webhookd.store.database import Database
from webhookd.store.event_store import AttemptKey, Claimed, EventStore
from webhookd.store.failures import gateway
from webhookd.store.pools import Connection, Transaction, is_lost, roll_back
from webhookd.telemetry.logs import logger
from webhookd.telemetry.metrics import Metrics

_BOOKKEEPING = 10.0  # seconds, for each step after the handlers
_KILLS = "worker_ended"
_LEAST_KILLS = 3  # kills of its process until an event may be given up for them


class Step(NamedTuple):
    """The outcome of an event in a transaction of its own."""

    claimed: Claimed | None  # the event as PostgreSQL has it; None if there is no such event
    outcome: Outcome
    death: tuple[GiveUp, int] | None = None  # why the event died in this transaction, and when (microseconds since 1970)


class Attempts:
    """The part of the worker that makes attempts, each in its own transaction, so no event's handlers can harm another event.

    `turns`: for the transactions in which handlers run.
    `most`: attempts until an event is dead. An event that may kill its process or PostgreSQL is dead after so many attempts
    that began and did not end, but after no fewer than 3.
    """

    def __init__(
        self,
        database: Database,
        store: EventStore,
        runner: HandlerRunner,
        details: EventDetails,
        turns: Turns,
        *,
        most: int,
        metrics: Metrics,
    ) -> None:
        self._database = database
        self._store = store
        self._runner = runner
        self._details = details
        self._turns = turns
        self._most_begun = max(most, _LEAST_KILLS)
        self._metrics = metrics
        self._owed: deque[AttemptKey] = deque()  # attempts that have ended, but are still counted

    async def make(self, reference: EventReference, *, wait: bool, suspect: bool = False, alone: bool = False) -> Step:
        """Makes an attempt at the event that `reference` names. The outcome shows whether the event needed an attempt.

        `wait`: whether to wait a moment if another transaction has the row's lock.
        `suspect`: the event may kill its process or PostgreSQL, so the attempt is counted before it begins.
        `alone`: whether this process makes no other attempt meanwhile.
        Raises AttemptFailedError after a rollback, BusyError if another worker has the event, UnavailableError.
        """
        with gateway():
            async with self._turns.take(alone=alone), self._database.acquire("work", reset=True) as connection:
                transaction = connection.transaction()
                await transaction.start()
                ended = tried = False
                counted: AttemptKey | None = None
                try:
                    claimed = await self._store.claim(connection, reference.event_id, wait=wait)
                    if claimed is None:
                        return Step(None, Outcome.UNKNOWN)
                    if (outcome := standing(claimed, reference.attempts)) is not None:
                        return Step(claimed, outcome)
                    if suspect:
                        counted = claimed.key  # set first: if the statement's reply is lost, the attempt may be counted anyway
                        begun = await self._store.begin_attempt(counted)
                        if begun > self._most_begun:
                            step = await self._bury(connection, transaction, claimed, begun - 1)
                            ended = True
                            return step
                    tried = True
                    await self._run(connection, transaction, claimed)
                    ended = True
                    return Step(claimed, Outcome.PROCESSED)
                except Exception:
                    if tried and is_lost(connection):
                        # The handlers, or the commit of their effects, may have ended PostgreSQL. If they did, the failure
                        # cannot be recorded, so the count stays. A failure that is recorded makes the count void.
                        counted = None
                    raise
                finally:
                    # Take the count back before the rollback releases the row's lock: else others would read too high a count.
                    if counted is not None and not ended:
                        await shielded(self._take_back(counted), _BOOKKEEPING)
                    if not ended and not is_lost(connection):
                        await shielded(roll_back(transaction), _BOOKKEEPING)

    async def _take_back(self, counted: AttemptKey) -> None:
        try:
            await self._store.take_back_attempt(counted)
        except (UnavailableError, asyncio.CancelledError) as error:
            self._owed.append(counted)
            if isinstance(error, asyncio.CancelledError):  # PostgreSQL did not answer in time, and `shielded` ended this call
                raise

    async def take_back_what_is_owed(self) -> None:
        """Takes back the counts of attempts that ended while PostgreSQL was away. Raises UnavailableError."""
        while self._owed:
            await self._store.take_back_attempt(self._owed[0])
            self._owed.popleft()

    async def _run(self, connection: Connection, transaction: Transaction, claimed: Claimed) -> None:
        with attempting(claimed):
            if not claimed.has_body:
                raise Permanent("its body is gone from the database")
            waits, failure = await self._details.give(connection, claimed)
            if failure is None:
                failure = await self._runner.run(claimed.event, connection)
                failure = missing(claimed.event) or failure
            reach(Failpoint.WORKER_AFTER_HANDLERS)
            if is_lost(connection):
                # PostgreSQL or a handler closed the connection. Count an attempt: else such a handler would be called for ever.
                failure = failure or Failure.of(Retryable("the connection was lost while the handlers ran"))
            elif not connection.is_in_transaction():
                failure = Failure.of(TransactionEndedError())
            if failure is not None:
                raise AttemptFailedError(claimed, failure)
            if waits:
                await self._details.end_wait(connection, claimed)
            # The commit fails if a handler swallowed a database error, since such an error aborts the transaction.
            seconds = await shielded(self._commit(connection, transaction, claimed), _BOOKKEEPING)
        reach(Failpoint.WORKER_AFTER_COMMIT)
        self._metrics.end_to_end_seconds.observe(seconds)
        self._metrics.attempts.observe(claimed.event.attempt)

    async def _bury(self, connection: Connection, transaction: Transaction, claimed: Claimed, kills: int) -> Step:
        reason = f"its worker, or its connection to PostgreSQL, ended {kills} times in the middle of an attempt"
        logger.error("an event is dead", event_id=str(claimed.event.id), event_type=claimed.event.event_type, reason=_KILLS)
        died = await self._store.mark_dead(claimed, reason=reason, detail=reason, spent=0, connection=connection)
        await transaction.commit()
        return Step(claimed, Outcome.DEAD, None if died is None else (GiveUp(_KILLS, reason), died))

    async def _commit(self, connection: Connection, transaction: Transaction, claimed: Claimed) -> float:
        seconds = await self._store.mark_processed(connection, claimed)
        if seconds is None:
            raise TransactionEndedError()
        await transaction.commit()
        return seconds
