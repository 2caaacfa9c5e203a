"""What came of an event at one delivery of its message."""

from __future__ import annotations

from enum import Enum, StrEnum
from typing import NamedTuple

from webhookd.event import Status
from webhookd.store.events import Claimed

BUSY = 1.0  # seconds for each receive so far, until a message comes back whose event another worker has
# A message that was received more often, or work that was sent more often without an attempt that ended, may kill its process.
TRUSTED = 3


class Outcome(StrEnum):
    """What came of one delivery."""

    PROCESSED = "processed"
    RETRYING = "retrying"
    DEAD = "dead"
    DUPLICATE = "duplicate"  # its event had ended before
    STALE = "stale"  # its event waits for a later attempt, which has a message of its own; or it is a copy of no present death
    REDRIVEN = "redriven"  # a dead-letter copy that came back: its event starts anew, with a message of its own
    BUSY = "busy"  # another worker has its event
    INTERRUPTED = "interrupted"  # PostgreSQL went away, or the daemon stops: no attempt is counted
    UNKNOWN = "unknown"  # no such event here, or no message of ours: left to the redrive policy


class Result(NamedTuple):
    """What came of one event, and in how many seconds its message is to come back for it; None: it need not."""

    outcome: Outcome
    again: float | None = None
    attempt: int | None = None  # if deliveries are traced


class Left(Enum):
    """What is left to do for an event that did not end in the transaction that it shared."""

    ALL = "all"
    HANDLERS = "handlers"  # it is on the timeline
    SUSPECT = "suspect"  # so it is, and its handlers may kill the process


def is_suspect(claimed: Claimed) -> bool:
    """Whether work was sent so often without an attempt that ended that it may kill the process that tries it."""
    return claimed.sends > TRUSTED


def standing(claimed: Claimed, attempts: int) -> Outcome | None:
    """What the work's row already says of a delivery whose message was sent after so many `attempts`; None: work on it."""
    if claimed.status.finished:
        return Outcome.DUPLICATE
    # No clock is asked: a sweeper's lease moves the time of a retry that it is sending. Before that lease it has no message.
    if claimed.status is Status.RETRYING and (claimed.attempts != attempts or claimed.sends == 0):
        return Outcome.STALE
    return None
