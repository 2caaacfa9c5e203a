"""Tasks that live as long as the process: each one named, owned and watched."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, Protocol, TypeVar

from webhookd.errors import UnavailableError
from webhookd.runtime.backoff import Reconnect
from webhookd.telemetry.logs import logger

T = TypeVar("T")


class Part(Protocol):
    """The one contract of every long-lived part.

    `start` returns when the part works, and needs no dependency to be up. `stop` returns when the part has stopped. A call of
    `stop` twice, or before `start`, is fine.
    """

    async def start(self) -> None: ...

    async def stop(self) -> None: ...


class Watch:
    """The owner of the long-lived tasks. A task's unexpected end ends the process, which a manager then restarts.

    A task ends as expected when its coroutine returns, or by `cancel`.
    """

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[None]] = set()
        self.broken = asyncio.Event()

    def spawn(self, coroutine: Coroutine[Any, Any, None], name: str) -> asyncio.Task[None]:
        """Runs `coroutine` as a task called `name`, and watches it."""
        task = asyncio.create_task(coroutine, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        return task

    def cancel(self, task: asyncio.Task[None]) -> None:
        """Cancels a task of `spawn`, and expects its end."""
        self._tasks.discard(task)
        task.cancel()

    async def join(self, *tasks: asyncio.Task[None]) -> None:
        """Waits until tasks of `spawn` end in any way. If the caller is cancelled, cancels the tasks, and expects their end."""
        if not tasks:
            return
        try:
            # Do not write `await task`: a cancellation of the caller would then cancel the task before its end is expected.
            await asyncio.wait(tasks)
        except asyncio.CancelledError:
            for task in tasks:
                self.cancel(task)
            await asyncio.wait(tasks)
            raise

    def dismiss(self) -> None:
        """Expects the end of every task from now on: the process ends, whatever its tasks do."""
        self._tasks.clear()

    def _ended(self, task: asyncio.Task[None]) -> None:
        expected = task not in self._tasks
        self._tasks.discard(task)
        if task.cancelled():
            if not expected:  # a cancellation that leaked out of a library: nobody would do this task's work any more
                logger.critical("a part of the daemon was cancelled by nobody", task=task.get_name())
                self.broken.set()
        elif (error := task.exception()) is not None:
            logger.critical("a part of the daemon failed", task=task.get_name(), exc_info=error)
            self.broken.set()


class Loop:
    """A step that is repeated for ever: every `every` seconds, at once when woken, with backoff while it fails.

    The step returns True to be called again without a pause. No failure ends the loop. Expected failures (UnavailableError)
    are logged once when they begin and once when they end, other failures each time.
    """

    def __init__(self, name: str, step: Callable[[], Awaitable[bool | None]], watch: Watch, *, every: float) -> None:
        self.name = name
        self._step = step
        self._watch = watch
        self._every = every
        self._wake = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._stopping = False

    def wake(self) -> None:
        """Ends the present pause."""
        self._wake.set()

    async def start(self) -> None:
        """Starts the loop."""
        if self._task is None:
            self._stopping = False
            self._task = self._watch.spawn(self._run(), self.name)

    async def stop(self) -> None:
        """Waits until the running step has ended, and starts no other."""
        self._stopping = True
        self._wake.set()
        task, self._task = self._task, None
        if task is not None:
            await self._watch.join(task)

    async def _run(self) -> None:
        backoff = Reconnect()
        while not self._stopping:
            pause = self._every
            self._wake.clear()
            try:
                if await self._step():
                    pause = 0
                if backoff.failing:
                    logger.info("working again", loop=self.name)
                    backoff.succeeded()
            except UnavailableError as error:
                if not backoff.failing:
                    logger.warning("waiting for a dependency", loop=self.name, dependency=error.dependency)
                pause = backoff.failed()
            except asyncio.CancelledError:
                if (task := asyncio.current_task()) is not None and task.cancelling():
                    raise
                logger.error("a step was cancelled by nobody", loop=self.name)  # the cancellation leaked out of a library
                pause = max(backoff.failed(), self._every)
            except Exception:  # noqa: BLE001  a bug in one step must not end others' work; it is logged each time
                logger.exception("a step failed", loop=self.name)
                pause = max(backoff.failed(), self._every)
            if not pause:
                # A step may have waited for nothing. Without this pause, such a step would keep the event loop to itself.
                await asyncio.sleep(0)
            elif not self._stopping:
                try:
                    async with asyncio.timeout(pause):
                        await self._wake.wait()
                except TimeoutError:
                    pass


async def shielded(work: Coroutine[Any, Any, T], timeout: float) -> T:
    """Runs `work` to its end within `timeout` seconds, even if the caller is cancelled. The caller is cancelled afterwards.

    For bookkeeping that must not stop half-way: a commit whose outcome nobody learns leads to a second delivery.
    """

    async def bounded() -> T:
        async with asyncio.timeout(timeout):
            return await work

    task = asyncio.ensure_future(bounded())
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.wait([task])
        if not task.cancelled() and task.exception() is not None:
            logger.warning("bookkeeping failed while stopping", exc_info=task.exception())
        raise
