"""Work on a single event: its claim in Redis, its fold, its handlers, its record; and redrives by dead-letter copies."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from webhookd.errors import BusyError, Permanent
from webhookd.process.attempt import Attempts, Step
from webhookd.process.failure import AttemptFailedError, attempting
from webhookd.process.fold import Folds
from webhookd.process.records import Records
from webhookd.process.result import BUSY, TRUSTED, Left, Outcome, Result, is_suspect, standing
from webhookd.queue.message import EventReference, Message
from webhookd.queue.proof import is_proven
from webhookd.runtime.failpoints import Failpoint, reach
from webhookd.runtime.loops import shielded
from webhookd.store.database import Database
from webhookd.store.event_store import Claimed, EventStore
from webhookd.store.failures import gateway
from webhookd.store.idempotency import IdempotencyKeys
from webhookd.telemetry.logs import Seldom, logger
from webhookd.telemetry.metrics import Metrics

if TYPE_CHECKING:
    from webhookd.telemetry.tracing import Tracing

_LONGEST_BUSY = 30.0
_BOOKKEEPING = 10.0  # seconds


class Alone:
    """The part of the worker that works on single events. `folding`: the semaphore of its folds."""

    def __init__(
        self,
        database: Database,
        store: EventStore,
        idempotency: IdempotencyKeys,
        folds: Folds,
        attempts: Attempts,
        records: Records,
        folding: asyncio.Semaphore,
        *,
        metrics: Metrics,
        tracing: Tracing | None = None,
    ) -> None:
        self._database = database
        self._store = store
        self._idempotency = idempotency
        self._folds = folds
        self._attempts = attempts
        self._records = records
        self._folding = folding
        self._metrics = metrics
        self._tracing = tracing
        self._tell_unproven = Seldom()

    async def work(self, message: Message, reference: EventReference, left: Left) -> Result:
        """Does the steps that are `left` for one event of `message`. Raises UnavailableError if PostgreSQL is unavailable."""
        busy = Result(Outcome.BUSY, min(BUSY * message.receive_count, _LONGEST_BUSY))
        token, [ours] = await self._idempotency.acquire([reference.event_id])
        if not ours and message.receive_count == 1:
            return busy
        # An earlier receiver no longer holds this message, so the claim may belong to a worker that died. Then the row lock
        # alone decides whether another worker has the event, and nobody waits until the claim expires.
        reach(Failpoint.WORKER_AFTER_CLAIM)
        try:
            step = await self._steps(message, reference, left, wait=ours)
        except BusyError:
            return busy
        except AttemptFailedError as failed:
            if self._tracing is not None:
                self._tracing.attempted(failed.claimed.event.attempt, failed.failure.kind, failed.failure.error)
            return await shielded(self._records.record(failed.claimed, failed.failure), _BOOKKEEPING)
        finally:
            if ours:
                self._idempotency.release([reference.event_id], token)
        claimed, outcome, death = step
        if claimed is not None:
            if self._tracing is not None:
                self._tracing.attempted(claimed.event.attempt)
            if death is not None:
                self._records.died(claimed, *death)
        return Result(outcome)

    async def _steps(self, message: Message, reference: EventReference, left: Left, *, wait: bool) -> Step:
        """Folds first, then makes an attempt: the provider's report must reach the timeline even if handlers fail."""
        suspect = message.receive_count > TRUSTED or left is Left.SUSPECT
        if left is Left.ALL:
            folded = await self._fold(reference)
            if isinstance(folded, Step):
                return folded
            suspect |= is_suspect(folded)
        if not suspect:
            return await self._attempts.make(reference, wait=wait)
        # An event in hand when a process was killed is tried alone from then on, so the next kill shows which event caused it.
        # Beside others, a harmless event would be counted at each kill that they cause, and die of these counts.
        alone = await self._store.attempts_begun(reference.event_id) > 0
        return await self._attempts.make(reference, wait=wait, suspect=True, alone=alone)

    async def _fold(self, reference: EventReference) -> Step | Claimed:
        """Folds the event in a transaction of its own; returns the event if its handlers must run next.

        If PostgreSQL refuses the fold, the attempt has failed: handlers rely on the timeline's row.
        """
        with gateway():
            async with self._folding, self._database.acquire("fold") as connection:
                claimed = next(iter(await self._store.read(connection, [reference.event_id])), None)
                if claimed is None:
                    return Step(None, Outcome.UNKNOWN)
                if (outcome := standing(claimed, reference.attempts)) is not None:
                    return Step(claimed, outcome)
                with attempting(claimed):
                    if not claimed.has_body:
                        raise Permanent("its body is gone from the database")
                    # Do not wait for locked rows: an event that shared a transaction has waited for these rows there.
                    ended = await self._folds.fold(connection, [claimed], waits=False)
        if not self._folds.ends(claimed.event.event_type):
            return claimed
        return Step(claimed, Outcome.PROCESSED if ended else Outcome.DUPLICATE)

    async def revive(self, reference: EventReference) -> Result:
        """Redrives a dead event by its dead-letter copy, if webhookd wrote the copy for the event's present death."""
        if reference.died is None or not is_proven(reference, await self._store.secret()):
            self._metrics.dead_letters_moved.labels("unproven").inc()
            if self._tell_unproven():
                logger.warning(
                    "a dead-letter copy that webhookd did not write revives no event; use `webhookd dead-letters redrive`",
                    event_id=str(reference.event_id),
                )
            return Result(Outcome.STALE)
        if not await self._store.revive(
            reference.event_id,
            died=reference.died,
            actor="queue redrive",  # nobody knows which person moved the copy
            reason="its dead-letter copy was moved back to the queue",
        ):
            return Result(Outcome.STALE)
        self._metrics.dead_letters_moved.labels("redriven").inc()
        return Result(Outcome.REDRIVEN)
