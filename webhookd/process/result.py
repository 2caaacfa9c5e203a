"""The results of work on an event at one delivery of its message."""

from __future__ import annotations

from enum import Enum, StrEnum
from typing import NamedTuple

from webhookd.event import Status
from webhookd.store.events import Claimed

BUSY = 1.0  # seconds for each receive so far, until a message is visible again if another worker has its event
# A message that was received more often, or work that was sent more often without an attempt that ended, may kill its process.
TRUSTED = 3


class Outcome(StrEnum):
    """The outcome of one delivery."""

    PROCESSED = "processed"
    RETRYING = "retrying"
    DEAD = "dead"
    DUPLICATE = "duplicate"  # the event had ended before
    STALE = "stale"  # the event waits for a later attempt with its own message; or a copy is unproven, or of another death
    REDRIVEN = "redriven"  # a dead-letter copy was moved back: its event starts anew, with a message of its own
    BUSY = "busy"  # another worker has the event
    INTERRUPTED = "interrupted"  # PostgreSQL went away, or the daemon stops: no attempt is counted
    UNKNOWN = "unknown"  # the database has no such event, or the message is not webhookd's: left to the redrive policy


class Result(NamedTuple):
    """The outcome of one event. `again`: seconds until its message must be visible again; None if it need not be."""

    outcome: Outcome
    again: float | None = None
    attempt: int | None = None  # the attempt's number, if deliveries are traced


class Left(Enum):
    """The steps that are left for an event that did not end in a shared transaction."""

    ALL = "all"
    HANDLERS = "handlers"  # the event is on the timeline
    SUSPECT = "suspect"  # the event is on the timeline, and its handlers may kill the process


def is_suspect(claimed: Claimed) -> bool:
    """Returns whether work may kill the process that tries it: it was sent too often without an attempt that ended."""
    return claimed.sends > TRUSTED


def standing(claimed: Claimed, attempts: int) -> Outcome | None:
    """Returns the outcome if the work's row already decides it, else None. `attempts`: the number that the message names."""
    if claimed.status.finished:
        return Outcome.DUPLICATE
    # No time decides: a sweeper that sends a retry moves the retry's `due`. Before that lease, a retry has no message.
    if claimed.status is Status.RETRYING and (claimed.attempts != attempts or claimed.sends == 0):
        return Outcome.STALE
    return None
