"""The signature of a notification: `X-ANET-Signature: sha512=<128 hex digits>`, HMAC-SHA512 over the raw body.

The key is the 128-character Signature Key as ASCII text, not hex-decoded. (Recomputed on published vectors. A support
article that says to convert the key to binary is about another hash.) The casing of header and prefix varies, so both
are compared without case.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from typing import TYPE_CHECKING

from webhookd.errors import SignatureError

if TYPE_CHECKING:
    from collections.abc import Sequence

HEADER = re.compile(r"\s*sha512=([0-9a-f]{128})\s*", re.IGNORECASE | re.ASCII)
_SPACE = " \t\n\r\f\v"


def encoded(key: str) -> bytes:
    """Returns the bytes of a key, as the HMAC uses them."""
    return key.strip().encode()


def sign(body: bytes, key: str) -> str:
    """Returns the header's value for `body`, as the provider writes it: in upper-case hex."""
    return "sha512=" + hmac.digest(encoded(key), body, "sha512").hex().upper()


def fingerprint(key: str) -> str:
    """Returns twelve hex digits of SHA-256 over the key's text. They name the key in metrics and tables, and keep it secret."""
    return hashlib.sha256(encoded(key)).hexdigest()[:12]


class Verifier:
    """A verifier with several keys at a time, as a rotation needs. Raises ValueError for a blank key: anyone has it."""

    __slots__ = ("_keys",)

    def __init__(self, keys: Sequence[str]) -> None:
        if not all(map(encoded, keys)):
            raise ValueError("a signature key is blank")
        # For a short body, half of the work depends on the key only. Do this half once.
        self._keys = [(hmac.new(encoded(key), digestmod="sha512"), fingerprint(key)) for key in keys]

    def verify(self, body: bytes, header: str | None) -> str:
        """Returns the fingerprint of the key that signed `body`. Raises SignatureError if no key did.

        The time does not show which key matches, since each key is tried.
        """
        if header is None:
            raise SignatureError("missing")
        given = header.strip(_SPACE).lower().encode(errors="surrogateescape")
        matching = None
        for begun, name in self._keys:
            mac = begun.copy()
            mac.update(body)
            if hmac.compare_digest(b"sha512=" + mac.hexdigest().encode(), given):
                matching = name
        if matching is None:
            raise SignatureError("mismatch" if HEADER.fullmatch(header) else "malformed")
        return matching

    def __repr__(self) -> str:
        return f"Verifier({', '.join(name for _, name in self._keys)})"
