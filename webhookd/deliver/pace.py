"""The pace of a destination: at most so many requests per second."""

from __future__ import annotations

import time


class Pace:
    """A token bucket. `rate` is in requests per second; None is no limit. A second's worth may go at once, but at least one."""

    def __init__(self, rate: float | None) -> None:
        self._rate = rate
        self._most = max(rate or 0.0, 1.0)
        self._left = self._most
        self._at = time.monotonic()

    def take(self, wanted: int) -> int:
        """Takes up to `wanted` requests. Returns how many may begin now."""
        if self._rate is None:
            return wanted
        now = time.monotonic()
        self._left = min(self._most, self._left + (now - self._at) * self._rate)
        self._at = now
        taken = min(wanted, int(self._left))
        self._left -= taken
        return taken

    def give_back(self, unused: int) -> None:
        """Gives back requests that were taken and did not begin."""
        self._left += unused

    def seconds_to_next(self) -> float:
        """Returns the seconds until one more request may begin."""
        return 0.0 if self._rate is None else max((1 - self._left) / self._rate, 0.001)
