"""No event is lost or doubled by kill -9 under load, at every failpoint and at random moments, or by repeated stops."""

from __future__ import annotations

import asyncio
import random
import signal

import pytest

from tests.helpers.ledger import COUNTING
from tests.helpers.queues import client, url_of
from tests.helpers.rig import Rig
from tests.helpers.running import Process
from tests.helpers.wait import until
from webhookd.runtime.failpoints import Failpoint

# The counting handler, a handler that fails at first, one that gives up, and one that outlives half the visibility timeout.
HANDLERS = (
    COUNTING
    + """
import asyncio

from webhookd import Permanent


@on("net.authorize.payment.void.created")
async def fails_at_first(event, connection):
    if event.attempt == 1:
        raise RuntimeError("not yet")


@on("net.authorize.payment.refund.created")
async def gives_up(event, connection):
    raise Permanent("the order is closed")


@on("net.authorize.payment.fraud.held")
async def takes_long(event, connection):
    await asyncio.sleep(1.6)
"""
)
_FROZEN = 5.0  # seconds, longer than the rig's visibility timeout
# The pass at which the process dies: late enough for events in every state, early enough to be reached.
_NTH = dict.fromkeys(Failpoint, 5) | {
    Failpoint.REDIS_AFTER_WRITE: 20,
    Failpoint.LEASES_AFTER_EXTENSION: 1,
    Failpoint.SWEEPER_AFTER_CLAIM: 2,
    Failpoint.WORKER_AFTER_RETRY: 2,
    Failpoint.WORKER_AFTER_DEATH: 2,
    Failpoint.DEAD_LETTERS_AFTER_COPY: 1,
    Failpoint.QUARANTINE_AFTER_COMMIT: 1,
    Failpoint.DEAD_LETTERS_AFTER_PUT_BACK: 1,
    Failpoint.SHUTDOWN_REFUSING: 1,
    Failpoint.SHUTDOWN_ANSWERED: 1,
    Failpoint.SHUTDOWN_DRAINED: 1,
    Failpoint.SHUTDOWN_FLUSHED: 1,
}
# A load alone does not reach these failpoints.
_APART = {
    Failpoint.QUARANTINE_AFTER_COMMIT,
    Failpoint.DEAD_LETTERS_AFTER_PUT_BACK,
    Failpoint.ALERTS_AFTER_SEND,
    Failpoint.DELIVER_AFTER_ANSWER,
    Failpoint.SYNC_AFTER_DETAILS,
}
_SHORT = {Failpoint.RECEIVE_AFTER_COMMIT, Failpoint.RELAY_AFTER_SEND}  # test_bundles.py kills a worker
_POINTS = [pytest.param(point, marks=() if point in _SHORT else pytest.mark.long) for point in Failpoint if point not in _APART]


def _was_killed_at(daemon: Process, point: Failpoint) -> bool:
    return f'"failpoint":"{point}"' in daemon.log.read_text()


@pytest.mark.parametrize("point", _POINTS)
async def test_killed_at(rig: Rig, point: Failpoint) -> None:
    rig.handlers(HANDLERS)
    # The sweeper has work only if the hot path leaves some behind.
    window = "5" if point is Failpoint.SWEEPER_AFTER_CLAIM else "30"
    daemon = await rig.daemon(failpoints=f"{point}:{_NTH[point]}", relay_window=window)
    async with rig.load(rate=30, connections=8):
        if point.startswith("shutdown."):
            await rig.acknowledged(5)
            assert daemon.process is not None
            daemon.process.send_signal(signal.SIGTERM)
        await until(lambda: not daemon.running, f"it is killed at {point}", deadline=30)
        assert _was_killed_at(daemon, point)
        await daemon.start(failpoints="", relay_window="30")
        await rig.acknowledged(5)
    rig.recovered()
    await rig.finish()


async def test_killed_between_the_quarantine_and_its_answer(rig: Rig) -> None:
    daemon = await rig.daemon(failpoints=f"{Failpoint.QUARANTINE_AFTER_COMMIT}:1")
    (good,) = rig.samples(1)
    unusable = type(good)(good.event_type, good.notification_id, good.entity_id, b'{"eventType": 7}')
    await rig.ledger.send([unusable], rig.urls)
    assert rig.ledger.unanswered == [unusable]
    await until(lambda: not daemon.running, "it is killed")
    assert _was_killed_at(daemon, Failpoint.QUARANTINE_AFTER_COMMIT)
    await daemon.start(failpoints="")
    await rig.finish()
    assert await rig.connection.fetchval("SELECT count(*) FROM quarantine") == 1, "kept once"


async def test_killed_at_random_moments(rig: Rig) -> None:
    rig.handlers(HANDLERS)
    daemon = await rig.daemon()
    for _ in range(rig.rounds(2, 10)):
        async with rig.load(rate=30):
            await rig.acknowledged(random.randrange(5, 40))
            await asyncio.to_thread(daemon.end, signal.SIGKILL)
            await daemon.start()
            await rig.acknowledged(5)
    rig.recovered()
    await rig.finish(deadline=200)


async def test_stopped_in_order_under_load_again_and_again(rig: Rig) -> None:
    """Each stop ends with exit code 0 within the grace, and messages in hand are visible again at once."""
    rig.handlers(HANDLERS)
    daemon = await rig.daemon()
    for _ in range(rig.rounds(2, 6)):
        async with rig.load(rate=30):
            await rig.acknowledged(random.randrange(5, 30))
            assert await daemon.stop() == 0
            await daemon.start()
            await rig.acknowledged(5)
    rig.recovered()
    await rig.finish(deadline=200)
    assert "took longer than" not in daemon.log.read_text()


async def test_a_second_replica_goes_on_when_the_first_is_killed(rig: Rig) -> None:
    rig.handlers(HANDLERS)
    first, second = await rig.daemon(), await rig.daemon()
    async with rig.load(rate=80):
        await rig.acknowledged(40)
        await asyncio.to_thread(first.end, signal.SIGKILL)
        await rig.acknowledged(40)
    await rig.finish()
    assert second.running


@pytest.mark.long
async def test_three_replicas_killed_and_stopped_in_turn(rig: Rig) -> None:
    rig.handlers(HANDLERS)
    daemons = [await rig.daemon() for _ in range(3)]
    for round_ in range(rig.rounds(2, 5)):
        async with rig.load(rate=30):
            await rig.acknowledged(15)
            daemon = daemons[round_ % 3]
            await asyncio.to_thread(daemon.end, signal.SIGKILL if round_ % 2 else signal.SIGTERM)
            await rig.acknowledged(15)
            await daemon.start()
    rig.recovered()
    await rig.finish(deadline=200)


async def test_a_replica_that_was_frozen_beyond_its_visibility_timeout_has_no_second_effect(rig: Rig) -> None:
    """A paused machine wakes up while its handlers run, long after another replica has received its messages."""
    rig.handlers(HANDLERS)
    frozen = await rig.daemon()
    async with rig.load(rate=60):
        await rig.acknowledged(20)
        assert frozen.process is not None
        frozen.process.send_signal(signal.SIGSTOP)
        other = await rig.daemon()
        await asyncio.sleep(_FROZEN)
        assert await other.metric("webhookd_processed_total", outcome="processed") > 0
        frozen.process.send_signal(signal.SIGCONT)
    rig.recovered()
    await rig.finish()


@pytest.mark.long
async def test_killed_between_putting_back_what_sqs_gave_up_and_removing_its_message(rig: Rig) -> None:
    point = Failpoint.DEAD_LETTERS_AFTER_PUT_BACK
    daemon = await rig.daemon(roles="receive,relay", failpoints=f"{point}:1", resend_after="600")
    await rig.send(3)
    async with client(rig.servers) as sqs:
        main, dead = [await url_of(sqs, name) for name in (rig.servers.queue, rig.servers.dead_letter_queue)]
        moved = 0
        while moved < 3:  # SQS moves a message after too many receives, too
            for message in (await sqs.receive_message(QueueUrl=main, WaitTimeSeconds=1)).get("Messages", ()):
                await sqs.send_message(QueueUrl=dead, MessageBody=message["Body"])
                await sqs.delete_message(QueueUrl=main, ReceiptHandle=message["ReceiptHandle"])
                moved += 1
    await until(lambda: not daemon.running, "it is killed", deadline=60)
    assert _was_killed_at(daemon, point)
    await daemon.start(failpoints="", roles="receive,relay,work")
    rig.recovered()
    await rig.finish(deadline=200)  # a process that was killed keeps its duty for 90 s
    assert await rig.connection.fetchval("SELECT count(*) FROM events WHERE status <> 'processed'") == 0
    assert await rig.connection.fetchval("SELECT count(*) FROM audit WHERE actor = 'dead-letter reader'") >= 3
