"""Samples: notifications as Authorize.Net makes them, with the payloads of `shapes.py`."""

from __future__ import annotations

import fnmatch
import random
import time
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import orjson

from webhookd.authorizenet.body import load, read
from webhookd.authorizenet.notification import EVENT_TYPES, PREFIX, nearest_type, whole_pattern
from webhookd.authorizenet.shapes import TEXTS, make_payload
from webhookd.errors import SettingsError


def matching_types(pattern: str) -> list[str]:
    """Returns the event types that `pattern` names: `all`, a full name, a name without `net.authorize.`, or a name with `*`.

    A full name that is not on the provider's list is accepted as it stands, since new types can appear.
    Raises SettingsError if nothing matches.
    """
    if pattern == "all":
        return list(EVENT_TYPES)
    full = whole_pattern(pattern)
    if found := [name for name in EVENT_TYPES if fnmatch.fnmatchcase(name, full)]:
        return found
    if pattern.startswith(PREFIX) and "*" not in pattern:
        return [pattern]
    raise SettingsError(
        f'no event type matches {pattern!r}; the nearest known type is "{nearest_type(pattern)}". '
        f"The known types are: all, {', '.join(EVENT_TYPES)}"
    )


@dataclass(slots=True, frozen=True)
class Sample:
    """One notification: its type, its ids, and the exact bytes."""

    event_type: str
    notification_id: str
    entity_id: str
    body: bytes


def sample(event_type: str, number: int, when: datetime | None = None) -> Sample:
    """Makes a notification of `event_type`. `number` names its entity, so that types with the same number tell one story."""
    when = when or datetime.now(UTC)
    notification_id = str(uuid.uuid4())
    payload = make_payload(event_type, number)
    body = {
        "notificationId": notification_id,
        "eventType": event_type,
        # The provider writes seven fractional digits.
        "eventDate": when.strftime("%Y-%m-%dT%H:%M:%S.%f") + "1Z",
        "webhookId": "e6b3764d-5677-4fb1-a929-2e25a02f3073",
        "payload": payload,
    }
    return Sample(event_type, notification_id, payload["id"], orjson.dumps(body))


def fresh_number() -> int:
    """Returns the first number of sample entities: a new one each millisecond, so that runs do not share entities."""
    return int(time.time() * 1000) % 10_000_000_000


# Stories of one entity: the events of each, in their order.
SCENARIOS = {
    "sale": ("payment.authorization.created", "payment.priorAuthCapture.created", "payment.refund.created"),
    "held": ("payment.fraud.held", "payment.fraud.approved"),
    "subscription": ("customer.subscription.created", "customer.subscription.failed", "customer.subscription.updated"),
}
SCENARIOS = {name: tuple(PREFIX + event_type for event_type in types) for name, types in SCENARIOS.items()}


def sample_of(body: bytes) -> Sample:
    """Returns the sample with exactly these bytes. Checks nothing: a faulty body can be the test."""
    try:
        envelope = load(read(body).text)
    except ValueError:
        envelope = None
    fields = envelope if isinstance(envelope, dict) else {}
    payload = fields.get("payload")
    entity = payload.get("id") if isinstance(payload, dict) else None
    return Sample(str(fields.get("eventType", "")), str(fields.get("notificationId", "")), str(entity or ""), body)


def with_fields(made: Sample, fields: Mapping[str, str]) -> Sample:
    """Returns a sample with other values of some fields. A value is JSON, or else text. Numbers keep their digits."""
    return with_values(
        made, {path: text if path.rpartition(".")[2] in TEXTS else _value(text) for path, text in fields.items()}
    )


def with_values(made: Sample, values: Mapping[str, Any]) -> Sample:
    """Returns a sample with other values of some fields, each by its path, such as `payload.authAmount`.

    None takes a field out. Raises SettingsError if a part of a path is not an object.
    """
    envelope = load(made.body.decode())
    for path, value in values.items():
        *parents, name = path.split(".")
        at = envelope
        for parent in parents:
            at = at.setdefault(parent, {})
            if not isinstance(at, dict):
                raise SettingsError(f"{path}: {parent} is not an object in {made.event_type}")
        if value is None:
            at.pop(name, None)
        else:
            at[name] = value
    return sample_of(orjson.dumps(envelope, default=_as_written))


def _value(text: str) -> Any:
    try:
        orjson.loads(text)
    except ValueError:
        return text
    return orjson.Fragment(text)


def _as_written(value: Any) -> Any:
    if not isinstance(value, Decimal):
        raise TypeError(f"{value!r} is no JSON")
    return orjson.Fragment(format(value, "f"))  # orjson refuses a Decimal, and a float would lose its zeros


def stream(
    event_types: Sequence[str], count: int, *, duplicates: float = 0.0, out_of_order: bool = False, first: int = 1
) -> list[Sample]:
    """Makes `count` notifications of the `event_types` in turn. `duplicates`: the fraction that repeats earlier bytes, 0 to 1.

    Each round of types has one entity. Dates are a millisecond apart. `out_of_order` shuffles the sending, not the dates.
    The very first is never a repeat, and each repeat stands somewhere after its original.
    """
    repeats = min(round(count * duplicates), max(count - 1, 0))
    began = datetime.now(UTC) - timedelta(milliseconds=count)
    samples = [
        sample(event_types[n % len(event_types)], first + n // len(event_types), began + timedelta(milliseconds=n))
        for n in range(count - repeats)
    ]
    if out_of_order:
        random.shuffle(samples)
    places = [(float(place), one) for place, one in enumerate(samples)]
    for _ in range(repeats):
        place = random.randrange(len(samples))
        places.append((random.uniform(place + 0.5, len(samples)), samples[place]))
    return [one for _, one in sorted(places, key=lambda entry: entry[0])]
