"""The dead-letter queue and `dead` in PostgreSQL agree, whatever SQS does with its messages."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any, TypeAlias

import asyncpg
import pytest

from tests.conftest import Servers, Start
from tests.helpers.queues import client, depth, url_of
from tests.helpers.running import KEY
from tests.helpers.wait import until
from webhookd.daemon import Daemon
from webhookd.dev import traffic
from webhookd.errors import Permanent, UnavailableError
from webhookd.event import Event
from webhookd.process.handlers import Registry
from webhookd.queue import dead_letters
from webhookd.queue.message import Body, Message, load

Connection: TypeAlias = "asyncpg.Connection[asyncpg.Record]"
AUTHCAPTURE = "net.authorize.payment.authcapture.created"


async def close(event: Event, connection: Any) -> None:
    raise Permanent("the order is closed")


def closing() -> Registry:
    registry = Registry()
    registry.add("*", close)
    return registry


async def dead(daemon: Daemon, servers: Servers, count: int) -> None:
    """Makes `count` dead events, each with its copy."""
    summary = await traffic.send(traffic.stream([AUTHCAPTURE], count), f"{daemon.public_url}/webhooks/authorize-net", KEY)
    assert summary.failed == 0
    await until(lambda: holds(servers, count), "each has a copy in the dead-letter queue", deadline=30)


async def holds(servers: Servers, count: int) -> bool:
    return await depth(servers, servers.dead_letter_queue) == count


async def copies(servers: Servers) -> list[str]:
    """The event of each message in the dead-letter queue."""
    async with client(servers) as sqs:
        url = await url_of(sqs, servers.dead_letter_queue)
        found: list[str] = []
        while messages := (
            await sqs.receive_message(QueueUrl=url, MaxNumberOfMessages=10, VisibilityTimeout=2, WaitTimeSeconds=1)
        ).get("Messages"):
            found += [str(body.event_id) for message in messages for body in load(message["Body"])]
        return found


async def moved(daemon: Daemon, action: str) -> float:
    return daemon.metrics.registry.get_sample_value("webhookd_dead_letters_total", {"action": action}) or 0.0


async def test_a_message_that_a_pass_sees_twice_is_not_taken_for_a_second_copy(
    start: Start, servers: Servers, connection: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SQS may deliver a message again at once; then its only copy must stay."""
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
    await daemon.dead_letters._pass(3)
    monkeypatch.undo()
    assert await moved(daemon, "removed") == 0
    assert sorted(await copies(servers)) == sorted(str(row["id"]) for row in await connection.fetch("SELECT id FROM events"))


@pytest.mark.parametrize("many", [False, True])
async def test_copies_that_the_queue_lost_are_made_again(
    start: Start, servers: Servers, connection: Connection, monkeypatch: pytest.MonkeyPatch, many: bool
) -> None:
    """However many there are: too many to count them each time, and to look at them with one statement."""
    if many:
        for name, value in {"_COUNTED": 2, "_LOOKED": 2, "_EVERY": 0.0}.items():
            monkeypatch.setattr(dead_letters, name, value)
    daemon = await start(closing())
    await dead(daemon, servers, 3)
    recorded = "SELECT count(*) = 3 FROM events WHERE dead_letter_sent_at IS NOT NULL"
    await until(lambda: connection.fetchval(recorded), "each copy is recorded, too")
    # Sent a while ago: what was sent just now may not show yet.
    ago = "now() - interval '2 minutes'"
    await connection.execute(f"UPDATE work SET copy_sent_at = {ago}, due = {ago}")
    async with client(servers) as sqs:
        await sqs.purge_queue(QueueUrl=await url_of(sqs, servers.dead_letter_queue))

    async def mended() -> bool:
        await daemon.dead_letters.agree()
        return await holds(servers, 3)

    await until(mended, "each has its copy again")
    assert sorted(await copies(servers)) == sorted(str(row["id"]) for row in await connection.fetch("SELECT id FROM events"))


async def test_a_copy_that_sqs_refuses_neither_spins_nor_blocks_the_reader(
    start: Start, servers: Servers, connection: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    daemon = await start(closing(), roles="receive,relay")
    (sample,) = traffic.stream([AUTHCAPTURE], 1)
    await traffic.send([sample], f"{daemon.public_url}/webhooks/authorize-net", KEY)
    await connection.execute("UPDATE work SET status = 'dead', dead_reason = 'x', due = now() - interval '1 minute'")

    async def refuse(messages: list[list[Body]]) -> list[UnavailableError]:
        return [UnavailableError("sqs", "InternalError") for _ in messages]

    monkeypatch.setattr(daemon.sqs.dead_letter_queue, "send", refuse)
    passes: list[object] = []

    async def note(_: int) -> None:
        passes.append(asyncio.current_task())

    monkeypatch.setattr(daemon.dead_letters, "_pass", note)
    async with client(servers) as sqs:
        await sqs.send_message(QueueUrl=await url_of(sqs, servers.dead_letter_queue), MessageBody="not webhookd's")
    for _ in range(2):
        with pytest.raises(UnavailableError):  # which the reader's loop answers with a growing pause
            await daemon.dead_letters.agree()
    # The daemon's own reader may come by at the same time.
    assert passes.count(asyncio.current_task()) == 2, "the queue is looked at all the same"


async def test_one_redrive_message_wakes_its_event_once(start: Start, servers: Servers, connection: Connection) -> None:
    """SQS delivers it again after the event has died again: that death is not the one that an operator wanted undone."""
    daemon = await start(closing())
    await dead(daemon, servers, 1)
    async with client(servers) as sqs:
        url = await url_of(sqs, servers.dead_letter_queue)
        (message,) = (await sqs.receive_message(QueueUrl=url, VisibilityTimeout=600))["Messages"]
    [body] = load(message["Body"])
    query = "SELECT count(*) FROM audit WHERE to_status = $1"
    await daemon.sqs.queue.send([[body]])
    await until(lambda: _is(connection, query, "dead", 2), "it was tried anew, and died again")
    await daemon.sqs.queue.send([[body]])
    known = {"event_type": AUTHCAPTURE, "outcome": "duplicate"}
    await until(lambda: daemon.metrics.registry.get_sample_value("webhookd_processed_total", known), "it has ended, it says")
    assert await connection.fetchval(query, "dead") == 2
    assert await connection.fetchval("SELECT status FROM events") == "dead"


async def _is(connection: Connection, query: str, status: str, count: int) -> bool:
    return bool(await connection.fetchval(query, status) == count)


async def test_one_process_at_a_time_reads_the_dead_letter_queue(
    start: Start, servers: Servers, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two would hide its messages from each other, and each would take the other's for lost."""
    first, second = await start(closing()), await start(closing())
    looked: list[Daemon] = []
    for daemon in (first, second):

        async def note(daemon: Daemon = daemon) -> bool:
            looked.append(daemon)
            return False

        monkeypatch.setattr(daemon.dead_letters, "_round", note)
    for _ in range(3):
        await first.dead_letters.agree()
        await second.dead_letters.agree()
    assert len(set(looked)) == 1


async def test_a_pass_that_has_no_time_left_goes_on_where_it_stopped(
    start: Start, servers: Servers, connection: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    daemon = await start(closing())
    await dead(daemon, servers, 25)
    await connection.execute("UPDATE work SET copy_sent_at = now() - interval '2 minutes'")
    monkeypatch.setattr(dead_letters, "_PASS", 0.001)
    await daemon.dead_letters._pass(25)
    assert await connection.fetchval("SELECT count(*) FROM events WHERE dead_letter_sent_at IS NULL") == 0, (
        "none is taken for lost"
    )
    monkeypatch.undo()
    assert await holds(servers, 25)
