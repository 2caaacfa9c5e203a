"""The results of work on an event at one delivery of its message."""

from __future__ import annotations

from enum import Enum, StrEnum
from typing import NamedTuple

from webhookd.event import Status
from webhookd.store.event_store import Claimed

# Seconds until a message is visible again if another worker has its event, multiplied by the number of receives so far.
BUSY = 1.0
# Receives of a message, or sends of its work without an attempt that ended. With more, the work may kill the process.
TRUSTED = 3


class Outcome(StrEnum):
    """The outcome of one delivery."""

    PROCESSED = "processed"
    RETRYING = "retrying"
    WAITING = "waiting"  # the event waits for the details of its transaction: no attempt is counted
    DEAD = "dead"
    DUPLICATE = "duplicate"  # the event had ended before
    # The event waits for a later attempt, which has its own message. Or the message is a dead-letter copy that has no valid
    # proof, or that belongs to another death of the event.
    STALE = "stale"
    REDRIVEN = "redriven"  # a dead-letter copy was moved back: its event starts anew, with a message of its own
    BUSY = "busy"  # another worker has the event
    INTERRUPTED = "interrupted"  # PostgreSQL went away, or the daemon stops: no attempt is counted
    UNKNOWN = "unknown"  # the database has no such event, or the message is not webhookd's: it is left to the redrive policy


class Result(NamedTuple):
    """The outcome of one event. `again`: seconds until its message must be visible again; None if it need not be."""

    outcome: Outcome
    again: float | None = None
    attempt: int | None = None  # the attempt's number, for the trace; None if deliveries are not traced


class Left(Enum):
    """The steps that are left for an event that did not end in a shared transaction."""

    ALL = "all"
    HANDLERS = "handlers"  # only the handlers: the event is on the timeline
    SUSPECT = "suspect"  # only the handlers, which may kill the process: the event is on the timeline


def is_suspect(claimed: Claimed) -> bool:
    """Returns whether the work may kill its process, because the work was sent too often without an attempt that ended."""
    return claimed.sends > TRUSTED


def standing(claimed: Claimed, attempts: int) -> Outcome | None:
    """Returns the outcome if the work's row already decides it, else None. `attempts`: the number that the message names."""
    if claimed.status.finished:
        return Outcome.DUPLICATE
    # Do not compare `due` with the time: a sweeper moves `due` when it leases a retry. Until then, a retry has no message.
    if claimed.status is Status.RETRYING and (claimed.attempts != attempts or claimed.sends == 0):
        return Outcome.STALE
    return None
