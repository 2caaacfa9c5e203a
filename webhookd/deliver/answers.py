"""The meaning of a destination's answer: accepted, another attempt after a delay, or dead."""

from __future__ import annotations

import random
import re
from collections.abc import Collection
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

from webhookd.runtime.backoff import ceiling

GONE = 410
_BASE, _CAP = 5.0, 36_000.0  # seconds; the 19 delays between 20 attempts are about three days together
_JITTER = 0.2
_LONGEST_WAIT = 43_200.0  # seconds for which a destination may put an attempt off by Retry-After
_ASKS_TO_WAIT = (429, 503)


def accepted(status: int) -> bool:
    """Returns whether an answer ends the delivery."""
    return 200 <= status < 300


def delay_after(
    attempt: int,
    *,
    most: int,
    status: int | None,
    retry_after: str | None,
    give_up_on: Collection[int],
    now: datetime,
) -> float | None:
    """Returns the seconds until the next attempt; None if there is none.

    attempt: the number of the attempt that failed, 1 for the first.
    most: the number of attempts that a delivery has.
    status: the HTTP status of the answer; None if there was no answer.
    retry_after: the header Retry-After of the answer.
    give_up_on: the statuses, beside 410, after which there is no other attempt.
    now: the present time, for a Retry-After that is a date.
    """
    if attempt >= most or status == GONE or status in give_up_on:
        return None
    delay = ceiling(attempt, _BASE, _CAP) * random.uniform(1 - _JITTER, 1 + _JITTER)
    if status in _ASKS_TO_WAIT and retry_after is not None and (asked := _seconds(retry_after, now)) is not None:
        # A shorter wait than that of the schedule would soon spend all attempts.
        return min(max(asked, delay), _LONGEST_WAIT)
    return delay


def _seconds(text: str, now: datetime) -> float | None:
    text = text.strip()
    if re.fullmatch(r"[0-9]+", text):
        return float(text)
    try:
        at = parsedate_to_datetime(text)
        return (at if at.tzinfo else at.replace(tzinfo=UTC)).timestamp() - now.timestamp()
    except (ValueError, OverflowError):
        return None
