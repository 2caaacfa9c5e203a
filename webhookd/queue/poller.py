"""The poller: receives no more messages than workers can start, and hands each one to a worker's task."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable

from webhookd.errors import UnavailableError
from webhookd.lifecycle import Loop, Watch
from webhookd.logs import logger
from webhookd.queue.contract import Queue
from webhookd.queue.message import Message

_CANCELLED = 5.0  # seconds that a cancelled worker has to roll back
_GATHER = 0.02  # seconds that a poll waits for more permits where there are few
# Seconds from an empty receive to the next one that is as quick: with WEBHOOKD_SQS_WAIT=0, and by a server that does not wait.
_PAUSE = 1.0


class Poller:
    """`pollers` long polls over `concurrency` permits; `work` is called once for each message.

    A permit is taken before the poll and held while the message is worked on. A receive in flight is never cancelled:
    The queue would have handed out messages that nobody holds.
    """

    def __init__(
        self,
        queue: Queue,
        work: Callable[[Message], Awaitable[None]],
        *,
        able: Callable[[], bool],
        concurrency: int,
        pollers: int,
        wait: int,
        visibility_timeout: int,
        watch: Watch,
    ) -> None:
        self._queue = queue
        self._work = work
        self._able = able  # whether workers can work at all: without PostgreSQL, messages are better left in the queue
        self._wait = wait
        self._visibility_timeout = visibility_timeout
        self._permits = asyncio.Semaphore(concurrency)
        self._fill = min(queue.limits.batch, concurrency // pollers)
        self._loops = [Loop(f"poller {n}", self._poll, watch, every=_PAUSE) for n in range(pollers)]
        self._tasks: set[asyncio.Task[None]] = set()
        self._stopping = False

    async def start(self) -> None:
        """Starts polling."""
        self._stopping = False
        for loop in self._loops:
            await loop.start()

    async def stop(self, grace: float = 0.0) -> None:
        """Stops polling, lets the messages in hand be worked on for `grace` seconds, then cancels the rest."""
        self._stopping = True
        returned = asyncio.gather(*(loop.stop() for loop in self._loops))
        if self._tasks and grace > 0:
            await asyncio.wait(self._tasks, timeout=grace)
        # Cancelled workers give their permits back, so pollers that wait for one return as well.
        await self._cancel()
        await returned
        await self._cancel()

    async def _cancel(self) -> None:
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            _, left = await asyncio.wait(self._tasks, timeout=_CANCELLED)
            if left:  # a handler that swallows its cancellation; its message comes back by its visibility timeout
                logger.error("workers did not end when they were cancelled", count=len(left))
                for _ in left:  # so that no poller waits for their permits
                    self._permits.release()

    async def _poll(self) -> bool:
        if not self._able():
            raise UnavailableError("postgresql", "workers cannot work without it")
        await self._permits.acquire()
        permits = 1
        try:
            while permits < self._fill and not self._permits.locked():
                await self._permits.acquire()
                permits += 1
            if permits < self._fill / 2:
                # Under load permits come back one by one; waiting a moment for more makes a call worth its price.
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(_GATHER):
                        while permits < self._fill:
                            await self._permits.acquire()
                            permits += 1
            if self._stopping:
                return False
            began = time.monotonic()
            messages = await self._keep(await self._receive(permits))
            for message in messages:
                task = asyncio.create_task(self._run(message), name="worker")
                self._tasks.add(task)
                task.add_done_callback(self._tasks.discard)
                permits -= 1  # the task's now
        finally:
            for _ in range(permits):
                self._permits.release()
        return bool(messages) or time.monotonic() - began >= _PAUSE

    async def _receive(self, limit: int) -> list[Message]:
        return await self._queue.receive(limit, wait=self._wait, visibility=self._visibility_timeout)

    async def _keep(self, messages: list[Message]) -> list[Message]:
        """The messages to start on: none when a shutdown began during the receive, and then they are visible again."""
        if not self._stopping or not messages:
            return messages
        try:
            await self._queue.hide([(message, 0) for message in messages])
        except UnavailableError:
            logger.debug("messages come back by their visibility timeout", count=len(messages))
        return []

    async def _run(self, message: Message) -> None:
        try:
            await self._work(message)
        except Exception:  # noqa: BLE001  the message comes back by its visibility timeout
            logger.exception("a worker failed")
        finally:
            self._permits.release()
