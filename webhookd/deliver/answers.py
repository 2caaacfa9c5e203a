"""The meaning of a destination's answer: accepted, another attempt after a delay, or dead."""

from __future__ import annotations

import random
from collections.abc import Collection
from datetime import datetime

from webhookd.runtime.backoff import asked_wait, ceiling

GONE = 410
_BASE, _CAP = 5.0, 36_000.0  # seconds; the 19 delays between 20 attempts are about three days together
_JITTER = 0.2
_LONGEST_WAIT = 43_200.0  # seconds for which a destination may put an attempt off by Retry-After
_ASKS_TO_WAIT = (429, 503)
_OVERLOADED = (408, 429)
_REFUSALS = (401, 403)


def accepted(status: int) -> bool:
    """Returns whether an answer ends the delivery."""
    return 200 <= status < 300


def is_down(status: int | None, give_up_on: Collection[int] = ()) -> bool | None:
    """Returns whether a failure is one of the destination itself, as far as an answer can show it. None: nobody knows.

    No answer, a server's error (5xx), 429 and 408 come from a destination that is down or overloaded. A redirect, 401 and 403
    may come from a proxy in front of it. Every other status, and each in `give_up_on`, is an answer of a working destination,
    and may concern this one event: an order that it does not know (404), for example.
    """
    if status in give_up_on:
        return False
    if status is not None and (300 <= status < 400 or status in _REFUSALS):
        return None
    return status is None or status >= 500 or status in _OVERLOADED


def asked_to_wait(status: int | None, retry_after: str | None, *, now: datetime) -> float:
    """Returns for how many seconds the answer asks to wait, up to 12 hours: the header Retry-After of a 429 or 503."""
    if status not in _ASKS_TO_WAIT or retry_after is None:
        return 0.0
    return min(max(asked_wait(retry_after, now) or 0.0, 0.0), _LONGEST_WAIT)


def delay_after(attempt: int, *, most: int, status: int | None, asked: float, give_up_on: Collection[int]) -> float | None:
    """Returns the seconds until the next attempt; None if there is none.

    attempt: the number of the attempt that failed, 1 for the first.
    most: the number of attempts that a delivery has.
    status: the HTTP status of the answer; None if there was no answer.
    asked: the seconds for which the answer asks to wait. The schedule's wait counts if it is longer: short waits would soon
    spend all attempts.
    give_up_on: the statuses, beside 410, after which there is no other attempt.
    """
    if attempt >= most or status == GONE or status in give_up_on:
        return None
    return max(asked, ceiling(attempt, _BASE, _CAP) * random.uniform(1 - _JITTER, 1 + _JITTER))
