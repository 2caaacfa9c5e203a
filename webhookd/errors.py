"""webhookd's own errors. Vendor exceptions end at the gateway modules; above them there are only these."""

from __future__ import annotations

from enum import StrEnum


class WebhookdError(Exception):
    """Base of every error that webhookd raises on purpose; its message says what to do."""


class SettingsError(WebhookdError):
    """A setting, or a combination of settings, cannot work; the message names each setting and the remedy."""


class UnavailableError(WebhookdError):
    """A dependency did not answer, or refused, in a way that another try can mend.

    `dependency` is "postgresql", "redis" or "sqs".
    """

    def __init__(self, dependency: str, reason: str) -> None:
        super().__init__(f"{dependency} is unavailable: {reason}")
        self.dependency = dependency


class RefusedError(UnavailableError):
    """A dependency answers, and refuses what everybody asks of it: nothing that is in hand is the reason."""


class MessageRefusedError(WebhookdError):
    """The queue refuses a message for what the message is: another try changes nothing by itself. `code` is the queue's."""

    def __init__(self, code: str) -> None:
        super().__init__(f"the queue refuses the message: {code}")
        self.code = code


class MessageGoneError(WebhookdError):
    """Its receiver has lost a message: it was deleted, or was visible again for too long. `code` is the queue's."""

    def __init__(self, code: str) -> None:
        super().__init__(f"the message is no longer this receiver's: {code}")
        self.code = code


class OverloadedError(WebhookdError):
    """More work is pending than the bound allows; the caller should try again later."""


class BusyError(WebhookdError):
    """Another worker has the event in hand; it is to be looked at again later."""


class NotFoundError(WebhookdError):
    """An operator named something that is not there."""


class ConflictError(WebhookdError):
    """What an operator asked for cannot be done as things stand; the message says why."""


class Unusable(StrEnum):
    """Why an authentic body cannot become an event."""

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
    """Raised by a handler: try this event again, `after` seconds from now, or by the usual backoff when None."""

    def __init__(self, reason: str = "the handler asked for another try", *, after: float | None = None) -> None:
        super().__init__(reason)
        if after is not None and not isinstance(after, (int, float)):
            raise TypeError(f"after is a number of seconds, and is {after!r}")
        self.after = after


class Permanent(WebhookdError):  # noqa: N818  part of the handler contract, named for what it says
    """Raised by a handler: no later try can succeed; the event is dead at once, with `reason`."""

    def __init__(self, reason: object) -> None:
        super().__init__(reason)
        self.reason = str(reason)


class SignatureError(WebhookdError):
    """A body that is not shown to be authentic. `outcome` is "missing", "malformed" or "mismatch"."""

    def __init__(self, outcome: str) -> None:
        super().__init__(f"the signature is {outcome}" if outcome != "mismatch" else "no key gives this signature")
        self.outcome = outcome
