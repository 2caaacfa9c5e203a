"""The runner of handlers: calls them one after the other, bounds their time, and cuts off handlers that do not end."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

from webhookd.authorizenet.notification import label
from webhookd.event import Event
from webhookd.process.failure import Failure, HandlerTimeoutError, StuckError
from webhookd.process.handlers import Registration, Registry
from webhookd.runtime.loops import Watch, shielded
from webhookd.store.pools import Connection
from webhookd.telemetry.logs import logger
from webhookd.telemetry.metrics import Metrics

_CANCELLED = 2.0  # seconds that handlers have to end when they are cancelled
_BOOKKEEPING = 10.0  # seconds that the end of handlers may take while the daemon stops


@dataclass(slots=True)
class _Run:
    """The handlers of one event, in registration order."""

    event: Event
    connection: Connection
    registrations: Sequence[Registration]
    around: Callable[[str], AbstractContextManager[object]]
    running: Registration | None = None  # the handler that runs, or ran last

    async def call(self) -> Failure | None:
        """Calls the handlers one after the other; returns the first failure, or None."""
        try:
            for registration in self.registrations:
                self.running = registration
                with self.around(registration.name):
                    await registration.handler(self.event, self.connection)
        except BaseException as error:  # noqa: BLE001  SystemExit in a handler must not end the daemon
            return self.failed(error)
        return None

    def failed(self, error: BaseException, place: str | None = None) -> Failure:
        """Returns `error` as the failure of the handler that runs, or ran last. `place`: its origin, if the caller knows it."""
        return Failure.of(error, by=self.running, place=place)


class HandlerRunner:
    """The runner of events' handlers. Handlers that cannot be ended are cut off; at too many of them, the daemon stops.

    `timeout`: seconds that an event's handlers have together.
    `most_stuck`: handlers that cannot be ended, until the daemon stops.
    `around`: called with the name of each handler; returns a context for the handler's call, which may look at exceptions.
    """

    def __init__(
        self,
        registry: Registry,
        *,
        timeout: float,
        most_stuck: int,
        metrics: Metrics,
        watch: Watch,
        around: Callable[[str], AbstractContextManager[object]] = nullcontext,
    ) -> None:
        self._registry = registry
        self._timeout = timeout
        self._most_stuck = most_stuck
        self._metrics = metrics
        self._broken = watch.broken
        self._around = around
        self._stuck: set[asyncio.Task[Failure | None]] = set()

    async def run(self, event: Event, connection: Connection) -> Failure | None:
        """Runs the handlers of `event` within their time; returns their failure, or None."""
        started = time.perf_counter()
        run = _Run(event, connection, self._registry.matching(event.event_type), self._around)
        # Handlers have a task of their own: if they cannot be ended, the worker can still go on.
        handlers = asyncio.create_task(run.call(), name=f"handlers of {event.id}")
        try:
            await asyncio.wait([handlers], timeout=self._timeout)
            if handlers.done():
                return handlers.result()
            limit = f"WEBHOOKD_HANDLER_TIMEOUT ({self._timeout:g} s)"
            if await self._end(handlers, run):
                cancelled = handlers.result()  # it shows where the cancellation met the handler
                place = cancelled.origin if cancelled else ""
                return run.failed(HandlerTimeoutError(f"the handlers took longer than {limit}"), place)
            return run.failed(StuckError(f"the handlers took longer than {limit}, and did not end when they were cancelled"))
        except asyncio.CancelledError:  # the daemon stops
            await shielded(self._end(handlers, run), _BOOKKEEPING)
            raise
        finally:
            self._metrics.handle_seconds.labels(label(event.event_type)).observe(time.perf_counter() - started)

    def _ended(self, handlers: asyncio.Task[Failure | None]) -> None:
        self._stuck.discard(handlers)
        self._metrics.unended_handlers.dec()

    async def _end(self, handlers: asyncio.Task[Failure | None], run: _Run) -> bool:
        """Cancels handlers. If they go on, cuts their connection, so that PostgreSQL rolls back, and returns False."""
        handlers.cancel()
        await asyncio.wait([handlers], timeout=_CANCELLED)
        if handlers.done():
            return True
        run.connection.terminate()
        self._stuck.add(handlers)
        self._metrics.unended_handlers.inc()
        handlers.add_done_callback(self._ended)
        self._metrics.stuck_handlers.inc()
        logger.error(
            "handlers do not end",
            event_id=str(run.event.id),
            event_type=run.event.event_type,
            handler=run.running and run.running.name,
            stuck=len(self._stuck),
        )
        if len(self._stuck) >= self._most_stuck:
            # Such handlers take memory and processor time, and only the end of the process can end them.
            logger.critical(
                "too many handlers do not end: the daemon stops, for its supervisor to start it again", stuck=len(self._stuck)
            )
            self._broken.set()
        return False
