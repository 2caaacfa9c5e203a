"""The pollers ask for as many messages as they have permits for, pause between empty polls, and hide no message for a retry."""

from __future__ import annotations

import asyncio
import itertools
import uuid
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio

from tests.conftest import Servers, Start
from tests.helpers.strict_sqs import StrictSqs
from tests.helpers.wait import until
from tests.integration.test_bundles import CREATED, drained, once, processed_are, received
from tests.integration.test_work import AUTHCAPTURE, Connection, handlers, metric, send, status
from webhookd.authorizenet import sampling
from webhookd.errors import Retryable
from webhookd.event import Event
from webhookd.process.retry import LONGEST_DELAY
from webhookd.queue import poller
from webhookd.queue.message import MOST_EVENTS, EventReference, Message


@pytest_asyncio.fixture
async def gateway(servers: Servers) -> AsyncIterator[StrictSqs]:
    async with StrictSqs(servers.sqs_endpoint_url) as made:
        yield made


async def test_an_empty_queue_is_asked_once_in_a_while_without_long_polls_too(
    start: Start, gateway: StrictSqs, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If WEBHOOKD_SQS_WAIT is 0, SQS answers at once."""
    asked: list[float] = []

    async def note(action: str, _: dict[str, Any]) -> None:
        if action == "ReceiveMessage":
            asked.append(asyncio.get_running_loop().time())

    gateway.before = note
    daemon = await start(handlers(), sqs_endpoint_url=gateway.url, sqs_wait=0, pollers=1, roles="work")
    await until(lambda: len(asked) >= 4, "it polls", deadline=60)
    # The first answer may be late, since the connection is new. No two later polls may follow each other at once.
    assert all(later - earlier >= poller._PAUSE / 2 for earlier, later in itertools.pairwise(asked[1:]))
    await daemon.stop()


async def test_with_messages_there_is_no_pause(
    start: Start, gateway: StrictSqs, connection: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(poller, "_PAUSE", 1e9)
    receiver, bodies = await received(start, connection, *[AUTHCAPTURE] * 12)
    for body in bodies:
        await receiver.sqs.queue.send([[body]])
    await start(handlers(), sqs_endpoint_url=gateway.url, sqs_wait=0, pollers=1, concurrency=1, roles="work")
    await until(lambda: connection.fetchval("SELECT count(*) = 12 FROM events WHERE status = 'processed'"), "all are processed")


async def test_the_longest_delay_is_kept_by_postgresql_and_hides_no_message(
    start: Start, servers: Servers, gateway: StrictSqs, connection: Connection
) -> None:
    """SQS can hide a message for twelve hours at most, and at most 120,000 messages at a time."""

    async def fail(_: Event, __: Any) -> None:
        raise Retryable(after=1e9)

    daemon = await start(handlers(fail), sqs_endpoint_url=gateway.url)
    await send(daemon, sampling.sample(AUTHCAPTURE, 1))
    await until(lambda: status(connection, "retrying"), "the event is retrying")
    await drained(servers, daemon)
    left = await connection.fetchval("SELECT extract(epoch FROM due - now()) FROM work")
    assert LONGEST_DELAY - 180 <= left <= LONGEST_DELAY
    assert not [asked for action, asked in gateway.done if action == "ChangeMessageVisibilityBatch"]
    assert not gateway.refused
    assert metric(daemon, "webhookd_retries_total") == 1


# -- permits


class Till:
    """A handler that hangs until the till is open; counts the attempts that wait."""

    def __init__(self) -> None:
        self.waiting = 0
        self.open = asyncio.Event()

    async def handle(self, _: Event, __: Any) -> None:
        self.waiting += 1
        await self.open.wait()


async def test_a_replica_leaves_bundles_that_it_has_no_permits_for_to_another_one(
    start: Start, servers: Servers, connection: Connection
) -> None:
    """A replica takes at most one message beyond its permits for each of its pollers."""
    receiver, bodies = await received(start, connection, *[AUTHCAPTURE] * 6 * MOST_EVENTS)
    await receiver.sqs.queue.send([bodies[n::6] for n in range(6)])
    tills = Till(), Till()
    replicas = []
    try:
        for till in tills:
            replicas.append(await start(handlers(till.handle), roles="work", concurrency=4, pollers=2))
            await until(lambda: till.waiting == 4, "its handlers are all at work")  # noqa: B023  awaited here
        for replica in replicas:
            assert 1 <= metric(replica, "webhookd_in_flight") <= 2
    finally:
        for till in tills:
            till.open.set()
    await until(lambda: status(connection, "processed"), "every event is processed", deadline=60)
    await once(connection)


async def test_permits_come_back_event_by_event(start: Start, connection: Connection) -> None:
    """One event of a bundle hangs; the permits of the bundle's other events are free for the next message."""
    till = Till()
    receiver, bodies = await received(start, connection, *[AUTHCAPTURE] * 4)
    first, *others, last = bodies

    async def hang_first(event: Event, inside: Any) -> None:
        if event.id == first.event_id:
            await till.handle(event, inside)

    await receiver.sqs.queue.send([[first, *others]])
    await start(handlers(hang_first), roles="work", concurrency=2, pollers=1)
    try:
        await until(lambda: till.waiting, "the first one hangs")
        await receiver.sqs.queue.send([[last]])
        await until(lambda: processed_are(connection, 3), "the next message is worked on meanwhile")
    finally:
        till.open.set()
    await until(lambda: status(connection, "processed"), "every event is processed")


async def test_an_event_without_handlers_needs_no_permit(start: Start) -> None:
    daemon = await start(handlers(Till().handle, pattern=AUTHCAPTURE), roles="work")
    worker = daemon.worker
    assert worker is not None

    def weight(*event_types: str) -> int:
        bodies = tuple(EventReference(uuid.uuid4(), "default", event_type) for event_type in event_types)
        return worker.weigh(Message("1", "1", bodies, 0.0, 1))

    assert weight(*[AUTHCAPTURE] * 5, *[CREATED] * 20) == 5
    assert weight(*[CREATED] * 20) == weight(CREATED) == weight() == 1, "the message itself needs one"


async def test_events_without_handlers_take_no_permit_of_those_that_have(start: Start, connection: Connection) -> None:
    """Bundles of events without handlers are received while only one permit is free."""
    till = Till()
    receiver, bodies = await received(start, connection, AUTHCAPTURE, *[CREATED] * 60)
    await receiver.sqs.queue.send([bodies[:1]])
    await start(handlers(till.handle, pattern=AUTHCAPTURE), roles="work", concurrency=2, pollers=1)
    try:
        await until(lambda: till.waiting, "one permit is taken")
        await receiver.sqs.queue.send([bodies[1:31], bodies[31:]])
        await until(lambda: processed_are(connection, 60), "the others are processed")
    finally:
        till.open.set()
    await until(lambda: status(connection, "processed"), "every event is processed")
