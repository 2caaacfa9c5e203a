"""Failed attempts, and the reasons why they failed."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass

from webhookd.errors import BusyError, Permanent, Retryable, UnavailableError, WebhookdError
from webhookd.process.retry import USUAL, Retry
from webhookd.store.event_store import Claimed
from webhookd.store.failures import unavailable
from webhookd.telemetry.logs import where


class TransactionEndedError(Exception):
    """A handler ended the transaction that it was given, so the handler's effects no longer commit with the event."""

    def __init__(self) -> None:
        super().__init__("a handler committed or rolled back the transaction of the connection that it was given")


class StuckError(Exception):
    """Handlers did not end when they were cancelled, so their connection was cut."""


@dataclass(slots=True, frozen=True)
class Final:
    """The reason why no later attempt may follow."""

    code: str  # the reason as one word, for metrics and logs
    reason: str  # the reason in words; the dead-letter copy holds it too


@dataclass(slots=True, frozen=True)
class Failure:
    """The reason of a failed attempt, as texts: an exception would keep its frames and the handler's variables in memory."""

    kind: str  # the exception's type
    error: str  # the exception's type and place, without its message: for logs, and for the dead-letter queue
    detail: str  # the exception's type and message: for the audit trail alone
    final: Final | None = None
    after: float | None = None  # the delay in seconds that the handler asked for; None if it asked for none
    retry: Retry = USUAL  # the policy of the handler that failed

    @classmethod
    def of(cls, error: BaseException, retry: Retry = USUAL) -> Failure:
        """Returns the failure that `error` means. Trusts nothing in `error`: a user's exception class can do anything."""
        final = after = None
        if isinstance(error, Permanent):
            final = Final("permanent", error.reason)
        elif isinstance(error, TransactionEndedError):
            # The handler's effects may be committed, so another attempt could double them.
            final = Final("transaction_ended", str(error))
        elif isinstance(error, Retryable):
            after = error.after
        return cls(type(error).__qualname__, where(error), _told(error), final, after, retry)


class AttemptFailedError(WebhookdError):
    """An attempt failed: this error rolls the transaction back, and carries the failure to the code that records it."""

    def __init__(self, claimed: Claimed, failure: Failure) -> None:
        super().__init__(failure.error)
        self.claimed = claimed
        self.failure = failure


@contextlib.contextmanager
def attempting(claimed: Claimed) -> Iterator[None]:
    """Turns an error inside into a failed attempt, unless PostgreSQL is away or another worker has the lock."""
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
