"""A session of the simulator for people: events in turn, until it is stopped."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import signal
from collections.abc import Callable
from datetime import timedelta

from webhookd.authorizenet.notification import EVENT_TYPES
from webhookd.simulate.simulator import Simulator


async def run(simulator: Simulator, to: str | None, every: float, count: int | None, *, began: Callable[[], None]) -> None:
    """Runs the simulator until SIGINT or SIGTERM.

    to: the address of a webhook for all event types; None registers none, and makes no events.
    every: seconds between two events, by the simulator's clock.
    count: the number of events; None for no end.
    began: is called when the simulator listens.
    """
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    async with simulator:
        began()
        making = asyncio.create_task(_make(simulator, to, every, count), name="events")
        await asyncio.wait([making, asyncio.ensure_future(stop.wait())], return_when=asyncio.FIRST_COMPLETED)
        if making.done():
            making.result()  # raises what ended it
        await stop.wait()
        making.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await making


async def _make(simulator: Simulator, to: str | None, every: float, count: int | None) -> None:
    if to is None:
        return
    simulator.register(to)
    at = simulator.clock.now()
    for event_type in itertools.islice(itertools.cycle(EVENT_TYPES), count):
        await simulator.clock.sleep_until(at)
        simulator.make(event_type)
        at += timedelta(seconds=every)
