"""The lag of the event loop is measured in every role, and its worst value stands for ten seconds."""

from __future__ import annotations

import asyncio

from webhookd.runtime.lag import LoopLag
from webhookd.telemetry.metrics import Metrics


def shown(metrics: Metrics) -> float:
    return metrics.registry.get_sample_value("webhookd_loop_lag_seconds") or 0.0


async def test_a_loop_that_is_held_shows_its_lag() -> None:
    metrics = Metrics()
    lag = LoopLag(metrics)
    await lag.start()
    try:
        loop = asyncio.get_running_loop()
        end = loop.time() + 0.4
        while loop.time() < end:  # holds the loop, as a handler that computes does
            pass
        seen = loop.create_future()
        loop.call_later(0.1, seen.set_result, None)
        await seen
    finally:
        await lag.stop()
    assert shown(metrics) > 0.25


def test_the_worst_lag_stands_for_ten_seconds() -> None:
    metrics = Metrics()
    lag = LoopLag(metrics)
    lag.observe(100.0, lag=0.7)
    lag.observe(109.0, lag=0.1)
    assert shown(metrics) == 0.7
    lag.observe(110.1, lag=0.2)
    assert shown(metrics) == 0.2
