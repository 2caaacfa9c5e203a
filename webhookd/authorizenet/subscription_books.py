"""The differences between the provider's subscriptions and webhookd's, each with what to do."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Literal, NamedTuple

OLDEST_LISTS = timedelta(days=2)  # the lists are read daily


class SubscriptionKind(StrEnum):
    """The kind of a difference. Reports list them in this order."""

    NOT_HERE = "at the provider and not here"
    NOT_AT_PROVIDER = "here and not at the provider"
    STATUS_DIFFERS = "status differs"
    AMOUNT_DIFFERS = "amount differs"
    RENEWAL_MISSED = "renewal did not come"


_GAP = "Close the gap with `webhookd gaps close --since DAY`. If nothing comes, look at `webhookd provider check`."
_TO_DO = {
    SubscriptionKind.NOT_HERE: f"No event told the shop of this subscription. {_GAP}",
    SubscriptionKind.NOT_AT_PROVIDER: (
        "Look whether the API key belongs to this account, and whether the sandbox was mixed up with production."
    ),
    SubscriptionKind.STATUS_DIFFERS: f"An event was missed, or is dead. Look at `webhookd dead-letters list`. {_GAP}",
    SubscriptionKind.AMOUNT_DIFFERS: f"An update was missed, or is dead. Look at `webhookd dead-letters list`. {_GAP}",
    SubscriptionKind.RENEWAL_MISSED: (
        "Look the subscription up in the Merchant Interface: the customer has not paid, and no webhook says so."
    ),
}


class SubscriptionFinding(NamedTuple):
    """A difference. provider, other: what each side has: an amount, a status or a day. None if a side has nothing."""

    kind: SubscriptionKind
    id: str
    provider: str | None = None
    other: str | None = None

    @property
    def to_do(self) -> str:
        """Returns what a person should do."""
        return _TO_DO[self.kind]

    @property
    def order(self) -> tuple[int, int, str, str]:
        """Returns the key of the stable order: ids sort as numbers do."""
        return list(SubscriptionKind).index(self.kind), len(self.id), self.id, str(self.provider)


@dataclass(slots=True, frozen=True)
class SubscriptionReport:
    """The comparison of an account's subscriptions. listed_at: when the provider's lists were last read to the end."""

    as_of: datetime
    listed_at: datetime | None
    findings: tuple[SubscriptionFinding, ...] = ()
    reasons: tuple[str, ...] = ()

    @property
    def result(self) -> Literal["green", "differences", "not known"]:
        """Returns the result: differences count more than what is not known."""
        return "differences" if self.findings else "not known" if self.reasons else "green"


def doubts(listed_at: datetime | None, now: datetime, *, ours: bool) -> tuple[str, ...]:
    """Returns why the subscriptions are not known. `ours`: whether webhookd knows one by its events.

    An account without recurring billing has no lists, and no events. Nothing is open there.
    """
    if listed_at is None:
        return ("the provider's subscriptions were not listed to the end",) if ours else ()
    if now - listed_at > OLDEST_LISTS:
        return (f"the provider's subscriptions were last listed at {listed_at.isoformat(timespec='seconds')}",)
    return ()
