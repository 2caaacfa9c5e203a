"""Explanations for an operator: which key made a signature, over which form of the body."""

from __future__ import annotations

import base64
import binascii
import contextlib
import hmac
import json
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from webhookd.authorizenet.signature import encoded, fingerprint

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

AS_TEXT = "as text"  # the right reading of a key
HEX_DECODED = "hex-decoded"
AS_IT_IS = "as it is"  # the body, unchanged
ORDERED = "with its keys in Authorize.Net's order"
_TWO_DECIMALS = "with two decimals in its amounts"

_BOM = b"\xef\xbb\xbf"
# The keys of notifications, and of the objects in them, in the order of captured notifications.
_ORDER = (
    *("notificationId", "eventType", "eventDate", "webhookId", "payload"),
    *("responseCode", "authCode", "avsResponse", "authAmount", "fraudList", "fraudFilter", "fraudAction"),
    *("name", "amount", "status", "profile", "customerProfileId", "customerType", "customerPaymentProfileId"),
    *("paymentProfiles", "merchantCustomerId", "merchantReferenceId", "invoiceNumber", "entityName", "id"),
    *("transactionDetails", "transId", "error", "submitTimeUTC"),
)
_RANKS = {name: rank for rank, name in enumerate(_ORDER)}

_HEX = re.compile(r"(?<![0-9a-f])[0-9a-f]{128}(?![0-9a-f])", re.IGNORECASE | re.ASCII)
_BASE64 = re.compile(r"[A-Za-z0-9+/_-]{86}={0,2}")
_CUT = re.compile(r"(?:sha512=)?(?P<digits>[0-9a-f]{20,127})", re.IGNORECASE | re.ASCII)
_LONGEST_HEADER = 1024  # characters
_STRING_OR_SPACE = re.compile(rb'("(?:[^"\\]|\\.)*")|[ \t\r\n]+', re.DOTALL)
_AMOUNT = re.compile(rb'("(?:authAmount|amount)":-?\d+)(?:\.(\d?))?(?=[,}])')


@dataclass(slots=True, frozen=True)
class Reading:
    """One way in which a signature could have been made, and whether this way gives the signature."""

    fingerprint: str
    reading: str  # how the key was read: AS_TEXT, or a common mistake
    body_variant: str  # AS_IT_IS, or a form that the body may have had before something on the way changed it
    matches: bool


def explain(body: bytes, header: str | None, keys: Sequence[str]) -> list[Reading]:
    """Lists for an operator which key, in which reading, over which variant of the body, gives `header`.

    Each key has a row for its readings as text and hex-decoded over the body as it is. Other combinations have a row only if
    they match. A header without a SHA-512 digest matches nothing.
    """
    given = digest_of(header) or b""
    variants = list(_variants(body))
    return [
        Reading(fingerprint(key), reading, variant, matches)
        for key in keys
        for reading, secret in _key_readings(key)
        for variant, content in variants
        if (matches := hmac.compare_digest(hmac.digest(secret, content, "sha512"), given))
        or (variant == AS_IT_IS and reading in (AS_TEXT, HEX_DECODED))
    ]


def digest_of(header: str | None) -> bytes | None:
    """Returns the 64 bytes that a header holds in hexadecimal or base64, with or without a prefix; None if it holds none."""
    text = (header or "")[:_LONGEST_HEADER]
    if match := _HEX.search(text):
        return bytes.fromhex(match[0])
    if match := _BASE64.search(text):
        with contextlib.suppress(binascii.Error, ValueError):
            return base64.urlsafe_b64decode(match[0].rstrip("=").replace("+", "-").replace("/", "_") + "==")
    return None


def _key_readings(key: str) -> Iterator[tuple[str, bytes]]:
    yield AS_TEXT, encoded(key)
    with contextlib.suppress(ValueError):
        yield HEX_DECODED, bytes.fromhex(key.strip())
    for reading, other in (("in upper case", key.upper()), ("in lower case", key.lower())):
        if other != key:
            yield reading, encoded(other)


def _variants(body: bytes) -> Iterator[tuple[str, bytes]]:
    """Yields the body, and its possible forms at the time of the signature; each content once."""
    seen = set()
    for name, content in _candidates(body):
        if content not in seen:
            seen.add(content)
            yield name, content


def _candidates(body: bytes) -> Iterator[tuple[str, bytes]]:
    yield AS_IT_IS, body
    yield "without white space at its end", body.rstrip()
    yield "with a newline at its end", body + b"\n"
    yield "with LF for CRLF", body.replace(b"\r\n", b"\n")
    yield "with CRLF for LF", body.replace(b"\n", b"\r\n")
    yield "without a byte order mark", body.removeprefix(_BOM)
    yield "with a byte order mark", _BOM + body
    yield "with CRLF at its end", body.rstrip() + b"\r\n"
    # Numbers stay as they are written: 1.10 is not 1.1.
    compact = _STRING_OR_SPACE.sub(lambda part: part[1] or b"", body)
    yield "without white space between its parts", compact
    # A program that parses the provider's 1.10 as a number writes 1.1.
    yield _TWO_DECIMALS, _with_two_decimals(compact)
    with contextlib.suppress(binascii.Error, ValueError):
        yield "decoded from base64", base64.b64decode(body.strip(), validate=True)
    for codec in ("latin-1", "cp1252"):
        with contextlib.suppress(UnicodeError):
            yield "before its UTF-8 was read as another encoding", body.decode("utf-8").encode(codec)
    with contextlib.suppress(ValueError, RecursionError):
        parsed = json.loads(body)
        again = json.dumps(parsed, separators=(",", ":"), ensure_ascii=False).encode()
        yield "serialised again, compact", again
        yield _TWO_DECIMALS, _with_two_decimals(again)
        yield "serialised again, with spaces", json.dumps(parsed, ensure_ascii=False).encode()
        yield "serialised again, compact and ASCII only", json.dumps(parsed, separators=(",", ":")).encode()
        ordered = json.dumps(_in_order(parsed), separators=(",", ":"), ensure_ascii=False).encode()
        yield ORDERED, ordered
        yield ORDERED, _with_two_decimals(ordered)
        if isinstance(parsed, str):
            yield "taken out of a JSON string", parsed.encode()


def _in_order(value: Any) -> Any:
    """Returns `value` with the keys of each object in Authorize.Net's order. Unknown keys come last, as they were."""
    if isinstance(value, dict):
        return {name: _in_order(value[name]) for name in sorted(value, key=lambda name: _RANKS.get(name, len(_RANKS)))}
    return [_in_order(one) for one in value] if isinstance(value, list) else value


def cut_by(body: bytes, header: str | None, keys: Sequence[str]) -> tuple[str, int] | None:
    """Returns the fingerprint of the key whose signature of `body` begins as `header` does, and the header's number of digits.

    None if no key's does. Twenty digits at least must be there, so that no header matches by chance.
    """
    match = _CUT.fullmatch((header or "")[:_LONGEST_HEADER].strip())
    if match is None:
        return None
    given = match["digits"].lower()
    for key in keys:
        if hmac.compare_digest(hmac.digest(encoded(key), body, "sha512").hex()[: len(given)], given):
            return fingerprint(key), len(given)
    return None


def _with_two_decimals(body: bytes) -> bytes:
    return _AMOUNT.sub(lambda part: part[1] + b"." + (part[2] or b"").ljust(2, b"0"), body)
