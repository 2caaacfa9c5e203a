"""The retry policy: how often a failed event is tried, and when again."""

from __future__ import annotations

import random
from dataclasses import dataclass

from webhookd.backoff import ceiling


@dataclass(slots=True, frozen=True)
class Policy:
    """How often an event is tried, and the bounds of its delays."""

    attempts: int  # the first one counts
    base: float  # seconds: the longest delay before the second attempt; doubles with each
    cap: float  # seconds: the longest delay of all


def retry_delay(attempt: int, base: float, cap: float) -> float:
    """Seconds to wait after failed attempt number `attempt` (1 at the first).

    Exponential with jitter over the whole step: drawn between the ceiling of the attempt before and this one's
    (base * 2^(attempt - 1)), so that the delays of one event grow, and events that failed together spread out. At the
    cap the draw is from its upper half.
    """
    high = ceiling(attempt, base, cap)
    low = 0.0 if attempt == 1 else high / 2
    return random.uniform(low, high)


def asked_delay(after: float, longest: float) -> float:
    """The delay that a handler asked for, within `longest` seconds."""
    return min(after, longest) if after > 0 else 0.0  # not a number is no delay
