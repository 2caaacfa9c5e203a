"""SQS is away, slow, throttles, fails in part, delivers twice or forgets everything: no event is lost or doubled."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from tests.conftest import make_queues
from tests.helpers.ledger import COUNTING
from tests.helpers.queues import client, depth, url_of
from tests.helpers.rig import Rig
from tests.helpers.running import Process
from tests.helpers.strict_sqs import StrictSqs
from tests.helpers.wait import until


@pytest_asyncio.fixture
async def sqs(rig: Rig) -> AsyncIterator[StrictSqs]:
    """Yields the gateway before moto that the case's daemons use."""
    async with StrictSqs(rig.servers.sqs_endpoint_url) as gateway:
        yield gateway


async def _suffers(rig: Rig, sqs: StrictSqs, webhooks: int, **rates: float) -> Process:
    """Sends a load while SQS is as bad as `rates` say, then heals SQS, and checks the ledger and the empty queue."""
    daemon = await rig.daemon(sqs_endpoint_url=sqs.url)
    for name, rate in rates.items():
        setattr(sqs, name, rate)
    async with rig.load(rate=50):
        await rig.acknowledged(webhooks)
    sqs.heal()
    rig.recovered()
    await rig.finish()
    assert not sqs.refused, "no batch that AWS would refuse"
    await until(lambda: _is_empty(rig), "every message is acknowledged", deadline=60, every=0.2)
    return daemon


async def _is_empty(rig: Rig) -> bool:
    return await depth(rig.servers, rig.servers.queue) == 0


async def test_one_message_twice_within_one_batch_is_acknowledged_with_all_others(rig: Rig, sqs: StrictSqs) -> None:
    # Without Redis, only the row lock keeps the two deliveries apart, and they are acknowledged at the same time.
    await rig.proxies.redis.cut()
    daemon = await _suffers(rig, sqs, 60, doubled=1.0)
    assert await daemon.metric("webhookd_acks_total", outcome="failed") == 0


async def test_messages_delivered_to_several_receives(rig: Rig, sqs: StrictSqs) -> None:
    await _suffers(rig, sqs, 60, repeated=0.5)


async def test_a_200_with_failed_entries(rig: Rig, sqs: StrictSqs) -> None:
    await _suffers(rig, sqs, 60, failed_entries=0.3)


@pytest.mark.long
async def test_out_of_order(rig: Rig, sqs: StrictSqs) -> None:
    await _suffers(rig, sqs, 60, shuffled=0.7)


@pytest.mark.long
async def test_expired_receipt_handles(rig: Rig, sqs: StrictSqs) -> None:
    await _suffers(rig, sqs, 60, expired=0.5)


@pytest.mark.long
async def test_throttled(rig: Rig, sqs: StrictSqs) -> None:
    await _suffers(rig, sqs, 60, throttled=0.7)


@pytest.mark.long
async def test_errors_and_lost_replies(rig: Rig, sqs: StrictSqs) -> None:
    await _suffers(rig, sqs, 60, errors=0.2, lost_replies=0.2)


@pytest.mark.long
async def test_slow(rig: Rig, sqs: StrictSqs) -> None:
    await _suffers(rig, sqs, 60, seconds=1.0)


@pytest.mark.long
async def test_everything_at_once(rig: Rig, sqs: StrictSqs) -> None:
    await _suffers(
        rig, sqs, 100, doubled=0.3, repeated=0.2, failed_entries=0.1, throttled=0.1, errors=0.1, lost_replies=0.1, seconds=0.05
    )


async def test_a_heartbeat_under_way_does_not_hide_what_a_stop_gives_back(rig: Rig, sqs: StrictSqs, tmp_path: Path) -> None:
    cancelled = tmp_path / "cancelled"
    rig.handlers(
        COUNTING
        + f"""
import asyncio
import pathlib


@on("*")
async def in_hand_at_the_stop(event, connection):
    if not pathlib.Path({str(cancelled)!r}).exists():
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            pathlib.Path({str(cancelled)!r}).touch()
            raise
"""
    )
    late = asyncio.Event()

    async def hold_the_heartbeat_back(action: str, asked: dict[str, Any]) -> None:
        if action == "ChangeMessageVisibilityBatch" and asked["Entries"][0]["VisibilityTimeout"] == 3 and not late.is_set():
            late.set()
            await until(cancelled.exists, "the handler is cancelled")
            await asyncio.sleep(0.5)  # long enough for the call that gives the message back to go first

    sqs.before = hold_the_heartbeat_back
    daemon = await rig.daemon(sqs_endpoint_url=sqs.url, handler_timeout="60", resend_after="600", shutdown_grace="6")
    await rig.send(1)
    await asyncio.wait_for(late.wait(), 15)
    assert await daemon.stop() == 0
    changes = [
        asked["Entries"][0]["VisibilityTimeout"] for action, asked in sqs.done if action == "ChangeMessageVisibilityBatch"
    ]
    assert changes[:2] == [3, 0], "the message is visible in the end"
    await daemon.start()
    await rig.finish(deadline=30)


async def test_away_and_back(rig: Rig) -> None:
    daemon = await rig.daemon()
    async with rig.load(rate=80):
        await rig.acknowledged(20)
        await rig.proxies.sqs.cut()
        await rig.acknowledged(100)
        assert rig.ledger.answers[503] == 0, "webhooks are taken as before"
        await until(lambda: daemon.metric("webhookd_outbox_pending"), "the outbox grows")
        await rig.proxies.sqs.heal()
        rig.recovered()
    await rig.finish()


async def test_away_at_the_start(rig: Rig) -> None:
    await rig.proxies.sqs.cut()
    await rig.daemon()
    await rig.send(50)
    assert not rig.ledger.unanswered
    await rig.proxies.sqs.heal()
    rig.recovered()
    await rig.finish()


async def test_everything_in_the_queue_is_lost(rig: Rig) -> None:
    rig.handlers(
        COUNTING + "\nimport asyncio\n\n@on('*')\nasync def linger(event, connection):\n    await asyncio.sleep(0.2)\n"
    )
    await rig.daemon(concurrency="2")
    async with rig.load(rate=60):
        await rig.acknowledged(40)
        async with client(rig.servers) as sqs:
            await sqs.purge_queue(QueueUrl=await url_of(sqs, rig.servers.queue))
        await rig.acknowledged(20)
    rig.recovered()
    await rig.finish()


@pytest.mark.long
async def test_the_queues_deleted_and_made_again(rig: Rig) -> None:
    await rig.daemon()
    async with rig.load(rate=60):
        await rig.acknowledged(40)
        async with client(rig.servers) as sqs:
            for queue in (rig.servers.queue, rig.servers.dead_letter_queue):
                await sqs.delete_queue(QueueUrl=await url_of(sqs, queue))
        await rig.acknowledged(60)
        await make_queues(rig.servers)
        rig.recovered()
    await rig.finish()


@pytest.mark.long
async def test_credentials_refused_and_given_back(rig: Rig, sqs: StrictSqs) -> None:
    await rig.daemon(sqs_endpoint_url=sqs.url)
    async with rig.load(rate=30):
        await rig.acknowledged(20)
        sqs.denied = 1.0
        await rig.acknowledged(60)
        assert rig.ledger.answers[503] == 0, "webhooks are taken as before"
        sqs.heal()
        rig.recovered()
    await rig.finish()


@pytest.mark.long
async def test_the_dead_letter_queue_is_missing_while_events_die(rig: Rig) -> None:
    rig.handlers(
        COUNTING
        + """
from webhookd import Permanent


@on("net.authorize.payment.*")
async def gives_up(event, connection):
    raise Permanent("the order is closed")
"""
    )
    await rig.daemon()
    async with client(rig.servers) as sqs:
        await sqs.delete_queue(QueueUrl=await url_of(sqs, rig.servers.dead_letter_queue))
    async with rig.load(rate=30):
        await rig.acknowledged(60)
    await make_queues(rig.servers)
    rig.recovered()
    await rig.finish()
    owed = "SELECT count(*) = 0 FROM events WHERE status = 'dead' AND dead_letter_sent_at IS NULL"
    await until(lambda: rig.connection.fetchval(owed), "each dead event has its copy", deadline=90, every=0.2)
    assert await depth(rig.servers, rig.servers.dead_letter_queue) == await rig.connection.fetchval(
        "SELECT count(*) FROM events WHERE status = 'dead'"
    )


async def test_messages_that_are_none_of_ours_block_nothing(rig: Rig) -> None:
    await rig.daemon()
    async with client(rig.servers) as sqs:
        url = await url_of(sqs, rig.servers.queue)
        for body in ("not JSON", "{}", '{"event": 7}', "x" * 200_000, '{"event":"00000000-0000-0000-0000-000000000000"}'):
            await sqs.send_message(QueueUrl=url, MessageBody=body)
    await rig.send(50)
    await rig.finish()
