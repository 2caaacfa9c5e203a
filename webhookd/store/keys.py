"""The 16-byte keys by which the ledger knows a notification again."""

from __future__ import annotations

import hashlib

_HALF = 8  # bytes


def notification_key(account: str, notification_id: str) -> str:
    """The key of a notification id within its account, in hexadecimal digits.

    Its first half is a hash of the id alone, so that the notifications of an id are found without their accounts.
    """
    return _hash(notification_id) + _hash(f"{account}\x1f{notification_id}")


def keys_of_notification(notification_id: str) -> tuple[str, str]:
    """The lowest and the highest key of a notification id in any account, in hexadecimal digits."""
    half = _hash(notification_id)
    return half + "00" * _HALF, half + "ff" * _HALF


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[: 2 * _HALF]
