"""A failed attempt, and why it failed."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass

from webhookd.errors import BusyError, Permanent, Retryable, UnavailableError, WebhookdError
from webhookd.logs import where
from webhookd.process.retry import USUAL, Retry
from webhookd.store.events import Claimed
from webhookd.store.failures import unavailable


class TransactionEndedError(Exception):
    """A handler ended the transaction that it was given, so its effects no longer commit with the event."""

    def __init__(self) -> None:
        super().__init__("a handler committed or rolled back the transaction of the connection that it was given")


class StuckError(Exception):
    """Handlers that do not end when they are cancelled; their connection was cut."""


@dataclass(slots=True, frozen=True)
class Final:
    """Why no later attempt may follow."""

    code: str  # in metrics and logs
    reason: str  # goes to the dead-letter queue


@dataclass(slots=True, frozen=True)
class Failure:
    """Why an attempt failed, as texts: an exception keeps its frames alive, and all that a handler's variables hold."""

    kind: str  # the exception's type
    error: str  # its type and its place, without its message: for logs, and for the dead-letter queue
    detail: str  # its type and its message: for the audit trail alone
    final: Final | None = None
    after: float | None = None  # seconds that the handler asked for
    retry: Retry = USUAL  # of the handler that failed

    @classmethod
    def of(cls, error: BaseException, retry: Retry = USUAL) -> Failure:
        """What `error` says. A user's exception class can do anything, so nothing of it is trusted."""
        final = after = None
        if isinstance(error, Permanent):
            final = Final("permanent", error.reason)
        elif isinstance(error, TransactionEndedError):
            # Its effects may be committed, so another attempt could double them.
            final = Final("transaction_ended", str(error))
        elif isinstance(error, Retryable):
            after = error.after
        return cls(type(error).__qualname__, where(error), _told(error), final, after, retry)


class AttemptFailedError(WebhookdError):
    """Rolls the attempt's transaction back, and carries the failure to where it is recorded."""

    def __init__(self, claimed: Claimed, failure: Failure) -> None:
        super().__init__(failure.error)
        self.claimed = claimed
        self.failure = failure


@contextlib.contextmanager
def attempting(claimed: Claimed) -> Iterator[None]:
    """Turns what goes wrong inside into a failed attempt; PostgreSQL away or another worker's lock is none."""
    try:
        yield
    except (AttemptFailedError, BusyError, UnavailableError):
        raise
    except Exception as error:
        if unavailable(error):
            raise
        raise AttemptFailedError(claimed, Failure.of(error)) from error


def _told(error: BaseException) -> str:
    try:
        message = str(error)
    except Exception:  # noqa: BLE001  a user's exception class can do anything
        message = "(its message cannot be read)"
    return f"{type(error).__qualname__}: {message}" if message else type(error).__qualname__
