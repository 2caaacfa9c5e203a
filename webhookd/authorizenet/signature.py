"""The signature of a notification: `X-ANET-Signature: sha512=<128 hex digits>`, HMAC-SHA512 over the raw body.

The key is the 128-character Signature Key as ASCII text, not hex-decoded (recomputed on published vectors; a support article
that says to convert it to binary is about another hash). Header and prefix casing vary, so both are compared without case.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from webhookd.errors import SignatureError

_HEADER = re.compile(r"\s*sha512=([0-9a-f]{128})\s*", re.IGNORECASE | re.ASCII)


def _digest(body: bytes, key: bytes) -> bytes:
    return hmac.digest(key, body, "sha512")


def _encoded(key: str) -> bytes:
    return key.strip().encode("utf-8")


def sign(body: bytes, key: str) -> str:
    """The header's value for `body`, as the provider writes it: upper-case hex."""
    return "sha512=" + _digest(body, _encoded(key)).hex().upper()


def fingerprint(key: str) -> str:
    """Twelve hex digits that name a key in metrics and tables without telling it: of SHA-256 over its text."""
    return hashlib.sha256(_encoded(key)).hexdigest()[:12]


class Verifier:
    """Verifies against several keys at a time, as a rotation needs."""

    __slots__ = ("_keys",)

    def __init__(self, keys: Sequence[str]) -> None:
        self._keys = [(_encoded(key), fingerprint(key)) for key in keys]

    def verify(self, body: bytes, header: str | None) -> str:
        """The fingerprint of the key that signed `body`. Raises SignatureError otherwise.

        Constant in time over the keys: each is tried, whichever matches.
        """
        if header is None:
            raise SignatureError("missing")
        match = _HEADER.fullmatch(header)
        if match is None:
            raise SignatureError("malformed")
        given = bytes.fromhex(match[1])
        found = None
        for key, name in self._keys:
            if hmac.compare_digest(_digest(body, key), given):
                found = name
        if found is None:
            raise SignatureError("mismatch")
        return found

    def __repr__(self) -> str:
        return f"Verifier({', '.join(name for _, name in self._keys)})"


@dataclass(slots=True, frozen=True)
class Reading:
    """One way in which a signature could have been made, and whether it was."""

    fingerprint: str
    reading: str  # of the key: "as text" (right) or "hex-decoded" (a common mistake)
    body_variant: str  # "as it is", or what something on the way may have made of it
    matches: bool


def explain(body: bytes, header: str | None, keys: Sequence[str]) -> list[Reading]:
    """For an operator: which key, in which reading, over which variant of the body, gives `header`.

    The rows for the body as it is come for every key; variants are listed only where they match.
    """
    match = _HEADER.fullmatch(header or "")
    given = bytes.fromhex(match[1]) if match else b""
    readings = []
    for key in keys:
        for name, secret in _key_readings(key):
            for variant, content in _variants(body):
                matches = hmac.compare_digest(_digest(content, secret), given)
                if matches or variant == "as it is":
                    readings.append(Reading(fingerprint(key), name, variant, matches))
    return readings


def _key_readings(key: str) -> Iterator[tuple[str, bytes]]:
    yield "as text", _encoded(key)
    try:
        yield "hex-decoded", bytes.fromhex(key.strip())
    except ValueError:
        return


def _variants(body: bytes) -> Iterator[tuple[str, bytes]]:
    yield "as it is", body
    yield "without white space at its end", body.rstrip()
    yield "with a newline at its end", body + b"\n"
    yield "with LF for CRLF", body.replace(b"\r\n", b"\n")
    yield "with CRLF for LF", body.replace(b"\n", b"\r\n")
    yield "without a byte order mark", body.removeprefix(b"\xef\xbb\xbf")
    try:
        parsed = json.loads(body)
    except ValueError:
        return
    yield "serialised again, compact", json.dumps(parsed, separators=(",", ":"), ensure_ascii=False).encode()
    yield "serialised again, with spaces", json.dumps(parsed, ensure_ascii=False).encode()
