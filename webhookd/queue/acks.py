"""Acknowledgements, in batches: deletes of messages whose events ended, and delays until other messages are visible again."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from webhookd.errors import MessageGoneError, OverloadedError, UnavailableError, WebhookdError
from webhookd.queue.contract import Failure, Queue
from webhookd.queue.message import Message
from webhookd.runtime.batcher import Batcher
from webhookd.runtime.failpoints import Failpoint, reach
from webhookd.runtime.loops import Watch
from webhookd.telemetry.logs import logger
from webhookd.telemetry.metrics import Metrics

_TRIES = 3
_LINGER = 0.1  # seconds: nobody waits for a delete, and a call costs the same for one message and for ten


class Acks:
    """The deletes and delays of messages. A failed delete is tried again, then left: the message returns as a duplicate."""

    def __init__(self, queue: Queue, *, metrics: Metrics, watch: Watch) -> None:
        self._queue = queue
        self._deleted = metrics.acks.labels("deleted")
        self._failed = metrics.acks.labels("failed")
        self._deletes: Batcher[Message, None] = Batcher(
            "deletes", self._delete, watch, max_batch=queue.limits.batch, max_pending=100_000, workers=8, linger=_LINGER
        )
        self._delays: Batcher[tuple[Message, int], None] = Batcher(
            "visibility", self._change_visibility, watch, max_batch=queue.limits.batch, max_pending=100_000, workers=2
        )

    async def start(self) -> None:
        """Starts deleting and delaying."""
        await self._deletes.start()
        await self._delays.start()

    async def stop(self) -> None:
        """Returns when everything pending was deleted or delayed, or failed."""
        await self._delays.stop()
        await self._deletes.stop()

    def delete(self, message: Message) -> None:
        """Deletes `message` soon. Call this only when the outcome of each of its events is *committed*."""
        try:
            self._deletes.post(message)
        except OverloadedError:
            self._failed.inc()

    async def delay(self, message: Message, seconds: float) -> None:
        """Makes `message` visible again in `seconds` (rounded up). Release the lease of `message` before."""
        try:
            await self._delays.submit((message, -int(-seconds // 1)))
        except WebhookdError as error:
            # The message is visible again when its visibility timeout ends.
            logger.debug("a delay was not set", error=str(error))

    async def _delete(self, messages: list[Message]) -> list[BaseException | None]:
        left = messages
        for attempt in range(_TRIES):
            reach(Failpoint.ACKS_BEFORE_DELETE)
            try:
                results = await self._queue.delete(left)
                reach(Failpoint.ACKS_AFTER_DELETE)
            except UnavailableError as error:
                results = [error] * len(left)
            failed = [message for message, result in zip(left, results, strict=True) if not _is_done(result)]
            self._deleted.inc(len(left) - len(failed))
            left = failed
            if not left:
                break
            if attempt < _TRIES - 1:
                await asyncio.sleep(0.1 * 2**attempt)
        if left:
            self._failed.inc(len(left))
        return [None] * len(messages)

    async def _change_visibility(self, items: list[tuple[Message, int]]) -> Sequence[Failure | None]:
        return await self._queue.change_visibility(items)


def _is_done(result: Failure | None) -> bool:
    return result is None or isinstance(result, MessageGoneError)  # a message that is gone needs no delete
