"""An event, and its statuses."""

from __future__ import annotations

from dataclasses import dataclass, field
from decimal import Decimal, InvalidOperation
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from webhookd import body

if TYPE_CHECKING:
    from datetime import datetime
    from uuid import UUID


class Status(StrEnum):
    """The state of an event.

    `received`: committed, not yet sent to SQS (the outbox). `queued`: sent. `retrying`: failed at least once, and
    will be tried again. `processed`: its effects are committed. `dead`: given up, with a reason.
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


# The payload's money fields: JSON numbers, which become Decimal even if they are written as integers.
_MONEY = ("authAmount", "amount")
_TOO_MUCH = Decimal(10) ** 15


def load_payload(raw: bytes) -> dict[str, Any]:
    """Returns the `payload` object of a notification's exact bytes, with every fraction and every amount as Decimal.

    A body that an operator released from quarantine is mended as it was then (`webhookd.body`). Returns {} if the payload is
    missing or no object; a number that Decimal cannot hold is NaN. Raises ValueError if `raw` is not JSON, or is nested deeper
    than Python's own limit.
    """
    envelope = body.load(body.read(raw).text)
    payload = envelope.get("payload") if isinstance(envelope, dict) else None
    if not isinstance(payload, dict):
        return {}
    for name in _MONEY:
        value = payload.get(name)
        if isinstance(value, int) and not isinstance(value, bool):
            payload[name] = Decimal(value)
    return payload


def money(value: object) -> Decimal | None:
    """Returns `value` as an amount, or None if it is no number, not finite, or beyond what a ledger could hold."""
    if isinstance(value, bool) or not isinstance(value, (int, str, Decimal)):
        return None
    try:
        amount = Decimal(value)
    except (InvalidOperation, ValueError):
        return None
    # Do not use abs(), which rounds to the context and overflows on a large exponent.
    if not amount.is_finite() or amount.copy_abs() >= _TOO_MUCH or int(amount.as_tuple().exponent) < -8:
        return None
    return amount


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
    raw: bytes  # the exact body that was signed
    _payload: list[dict[str, Any]] = field(default_factory=list, init=False, repr=False, compare=False)

    @property
    def payload(self) -> dict[str, Any]:
        """Returns the notification's `payload` object, money as Decimal. Parses it at the first call."""
        if not self._payload:
            self._payload.append(load_payload(self.raw))
        return self._payload[0]

    def __repr__(self) -> str:  # leaves out the body, which may hold customer data: a repr ends up in logs
        return f"Event(id={self.id!s}, account={self.account!r}, event_type={self.event_type!r}, attempt={self.attempt})"
