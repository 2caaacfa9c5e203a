"""The simulator's books: accounts with their keys, webhooks, notifications and transactions."""

from __future__ import annotations

import hashlib
import heapq
import itertools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta
from typing import Any

from webhookd.authorizenet.shapes import make_payload
from webhookd.simulate.answering import written
from webhookd.simulate.faults import Dice, Faults
from webhookd.simulate.records import Batch, Rules, Subscription, Transaction

Action = Callable[[datetime], None]

OVERLAP = 86_400.0  # seconds for which a key still works after a new one was made


@dataclass(slots=True)
class Webhook:
    """A webhook, as it is registered."""

    id: str
    url: str
    event_types: tuple[str, ...]
    status: str = "inactive"
    name: str | None = None

    def shown(self) -> dict[str, Any]:
        """Returns the webhook as the API shows it."""
        named = {} if self.name is None else {"name": self.name}
        link = {"self": {"href": f"/rest/v1/webhooks/{self.id}"}}
        rest = {"status": self.status, "url": self.url, "eventTypes": list(self.event_types)}
        return {"_links": link, "webhookId": self.id, **named, **rest}


@dataclass(slots=True)
class Notification:
    """A notification for one webhook. `attempts`: the times of its requests, each with the answer's status (0 if none came).

    made_at: by the provider's dates. listed_from: by the clock.
    """

    id: str
    event_type: str
    made_at: datetime
    webhook_id: str
    payload: dict[str, Any]
    listed_from: datetime
    status: str = "Pending"
    attempts: list[tuple[datetime, int]] = field(default_factory=list)
    ping: bool = False
    has_date: bool = True  # in the list of the history
    has_type: bool = True  # in the history
    has_payload: bool = True  # in the history

    @property
    def body(self) -> bytes:
        """Returns the bytes that are signed and sent: the date has seven decimals, and amounts keep their zeros."""
        envelope = {
            "notificationId": self.id,
            "eventType": self.event_type,
            "eventDate": self.made_at.strftime("%Y-%m-%dT%H:%M:%S.%f") + "1Z",
            "webhookId": self.webhook_id,
            "payload": self.payload,
        }
        return written(envelope)

    def listed(self, faults: Faults | None = None) -> dict[str, Any]:
        """Returns the row of the history: its date has three decimals and no zone. Without `faults`, the row lacks nothing."""
        identifier = self.id.upper() if faults and faults.upper_ids else self.id
        return {
            "_links": {"self": {"href": f"/rest/v1/notifications/{identifier}"}},
            "notificationId": identifier,
            "deliveryStatus": self.status,
            **({"eventType": self.event_type} if self.has_type or not faults else {}),
            **({"eventDate": self._date(faults)} if self.has_date or not faults else {}),
        }

    def detailed(self, faults: Faults) -> dict[str, Any]:
        """Returns the notification as the history shows it alone."""
        more = {"eventDate": self._date(faults), "webhookId": self.webhook_id, "notificationDate": self._date(faults)}
        return self.listed(faults) | more | ({"payload": self.payload} if self.has_payload else {})

    def _date(self, faults: Faults | None) -> str:
        return self.made_at.strftime("%Y-%m-%dT%H:%M:%S.%f")[: -7 if faults and faults.short_dates else -3]


@dataclass
class Account:
    """An account. Its keys follow from the seed and its name: they are no secrets, and open nothing but the simulator."""

    name: str
    login_id: str
    signature_keys: list[tuple[str, datetime | None]]  # each with the time until which it works
    transaction_keys: list[tuple[str, datetime | None]]  # likewise
    only_to: str | None = None  # the one address that deliveries go to, if the Signature Key is the user's
    active: bool = True
    test_mode: bool = False
    webhooks: dict[str, Webhook] = field(default_factory=dict)
    notifications: dict[str, Notification] = field(default_factory=dict)
    rules: Rules = field(default_factory=Rules)
    transactions: dict[str, Transaction] = field(default_factory=dict)
    open: dict[str, Transaction] = field(default_factory=dict)  # those that the list of unsettled ones shows
    batches: dict[str, Batch] = field(default_factory=dict)
    subscriptions: dict[str, Subscription] = field(default_factory=dict)
    failing: set[tuple[date, str]] = field(default_factory=set)  # batches that cannot be settled, by day and payment method
    due: list[tuple[datetime, int, Action]] = field(default_factory=list)  # what will happen: a heap
    has_cut_offs: bool = False
    _numbers: Iterator[int] = field(default_factory=itertools.count)

    def later(self, at: datetime, action: Action) -> None:
        """Calls `action` with a time when the time has come. Actions of the same time keep their order."""
        heapq.heappush(self.due, (at, next(self._numbers), action))

    @property
    def signature_key(self) -> str:
        """Returns the newest Signature Key."""
        return self.signature_keys[-1][0]

    def signing_key(self, now: datetime, *, old: bool) -> str:
        """Returns the Signature Key that signs now. `old`: the oldest that still works, not the newest."""
        return next(key for key, until in self.signature_keys if until is None or (old and now < until))

    def rotate_signature_key(self, now: datetime, overlap: float = OVERLAP) -> str:
        """Makes a new Signature Key, and returns it. The keys before work for `overlap` seconds more."""
        start = f"{self.name}:{len(self.signature_keys)}:{self.login_id}:signature"
        self._rotate(self.signature_keys, hashlib.sha512(start.encode()).hexdigest().upper(), now, overlap)
        return self.signature_key

    @property
    def transaction_key(self) -> str:
        """Returns the newest Transaction Key."""
        return self.transaction_keys[-1][0]

    def accepts(self, key: str, now: datetime) -> bool:
        """Returns whether a Transaction Key works now."""
        return any(key == one and (until is None or now < until) for one, until in self.transaction_keys)

    def rotate_transaction_key(self, now: datetime, overlap: float = OVERLAP) -> str:
        """Makes a new Transaction Key, and returns it. The keys before work for `overlap` seconds more."""
        start = f"{self.name}:{len(self.transaction_keys)}:{self.login_id}"
        self._rotate(self.transaction_keys, _digits(start, 16), now, overlap)
        return self.transaction_key

    @staticmethod
    def _rotate(keys: list[tuple[str, datetime | None]], new: str, now: datetime, overlap: float) -> None:
        ends = now + timedelta(seconds=overlap)
        keys[:] = [*((key, min(until or ends, ends)) for key, until in keys), (new, None)]


def account(name: str, seed: int, signature_key: str | None = None) -> Account:
    """Makes an account. `signature_key`: the Signature Key, if it is not to follow from the seed."""
    start = f"{seed}:{name}"
    key = signature_key or hashlib.sha512(f"{start}:signature".encode()).hexdigest().upper()
    login_id, transaction_key = f"sim{_digits(f'{start}:login', 10)}", _digits(f"{start}:transaction", 16)
    return Account(name, login_id, [(key, None)], [(transaction_key, None)])


def _digits(text: str, length: int) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:length]


def matches(webhook: Webhook, event_type: str) -> bool:
    """Returns whether a webhook is subscribed to an event type. A webhook without types gets all of them."""
    return not webhook.event_types or event_type in webhook.event_types


def notification(
    webhook: Webhook, event_type: str, number: int, now: datetime, dice: Dice, changes: Mapping[str, Any] | None = None
) -> Notification:
    """Makes a notification. `number` names its entity; `changes` are other values of fields of its payload."""
    payload = make_payload(event_type, number) | dict(changes or {})
    return Notification(dice.uuid("notification"), event_type, now, webhook.id, payload, listed_from=now)
