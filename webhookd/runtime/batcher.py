"""Groups items into batches: while one batch is being flushed, the next one gathers.

Under light load, an item is flushed alone and at once. Under heavy load, batches grow by themselves.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Generic, TypeVar

from webhookd.errors import OverloadedError, UnavailableError, WebhookdError
from webhookd.runtime.loops import Watch
from webhookd.telemetry.logs import logger

_FILL_SECONDS = 0.02  # several commits or calls of usual length, so that batches usually fill before this time ends

T = TypeVar("T")
R = TypeVar("R")


class Batcher(Generic[T, R]):
    """A queue of items. Concurrent tasks take items from the queue in batches, and call `flush` with each batch.

    flush: gets at most `max_batch` items and returns one result for each, in order. If a result is an exception, only that
    item's waiter gets the exception. If `flush` raises an exception, every waiter of the batch gets it.
    watch: the owner of the tasks.
    workers: number of tasks, and so of batches that are flushed at a time.
    max_pending: most items that may wait. A call that would add one more raises OverloadedError.
    fill: while another batch is being flushed, a batch of fewer than `fill` items waits for the end of that flush, because each
    batch has a fixed cost. The wait is some milliseconds at most, because the other batch may wait for somebody's lock.
    linger: seconds that a batch that is not full waits for more items, if calls of `flush` cost more than latency matters.
    heavy: number of items beside the first from which a batch waits the full `linger`: so many are a sign of more to come. With
    fewer items, the wait is shorter, by the square root of their number: already with a few items, calls that follow each other
    closely cost more than they save. A lone item does not wait. If `heavy` is None, every batch waits the full `linger`.
    timeout: seconds until the waiter of an item without a result gets TimeoutError, or up to a tenth of `timeout` later. If the
    item is not being flushed then, it is dropped.
    """

    def __init__(
        self,
        name: str,
        flush: Callable[[list[T]], Awaitable[Sequence[R | BaseException]]],
        watch: Watch,
        *,
        max_batch: int,
        max_pending: int,
        workers: int = 1,
        fill: int = 1,
        linger: float = 0.0,
        heavy: int | None = None,
        timeout: float | None = None,
    ) -> None:
        self.name = name
        self._flush = flush
        self._watch = watch
        self._max_batch = max_batch
        self._max_pending = max_pending
        self._workers = workers
        self._fill = fill
        self._flushing = 0
        self._begun = 0  # number of batches so far
        self._filling: asyncio.TimerHandle | None = None  # the timer that ends the wait for a fuller batch
        self._overdue = False  # the pending items have waited long enough
        self._gathering = False  # one worker waits for more items, so no second worker may take some of them
        self._linger = linger
        self._heavy = heavy
        self._timeout = timeout
        self._items: deque[tuple[T, asyncio.Future[R] | None]] = deque()
        # One timer for all: a timer for each item would cost more than the rest of the work here.
        self._waiters: deque[tuple[float, asyncio.Future[R]]] = deque()  # (end of the waiter's time, waiter), oldest first
        self._timer: asyncio.TimerHandle | None = None
        # Look the running loop up once: before Python 3.12, each look-up is a system call.
        self._loop: asyncio.AbstractEventLoop | None = None
        self._arrived = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []
        self._stopping = False
        self._stopped = asyncio.Event()

    @property
    def pending(self) -> int:
        """Returns how many items wait for a batch. Items that are being flushed are not counted."""
        return len(self._items)

    @property
    def full(self) -> bool:
        """Returns whether the next item would be refused."""
        return self._stopping or len(self._items) >= self._max_pending

    def submit(self, item: T) -> asyncio.Future[R]:
        """Adds `item`, and returns the future of its result. Raises OverloadedError when full or stopping."""
        loop = self._loop or asyncio.get_running_loop()
        future: asyncio.Future[R] = loop.create_future()
        self._add(item, future)
        if self._timeout is not None:
            self._waiters.append((loop.time() + self._timeout, future))
            if self._timer is None:
                self._timer = loop.call_later(self._timeout / 10, self._expire, loop)
        return future

    def _expire(self, loop: asyncio.AbstractEventLoop) -> None:
        waiters = self._waiters
        now = loop.time()
        while waiters and (waiters[0][1].done() or waiters[0][0] <= now):
            _, future = waiters.popleft()
            if not future.done():
                future.set_exception(TimeoutError(f"{self.name}: longer than {self._timeout:g} s"))
        self._timer = loop.call_later((self._timeout or 0) / 10, self._expire, loop) if waiters else None

    def post(self, item: T) -> None:
        """Adds `item` without a waiter. Unexpected errors of `flush` are logged. Raises OverloadedError if full or stopping."""
        self._add(item, None)

    def _add(self, item: T, future: asyncio.Future[R] | None) -> None:
        if self.full:
            raise OverloadedError(f"{self.name}: {len(self._items)} items are pending")
        self._items.append((item, future))
        if self._due:
            self._arrived.set()
        else:
            self._bound_filling()

    def _bound_filling(self) -> None:
        """Starts the timer that ends the wait of the pending items, unless a timer runs already or the items need not wait."""
        if self._filling is None and self._items and not self._due:
            loop = self._loop or asyncio.get_running_loop()
            self._filling = loop.call_later(_FILL_SECONDS, self._filled, self._begun)

    def _filled(self, begun: int) -> None:
        self._filling = None
        if begun == self._begun:
            self._overdue = True
            self._arrived.set()
        else:  # a batch has begun since the timer started, and the pending items may be newer than that batch
            self._bound_filling()

    def drop(self, error: BaseException) -> None:
        """Gives up the pending items: their waiters get `error`."""
        dropped = list(self._items)
        self._items.clear()
        for _, future in dropped:
            if future is not None and not future.done():
                future.set_exception(error)

    async def start(self) -> None:
        """Starts the flushing tasks; a second call does nothing."""
        if not self._tasks:
            self._stopping = False
            self._stopped.clear()
            self._loop = asyncio.get_running_loop()
            self._tasks = [self._watch.spawn(self._run(), f"batcher {self.name} {n}") for n in range(self._workers)]

    async def stop(self) -> None:
        """Refuses new items, flushes the pending ones, and returns when all ended. A call twice or before `start` is fine."""
        self._stopping = True
        self._arrived.set()
        self._stopped.set()
        tasks, self._tasks = self._tasks, []
        await self._watch.join(*tasks)

    async def _run(self) -> None:
        items = self._items
        while True:
            if not items:
                if self._stopping:
                    return
                self._arrived.clear()
                await self._arrived.wait()
                continue
            if not self._due:
                self._arrived.clear()
                await self._arrived.wait()
                continue
            if (linger := self._lingering(len(items))) and not self._stopping:
                self._gathering = True
                try:
                    with contextlib.suppress(TimeoutError):
                        async with asyncio.timeout(linger):
                            await self._stopped.wait()
                finally:
                    self._gathering = False
                    self._arrived.set()  # wake another worker, which may take the items that are left
            self._begun += 1
            self._overdue = False
            batch: list[tuple[T, asyncio.Future[R] | None]] = []
            while items and len(batch) < self._max_batch:
                item, future = items.popleft()
                # Leave out an item whose waiter gave up: under overload, its work would only delay those who still wait.
                if future is None or not future.done():
                    batch.append((item, future))
            if batch:
                self._flushing += 1
                self._bound_filling()
                try:
                    await self._flush_batch(batch)
                finally:
                    self._flushing -= 1
                    self._arrived.set()  # wake a worker that waited for the end of this batch

    @property
    def _due(self) -> bool:
        """Returns whether the pending items may become a batch now, and need not wait for another worker."""
        return not self._gathering and (not self._flushing or self._overdue or len(self._items) >= self._fill)

    def _lingering(self, count: int) -> float:
        if count >= self._max_batch:
            return 0.0
        return self._linger * math.sqrt(min((count - 1) / self._heavy, 1.0)) if self._heavy else self._linger

    async def _results(self, items: list[T]) -> Sequence[R | BaseException]:
        results = await self._flush(items)
        if len(results) != len(items):
            raise RuntimeError(f"{self.name}: {len(results)} results for {len(items)} items")
        return results

    async def _flush_batch(self, batch: list[tuple[T, asyncio.Future[R] | None]]) -> None:
        outcome: Sequence[R | BaseException]
        try:
            outcome = await self._results([item for item, _ in batch])
        except asyncio.CancelledError:
            if (task := asyncio.current_task()) is not None and task.cancelling():
                raise
            # Nobody cancelled this task: the cancellation leaked out of a library, and the task must go on.
            outcome = [UnavailableError(self.name, "cancelled")] * len(batch)
        except Exception as error:  # noqa: BLE001  whatever it is, the waiters must get it
            outcome = [error] * len(batch)
            if not isinstance(error, WebhookdError):
                logger.exception("batch failed", batcher=self.name, items=len(batch))
        for (_, future), result in zip(batch, outcome, strict=True):
            if future is None or future.done():  # None: the item has no waiter. done: the waiter gave up meanwhile
                continue
            if isinstance(result, BaseException):
                future.set_exception(result)
            else:
                future.set_result(result)
