"""Bundles: events share a message and a transaction, and no event harms another."""

from __future__ import annotations

import asyncio
import uuid
from typing import Any

import pytest

from tests.conftest import Servers, Start
from tests.helpers.queues import client, depth, received_bodies, url_of
from tests.helpers.stored import end_well
from tests.helpers.wait import until
from tests.integration.test_work import AUTHCAPTURE, Connection, count, counted, handlers, metric, send, status
from webhookd.authorizenet import sampling
from webhookd.daemon import Daemon
from webhookd.errors import Permanent, UnavailableError
from webhookd.event import Event
from webhookd.process import alone as alone_module
from webhookd.process.result import TRUSTED
from webhookd.queue.bundles import pack
from webhookd.queue.contract import Limits
from webhookd.queue.message import MOST_EVENTS, EventReference, decode, encode
from webhookd.store.outbox import Outgoing

CREATED = "net.authorize.customer.created"
SUBSCRIBED = "net.authorize.customer.subscription.created"
BATCH = 10
LIMITS = Limits(message_bytes=262_144, batch=BATCH, longest_visibility=43_200)  # the limits of SQS
BUNDLED = BATCH * MOST_EVENTS
OURS = '{"v":3,"consumer":"handlers"'


async def received(start: Start, connection: Connection, *event_types: str) -> tuple[Daemon, list[EventReference]]:
    """Returns a receiver that has accepted one event of each of `event_types`, and each event's entry for a message.

    No relay runs, so nothing has sent the events to the queue yet.
    """
    receiver = await start(roles="receive")
    await send(receiver, *(sampling.sample(event_type, number) for number, event_type in enumerate(event_types, 1)))
    rows = await connection.fetch("SELECT id, account, event_type FROM events ORDER BY id")
    return receiver, [EventReference(row["id"], row["account"], row["event_type"]) for row in rows]


async def table_of_effects(connection: Connection) -> None:
    await connection.execute("CREATE TABLE effects (event_id uuid, attempt integer)")


async def nothing(_: Event, __: Any) -> None:
    """Does nothing, as a handler."""


async def transactions(connection: Connection) -> int:
    """Returns how many transactions marked the events processed."""
    return int(await connection.fetchval("SELECT count(DISTINCT xmin::text) FROM audit WHERE to_status = 'processed'"))


async def processed(connection: Connection) -> int:
    return int(await connection.fetchval("SELECT count(*) FROM events WHERE status = 'processed'"))


async def once(connection: Connection) -> None:
    """Asserts that each event was processed, and only once."""
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
    await send(receiver, *(sampling.sample(f"net.authorize.customer.{kind}", 1) for kind in kinds))
    rows = await connection.fetch("SELECT id, account, event_type FROM events ORDER BY random()")
    await receiver.sqs.queue.send([[EventReference(row["id"], row["account"], row["event_type"]) for row in rows]])
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
    await drained(servers, worker)  # the bundle is no longer needed: the sweeper sends the retry
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


@pytest.mark.parametrize("receives", [2, TRUSTED + 2])
async def test_a_bundle_that_came_back_is_worked_on_as_it_is(
    start: Start, servers: Servers, connection: Connection, receives: int
) -> None:
    """A worker died with the bundle in hand. Ended events have no second effect; the other events need no new message."""
    await table_of_effects(connection)
    receiver, bodies = await received(start, connection, *[AUTHCAPTURE, CREATED] * 6)
    await end_well(connection, [bodies[0].event_id, bodies[1].event_id])
    await receiver.sqs.queue.send([bodies])
    for _ in range(receives - 1):
        (message,) = await receiver.sqs.queue.receive(1, wait=1, visibility=60)
        await receiver.sqs.queue.change_visibility([(message, 0)])
    worker = await start(handlers(count, pattern=AUTHCAPTURE), roles="work")
    await until(lambda: status(connection, "processed"), "every event is processed")
    await drained(servers, worker)
    await once(connection)
    assert await connection.fetchval("SELECT count(*) FROM effects") == 5
    assert metric(worker, "webhookd_processed_total", outcome="processed") == 10
    assert metric(worker, "webhookd_processed_total", outcome="duplicate") == 2
    assert await connection.fetchval("SELECT count(*) FROM suspects WHERE begun > 1") == 0


async def test_a_bundle_that_was_interrupted_comes_back_with_what_is_left(
    start: Start, servers: Servers, connection: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    await table_of_effects(connection)
    monkeypatch.setattr(alone_module, "_INTERRUPTED", 0.1)
    receiver, bodies = await received(start, connection, AUTHCAPTURE, AUTHCAPTURE, CREATED)
    await receiver.sqs.queue.send([bodies])
    worker = await start(handlers(count, pattern=AUTHCAPTURE), roles="work")
    real = worker.store.claim
    away: list[uuid.UUID] = []

    async def claim(connection: Any, event_id: uuid.UUID, *, wait: bool = True) -> Any:
        if len(away) < 3 and event_id == bodies[0].event_id:
            away.append(event_id)
            raise UnavailableError("postgresql", "away for a moment")
        return await real(connection, event_id, wait=wait)

    monkeypatch.setattr(worker.store, "claim", claim)
    # Nothing sends the events again: the bundle itself must stay until the last event has ended.
    await until(lambda: status(connection, "processed"), "every event is processed", deadline=30)
    assert len(away) == 3
    await drained(servers, worker)
    await once(connection)
    assert await connection.fetchval("SELECT array_agg(attempt) FROM effects") == [1, 1], "no attempt was counted"
    await counted(worker, "webhookd_processed_total", 3, outcome="interrupted")


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
    token, got = await receiver.idempotency.acquire([taken])
    assert got == [True]
    await receiver.sqs.queue.send([bodies])
    worker = await start(handlers(nothing), roles="work")
    await until(lambda: processed_are(connection, 2), "its neighbours are processed")
    await until(lambda: metric(worker, "webhookd_processed_total", outcome="busy") >= 1, "it is busy")
    receiver.idempotency.release([taken], token)
    # No relay runs: the bundle itself comes back for the busy event.
    await until(lambda: status(connection, "processed"), "it is processed when it is free", deadline=30)
    await once(connection)
    await drained(servers, worker)


@pytest.mark.parametrize("handled", [True, False], ids=["with handlers", "without handlers"])
async def test_a_locked_event_holds_up_no_neighbour_for_long(
    start: Start, servers: Servers, connection: Connection, handled: bool
) -> None:
    receiver, bodies = await received(start, connection, CREATED, CREATED, CREATED)
    await receiver.sqs.queue.send([bodies])
    async with connection.transaction():
        await connection.execute("SELECT FROM work WHERE event_id = $1 FOR UPDATE", bodies[1].event_id)
        worker = await start(handlers(*([nothing] if handled else [])), roles="work")
        await until(lambda: processed_are(connection, 2), "its neighbours are processed")
        await until(lambda: metric(worker, "webhookd_processed_total", outcome="busy") >= 2, "it is put off")
    await until(lambda: status(connection, "processed"), "it is processed when it is free", deadline=30)
    assert await connection.fetchval("SELECT bool_and(attempts = 1) FROM events"), "being busy is no attempt"
    await once(connection)
    await drained(servers, worker)


async def test_an_event_that_postgresql_refuses_fails_alone(start: Start, servers: Servers, connection: Connection) -> None:
    await connection.execute("ALTER TABLE timeline ADD CONSTRAINT no_second CHECK (facts::text NOT LIKE '%SUB_002%')")
    receiver, bodies = await received(start, connection, CREATED, CREATED, CREATED, AUTHCAPTURE)
    await receiver.sqs.queue.send([bodies])
    worker = await start(roles="work", max_attempts=1)
    await until(lambda: processed_are(connection, 3), "its neighbours are processed")
    await until(lambda: connection.fetchval("SELECT count(*) = 1 FROM events WHERE status = 'dead'"), "it is dead")
    await drained(servers, worker)
    assert not metric(worker, "webhookd_processed_total", outcome="interrupted"), "the message did not have to come again"


@pytest.mark.parametrize(
    ("end", "ended_as"),
    [
        ("DELETE FROM webhookd.work WHERE event_id = $1", "processed"),
        ("UPDATE webhookd.work SET status = 'dead', due = now() WHERE event_id = $1", "dead"),
    ],
)
async def test_an_event_that_ended_meanwhile_is_not_ended_again(
    start: Start, servers: Servers, connection: Connection, monkeypatch: pytest.MonkeyPatch, end: str, ended_as: str
) -> None:
    """Between the read and the commit, another worker may have ended one of the events that share a transaction."""
    receiver, bodies = await received(start, connection, CREATED, CREATED, CREATED)
    worker = await start(roles="work")
    real = worker.store.process
    ended: list[uuid.UUID] = []

    async def late(*given: Any, waits: bool) -> Any:
        if not ended:
            ended.append(bodies[0].event_id)
            async with receiver.database.acquire() as other:  # the test waits on its own connection
                await other.execute(end, *ended)
        return await real(*given, waits=waits)

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
                sizes.append(len(decode(message["Body"])))
                named += [body.event_id for body in decode(message["Body"])]
    assert set(named) == {body.event_id for body in bodies}
    assert max(sizes) > 10
    await receiver.stop()


async def test_what_failed_before_is_sent_in_bundles_with_the_rest(
    start: Start, servers: Servers, connection: Connection
) -> None:
    receiver, _ = await received(start, connection, *[AUTHCAPTURE] * 40)
    await connection.execute("UPDATE work SET status = 'retrying', attempts = 1, fresh = false, due = now()")
    await receiver.outbox.report_worker(200, None)
    relay = await start(roles="relay", resend_after=600)
    await until(lambda: metric(relay, "webhookd_relayed_total", outcome="sent") == 40, "all are sent")
    assert await depth(servers, servers.queue) <= 3, "the first round may send one alone, to see whether the queue is there"
    named = await received_bodies(servers, servers.queue, 40)
    assert {body["attempts"] for body in named} == {1}


def body(event_type: str = AUTHCAPTURE) -> EventReference:
    return EventReference(uuid.uuid4(), "default", event_type)


@pytest.mark.parametrize("number", [1, 2, BATCH, BATCH + 1, 33, 100, BUNDLED])
def test_every_event_is_packed_once(number: int) -> None:
    bodies = [body() for _ in range(number)]
    messages = pack(bodies, LIMITS)
    assert len(messages) <= BATCH
    assert sorted(b.event_id for message in messages for b in message) == sorted(b.event_id for b in bodies)
    assert (max(map(len, messages)) == 1) == (number <= BATCH)
    assert [decode(encode(message)) for message in messages] == [tuple(message) for message in messages]


@pytest.mark.parametrize("letter", ["x", "\u20ac", "\U0001f4b3"], ids=["ascii", "a sign of the euro", "beyond 16 bits"])
def test_whatever_the_types_are_a_bundle_is_no_larger_than_what_is_read(letter: str) -> None:
    """JSON in ASCII turns one character into up to twelve."""
    bodies = [
        EventReference(uuid.uuid4(), "a" * 200, letter * 200, attempts=1000, traceparent=f"00-{'a' * 32}-{'b' * 16}-01")
    ] * BUNDLED
    bodies = [body._replace(event_id=uuid.uuid4()) for body in bodies]
    messages = pack(bodies, LIMITS)
    assert [decode(encode(message)) for message in messages] == [tuple(message) for message in messages]
    assert max(len(encode(message)) for message in messages) <= LIMITS.message_bytes


@pytest.mark.parametrize(
    "text",
    ["", "1", "[]", "{}", OURS + "}", OURS + ',"events":[]}', OURS + ',"events":[1]}', OURS + ',"events":[{"event":"no"}]}'],
)
def test_a_message_that_is_not_ours_names_no_event(text: str) -> None:
    assert decode(text) == ()
