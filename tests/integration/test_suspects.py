"""An event that kills its process is recognised by its attempts that began and did not end.

The deliveries that SQS counts are no proof.
"""

from __future__ import annotations

import asyncio
import uuid
from typing import Any

import pytest

from tests.conftest import Servers, Start
from tests.helpers.operator import AUTHCAPTURE
from tests.helpers.queues import received_bodies
from tests.helpers.wait import until
from tests.integration.test_bundles import CREATED, drained, nothing, once, processed_are, received, table_of_effects
from tests.integration.test_work import Connection, count, counted, handlers, metric, status
from webhookd.daemon import Daemon
from webhookd.errors import Permanent, UnavailableError
from webhookd.event import Event
from webhookd.process.result import TRUSTED
from webhookd.process.shared_folds import SharedFolds
from webhookd.queue.message import EventReference
from webhookd.store.event_store import AttemptKey

BEGUN = "SELECT coalesce(max(begun), 0) FROM webhookd.suspects"


async def killed(connection: Connection, event_id: uuid.UUID, times: int) -> None:
    """Stores the traces of an event that has killed its process `times` times: begun attempts, and messages lost with them."""
    await connection.execute(
        "INSERT INTO suspects SELECT event_id, consumer, attempts, redriven_at, $2 FROM work WHERE event_id = $1",
        event_id,
        times,
    )
    await connection.execute("UPDATE work SET status = 'queued', sends = $1", TRUSTED + 1)


async def receive_often(daemon: Daemon, bodies: list[EventReference], times: int = TRUSTED) -> None:
    """Sends a message, and receives the message `times` times."""
    await daemon.sqs.queue.send([bodies])
    for _ in range(times):
        (message,) = await daemon.sqs.queue.receive(1, wait=1, visibility=60)
        await daemon.sqs.queue.change_visibility([(message, 0)])


@pytest.mark.parametrize(("max_attempts", "most"), [(1, 3), (3, 3), (5, 5)])
async def test_an_event_that_has_killed_its_worker_too_often_is_dead(
    start: Start, servers: Servers, connection: Connection, max_attempts: int, most: int
) -> None:
    await table_of_effects(connection)
    receiver, [body, neighbour] = await received(start, connection, AUTHCAPTURE, AUTHCAPTURE)
    await killed(connection, body.event_id, most)
    await killed(connection, neighbour.event_id, most - 1)
    await receiver.sqs.queue.send([[body, neighbour]])
    worker = await start(handlers(count), roles="work", max_attempts=max_attempts)
    await until(lambda: processed_are(connection, 1), "one of them had another attempt")
    await until(lambda: connection.fetchval("SELECT count(*) = 1 FROM events WHERE status = 'dead'"), "the other one is dead")
    row = await connection.fetchrow("SELECT id, attempts, dead_reason, last_error FROM events WHERE status = 'dead'")
    assert row is not None
    reason = f"its worker, or its connection to PostgreSQL, ended {most} times in the middle of an attempt"
    assert tuple(row) == (body.event_id, 0, reason, reason)
    assert [row["event_id"] for row in await connection.fetch("SELECT event_id FROM effects")] == [neighbour.event_id]
    await counted(worker, "webhookd_dead_total", 1, reason="worker_ended")
    [copy] = await received_bodies(servers, servers.dead_letter_queue, 1)
    assert (copy["event"], copy["dead"]) == (str(body.event_id), reason)
    await drained(servers, worker)


@pytest.mark.parametrize("sends", [0, TRUSTED, TRUSTED + 1])
@pytest.mark.parametrize("receives", [0, TRUSTED])
async def test_an_attempt_that_may_kill_is_counted_before_its_handlers_run(
    start: Start, connection: Connection, sends: int, receives: int
) -> None:
    """The count is committed at once: a process that dies in the handlers does not take the count back."""
    receiver, [body] = await received(start, connection, AUTHCAPTURE)
    await connection.execute("UPDATE work SET sends = $1, status = 'queued', due = now() + interval '1 hour'", sends)
    await receive_often(receiver, [body], receives)
    begun: list[int] = []

    async def look(_: Event, __: Any) -> None:
        async with receiver.database.acquire() as other:
            begun.append(await other.fetchval(BEGUN))

    await start(handlers(look), roles="work")
    await until(lambda: status(connection, "processed"), "the event is processed")
    assert begun == [1 if sends > TRUSTED or receives == TRUSTED else 0]
    assert await receiver.store.attempts_begun(body.event_id) == 0, "of what has ended, nothing counts"


@pytest.mark.parametrize(("error", "ends"), [(ValueError(), "retrying"), (Permanent("closed"), "dead")])
async def test_an_attempt_that_fails_leaves_no_count(
    start: Start, servers: Servers, connection: Connection, error: Exception, ends: str
) -> None:
    async def fail(_: Event, __: Any) -> None:
        raise error

    receiver, [body] = await received(start, connection, AUTHCAPTURE)
    await receive_often(receiver, [body])
    worker = await start(handlers(fail), roles="work", retry_base=600, retry_cap=600)
    await until(lambda: status(connection, ends), f"the event is {ends}")
    await drained(servers, worker)
    assert await connection.fetchval("SELECT attempts FROM work") == 1
    assert await connection.fetchval("SELECT begun FROM suspects") == 0


async def test_an_attempt_that_a_stop_ends_leaves_no_count(start: Start, connection: Connection) -> None:
    began = asyncio.Event()

    async def hang(_: Event, __: Any) -> None:
        began.set()
        await asyncio.Event().wait()

    receiver, [body] = await received(start, connection, AUTHCAPTURE)
    await killed(connection, body.event_id, 1)
    await receiver.sqs.queue.send([[body]])
    worker = await start(handlers(hang), roles="work", shutdown_grace=1, sqs_wait=0)
    await asyncio.wait_for(began.wait(), 15)
    assert await connection.fetchval(BEGUN) == 2
    await worker.stop()
    assert await connection.fetchval(BEGUN) == 1, "that of before, and not this one"
    assert await receiver.store.attempts_begun(body.event_id) == 1
    assert await connection.fetchval("SELECT attempts FROM work") == 0


async def test_an_attempt_that_cannot_be_counted_is_not_made(
    start: Start, connection: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    await table_of_effects(connection)
    await connection.execute("ALTER TABLE suspects ADD CONSTRAINT none CHECK (begun < 0)")
    receiver, [body] = await received(start, connection, AUTHCAPTURE)
    await receive_often(receiver, [body])
    ran: list[bool] = []

    async def look(event: Event, inside: Any) -> None:
        ran.append(True)
        await count(event, inside)

    worker = await start(handlers(look), roles="work", visibility_timeout=2, handler_timeout=1)
    await until(lambda: metric(worker, "webhookd_processed_total", outcome="interrupted") >= 1, "it is put off", deadline=30)
    assert not ran
    assert await connection.fetchval("SELECT attempts FROM work") == 0
    await connection.execute("ALTER TABLE suspects DROP CONSTRAINT none")
    await until(lambda: status(connection, "processed"), "the event is processed", deadline=60)
    assert await connection.fetchval("SELECT array_agg(attempt) FROM effects") == [1]


@pytest.mark.parametrize("change", ["attempts = 1, status = 'retrying', fresh = false", "redriven_at = now()"])
async def test_a_failed_attempt_or_a_redrive_makes_old_counts_void(start: Start, connection: Connection, change: str) -> None:
    await table_of_effects(connection)
    receiver, [body] = await received(start, connection, AUTHCAPTURE)
    await killed(connection, body.event_id, 100)
    assert await receiver.store.attempts_begun(body.event_id) == 100
    await connection.execute(f"UPDATE work SET {change}")
    assert await receiver.store.attempts_begun(body.event_id) == 0
    attempts = await connection.fetchval("SELECT attempts FROM work")
    await receiver.sqs.queue.send([[body._replace(attempts=attempts)]])
    await start(handlers(count), roles="work")
    await until(lambda: status(connection, "processed"), "the event is processed")
    assert await connection.fetchval("SELECT array_agg(attempt) FROM effects") == [attempts + 1]


async def test_what_has_begun_before_runs_one_at_a_time(start: Start, servers: Servers, connection: Connection) -> None:
    """Each of these events may have killed a process. If they run one at a time, the next kill shows which one is the cause."""
    running: list[int] = [0, 0]

    async def slow(_: Event, __: Any) -> None:
        running[0] += 1
        running[1] = max(running)
        await asyncio.sleep(0.05)
        running[0] -= 1

    receiver, bodies = await received(start, connection, *[AUTHCAPTURE] * 6)
    for body in bodies:
        await killed(connection, body.event_id, 1)
    await receiver.sqs.queue.send([bodies])
    worker = await start(handlers(slow), roles="work", concurrency=4)
    await until(lambda: status(connection, "processed"), "every event is processed")
    assert running[1] == 1
    await once(connection)
    await drained(servers, worker)


async def test_a_busy_event_counts_nothing_however_often_it_was_received(
    start: Start, servers: Servers, connection: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("webhookd.store.event_store._LOCK_WAIT", 0.1)
    monkeypatch.setattr("webhookd.process.alone.BUSY", 0.1)
    receiver, [body] = await received(start, connection, AUTHCAPTURE)
    await receive_often(receiver, [body])
    async with connection.transaction():
        await connection.execute("SELECT FROM work FOR UPDATE")
        worker = await start(handlers(nothing), roles="work")
        await until(lambda: metric(worker, "webhookd_processed_total", outcome="busy") >= 4, "it is busy", deadline=60)
        assert await connection.fetchval("SELECT count(*) FROM suspects") == 0
    await until(lambda: status(connection, "processed"), "the event is processed when it is free", deadline=60)
    assert await connection.fetchval("SELECT attempt FROM audit WHERE to_status = 'processed'") == 1


async def test_an_event_without_handlers_cannot_kill_and_is_not_counted(start: Start, connection: Connection) -> None:
    receiver, [body] = await received(start, connection, CREATED)
    await killed(connection, body.event_id, 100)
    await receive_often(receiver, [body])
    await start(handlers(nothing, pattern=AUTHCAPTURE), roles="work")
    await until(lambda: status(connection, "processed"), "the event is processed")


async def test_a_count_that_could_not_be_taken_back_is_taken_back_later(
    start: Start, connection: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """PostgreSQL fails in the middle of an attempt and recovers: the event has killed no process."""
    receiver, [body] = await received(start, connection, AUTHCAPTURE)
    await connection.execute("UPDATE work SET status = 'queued', sends = $1", TRUSTED + 1)

    async def fail(_: Event, __: Any) -> None:
        raise Permanent("no")

    worker = await start(handlers(fail), roles="work")
    real = worker.store.take_back_attempt
    refused: list[uuid.UUID] = []

    async def away(key: AttemptKey) -> None:
        if not refused:
            refused.append(key.event_id)
            raise UnavailableError("postgresql", "the connection was lost")
        await real(key)

    monkeypatch.setattr(worker.store, "take_back_attempt", away)
    await receiver.sqs.queue.send([[body]])
    await until(lambda: status(connection, "dead"), "the attempt has failed")
    assert refused == [body.event_id]
    await until(lambda: connection.fetchval(f"SELECT ({BEGUN}) = 0"), "the count is taken back")


@pytest.mark.parametrize("change", ["attempts = 1, status = 'retrying', fresh = false", "redriven_at = now()"])
async def test_a_count_that_is_taken_back_late_is_not_taken_from_those_of_another_attempt(
    start: Start, connection: Connection, change: str
) -> None:
    """A later attempt may be about to kill its process. Without the later attempt's count, that kill would stay unknown."""
    daemon, [body] = await received(start, connection, AUTHCAPTURE)
    store = daemon.store
    async with daemon.database.acquire() as ours:
        [before] = await store.read(ours, [body.event_id])
    assert await store.begin_attempt(before.key) == 1
    await connection.execute(f"UPDATE work SET {change}")
    async with daemon.database.acquire() as ours:
        [after] = await store.read(ours, [body.event_id])
    assert await store.begin_attempt(after.key) == 1
    await store.take_back_attempt(before.key)
    assert await connection.fetchval(BEGUN) == 1
    await store.take_back_attempt(after.key)
    assert await connection.fetchval(BEGUN) == 0


async def test_an_event_that_somebody_holds_is_not_tried_alone(start: Start, connection: Connection) -> None:
    """All other attempts of the process would wait, and then the event would be found busy."""
    receiver, [body] = await received(start, connection, AUTHCAPTURE)
    await killed(connection, body.event_id, 1)
    assert await receiver.store.attempts_begun(body.event_id) == 1
    async with connection.transaction():
        await connection.execute("SELECT FROM work FOR UPDATE")
        assert await receiver.store.attempts_begun(body.event_id) == 0


async def test_what_was_received_too_often_is_folded_alone(
    start: Start, connection: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The fold itself may kill the process, by the bodies of many events at a time."""
    receiver, bodies = await received(start, connection, CREATED, CREATED)
    await receive_often(receiver, list(bodies))
    shared: list[Any] = []
    monkeypatch.setattr(SharedFolds, "submit", lambda _, bodies: shared.append(bodies))
    await start(roles="work")
    await until(lambda: status(connection, "processed"), "every event is processed")
    assert shared == []
