"""The dead-letter queue and `dead` in PostgreSQL agree, whatever SQS does with its messages."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from datetime import timedelta
from typing import Any, TypeAlias

import asyncpg
import pytest

from tests.conftest import Servers, Start
from tests.helpers.queues import client, depth, url_of
from tests.helpers.running import KEY
from tests.helpers.wait import until
from tests.integration.test_bundles import nothing, received
from tests.integration.test_work import handlers, metric, status
from webhookd.authorizenet import sampling
from webhookd.daemon import Daemon
from webhookd.dev import traffic
from webhookd.errors import Permanent, UnavailableError
from webhookd.event import Event
from webhookd.process.handlers import Registry
from webhookd.queue import dead_letters
from webhookd.queue.message import EventReference, Message, decode, encode

Connection: TypeAlias = "asyncpg.Connection[asyncpg.Record]"
AUTHCAPTURE = "net.authorize.payment.authcapture.created"


async def close(event: Event, connection: Any) -> None:
    raise Permanent("the order is closed")


def closing() -> Registry:
    registry = Registry()
    registry.add("*", close)
    return registry


async def dead(daemon: Daemon, servers: Servers, count: int) -> None:
    """Makes `count` dead events with `daemon`, whose handler gives up, and waits until each has its copy."""
    summary = await traffic.send(sampling.stream([AUTHCAPTURE], count), f"{daemon.public_url}/webhooks/authorize-net", KEY)
    assert summary.failed == 0
    await until(lambda: holds(servers, count), "each has a copy in the dead-letter queue", deadline=30)


async def holds(servers: Servers, count: int) -> bool:
    return await depth(servers, servers.dead_letter_queue) == count


async def copies(servers: Servers) -> list[str]:
    """Returns the id of the event of each message in the dead-letter queue."""
    async with client(servers) as sqs:
        url = await url_of(sqs, servers.dead_letter_queue)
        found: list[str] = []
        while messages := (
            await sqs.receive_message(QueueUrl=url, MaxNumberOfMessages=10, VisibilityTimeout=2, WaitTimeSeconds=1)
        ).get("Messages"):
            found += [str(body.event_id) for message in messages for body in decode(message["Body"])]
        return found


async def moved(daemon: Daemon, action: str) -> float:
    return daemon.metrics.registry.get_sample_value("webhookd_dead_letters_total", {"action": action}) or 0.0


async def test_a_message_that_a_pass_sees_twice_is_not_taken_for_a_second_copy(
    start: Start, servers: Servers, connection: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SQS may deliver a message again at once. The event's only copy must then stay."""
    daemon = await start(closing())
    await dead(daemon, servers, 3)
    receive = daemon.sqs.dead_letter_queue.receive
    again: list[Message] = []

    async def twice(limit: int, *, wait: int, visibility: int) -> list[Message]:
        found = await receive(limit, wait=wait, visibility=visibility)
        if found:
            again[:] = found
            return found
        repeated = [replace(message, handle=f"{message.handle} of its second delivery") for message in again]
        again.clear()
        return repeated

    monkeypatch.setattr(daemon.sqs.dead_letter_queue, "receive", twice)
    await daemon.dead_letters._read_all(3)
    monkeypatch.undo()
    assert await moved(daemon, "removed") == 0
    assert sorted(await copies(servers)) == sorted(str(row["id"]) for row in await connection.fetch("SELECT id FROM events"))


@pytest.mark.parametrize("many", [False, True])
async def test_copies_that_the_queue_lost_are_made_again(
    start: Start, servers: Servers, connection: Connection, monkeypatch: pytest.MonkeyPatch, many: bool
) -> None:
    """Lost copies are made again even if they are too many to count each time, and to look at with one statement."""
    if many:
        for name, value in {"_COUNTED": 2, "_LOOKED": 2, "_PASS_EVERY_SECONDS": 0.0}.items():
            monkeypatch.setattr(dead_letters, name, value)
    daemon = await start(closing())
    await dead(daemon, servers, 3)
    recorded = "SELECT count(*) = 3 FROM events WHERE dead_letter_sent_at IS NOT NULL"
    await until(lambda: connection.fetchval(recorded), "each copy is recorded, too")
    # As if the copies were sent earlier: a copy that was sent just now may not be visible yet.
    ago = "now() - interval '2 minutes'"
    await connection.execute(f"UPDATE work SET copy_sent_at = {ago}, due = {ago}")
    async with client(servers) as sqs:
        await sqs.purge_queue(QueueUrl=await url_of(sqs, servers.dead_letter_queue))

    async def mended() -> bool:
        await daemon.dead_letters.reconcile()
        return await holds(servers, 3)

    await until(mended, "each has its copy again")
    assert sorted(await copies(servers)) == sorted(str(row["id"]) for row in await connection.fetch("SELECT id FROM events"))


async def test_a_copy_that_sqs_refuses_neither_spins_nor_blocks_the_reader(
    start: Start, servers: Servers, connection: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    daemon = await start(closing(), roles="receive,relay")
    (sample,) = sampling.stream([AUTHCAPTURE], 1)
    await traffic.send([sample], f"{daemon.public_url}/webhooks/authorize-net", KEY)
    await connection.execute("UPDATE work SET status = 'dead', dead_reason = 'x', due = now() - interval '1 minute'")

    async def refuse(messages: list[list[EventReference]]) -> list[UnavailableError]:
        return [UnavailableError("sqs", "InternalError") for _ in messages]

    monkeypatch.setattr(daemon.sqs.dead_letter_queue, "send", refuse)
    passes: list[object] = []

    async def note(_: int) -> None:
        passes.append(asyncio.current_task())

    monkeypatch.setattr(daemon.dead_letters, "_read_all", note)
    async with client(servers) as sqs:
        await sqs.send_message(QueueUrl=await url_of(sqs, servers.dead_letter_queue), MessageBody="not webhookd's")
    for _ in range(2):
        with pytest.raises(UnavailableError):  # the error makes the reader's loop pause, longer each time
            await daemon.dead_letters.reconcile()
    # The daemon's own reader may make a pass at the same time.
    assert passes.count(asyncio.current_task()) == 2, "the queue is looked at all the same"


async def test_one_redrive_message_wakes_its_event_once(start: Start, servers: Servers, connection: Connection) -> None:
    """SQS delivers the message again after the event has died again. The operator did not redrive this second death."""
    daemon = await start(closing())
    await dead(daemon, servers, 1)
    async with client(servers) as sqs:
        url = await url_of(sqs, servers.dead_letter_queue)
        (message,) = (await sqs.receive_message(QueueUrl=url, VisibilityTimeout=600))["Messages"]
    [body] = decode(message["Body"])
    query = "SELECT count(*) FROM audit WHERE to_status = $1"
    await daemon.sqs.queue.send([[body]])
    await until(lambda: _is(connection, query, "dead", 2), "it was tried anew, and died again")
    await daemon.sqs.queue.send([[body]])
    known = {"event_type": AUTHCAPTURE, "outcome": "stale"}
    await until(
        lambda: daemon.metrics.registry.get_sample_value("webhookd_processed_total", known),
        "the message of another death is stale",
    )
    assert await connection.fetchval(query, "dead") == 2
    assert await connection.fetchval("SELECT status FROM events") == "dead"


async def _is(connection: Connection, query: str, status: str, count: int) -> bool:
    return bool(await connection.fetchval(query, status) == count)


# -- raw messages: SQS moved them to the dead-letter queue, and they prove nothing about the event


async def raw(servers: Servers, *bodies: EventReference) -> None:
    """Puts a message into the dead-letter queue, as SQS does after too many receives."""
    async with client(servers) as sqs:
        await sqs.send_message(QueueUrl=await url_of(sqs, servers.dead_letter_queue), MessageBody=encode(bodies))


async def gone(daemon: Daemon, servers: Servers) -> None:
    """Lets the dead-letter reader make passes until the dead-letter queue is empty."""

    async def look() -> bool:
        await daemon.dead_letters.reconcile()
        return await holds(servers, 0)

    await until(look, "the raw messages are removed")


async def test_what_sqs_moved_there_without_an_attempt_is_put_back_and_ends_well(
    start: Start, servers: Servers, connection: Connection
) -> None:
    receiver, bodies = await received(start, connection, AUTHCAPTURE, AUTHCAPTURE, AUTHCAPTURE)
    await connection.execute("UPDATE work SET status = 'queued', sends = 1, due = now() + interval '1 hour'")
    await raw(servers, *bodies[:2])
    await raw(servers, bodies[2])
    await gone(receiver, servers)
    assert await moved(receiver, "put_back") == 3
    state = "SELECT bool_and(status = 'received' AND NOT fresh AND attempts = 0 AND due <= now()) FROM work"
    assert await connection.fetchval(state)
    trail = await connection.fetch("SELECT from_status, to_status, actor, reason FROM audit")
    assert {tuple(row)[:3] for row in trail} == {("queued", "received", "dead-letter reader")}
    assert all("moved its message to the dead-letter queue" in row["reason"] for row in trail)
    daemon = await start(handlers(nothing), roles="work,relay")
    await until(lambda: status(connection, "processed"), "every event is processed")
    assert await connection.fetchval("SELECT count(*) FROM audit WHERE to_status = 'processed' AND attempt = 1") == 3
    assert metric(daemon, "webhookd_dead_total") == 0


async def test_what_a_worker_has_in_hand_keeps_its_raw_message_until_the_next_pass(
    start: Start, servers: Servers, connection: Connection
) -> None:
    receiver, bodies = await received(start, connection, AUTHCAPTURE, AUTHCAPTURE)
    await connection.execute("UPDATE work SET status = 'queued', due = now() + interval '1 hour'")
    await raw(servers, *bodies)
    async with connection.transaction():
        await connection.execute("SELECT FROM work WHERE event_id = $1 FOR UPDATE", bodies[0].event_id)
        await receiver.dead_letters.reconcile()
        assert await moved(receiver, "put_back") == 0
        assert await holds(servers, 1), "the message stays, with all its events"
    assert await connection.fetchval("SELECT bool_and(status = 'queued') FROM work")
    await gone(receiver, servers)
    assert await connection.fetchval("SELECT bool_and(status = 'received') FROM work")


async def test_a_retry_that_is_put_back_keeps_its_time_and_its_attempts(
    start: Start, servers: Servers, connection: Connection
) -> None:
    """The message may be from an earlier attempt. A sweeper that has just chosen the work must not record its send."""
    receiver, [body] = await received(start, connection, AUTHCAPTURE)
    await connection.execute(
        "UPDATE work SET status = 'retrying', attempts = 2, fresh = false, due = now() + interval '1 hour'"
    )
    before = await connection.fetchrow("SELECT * FROM work")
    await raw(servers, body)
    await gone(receiver, servers)
    after = await connection.fetchrow("SELECT * FROM work")
    assert before is not None
    assert after is not None
    assert after["due"] - before["due"] == timedelta(microseconds=1)
    assert dict(after) == {**before, "due": after["due"]}


@pytest.mark.parametrize(
    "ended", ["DELETE FROM work", "UPDATE work SET status = 'discarded', discarded_at = now(), due = now()"]
)
async def test_a_raw_message_of_what_has_ended_is_removed_and_changes_nothing(
    start: Start, servers: Servers, connection: Connection, ended: str
) -> None:
    receiver, bodies = await received(start, connection, AUTHCAPTURE, AUTHCAPTURE)
    await connection.execute(ended)
    before = await connection.fetch("SELECT * FROM work")
    await raw(servers, *bodies)
    await gone(receiver, servers)
    assert (await moved(receiver, "removed"), await moved(receiver, "put_back")) == (1, 0)
    assert await connection.fetch("SELECT * FROM work") == before
    assert await connection.fetchval("SELECT count(*) FROM audit") == 0


async def test_a_raw_message_of_a_dead_event_gives_way_to_its_copy(
    start: Start, servers: Servers, connection: Connection
) -> None:
    daemon = await start(closing())
    await dead(daemon, servers, 1)
    row = await connection.fetchrow("SELECT id, account, event_type FROM events")
    assert row is not None
    body = EventReference(row["id"], row["account"], row["event_type"])
    await raw(servers, body)

    async def one_left() -> bool:
        await daemon.dead_letters.reconcile()
        return await holds(servers, 1)

    await until(one_left, "the raw message is removed")
    assert await copies(servers) == [str(body.event_id)]
    assert await moved(daemon, "removed") == 1
    assert await connection.fetchval("SELECT status FROM events") == "dead"


async def test_one_process_at_a_time_reads_the_dead_letter_queue(
    start: Start, servers: Servers, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two readers would hide messages from each other, and each would take the hidden messages for lost."""
    first, second = await start(closing()), await start(closing())
    looked: list[Daemon] = []
    for daemon in (first, second):

        async def note(daemon: Daemon = daemon) -> bool:
            looked.append(daemon)
            return False

        monkeypatch.setattr(daemon.dead_letters, "_reconcile", note)
    for _ in range(3):
        await first.dead_letters.reconcile()
        await second.dead_letters.reconcile()
    assert len(set(looked)) == 1


async def test_a_pass_that_has_no_time_left_goes_on_where_it_stopped(
    start: Start, servers: Servers, connection: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    daemon = await start(closing())
    await dead(daemon, servers, 25)
    await connection.execute("UPDATE work SET copy_sent_at = now() - interval '2 minutes'")
    monkeypatch.setattr(dead_letters, "_PASS_SECONDS", 0.001)
    await daemon.dead_letters._read_all(25)
    assert await connection.fetchval("SELECT count(*) FROM events WHERE dead_letter_sent_at IS NULL") == 0, (
        "none is taken for lost"
    )
    monkeypatch.undo()
    assert await holds(servers, 25)
