"""Functions that wait for a condition with a deadline, never for a fixed time."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable
from typing import Any


async def until(condition: Callable[[], Any], what: str, *, deadline: float = 15.0, every: float = 0.02) -> Any:
    """Calls `condition` (plain or async) until its result is true; returns it. Fails with `what` after `deadline` seconds."""
    loop = asyncio.get_running_loop()
    end = loop.time() + deadline
    while True:
        result = condition()
        if inspect.isawaitable(result):
            result = await result
        if result:
            return result
        assert loop.time() < end, f"not within {deadline:g} s: {what}"
        await asyncio.sleep(every)


async def until_ended(left: Callable[[], Any], what: str, *, patience: float, every: float = 0.1) -> None:
    """Calls `left` (plain or async; returns the number of things still to be done) until it is 0.

    Fails with `what` after `patience` seconds without progress: a busy machine is slow, but does not stand still.
    """
    loop = asyncio.get_running_loop()
    least, at = float("inf"), loop.time()
    while True:
        now = left()
        if inspect.isawaitable(now):
            now = await now
        if not now:
            return
        if now < least:
            least, at = now, loop.time()
        assert loop.time() < at + patience, f"no progress for {patience:g} s, {now} to go: {what}"
        await asyncio.sleep(every)
