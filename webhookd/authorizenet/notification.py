"""A notification's envelope, with the fields that the receiver stores in columns, and the provider's event types."""

from __future__ import annotations

import difflib
from datetime import UTC, datetime
from typing import Any, NamedTuple

import orjson

from webhookd.authorizenet import body as bodies
from webhookd.authorizenet.content import content_key
from webhookd.errors import Unusable, UnusableError
from webhookd.settings.synthetic_types import SYNTHETIC_PREFIX, SyntheticType

PREFIX = "net.authorize."  # the beginning of every event type of the provider
EVENT_TYPES: tuple[str, ...] = tuple(
    PREFIX + name
    for name in (
        "payment.authorization.created",
        "payment.authcapture.created",
        "payment.capture.created",
        "payment.priorAuthCapture.created",
        "payment.refund.created",
        "payment.void.created",
        "payment.fraud.held",
        "payment.fraud.approved",
        "payment.fraud.declined",
        "customer.created",
        "customer.updated",
        "customer.deleted",
        "customer.paymentProfile.created",
        "customer.paymentProfile.updated",
        "customer.paymentProfile.deleted",
        "customer.subscription.created",
        "customer.subscription.updated",
        "customer.subscription.suspended",
        "customer.subscription.terminated",
        "customer.subscription.cancelled",
        "customer.subscription.expiring",
        "customer.subscription.failed",
        "customer.subscription.expired",
    )
)
_KNOWN = frozenset(EVENT_TYPES)
_SPELLINGS = {name.lower(): name for name in EVENT_TYPES}
_ENTITY_NAMES = {name.lower(): name for name in ("transaction", "subscription", "customerProfile", "customerPaymentProfile")}
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"
_EXACT = 2.0**53  # below this a float holds every whole number
_LONGEST = 200  # characters of any text in a column: an index could not hold a longer text
_LONGEST_WEBHOOK = 64  # characters of a webhook's id, as of every id that a call of the provider can name


def label(event_type: str) -> str:
    """Returns the label of `event_type` for a metric. Unknown types share "other", so that nobody can make labels at will."""
    return event_type if event_type in _KNOWN else "other"


def canonical(event_type: str) -> str:
    """Returns the event type in the provider's own spelling. An unknown type stays as it is."""
    return event_type if event_type in _KNOWN else _SPELLINGS.get(event_type.lower(), event_type)


def whole_pattern(pattern: str) -> str:
    """Returns the full pattern of event types: `net.authorize.` may be left out, as in `payment.*`. `*` stands for any text.

    The types of synthetic events begin with `webhookd.`, which may not be left out.
    """
    start, _, _ = pattern.partition("*")
    # `net*` and `*` begin like the prefix, so they need no prefix.
    whole = start.startswith(("net.", SYNTHETIC_PREFIX)) or PREFIX.startswith(start)
    return pattern if whole else PREFIX + pattern


def nearest_type(pattern: str, *, synthetic: bool = False) -> str:
    """Returns the known event type that is most like `pattern`, or a pattern of known types if `pattern` has a `*`.

    `net.authorize.` is left out if `pattern` leaves it out.
    synthetic: whether a pattern that begins as the types of synthetic events do means one of these.
    """
    known: list[str] = list(EVENT_TYPES)
    if synthetic and pattern.startswith(SYNTHETIC_PREFIX):
        known = [one.value for one in SyntheticType]
    if "*" in pattern:
        known = sorted({f"{name[:dot]}.*" for name in known for dot in range(len(PREFIX), len(name)) if name[dot] == "."})
    by_spelling = {name.lower(): name for name in known}
    (found,) = difflib.get_close_matches(whole_pattern(pattern).lower(), by_spelling, n=1, cutoff=0.0)
    name = by_spelling[found]
    return name if pattern.startswith(PREFIX) else name.removeprefix(PREFIX)


class Notification(NamedTuple):
    """The fields of a notification that the ledger stores. All but the first two may be missing."""

    notification_id: str  # in lower case
    event_type: str
    event_date: datetime | None  # UTC
    entity_name: str | None
    entity_id: str | None
    invoice_number: str | None
    merchant_reference: str | None
    content_key: bytes | None  # 16 bytes; None for the reasons that `content_key` names


def parse(body: bytes, account: str) -> Notification:
    """Parses the envelope of an authentic body. Raises UnusableError, and no other error, whatever the bytes are.

    `notificationId` and `eventType` are required. Another field with an odd value counts as missing.
    """
    # The code that reads the payload for a handler skips a byte order mark too.
    text = body.removeprefix(_BYTE_ORDER_MARK)
    try:
        envelope = orjson.loads(text)
    except (ValueError, RecursionError) as error:
        raise UnusableError(Unusable.NOT_JSON, bodies.why_unreadable(body, error)) from error
    return _notification(envelope, text, account)


def parse_mended(body: bytes, account: str) -> tuple[Notification, tuple[str, ...]]:
    """Parses a body like `parse`, and also a body that can be mended. Returns the mendings too, in the words of `body.read`."""
    try:
        return parse(body, account), ()
    except UnusableError as error:
        if error.reason is not Unusable.NOT_JSON:
            raise
        text, mended = bodies.read(body)
        try:
            envelope = bodies.load(text)
        except ValueError:
            raise error from None
    return _notification(envelope, text.encode(), account), mended


def _notification(envelope: Any, text: bytes, account: str) -> Notification:
    if not isinstance(envelope, dict):
        raise UnusableError(Unusable.NOT_OBJECT, "the body is JSON, but no object")
    notification_id = _required(envelope, "notificationId", Unusable.NO_NOTIFICATION_ID).lower()
    event_type = canonical(_required(envelope, "eventType", Unusable.NO_EVENT_TYPE))
    if len(notification_id) > _LONGEST:  # checked again, because lower case can make a text longer
        raise UnusableError(Unusable.UNSTORABLE, "notificationId is too long")
    event_date = _date(envelope.get("eventDate"))
    raw_payload = envelope.get("payload")
    payload: dict[str, Any] = raw_payload if isinstance(raw_payload, dict) else {}
    entity_name = _text(payload.get("entityName"))
    return Notification(
        notification_id=notification_id,
        event_type=event_type,
        event_date=event_date,
        entity_name=entity_name and _ENTITY_NAMES.get(entity_name.lower(), entity_name),
        entity_id=_text(payload.get("id")),
        invoice_number=_text(payload.get("invoiceNumber")),
        merchant_reference=_text(payload.get("merchantReferenceId")),
        content_key=content_key(text, account, event_type, event_date, envelope),
    )


def _required(envelope: dict[str, Any], name: str, reason: Unusable) -> str:
    value = envelope.get(name)
    if not isinstance(value, str) or not value.strip():
        raise UnusableError(reason, f"{name} is missing, empty or not text")
    value = value.strip()
    if not _storable(value):
        raise UnusableError(Unusable.UNSTORABLE, f"{name} is longer than {_LONGEST} characters, or holds U+0000 or U+001F")
    return value


def _text(value: object) -> str | None:
    """Returns a text without the white space around it, a whole number (7 or 7.0) as text, and None for other values."""
    if isinstance(value, float) and value.is_integer() and abs(value) < _EXACT:
        value = int(value)
    if isinstance(value, int) and not isinstance(value, bool):
        value = str(value)
    if not isinstance(value, str):
        return None
    text = value.strip()
    return text if text and _storable(text) else None


def _storable(text: str) -> bool:
    # PostgreSQL cannot store U+0000. U+001F separates the texts of a column that a statement gets as one text.
    return len(text) <= _LONGEST and "\x00" not in text and "\x1f" not in text


def _date(value: object) -> datetime | None:
    """Parses an ISO date with any number of fractional digits. A date without a zone is UTC, as in the provider's history."""
    if not isinstance(value, str):
        return None
    try:
        date = datetime.fromisoformat(value.strip())
        if date.tzinfo is UTC:
            return date
        return date.replace(tzinfo=UTC) if date.tzinfo is None else date.astimezone(UTC)
    except (ValueError, OverflowError):
        return None


def webhook_of(envelope: Any) -> str | None:
    """Returns the id of the webhook that a notification names, in lower case; None if it names none, or what can be none."""
    named = envelope.get("webhookId") if isinstance(envelope, dict) else None
    if not isinstance(named, str) or not named.isprintable():  # PostgreSQL cannot store U+0000
        return None
    found = named.strip().lower()
    return found if 0 < len(found) <= _LONGEST_WEBHOOK else None


def check_age(event_date: datetime | None, now: datetime, max_age: float, max_skew: float) -> None:
    """Raises UnusableError (TOO_OLD, IN_THE_FUTURE) for a date outside the limits (seconds). A missing date is accepted."""
    if event_date is None:
        return
    age = (now - event_date).total_seconds()
    if age > max_age or age < -max_skew:
        reason = Unusable.TOO_OLD if age > 0 else Unusable.IN_THE_FUTURE
        raise UnusableError(reason, f"eventDate {event_date:%Y-%m-%dT%H:%M:%SZ} is outside the accepted window")
