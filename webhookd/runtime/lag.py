"""The lag of the event loop: how late its timers run."""

from __future__ import annotations

import asyncio
from typing import Protocol

from webhookd.telemetry.metrics import Metrics

TICK = 0.05  # seconds between two measurements
_PEAK_KEPT = 10.0  # seconds


class Observe(Protocol):
    """A function that takes a measurement. `now`: the time of the loop's clock; `lag`: the seconds that the loop is late."""

    def __call__(self, now: float, *, lag: float) -> None: ...


class Ticks:
    """Measures the lag of the event loop every 50 ms, and gives each measurement to `observe`."""

    def __init__(self, observe: Observe) -> None:
        self._observe = observe
        self._timer: asyncio.TimerHandle | None = None

    async def start(self) -> None:
        """Starts to measure."""
        if self._timer is None:
            self._schedule(asyncio.get_running_loop())

    async def stop(self) -> None:
        """Stops measuring."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _schedule(self, loop: asyncio.AbstractEventLoop) -> None:
        due = loop.time() + TICK
        self._timer = loop.call_at(due, self._tick, loop, due)

    def _tick(self, loop: asyncio.AbstractEventLoop, due: float) -> None:
        now = loop.time()
        self._observe(now, lag=max(now - due, 0.0))
        self._schedule(loop)


class LoopLag(Ticks):
    """Shows the lag of the event loop in every role: a blocked loop delays webhooks, workers and probes alike."""

    def __init__(self, metrics: Metrics) -> None:
        super().__init__(self.observe)
        self._gauge = metrics.loop_lag_seconds
        self._peak = self._peak_at = 0.0

    def observe(self, now: float, *, lag: float) -> None:
        """Shows `lag` if it is the worst of the last ten seconds. `now`: the time of the loop's clock."""
        if lag >= self._peak or now - self._peak_at > _PEAK_KEPT:
            self._peak, self._peak_at = lag, now
            self._gauge.set(lag)
