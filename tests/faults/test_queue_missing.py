"""SQS is there and refuses: without a permission, with bad credentials from the start, with a new dead-letter queue."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio

from tests.conftest import make_queues
from tests.faults.test_kill import HANDLERS
from tests.helpers.queues import client, depth, url_of
from tests.helpers.rig import Rig
from tests.helpers.strict_sqs import StrictSqs
from tests.helpers.wait import until

# The permission that a policy names, and the calls that it covers: AWS has no permissions for the batches.
_PERMISSIONS = {
    "SendMessage": {"SendMessage", "SendMessageBatch"},
    "ReceiveMessage": {"ReceiveMessage"},
    "DeleteMessage": {"DeleteMessage", "DeleteMessageBatch"},
    "ChangeMessageVisibility": {"ChangeMessageVisibility", "ChangeMessageVisibilityBatch"},
}


@pytest_asyncio.fixture
async def gateway(rig: Rig) -> AsyncIterator[StrictSqs]:
    """Yields a gateway before moto for the case's daemons."""
    async with StrictSqs(rig.servers.sqs_endpoint_url) as made:
        yield made


def _deny(gateway: StrictSqs, actions: set[str], queue: str) -> list[str]:
    """Refuses `actions` on `queue` until `before` is removed; returns the growing list of refused actions."""
    refused: list[str] = []

    async def judge(action: str, asked: dict[str, Any]) -> None:
        is_denied = action in actions and str(asked.get("QueueUrl", "")).rpartition("/")[2] == queue
        gateway.denied = float(is_denied)
        if is_denied:
            refused.append(action)

    gateway.before = judge
    return refused


def _grant(gateway: StrictSqs) -> None:
    gateway.before = None
    gateway.heal()


async def _is_drained(rig: Rig) -> bool:
    return await depth(rig.servers, rig.servers.queue) == 0


async def _has_each_copy_once(rig: Rig) -> bool:
    dead = await rig.connection.fetchval("SELECT count(*) FROM events WHERE status = 'dead'")
    owed = await rig.connection.fetchval("SELECT count(*) FROM events WHERE status = 'dead' AND dead_letter_sent_at IS NULL")
    return bool(dead) and not owed and await depth(rig.servers, rig.servers.dead_letter_queue) == dead


@pytest.mark.parametrize(
    "permission",
    [pytest.param(name, marks=() if name == "DeleteMessage" else pytest.mark.long) for name in _PERMISSIONS],
)
async def test_a_permission_is_missing_and_given(rig: Rig, gateway: StrictSqs, permission: str) -> None:
    """Webhooks are accepted as before. A processed message that cannot be deleted comes back, without a second effect."""
    rig.handlers(HANDLERS)
    daemon = await rig.daemon(sqs_endpoint_url=gateway.url)
    async with rig.load(rate=30):
        await rig.acknowledged(10)
        refused = _deny(gateway, _PERMISSIONS[permission], rig.servers.queue)
        await rig.acknowledged(60)
        await until(lambda: refused, "it is refused", deadline=40)
        assert rig.ledger.answers[503] == 0, "webhooks are taken as before"
        assert await daemon.ready()
        _grant(gateway)
        rig.recovered()
    await rig.finish()
    await until(lambda: _is_drained(rig), "every message is acknowledged", deadline=60, every=0.2)


@pytest.mark.long
async def test_credentials_refused_from_the_start(rig: Rig, gateway: StrictSqs) -> None:
    gateway.denied = 1.0
    rig.handlers(HANDLERS)
    await rig.daemon(sqs_endpoint_url=gateway.url)
    async with rig.load(rate=30):
        await rig.acknowledged(40)
        assert rig.ledger.answers[503] == 0
        assert not gateway.done
    gateway.heal()
    rig.recovered()
    await rig.finish()


@pytest.mark.long
async def test_only_the_dead_letter_queue_refuses_while_events_die(rig: Rig, gateway: StrictSqs) -> None:
    """Live traffic does not suffer, and each dead event has its copy in the end."""
    rig.handlers(HANDLERS)
    daemon = await rig.daemon(sqs_endpoint_url=gateway.url)
    refused = _deny(gateway, _PERMISSIONS["SendMessage"], rig.servers.dead_letter_queue)
    async with rig.load(rate=30):
        await rig.acknowledged(60)
        died = "SELECT count(*) > 1 FROM events WHERE status = 'dead'"
        await until(lambda: rig.connection.fetchval(died), "some die", deadline=30)
        await until(lambda: refused, "their copies are refused", deadline=30)
    await until(
        lambda: rig.connection.fetchval("SELECT count(*) = 0 FROM events WHERE status NOT IN ('processed', 'dead')"),
        "all events end with the dead-letter queue still refusing",
        deadline=60,
        every=0.2,
    )
    assert await depth(rig.servers, rig.servers.dead_letter_queue) == 0
    assert "sqs is away" not in daemon.log.read_text(), "the main queue was never taken to be away"
    _grant(gateway)
    rig.recovered()
    await rig.finish()
    await until(lambda: _has_each_copy_once(rig), "each dead event has its copy, once", deadline=60, every=0.5)


@pytest.mark.long
async def test_the_dead_letter_queue_is_deleted_with_the_copies_that_it_held(rig: Rig) -> None:
    """Copies that PostgreSQL records as sent are found missing in the new queue, and are sent again."""
    rig.handlers(HANDLERS)
    await rig.daemon()
    copied = "SELECT count(*) > 2 FROM events WHERE status = 'dead' AND dead_letter_sent_at IS NOT NULL"
    async with rig.load(rate=30):
        await rig.acknowledged(40)
        await until(lambda: rig.connection.fetchval(copied), "some copies are there", deadline=30)
        async with client(rig.servers) as sqs:
            await sqs.delete_queue(QueueUrl=await url_of(sqs, rig.servers.dead_letter_queue))
        await rig.acknowledged(40)
        await make_queues(rig.servers)
        rig.recovered()
        await rig.acknowledged(10)
    await rig.finish()
    # A copy counts as missing one minute after it was sent at the earliest, and the queue is searched every 15 s.
    await until(lambda: _has_each_copy_once(rig), "each dead event has its copy, once", deadline=150, every=0.5)
