"""Each release works on the messages and rows that the other one has put into SQS, PostgreSQL and Redis."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from tests.conftest import Servers
from tests.helpers.queues import client, depth, url_of
from tests.helpers.wait import until
from tests.upgrade.fleet import Fleet
from webhookd.store.migrations import migrate

COUNT = 100
RELEASES = {True: "previous", False: "present"}


@pytest.mark.parametrize(
    "old",
    [
        pytest.param(True, id="of the previous release"),
        pytest.param(False, id="of the present release", marks=pytest.mark.long),
    ],
)
async def test_messages_and_marks(previous: Path, old_servers: Servers, old: bool) -> None:
    await migrate(old_servers.database_url)
    async with Fleet(old_servers, previous) as fleet:
        ledger = fleet.ledger
        await fleet.database.execute("UPDATE gate SET open = true")
        receiver, worker = await asyncio.gather(
            fleet.start(old=old, roles="receive"), fleet.start(old=not old, roles="receive,work")
        )
        samples = list(fleet.samples(COUNT))
        summary = await ledger.send(samples, receiver.webhook_url)
        assert summary.outcomes == {"accepted": COUNT}
        # The relay sends all events at once, in a wide window, so some share a message.
        await fleet.start(old=old, roles="relay", relay_window="1000")
        await ledger.settle(receiver.webhook_url)
        assert set(await fleet.signed()) == {RELEASES[not old]}

        # Each release knows the other's commits, by Redis or by PostgreSQL.
        summary = await ledger.send(samples, worker.webhook_url)
        assert summary.outcomes == {"duplicate": COUNT}

        # Copies of dead events come back to the queue when they are redriven from the AWS console.
        dead = await fleet.database.fetchval("SELECT count(*) FROM events WHERE status = 'dead'")
        assert dead > 0

        async def copied() -> bool:
            return bool(await depth(old_servers, old_servers.dead_letter_queue) == dead)

        await until(copied, "each dead event has its copy")
        await fleet.stop(worker)
        await fleet.start(old=old, roles="work")
        await _redrive(old_servers, dead)

        async def redriven() -> bool:
            query = "SELECT count(*) FROM audit WHERE actor IN ('operator (queue redrive)', 'queue redrive')"
            return bool(await fleet.database.fetchval(query) == dead)

        await until(redriven, "each is tried anew")
        await ledger.settle(receiver.webhook_url)
        await ledger.check(releases=2)
        assert fleet.misread() == []


async def _redrive(servers: Servers, count: int) -> None:
    """Moves the `count` messages of the dead-letter queue to the queue, as the AWS console does."""
    async with client(servers) as sqs:
        source, target = [await url_of(sqs, name) for name in (servers.dead_letter_queue, servers.queue)]
        moved = 0

        async def move() -> bool:
            nonlocal moved
            reply = await sqs.receive_message(QueueUrl=source, MaxNumberOfMessages=10, VisibilityTimeout=60)
            for message in reply.get("Messages", ()):
                await sqs.send_message(QueueUrl=target, MessageBody=message["Body"])
                await sqs.delete_message(QueueUrl=source, ReceiptHandle=message["ReceiptHandle"])
                moved += 1
            return moved == count

        await until(move, "all are moved", deadline=40)  # a reader may have hidden some copies for a while
