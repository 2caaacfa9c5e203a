"""Failed attempts, and the reasons why they failed."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass

from webhookd.errors import BusyError, DetailsNotYetError, Permanent, Retryable, UnavailableError, WebhookdError
from webhookd.process.handlers import Registration
from webhookd.process.retry import USUAL, Retry
from webhookd.store.event_store import Claimed
from webhookd.store.failures import unavailable
from webhookd.telemetry.frames import origin
from webhookd.telemetry.logs import where

_LONGEST = 1400  # characters of an exception's message: its handler and its place must fit behind it into 2000 characters


class TransactionEndedError(Exception):
    """A handler ended the transaction that it was given, so the handler's effects no longer commit with the event."""

    def __init__(self) -> None:
        super().__init__("a handler committed or rolled back the transaction of the connection that it was given")


class HandlerTimeoutError(Retryable):
    """Handlers took longer than their time, and ended when they were cancelled."""


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
    error: str  # the exception's type, place and causes, without its message: for logs, and for the dead-letter queue
    detail: str  # the exception's type and message, the handler and the place: for the audit trail alone
    final: Final | None = None
    after: float | None = None  # the delay in seconds that the handler asked for; None if it asked for none
    retry: Retry = USUAL  # the policy of the handler that failed
    handler: str | None = None  # the name of the handler that failed; None if no handler failed
    waits_for: str | None = None  # the transaction whose details the handlers lack: the attempt has not failed
    origin: str = ""  # the place in the user's code, the place that raised the exception, and the types of its causes

    @classmethod
    def of(
        cls, error: BaseException, retry: Retry = USUAL, *, by: Registration | None = None, place: str | None = None
    ) -> Failure:
        """Returns the failure that `error` means. Trusts nothing in `error`: a user's exception class can do anything.

        `by`: the handler that failed; its retry policy decides. `place`: the `origin`, if `error` does not show it.
        """
        final = after = waits_for = None
        if isinstance(error, Permanent):
            final = Final("permanent", error.reason)
        elif isinstance(error, TransactionEndedError):
            # The handler's effects may be committed, so another attempt could double them.
            final = Final("transaction_ended", str(error))
        elif isinstance(error, Retryable):
            after = error.after
        elif isinstance(error, DetailsNotYetError):
            waits_for = error.transaction_id
        kind = type(error).__qualname__
        if by is None:
            return cls(kind, where(error), _told(error), final, after, retry, waits_for=waits_for)
        place = origin(error, by.package) if place is None else place
        detail = f"{_told(error)[:_LONGEST]} [handler {by.name}{place}]"
        return cls(kind, f"{kind}{place}", detail, final, after, by.retry, by.name, waits_for, place)


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
