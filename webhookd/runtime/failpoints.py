"""Failpoints: places where a crash could lose or double something, and where a test makes the process crash.

A failpoint is off unless WEBHOOKD_FAILPOINTS names it. `tests/faults` kills a daemon at each one, and counts what is left.
"""

from __future__ import annotations

import os
import signal
from enum import StrEnum

from webhookd.errors import SettingsError


class Failpoint(StrEnum):
    """Every failpoint, along the way of an event."""

    RECEIVE_BEFORE_COMMIT = "receive.before-commit"
    RECEIVE_AFTER_COMMIT = "receive.after-commit"  # the events are committed, and no request is answered yet
    RECEIVE_AFTER_ANSWER = "receive.after-answer"
    QUARANTINE_AFTER_COMMIT = "quarantine.after-commit"
    REDIS_AFTER_WRITE = "redis.after-write"  # Redis took a batch of marks, claims or releases
    RELAY_BEFORE_SEND = "relay.before-send"
    RELAY_AFTER_SEND = "relay.after-send"  # SQS has the messages, and PostgreSQL does not know yet that they were sent
    RELAY_AFTER_RECORD = "relay.after-record"
    SWEEPER_AFTER_CLAIM = "sweeper.after-claim"  # a sweeper has leased the work, and has not sent it
    WORKER_AFTER_CLAIM = "worker.after-claim"  # the worker has the claim in Redis, and has done nothing else
    WORKER_AFTER_FOLD = "worker.after-fold"  # the event is on the timeline, and its handlers have not begun
    WORKER_AFTER_HANDLERS = "worker.after-handlers"  # the handlers' effects are written, and not committed
    WORKER_AFTER_COMMIT = "worker.after-commit"  # effects and status are committed, and the message is not deleted
    WORKER_AFTER_RETRY = "worker.after-retry"  # the failed attempt is recorded, and the message is not deleted
    WORKER_AFTER_DEATH = "worker.after-death"  # the event is `dead`, and has no copy in the dead-letter queue
    LEASES_AFTER_EXTENSION = "leases.after-extension"
    ACKS_BEFORE_DELETE = "acks.before-delete"
    ACKS_AFTER_DELETE = "acks.after-delete"
    DELIVER_AFTER_ANSWER = "deliver.after-answer"  # a destination has answered, and PostgreSQL does not know it yet
    DEAD_LETTERS_AFTER_COPY = "dead-letters.after-copy"  # the copy is sent, and PostgreSQL does not know it yet
    DEAD_LETTERS_AFTER_PUT_BACK = "dead-letters.after-put-back"  # the work is put back, and its message is not deleted
    ALERTS_AFTER_SEND = "alerts.after-send"  # a channel has the message, and PostgreSQL does not know yet that it was sent
    SYNC_AFTER_DETAILS = "sync.after-details"  # the facts of a transaction are stored, and the events that want them still wait
    SHUTDOWN_REFUSING = "shutdown.refusing"  # readiness is off, and requests are under way
    SHUTDOWN_ANSWERED = "shutdown.answered"  # every request is answered, and workers still work
    SHUTDOWN_DRAINED = "shutdown.drained"  # the workers have ended, and acknowledgements are pending
    SHUTDOWN_FLUSHED = "shutdown.flushed"


NAMES = tuple(Failpoint)

_left: dict[Failpoint, int] = {}  # armed failpoint → how many more passes until the process dies


def arm(text: str) -> None:
    """Arms failpoints: `name:nth`, comma-separated. The process dies at the nth pass, by default the first.

    Raises SettingsError if a name is unknown, or `nth` is no number.
    """
    _left.clear()
    for part in filter(None, (part.strip() for part in text.split(","))):
        name, _, nth = part.partition(":")
        try:
            _left[Failpoint(name)] = int(nth or 1)
        except ValueError:
            known = ", ".join(NAMES)
            raise SettingsError(f"WEBHOOKD_FAILPOINTS: {part!r} is not name or name:number; names are {known}") from None


def armed(point: Failpoint) -> bool:
    """Returns whether a crash is to come at `point`."""
    return point in _left


def reach(point: Failpoint) -> None:
    """Kills the process, as kill -9 does, if `point` is armed and this is its pass."""
    if not _left or point not in _left:
        return
    _left[point] -= 1
    if _left[point] == 0:
        os.write(2, f'{{"message":"killed at a failpoint","failpoint":"{point}"}}\n'.encode())
        os.kill(os.getpid(), signal.SIGKILL)
