"""The records of failed attempts and of redrives: each decision is written to PostgreSQL, the log and the metrics."""

from __future__ import annotations

from dataclasses import replace
from typing import Protocol

from webhookd.authorizenet.notification import label
from webhookd.process.decision import GiveUp, TryAgain, decide
from webhookd.process.details import AGAIN, wait_or_give_up
from webhookd.process.failure import Failure
from webhookd.process.result import Outcome, Result
from webhookd.process.retry import Policy
from webhookd.queue.message import EventReference
from webhookd.queue.proof import is_proven
from webhookd.runtime.failpoints import Failpoint, reach
from webhookd.store.details import DetailsStore
from webhookd.store.event_store import Claimed, EventStore, storable
from webhookd.telemetry.logs import Seldom, logger
from webhookd.telemetry.metrics import Metrics


class Copies(Protocol):
    """The sender of dead-letter copies."""

    def copy(self, reference: EventReference) -> None:
        """Sends a copy of a dead event, now or later. Raises nothing."""


class Records:
    """The part of the worker that records failed attempts and redrives.

    `policy`: for handlers that have no policy of their own.
    """

    def __init__(
        self, store: EventStore, details: DetailsStore, dead_letters: Copies, policy: Policy, *, metrics: Metrics
    ) -> None:
        self._store = store
        self._details = details
        self._dead_letters = dead_letters
        self._policy = policy
        self._metrics = metrics
        self._tell_unproven = Seldom()

    async def record(self, claimed: Claimed, failure: Failure) -> Result:
        """Decides what follows `failure`, records the decision, and returns its result."""
        if failure.waits_for is not None:
            return await self._wait(claimed, failure, failure.waits_for)
        decision = decide(failure, claimed.event.attempt, self._policy)
        if isinstance(decision, GiveUp):
            return await self._give_up(claimed, failure, decision)
        return await self._retry(claimed, failure, decision)

    async def _wait(self, claimed: Claimed, failure: Failure, transaction_id: str) -> Result:
        event = claimed.event
        known = await self._details.look(claimed, transaction_id)
        decision = wait_or_give_up(event.account, transaction_id, known)
        if isinstance(decision, GiveUp):
            return await self._give_up(claimed, replace(failure, detail=decision.reason), decision, spent=0)
        first = known.waited is None
        if first:
            logger.info(
                "an event waits for the details of its transaction",
                event_id=str(event.id),
                event_type=event.event_type,
                transaction_id=transaction_id,
            )
        await self._details.wait(claimed, transaction_id, reason=decision, delay=AGAIN, first=first)
        return Result(Outcome.WAITING)

    async def _retry(self, claimed: Claimed, failure: Failure, decision: TryAgain) -> Result:
        event, delay = claimed.event, decision.delay
        logger.warning(
            "an attempt failed",
            event_id=str(event.id),
            event_type=event.event_type,
            attempt=event.attempt,
            handler=failure.handler,
            error=failure.error,
            retry_in=round(delay, 3),
        )
        if await self._store.mark_retrying(claimed, reason=f"{failure.detail} (next try in {delay:.2f} s)", delay=delay):
            self._metrics.retries.labels(label(event.event_type)).inc()
        reach(Failpoint.WORKER_AFTER_RETRY)
        return Result(Outcome.RETRYING)

    async def _give_up(self, claimed: Claimed, failure: Failure, decision: GiveUp, *, spent: int = 1) -> Result:
        event = claimed.event
        logger.error(
            "an event is dead",
            event_id=str(event.id),
            event_type=event.event_type,
            attempt=event.attempt,
            reason=decision.code,
            handler=failure.handler,
            error=failure.error,
        )
        died = await self._store.mark_dead(claimed, reason=decision.reason, detail=failure.detail, spent=spent)
        if died is not None:
            self._metrics.attempts.observe(event.attempt)
            self.died(claimed, decision, died)
        return Result(Outcome.DEAD)

    def died(self, claimed: Claimed, decision: GiveUp, died: int) -> None:
        """Counts a death that PostgreSQL has recorded, and sends the event's copy to the dead-letter queue."""
        reach(Failpoint.WORKER_AFTER_DEATH)
        event = claimed.event
        self._metrics.dead.labels(event.account, decision.code).inc()
        self._dead_letters.copy(
            EventReference(event.id, event.account, event.event_type, storable(decision.reason), died, claimed.traceparent)
        )

    async def revive(self, reference: EventReference) -> bool:
        """Starts a dead event anew if `reference` is a copy that webhookd wrote for the event's present death."""
        if reference.died is None or not is_proven(reference, await self._store.secret()):
            self._metrics.dead_letters_moved.labels("unproven").inc()
            if self._tell_unproven():
                logger.warning(
                    "a dead-letter copy that webhookd did not write revives no event; use `webhookd dead-letters redrive`",
                    event_id=str(reference.event_id),
                )
            return False
        if not await self._store.revive(
            reference.event_id,
            died=reference.died,
            actor="queue redrive",  # nobody knows which person moved the copy
            reason="its dead-letter copy was moved back to the queue",
        ):
            return False
        self._metrics.dead_letters_moved.labels("redriven").inc()
        return True
