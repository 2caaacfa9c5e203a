"""Exponential backoff: `ceiling` is the longest delay of an attempt, and `full_jitter` draws a delay from 0 to it.

Full jitter spreads the clients that failed together; see the AWS Architecture Blog, "Exponential Backoff And Jitter".
"""

from __future__ import annotations

import random
import re
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime


def ceiling(attempt: int, base: float, cap: float) -> float:
    """Returns the longest delay in seconds after `attempt` failures (1 at the first): base * 2^(attempt - 1), at most `cap`."""
    return min(cap, base * 2.0 ** min(attempt - 1, 60))


def full_jitter(attempt: int, base: float, cap: float) -> float:
    """Returns a delay in seconds after `attempt` failures, uniform from 0 to its ceiling."""
    return random.uniform(0, ceiling(attempt, base, cap))


def asked_wait(retry_after: str, now: datetime) -> float | None:
    """Returns the seconds of a header Retry-After, which is a number or a date; None if it is neither."""
    text = retry_after.strip()
    if re.fullmatch(r"[0-9]+", text):
        return float(text)
    try:
        at = parsedate_to_datetime(text)
        return (at if at.tzinfo else at.replace(tzinfo=UTC)).timestamp() - now.timestamp()
    except (ValueError, OverflowError):
        return None


class Reconnect:
    """The pause between tries at a dependency that is away. It grows with each failure, and starts anew after a success."""

    def __init__(self, base: float = 0.2, cap: float = 10.0) -> None:
        self._base = base
        self._cap = cap
        self._failures = 0

    @property
    def failing(self) -> bool:
        """Returns True from a failure until the next success."""
        return self._failures > 0

    def failed(self) -> float:
        """Counts a failure. Returns the seconds to wait, never less than half the base, so that no loop spins."""
        self._failures += 1
        return max(self._base / 2, full_jitter(self._failures, self._base, self._cap))

    def succeeded(self) -> None:
        """Forgets the failures."""
        self._failures = 0
