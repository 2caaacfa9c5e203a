"""What came of an event at one delivery of its message."""

from __future__ import annotations

from enum import StrEnum
from typing import NamedTuple


class Outcome(StrEnum):
    """What came of one delivery."""

    PROCESSED = "processed"
    RETRYING = "retrying"
    DEAD = "dead"
    DUPLICATE = "duplicate"  # its event had ended before
    BUSY = "busy"  # another worker has its event
    EARLY = "early"  # its event's retry is not due yet
    INTERRUPTED = "interrupted"  # PostgreSQL went away, or the daemon stops: no attempt is counted
    UNKNOWN = "unknown"  # no such event here, or no message of ours: left to the redrive policy
    SPLIT = "split"  # of a bundle that came back: its event, if it has not ended, goes on in a message of its own


class Result(NamedTuple):
    """What came of one event, and in how many seconds its message is to come back for it; None: it need not."""

    outcome: Outcome
    again: float | None = None
    attempt: int | None = None  # where deliveries are traced
