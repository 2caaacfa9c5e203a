"""Messages as JSON text. Any other text in the queue names no event, and costs no more than its parsing."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple
from uuid import UUID

import orjson

from webhookd.store.keys import FastUUID

MOST_EVENTS = 32  # events that one message may hold
_VERSION = 3
_CONSUMER = "handlers"  # the consumer of the work
_MOST_ATTEMPTS = 2**31 - 1  # the largest number that the database's column holds
LONGEST_MESSAGE = 65_536  # characters; a longer message is not read
_LONGEST_NAME = 200  # characters of an account or an event type: no event has longer names
_LONGEST_REASON = 2000  # characters, as in the database
_LATEST = 2**63 - 1
_TRACEPARENT = re.compile(r"[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}")
_MAC_BYTES = 80  # bytes that a MAC takes in a message, with the field's name
_MAC = re.compile(r"[0-9a-f]{64}")


class EventReference(NamedTuple):
    """The data of one event in a message: its identity; in a dead-letter copy, why and when it died. No customer data.

    `attempts`: the event's failed attempts when the message was sent. If the event waits for a retry after another number of
    attempts, the message is stale.
    """

    event_id: UUID
    account: str
    event_type: str
    dead: str | None = None
    died: int | None = None  # time of death, in microseconds since 1970; distinguishes the deaths of one event
    traceparent: str | None = None  # W3C Trace Context of the span that received the event
    mac: str | None = None  # the proof of a dead-letter copy (proof.py); None for other messages
    attempts: int = 0


@dataclass(slots=True, frozen=True, eq=False)
class Message:
    """A received message. Messages are compared by identity: one message can be delivered twice, even in one batch."""

    id: str  # the queue's id of the message, the same at each delivery
    handle: str  # the queue's name for this delivery
    references: tuple[EventReference, ...]  # the events: several in a bundle, none if the message is not webhookd's
    received: float  # time of the receipt, by the loop's clock
    receive_count: int


def encode(references: Sequence[EventReference]) -> str:
    """Returns a message's text as JSON: the consumer of its work, and its events."""
    fields = {"v": _VERSION, "consumer": _CONSUMER, "events": [_fields(reference) for reference in references]}
    text = orjson.dumps(fields).decode()
    return text if text.isascii() else json.dumps(fields)  # ASCII only, because SQS refuses some Unicode characters


def _fields(reference: EventReference) -> dict[str, Any]:
    fields: dict[str, Any] = {"event": str(reference.event_id), "account": reference.account, "type": reference.event_type}
    if reference.attempts:
        fields["attempts"] = reference.attempts
    if reference.dead is not None:
        fields |= {"dead": reference.dead, "died": reference.died}
    if reference.traceparent is not None:
        fields["traceparent"] = reference.traceparent
    if reference.mac is not None:
        fields["mac"] = reference.mac
    return fields


def fit(reference: EventReference, most_bytes: int) -> EventReference:
    """Returns `reference`, a dead-letter copy, with its reason cut so that a message of `most_bytes` holds copy and MAC."""
    while reference.dead and len(encode([reference]).encode()) > most_bytes - _MAC_BYTES:
        reference = reference._replace(dead=reference.dead[: len(reference.dead) * 3 // 4])
    return reference


def decode(text: str) -> tuple[EventReference, ...]:
    """Returns the events that a message's text names, each once; none if the text has not the form that `encode` writes."""
    if len(text) > LONGEST_MESSAGE:
        return ()
    try:
        fields = orjson.loads(text)
        events = fields["events"]
        if (fields["v"], fields["consumer"]) != (_VERSION, _CONSUMER) or type(events) is not list:
            return ()
        if not 0 < len(events) <= MOST_EVENTS:
            return ()
        references = {reference.event_id: reference for reference in map(_reference, events)}
    except (ValueError, TypeError, KeyError):
        return ()
    # A dead-letter copy is never a part of a bundle.
    return (
        ()
        if len(references) > 1 and any(reference.dead is not None for reference in references.values())
        else tuple(references.values())
    )


def _reference(fields: dict[str, Any]) -> EventReference:
    event = _text(fields["event"], 36)
    dead, died, traceparent, mac = map(fields.get, ("dead", "died", "traceparent", "mac"))
    attempts = fields.get("attempts", 0)
    if type(attempts) is not int or not 0 <= attempts <= _MOST_ATTEMPTS:
        raise ValueError("no count")
    if dead is None:
        died = mac = None
    elif died is not None and (type(died) is not int or not 0 <= died <= _LATEST):
        raise ValueError("no time")
    return EventReference(
        FastUUID(event),
        _text(fields["account"], _LONGEST_NAME),
        _text(fields["type"], _LONGEST_NAME),
        None if dead is None else _text(dead, _LONGEST_REASON),
        died,
        traceparent if isinstance(traceparent, str) and _TRACEPARENT.fullmatch(traceparent) else None,
        mac if isinstance(mac, str) and _MAC.fullmatch(mac) else None,
        attempts,
    )


def _text(value: object, longest: int) -> str:
    if not isinstance(value, str) or len(value) > longest:
        raise ValueError("no text of that length")
    return value
