"""Work on a single event: its claim in Redis, its fold, its handlers, its record; and redrives by dead-letter copies."""

from __future__ import annotations

from typing import TYPE_CHECKING

from webhookd.errors import BusyError, UnavailableError
from webhookd.process.attempt import Attempts, Step
from webhookd.process.failure import AttemptFailedError
from webhookd.process.fold import Folds
from webhookd.process.records import Records
from webhookd.process.result import BUSY, TRUSTED, Left, Outcome, Result, is_suspect
from webhookd.process.retry import retry_delay
from webhookd.queue.message import EventReference, Message
from webhookd.runtime.failpoints import Failpoint, reach
from webhookd.runtime.loops import shielded
from webhookd.store.event_store import EventStore
from webhookd.store.idempotency import IdempotencyKeys
from webhookd.telemetry.logs import logger

if TYPE_CHECKING:
    from webhookd.telemetry.tracing import Tracing

_LONGEST_BUSY = 30.0
_BOOKKEEPING = 10.0  # seconds
# Seconds until a message is visible again if PostgreSQL was away: after the first receive (then doubling), and at most.
_INTERRUPTED = 2.0
_LONGEST_INTERRUPTED = 60.0


class Alone:
    """The part of the worker that works on single events."""

    def __init__(
        self,
        store: EventStore,
        idempotency: IdempotencyKeys,
        folds: Folds,
        attempts: Attempts,
        records: Records,
        *,
        tracing: Tracing | None = None,
    ) -> None:
        self._store = store
        self._idempotency = idempotency
        self._folds = folds
        self._attempts = attempts
        self._records = records
        self._tracing = tracing

    async def work(self, message: Message, reference: EventReference, left: Left) -> Result:
        """Does the steps that are `left` for one event of `message`. If PostgreSQL is unavailable, the event is interrupted."""
        if self._tracing is None:
            return await self._work(message, reference, left)
        result = Result(Outcome.INTERRUPTED)
        with self._tracing.process(
            reference.traceparent, message.id, reference.event_id, reference.account, reference.event_type
        ):
            try:
                result = await self._work(message, reference, left)
            finally:
                self._tracing.delivered(result.outcome)
        return result

    async def _work(self, message: Message, reference: EventReference, left: Left) -> Result:
        try:
            return await self._claimed(message, reference, left)
        except UnavailableError as error:
            return interrupted(message, error)

    async def _claimed(self, message: Message, reference: EventReference, left: Left) -> Result:
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
                waits = failed.failure.waits_for is not None
                told = () if waits else (failed.failure.kind, failed.failure.error)
                self._tracing.attempted(failed.claimed.event.attempt, *told)
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
            folded = await self._folds.fold_alone(reference)
            if isinstance(folded, Step):
                return folded
            suspect |= is_suspect(folded)
        if not suspect:
            return await self._attempts.make(reference, wait=wait)
        # An event in hand when a process was killed is tried alone from then on, so the next kill shows which event caused it.
        # Beside others, a harmless event would be counted at each kill that they cause, and die of these counts.
        alone = await self._store.attempts_begun(reference.event_id) > 0
        return await self._attempts.make(reference, wait=wait, suspect=True, alone=alone)

    async def revive(self, reference: EventReference) -> Result:
        """Redrives a dead event by its dead-letter copy, if webhookd wrote the copy for the event's present death."""
        return Result(Outcome.REDRIVEN if await self._records.revive(reference) else Outcome.STALE)


def interrupted(message: Message, error: UnavailableError) -> Result:
    """Returns the result for an event of `message` that an absent dependency interrupted."""
    ids = [str(reference.event_id) for reference in message.references]
    logger.warning("an event was interrupted", event_id=ids[0], events=len(ids), dependency=error.dependency)
    # The delay grows with each receive: SQS moves a message that is put off too often to the dead letters, tried or not.
    return Result(Outcome.INTERRUPTED, retry_delay(message.receive_count, _INTERRUPTED, _LONGEST_INTERRUPTED))
