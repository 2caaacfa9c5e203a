"""The key of a notification's content, which finds one event that arrived through two registered webhooks.

Two notifications have the same key only if their texts differ in nothing but white space, the order of fields, and ids.
"""

from __future__ import annotations

import hashlib
import json
from datetime import datetime
from decimal import Decimal, InvalidOperation
from typing import Any

import orjson

_SAFE_DIGITS = 15  # a double keeps at least this many digits of a decimal number
_SMALLEST, _GREATEST = -(2**63), 2**64 - 1  # bounds of the integers that orjson reads without loss
# Bytes. For a longer body, Python's check of each digit would take too long. Such a body has a key only if orjson writes
# exactly the same bytes.
_LONGEST = 65_536
_LAST_SECOND = 2**32 - 1
_IDS = ("notificationId", "webhookId")  # fields that differ between the two notifications


def content_key(
    body: bytes, account: str, event_type: str, event_date: datetime | None, envelope: dict[str, Any]
) -> bytes | None:
    """Returns the key of 16 bytes by which two notifications with the same content are found to be one event.

    Returns None if the date or the payload is missing, empty or of the wrong type, or if the body is nested too deeply or is
    too long for the check.
    `envelope`: the parsed `body`, which is JSON in UTF-8 without a byte order mark.
    """
    date, payload = envelope.get("eventDate"), envelope.get("payload")
    if not isinstance(payload, dict) or not payload or not isinstance(date, str) or not date:
        return None  # too little to distinguish two events
    # A serialised list separates its parts without ambiguity. Sorted keys make the payload canonical.
    parts: list[Any] = [account, event_type, date, payload]
    try:
        if not _is_whole(body, envelope):
            parts = [account, event_type, _as_written(body)]
        canonical = orjson.dumps(parts, option=orjson.OPT_SORT_KEYS)
    except (TypeError, ValueError, RecursionError):
        return None  # nested deeper than orjson writes, or too long to check each digit
    # The key begins with the date. So new keys are inserted at one end of the index, on few pages, however many are stored.
    second = 0 if event_date is None else min(max(int(event_date.timestamp()), 0), _LAST_SECOND)
    return second.to_bytes(4, "big") + hashlib.blake2b(canonical, digest_size=12).digest()


class _LostError(ValueError):
    """The error if parsing lost a part of the written text."""


def _is_whole(body: bytes, envelope: dict[str, Any]) -> bool:
    """Returns whether the parsing of `body` lost nothing of its text. Raises _LostError if `body` is too long to find out."""
    if orjson.dumps(envelope) == body:
        return True
    if len(body) > _LONGEST:
        raise _LostError("too long to find out")
    try:
        _CHECK.raw_decode(body.decode().lstrip())  # cheaper than `decode`
    except _LostError:
        return False
    return True


def _check_fraction(text: str) -> None:
    if len(text) > _SAFE_DIGITS or "e" in text or "E" in text:
        try:
            lost = Decimal(text) != Decimal(repr(float(text)))
        except InvalidOperation:
            lost = True
        if lost:
            raise _LostError("digits")


def _check_integer(text: str) -> None:
    if len(text) > _SAFE_DIGITS and not (len(text) <= 20 and _SMALLEST <= int(text) <= _GREATEST):
        raise _LostError("digits")


def _check_pairs(pairs: list[tuple[str, Any]]) -> None:
    if len(pairs) > 1 and len({name for name, _ in pairs}) != len(pairs):
        raise _LostError("a field that another of its name follows")


_CHECK = json.JSONDecoder(parse_float=_check_fraction, parse_int=_check_integer, object_pairs_hook=_check_pairs)


def _as_written(body: bytes) -> list[Any]:
    """Returns the fields of a body without its ids, in their written order, with each number as its written text.

    An object becomes {"object": pairs} and a number {"number": text}, so that neither equals a list or a text.
    """
    envelope = _WRITTEN.decode(body.decode())
    return [pair for pair in envelope["object"] if pair[0] not in _IDS]


_WRITTEN = json.JSONDecoder(
    parse_float=lambda text: {"number": text},
    parse_int=lambda text: {"number": text},
    object_pairs_hook=lambda pairs: {"object": pairs},
)
