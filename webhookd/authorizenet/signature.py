"""The signature of a notification: `X-ANET-Signature: sha512=<128 hex digits>`, HMAC-SHA512 over the raw body.

The key is the 128-character Signature Key as ASCII text, not hex-decoded (recomputed on published vectors; a support
article that says to convert it to binary is about another hash). The casing of header and prefix varies, so both are
compared without case.
"""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import json
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from webhookd.errors import SignatureError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

_HEADER = re.compile(r"\s*sha512=([0-9a-f]{128})\s*", re.IGNORECASE | re.ASCII)
_SPACE = " \t\n\r\f\v"
_STRING_OR_SPACE = re.compile(rb'("(?:[^"\\]|\\.)*")|[ \t\r\n]+', re.DOTALL)


def _encoded(key: str) -> bytes:
    return key.strip().encode()


def sign(body: bytes, key: str) -> str:
    """The header's value for `body`, as the provider writes it: upper-case hex."""
    return "sha512=" + hmac.digest(_encoded(key), body, "sha512").hex().upper()


def fingerprint(key: str) -> str:
    """Twelve hex digits of SHA-256 over the key's text: they name it in metrics and tables without telling it."""
    return hashlib.sha256(_encoded(key)).hexdigest()[:12]


class Verifier:
    """Verifies against several keys at a time, as a rotation needs. Raises ValueError for a blank key: anyone has it."""

    __slots__ = ("_keys",)

    def __init__(self, keys: Sequence[str]) -> None:
        if not all(map(_encoded, keys)):
            raise ValueError("a signature key is blank")
        # Half of the work on a short body is the key's, and is done once.
        self._keys = [(hmac.new(_encoded(key), digestmod="sha512"), fingerprint(key)) for key in keys]

    def verify(self, body: bytes, header: str | None) -> str:
        """The fingerprint of the key that signed `body`. Raises SignatureError otherwise.

        Constant in time over the keys: each is tried, whichever matches.
        """
        if header is None:
            raise SignatureError("missing")
        given = header.strip(_SPACE).lower().encode(errors="surrogateescape")
        found = None
        for begun, name in self._keys:
            mac = begun.copy()
            mac.update(body)
            if hmac.compare_digest(b"sha512=" + mac.hexdigest().encode(), given):
                found = name
        if found is None:
            raise SignatureError("mismatch" if _HEADER.fullmatch(header) else "malformed")
        return found

    def __repr__(self) -> str:
        return f"Verifier({', '.join(name for _, name in self._keys)})"


@dataclass(slots=True, frozen=True)
class Reading:
    """One way in which a signature could have been made, and whether it was."""

    fingerprint: str
    reading: str  # of the key: "as text" (right) or "hex-decoded" (a common mistake)
    body_variant: str  # "as it is", or what the body may have been before something on the way changed it
    matches: bool


def explain(body: bytes, header: str | None, keys: Sequence[str]) -> list[Reading]:
    """For an operator: which key, in which reading, over which variant of the body, gives `header`.

    Each key has a row for each of its readings over the body as it is; variants have one only where they match.
    A missing or malformed header matches nothing.
    """
    match = _HEADER.fullmatch(header or "")
    given = bytes.fromhex(match[1]) if match else b""
    variants = list(_variants(body))
    return [
        Reading(fingerprint(key), reading, variant, matches)
        for key in keys
        for reading, secret in _key_readings(key)
        for variant, content in variants
        if (matches := hmac.compare_digest(hmac.digest(secret, content, "sha512"), given)) or variant == "as it is"
    ]


def _key_readings(key: str) -> Iterator[tuple[str, bytes]]:
    yield "as text", _encoded(key)
    with contextlib.suppress(ValueError):
        yield "hex-decoded", bytes.fromhex(key.strip())


def _variants(body: bytes) -> Iterator[tuple[str, bytes]]:
    """The body and what it may have been when it was signed, each content once."""
    seen = set()
    for name, content in _candidates(body):
        if content not in seen:
            seen.add(content)
            yield name, content


def _candidates(body: bytes) -> Iterator[tuple[str, bytes]]:
    yield "as it is", body
    yield "without white space at its end", body.rstrip()
    yield "with a newline at its end", body + b"\n"
    yield "with LF for CRLF", body.replace(b"\r\n", b"\n")
    yield "with CRLF for LF", body.replace(b"\n", b"\r\n")
    yield "without a byte order mark", body.removeprefix(b"\xef\xbb\xbf")
    # Keeps numbers as they are written: 1.10 is not 1.1.
    yield "without white space between its parts", _STRING_OR_SPACE.sub(lambda part: part[1] or b"", body)
    with contextlib.suppress(ValueError, RecursionError):
        parsed = json.loads(body)
        yield "serialised again, compact", json.dumps(parsed, separators=(",", ":"), ensure_ascii=False).encode()
        yield "serialised again, with spaces", json.dumps(parsed, ensure_ascii=False).encode()
        yield "serialised again, compact and ASCII only", json.dumps(parsed, separators=(",", ":")).encode()
