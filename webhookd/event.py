"""An event, and its statuses."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Literal

from webhookd.authorizenet.details import transaction_of
from webhookd.authorizenet.payload import load_payload
from webhookd.errors import DetailsNotYetError, Permanent

if TYPE_CHECKING:
    from datetime import datetime
    from uuid import UUID

    from webhookd.authorizenet.details import Details


# In place of a key's fingerprint: the event was taken from the provider's history, or webhookd made it of what it found out.
HISTORY = "history"
SYNTHETIC = "synthetic"
Origin = Literal["webhook", "history", "synthetic", "import"]


def origin_of(key_fingerprint: str | None) -> Origin:
    """Returns the origin of an event. `key_fingerprint`: of the key that verified its body; empty if no key did."""
    if key_fingerprint == HISTORY:
        return "history"
    if key_fingerprint == SYNTHETIC:
        return "synthetic"
    return "import" if key_fingerprint == "" else "webhook"


class Status(StrEnum):
    """The state of an event.

    `received`: committed, not yet sent to SQS (the outbox). `queued`: sent. `retrying`: failed at least once, or
    waits for details, and will be tried again. `processed`: its effects are committed. `dead`: given up, with a reason.
    """

    RECEIVED = "received"
    QUEUED = "queued"
    RETRYING = "retrying"
    PROCESSED = "processed"
    DEAD = "dead"

    @property
    def finished(self) -> bool:
        """Returns whether only an operator's action leaves this status."""
        return self in (Status.PROCESSED, Status.DEAD)


@dataclass(slots=True)
class _Beside:
    """The parts of an event that come or are made after the event itself.

    missed: whether a handler asked for details that were not there.
    """

    payload: dict[str, Any] | None = None
    details: Details | None = None
    missed: bool = False


@dataclass(slots=True, frozen=True)
class Event:
    """One authentic notification, as a handler gets it."""

    id: UUID  # webhookd's own id. All attempts have the same id, so it can be the idempotency key for calls to other systems
    account: str
    notification_id: str  # the provider's id of the notification, in lower case
    event_type: str
    event_date: datetime | None  # by the provider's clock, in UTC; None if the field was missing or odd
    received_at: datetime  # by PostgreSQL's clock
    attempt: int  # number of the attempt, 1 for the first
    # The exact body that was signed; of an event from the history, the provider's answer, which has the same fields; of a
    # synthetic event, the body that webhookd made.
    raw: bytes
    # `webhook`; `history`, if no webhook came, and webhookd took the event from the provider; `synthetic`, if webhookd made the
    # event of what no webhook reports; `import`, without a signature
    origin: Origin = "webhook"
    _beside: _Beside = field(default_factory=_Beside, init=False, repr=False, compare=False)

    @property
    def verified(self) -> bool:
        """Returns whether a Signature Key verified `raw`. Of other origins, only an import may have come from somebody else."""
        return self.origin == "webhook"

    @property
    def payload(self) -> dict[str, Any]:
        """Returns the notification's `payload` object, money as Decimal. Parses it at the first call."""
        if self._beside.payload is None:
            self._beside.payload = load_payload(self.raw)
        return self._beside.payload

    def details(self) -> Details:
        """Returns the details of the event's transaction. They come from Authorize.Net's API, and have no customer data.

        If the details have not come yet, the call ends the attempt: let its exception pass. Whatever the handlers have done is
        rolled back, and webhookd runs them again when the details come. Such an attempt is not counted. With
        `@on(…, details=True)`, the handlers wait for the details before they run.

        Raises Permanent if the event is not about a transaction.
        """
        if self._beside.details is None:
            transaction_id = transaction_of(self.payload)
            if transaction_id is None:
                raise Permanent(
                    f"this event of the type {self.event_type} has no details: it names no transaction, or is a test"
                )
            self._beside.missed = True
            raise DetailsNotYetError(transaction_id)
        return self._beside.details

    def __repr__(self) -> str:  # leaves out the body, which may hold customer data: a repr ends up in logs
        return f"Event(id={self.id!s}, account={self.account!r}, event_type={self.event_type!r}, attempt={self.attempt})"


def give_details(event: Event, details: Details) -> None:
    """Gives an event its details, before its handlers run."""
    event._beside.details = details


def details_beside(event: Event) -> Details | None:
    """Returns the details that an event has, if it has any."""
    return event._beside.details


def missed_details(event: Event) -> bool:
    """Returns whether a handler asked for details that the event does not have."""
    return event._beside.missed
