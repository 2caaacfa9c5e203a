"""webhookd's own errors. Vendor exceptions end at the gateway modules; above them, only these errors occur."""

from __future__ import annotations

from enum import StrEnum


def causes_of(error: BaseException | None) -> list[BaseException]:
    """Returns an error and the errors that led to it, the nearest first. A chain that is a circle ends."""
    found: list[BaseException] = []
    while error is not None and all(error is not one for one in found):
        found.append(error)
        error = error.__cause__ or error.__context__
    return found


class WebhookdError(Exception):
    """The base of every error that webhookd raises on purpose. The message says what to do."""


class SettingsError(WebhookdError):
    """A setting, or a combination of settings, cannot work; the message names each setting and the remedy."""


class HandlerError(SettingsError, TypeError):
    """A handler or a hook, or its registration, cannot work; the message names the function, its place and the remedy.

    The class is a TypeError, too, because 0.3.0 raised this error for a function that is no coroutine function.
    """


class HookError(WebhookdError):
    """A hook cannot start, or is not running; the message names the hook, and quotes no message of its exception."""


class UnavailableError(WebhookdError):
    """A dependency did not answer, or refused, in a way that another try can mend.

    `dependency` is "postgresql", "redis" or "sqs".
    """

    def __init__(self, dependency: str, reason: str) -> None:
        super().__init__(f"{dependency} is unavailable: {reason}")
        self.dependency = dependency


class LeaseEndedError(WebhookdError):
    """The lease of an account ended: another replica asks the provider for the account now, or soon."""

    def __init__(self) -> None:
        super().__init__("the lease of the account ended")


class RefusedError(UnavailableError):
    """A dependency answers, and refuses the requests of all callers: no work in hand is the reason."""


class MessageRefusedError(WebhookdError):
    """The queue refuses a message because of the message itself: another try alone changes nothing. `code` is the queue's."""

    def __init__(self, code: str) -> None:
        super().__init__(f"the queue refuses the message: {code}")
        self.code = code


class MessageGoneError(WebhookdError):
    """A receiver has lost its message: the message was deleted, or was visible again for too long. `code` is the queue's."""

    def __init__(self, code: str) -> None:
        super().__init__(f"the message is no longer this receiver's: {code}")
        self.code = code


class OverloadedError(WebhookdError):
    """More work is pending than the bound allows; the caller should try again later."""


class BusyError(WebhookdError):
    """Another worker has the event in hand; the caller should look at the event again later."""


class NotFoundError(WebhookdError):
    """An operator named something that is not there."""


class ConflictError(WebhookdError):
    """An operator's request cannot be done in the present state; the message says why."""


class Unusable(StrEnum):
    """The reason why an authentic body cannot become an event."""

    NOT_JSON = "not_json"
    NOT_OBJECT = "not_object"
    NO_NOTIFICATION_ID = "no_notification_id"
    NO_EVENT_TYPE = "no_event_type"
    UNSTORABLE = "unstorable"
    TOO_OLD = "too_old"
    IN_THE_FUTURE = "in_the_future"


class UnusableError(WebhookdError):
    """An authentic body that cannot become an event: it goes to quarantine."""

    def __init__(self, reason: Unusable, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason
        self.detail = detail


class Retryable(WebhookdError):  # noqa: N818  part of the handler contract, named for what it asks
    """A handler's request to try this event again, `after` seconds from now, or by the usual backoff if `after` is None."""

    def __init__(self, reason: str = "the handler asked for another try", *, after: float | None = None) -> None:
        super().__init__(reason)
        if after is not None and not isinstance(after, (int, float)):
            raise TypeError(f"after is a number of seconds, and is {after!r}")
        self.after = after


class Permanent(WebhookdError):  # noqa: N818  part of the handler contract, named for what it says
    """A handler's report that no later try can succeed. The event is dead at once, with `reason`."""

    def __init__(self, reason: object) -> None:
        super().__init__(reason)
        self.reason = str(reason)


class DetailsNotYetError(WebhookdError):
    """A handler asked for details that webhookd does not have yet. webhookd runs the handlers again when the details come."""

    def __init__(self, transaction_id: str) -> None:
        super().__init__(f"the details of transaction {transaction_id} have not come yet")
        self.transaction_id = transaction_id


class SignatureError(WebhookdError):
    """A body is not proven to be authentic. `outcome` is "missing", "malformed" or "mismatch"."""

    def __init__(self, outcome: str) -> None:
        super().__init__(f"the signature is {outcome}" if outcome != "mismatch" else "no key gives this signature")
        self.outcome = outcome
