"""The lease wheel: keeps every message in hand hidden, by extensions in batches at half the visibility timeout."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from webhookd.errors import UnavailableError
from webhookd.queue.contract import Failure, Queue
from webhookd.queue.message import Message
from webhookd.runtime.failpoints import Failpoint, reach
from webhookd.runtime.loops import Loop, Watch
from webhookd.telemetry.logs import logger
from webhookd.telemetry.metrics import Metrics


class Leases:
    """The leases of held messages: hides each for `visibility_timeout` seconds again and again, until it is released."""

    def __init__(self, queue: Queue, *, visibility_timeout: int, metrics: Metrics, watch: Watch) -> None:
        self._queue = queue
        self._timeout = visibility_timeout
        self._extended = metrics.lease_extensions.labels("extended")
        self._failed = metrics.lease_extensions.labels("failed")
        self._in_flight = metrics.in_flight
        # Message → when its lease must be extended, by the loop's clock.
        self._held: dict[Message, float] = {}
        self._extending: dict[Message, asyncio.Future[None]] = {}
        self._wheel = Loop("lease wheel", self._turn, watch, every=min(1.0, visibility_timeout / 10))

    def __len__(self) -> int:
        return len(self._held)

    async def start(self) -> None:
        """Starts the wheel."""
        await self._wheel.start()

    async def stop(self) -> None:
        """Stops extending; messages that are still held become visible when their timeout ends."""
        await self._wheel.stop()

    def hold(self, message: Message) -> None:
        """Keeps `message` hidden from now on."""
        self._held[message] = message.received + self._timeout / 2
        self._in_flight.set(len(self._held))

    async def release(self, message: Message) -> None:
        """Stops extending `message`; when this returns, no extension of it is under way.

        Waits because an extension that arrives after the message was given back would hide the message again.
        """
        self._held.pop(message, None)
        self._in_flight.set(len(self._held))
        if (extension := self._extending.get(message)) is not None:
            await asyncio.wait([extension])

    async def _turn(self) -> None:
        now = asyncio.get_running_loop().time()
        due = [message for message, when in self._held.items() if when <= now]
        # Batches run side by side: after a burst, many leases are due at once, and a late extension is a second delivery.
        batch = self._queue.limits.batch
        await asyncio.gather(*(self._extend(due[i : i + batch]) for i in range(0, len(due), batch)))

    async def _extend(self, messages: list[Message]) -> None:
        # Skip messages released since the turn began: `release` did not wait for this extension, which would hide them again.
        messages = [message for message in messages if message in self._held]
        if not messages:
            return
        loop = asyncio.get_running_loop()
        done: asyncio.Future[None] = loop.create_future()
        self._extending.update(dict.fromkeys(messages, done))
        began = loop.time()
        results: Sequence[Failure | None]
        try:
            results = await self._queue.extend(messages, self._timeout)
            reach(Failpoint.LEASES_AFTER_EXTENSION)
        except UnavailableError as error:
            results = [error] * len(messages)
        finally:
            done.set_result(None)
            for message in messages:
                self._extending.pop(message, None)
        for message, failure in zip(messages, results, strict=True):
            if message not in self._held:
                continue
            # If another try may succeed, it is made at the wheel's next turn, since half of the lease is over.
            self._held[message] = began if isinstance(failure, UnavailableError) else began + self._timeout / 2
            if failure is None:
                self._extended.inc()
            else:
                self._failed.inc()
                logger.debug("a lease was not extended", error=str(failure))
