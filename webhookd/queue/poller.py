"""The poller: receives no more events than workers can start, and hands each message to a worker's task."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable
from typing import Protocol, cast

from webhookd.errors import UnavailableError
from webhookd.queue.contract import Queue
from webhookd.queue.message import Message
from webhookd.runtime.loops import Loop, Watch
from webhookd.settings import Settings
from webhookd.telemetry.logs import logger

_CANCELLED = 5.0  # seconds that a cancelled worker has to roll back
_GATHER = 0.02  # seconds that a poll waits for more permits if few are free
# Seconds between receives that are empty at once: with WEBHOOKD_SQS_WAIT=0, or from a server that does not wait.
_PAUSE = 1.0
_REPORTED = 10.0  # seconds between two reports


class Worker(Protocol):
    """The methods of a worker that the poller calls."""

    @property
    def heaviest(self) -> int:
        """Returns the most permits that a message can need."""

    def weigh(self, message: Message) -> int:
        """Returns how many permits `message` needs."""

    async def work(self, message: Message, give: Callable[[int], None]) -> None:
        """Works on `message`. `give`: called to give back a number of the message's permits."""


class Permits:
    """The free permits: how many more events may be worked on.

    A message can need more permits than were expected: then the count falls below zero.
    """

    def __init__(self, count: int) -> None:
        self.free = count
        self._given = asyncio.Event()

    def take(self, count: int) -> None:
        """Takes `count` permits, even if fewer are free."""
        self.free -= count

    def give(self, count: int) -> None:
        """Gives `count` permits back."""
        self.free += count
        self._given.set()

    async def wait(self, count: int) -> None:
        """Returns when `count` permits are free, and takes none."""
        while self.free < count:
            self._given.clear()
            await self._given.wait()


class Poller:
    """The long polls of a process. They share permits for WEBHOOKD_CONCURRENCY events, and give each message to the worker.

    A poll takes permits before it begins, as many as its messages will probably need: a replica must not take a whole queue
    that other replicas could work on. A receive in flight is never cancelled: the queue would have handed out messages that
    nobody holds.

    `able`: returns whether workers can work. Without PostgreSQL, messages are better left in the queue.
    `report`: called with the concurrency, and the age (seconds) of a poll that found the queue empty, or None.
    """

    def __init__(
        self,
        settings: Settings,
        queue: Queue,
        worker: Worker,
        *,
        able: Callable[[], bool],
        report: Callable[[int, float | None], Awaitable[None]],
        watch: Watch,
    ) -> None:
        self._queue = queue
        self._worker = worker
        self._able = able
        self._report = report
        self._reported = -_REPORTED
        self._wait = settings.sqs_wait
        self._visibility_timeout = settings.visibility_timeout
        self._concurrency = settings.concurrency
        self._permits = Permits(settings.concurrency)
        self._weight = worker.heaviest  # permits of the heaviest recent message
        self._share = max(1, settings.concurrency // settings.pollers)
        self._loops = [Loop(f"poller {n}", self._poll, watch, every=_PAUSE) for n in range(settings.pollers)]
        self._tasks: dict[asyncio.Task[None], int] = {}  # task → the permits that it holds
        self._stopping = False

    async def start(self) -> None:
        """Starts polling."""
        self._stopping = False
        with contextlib.suppress(UnavailableError):  # the sweepers use this report
            await self._report(self._concurrency, None)
        for loop in self._loops:
            await loop.start()

    async def stop(self, grace: float = 0.0) -> None:
        """Stops polling, lets the messages in hand be worked on for `grace` seconds, then cancels the rest."""
        self._stopping = True
        returned = asyncio.gather(*(loop.stop() for loop in self._loops))
        if self._tasks and grace > 0:
            await asyncio.wait(self._tasks, timeout=grace)
        # Cancelled workers give their permits back, so pollers that wait for a permit return as well.
        await self._cancel()
        await returned
        await self._cancel()

    async def _cancel(self) -> None:
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            _, left = await asyncio.wait(self._tasks, timeout=_CANCELLED)
            if left:  # a handler swallows its cancellation; the message comes back at its visibility timeout
                logger.error("workers did not end when they were cancelled", count=len(left))
                self._permits.give(sum(self._tasks[task] for task in left))  # else a poller could wait for these permits

    async def _poll(self) -> bool:
        if not self._able():
            raise UnavailableError("postgresql", "workers cannot work without PostgreSQL")
        permits = self._permits
        await permits.wait(1)
        fill = min(self._queue.limits.batch * self._weight, self._share)
        if permits.free < fill / 2:
            # Under load, permits become free one by one; a short wait for more makes a call worth its price.
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_GATHER):
                    await permits.wait(fill)
        if self._stopping:
            return False
        room = min(permits.free, self._share)
        limit = max(1, min(self._queue.limits.batch, room // self._weight))
        taken = min(limit * self._weight, room)
        permits.take(taken)
        began = time.monotonic()
        try:
            messages = await self._keep(await self._receive(limit))
            for message in messages:
                self._start(message)
        finally:
            permits.give(taken)
        if messages:
            # The next messages are probably like these messages.
            self._weight = max(1, self._weight // 2, *map(self._worker.weigh, messages))
        else:
            self._weight = self._worker.heaviest
        await self._tell(began, empty=not messages)
        return bool(messages) or time.monotonic() - began >= _PAUSE

    def _start(self, message: Message) -> None:
        weight = self._worker.weigh(message)
        self._permits.take(weight)
        task = asyncio.create_task(self._run(message), name="worker")
        self._tasks[task] = weight
        task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[None]) -> None:
        self._permits.give(self._tasks.pop(task))

    async def _run(self, message: Message) -> None:
        task = cast("asyncio.Task[None]", asyncio.current_task())

        def give(permits: int) -> None:
            self._tasks[task] -= permits
            self._permits.give(permits)

        try:
            await self._worker.work(message, give)
        except Exception:  # noqa: BLE001  the message comes back by its visibility timeout
            logger.exception("a worker failed")

    async def _receive(self, limit: int) -> list[Message]:
        return await self._queue.receive(limit, wait=self._wait, visibility=self._visibility_timeout)

    async def _keep(self, messages: list[Message]) -> list[Message]:
        """Returns the messages to start. If a shutdown began during the receive, makes them visible again and returns none."""
        if not self._stopping or not messages:
            return messages
        try:
            await self._queue.change_visibility([(message, 0) for message in messages])
        except UnavailableError:
            logger.debug("messages come back by their visibility timeout", count=len(messages))
        return []

    async def _tell(self, began: float, *, empty: bool) -> None:
        """Reports that this process works, and whether the queue was empty: messages sent before were received, or are lost."""
        if self._stopping or began - self._reported < _REPORTED:
            return
        # Without a wait, an empty answer proves nothing, since SQS then asks only some of its servers.
        if empty and self._wait == 0:
            empty = (await self._queue.depth()).visible == 0
        self._reported = began
        await self._report(self._concurrency, time.monotonic() - began if empty else None)
