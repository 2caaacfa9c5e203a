"""Waiting for a condition, with a deadline; never for a time."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable
from typing import Any


async def until(condition: Callable[[], Any], what: str, *, deadline: float = 15.0, every: float = 0.02) -> Any:
    """Calls `condition` (plain or async) until its result is true, and returns that; fails with `what` after `deadline` s."""
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
