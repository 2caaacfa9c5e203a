"""Relay, poller, leases, worker and handlers do their work on a real queue and a real database, each effect once."""

from __future__ import annotations

import asyncio
import contextlib
import re
import uuid
from collections.abc import Callable
from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from typing import Any, TypeAlias

import asyncpg
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from tests.conftest import Servers, Start
from tests.helpers.database import connect
from tests.helpers.guide import GUIDE, PAGES, README, blocks
from tests.helpers.queues import client, depth, url_of
from tests.helpers.running import KEY
from tests.helpers.wait import until
from webhookd.authorizenet import sampling
from webhookd.authorizenet.synthetic import SyntheticEvent, Value
from webhookd.daemon import Daemon
from webhookd.dev import traffic
from webhookd.errors import Permanent, Retryable
from webhookd.event import Event
from webhookd.process import handlers as handlers_module
from webhookd.process.handlers import Handler, Registry
from webhookd.process.retry import Retry
from webhookd.queue.acks import Acks
from webhookd.queue.message import EventReference, Message, encode
from webhookd.settings.synthetic_types import SyntheticType
from webhookd.store.outbox import Outgoing
from webhookd.sync.synthetic_intake import SyntheticIntake

Connection: TypeAlias = "asyncpg.Connection[asyncpg.Record]"
AUTHCAPTURE = "net.authorize.payment.authcapture.created"
REFUND = "net.authorize.payment.refund.created"


def handlers(*given: Handler, pattern: str = "*") -> Registry:
    registry = Registry()
    for handler in given:
        registry.add(pattern, handler)
    return registry


async def send(daemon: Daemon, *samples: sampling.Sample) -> None:
    summary = await traffic.send(samples, f"{daemon.public_url}/webhooks/authorize-net", KEY)
    assert summary.failed == 0, summary.as_dict()


def metric(daemon: Daemon, name: str, **labels: str) -> float:
    return sum(
        sample.value
        for family in daemon.metrics.registry.collect()
        for sample in family.samples
        if sample.name == name and labels.items() <= sample.labels.items()
    )


async def counted(daemon: Daemon, name: str, value: float, **labels: str) -> None:
    """Waits until a metric is `value`: a commit is counted a moment after it ends."""
    await until(lambda: metric(daemon, name, **labels) == value, f"{name} is {value:g}")


async def status(connection: Connection, wanted: str) -> bool:
    return bool(await connection.fetchval("SELECT count(*) > 0 AND bool_and(status = $1) FROM events", wanted))


@pytest.fixture
async def effects(connection: Connection) -> Callable[[], Any]:
    """Creates a table for handlers to write to; returns a function that counts its rows."""
    await connection.execute("CREATE TABLE effects (event_id uuid, attempt integer)")
    return lambda: connection.fetchval("SELECT count(*) FROM effects")


async def count(event: Event, connection: Any) -> None:
    await connection.execute("INSERT INTO effects VALUES ($1, $2)", event.id, event.attempt)


async def test_an_event_reaches_every_matching_handler_in_registration_order(start: Start, connection: Connection) -> None:
    seen: list[tuple[str, Event]] = []
    registry = Registry()

    def recorder(name: str) -> Handler:
        async def record(event: Event, _: Any) -> None:
            seen.append((name, event))

        return record

    registry.add("net.authorize.payment.*", recorder("payments"))
    registry.add("net.authorize.customer.*", recorder("customers"))
    registry.add(AUTHCAPTURE, recorder("exact"))
    daemon = await start(registry)
    sent = sampling.sample(AUTHCAPTURE, 1)
    await send(daemon, sent)
    await until(lambda: status(connection, "processed"), "the event is processed")
    assert [name for name, _ in seen] == ["payments", "exact"]
    event = seen[0][1]
    assert event.raw == sent.body
    assert event.attempt == 1
    assert str(event.payload["authAmount"]) == "2.10"
    assert event.payload["id"] == sent.entity_id


async def test_what_the_second_handler_raises_undoes_the_firsts_effect(
    start: Start, connection: Connection, effects: Callable[[], Any]
) -> None:
    async def fail(event: Event, _: Any) -> None:
        if event.attempt == 1:
            raise ValueError

    daemon = await start(handlers(count, fail), retry_base=0.1, retry_cap=0.1)
    await send(daemon, sampling.sample(AUTHCAPTURE, 1))
    await until(lambda: status(connection, "processed"), "the event is processed")
    assert [row["attempt"] for row in await connection.fetch("SELECT attempt FROM effects")] == [2]
    assert await connection.fetchval("SELECT count(*) FROM transactions") == 1


async def test_a_handler_chooses_its_delay(start: Start, connection: Connection) -> None:
    async def later(event: Event, _: Any) -> None:
        if event.attempt == 1:
            raise Retryable("the till is closed", after=1.5)

    daemon = await start(handlers(later))
    await send(daemon, sampling.sample(AUTHCAPTURE, 1))
    await until(lambda: status(connection, "processed"), "the event is processed")
    at = [row["at"] for row in await connection.fetch("SELECT at FROM audit ORDER BY at")]
    assert (at[-1] - at[-2]).total_seconds() >= 1.5 - 0.5
    reason = await connection.fetchval("SELECT reason FROM audit WHERE to_status = 'retrying'")
    assert reason.startswith("Retryable: the till is closed")


async def test_spent_attempts_make_the_event_dead(start: Start, servers: Servers, connection: Connection) -> None:
    async def fail(_: Event, __: Any) -> None:
        raise ValueError("customer Jane Doe")

    daemon = await start(handlers(fail), max_attempts=3, retry_base=0.05, retry_cap=0.05)
    await send(daemon, sampling.sample(AUTHCAPTURE, 1))
    await until(lambda: status(connection, "dead"), "the event is dead")
    row = await connection.fetchrow("SELECT attempts, last_error, dead_reason FROM events")
    assert row is not None
    assert row["attempts"] == 3
    line = fail.__code__.co_firstlineno + 1
    handler = f"handler {__name__}.{fail.__qualname__}"
    place = f" at {__file__}:{line} in {__name__}.{fail.__qualname__}"
    assert row["last_error"] == f"ValueError: customer Jane Doe [{handler}{place}]", "the operator sees all of it"
    assert row["dead_reason"] == f"all 3 attempts are spent; the last one raised ValueError{place} ({handler})"
    assert "Jane" not in row["dead_reason"], "what leaves the database does not"
    await until(lambda: depth(servers, servers.dead_letter_queue), "a copy in the dead-letter queue")
    await until(lambda: _is_empty(servers, servers.queue), "the message is deleted")
    await counted(daemon, "webhookd_dead_total", 1, reason="attempts_spent")


async def _is_empty(servers: Servers, queue: str) -> bool:
    return await depth(servers, queue) == 0


async def test_a_handler_has_a_retry_policy_of_its_own(start: Start, connection: Connection) -> None:
    """Attempts are counted for the event; the handler that fails decides how many attempts the event may have."""

    async def impatient(event: Event, _: Any) -> None:
        if event.attempt > 2:
            raise ValueError

    async def patient(_: Event, __: Any) -> None:
        raise ValueError

    registry = Registry()
    registry.add("*", impatient, Retry(attempts=3))
    registry.add("*", patient, Retry(attempts=1000))
    daemon = await start(registry, max_attempts=1, retry_base=0.05, retry_cap=0.05)
    await send(daemon, sampling.sample(AUTHCAPTURE, 1))
    await until(lambda: status(connection, "dead"), "the event is dead")
    assert await connection.fetchval("SELECT attempts FROM events") == 3


async def test_the_time_of_handlers_ends_in_the_one_that_runs(start: Start, connection: Connection) -> None:
    async def quick(_: Event, __: Any) -> None:
        pass

    async def hang(_: Event, __: Any) -> None:
        await asyncio.Event().wait()

    registry = Registry()
    registry.add("*", quick, Retry(attempts=1))
    registry.add("*", hang, Retry(attempts=2))
    daemon = await start(registry, handler_timeout=0.2, retry_base=0.05, retry_cap=0.05)
    await send(daemon, sampling.sample(AUTHCAPTURE, 1))
    await until(lambda: status(connection, "dead"), "the event is dead")
    assert await connection.fetchval("SELECT attempts FROM events") == 2
    error = await connection.fetchval("SELECT last_error FROM events")
    assert error.startswith("HandlerTimeoutError: the handlers took longer than WEBHOOKD_HANDLER_TIMEOUT (0.2 s) [handler ")
    assert f"[handler {__name__}.{hang.__qualname__} at {__file__}:{hang.__code__.co_firstlineno + 1} in " in error


@pytest.mark.parametrize("raised", [SystemExit, KeyboardInterrupt, asyncio.CancelledError, GeneratorExit])
async def test_no_exception_of_a_handler_ends_the_daemon(
    raised: type[BaseException], start: Start, connection: Connection
) -> None:
    async def fail(event: Event, _: Any) -> None:
        if event.attempt == 1:
            raise raised

    daemon = await start(handlers(fail), retry_base=0.1, retry_cap=0.1)
    await send(daemon, sampling.sample(AUTHCAPTURE, 1))
    await until(lambda: status(connection, "processed"), "the event is processed")
    assert metric(daemon, "webhookd_retries_total") == 1
    assert not daemon.watch.broken.is_set()


async def test_a_handler_that_takes_too_long_is_retried(start: Start, connection: Connection) -> None:
    async def hang(event: Event, _: Any) -> None:
        if event.attempt == 1:
            await asyncio.Event().wait()

    daemon = await start(handlers(hang), handler_timeout=0.3, retry_base=0.1, retry_cap=0.1)
    await send(daemon, sampling.sample(AUTHCAPTURE, 1))
    await until(lambda: status(connection, "processed"), "the event is processed")
    reason = await connection.fetchval("SELECT reason FROM audit WHERE to_status = 'retrying'")
    assert "WEBHOOKD_HANDLER_TIMEOUT" in reason


async def test_a_handler_that_swallows_a_database_error_is_retried_rather_than_processed(
    start: Start, connection: Connection, effects: Callable[[], Any]
) -> None:
    async def swallow(event: Event, inside: Any) -> None:
        await count(event, inside)
        if event.attempt == 1:
            with contextlib.suppress(asyncpg.DivisionByZeroError):
                await inside.execute("SELECT 1 / 0")

    daemon = await start(handlers(swallow), retry_base=0.1, retry_cap=0.1)
    await send(daemon, sampling.sample(AUTHCAPTURE, 1))
    await until(lambda: status(connection, "processed"), "the event is processed")
    assert await effects() == 1


async def test_a_handler_that_commits_for_itself_is_stopped_before_it_doubles_anything(
    start: Start, connection: Connection, effects: Callable[[], Any]
) -> None:
    async def commit(event: Event, inside: Any) -> None:
        await count(event, inside)
        await inside.execute("COMMIT")

    daemon = await start(handlers(commit))
    await send(daemon, sampling.sample(AUTHCAPTURE, 1))
    await until(lambda: status(connection, "dead"), "the event is dead")
    assert "committed or rolled back the transaction" in await connection.fetchval("SELECT dead_reason FROM events")
    assert await effects() == 1
    await counted(daemon, "webhookd_dead_total", 1, reason="transaction_ended")


async def test_a_handler_that_commits_and_then_fails_is_not_tried_again(
    start: Start, connection: Connection, effects: Callable[[], Any]
) -> None:
    async def commit_and_fail(event: Event, inside: Any) -> None:
        await count(event, inside)
        await inside.execute("COMMIT")
        raise RuntimeError("too late")

    daemon = await start(handlers(commit_and_fail), retry_base=0.1, retry_cap=0.1)
    await send(daemon, sampling.sample(AUTHCAPTURE, 1))
    await until(lambda: status(connection, "dead"), "the event is dead")
    assert await effects() == 1


async def test_a_handler_that_begins_a_transaction_of_its_own_is_not_processed_without_effects(
    start: Start, connection: Connection, effects: Callable[[], Any]
) -> None:
    async def begin_anew(event: Event, inside: Any) -> None:
        await count(event, inside)
        await inside.execute("ROLLBACK")
        await inside.execute("BEGIN")

    daemon = await start(handlers(begin_anew))
    await send(daemon, sampling.sample(AUTHCAPTURE, 1))
    await until(lambda: status(connection, "dead"), "the event is dead")
    assert await effects() == 0
    await counted(daemon, "webhookd_dead_total", 1, reason="transaction_ended")


class _UnreadableError(Exception):
    def __str__(self) -> str:
        raise ValueError("no message")


@pytest.mark.parametrize(
    ("error", "ends"),
    [
        (Permanent(ValueError("not a text")), "dead"),
        (Permanent("a lone surrogate \ud800"), "dead"),
        (Permanent("long " * 100_000), "dead"),
        (Retryable(after=float("nan")), "processed"),
        (Retryable(after=float("-inf")), "processed"),
        (_UnreadableError(), "processed"),
    ],
    ids=["a reason that is no text", "a surrogate", "a long reason", "after nan", "after minus infinity", "unreadable"],
)
async def test_whatever_a_handler_raises_is_an_attempt_that_counts(
    start: Start, servers: Servers, connection: Connection, error: Exception, ends: str
) -> None:
    async def fail_once(event: Event, _: Any) -> None:
        if event.attempt == 1:
            raise error

    daemon = await start(handlers(fail_once), retry_base=0.1, retry_cap=0.1)
    await send(daemon, sampling.sample(AUTHCAPTURE, 1))
    await until(lambda: status(connection, ends), f"the event is {ends}")
    assert await connection.fetchval("SELECT attempts FROM events") == (1 if ends == "dead" else 2)
    if ends == "dead":
        await until(lambda: _holds(servers, servers.dead_letter_queue, 1), "its copy is in the dead-letter queue")


async def _holds(servers: Servers, queue: str, count: int) -> bool:
    return await depth(servers, queue) == count


async def test_a_handler_outlives_the_visibility_timeout_and_runs_once(
    start: Start, connection: Connection, effects: Callable[[], Any]
) -> None:
    """The lease wheel keeps the handler's message invisible."""
    runs = []

    async def slow(event: Event, inside: Any) -> None:
        runs.append(event.id)
        await asyncio.sleep(5)
        await count(event, inside)

    daemon = await start(handlers(slow), visibility_timeout=2, resend_after=600)
    await send(daemon, sampling.sample(AUTHCAPTURE, 1))
    await until(lambda: status(connection, "processed"), "the event is processed")
    assert len(runs) == 1
    assert await effects() == 1
    assert metric(daemon, "webhookd_lease_extensions_total", outcome="extended") >= 2
    await counted(daemon, "webhookd_processed_total", 1)


async def test_a_second_delivery_has_no_second_effect(
    start: Start, servers: Servers, connection: Connection, effects: Callable[[], Any]
) -> None:
    """SQS delivers at least once: here five times, with Redis and without."""
    daemon = await start(handlers(count))
    await send(daemon, sampling.sample(AUTHCAPTURE, 1))
    await until(lambda: status(connection, "processed"), "the event is processed")
    row = await connection.fetchrow("SELECT id, account, event_type FROM events")
    assert row is not None
    body = EventReference(row["id"], row["account"], row["event_type"])
    for redis_up in (True, False):
        daemon.idempotency.up = redis_up
        await daemon.sqs.queue.send([[body]] * 5)
        known = 10 if not redis_up else 5
        await until(lambda: _duplicates(daemon) >= known, "each further delivery is known", deadline=30)  # noqa: B023  awaited here
    assert await effects() == 1


def _duplicates(daemon: Daemon) -> float:
    return metric(daemon, "webhookd_processed_total", outcome="duplicate")


async def test_two_workers_on_one_event_make_one_effect_by_the_row_lock_alone(
    start: Start, servers: Servers, connection: Connection, effects: Callable[[], Any]
) -> None:
    """Two replicas without Redis receive the same message at the same time."""
    both = asyncio.Event()
    running = 0

    async def meet(event: Event, inside: Any) -> None:
        nonlocal running
        running += 1
        await asyncio.sleep(0.5)
        await count(event, inside)
        both.set()

    nowhere = "redis://127.0.0.1:1"
    daemons = [await start(handlers(meet), roles="work", redis_url=nowhere) for _ in range(2)]
    receiver = await start(roles="receive")
    await send(receiver, sampling.sample(AUTHCAPTURE, 1))
    row = await connection.fetchrow("SELECT id, account, event_type FROM events")
    assert row is not None
    await daemons[0].sqs.queue.send([[EventReference(row["id"], row["account"], row["event_type"])]] * 4)
    await until(lambda: status(connection, "processed"), "the event is processed")
    await until(lambda: _is_empty(servers, servers.queue), "each delivery is acknowledged")
    assert running == 1
    assert await effects() == 1


async def test_an_event_does_not_wait_for_the_claim_of_a_worker_that_died(
    start: Start, connection: Connection, effects: Callable[[], Any]
) -> None:
    daemon = await start(handlers(count), roles=["receive"])
    await send(daemon, sampling.sample(AUTHCAPTURE, 1))
    event_id = await connection.fetchval("SELECT id FROM events")
    assert await daemon.idempotency.acquire([event_id]), "and nobody gives it back"
    worker = await start(handlers(count), roles=["relay", "work"], handler_timeout=600)
    await until(lambda: status(connection, "processed"), "the event is processed, long before the claim ends")
    await counted(worker, "webhookd_processed_total", 1, outcome="busy")  # the first delivery trusts the claim
    assert await effects() == 1


async def test_a_message_that_came_back_waits_for_a_worker_that_lives(
    start: Start, connection: Connection, effects: Callable[[], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    # The message must wait, and come back later. If the worker waited for the row in its place, the test would time out.
    monkeypatch.setattr("webhookd.store.event_store._LOCK_WAIT", 60.0)
    daemon = await start(handlers(count), roles=["receive"])
    await send(daemon, sampling.sample(AUTHCAPTURE, 1))
    event_id = await connection.fetchval("SELECT id FROM events")
    assert await daemon.idempotency.acquire([event_id])
    async with connection.transaction():
        await connection.execute("SELECT FROM work FOR UPDATE")  # a worker that is working on the event holds this lock, too
        worker = await start(handlers(count), roles=["work"])
        await worker.sqs.queue.send([[EventReference(event_id, "default", AUTHCAPTURE)]])
        await until(
            lambda: metric(worker, "webhookd_processed_total", outcome="busy") >= 2, "it is looked at again, and left alone"
        )
        assert await effects() == 0
    await until(lambda: status(connection, "processed"), "the event is processed when the lock is free")
    assert await effects() == 1


async def test_what_sqs_lost_is_sent_again(start: Start, servers: Servers, connection: Connection) -> None:
    daemon = await start(roles="receive,relay", resend_after=1)
    await send(daemon, *sampling.stream([AUTHCAPTURE], 20))
    await until(lambda: status(connection, "queued"), "every event is sent")
    async with client(servers) as sqs:
        await sqs.purge_queue(QueueUrl=await url_of(sqs, servers.queue))
    await start(roles="work")
    await until(lambda: status(connection, "processed"), "every event is processed", deadline=30)


async def test_what_the_hot_path_left_behind_is_swept(start: Start, connection: Connection) -> None:
    """A receiver without the role `relay` leaves all events to the sweeper of another process."""
    receiver = await start(roles="receive")
    await send(receiver, *sampling.stream([AUTHCAPTURE], 50))
    assert await status(connection, "received")
    await start(roles="relay", relay_window=100)
    await until(lambda: status(connection, "queued"), "every event is sent", deadline=30)
    await start(roles="work")
    await until(lambda: status(connection, "processed"), "every event is processed", deadline=30)
    trail = await connection.fetch("SELECT DISTINCT from_status, to_status, actor FROM audit")
    resent = ("queued", "queued", "relay")  # the row of a second send, on a slow machine; a first send has no row
    assert {tuple(row) for row in trail} - {resent} == {("queued", "processed", "worker")}


async def test_the_window_bounds_what_is_in_sqs(start: Start, servers: Servers, connection: Connection) -> None:
    daemon = await start(roles="receive,relay", relay_window=7)
    await send(daemon, *sampling.stream([AUTHCAPTURE], 60))
    await until(lambda: connection.fetchval("SELECT count(*) = 7 FROM events WHERE status = 'queued'"), "seven are sent")
    assert daemon.relay is not None
    for _ in range(5):
        await daemon.relay.sweep()
    assert await depth(servers, servers.queue) == 7
    await start(roles="work")
    await until(lambda: status(connection, "processed"), "the rest follows", deadline=30)


async def test_a_burst_over_the_hot_path_is_sent_once(start: Start, servers: Servers, connection: Connection) -> None:
    """Without a window and with SQS up, no event waits for the sweeper, and no event is sent twice."""
    daemon = await start(roles="receive,relay", relay_window=None, resend_after=600)
    await until(lambda: daemon.sqs.queue.up, "SQS is known to be up")
    await send(daemon, *sampling.stream([AUTHCAPTURE], 40))
    await until(lambda: status(connection, "queued"), "every event is sent")
    assert metric(daemon, "webhookd_relayed_total", outcome="sent") == 40
    assert metric(daemon, "webhookd_relayed_total", outcome="left") == 0


async def test_a_message_that_is_not_ours_is_left_to_the_redrive_policy(start: Start, servers: Servers) -> None:
    async with client(servers) as sqs:
        url = await url_of(sqs, servers.queue)
        await sqs.send_message(QueueUrl=url, MessageBody="hello")
        await sqs.send_message(QueueUrl=url, MessageBody=encode([EventReference(uuid.uuid4(), "default", AUTHCAPTURE)]))
    daemon = await start()
    await until(lambda: metric(daemon, "webhookd_processed_total", outcome="unknown") == 2, "both are seen")
    assert await depth(servers, servers.queue) == 2
    assert metric(daemon, "webhookd_in_flight") == 0


async def test_a_batch_of_acknowledgements_with_one_message_twice_deletes_all(start: Start, servers: Servers) -> None:
    """SQS may deliver a message twice, even in one batch. So entry ids are positions, and each delete counts."""
    daemon = await start(roles="receive")
    body = EventReference(uuid.uuid4(), "default", AUTHCAPTURE)
    await daemon.sqs.queue.send([[body]] * 3)
    messages: list[Message] = []

    async def take(count: int) -> bool:
        messages.extend(await daemon.sqs.queue.receive(10, wait=1, visibility=60))
        return len(messages) == count

    await until(lambda: take(3), "three messages")
    await daemon.sqs.queue.change_visibility([(messages[0], 0)])
    await until(lambda: take(4), "one of them again, with a receipt handle of its own")
    acks = Acks(daemon.sqs.queue, metrics=daemon.metrics, watch=daemon.watch)
    await acks.start()
    for message in messages:
        acks.delete(message)
    await acks.stop()
    assert metric(daemon, "webhookd_acks_total", outcome="failed") == 0
    assert await _is_empty(servers, servers.queue)


async def test_stopping_gives_back_what_is_in_hand_at_once(
    start: Start, servers: Servers, connection: Connection, effects: Callable[[], Any]
) -> None:
    started = asyncio.Event()

    async def hang(event: Event, inside: Any) -> None:
        await count(event, inside)
        started.set()
        await asyncio.Event().wait()

    first = await start(handlers(hang), shutdown_grace=2, commit_timeout=1, visibility_timeout=600, resend_after=600)
    await send(first, sampling.sample(AUTHCAPTURE, 1))
    await asyncio.wait_for(started.wait(), 10)
    await first.stop()
    assert await effects() == 0
    row = await connection.fetchrow("SELECT attempts, status FROM events")
    assert row is not None
    assert row["attempts"] == 0, "a stop is no attempt"
    await start(handlers(count), resend_after=600)
    await until(lambda: status(connection, "processed"), "another worker has it long before the visibility timeout")
    assert await effects() == 1


async def test_a_copy_brought_back_by_a_queue_redrive_is_tried_anew(
    start: Start, servers: Servers, connection: Connection, effects: Callable[[], Any]
) -> None:
    """The AWS console's redrive does this: it puts the dead-letter queue's message on the queue."""
    closed = True

    async def handle(event: Event, inside: Any) -> None:
        if closed:
            raise Permanent("closed")
        await count(event, inside)

    daemon = await start(handlers(handle))
    await send(daemon, sampling.sample(AUTHCAPTURE, 1))
    await until(lambda: depth(servers, servers.dead_letter_queue), "a copy in the dead-letter queue")
    closed = False
    async with client(servers) as sqs:
        dead = await url_of(sqs, servers.dead_letter_queue)
        (message,) = (await sqs.receive_message(QueueUrl=dead))["Messages"]
        await sqs.send_message(QueueUrl=await url_of(sqs, servers.queue), MessageBody=message["Body"])
        await sqs.delete_message(QueueUrl=dead, ReceiptHandle=message["ReceiptHandle"])
    await until(lambda: status(connection, "processed"), "the event is processed")
    assert await effects() == 1
    trail = await connection.fetch("SELECT from_status, to_status, actor FROM audit ORDER BY at")
    assert ("dead", "received", "queue redrive") in [tuple(row) for row in trail]


async def test_a_stale_delivery_does_not_wake_a_dead_event(start: Start, connection: Connection) -> None:
    async def fail(_: Event, __: Any) -> None:
        raise Permanent("closed")

    daemon = await start(handlers(fail))
    await send(daemon, sampling.sample(AUTHCAPTURE, 1))
    await until(lambda: status(connection, "dead"), "the event is dead")
    row = await connection.fetchrow("SELECT id, account, event_type FROM events")
    assert row is not None
    await daemon.sqs.queue.send([[EventReference(row["id"], row["account"], row["event_type"])]])
    await until(
        lambda: metric(daemon, "webhookd_processed_total", outcome="duplicate") == 1, "the second message is a duplicate"
    )
    assert await status(connection, "dead")


async def test_a_copy_whose_event_is_no_longer_dead_is_removed(start: Start, servers: Servers, connection: Connection) -> None:
    daemon = await start()
    await send(daemon, sampling.sample(AUTHCAPTURE, 1))
    await until(lambda: status(connection, "processed"), "the event is processed")
    row = await connection.fetchrow("SELECT id, account, event_type FROM events")
    assert row is not None
    stale = EventReference(row["id"], row["account"], row["event_type"], dead="closed")
    await daemon.sqs.dead_letter_queue.send([[stale], [stale]])
    await until(lambda: _removed(daemon, servers), "both are removed")


async def _removed(daemon: Daemon, servers: Servers) -> bool:
    await daemon.dead_letters.reconcile()
    return await _is_empty(servers, servers.dead_letter_queue)


async def test_a_copy_that_could_not_be_sent_is_sent_later(start: Start, servers: Servers, connection: Connection) -> None:
    """If the process is killed between the death and the copy, PostgreSQL still knows that the copy is owed."""
    daemon = await start(roles="receive,relay")
    await send(daemon, sampling.sample(AUTHCAPTURE, 1))
    await connection.execute("UPDATE work SET status = 'dead', dead_reason = 'x', due = now() - interval '1 minute'")
    await until(lambda: _owed_is_paid(daemon, servers), "the copy is sent")
    assert await connection.fetchval("SELECT dead_letter_sent_at IS NOT NULL FROM events")


async def _owed_is_paid(daemon: Daemon, servers: Servers) -> bool:
    await daemon.dead_letters.reconcile()
    return await depth(servers, servers.dead_letter_queue) == 1


async def test_a_relay_that_sent_but_could_not_record_it_sends_again(start: Start, connection: Connection) -> None:
    daemon = await start(roles="receive,relay")
    await send(daemon, sampling.sample(AUTHCAPTURE, 1))
    row = await connection.fetchrow("SELECT id, account, event_type FROM events")
    assert row is not None
    await daemon.sqs.queue.send([[EventReference(row["id"], row["account"], row["event_type"])]])
    worker = await start(handlers(), roles="work")
    await until(lambda: status(connection, "processed"), "the event is processed")
    assert daemon.relay is not None
    daemon.relay.offer([Outgoing(row["id"], row["account"], row["event_type"])])
    await until(lambda: metric(worker, "webhookd_processed_total", outcome="duplicate") >= 1, "the second send is a duplicate")
    assert await status(connection, "processed"), "a late record of a send does not undo the end"


def written_in(page: Path, monkeypatch: pytest.MonkeyPatch) -> list[Registry]:
    """Runs each Python block of a page; returns the registry with the handlers of each block."""
    found = []
    for code in blocks(page.read_text(), "python"):
        found.append(Registry())
        monkeypatch.setattr(handlers_module, "registered", found[-1])
        exec(compile(code, page.name, "exec"), {})
    return found


async def test_the_readmes_handler_books_a_payment(
    start: Start, connection: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    (registry,) = written_in(README, monkeypatch)
    assert len(registry) == 1
    await connection.execute("CREATE TABLE orders (transaction_id text, paid numeric)")
    sent = sampling.sample(AUTHCAPTURE, 1)
    await connection.execute("INSERT INTO orders VALUES ($1, NULL)", sent.entity_id)
    daemon = await start(registry)
    await send(daemon, sent)
    await until(lambda: status(connection, "processed"), "the event is processed")
    assert str(await connection.fetchval("SELECT paid FROM orders")) == "2.10"


def test_every_handler_of_the_guide_is_run() -> None:
    (of_the_readme,) = blocks(README.read_text(), "python")
    assert [(page.name, len(blocks(page.read_text(), "python"))) for page in PAGES if "```python" in page.read_text()] == [
        ("calls.md", 1),
        ("details.md", 2),  # tests/integration/test_details.py runs these
        ("handlers.md", 2),
        ("receivers.md", 1),  # tests/integration/test_destination_commands.py runs this receiver
        ("settlement.md", 1),
        ("simulate.md", 1),  # tests/integration/test_simulate.py runs this test
        ("testing.md", 2),  # tests/integration/test_testing_fixtures.py runs these
    ]
    assert blocks((GUIDE / "handlers.md").read_text(), "python")[0] == of_the_readme


async def test_the_guides_handler_books_retries_and_gives_up(
    start: Start, connection: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, registry = written_in(GUIDE / "handlers.md", monkeypatch)
    await connection.execute("CREATE TABLE refunds (id text, amount numeric)")
    await connection.execute("CREATE TABLE books (closed boolean); INSERT INTO books VALUES (false)")
    daemon = await start(registry)

    async def ends(number: int, wanted: str, without: bytes = b"") -> str | None:
        """Sends a refund, without a part of its body; returns the error when the event has the status."""
        sent = sampling.sample(REFUND, number)
        assert without in sent.body
        await send(daemon, replace(sent, body=sent.body.replace(without, b"")))
        find = "SELECT id FROM events WHERE notification_id = $1 AND status = $2"
        event = await until(lambda: connection.fetchval(find, sent.notification_id, wanted), f"the event is {wanted}")
        error: str | None = await connection.fetchval("SELECT last_error FROM work WHERE event_id = $1", event)
        return error

    assert await ends(1, "processed") is None
    assert str(await connection.fetchval("SELECT amount FROM refunds")) == "2.10"
    dead = await ends(2, "dead", without=b'"authAmount":3.10,')
    assert dead is not None
    assert dead.startswith("Permanent: the refund has no amount [handler ")
    await connection.execute("UPDATE books SET closed = true")
    retrying = await ends(3, "retrying")
    assert retrying is not None
    told = r"Retryable: the books are closed \[handler .*book_refund at handlers\.md:\d+ in .*\] \(next try in 300\.00 s\)"
    assert re.fullmatch(told, retrying)
    assert await connection.fetchval("SELECT count(*) FROM refunds") == 1


async def test_the_guides_handler_of_a_settlement_marks_the_order(
    start: Start, connection: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    (registry,) = written_in(GUIDE / "settlement.md", monkeypatch)
    await connection.execute("CREATE TABLE orders (transaction_id text, settled numeric)")
    await connection.execute("INSERT INTO orders VALUES ('60022194830'), ('60022194831')")
    daemon = await start(registry)
    intake = SyntheticIntake("default", daemon.receipts, tuple(SyntheticType), daemon.metrics.provider)
    payload: dict[str, Value] = {"id": "60022194830", "entityName": "transaction", "settleAmount": Decimal("19.90")}
    event = SyntheticEvent(uuid.uuid4(), SyntheticType.SETTLED, "default", "60022194830", None, payload)
    assert await intake.take([event]) == 1
    settled = "SELECT settled FROM orders WHERE transaction_id = '60022194830'"
    assert await until(lambda: connection.fetchval(settled), "the order is marked") == Decimal("19.90")
    assert await connection.fetchval("SELECT count(settled) FROM orders") == 1


async def test_the_guides_sender_calls_the_other_system_after_the_commit_without_a_transaction(
    start: Start, servers: Servers, connection: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[tuple[str, Any]] = []
    observer = await connect(servers.database_url)

    async def mail(request: web.Request) -> web.Response:
        # The daemon's other parts may be in a transaction for a moment, and a sender that held one would be in it all the time.
        asked = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND state = 'idle in transaction'"
        await until(lambda: _is_zero(observer, asked), "no transaction is open")
        calls.append((request.headers["Idempotency-Key"], await request.json()))
        return web.Response(status=503 if len(calls) == 1 else 200)

    app = web.Application()
    app.router.add_post("/mails", mail)
    async with TestServer(app) as server:
        monkeypatch.setenv("MAIL_URL", str(server.make_url("/mails")))
        monkeypatch.setenv("SHOP_DATABASE_URL", servers.database_url)
        (registry,) = written_in(GUIDE / "calls.md", monkeypatch)
        await connection.execute("CREATE TABLE public.mails (id uuid PRIMARY KEY, refund text, due timestamptz)")
        daemon = await start(registry)
        sent = sampling.sample(REFUND, 1)
        await send(daemon, sent)
        await until(lambda: status(connection, "processed"), "the event is processed")
        await until(lambda: _is_zero(connection, "SELECT 1 - count(*) FROM mails WHERE due > now()"), "the mail was refused")
        await until(lambda: len(calls) == 1, "the first call")
        await connection.execute("UPDATE mails SET due = now()")
        await until(lambda: _is_zero(connection, "SELECT count(*) FROM mails"), "the mail is sent")
        event = str(await connection.fetchval("SELECT id FROM events"))
        assert calls == [(event, {"refund": sent.entity_id})] * 2, "the second call has the same key"
        await daemon.stop()
    await observer.close()


async def _is_zero(connection: Connection, query: str) -> bool:
    return bool(await connection.fetchval(query) == 0)
