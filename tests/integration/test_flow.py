"""PostgreSQL knows which work is due; the queue only carries the work. Fresh work never waits behind other work."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest

from tests.conftest import Servers, Start
from tests.helpers.operator import AUTHCAPTURE
from tests.helpers.queues import client, depth, received_bodies, url_of
from tests.helpers.stored import lease
from tests.helpers.wait import until
from tests.integration.test_bundles import CREATED, drained, nothing, once, processed_are, received, table_of_effects
from tests.integration.test_work import Connection, count, counted, handlers, metric, send, status
from webhookd.authorizenet import sampling
from webhookd.authorizenet.timeline import fold_all
from webhookd.daemon import Daemon
from webhookd.errors import Retryable
from webhookd.event import Event
from webhookd.store.event_store import Claimed
from webhookd.store.outbox import Outgoing
from webhookd.store.queries import queries

RETRYING = "UPDATE work SET status = 'retrying', attempts = 1, fresh = false, sends = 0, last_error = 'x'"


async def queued(connection: Connection, *, fresh: bool) -> int:
    return int(await connection.fetchval("SELECT count(*) FROM work WHERE status = 'queued' AND fresh = $1", fresh))


# -- retries


async def test_a_failed_attempt_deletes_its_message_and_a_new_one_is_sent_when_the_retry_is_due(
    start: Start, servers: Servers, connection: Connection
) -> None:
    async def fail_once(event: Event, _: Any) -> None:
        if event.attempt == 1:
            raise Retryable("the till is closed", after=3600)

    daemon = await start(handlers(fail_once), resend_after=600)
    await send(daemon, sampling.sample(AUTHCAPTURE, 1))
    await until(lambda: status(connection, "retrying"), "the event is retrying")
    await drained(servers, daemon)
    assert metric(daemon, "webhookd_processed_total", outcome="stale") == 0, "its message does not come back"
    assert daemon.relay is not None
    await daemon.relay.sweep()
    assert metric(daemon, "webhookd_relayed_total", outcome="sent") == 1, "none is sent before the retry is due"
    assert await depth(servers, servers.queue) == 0
    row = await connection.fetchrow("SELECT attempts, sends, fresh, due > now() + interval '50 min' AS later FROM work")
    assert tuple(row or ()) == (1, 0, False, True)
    await connection.execute("UPDATE work SET due = now()")
    await until(lambda: status(connection, "processed"), "the event is processed")
    assert metric(daemon, "webhookd_relayed_total", outcome="sent") == 2
    trail = await connection.fetch("SELECT from_status, to_status, attempt FROM audit ORDER BY at")
    assert tuple(trail[-1])[1:] == ("processed", 2)
    await drained(servers, daemon)


@pytest.mark.parametrize("attempts", [0, 1, 3])
@pytest.mark.parametrize("handled", [True, False], ids=["with handlers", "without handlers"])
async def test_a_message_of_another_attempt_of_a_retrying_event_makes_none(
    start: Start, servers: Servers, connection: Connection, attempts: int, handled: bool
) -> None:
    """The message was delivered again, or late. The attempt that is due has a message of its own."""
    await table_of_effects(connection)
    receiver, [body] = await received(start, connection, AUTHCAPTURE)
    await connection.execute(RETRYING + ", due = now() - interval '1 minute'")
    await connection.execute("UPDATE work SET attempts = 2")
    await receiver.sqs.queue.send([[body._replace(attempts=attempts)]])
    worker = await start(handlers(count, pattern=AUTHCAPTURE if handled else CREATED), roles="work")
    await until(lambda: metric(worker, "webhookd_processed_total", outcome="stale") == 1, "the message is stale")
    await drained(servers, worker)
    assert tuple(await connection.fetchrow("SELECT status, attempts FROM work") or ()) == ("retrying", 2)
    assert await connection.fetchval("SELECT count(*) FROM effects") == 0


@pytest.mark.parametrize("handled", [True, False], ids=["with handlers", "without handlers"])
async def test_a_message_that_was_sent_for_a_retry_makes_its_attempt_although_the_lease_has_moved_its_time(
    start: Start, servers: Servers, connection: Connection, handled: bool
) -> None:
    await table_of_effects(connection)
    receiver, [body] = await received(start, connection, AUTHCAPTURE)
    await connection.execute(RETRYING + ", due = now()")
    [event] = (await lease(receiver.outbox, rest=5, seconds=600)).rest
    assert event.attempts == 1
    assert await connection.fetchval("SELECT due > now() + interval '5 min' AND status = 'retrying' FROM work")
    await receiver.sqs.queue.send([[body._replace(attempts=event.attempts)]])
    worker = await start(handlers(count, pattern=AUTHCAPTURE if handled else CREATED), roles="work")
    await until(lambda: status(connection, "processed"), "the event is processed")
    assert await connection.fetchval("SELECT attempt FROM audit WHERE to_status = 'processed'") == 2
    assert await connection.fetchval("SELECT count(*) FROM effects") == (1 if handled else 0)
    await drained(servers, worker)


async def test_a_retry_that_no_sweeper_has_taken_is_not_made_by_any_message(start: Start, connection: Connection) -> None:
    """If any message could make the attempt, a stranger who writes to the queue could spend an event's attempts in seconds."""
    attempts: list[int] = []

    async def fail(event: Event, _: Any) -> None:
        attempts.append(event.attempt)
        raise ValueError

    receiver, [body] = await received(start, connection, AUTHCAPTURE)
    worker = await start(handlers(fail), roles="work", retry_base=600, retry_cap=600)
    await receiver.sqs.queue.send([[body]])
    await until(lambda: status(connection, "retrying"), "the attempt has failed")
    await receiver.sqs.queue.send([[body._replace(attempts=attempt)] for attempt in (1, 1, 2)])
    await counted(worker, "webhookd_processed_total", 3, outcome="stale")
    assert attempts == [1]


# -- lanes


async def test_what_failed_takes_no_room_of_what_is_fresh_and_has_a_bound_of_its_own(
    start: Start, servers: Servers, connection: Connection
) -> None:
    """The bound is half of the work that all workers of all processes do at a time. Half of the bound is for first retries."""
    receiver, bodies = await received(start, connection, *[AUTHCAPTURE] * 40)
    await connection.execute(RETRYING + ", due = now() WHERE event_id = ANY($1)", [body.event_id for body in bodies[:30]])
    later = [body.event_id for body in bodies[:20]]
    await connection.execute("UPDATE work SET attempts = 2, due = now() WHERE event_id = ANY($1)", later)
    await connection.execute("UPDATE work SET due = now()")
    await receiver.outbox.report_worker(8, None)
    await connection.execute("INSERT INTO processes SELECT gen_random_uuid(), 8, now() FROM processes")
    await connection.execute("INSERT INTO processes VALUES (gen_random_uuid(), 1000, now() - interval '2 minutes')")
    relay = await start(roles="relay", relay_window=5, concurrency=100, resend_after=600)
    await until(lambda: _are_queued(connection, fresh=5, rest=4, later=4), "each lane is filled")
    assert relay.relay is not None
    for _ in range(3):
        await relay.relay.sweep()
    assert await _are_queued(connection, fresh=5, rest=4, later=4), "and not beyond its bound"
    assert await depth(servers, servers.queue) == 13
    await connection.execute("DELETE FROM work WHERE status = 'queued' AND attempts = 1")
    await until(lambda: _are_queued(connection, fresh=5, rest=4, later=4), "those that have ended make room for others")
    await connection.execute("UPDATE work SET due = now() - interval '1 s' WHERE status = 'queued' AND attempts = 2")
    await until(lambda: _are_queued(connection, fresh=5, rest=4, later=8), "what may be lost takes no room")


async def _are_queued(connection: Connection, *, fresh: int, rest: int, later: int) -> bool:
    query = (
        "SELECT count(*) FILTER (WHERE fresh), count(*) FILTER (WHERE NOT fresh AND attempts <= 1), "
        "count(*) FILTER (WHERE attempts > 1) FROM work WHERE status = 'queued'"
    )
    return tuple(await connection.fetchrow(query) or ()) == (fresh, rest, later)


async def test_with_retries_that_hang_fresh_events_are_processed(start: Start, connection: Connection) -> None:
    """First retries have a quarter of the permits at most, and later retries have another quarter."""
    hanging = 0
    done = asyncio.Event()

    async def hang_at_a_retry(event: Event, _: Any) -> None:
        nonlocal hanging
        if event.attempt > 1:
            hanging += 1
            await done.wait()

    await received(start, connection, *[AUTHCAPTURE] * 12)
    await connection.execute(RETRYING + ", due = now()")
    daemon = await start(handlers(hang_at_a_retry), concurrency=4, pollers=2, relay_window=4)
    try:
        await until(lambda: hanging == 1, "a retry hangs")
        await send(daemon, *sampling.stream([AUTHCAPTURE], 12))
        await until(lambda: processed_are(connection, 12), "the fresh ones are processed", deadline=30)
        assert hanging == 1
    finally:
        done.set()
    await until(lambda: status(connection, "processed"), "all are processed", deadline=30)
    await once(connection)


async def test_with_a_handler_that_always_fails_fresh_events_are_processed(start: Start, connection: Connection) -> None:
    """The handler's events are due again at once, for ever, and there are more of them than each window holds."""

    async def fail(_: Event, __: Any) -> None:
        raise ValueError

    daemon = await start(
        handlers(fail, pattern=AUTHCAPTURE), concurrency=4, relay_window=4, max_attempts=1000, retry_base=0.01, retry_cap=0.01
    )
    await send(daemon, *sampling.stream([AUTHCAPTURE], 40))
    failed = "SELECT count(*) = 40 FROM work WHERE attempts > 0"
    await until(lambda: connection.fetchval(failed), "each has failed", deadline=60)
    await send(daemon, *sampling.stream([CREATED], 40))
    await until(lambda: processed_are(connection, 40), "the others are processed", deadline=30)
    assert await connection.fetchval(failed), "and the failing ones are still to be tried"


# -- lost, or waiting


async def sent_before(connection: Connection, seconds: int) -> None:
    """Records that all work was sent once, `seconds` ago, with RESEND_AFTER of 60 s."""
    await connection.execute(
        "UPDATE work SET status = 'queued', sends = 1, due = now() + make_interval(secs => 60 - $1::integer)", seconds
    )


async def test_what_waits_in_the_queue_is_not_taken_for_lost(start: Start, connection: Connection) -> None:
    daemon, _ = await received(start, connection, *[AUTHCAPTURE] * 5)
    outbox = daemon.outbox
    await sent_before(connection, 70)
    assert (await lease(outbox, lost=9)).all == [], "no poll has found the queue empty"
    await outbox.report_worker(16, 75.0)
    assert (await lease(outbox, lost=9)).all == [], "none since they were sent"
    await outbox.report_worker(16, 65.0)
    await outbox.report_worker(16, 75.0)  # the report of a slow poller takes nothing back
    await sent_before(connection, 50)
    assert (await lease(outbox, lost=9)).all == [], "they were sent again after that"
    await sent_before(connection, 70)
    lost = (await lease(outbox, lost=9)).lost
    assert len(lost) == 5
    assert set(map(tuple, await connection.fetch("SELECT sends, fresh FROM work"))) == {(2, False)}
    assert (await lease(outbox, lost=9)).all == [], "somebody sends them"


async def test_an_empty_queue_of_a_time_to_come_proves_nothing(start: Start, connection: Connection) -> None:
    """The time is from PostgreSQL's clock, which has been put back since."""
    daemon, _ = await received(start, connection, *[AUTHCAPTURE] * 5)
    await sent_before(connection, 70)
    await daemon.outbox.report_worker(16, 75.0)
    await connection.execute("UPDATE processes SET drained_at = now() + interval '1 hour'")
    assert (await lease(daemon.outbox, lost=9)).all == []
    await daemon.outbox.report_worker(16, 65.0)
    assert len((await lease(daemon.outbox, lost=9)).lost) == 5


async def test_in_a_queue_that_is_never_empty_a_message_counts_as_lost_after_the_longest_wait(
    start: Start, connection: Connection
) -> None:
    daemon, _ = await received(start, connection, AUTHCAPTURE)
    await sent_before(connection, 3590)
    assert (await lease(daemon.outbox, lost=9)).all == []
    await sent_before(connection, 3610)
    assert len((await lease(daemon.outbox, lost=9)).lost) == 1


async def test_what_is_lost_needs_no_room_and_is_sent_in_bundles(
    start: Start, servers: Servers, connection: Connection
) -> None:
    """If the queue was made anew, all messages may be lost. 100 events are sent again in five messages at most."""
    daemon, _ = await received(start, connection, *[AUTHCAPTURE] * 100)
    await sent_before(connection, 70)
    relay = await start(roles="relay", relay_window=1, concurrency=2, resend_after=60)
    assert relay.relay is not None
    await relay.relay.sweep()
    assert await depth(servers, servers.queue) == 0, "they may wait in the queue"
    await daemon.outbox.report_worker(2, 0.0)
    await until(lambda: metric(relay, "webhookd_relayed_total", outcome="sent") == 100, "they are sent again")
    assert await depth(servers, servers.queue) <= 5
    assert {body["event"] for body in await received_bodies(servers, servers.queue, 100)} == {
        str(row["event_id"]) for row in await connection.fetch("SELECT event_id FROM work")
    }
    resent = "SELECT count(*) FROM audit WHERE from_status = 'queued' AND to_status = 'queued' AND reason = 'sent again'"
    await until(lambda: connection.fetchval(f"SELECT ({resent}) = 100"), "the trail says so")


async def test_a_backlog_older_than_resend_after_is_not_sent_again(
    start: Start, servers: Servers, connection: Connection
) -> None:
    """No worker runs for longer than RESEND_AFTER. Then a worker starts, and receives each event once."""
    relay = await start(roles="receive,relay", relay_window=None, resend_after=1)
    await send(relay, *sampling.stream([AUTHCAPTURE], 40))
    await until(lambda: status(connection, "queued"), "every event is sent")
    await until(lambda: connection.fetchval("SELECT bool_and(due < now()) FROM work"), "RESEND_AFTER is over for all")
    assert relay.relay is not None
    await relay.relay.sweep()
    assert metric(relay, "webhookd_relayed_total", outcome="sent") == 40
    worker = await start(handlers(nothing), roles="work")
    await until(lambda: status(connection, "processed"), "every event is processed", deadline=30)
    await drained(servers, worker)
    assert metric(relay, "webhookd_relayed_total", outcome="sent") == 40
    await once(connection)


async def test_once_a_poller_finds_the_queue_empty_what_it_has_lost_is_sent_again(
    start: Start, servers: Servers, connection: Connection
) -> None:
    relay = await start(roles="receive,relay", relay_window=None, resend_after=1)
    await send(relay, *sampling.stream([AUTHCAPTURE], 40))
    await until(lambda: status(connection, "queued"), "every event is sent")
    async with client(servers) as sqs:
        await sqs.purge_queue(QueueUrl=await url_of(sqs, servers.queue))
    worker = await start(handlers(nothing), roles="work", sqs_wait=1)
    await until(lambda: status(connection, "processed"), "every event is processed", deadline=60)
    assert metric(relay, "webhookd_relayed_total", outcome="sent") >= 80
    await counted(worker, "webhookd_processed_total", 40, outcome="processed")
    await once(connection)


# -- the row's version


async def taken(daemon: Daemon, connection: Connection, state: str) -> Outgoing:
    """Sets all work to `state`, takes the only event as a sweeper does, and returns it."""
    await connection.execute(
        "UPDATE work SET status = $1, fresh = $1 = 'received', attempts = CASE $1 WHEN 'retrying' THEN 1 ELSE 0 END, "
        "sends = 0, due = now()",
        state,
    )
    [event] = (await lease(daemon.outbox, fresh=1, rest=1, seconds=600)).all
    return event


async def _put_back(daemon: Daemon, connection: Connection, event: Outgoing) -> None:
    assert await daemon.store.put_back([event.id], reason="x")


async def _tried_now(daemon: Daemon, connection: Connection, event: Outgoing) -> None:
    await queries.retry_now(connection, id=event.id, actor="operator", reason="x")


async def _failed(daemon: Daemon, connection: Connection, event: Outgoing) -> None:
    assert await daemon.store.mark_retrying(await claimed(daemon, event), reason="x", delay=60.0)


async def _died(daemon: Daemon, connection: Connection, event: Outgoing) -> None:
    assert await daemon.store.mark_dead(await claimed(daemon, event), reason="x", detail="x")


async def _redriven(daemon: Daemon, connection: Connection, event: Outgoing) -> None:
    await _died(daemon, connection, event)
    died = await connection.fetchval("SELECT due FROM work")
    done = await queries.redrive_events(connection, actor="operator", reason="x", forced=False, ids=[event.id], ended=[died])
    assert done == 1


async def claimed(daemon: Daemon, event: Outgoing) -> Claimed:
    async with daemon.database.acquire() as session:
        (found,) = await daemon.store.read(session, [event.id])
    return found


@pytest.mark.parametrize(
    ("change", "state"),
    [
        (_put_back, "received"),
        (_put_back, "retrying"),
        (_tried_now, "retrying"),
        (_failed, "received"),
        (_failed, "retrying"),
        (_died, "received"),
        (_redriven, "received"),
        (_redriven, "retrying"),
    ],
)
async def test_the_late_record_of_a_send_changes_nothing(start: Start, connection: Connection, change: Any, state: str) -> None:
    """A send may be recorded seconds later. By then, the message may be deleted, and the work due again."""
    daemon, _ = await received(start, connection, AUTHCAPTURE)
    event = await taken(daemon, connection, state)
    await change(daemon, connection, event)
    row = await connection.fetchrow("SELECT * FROM work")
    trail = await connection.fetchval("SELECT count(*) FROM audit")
    await daemon.outbox.mark_sent([event], resend_after=600)
    await daemon.outbox.return_lease([event], delay=60.0)
    assert await connection.fetchrow("SELECT * FROM work") == row
    assert await connection.fetchval("SELECT count(*) FROM audit") == trail
    fresh = await taken(daemon, connection, state)
    await daemon.outbox.mark_sent([fresh], resend_after=600)
    assert await connection.fetchval("SELECT status FROM work") == "queued", "a record in time does"


async def test_the_record_of_a_send_skips_what_a_worker_holds(start: Start, connection: Connection) -> None:
    daemon, _ = await received(start, connection, AUTHCAPTURE, AUTHCAPTURE)
    events = (await lease(daemon.outbox, fresh=2)).fresh or await _all_due(daemon, connection)
    async with connection.transaction():
        await connection.execute("SELECT FROM work WHERE event_id = $1 FOR UPDATE", events[0].id)
        await asyncio.wait_for(daemon.outbox.mark_sent(events, resend_after=600), 10)
    found = {row["event_id"]: row["status"] for row in await connection.fetch("SELECT event_id, status FROM work")}
    assert found == {events[0].id: "received", events[1].id: "queued"}


async def _all_due(daemon: Daemon, connection: Connection) -> Sequence[Outgoing]:
    await connection.execute("UPDATE work SET due = now()")
    return (await lease(daemon.outbox, fresh=9)).fresh


# -- two workers


async def test_two_transactions_that_end_the_same_events_at_once_end_each_of_them_once(
    start: Start, connection: Connection
) -> None:
    _, bodies = await received(start, connection, *[CREATED] * 20)
    worker = await start(roles="work")
    ids = [body.event_id for body in bodies]

    async def end(order: Sequence[Any]) -> list[Any]:
        async with worker.database.acquire("fold") as session:
            found = {c.event.id: c for c in await worker.store.read(session, ids)}
            await both_have_read.wait()
            facts = fold_all(c.event for c in found.values())
            return [row["id"] for row in await worker.store.process(session, [found[id_] for id_ in order], facts)]

    both_have_read = asyncio.Barrier(2)
    first, second = await asyncio.gather(end(ids), end(ids[::-1]))
    assert sorted([*first, *second]) == sorted(ids)
    assert await connection.fetchval("SELECT count(*) FROM work") == 0
    await once(connection)
    assert await connection.fetchval("SELECT count(*) FROM customers") == 20
