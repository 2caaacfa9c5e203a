"""Reads the payload of a notification, with its amounts as Decimal."""

from __future__ import annotations

from decimal import Decimal, InvalidOperation
from typing import Any

from webhookd.authorizenet.body import load, read

# The payload's money fields: JSON numbers, which become Decimal even if they are written as integers.
_MONEY = ("authAmount", "amount", "settleAmount")
_TOO_MUCH = Decimal(10) ** 15


def load_payload(raw: bytes) -> dict[str, Any]:
    """Returns the `payload` object of a notification's exact bytes, with every fraction and every amount as Decimal.

    A body that an operator released from quarantine is mended as it was then (`body.py`). Returns {} if the payload is
    missing or no object; a number that Decimal cannot hold is NaN. Raises ValueError if `raw` is not JSON, or is nested deeper
    than Python's own limit.
    """
    envelope = load(read(raw).text)
    payload = envelope.get("payload") if isinstance(envelope, dict) else None
    if not isinstance(payload, dict):
        return {}
    for name in _MONEY:
        value = payload.get(name)
        if isinstance(value, int) and not isinstance(value, bool):
            payload[name] = Decimal(value)
    return payload


def money(value: object) -> Decimal | None:
    """Returns `value` as an amount, or None if it is no number, not finite, or beyond what a ledger could hold."""
    if isinstance(value, bool) or not isinstance(value, (int, str, Decimal)):
        return None
    try:
        amount = Decimal(value)
    except (InvalidOperation, ValueError):
        return None
    # Do not use abs(), which rounds to the context and overflows on a large exponent.
    if not amount.is_finite() or amount.copy_abs() >= _TOO_MUCH or int(amount.as_tuple().exponent) < -8:
        return None
    return amount
