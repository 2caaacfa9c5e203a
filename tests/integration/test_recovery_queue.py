"""`webhookd recover` reads a queue: which messages it finds useless, removes and gives back, and whether it reached the end."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import pytest

from webhookd.doctor.recovery import Evidence, QueueRead, read_queue
from webhookd.errors import UnavailableError
from webhookd.queue.contract import Failure, Limits, Queue
from webhookd.queue.message import EventReference, Message
from webhookd.store.keys import new_id


class _Queue:
    """A queue that hands out these messages. The deletion of those whose ids are in `refuses` fails."""

    limits = Limits(message_bytes=262_144, batch=10, longest_visibility=43_200)

    def __init__(self, *messages: Message, refuses: frozenset[str] = frozenset(), endless: bool = False) -> None:
        self._messages = list(messages)
        self._refuses = refuses
        self._endless = endless
        self.given_back: list[str] = []

    async def receive(self, limit: int, *, wait: int, visibility: int) -> list[Message]:
        some, left = self._messages[:limit], self._messages[limit:]
        self._messages = self._messages if self._endless else left
        return some

    async def delete(self, messages: Sequence[Message]) -> list[Failure | None]:
        return [UnavailableError("sqs", "odd") if message.id in self._refuses else None for message in messages]

    async def change_visibility(self, delays: Sequence[tuple[Message, int]]) -> list[Failure | None]:
        self.given_back += [message.id for message, _ in delays]
        return [None] * len(delays)


def _message(name: str) -> Message:
    reference = EventReference(new_id(), "default", "net.authorize.payment.void.created")
    return Message(name, f"handle of {name}", (reference,), 0.0, 1)


async def _read(connection: Any, queue: _Queue, evidence: Evidence, *, apply: bool, seconds: float = 20) -> QueueRead:
    return await read_queue(connection, cast("Queue", queue), evidence, apply=apply, seconds=seconds)


async def test_a_message_that_comes_twice_counts_and_is_removed_once(connection: Any) -> None:
    one, evidence = _message("one"), Evidence()
    queue = _Queue(one, one, *[_message(f"more {n}") for n in range(8)], one)
    assert await _read(connection, queue, evidence, apply=True) == QueueRead(9, 9, 9, True)
    assert (evidence.count, queue.given_back) == (9, [])


async def test_a_message_that_cannot_be_removed_is_left_and_given_back(connection: Any) -> None:
    queue = _Queue(_message("one"), _message("two"), refuses=frozenset({"two"}))
    assert await _read(connection, queue, Evidence(), apply=True) == QueueRead(2, 2, 1, True)
    assert queue.given_back == ["two"]


async def test_a_queue_that_is_not_read_to_the_end_is_not_whole(connection: Any) -> None:
    read = await _read(connection, _Queue(_message("one"), endless=True), Evidence(), apply=False, seconds=0.05)
    assert not read.whole


async def test_an_event_whose_notification_came_again_is_not_missing(connection: Any) -> None:
    old = _message("old")
    evidence = Evidence(again={old.references[0].event_id})
    assert await _read(connection, _Queue(old), evidence, apply=False) == QueueRead(1, 1, 0, True)
    assert evidence.count == 0


@pytest.mark.parametrize("apply", [False, True])
async def test_a_message_that_is_not_webhookds_is_given_back(connection: Any, apply: bool) -> None:
    queue = _Queue(Message("strange", "handle", (), 0.0, 1))
    assert await _read(connection, queue, Evidence(), apply=apply) == QueueRead(1, 0, 0, True)
    assert queue.given_back == ["strange"]
