"""The simulator's own clock, which can run fast, stand still, or be put forward."""

from __future__ import annotations

import asyncio
import contextlib
import time
from datetime import UTC, datetime, timedelta


class Clock:
    """A clock that runs `speed` times as fast as the machine's. With speed 0, only `advance` moves it."""

    def __init__(self, start: datetime | None = None, speed: float = 1.0) -> None:
        self._start = start or datetime.now(UTC)
        self._speed = speed
        self._began = time.monotonic()
        self._added = timedelta()
        self._moved = asyncio.Event()

    def now(self) -> datetime:
        """Returns the clock's time, in UTC."""
        return self._start + self._added + timedelta(seconds=(time.monotonic() - self._began) * self._speed)

    def advance(self, seconds: float) -> None:
        """Puts the clock forward, and wakes whoever waits for a time that has come."""
        self._added += timedelta(seconds=seconds)
        self._moved.set()
        self._moved = asyncio.Event()

    async def sleep_until(self, moment: datetime) -> None:
        """Returns when the clock has reached `moment`."""
        while (left := (moment - self.now()).total_seconds()) > 0:
            moved = self._moved
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(left / self._speed if self._speed else None):
                    await moved.wait()
