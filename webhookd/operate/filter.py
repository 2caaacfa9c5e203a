"""The filter by which an operator chooses events."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from webhookd.authorizenet.notification import whole_pattern


def patterns(event_types: tuple[str, ...] | None) -> list[str] | None:
    """Returns event types as patterns for LIKE: `*` stands for any text, and `net.authorize.` may be left out."""
    return None if event_types is None else [_pattern(name) for name in event_types]


def _pattern(name: str) -> str:
    return whole_pattern(name).replace("\\", "\\\\").replace("%", "\\%").replace("_", "\\_").replace("*", "%")


@dataclass(slots=True, frozen=True)
class Filter:
    """A filter of events; None stands for any. `received_from` is inclusive, `received_to` is exclusive."""

    statuses: tuple[str, ...] | None = None
    event_types: tuple[str, ...] | None = None
    account: str | None = None
    entity_id: str | None = None
    invoice_number: str | None = None
    merchant_reference: str | None = None
    received_from: datetime | None = None
    received_to: datetime | None = None

    @property
    def keys(self) -> dict[str, str | None]:
        """Returns the filters by which an index finds events."""
        return {
            "entity_id": self.entity_id,
            "invoice_number": self.invoice_number,
            "merchant_reference": self.merchant_reference,
        }

    @property
    def rest(self) -> dict[str, Any]:
        """Returns the other filters, as the queries take them."""
        return {
            "statuses": self.statuses,
            "event_types": patterns(self.event_types),
            "account": self.account,
            "received_from": self.received_from,
            "received_to": self.received_to,
        }
