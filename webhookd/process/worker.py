"""The worker: works on each message's events until each has an outcome, then deletes the message or gives it back.

Every event is folded into the timeline first, in a transaction that many events share (shared_folds.py). An event with handlers
then has a transaction of its own (attempt.py), so that no handler can harm another event.
"""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Callable, Sequence
from typing import TypeVar

from webhookd.authorizenet.notification import EVENT_TYPES, label
from webhookd.errors import UnavailableError
from webhookd.process.alone import Alone, interrupted
from webhookd.process.fold import Folds
from webhookd.process.result import TRUSTED, Left, Outcome, Result
from webhookd.process.shared_folds import Shared, SharedFolds
from webhookd.queue.acks import Acks
from webhookd.queue.leases import Leases
from webhookd.queue.message import MOST_EVENTS, EventReference, Message
from webhookd.runtime.loops import shielded
from webhookd.telemetry.logs import Seldom, logger
from webhookd.telemetry.metrics import Metrics

_BOOKKEEPING = 10.0  # seconds

R = TypeVar("R")


class Worker:
    """The worker of messages. Any number of `work` calls can run side by side."""

    def __init__(
        self,
        leases: Leases,
        acks: Acks,
        folds: Folds,
        shared: SharedFolds,
        alone: Alone,
        *,
        metrics: Metrics,
    ) -> None:
        self._leases = leases
        self._acks = acks
        self._folds = folds
        self._shared = shared
        self._alone = alone
        # Cached by label, not by event type: whoever writes to the queue chooses the types in messages.
        self._processed = functools.cache(metrics.processed.labels)
        # Series for alerts must exist before the first event: if a series begins at 1, Prometheus sees no increase.
        for event_type in (*EVENT_TYPES, "other"):
            for outcome in (Outcome.UNKNOWN, Outcome.INTERRUPTED, Outcome.PROCESSED):
                self._processed(event_type, outcome)
            metrics.retries.labels(event_type)
        self._tell_unknown = Seldom()

    @property
    def heaviest(self) -> int:
        """Returns the most permits that a message can need."""
        return 1 if self._folds.ends_all else MOST_EVENTS

    def weigh(self, message: Message) -> int:
        """Returns how many permits a message needs: one for each event with handlers, since these take time; at least one."""
        return max(1, sum(map(self._has_handlers, message.references)))

    def _has_handlers(self, reference: EventReference) -> bool:
        return not self._folds.ends(reference.event_type)

    async def work(self, message: Message, give: Callable[[int], None]) -> None:
        """Works on the events of `message`. `give`: called to give back the permits of events that have their outcome.

        Whatever happens, the message is deleted only after each of its events has ended, will be sent again, or, beside such
        events, is not in the database.
        """
        self._leases.hold(message)
        try:
            await self._settle(message, await self._results(message, give))
        except asyncio.CancelledError:
            # The daemon stops. The transactions were rolled back, so another worker may have the events at once.
            await shielded(self._delay(message, 0), _BOOKKEEPING)
            raise
        finally:
            await self._leases.release(message)

    async def _settle(self, message: Message, results: Sequence[Result]) -> None:
        if all(result.outcome is Outcome.UNKNOWN for result in results):
            return  # the message may be another installation's; if not, the redrive policy removes it
        again = [result.again for result in results if result.again is not None]
        if again:
            await self._delay(message, max(again))
        else:
            await self._leases.release(message)
            self._acks.delete(message)

    async def _delay(self, message: Message, seconds: float) -> None:
        await self._leases.release(message)
        await self._acks.delay(message, seconds)

    async def _results(self, message: Message, give: Callable[[int], None]) -> Sequence[Result]:
        references = message.references
        if not references:
            if self._tell_unknown():
                logger.warning("a message in the queue is not one of webhookd's; it is left to the redrive policy")
            self._processed("other", Outcome.UNKNOWN).inc()
            return [Result(Outcome.UNKNOWN)]
        shared: list[Shared]
        try:
            if references[0].dead is not None:  # a dead-letter copy is never a part of a bundle
                shared = [await self._alone.revive(references[0])]
            elif message.receive_count > TRUSTED:  # its fold may kill the process, so do not fold it together with others
                shared = [Left.ALL] * len(references)
            else:
                shared = await self._shared.submit(references)
        except UnavailableError as error:
            shared = [interrupted(message, error)] * len(references)
        done: list[Result] = []
        left: list[tuple[EventReference, Left]] = []
        for reference, result in zip(references, shared, strict=True):
            if isinstance(result, Left):
                left.append((reference, result))
                continue
            done.append(result)
            self._count(reference, result.outcome)
            if self._has_handlers(reference):
                give(1)
        if len(left) == 1:
            return [*done, await self._finish(message, *left[0], give)]
        results = await asyncio.gather(*(self._finish(message, *one, give) for one in left), return_exceptions=True)
        return [*done, *map(_or_raise, results)]

    async def _finish(self, message: Message, reference: EventReference, left: Left, give: Callable[[int], None]) -> Result:
        """Works on one event alone, and counts its outcome."""
        result = Result(Outcome.INTERRUPTED)
        try:
            result = await self._alone.work(message, reference, left)
        finally:
            self._count(reference, result.outcome)
            if self._has_handlers(reference):
                give(1)
        return result

    def _count(self, reference: EventReference, outcome: Outcome) -> None:
        if outcome is Outcome.UNKNOWN and self._tell_unknown():
            logger.warning("a message names an event that is not in the database", event_id=str(reference.event_id))
        self._processed(label(reference.event_type), outcome).inc()


def _or_raise(result: R | BaseException) -> R:
    if isinstance(result, BaseException):
        raise result
    return result
