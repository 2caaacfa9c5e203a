"""The request of a delivery: its body, and the headers that sign and describe it.

Contract: the specification of Standard Webhooks (https://www.standardwebhooks.com), version 1.0.0. The signature `v1` is the
base64 of HMAC-SHA256 over `id.timestamp.body`; several signatures are separated by spaces, one for each secret.
"""

from __future__ import annotations

import base64
import functools
import hmac
from datetime import UTC, datetime
from importlib.metadata import version
from typing import NamedTuple
from urllib.parse import quote
from uuid import UUID

import orjson

from webhookd.authorizenet import body as bodies
from webhookd.authorizenet.signature import sign
from webhookd.event import SYNTHETIC

_LONGEST_TYPE = 200  # characters of an event type in a header
# Printable ASCII without the percent sign. Other characters of an event type, which the provider's body holds, are escaped.
_SAFE = "".join(map(chr, range(0x21, 0x7F))).replace("%", "")


class Message(NamedTuple):
    """An event as its destination gets it."""

    id: UUID
    account: str
    event_type: str
    received_at: datetime
    attempt: int
    body: bytes
    origin: str = "webhook"
    traceparent: str | None = None


def signature(message_id: str, timestamp: int, body: bytes, keys: list[bytes]) -> str:
    """Returns the value of the header `webhook-signature`, with one signature for each key."""
    signed = f"{message_id}.{timestamp}.".encode() + body
    return " ".join("v1," + base64.b64encode(hmac.digest(key, signed, "sha256")).decode() for key in keys)


def envelope(message: Message) -> bytes:
    """Returns the event as a JSON object, with the provider's body as `data`. The body's numbers stay as they are written."""
    fields = orjson.dumps(
        {
            "id": str(message.id),
            "account": message.account,
            "event_type": message.event_type,
            "received_at": _instant(message.received_at),
            "attempt": message.attempt,
            "origin": message.origin,
        }
    )
    made = fields[:-1] + b',"data":' + _as_json(message.body) + b"}"
    # Two characters that JSON's strings may hold and XML may not: SQS refuses a message with one of them.
    return made.replace("\ufffe".encode(), b"\\ufffe").replace("\uffff".encode(), b"\\uffff")


def _as_json(body: bytes) -> bytes:
    try:
        orjson.loads(body)
    except orjson.JSONDecodeError:
        # An operator released this body from quarantine. If the release's reading makes no JSON of it, it is sent as a string.
        text = bodies.read(body).text
        try:
            bodies.load(text)
        except ValueError:
            return orjson.dumps(text)
        return text.encode("utf-8", "replace")
    return body


def headers(message: Message, content: bytes, *, at: datetime, keys: list[bytes], signature_key: str | None) -> dict[str, str]:
    """Returns the headers of a request.

    content: the bytes that are sent.
    at: the time of the attempt.
    keys: the keys of the destination's secrets.
    signature_key: the account's first Signature Key; None if this process does not know the account. A synthetic event is never
        signed with this key, since the provider has not sent the event.
    """
    timestamp = int(at.timestamp())
    made = {
        "Content-Type": "application/json",
        "Accept-Encoding": "identity",  # nothing inflates the answer
        "User-Agent": _user_agent(),
        "webhook-id": str(message.id),
        "webhook-timestamp": str(timestamp),
        "webhookd-account": message.account,
        "webhookd-event-type": _in_header(message.event_type),
        "webhookd-received-at": _instant(message.received_at),
        "webhookd-attempt": str(message.attempt),
        "webhookd-origin": message.origin,
    }
    if keys:
        made["webhook-signature"] = signature(made["webhook-id"], timestamp, content, keys)
    if signature_key is not None and message.origin != SYNTHETIC:
        made["X-ANET-Signature"] = sign(content, signature_key)
    if message.traceparent is not None:
        made["traceparent"] = message.traceparent
    return made


@functools.lru_cache(maxsize=256)
def _in_header(event_type: str) -> str:
    return quote(event_type[:_LONGEST_TYPE], safe=_SAFE)


@functools.cache
def _user_agent() -> str:
    """Makes the user agent once: the version is read from a file, which takes longer than the rest of a request."""
    return f"webhookd/{version('webhookd')}"


def _instant(at: datetime) -> str:
    return f"{at.astimezone(UTC).isoformat()[:-6]}Z"
