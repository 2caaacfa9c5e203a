"""How messages are asked for, and for how long they are hidden."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio

from tests.conftest import Servers, Start
from tests.helpers.strict_sqs import StrictSqs
from tests.helpers.wait import until
from tests.integration.test_bundles import received
from tests.integration.test_work import AUTHCAPTURE, Connection, handlers, metric, send
from webhookd.dev import traffic
from webhookd.errors import Retryable
from webhookd.event import Event
from webhookd.queue import poller


@pytest_asyncio.fixture
async def gateway(servers: Servers) -> AsyncIterator[StrictSqs]:
    async with StrictSqs(servers.sqs_endpoint_url) as made:
        yield made


async def test_an_empty_queue_is_asked_once_in_a_while_without_long_polls_too(
    start: Start, gateway: StrictSqs, monkeypatch: pytest.MonkeyPatch
) -> None:
    """WEBHOOKD_SQS_WAIT=0: SQS answers at once."""
    asked: list[float] = []

    async def note(action: str, _: dict[str, Any]) -> None:
        if action == "ReceiveMessage":
            asked.append(asyncio.get_running_loop().time())

    gateway.before = note
    daemon = await start(handlers(), sqs_endpoint_url=gateway.url, sqs_wait=0, pollers=1, roles="work")
    await until(lambda: len(asked) >= 4, "it polls", deadline=60)
    # The first answer may come late, and the connection be new: what counts is that no two follow at once.
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


async def test_the_longest_delay_fits_into_what_sqs_can_hide(start: Start, gateway: StrictSqs, connection: Connection) -> None:
    """SQS counts the twelve hours from the message's receipt, so the time in the worker's hands is a part of them."""

    async def fail(_: Event, __: Any) -> None:
        raise Retryable(after=43_200)

    daemon = await start(handlers(fail), sqs_endpoint_url=gateway.url)
    await send(daemon, traffic.sample(AUTHCAPTURE, 1))

    def hidden() -> list[int]:
        calls = [asked["Entries"] for action, asked in gateway.done if action == "ChangeMessageVisibilityBatch"]
        return [entry["VisibilityTimeout"] for entries in calls for entry in entries]

    await until(hidden, "the message is hidden")
    assert 43_200 - 180 <= hidden()[-1] < 43_200
    assert not gateway.refused
    assert metric(daemon, "webhookd_retries_total") == 1
