"""The signature of a notification: `X-ANET-Signature: sha512=<128 hex digits>`, HMAC-SHA512 over the raw body.

The key is the 128-character Signature Key as ASCII text, not hex-decoded (recomputed on published vectors; a support
article that says to convert it to binary is about another hash). The casing of header and prefix varies, so both are
compared without case.
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
    """The bytes of a key, by which it signs."""
    return key.strip().encode()


def sign(body: bytes, key: str) -> str:
    """The header's value for `body`, as the provider writes it: upper-case hex."""
    return "sha512=" + hmac.digest(encoded(key), body, "sha512").hex().upper()


def fingerprint(key: str) -> str:
    """Twelve hex digits of SHA-256 over the key's text: they name it in metrics and tables without telling it."""
    return hashlib.sha256(encoded(key)).hexdigest()[:12]


class Verifier:
    """Verifies against several keys at a time, as a rotation needs. Raises ValueError for a blank key: anyone has it."""

    __slots__ = ("_keys",)

    def __init__(self, keys: Sequence[str]) -> None:
        if not all(map(encoded, keys)):
            raise ValueError("a signature key is blank")
        # Half of the work on a short body is the key's, and is done once.
        self._keys = [(hmac.new(encoded(key), digestmod="sha512"), fingerprint(key)) for key in keys]

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
            raise SignatureError("mismatch" if HEADER.fullmatch(header) else "malformed")
        return found

    def __repr__(self) -> str:
        return f"Verifier({', '.join(name for _, name in self._keys)})"
