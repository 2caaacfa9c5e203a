"""The SQS console refuses "redrive to source" for our copies; "custom destination" and webhookd's own redrive work."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any
from uuid import UUID

import pytest
import pytest_asyncio
from botocore.exceptions import ClientError

from tests.conftest import Servers, Start
from tests.helpers.operator import ANN, AUTHCAPTURE, Connection, Operator, come_to
from tests.helpers.queues import client, depth, url_of
from tests.helpers.strict_sqs import StrictSqs
from tests.helpers.wait import until
from tests.integration.test_work import handlers, metric, send
from webhookd.authorizenet import sampling
from webhookd.daemon import Daemon
from webhookd.errors import Permanent
from webhookd.event import Event

COUNT = 12  # more messages than SQS returns at once


class Shop:
    """A handler that gives up every event while the shop is closed, and counts the other events."""

    def __init__(self) -> None:
        self.closed = True
        self.sold: Counter[UUID] = Counter()

    async def handle(self, event: Event, _: Any) -> None:
        if self.closed:
            raise Permanent("the shop is closed")
        self.sold[event.id] += 1


@pytest_asyncio.fixture
async def strict(servers: Servers) -> AsyncIterator[Servers]:
    """Starts the strict SQS in front of moto, and returns the test's servers with its address."""
    async with StrictSqs(servers.sqs_endpoint_url) as gateway:
        yield replace(servers, sqs_endpoint_url=gateway.url)


@pytest_asyncio.fixture
async def queues(strict: Servers) -> Servers:
    """Prepares the queues without a daemon: SQS moves a message to the dead-letter queue after one receive."""
    async with client(strict) as sqs:
        policy = {"deadLetterTargetArn": await arn_of(sqs, await url_of(sqs, strict.dead_letter_queue)), "maxReceiveCount": 1}
        url = await url_of(sqs, strict.queue)
        await sqs.set_queue_attributes(QueueUrl=url, Attributes={"RedrivePolicy": json.dumps(policy)})
    return strict


@pytest.fixture
async def shop() -> Shop:
    return Shop()


@pytest_asyncio.fixture
async def daemon(strict: Servers, start: Start, connection: Connection, shop: Shop) -> Daemon:
    """Starts a daemon with `COUNT` dead events, each with its copy in the dead-letter queue; then opens the shop again."""
    daemon = await start(handlers(shop.handle), sqs_endpoint_url=strict.sqs_endpoint_url, admin_tokens=ANN)
    for number in range(COUNT):
        await send(daemon, sampling.sample(AUTHCAPTURE, number))
    await come_to(connection, {"dead": COUNT})
    await holds(strict, strict.dead_letter_queue, COUNT)
    shop.closed = False
    return daemon


async def arn_of(sqs: Any, url: str) -> str:
    reply = await sqs.get_queue_attributes(QueueUrl=url, AttributeNames=["QueueArn"])
    return str(reply["Attributes"]["QueueArn"])


async def holds(servers: Servers, queue: str, count: int) -> None:
    async def look() -> bool:
        return await depth(servers, queue) == count

    await until(look, f"{count} messages in {queue}", deadline=30)


async def redrive(servers: Servers, destination: str | None = None) -> dict[str, Any]:
    """Redrives the dead-letter queue as the console does, to each message's source or to the queue `destination`."""
    async with client(servers) as sqs:
        source = await arn_of(sqs, await url_of(sqs, servers.dead_letter_queue))
        given = {"DestinationArn": await arn_of(sqs, await url_of(sqs, destination))} if destination else {}
        await sqs.start_message_move_task(SourceArn=source, **given)

        async def look() -> dict[str, Any] | None:
            (task,) = (await sqs.list_message_move_tasks(SourceArn=source))["Results"]
            return task if task["Status"] != "RUNNING" else None

        found: dict[str, Any] = await until(look, "the task has ended")
        return found


# -- the strict SQS


async def test_sqs_moves_back_what_it_has_moved_and_fails_for_what_was_sent(queues: Servers) -> None:
    async with client(queues) as sqs:
        url, dead = await url_of(sqs, queues.queue), await url_of(sqs, queues.dead_letter_queue)
        await sqs.send_message(QueueUrl=url, MessageBody="moved")
        await sqs.receive_message(QueueUrl=url, VisibilityTimeout=0)
        assert "Messages" not in await sqs.receive_message(QueueUrl=url)
        assert await depth(queues, queues.dead_letter_queue) == 1, "SQS has moved it"
        task = await redrive(queues)
        assert (task["Status"], task["ApproximateNumberOfMessagesMoved"]) == ("COMPLETED", 1)
        assert await depth(queues, queues.queue) == 1

        await sqs.send_message(QueueUrl=dead, MessageBody="sent")
        task = await redrive(queues)
        assert (task["Status"], task["FailureReason"]) == ("FAILED", "CouldNotDetermineMessageSource")
        assert await depth(queues, queues.dead_letter_queue) == 1, "it stays"

        task = await redrive(queues, queues.queue)
        assert (task["Status"], task["ApproximateNumberOfMessagesMoved"]) == ("COMPLETED", 1)
        assert (await depth(queues, queues.queue), await depth(queues, queues.dead_letter_queue)) == (2, 0)


async def test_sqs_refuses_a_task_for_what_is_no_dead_letter_queue_or_does_not_exist(queues: Servers) -> None:
    async with client(queues) as sqs:
        main = await arn_of(sqs, await url_of(sqs, queues.queue))
        dead = await arn_of(sqs, await url_of(sqs, queues.dead_letter_queue))
        for asked, code in (
            ({"SourceArn": main, "DestinationArn": dead}, "InvalidParameterValue"),
            ({"SourceArn": f"{dead}-none"}, "ResourceNotFoundException"),
            ({"SourceArn": dead, "DestinationArn": f"{main}-none"}, "ResourceNotFoundException"),
        ):
            with pytest.raises(ClientError) as refused:
                await sqs.start_message_move_task(**asked)
            assert refused.value.response["Error"]["Code"] == code, asked


# -- webhookd's dead events


async def test_redrive_to_source_is_refused_for_our_copies_and_changes_nothing(
    daemon: Daemon, strict: Servers, connection: Connection, shop: Shop
) -> None:
    task = await redrive(strict)
    assert (task["Status"], task["FailureReason"]) == ("FAILED", "CouldNotDetermineMessageSource")
    assert task["ApproximateNumberOfMessagesMoved"] == 0
    assert await depth(strict, strict.dead_letter_queue) == COUNT
    await come_to(connection, {"dead": COUNT})
    assert not shop.sold


async def test_a_custom_destination_revives_each_dead_event_once(
    daemon: Daemon, strict: Servers, connection: Connection, shop: Shop
) -> None:
    task = await redrive(strict, strict.queue)
    assert (task["Status"], task["ApproximateNumberOfMessagesMoved"]) == ("COMPLETED", COUNT)
    await come_to(connection, {"processed": COUNT})
    await holds(strict, strict.queue, 0)
    assert set(shop.sold.values()) == {1}
    assert len(shop.sold) == COUNT
    assert metric(daemon, "webhookd_dead_letters_total", action="redriven") == COUNT
    assert metric(daemon, "webhookd_dead_letters_total", action="unproven") == 0
    revived = "SELECT count(*) FROM audit WHERE from_status = 'dead' AND to_status = 'received' AND actor = 'queue redrive'"
    assert await connection.fetchval(revived) == COUNT
    assert await depth(strict, strict.dead_letter_queue) == 0


async def test_webhookds_own_redrive_works_after_the_consoles_has_failed(
    daemon: Daemon, strict: Servers, connection: Connection, shop: Shop
) -> None:
    assert (await redrive(strict))["Status"] == "FAILED"
    operator = Operator(daemon.admin_url)
    arguments = ("redrive", "--all", "--rate", "100", "--note", "the shop is back", "--yes")
    code, _, err = await operator.command(strict, "dead-letters", *arguments)
    assert code == 0, err
    await come_to(connection, {"processed": COUNT})
    assert set(shop.sold.values()) == {1}
    assert len(shop.sold) == COUNT
    named = "SELECT count(*) FROM audit WHERE from_status = 'dead' AND actor = 'operator (ann)'"
    assert await connection.fetchval(named) == COUNT

    async def empty() -> bool:
        await daemon.dead_letters.reconcile()
        return await depth(strict, strict.dead_letter_queue) == 0

    await until(empty, "the copies are gone", deadline=60, every=0.5)
