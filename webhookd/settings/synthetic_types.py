"""The types of synthetic events: what no webhook reports, and webhookd finds out. A setting turns each of them on."""

from __future__ import annotations

import fnmatch
from collections.abc import Iterable
from enum import StrEnum

SYNTHETIC_PREFIX = "webhookd."
_TRANSACTION = SYNTHETIC_PREFIX + "transaction."
_SUBSCRIPTION = SYNTHETIC_PREFIX + "subscription."


class SyntheticType(StrEnum):
    """The types of synthetic events, in the order in which a look at a transaction reports them."""

    SETTLED = _TRANSACTION + "settled"
    SETTLEMENT_FAILED = _TRANSACTION + "settlement_failed"
    REFUND_SETTLED = _TRANSACTION + "refund_settled"
    RETURNED = _TRANSACTION + "returned"
    EXPIRED = _TRANSACTION + "expired"
    HELD_TOO_LONG = _TRANSACTION + "held_too_long"
    PAYMENT_FAILED = _SUBSCRIPTION + "payment_failed"
    CARD_EXPIRING = _SUBSCRIPTION + "card_expiring"
    MISSED_PAYMENT = _SUBSCRIPTION + "missed_payment"


def wanted_types(patterns: Iterable[str]) -> frozenset[SyntheticType]:
    """Returns the types that match patterns, in which `*` stands for any text."""
    return frozenset(one for one in SyntheticType for pattern in patterns if fnmatch.fnmatchcase(one, pattern))


def check_patterns(patterns: tuple[str, ...]) -> tuple[str, ...]:
    """Returns the patterns. Raises ValueError for one that matches no type."""
    for pattern in patterns:
        if not wanted_types([pattern]):
            raise ValueError(
                f"must be types of synthetic events, or patterns such as webhookd.transaction.*, but {pattern[:80]!r} matches "
                f"none: the types are {', '.join(SyntheticType)}"
            )
    return patterns
