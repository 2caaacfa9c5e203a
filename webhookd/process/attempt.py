"""An attempt: an event claimed, its handlers run, their effects and `processed` committed, all in one transaction."""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from typing import NamedTuple

import asyncpg
from asyncpg.transaction import Transaction

from webhookd.errors import Permanent, Retryable, UnavailableError
from webhookd.failpoints import Failpoint, reach
from webhookd.lifecycle import shielded
from webhookd.logs import logger
from webhookd.metrics import Metrics
from webhookd.process.decision import GiveUp
from webhookd.process.failure import AttemptFailedError, Failure, TransactionEndedError, attempting
from webhookd.process.result import Outcome, standing
from webhookd.process.runner import HandlerRunner
from webhookd.process.turns import Turns
from webhookd.queue.message import Body
from webhookd.store.database import Connection, Database
from webhookd.store.events import Claimed, EventStore
from webhookd.store.failures import gateway

_BOOKKEEPING = 10.0  # seconds, for each step after the handlers
_KILLS = "worker_ended"


class Step(NamedTuple):
    """The outcome of an event in a transaction of its own."""

    claimed: Claimed | None  # None if there is no such event
    outcome: Outcome
    death: tuple[GiveUp, int] | None = None  # why the event died in this transaction, and when


class Attempts:
    """Makes attempts, each in a transaction of its own, so that no event's handlers can harm a neighbour.

    `turns` are for the transactions in which the worker runs handlers. `most_begun`: attempts that began and did not end, after
    which an event that may kill its process or PostgreSQL is given up.
    """

    def __init__(
        self,
        database: Database,
        store: EventStore,
        runner: HandlerRunner,
        turns: Turns,
        *,
        most_begun: int,
        metrics: Metrics,
    ) -> None:
        self._database = database
        self._store = store
        self._runner = runner
        self._turns = turns
        self._most_begun = most_begun
        self._metrics = metrics
        self._owed: deque[Claimed] = deque()  # whose attempt has ended and is still counted

    async def make(self, body: Body, *, wait: bool, suspect: bool = False, alone: bool = False) -> Step:
        """Makes an attempt at the event of `body`; the outcome says whether the event needed one.

        `wait`: for a moment, for a lock that another transaction has. `suspect`: the event may kill its process or PostgreSQL,
        so that the attempt is counted before it begins. `alone`: while no other attempt is made in this process.
        Raises AttemptFailedError after a rollback, BusyError if another worker has the event, UnavailableError.
        """
        with gateway():
            async with self._turns.take(alone=alone), self._database.acquire("work", reset=True) as connection:
                transaction = connection.transaction()
                await transaction.start()
                ended = False
                counted: Claimed | None = None
                try:
                    claimed = await self._store.claim(connection, body.event_id, wait=wait)
                    if claimed is None:
                        return Step(None, Outcome.UNKNOWN)
                    if (outcome := standing(claimed, body.attempts)) is not None:
                        return Step(claimed, outcome)
                    if suspect:
                        counted = claimed  # perhaps, even if the answer is lost
                        begun = await self._store.begin_attempt(claimed)
                        if begun > self._most_begun:
                            step = await self._bury(connection, transaction, claimed, begun - 1)
                            ended = True
                            return step
                    await self._run(connection, transaction, claimed)
                    ended = True
                    return Step(claimed, Outcome.PROCESSED)
                except AttemptFailedError:
                    if _is_lost(connection):
                        # The handlers may have ended PostgreSQL. If they did, the failure cannot be recorded, so the count
                        # stays. If they did not, the record of the failure makes the count void.
                        counted = None
                    raise
                finally:
                    if counted is not None and not ended:  # before the row's lock falls, so that nobody reads a count too high
                        await shielded(self._take_back(counted), _BOOKKEEPING)
                    if not ended and not _is_lost(connection):
                        await shielded(_roll_back(transaction), _BOOKKEEPING)

    async def _take_back(self, counted: Claimed) -> None:
        try:
            await self._store.take_back_attempt(counted)
        except (UnavailableError, asyncio.CancelledError) as error:
            self._owed.append(counted)
            if isinstance(error, asyncio.CancelledError):  # its time is over: PostgreSQL does not answer
                raise

    async def take_back_what_is_owed(self) -> None:
        """Takes back the counts of attempts that ended while PostgreSQL was away. Raises UnavailableError while it still is."""
        while self._owed:
            await self._store.take_back_attempt(self._owed[0])
            self._owed.popleft()

    async def _run(self, connection: Connection, transaction: Transaction, claimed: Claimed) -> None:
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


async def _roll_back(transaction: Transaction) -> None:
    # A commit that failed has ended the transaction already; the pool resets the connection in any case.
    with contextlib.suppress(asyncpg.InterfaceError):
        await transaction.rollback()


def _is_lost(connection: Connection) -> bool:
    try:
        return connection.is_closed()
    except asyncpg.InterfaceError:  # closed, and therefore back with its pool, which no longer lets it be asked
        return True
