"""Shapes that several routes share: how an event, a body and a problem look in JSON."""

from __future__ import annotations

import base64
import re
from datetime import UTC, datetime
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, PlainSerializer, StringConstraints

from webhookd.admin.route import Shape
from webhookd.authorizenet import body
from webhookd.operate.cursor import PATTERN

_TIME = re.compile(r"\d{4}-\d\d-\d\d[Tt ]\d\d:\d\d:\d\d(\.\d+)?([Zz]|[+-]\d\d:\d\d)")
_ERROR = 300  # characters


def _time(value: object) -> object:
    if not isinstance(value, str):
        return value
    if not _TIME.fullmatch(value):
        raise ValueError("must be a time with its zone, such as 2026-01-31T12:00:00Z")
    return datetime.fromisoformat(value.upper())


def _zulu(value: datetime) -> str:
    return value.astimezone(UTC).isoformat().replace("+00:00", "Z")


def _is_boolean(value: object) -> object:
    if isinstance(value, str) and value not in ("true", "false"):
        raise ValueError("must be true or false")
    return value


def _is_number(value: object) -> object:
    if isinstance(value, str) and not re.fullmatch(r"-?[0-9]{1,18}", value):
        raise ValueError("must be a whole number")
    return value


def _whole(value: object) -> object:
    return int(value) if isinstance(value, float) and value.is_integer() else value


StatusName = Literal["received", "queued", "retrying", "processed", "dead"]
Time = Annotated[datetime, PlainSerializer(_zulu, return_type=str), Field(json_schema_extra={"format": "date-time"})]
GivenTime = Annotated[datetime, BeforeValidator(_time)]
Boolean = Annotated[bool, BeforeValidator(_is_boolean)]
# No control characters: PostgreSQL cannot store U+0000, and nobody sends the others on purpose.
Text = Annotated[str, StringConstraints(min_length=1, max_length=200, pattern="^[^\\u0000-\\u001f\\u007f]+$")]
Note = Annotated[str, StringConstraints(max_length=500, pattern="^[^\\u0000-\\u0008\\u000b-\\u001f\\u007f]*$")]

# `*`, `net.*`, `net.authorize.*` and the like choose every event.
_EVERY_TYPE = r"\**(" + "|".join(re.escape("net.authorize."[:length]) for length in range(15)) + r")\*+"


def _narrows(value: object) -> object:
    if isinstance(value, str) and re.fullmatch(_EVERY_TYPE, value):
        raise ValueError("matches every event; name a type, or leave this filter out and choose every event explicitly")
    return value


EventTypes = Annotated[list[Text], Field(min_length=1, max_length=50)]
NarrowType = Annotated[
    str,
    StringConstraints(min_length=1, max_length=200, pattern=rf"^(?!{_EVERY_TYPE}$)[^\u0000-\u001f\u007f]+$"),
    BeforeValidator(_narrows),
]
NarrowTypes = Annotated[list[NarrowType], Field(min_length=1, max_length=50)]
Limit = Annotated[int, Field(ge=1, le=200, description="The largest number of items on the page."), BeforeValidator(_is_number)]
CursorText = Annotated[str, StringConstraints(pattern=PATTERN), Field(description="The `next` of the page before.")]
Whole = BeforeValidator(_is_number)
# JSON has one kind of number: 2.0 is a whole number.
Most = Annotated[int | None, Field(ge=1, le=1_000_000_000), BeforeValidator(_whole)]


def left_out(**of: Any) -> Any:
    """Returns a field that may be left out, and is None then, but may not be given as null."""

    def without_default(schema: dict[str, Any]) -> None:
        schema.pop("default", None)

    return Field(default=None, json_schema_extra=without_default, **of)


class Fault(Shape):
    """A mistake in one parameter."""

    in_: Annotated[str, Field(alias="in", description="query, body or path")]
    name: str
    message: str


class Problem(Shape):
    """Problem details, as in RFC 9457."""

    type: str
    title: str
    status: int
    detail: Annotated[str, Field(description="What is wrong, and what to do.")]
    errors: list[Fault] | None = None


class Body(Shape):
    """The exact bytes of a webhook's body."""

    encoding: Annotated[Literal["utf-8", "base64"], Field(description="How `text` represents the bytes.")]
    text: str
    mended: Annotated[list[str], Field(description="What had to be mended to read the body; empty for nearly all bodies.")]


def body_of(raw: bytes | None) -> Body | None:
    """Returns the JSON shape of a body, or None if the body is no longer kept."""
    if raw is None:
        return None
    mended = list(body.read(bytes(raw)).mended)
    try:
        return Body(encoding="utf-8", text=bytes(raw).decode("utf-8"), mended=mended)
    except UnicodeDecodeError:
        return Body(encoding="base64", text=base64.b64encode(raw).decode(), mended=mended)


class EventRow(Shape):
    """An event, as a list shows it."""

    id: Annotated[str, Field(json_schema_extra={"format": "uuid"})]
    account: str
    notification_id: str
    event_type: str
    status: StatusName
    attempts: int
    received_at: Time
    event_date: Annotated[Time | None, Field(description="The time of the event by the provider's clock.")]
    entity_name: Annotated[str | None, Field(description="transaction, subscription, customerProfile …")]
    entity_id: Annotated[str | None, Field(description="The provider's id of the transaction, subscription …")]
    invoice_number: str | None
    merchant_reference: str | None
    retry_at: Annotated[Time | None, Field(description="When the next attempt is due.")]
    finished_at: Time | None
    redriven_at: Annotated[Time | None, Field(description="When an operator last had the event tried again.")]
    discarded_at: Annotated[Time | None, Field(description="When an operator discarded the event.")]
    error: Annotated[
        str | None,
        Field(description="One line: the last failed attempt's error, or the reason of the death. It may quote customer data."),
    ]


def event_fields(row: Any) -> dict[str, Any]:
    """Returns the fields of an EventRow from a row of events."""
    fields = {name: row[name] for name in EventRow.model_fields if name not in ("id", "error")}
    reason = row["dead_reason"] if row["status"] == "dead" else None
    # A handler's own error says more than the fact that the handler gave up.
    text = " ".join((row["last_error"] or reason or "").split())
    return fields | {"id": str(row["id"]), "error": text[:_ERROR] or None}


def event_row(row: Any) -> EventRow:
    """Returns an EventRow from a row of events."""
    return EventRow(**event_fields(row))
