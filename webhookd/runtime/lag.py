"""The lag of the event loop: how late its timers run."""

from __future__ import annotations

import asyncio

from webhookd.telemetry.metrics import Metrics

_TICK = 0.05  # seconds between two measurements
_PEAK_KEPT = 10.0  # seconds


class LoopLag:
    """Measures the lag of the event loop in every role: a blocked loop delays webhooks, workers and probes alike."""

    def __init__(self, metrics: Metrics) -> None:
        self._gauge = metrics.loop_lag_seconds
        self._peak = self._peak_at = 0.0
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
        due = loop.time() + _TICK
        self._timer = loop.call_at(due, self._tick, loop, due)

    def _tick(self, loop: asyncio.AbstractEventLoop, due: float) -> None:
        now = loop.time()
        self.observe(now, lag=max(now - due, 0.0))
        self._schedule(loop)

    def observe(self, now: float, *, lag: float) -> None:
        """Shows `lag` if it is the worst of the last ten seconds. `now`: the time of the loop's clock."""
        if lag >= self._peak or now - self._peak_at > _PEAK_KEPT:
            self._peak, self._peak_at = lag, now
            self._gauge.set(lag)
