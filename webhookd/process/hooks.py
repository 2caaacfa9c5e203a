"""Hooks: users' functions that start what handlers share before the first event, and stop it after the last: an HTTP client."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from types import TracebackType
from typing import Any, Generic, TypeVar

from webhookd.errors import HandlerError, HookError
from webhookd.process.callables import module_of, name_of, told
from webhookd.runtime.loops import Watch
from webhookd.telemetry.frames import origin
from webhookd.telemetry.logs import logger

T = TypeVar("T")

_START = 60.0  # seconds that all hooks together have to start
_LEAST_STOP = 1.0  # seconds that all hooks together have to stop, even if the workers used all of the grace
_CANCELLED = 1.0  # seconds that a hook has to end when it is cancelled
_MISSING: Any = object()


class Hook(Generic[T]):
    """A hook: the code before its `yield` runs at the start, and the code after the `yield` runs at the stop.

    In between, `value` is the yielded value. In a test of your own, `async with hook:` starts and stops the hook.
    """

    def __init__(self, function: Callable[[], AsyncIterator[T]]) -> None:
        self.function = function
        self._value: T = _MISSING
        self._context: contextlib.AbstractAsyncContextManager[T] | None = None

    @property
    def name(self) -> str:
        """Returns the hook's module and name, for logs."""
        return name_of(self.function)

    @property
    def value(self) -> T:
        """Returns the value that the hook yielded. Raises HookError before its start and after its end."""
        if self._value is _MISSING:
            raise HookError(
                f"the hook {told(self.function)} is not running; use its value in handlers, or in a test within "
                f"`async with {self.function.__name__}:`"
            )
        return self._value

    @property
    def is_running(self) -> bool:
        """Returns whether the hook has a value."""
        return self._value is not _MISSING

    @contextlib.contextmanager
    def replaced_by(self, value: T) -> Iterator[None]:
        """Gives the hook another value in the block, for a test, such as a fake client. The hook's own code does not run."""
        before, self._value = self._value, value
        try:
            yield
        finally:
            self._value = before

    def take_over(self, running: Hook[Any]) -> None:
        """Takes the value of `running`, which this hook replaces. `running` goes on, and stops with the process."""
        self._value = running.value

    async def __aenter__(self) -> T:
        self._context = contextlib.asynccontextmanager(self.function)()
        self._value = await self._context.__aenter__()
        return self._value

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool | None:
        context, self._context, self._value = self._context, None, _MISSING
        return None if context is None else await context.__aexit__(kind, error, trace)


def make_hook(function: Callable[[], AsyncIterator[T]]) -> Hook[T]:
    """Returns the hook of `function`. Raises HandlerError if `function` cannot be a hook."""
    if not inspect.isasyncgenfunction(function):
        name = getattr(function, "__name__", "hook")
        raise HandlerError(
            f"the hook {told(function)}: @lifespan needs an async function with one `yield`; "
            f"write `async def {name}()`, and `yield` what the handlers share"
        )
    try:
        inspect.signature(function).bind()
    except TypeError:
        raise HandlerError(
            f"the hook {told(function)}: webhookd calls it without arguments; give each parameter a default, or take it out"
        ) from None
    return Hook(function)


class Hooks:
    """The part of the daemon that runs the hooks, in the order of their registration, and ends them in the reverse order.

    All hooks run in one task, as an `asyncio.TaskGroup` in a hook needs. If a task group in a hook fails, the daemon stops.
    """

    def __init__(self, hooks: Sequence[Hook[Any]], watch: Watch) -> None:
        self._hooks = hooks
        self._watch = watch
        self._task: asyncio.Task[None] | None = None
        self._started = asyncio.Event()
        self._stop = asyncio.Event()
        self._current: Hook[Any] | None = None  # the hook that starts or stops at the moment
        self._failure = ""  # the type and the place of the exception of the hook that failed at the start
        self._deadline = 0.0

    def stop_by(self, deadline: float) -> None:
        """Sets the end of the time that the hooks have to stop (`time.monotonic`)."""
        self._deadline = deadline

    async def start(self) -> None:
        """Starts the hooks. Raises HookError if one of them fails or takes too long."""
        if not self._hooks or self._task is not None:
            return
        self._task = self._watch.spawn(self._run(), "hooks")
        started = asyncio.create_task(self._started.wait(), name="start of hooks")
        await asyncio.wait([self._task, started], timeout=_START, return_when=asyncio.FIRST_COMPLETED)
        started.cancel()
        if self._started.is_set():
            return
        name = told(self._current.function) if self._current else "?"
        if not self._task.done():
            await self._cancel(self._task)
            raise HookError(
                f"the hook {name} took longer than {_START:g} s, so the daemon does not start; give each call in it a timeout"
            )
        raise HookError(
            f"the hook {name} failed, so the daemon does not start: {self._failure}; correct the hook, or first start the "
            "service that it needs"
        )

    async def stop(self) -> None:
        """Ends the hooks within their time. Logs a hook that fails or takes too long; the others end anyway."""
        task, self._task = self._task, None
        if task is None:
            return
        self._stop.set()
        await asyncio.wait([task], timeout=max(self._deadline - time.monotonic(), _LEAST_STOP))
        if not task.done():
            logger.error("a hook did not stop within WEBHOOKD_SHUTDOWN_GRACE", hook=self._current and self._current.name)
            await self._cancel(task)

    async def _cancel(self, task: asyncio.Task[None]) -> None:
        self._watch.cancel(task)
        await asyncio.wait([task], timeout=_CANCELLED)

    async def _run(self) -> None:
        async with contextlib.AsyncExitStack() as stack:
            for hook in self._hooks:
                self._current = hook
                try:
                    await hook.__aenter__()
                except SystemExit as error:  # would end the event loop in the middle of what others do
                    self._failure = _without_message(hook, error)
                    raise HookError(f"the hook {hook.name} ends its process") from error
                except BaseException as error:
                    self._failure = _without_message(hook, error)
                    raise
                stack.push_async_exit(self._ending(hook))
            self._started.set()
            await self._stop.wait()

    def _ending(self, hook: Hook[Any]) -> Callable[..., Any]:
        async def end(
            kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
        ) -> bool | None:
            if self._stop.is_set():
                self._current = hook
            try:
                return await hook.__aexit__(kind, error, trace)
            except (Exception, SystemExit) as failed:
                if not self._stop.is_set():
                    raise HookError(f"the hook {hook.name} failed: {_without_message(hook, failed)}") from failed
                logger.error("a hook failed at the stop", hook=hook.name, error=_without_message(hook, failed))
                return None

        return end


def _without_message(hook: Hook[Any], error: BaseException) -> str:
    # The message of the exception can hold a secret, such as a URL with its password.
    return f"{type(error).__qualname__}{origin(error, module_of(hook.function).partition('.')[0])}"
