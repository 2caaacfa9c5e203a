"""When a failed event is tried again."""

from __future__ import annotations

import random

from webhookd.backoff import ceiling
from webhookd.queue.sqs import MAX_VISIBILITY


def retry_delay(attempt: int, base: float, cap: float) -> float:
    """Seconds to wait after failed attempt number `attempt` (1 at the first).

    Exponential with jitter over the whole step: drawn between the ceiling of the attempt before and this one's
    (base * 2^(attempt - 1)), so that the delays of one event grow, and events that failed together spread out. At the
    cap the draw is from its upper half. Never beyond SQS's limit.
    """
    high = ceiling(attempt, base, min(cap, MAX_VISIBILITY))
    low = 0.0 if attempt == 1 else high / 2
    return random.uniform(low, high)


def asked_delay(after: float) -> float:
    """The delay that a handler asked for, within what SQS can hold a message back."""
    return min(after, float(MAX_VISIBILITY)) if after > 0 else 0.0  # not a number is no delay
