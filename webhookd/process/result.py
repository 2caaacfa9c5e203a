"""What came of an event at one delivery of its message."""

from __future__ import annotations

from enum import Enum, StrEnum
from typing import NamedTuple

from webhookd.store.events import Claimed

BUSY = 1.0  # seconds for each receive so far, until a message comes back whose event another worker has
_EARLY = 0.5  # seconds: a retry that comes back this little before its time is not sent away again


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


class Left(Enum):
    """What is left to do for an event that did not end in the transaction that it shared."""

    ALL = "all"
    HANDLERS = "handlers"  # it is on the timeline


def standing(claimed: Claimed) -> Outcome | None:
    """What an event's row already says of this delivery; None if the event is to be worked on."""
    if claimed.status.finished:
        return Outcome.DUPLICATE
    if claimed.wait > _EARLY:
        return Outcome.EARLY
    return None
