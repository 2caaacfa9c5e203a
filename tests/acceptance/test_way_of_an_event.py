"""The real process takes an event the whole way: 10,000 webhooks, errors of handlers, and an orderly stop."""

from __future__ import annotations

import json
import textwrap
from pathlib import Path

import asyncpg
import pytest

from tests.conftest import Servers
from tests.helpers.ledger import COUNTING, Ledger, Totals
from tests.helpers.queues import received_bodies
from tests.helpers.running import KEY, Process
from tests.helpers.wait import until
from webhookd.authorizenet import sampling
from webhookd.authorizenet.notification import EVENT_TYPES
from webhookd.dev import traffic
from webhookd.store.queries import queries

HANDLERS = """
from webhookd import Permanent, on

@on("*")
async def count(event, connection):
    await connection.execute("INSERT INTO effects (event_id, event_type, attempt) VALUES ($1, $2, $3)",
                             event.id, event.event_type, event.attempt)

@on("net.authorize.payment.void.created")
async def fails_twice(event, connection):
    if event.attempt <= 2:
        raise RuntimeError(f"attempt {event.attempt} of card 4111111111111111")

@on("net.authorize.payment.refund.created")
async def never(event, connection):
    raise Permanent("the order is closed")
"""


@pytest.fixture
async def settings(servers: Servers, connection: asyncpg.Connection[asyncpg.Record]) -> dict[str, str]:
    """Returns settings with a user's handler module that counts effects, fails twice, and gives up."""
    (servers.folder / "shop.py").write_text(textwrap.dedent(HANDLERS))
    await connection.execute("CREATE TABLE effects (event_id uuid, event_type text, attempt integer)")
    return {**servers.settings, "WEBHOOKD_HANDLERS": "shop", "PYTHONPATH": str(servers.folder)}


@pytest.mark.timeout(300)
async def test_ten_thousand_webhooks_each_have_one_effect(
    servers: Servers, connection: asyncpg.Connection[asyncpg.Record]
) -> None:
    """20 % duplicates, 64 connections: each webhook answered 200 is processed once, and the timeline fits them."""
    (servers.folder / "counting.py").write_text(COUNTING)
    ledger = Ledger(servers.database_url)
    await ledger.connect()
    await ledger.open()
    samples = sampling.stream(EVENT_TYPES, 10_000, duplicates=0.2, out_of_order=True)
    settings = {**servers.settings, "WEBHOOKD_HANDLERS": "counting", "PYTHONPATH": str(servers.folder)}
    settings |= {
        "WEBHOOKD_COMMIT_TIMEOUT": "60",
        "WEBHOOKD_SHUTDOWN_GRACE": "90",
    }  # a busy machine may stand still for longer than the default
    async with Process(settings, servers.folder) as daemon:
        summary = await ledger.send(samples, daemon.webhook_url, connections=64)
        assert summary.failed == 0, summary.as_dict()
        assert summary.outcomes == {"accepted": 8000, "duplicate": 2000}
        await ledger.settle(daemon.webhook_url, deadline=240)
        assert await daemon.metric("webhookd_duplicates_total") == 2000
        await until(lambda: _counted(daemon, 8000), "as many are counted, a moment after their commit")
        assert await daemon.stop() == 0
    assert await ledger.check() == Totals(sent=8000, acknowledged=8000, lost=0, doubled=0)
    assert await connection.fetchval("SELECT count(*) FROM events WHERE status = 'processed'") == 8000
    await ledger.close()


async def _counted(daemon: Process, count: int) -> bool:
    return await daemon.metric("webhookd_processed_total", outcome="processed") == count


async def _all_ended(connection: asyncpg.Connection[asyncpg.Record]) -> bool:
    return bool(await connection.fetchval("SELECT count(*) = 0 FROM events WHERE status NOT IN ('processed', 'dead')"))


async def test_a_handler_that_fails_twice_is_retried_with_growing_delay_and_one_effect(
    settings: dict[str, str], servers: Servers, connection: asyncpg.Connection[asyncpg.Record]
) -> None:
    settings |= {"WEBHOOKD_RETRY_BASE": "0.5", "WEBHOOKD_RETRY_CAP": "60"}
    async with Process(settings, servers.folder) as daemon:
        sent = sampling.sample("net.authorize.payment.void.created", 1)
        assert (await traffic.send([sent], daemon.webhook_url, KEY)).failed == 0
        await until(lambda: _status_is(connection, "processed"), "the event is processed")
        event = await connection.fetchrow("SELECT * FROM events")
        assert event is not None
        assert event["attempts"] == 3
        trail = [row async for row in queries.audit_trail(connection, id=event["id"])]
        steps = [(row["from_status"], row["to_status"], row["actor"], row["attempt"]) for row in trail]
        before, again, last = (step[0] for step in steps[1:])
        assert before in ("received", "queued"), "a send, which has no row, may be recorded after the attempt"
        assert {again, last} <= {"retrying", "queued"}
        assert steps == [
            (None, "received", "receiver", None),
            (before, "retrying", "worker", 1),
            (again, "retrying", "worker", 2),
            (last, "processed", "worker", 3),
        ]
        first, second = (row["reason"] for row in trail[-3:-1])
        assert "RuntimeError: attempt 1" in first
        assert _delay(second) > _delay(first), "the delay grows"
        assert await daemon.metric("webhookd_retries_total", event_type=sent.event_type) == 2
        assert await daemon.metric("webhookd_processed_total", outcome="retrying") == 2
        assert await connection.fetchval("SELECT count(*) FROM effects") == 1, "the failed attempts' effects rolled back"
        assert await daemon.stop() == 0
    log = (servers.folder / "webhookd.log").read_text()
    failed = next(json.loads(line) for line in log.splitlines() if "an attempt failed" in line)
    assert failed["handler"] == "shop.fails_twice"
    assert failed["error"] == f"RuntimeError at {servers.folder}/shop.py:12 in shop.fails_twice"
    assert "4111111111111111" not in log, "what a handler raised may quote customer data: not in a log"


def _delay(reason: str) -> float:
    return float(reason.rpartition("next try in ")[2].removesuffix(" s)"))


async def test_a_handler_that_gives_up_makes_the_event_dead_at_once_with_a_copy_in_the_dead_letter_queue(
    settings: dict[str, str], servers: Servers, connection: asyncpg.Connection[asyncpg.Record]
) -> None:
    async with Process(settings, servers.folder) as daemon:
        sent = sampling.sample("net.authorize.payment.refund.created", 1)
        assert (await traffic.send([sent], daemon.webhook_url, KEY)).failed == 0
        await until(lambda: _status_is(connection, "dead"), "the event is dead")
        event = await connection.fetchrow("SELECT * FROM events")
        assert event is not None
        assert event["attempts"] == 1
        assert event["dead_reason"] == "the order is closed"
        last = await connection.fetchrow("SELECT * FROM audit ORDER BY at DESC LIMIT 1")
        assert last is not None
        assert last["to_status"] == "dead"
        place = f"at {servers.folder}/shop.py:16 in shop.never"
        assert last["reason"] == f"Permanent: the order is closed [handler shop.never {place}]"
        assert await connection.fetchval("SELECT count(*) FROM effects") == 0
        (copy,) = await received_bodies(servers, servers.dead_letter_queue, 1)
        assert copy["event"] == str(event["id"])
        assert copy["dead"] == "the order is closed"
        assert await daemon.metric("webhookd_dead_total", reason="permanent") == 1
        assert await daemon.stop() == 0


async def _status_is(connection: asyncpg.Connection[asyncpg.Record], status: str) -> bool:
    return bool(await connection.fetchval("SELECT status = $1 FROM events", status))


async def test_a_sigterm_ends_the_process_in_order_and_a_second_start_goes_on(
    servers: Servers, connection: asyncpg.Connection[asyncpg.Record], tmp_path: Path
) -> None:
    """Webhooks that were accepted before the stop are processed after it."""
    async with Process(servers.settings, tmp_path) as daemon:
        answers: list[traffic.Answer] = []
        samples = sampling.stream(EVENT_TYPES, 200)
        assert (await traffic.send(samples, daemon.webhook_url, KEY, answered=answers.append)).failed == 0
        assert await daemon.stop() == 0
        await daemon.start()
        await until(lambda: _all_ended(connection), "every event has ended", deadline=60)
    assert await connection.fetchval("SELECT count(*) FROM events WHERE status = 'processed'") == 200
    assert {answer.id for answer in answers} == {str(row["id"]) for row in await connection.fetch("SELECT id FROM events")}
