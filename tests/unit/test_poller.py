"""A poller asks for no more messages than its permits allow, and reports when the queue is empty."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any
from uuid import UUID

import pytest

from tests.conftest import settings_of
from tests.helpers.running import base_settings
from webhookd.queue import poller as poller_module
from webhookd.queue.contract import Depth, Limits
from webhookd.queue.message import EventReference, Message
from webhookd.queue.poller import Permits, Poller
from webhookd.runtime.loops import Watch

BODY = EventReference(UUID(int=1), "default", "x")


class Queue:
    """A queue that has the given messages, and waits a little for more messages."""

    limits = Limits(262_144, 10, 43_200)
    up = True

    def __init__(self, *messages: Message, visible: int = 0) -> None:
        self.messages = list(messages)
        self.visible = visible
        self.asked: list[int] = []

    async def receive(self, limit: int, *, wait: int, visibility: int) -> list[Message]:
        self.asked.append(limit)
        await asyncio.sleep(0.05)
        found, self.messages = self.messages[:limit], self.messages[limit:]
        return found

    async def depth(self) -> Depth:
        return Depth(self.visible, 0, 0)


def message(events: int) -> Message:
    return Message("1", "1", (BODY,) * events, 0.0, 1)


class Reports:
    """Stands for the worker: works on messages for ever, and keeps the poller's reports."""

    heaviest = 32

    def __init__(self) -> None:
        self.ages: list[float | None] = []  # the age of the empty poll in each report

    async def report(self, turns: int, age: float | None) -> None:
        assert turns > 0
        self.ages.append(age)

    def weigh(self, found: Message) -> int:
        return len(found.references)

    async def work(self, _: Message, give: Callable[[int], None]) -> None:
        await asyncio.Event().wait()

    def poller(self, queue: Any, *, wait: int = 1, concurrency: int = 64, pollers: int = 1) -> Poller:
        settings = settings_of(
            base_settings(),
            database_url="postgresql://",
            redis_url="redis://",
            concurrency=concurrency,
            pollers=pollers,
            sqs_wait=wait,
        )
        return Poller(settings, queue, self, able=lambda: True, report=self.report, watch=Watch())


async def test_an_empty_answer_of_a_long_poll_reports_when_the_poll_began_and_seldom() -> None:
    reports = Reports()
    poller = reports.poller(Queue())
    await poller._poll()
    await poller._poll()
    (age,) = reports.ages
    assert age is not None
    assert age >= 0.05, "what was sent during the poll may be in the queue"


@pytest.mark.parametrize(("visible", "empty"), [(0, True), (3, False)])
async def test_an_empty_answer_without_a_wait_is_believed_if_the_depth_agrees(visible: int, empty: bool) -> None:
    reports = Reports()
    await reports.poller(Queue(visible=visible), wait=0)._poll()
    assert [age is not None for age in reports.ages] == [empty]


async def test_a_poll_with_messages_reports_that_the_process_works_and_no_empty_queue() -> None:
    reports = Reports()
    poller = reports.poller(Queue(message(1)))
    await poller._poll()
    assert reports.ages == [None]
    await poller.stop()


@pytest.mark.parametrize(
    ("concurrency", "sizes", "asked"),
    [
        (64, [], [2]),  # two of the heaviest messages
        (320, [], [10]),
        (4, [32], [1]),  # one message beyond its permits, and no second message
        (64, [1, 1], [2, 3]),  # the expected weight is halved, because the next messages are probably like the last ones
        (64, [32], [2, 1]),
    ],
)
async def test_a_poll_asks_for_no_more_than_there_are_permits_for(
    concurrency: int, sizes: Sequence[int], asked: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(poller_module, "_GATHER", 0.001)
    queue = Queue(*map(message, sizes))
    poller = Reports().poller(queue, concurrency=concurrency)
    for _ in asked:
        await poller._poll()
    assert queue.asked == asked
    assert poller._permits.free == concurrency - sum(sizes)
    await poller.stop()


async def test_who_waits_for_permits_gets_them_when_they_come_back() -> None:
    permits = Permits(2)
    permits.take(5)
    waiting = asyncio.create_task(permits.wait(1))
    permits.give(3)
    await asyncio.sleep(0)
    assert permits.free == 0
    assert not waiting.done()
    permits.give(1)
    await asyncio.wait_for(waiting, 5)
    assert permits.free == 1
