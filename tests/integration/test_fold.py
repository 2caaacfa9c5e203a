"""The fold and the handlers: the timeline is written first and stays, whatever the handlers do with the event."""

from __future__ import annotations

import asyncio
from typing import Any

import asyncpg
import pytest

from tests.conftest import Servers, Start
from tests.helpers.queues import depth
from tests.helpers.timeline import keep_timeline
from tests.helpers.wait import until
from tests.integration.test_bundles import CREATED, drained, once, processed_are, received, table_of_effects
from tests.integration.test_work import AUTHCAPTURE, Connection, count, handlers, metric, send, status
from webhookd.authorizenet import sampling
from webhookd.errors import Permanent, Retryable
from webhookd.event import Event
from webhookd.process.handlers import Registry
from webhookd.process.result import Outcome, Result
from webhookd.process.shared_folds import SharedFolds
from webhookd.queue.message import EventReference

_STATE = "SELECT state FROM webhookd.transactions"


async def test_a_handler_sees_the_row_of_its_event_and_holds_no_lock_of_it(
    start: Start, servers: Servers, connection: Connection, database_url: str
) -> None:
    states: list[str] = []

    async def look(_: Event, inside: Any) -> None:
        states.append(await inside.fetchval(_STATE))
        other = await asyncpg.connect(database_url)
        try:
            states.append(await other.fetchval(_STATE + " FOR UPDATE NOWAIT"))
        finally:
            await other.close()

    daemon = await start(handlers(look), max_attempts=1)
    await send(daemon, sampling.sample(AUTHCAPTURE, 1))
    await until(lambda: status(connection, "processed"), "the event is processed")
    assert states == ["captured", "captured"]


async def test_what_handlers_give_up_stays_on_the_timeline(start: Start, servers: Servers, connection: Connection) -> None:
    async def refuse(event: Event, inside: Any) -> None:
        await count(event, inside)
        raise Permanent("the order is closed")

    await table_of_effects(connection)
    daemon = await start(handlers(refuse))
    await send(daemon, sampling.sample(AUTHCAPTURE, 1))
    await until(lambda: status(connection, "dead"), "the event is dead")
    assert await connection.fetchval(_STATE) == "captured"
    assert await connection.fetchval("SELECT count(*) FROM effects") == 0


async def test_an_event_waits_for_its_retry_and_is_on_the_timeline(start: Start, connection: Connection) -> None:
    async def later(_: Event, __: Any) -> None:
        raise Retryable("the till is closed", after=3600)

    daemon = await start(handlers(later))
    await send(daemon, sampling.sample(AUTHCAPTURE, 1))
    await until(lambda: status(connection, "retrying"), "the event is retrying")
    assert await connection.fetchval(_STATE) == "captured"


async def test_a_fold_waits_for_no_handler(start: Start, connection: Connection) -> None:
    """The handlers of a bundle hang, and hold every transaction that handlers may have."""
    running = 0
    done = asyncio.Event()

    async def hang(_: Event, __: Any) -> None:
        nonlocal running
        running += 1
        await done.wait()

    receiver, bodies = await received(start, connection, AUTHCAPTURE, AUTHCAPTURE, AUTHCAPTURE, CREATED)
    await receiver.sqs.queue.send([[body for body in bodies if body.event_type == AUTHCAPTURE]])
    daemon = await start(handlers(hang, pattern=AUTHCAPTURE), roles="work", concurrency=2)
    shared = next(part for part in daemon._parts if isinstance(part, SharedFolds))
    try:
        await until(lambda: running == 2, "two handlers hang, and a third one waits for its turn")
        assert await connection.fetchval("SELECT count(*) FROM transactions") == 3, "all are on the timeline"
        # No poller receives while the permits are spent, so give the message to the worker directly.
        [result] = await asyncio.wait_for(shared.submit([body for body in bodies if body.event_type == CREATED]), 15)
        assert isinstance(result, Result)
        assert result.outcome is Outcome.PROCESSED
        assert await processed_are(connection, 1), "an event without handlers is processed"
        assert running == 2
    finally:
        done.set()


@pytest.mark.parametrize("handled", [True, False], ids=["with handlers", "without handlers"])
async def test_a_locked_row_of_the_timeline_delays_its_own_event_alone_and_counts_no_attempt(
    start: Start, servers: Servers, connection: Connection, monkeypatch: pytest.MonkeyPatch, handled: bool
) -> None:
    """PostgreSQL's lock_timeout ends the wait for the row. This takes 300 ms, longer than the handlers' timeout of 100 ms."""
    monkeypatch.setattr("webhookd.store.event_store._STATEMENT", 600.0)
    monkeypatch.setattr("webhookd.store.pools._STATEMENT_TIMEOUT", 600.0)
    await table_of_effects(connection)
    receiver, bodies = await received(start, connection, CREATED, CREATED, CREATED)
    rows = await connection.fetch("SELECT e.*, b.body FROM events e JOIN bodies b ON b.event_id = e.id ORDER BY e.id")
    locked = {name: rows[1][name] for name in ("id", "account", "notification_id", "event_type", "event_date", "received_at")}
    event = Event(**locked, attempt=1, raw=rows[1]["body"])
    await keep_timeline(event, connection)
    await receiver.sqs.queue.send([bodies])
    async with connection.transaction():
        await connection.execute("SELECT FROM timeline FOR UPDATE")
        worker = await start(handlers(*([count] if handled else [])), roles="work", handler_timeout=0.1, concurrency=1)
        await until(lambda: processed_are(connection, 2), "its neighbours are processed")
        await until(lambda: metric(worker, "webhookd_processed_total", outcome="busy") >= 1, "it is put off")
        assert await connection.fetchval("SELECT attempts FROM events WHERE id = $1", event.id) == 0
    await start(roles="relay", relay_window=1)
    await until(lambda: status(connection, "processed"), "it is processed when the row is free", deadline=30)
    await once(connection)
    assert await connection.fetchval("SELECT max(attempts) FROM events") == 1
    assert await connection.fetchval("SELECT count(*) FROM effects") == (3 if handled else 0)
    await drained(servers, worker)


async def test_the_wait_for_a_locked_row_of_the_timeline_is_not_in_the_time_of_other_events(
    start: Start, connection: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("webhookd.store.event_store._LOCK_TIMEOUT", "3s")
    receiver = await start(roles="receive")
    kinds = (("created", 1), ("created", 2), ("updated", 2), ("created", 3))
    await send(receiver, *(sampling.sample(f"net.authorize.customer.{kind}", number) for kind, number in kinds))
    rows = await connection.fetch("SELECT id, account, event_type FROM events ORDER BY id")
    bodies = [EventReference(row["id"], row["account"], row["event_type"]) for row in rows]
    worker = await start(roles="work")
    await receiver.sqs.queue.send([bodies[1:2]])
    await until(lambda: processed_are(connection, 1), "its first event is processed")
    before = metric(worker, "webhookd_handle_seconds_sum")
    async with connection.transaction():
        await connection.execute("SELECT FROM timeline FOR UPDATE")
        await receiver.sqs.queue.send([[bodies[0], *bodies[2:]]])
        await until(lambda: processed_are(connection, 3), "its neighbours are processed", deadline=30)
        spent = metric(worker, "webhookd_handle_seconds_sum") - before
    assert spent < 3, "PostgreSQL waited for longer"
    await until(lambda: status(connection, "processed"), "it is processed when the row is free", deadline=60)
    await once(connection)


@pytest.mark.parametrize("handled", [True, False], ids=["with handlers", "without handlers"])
async def test_a_fold_that_postgresql_refuses_is_a_failed_attempt(
    start: Start, servers: Servers, connection: Connection, handled: bool
) -> None:
    """The handlers do not run: they rely on the timeline's row."""
    await table_of_effects(connection)
    await connection.execute("ALTER TABLE timeline ADD CONSTRAINT no_second CHECK (facts::text NOT LIKE '%SUB_002%')")
    receiver, bodies = await received(start, connection, CREATED, CREATED, AUTHCAPTURE)
    await receiver.sqs.queue.send([[body] for body in bodies])
    registry = handlers(*([count] if handled else []))
    worker = await start(registry, roles="work,relay", max_attempts=2, retry_base=0.1, retry_cap=0.1)
    await until(lambda: processed_are(connection, 2), "its neighbours are processed")
    await until(lambda: connection.fetchval("SELECT count(*) = 1 FROM events WHERE status = 'dead'"), "it is dead", deadline=30)
    row = await connection.fetchrow("SELECT attempts, last_error, dead_reason FROM events WHERE status = 'dead'")
    assert row is not None
    assert row["attempts"] == 2
    assert "no_second" in row["last_error"], "the operator sees which constraint refuses it"
    assert row["dead_reason"].startswith("all 2 attempts are spent; the last one raised CheckViolationError")
    assert await connection.fetchval("SELECT count(*) FROM effects") == (2 if handled else 0)
    await until(lambda: depth(servers, servers.dead_letter_queue), "its copy is in the dead-letter queue")
    await drained(servers, worker)


async def test_a_fold_that_was_refused_is_made_up_for_once_postgresql_takes_it(start: Start, connection: Connection) -> None:
    await connection.execute("ALTER TABLE timeline ADD CONSTRAINT none CHECK (facts::text NOT LIKE '%captured%')")
    await table_of_effects(connection)
    daemon = await start(handlers(count), max_attempts=1000, retry_base=0.1, retry_cap=0.1, resend_after=1)
    await send(daemon, sampling.sample(AUTHCAPTURE, 1))
    await until(lambda: status(connection, "retrying"), "the event is retrying")
    await connection.execute("ALTER TABLE timeline DROP CONSTRAINT none")
    await until(lambda: status(connection, "processed"), "the event is processed", deadline=30)
    assert await connection.fetchval(_STATE) == "captured"
    assert await connection.fetchval("SELECT count(*) FROM effects") == 1


@pytest.mark.parametrize("receives", [1, 2])
async def test_a_retry_folds_what_is_not_on_the_timeline_yet(start: Start, connection: Connection, receives: int) -> None:
    """The earlier attempt may have failed because PostgreSQL refused the fold."""
    receiver, [body] = await received(start, connection, AUTHCAPTURE)
    await connection.execute("UPDATE work SET status = 'retrying', attempts = 1, sends = 1, fresh = false, due = now()")
    await receiver.sqs.queue.send([[body._replace(attempts=1)]])
    if receives == 2:
        (message,) = await receiver.sqs.queue.receive(1, wait=1, visibility=60)
        await receiver.sqs.queue.change_visibility([(message, 0)])
    seen: list[str] = []

    async def look(_: Event, inside: Any) -> None:
        seen.append(await inside.fetchval(_STATE))

    await start(handlers(look), roles="work")
    await until(lambda: status(connection, "processed"), "the event is processed")
    assert seen == ["captured"]


async def test_an_event_of_an_unknown_type_reaches_its_handlers_and_no_timeline(start: Start, connection: Connection) -> None:
    seen: list[str] = []

    async def look(event: Event, _: Any) -> None:
        seen.append(event.event_type)

    registry = Registry()
    registry.add("*", look)
    daemon = await start(registry)
    await send(daemon, sampling.sample("net.authorize.payment.unheardOf", 1))
    await until(lambda: status(connection, "processed"), "the event is processed")
    assert seen == ["net.authorize.payment.unheardOf"]
    assert await connection.fetchval("SELECT count(*) FROM transactions") == 0
