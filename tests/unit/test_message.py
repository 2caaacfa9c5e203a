"""A message names the right events, and a dead-letter copy proves that webhookd wrote the copy."""

from __future__ import annotations

import json
import uuid
from typing import Any

import pytest

from webhookd.queue.message import MOST_EVENTS, EventReference, decode, encode
from webhookd.queue.proof import is_proven, sign

PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
COPY = EventReference(uuid.UUID(int=1), "default", "net.authorize.customer.created", "closed: \u20ac", 17, PARENT)
CHANGES: dict[str, Any] = {
    "event_id": uuid.UUID(int=2),
    "account": "other",
    "event_type": "net.authorize.customer.deleted",
    "dead": "closed",
    "died": 18,
    "traceparent": None,
    "mac": "0" * 64,
}
EVENT: dict[str, Any] = {"event": str(COPY.event_id), "account": "default", "type": "x"}


def test_a_copy_is_proven_after_its_way_through_the_queue() -> None:
    assert decode(encode([sign(COPY, b"secret")])) == (sign(COPY, b"secret"),)
    assert all(is_proven(body, b"secret") for body in decode(encode([sign(COPY, b"secret")])))


@pytest.mark.parametrize("field", CHANGES)
def test_a_copy_proves_all_that_it_says(field: str) -> None:
    assert not is_proven(sign(COPY, b"secret")._replace(**{field: CHANGES[field]}), b"secret")


def test_a_copy_is_proven_by_the_secret_alone() -> None:
    assert not is_proven(sign(COPY, b"another"), b"secret")
    assert not is_proven(COPY, b"secret")
    assert not is_proven(sign(COPY._replace(died=None), b"secret"), b"secret")


@pytest.mark.parametrize("count", [MOST_EVENTS, MOST_EVENTS + 1, 500])
def test_a_message_names_no_more_events_than_a_bundle_has(count: int) -> None:
    bodies = [EventReference(uuid.uuid4(), "default", "x") for _ in range(count)]
    assert len(decode(encode(bodies))) == (count if count <= MOST_EVENTS else 0)


def test_an_event_that_a_bundle_names_twice_is_one() -> None:
    assert len(decode(encode([COPY._replace(dead=None, died=None)] * 3))) == 1


def test_a_bundle_holds_no_dead_letter_copy() -> None:
    assert decode(encode([sign(COPY, b"secret"), EventReference(uuid.uuid4(), "default", "x")])) == ()


def test_a_message_names_its_consumer_and_each_event_s_attempts() -> None:
    bodies = (EventReference(uuid.uuid4(), "default", "x", attempts=3), EventReference(uuid.uuid4(), "default", "x"))
    assert json.loads(encode(bodies)) == {
        "v": 3,
        "consumer": "handlers",
        "events": [
            {"event": str(bodies[0].event_id), "account": "default", "type": "x", "attempts": 3},
            {"event": str(bodies[1].event_id), "account": "default", "type": "x"},
        ],
    }
    assert decode(encode(bodies)) == bodies


@pytest.mark.parametrize(
    "fields",
    [
        {"v": 1, **EVENT},
        {"v": 2, "events": [EVENT]},
        {"v": 2, "consumer": "handlers", "events": [EVENT]},
        {"v": 4, "consumer": "handlers", "events": [EVENT]},
        {"v": 3, "events": [EVENT]},
        {"v": 3, "consumer": "ledger", "events": [EVENT]},
        {"v": 3, "consumer": "handlers", **EVENT},
        {"v": 3, "consumer": "handlers", "events": []},
        {"v": 3, "consumer": "handlers", "events": EVENT},
    ],
)
def test_a_message_of_another_version_or_for_another_consumer_names_no_event(fields: dict[str, Any]) -> None:
    assert decode(json.dumps(fields)) == ()
    assert decode(json.dumps({"v": 3, "consumer": "handlers", "events": [EVENT]})), "as it should be"


ODD: dict[str, list[Any]] = {
    "attempts": [True, 1.5, "1", -1, 2**31, None, [1]],
    "died": [True, 1.5, "17", -1, 2**63, [1]],
    "dead": ["x" * 2001, 1, ["x"], {}],
    "event": [1, "0" * 35, "0" * 37, "x" * 36, None],
    "account": [None, 1, "x" * 201],
    "type": [None, [], "x" * 201],
}


@pytest.mark.parametrize("field", ODD)
def test_what_webhookd_never_writes_names_no_event(field: str) -> None:
    message = json.loads(encode([COPY]))
    for value in ODD[field]:
        odd = [message["events"][0] | {field: value}]
        assert decode(json.dumps(message | {"events": odd})) == (), value
        assert decode(json.dumps(message | {"events": [EVENT, *odd]})) == (), value


def test_a_huge_message_is_not_parsed() -> None:
    assert decode(json.dumps(json.loads(encode([COPY])) | {"more": "x" * 100_000})) == ()
