"""Commits synthetic events to the ledger, as the receiver commits webhooks."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from datetime import UTC
from decimal import Decimal

import orjson

from webhookd.authorizenet.notification import parse
from webhookd.authorizenet.synthetic import SyntheticEvent
from webhookd.errors import RefusedError
from webhookd.event import SYNTHETIC
from webhookd.settings.synthetic_types import SyntheticType
from webhookd.store.keys import hash_of_body, new_id
from webhookd.store.receipts import Accepted, Arrival, Receipts, why_not_stored
from webhookd.telemetry.provider_metrics import ProviderMetrics

ACTOR = "settlement sweep"
_REASON = "made by webhookd: no webhook reports this"
_BATCH = 500  # events of one commit


class SyntheticIntake:
    """Takes the synthetic events of one account into the ledger: those whose types the settings name.

    An event's notification id is the event's own id, which is made of the account, the type and what happened. So an event
    that comes again is a duplicate by the ledger's unique key. Therefore commit the events first, and then the facts that
    they were made of: a crash in between makes the same events again, and no event is lost or doubled.

    No key has signed an event, and no destination gets one with the provider's signature.
    """

    def __init__(self, account: str, receipts: Receipts, wanted: Collection[SyntheticType], metrics: ProviderMetrics) -> None:
        self._account = account
        self._receipts = receipts
        self._wanted = frozenset(wanted)
        self._taken = metrics.synthetic

    async def take(self, events: Sequence[SyntheticEvent]) -> int:
        """Commits the events that are wanted. Returns the number of new ones.

        Raises UnavailableError while PostgreSQL is away, and RefusedError if PostgreSQL takes one of the events in no way. Then
        some may be committed: take them all again.
        """
        wanted = [one for one in events if one.type in self._wanted]
        new = 0
        for start in range(0, len(wanted), _BATCH):
            new += await self._commit(wanted[start : start + _BATCH])
        return new

    async def _commit(self, events: Sequence[SyntheticEvent]) -> int:
        arrivals = [self._arrival(one) for one in events]
        results = await self._receipts.accept(arrivals, send_after=0.0, actor=ACTOR, reason=_REASON)
        new = 0
        for event, result in zip(events, results, strict=True):
            if not isinstance(result, Accepted):
                raise RefusedError("postgresql", why_not_stored(result))
            if result.layer is None:
                new += 1
                self._taken.labels(self._account, event.type).inc()
        return new

    def _arrival(self, event: SyntheticEvent) -> Arrival:
        if event.account != self._account:
            raise ValueError("the event is of another account")
        body = body_of(event)
        # Two events with the same content, such as two failures of one transaction without a date, must both stay.
        notification = parse(body, self._account)._replace(content_key=None)
        return Arrival(new_id(), self._account, notification, SYNTHETIC, body, hash_of_body(body))


def body_of(event: SyntheticEvent) -> bytes:
    """Returns an event's body: a JSON object with the fields of the provider's notifications, but without `webhookId`."""
    envelope: dict[str, object] = {"notificationId": str(event.id), "eventType": event.type.value}
    if event.at is not None:
        envelope["eventDate"] = f"{event.at.astimezone(UTC).isoformat()[:-6]}Z"
    return orjson.dumps(envelope | {"payload": dict(event.payload)}, default=_exact)


def _exact(value: object) -> orjson.Fragment:
    """Returns an amount as a JSON number with all its digits, and without an exponent."""
    if not isinstance(value, Decimal):
        raise TypeError(f"no value of a payload: {type(value).__name__}")
    return orjson.Fragment(f"{value:f}")
