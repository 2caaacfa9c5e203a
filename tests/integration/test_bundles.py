"""Bundles: events that share a message and a transaction, and how none of them harms another."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Sequence
from typing import Any

import pytest

from tests.conftest import Servers, Start
from tests.helpers.queues import client, depth, url_of
from tests.helpers.wait import until
from tests.integration.test_work import AUTHCAPTURE, Connection, count, handlers, metric, send, status
from webhookd.daemon import Daemon
from webhookd.dev import traffic
from webhookd.errors import Permanent, UnavailableError
from webhookd.event import Event
from webhookd.process import worker as worker_module
from webhookd.queue.bundles import may_be_bundled, pack
from webhookd.queue.contract import Limits
from webhookd.queue.message import MOST_EVENTS, Body, dump, load
from webhookd.store.events import Outgoing

CREATED = "net.authorize.customer.created"
SUBSCRIBED = "net.authorize.customer.subscription.created"
BATCH = 10
LIMITS = Limits(message_bytes=262_144, batch=BATCH, longest_hidden=43_200)  # of SQS
BUNDLED = BATCH * MOST_EVENTS


async def received(start: Start, connection: Connection, *event_types: str) -> tuple[Daemon, list[Body]]:
    """A receiver with one new event of each type, which nobody has sent yet."""
    receiver = await start(roles="receive")
    await send(receiver, *(traffic.sample(event_type, number) for number, event_type in enumerate(event_types, 1)))
    rows = await connection.fetch("SELECT id, account, event_type FROM events ORDER BY id")
    return receiver, [Body(row["id"], row["account"], row["event_type"]) for row in rows]


async def table_of_effects(connection: Connection) -> None:
    await connection.execute("CREATE TABLE effects (event_id uuid, attempt integer)")


async def transactions(connection: Connection) -> int:
    """How many transactions marked the events processed."""
    return int(await connection.fetchval("SELECT count(DISTINCT xmin::text) FROM audit WHERE to_status = 'processed'"))


async def processed(connection: Connection) -> int:
    return int(await connection.fetchval("SELECT count(*) FROM events WHERE status = 'processed'"))


async def once(connection: Connection) -> None:
    """Each event was processed, and once."""
    rows = await connection.fetch(
        "SELECT e.id FROM events e LEFT JOIN audit a ON a.event_id = e.id AND a.to_status = 'processed' "
        "GROUP BY e.id HAVING count(a.event_id) <> 1 OR min(e.status) <> 'processed'"
    )
    assert not rows, f"{len(rows)} events were not processed once"


async def drained(servers: Servers, worker: Daemon) -> None:
    await until(lambda: _empty(servers.queue, servers), "every message is deleted", deadline=30)
    assert metric(worker, "webhookd_in_flight") == 0


async def _empty(queue: str, servers: Servers) -> bool:
    return await depth(servers, queue) == 0


async def test_a_bundles_events_share_a_transaction(start: Start, servers: Servers, connection: Connection) -> None:
    receiver, bodies = await received(start, connection, *[AUTHCAPTURE, CREATED, SUBSCRIBED] * 10)
    await receiver.sqs.queue.send([bodies])
    worker = await start(roles="work")
    await until(lambda: status(connection, "processed"), "every event is processed")
    assert await transactions(connection) == 1
    await once(connection)
    for table in ("transactions", "customers", "subscriptions"):
        assert await connection.fetchval(f"SELECT count(*) FROM {table}") == 10
    await drained(servers, worker)
    assert metric(worker, "webhookd_processed_total", outcome="processed") == 30
    assert metric(worker, "webhookd_end_to_end_seconds_count") == 30
    assert metric(worker, "webhookd_attempts_count") == 30


async def test_events_of_one_entity_in_one_bundle_are_folded(start: Start, connection: Connection) -> None:
    receiver = await start(roles="receive")
    kinds = ["created", "updated", "deleted"]
    await send(receiver, *(traffic.sample(f"net.authorize.customer.{kind}", 1) for kind in kinds))
    rows = await connection.fetch("SELECT id, account, event_type FROM events ORDER BY random()")
    await receiver.sqs.queue.send([[Body(row["id"], row["account"], row["event_type"]) for row in rows]])
    await start(roles="work")
    await until(lambda: status(connection, "processed"), "every event is processed")
    row = await connection.fetchrow("SELECT state, last_event_type FROM customers")
    assert row is not None
    assert tuple(row) == ("deleted", "net.authorize.customer.deleted")


async def test_a_handler_that_fails_harms_no_neighbour_in_its_bundle(
    start: Start, servers: Servers, connection: Connection
) -> None:
    await table_of_effects(connection)

    receiver, bodies = await received(start, connection, AUTHCAPTURE, AUTHCAPTURE, AUTHCAPTURE, CREATED, CREATED)
    await receiver.sqs.queue.send([bodies])
    seen: list[uuid.UUID] = []

    async def fail_first(event: Event, inside: Any) -> None:
        await count(event, inside)
        seen.append(event.id)
        if len(seen) == 1:
            raise ValueError

    worker = await start(handlers(fail_first, pattern="net.authorize.payment.*"), roles="work", retry_base=0.2, retry_cap=0.2)
    await until(lambda: connection.fetchval("SELECT count(*) = 1 FROM events WHERE status = 'retrying'"), "one is retrying")
    await until(lambda: processed_are(connection, 4), "its neighbours are processed")
    await drained(servers, worker)  # the bundle has done its duty: the sweeper sends what is retrying, alone
    await start(roles="relay")
    await until(lambda: status(connection, "processed"), "it is processed too", deadline=15)
    await once(connection)
    rows = await connection.fetch("SELECT event_id, attempt FROM effects")
    assert sorted(row["attempt"] for row in rows) == [1, 1, 2], "each event has one effect"
    assert await connection.fetchval("SELECT attempt FROM effects WHERE event_id = $1", seen[0]) == 2


async def processed_are(connection: Connection, number: int) -> bool:
    return await processed(connection) == number


async def test_a_dead_event_harms_no_neighbour_in_its_bundle(start: Start, servers: Servers, connection: Connection) -> None:
    async def refuse(_: Event, __: Any) -> None:
        raise Permanent("never")

    receiver, bodies = await received(start, connection, CREATED, AUTHCAPTURE, CREATED)
    await receiver.sqs.queue.send([bodies])
    worker = await start(handlers(refuse, pattern=AUTHCAPTURE), roles="work")
    await until(lambda: connection.fetchval("SELECT count(*) = 1 FROM events WHERE status = 'dead'"), "one is dead")
    await until(lambda: processed_are(connection, 2), "its neighbours are processed")
    await drained(servers, worker)
    await until(lambda: depth(servers, servers.dead_letter_queue), "its copy is in the dead-letter queue")


async def test_a_bundle_delivered_again_has_no_second_effect(start: Start, servers: Servers, connection: Connection) -> None:
    receiver, bodies = await received(start, connection, *[AUTHCAPTURE, CREATED] * 5)
    await receiver.sqs.queue.send([bodies, bodies, bodies[:5], bodies[5:]])
    worker = await start(roles="work")
    await until(lambda: status(connection, "processed"), "every event is processed")
    await drained(servers, worker)
    await once(connection)
    assert metric(worker, "webhookd_processed_total", outcome="processed") == 10


async def test_a_bundle_that_came_back_is_split(start: Start, servers: Servers, connection: Connection) -> None:
    """One of its events may be what killed its worker."""
    receiver, bodies = await received(start, connection, *[AUTHCAPTURE, CREATED] * 6)
    await connection.execute("DELETE FROM work WHERE event_id = $1", bodies[0].event_id)
    await receiver.sqs.queue.send([bodies])
    (message,) = await receiver.sqs.queue.receive(1, wait=1, visibility=60)
    await receiver.sqs.queue.hide([(message, 0)])  # as of a worker that died
    worker = await start(roles="work,relay", relay_window=1)
    await until(lambda: status(connection, "processed"), "every event is processed")
    await drained(servers, worker)
    assert metric(worker, "webhookd_processed_total", outcome="split") == 12
    assert metric(worker, "webhookd_processed_total", outcome="processed") == 11, "what had ended is not sent again"


async def test_a_bundle_is_deleted_only_after_what_is_left_of_it_is_due_again(
    start: Start, servers: Servers, connection: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    receiver, bodies = await received(start, connection, CREATED, CREATED, CREATED)
    await receiver.sqs.queue.send([bodies])
    (message,) = await receiver.sqs.queue.receive(1, wait=1, visibility=60)
    await receiver.sqs.queue.hide([(message, 0)])
    monkeypatch.setattr(worker_module, "_INTERRUPTED", 0.1)
    # Nobody may send the events meanwhile: a relay would hide that they were lost with their bundle.
    await connection.execute("UPDATE work SET due = now() + interval '1 hour'")
    worker = await start(roles="work")
    real = worker.store.send_alone
    refused: list[int] = []

    async def refuse_once(ids: Sequence[uuid.UUID]) -> set[uuid.UUID]:
        if not refused:
            refused.append(len(ids))
            raise UnavailableError("postgresql", "away for a moment")
        return await real(ids)

    monkeypatch.setattr(worker.store, "send_alone", refuse_once)
    due = "SELECT count(*) = 3 FROM work WHERE due <= now()"
    await until(lambda: connection.fetchval(due), "what is left of the bundle is due again", deadline=20)
    assert refused == [3]
    await start(roles="relay", relay_window=1)
    await until(lambda: status(connection, "processed"), "every event is processed", deadline=30)
    await drained(servers, worker)


async def test_an_unknown_event_among_known_ones_is_counted_and_dropped(
    start: Start, servers: Servers, connection: Connection
) -> None:
    receiver, bodies = await received(start, connection, AUTHCAPTURE, CREATED)
    await receiver.sqs.queue.send([[*bodies, body(CREATED)]])
    worker = await start(roles="work")
    await until(lambda: status(connection, "processed"), "its neighbours are processed")
    await drained(servers, worker)
    assert metric(worker, "webhookd_processed_total", outcome="unknown") == 1


async def test_an_event_that_another_worker_has_is_left_to_it(start: Start, servers: Servers, connection: Connection) -> None:
    receiver, bodies = await received(start, connection, CREATED, CREATED, CREATED)
    taken = bodies[1].event_id
    token, got = await receiver.claims.acquire([taken])
    assert got == [True]
    await receiver.sqs.queue.send([bodies])
    # Nobody may send the events meanwhile: a relay would hide that one was lost with its bundle.
    await connection.execute("UPDATE work SET due = now() + interval '1 hour'")
    worker = await start(roles="work")
    await until(lambda: processed_are(connection, 2), "its neighbours are processed")
    await until(lambda: metric(worker, "webhookd_processed_total", outcome="busy") >= 1, "it is busy")
    receiver.claims.release([taken], token)
    due = "SELECT due <= now() FROM work WHERE event_id = $1"
    await until(lambda: connection.fetchval(due, taken), "the bundle has come back, and was split", deadline=30)
    await start(roles="relay", relay_window=1)
    await until(lambda: status(connection, "processed"), "it is processed when it is free", deadline=30)
    await once(connection)
    await drained(servers, worker)


async def test_a_locked_event_holds_up_no_neighbour_for_long(start: Start, servers: Servers, connection: Connection) -> None:
    receiver, bodies = await received(start, connection, CREATED, CREATED, CREATED)
    await receiver.sqs.queue.send([bodies])
    async with connection.transaction():
        await connection.execute("SELECT FROM work WHERE event_id = $1 FOR UPDATE", bodies[1].event_id)
        worker = await start(roles="work")
        await until(lambda: processed_are(connection, 2), "its neighbours are processed")
    await start(roles="relay", relay_window=1)
    await until(lambda: status(connection, "processed"), "it is processed when it is free", deadline=30)
    await once(connection)
    await drained(servers, worker)


async def test_an_event_that_postgresql_refuses_fails_alone(start: Start, servers: Servers, connection: Connection) -> None:
    await connection.execute("ALTER TABLE customers ADD CONSTRAINT no_second CHECK (customer_profile_id NOT LIKE '%2')")
    receiver, bodies = await received(start, connection, CREATED, CREATED, CREATED, AUTHCAPTURE)
    await receiver.sqs.queue.send([bodies])
    worker = await start(roles="work", max_attempts=1)
    await until(lambda: processed_are(connection, 3), "its neighbours are processed")
    await until(lambda: connection.fetchval("SELECT count(*) = 1 FROM events WHERE status = 'dead'"), "it is dead")
    await drained(servers, worker)


@pytest.mark.parametrize(
    ("end", "ended_as"),
    [
        ("DELETE FROM webhookd.work WHERE event_id = $1", "processed"),
        ("UPDATE webhookd.work SET status = 'dead', due = now() WHERE event_id = $1", "dead"),
    ],
)
async def test_an_event_that_ended_meanwhile_undoes_what_it_shares(
    start: Start, servers: Servers, connection: Connection, monkeypatch: pytest.MonkeyPatch, end: str, ended_as: str
) -> None:
    """Between the read and the commit another worker may have ended one of them: then all is read anew."""
    receiver, bodies = await received(start, connection, CREATED, CREATED, CREATED)
    worker = await start(roles="work")
    real = worker.store.process
    ended: list[uuid.UUID] = []

    async def late(*given: Any) -> list[float]:
        if not ended:
            ended.append(bodies[0].event_id)
            async with receiver.database.acquire() as other:  # the test waits on its own one
                await other.execute(end, *ended)
        return await real(*given)

    monkeypatch.setattr(worker.store, "process", late)
    await receiver.sqs.queue.send([bodies])
    finished = "SELECT count(*) = 3 FROM events WHERE status IN ('processed', 'dead')"
    await until(lambda: connection.fetchval(finished), "every event has ended")
    await drained(servers, worker)
    assert await connection.fetchval("SELECT status FROM events WHERE id = $1", bodies[0].event_id) == ended_as
    trails = await connection.fetch("SELECT event_id FROM audit WHERE to_status = 'processed'")
    assert sorted(row["event_id"] for row in trails) == sorted(body.event_id for body in bodies[1:])
    assert metric(worker, "webhookd_processed_total", outcome="duplicate") == 1


async def test_users_handlers_have_transactions_of_their_own(start: Start, connection: Connection) -> None:
    await table_of_effects(connection)
    receiver, bodies = await received(start, connection, *[AUTHCAPTURE] * 4, *[CREATED] * 4)
    await receiver.sqs.queue.send([bodies])
    await start(handlers(count, pattern=AUTHCAPTURE), roles="work")
    await until(lambda: status(connection, "processed"), "every event is processed")
    assert await connection.fetchval("SELECT count(DISTINCT xmin::text) FROM effects") == 4
    assert await transactions(connection) == 5
    await once(connection)


async def test_no_more_transactions_than_concurrency_run_at_a_time(start: Start, connection: Connection) -> None:
    running: list[int] = [0, 0]

    async def slow(_: Event, __: Any) -> None:
        running[0] += 1
        running[1] = max(running)
        await asyncio.sleep(0.05)
        running[0] -= 1

    receiver, bodies = await received(start, connection, *[AUTHCAPTURE] * 20)
    await receiver.sqs.queue.send([bodies])
    await start(handlers(slow), roles="work", concurrency=3)
    await until(lambda: status(connection, "processed"), "every event is processed")
    assert running[1] == 3


async def test_a_bundle_in_the_dead_letter_queue_is_split(start: Start, servers: Servers, connection: Connection) -> None:
    """SQS moved it there, whichever of its events was to blame: none of them is dead for that."""
    receiver, bodies = await received(start, connection, *[CREATED, AUTHCAPTURE] * 3)
    await receiver.sqs.dead_letter_queue.send([bodies])
    relay = await start(roles="relay", relay_window=1)
    await relay.dead_letters.agree()
    worker = await start(roles="work")
    await until(lambda: status(connection, "processed"), "every event is processed")
    await until(lambda: _empty(servers.dead_letter_queue, servers), "the dead-letter queue is empty", deadline=30)
    assert metric(relay, "webhookd_dead_letters_total", action="split") == 1
    assert metric(worker, "webhookd_processed_total", outcome="processed") <= 6
    await once(connection)


async def test_the_late_record_of_a_send_does_not_put_off_a_retry(start: Start, connection: Connection) -> None:
    """A send is recorded a moment later; by then the event may have failed, and its retry be due."""
    receiver, bodies = await received(start, connection, AUTHCAPTURE, CREATED)
    failed, waiting = (Outgoing(body.event_id, body.account, body.event_type) for body in bodies)
    await connection.execute(
        "UPDATE work SET status = 'retrying', attempts = 1, retry_at = now(), due = now() WHERE event_id = $1", failed.id
    )
    await receiver.store.mark_sent([failed, waiting], resend_after=600)
    due = "SELECT due <= now() FROM work WHERE event_id = $1"
    assert await connection.fetchval(due, failed.id)
    assert not await connection.fetchval(due, waiting.id)
    assert await connection.fetchval("SELECT status FROM events WHERE id = $1", waiting.id) == "queued"


async def test_light_load_goes_singly_and_heavy_load_in_bundles(start: Start, servers: Servers, connection: Connection) -> None:
    receiver, bodies = await received(start, connection, *[AUTHCAPTURE] * 60)
    relay = await start(roles="relay", relay_window=1, resend_after=600)
    assert relay.relay is not None
    relay.relay.offer([Outgoing(body.event_id, body.account, body.event_type) for body in bodies])
    await until(lambda: metric(relay, "webhookd_relayed_total", outcome="sent") >= 60, "all are sent")
    sizes, named = [], []
    async with client(servers) as sqs:
        url = await url_of(sqs, servers.queue)
        while messages := (await sqs.receive_message(QueueUrl=url, MaxNumberOfMessages=10)).get("Messages"):
            for message in messages:
                sizes.append(len(load(message["Body"])))
                named += [body.event_id for body in load(message["Body"])]
    assert set(named) == {body.event_id for body in bodies}
    assert max(sizes) > 10
    await receiver.stop()


async def test_what_failed_before_is_sent_alone(start: Start, servers: Servers, connection: Connection) -> None:
    receiver, bodies = await received(start, connection, *[AUTHCAPTURE] * 12)
    await connection.execute("UPDATE work SET status = 'retrying', attempts = 1, retry_at = now(), due = now()")
    relay = await start(roles="relay", resend_after=600)
    await until(lambda: metric(relay, "webhookd_relayed_total", outcome="sent") == 12, "all are sent")
    assert await depth(servers, servers.queue) == 12
    await receiver.stop()
    assert len(bodies) == 12


def body(event_type: str = AUTHCAPTURE) -> Body:
    return Body(uuid.uuid4(), "default", event_type)


@pytest.mark.parametrize("number", [1, 2, BATCH, BATCH + 1, 33, 100, BUNDLED])
def test_every_event_is_packed_once(number: int) -> None:
    bodies = [body() for _ in range(number)]
    messages = pack(bodies, LIMITS)
    assert len(messages) <= BATCH
    assert sorted(b.event_id for message in messages for b in message) == sorted(b.event_id for b in bodies)
    assert (max(map(len, messages)) == 1) == (number <= BATCH)
    assert [load(dump(message)) for message in messages] == [tuple(message) for message in messages]


def test_a_call_of_bundles_is_no_larger_than_sqs_takes() -> None:
    longest = Outgoing(uuid.uuid4(), "a" * 64, "x" * 100)
    assert may_be_bundled(longest)
    texts = [dump(m) for m in pack([Body(uuid.uuid4(), longest.account, longest.event_type)] * BUNDLED, LIMITS)]
    assert sum(map(len, texts)) <= 262_144


@pytest.mark.parametrize(
    "event",
    [
        Outgoing(uuid.uuid4(), "default", AUTHCAPTURE, alone=True),
        Outgoing(uuid.uuid4(), "default", "x" * 101),
        Outgoing(uuid.uuid4(), "default", "net.authorize.payment.\u20ac"),
    ],
    ids=["it failed before", "a long type", "a type that grows in JSON"],
)
def test_some_events_go_alone(event: Outgoing) -> None:
    assert not may_be_bundled(event)


@pytest.mark.parametrize(
    "text",
    ["", "1", "[]", "{}", '{"v":2}', '{"v":2,"events":[]}', '{"v":2,"events":[1]}', '{"v":2,"events":[{"event":"no"}]}'],
)
def test_a_message_that_is_not_ours_names_no_event(text: str) -> None:
    assert load(text) == ()
