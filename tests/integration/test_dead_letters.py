"""`webhookd dead-letters`: dead events are found, tried again and let go, and nothing stands in the way of a redriven one."""

from __future__ import annotations

import asyncio
import json
import os
import re
import shlex
import signal
import sys
import time
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, TypeAlias

import asyncpg
import pytest

from tests.conftest import Servers, Start
from tests.helpers.command import webhookd
from tests.helpers.queues import depth
from tests.helpers.readme import README
from tests.helpers.running import KEY
from tests.helpers.wait import until
from webhookd.daemon import Daemon
from webhookd.dev import traffic
from webhookd.errors import Permanent
from webhookd.event import Event, Status
from webhookd.lifecycle import Watch
from webhookd.metrics import Metrics
from webhookd.operate.dead_letters import DeadLetters, Progress, Selection
from webhookd.process.handlers import Registry
from webhookd.store.database import Database

Connection: TypeAlias = "asyncpg.Connection[asyncpg.Record]"
AUTHCAPTURE = "net.authorize.payment.authcapture.created"
REFUND = "net.authorize.payment.refund.created"


class Shop:
    """Handlers that give up while the shop is closed, and else write a row; the row is the effect that is counted."""

    def __init__(self) -> None:
        self.closed = True
        self.registry = Registry()
        self.registry.add("*", self._handle)

    async def _handle(self, event: Event, connection: Any) -> None:
        if self.closed:
            raise Permanent(f"the shop is closed for {event.event_type.split('.')[3]}s")
        await connection.execute("INSERT INTO sales VALUES ($1)", event.id)


@pytest.fixture
async def shop(connection: Connection) -> Shop:
    await connection.execute("CREATE TABLE sales (event_id uuid)")
    return Shop()


async def deliver(daemon: Daemon, types: list[str], count: int) -> None:
    """Sends `count` webhooks and waits until each one's event has ended."""
    summary = await traffic.send(traffic.stream(types, count), f"{daemon.public_url}/webhooks/authorize-net", KEY)
    assert summary.failed == 0


async def statuses(connection: Connection) -> dict[str, int]:
    rows = await connection.fetch("SELECT status, count(*) FROM events GROUP BY status")
    return {row["status"]: row["count"] for row in rows}


async def bury(connection: Connection, count: int, event_type: str = AUTHCAPTURE, **columns: str) -> list[uuid.UUID]:
    """Makes `count` dead events without a daemon, each a second after the other, the last one just now."""
    extra = "".join(f", {name}" for name in columns)
    values = "".join(f", {value}" for value in columns.values())
    rows = await connection.fetch(
        f"""
        WITH numbers AS (SELECT n, gen_random_uuid() AS id FROM generate_series(1, $1) AS n), made AS (
            INSERT INTO events (id, account, notification_id, event_type, key_fingerprint, body_hash, send_after, status,
                                attempts, finished_at, received_at, dead_reason{extra})
            SELECT id, 'default', id::text, $2, '', '', now(), 'dead', 12, now() - ($1 - n) * interval '1 second',
                now() - interval '3 days', 'the handlers gave up'{values} FROM numbers
        ), bodies AS (
            INSERT INTO event_bodies SELECT id, '{{"payload": {{}}}}' FROM numbers
        )
        SELECT id FROM numbers ORDER BY n
        """,
        count,
        event_type,
    )
    return [row["id"] for row in rows]


async def command(servers: Servers, *arguments: str) -> tuple[int, str, str]:
    return await webhookd("dead-letters", *arguments, folder=servers.folder, **servers.settings)


async def told(servers: Servers, *arguments: str) -> Any:
    code, out, err = await command(servers, *arguments, "--json")
    assert (code, err) == (0, "")
    return json.loads(out)


@asynccontextmanager
async def operating(servers: Servers) -> AsyncIterator[DeadLetters]:
    database = Database(servers.database_url, short=2, work=1, handler_timeout=0, metrics=Metrics(), watch=Watch())
    await database.start()
    yield DeadLetters(database)
    await database.stop()


async def test_a_chosen_set_is_redriven_and_keeps_its_identity_and_its_audit_trail(
    start: Start, servers: Servers, connection: Connection, shop: Shop
) -> None:
    daemon = await start(shop.registry)
    await deliver(daemon, [AUTHCAPTURE, REFUND], 6)
    await until(lambda: depth_is(servers, 6), "six copies", deadline=30)
    before = await connection.fetch("SELECT id, notification_id, received_at, body_hash FROM events ORDER BY id")
    shop.closed = False

    would = await told(servers, "redrive", "--event-type", "payment.refund.*", "--dry-run")
    assert would["dry_run"]["event_types"] == {REFUND: 3}
    assert await statuses(connection) == {"dead": 6}, "a dry run changes nothing"

    options = ("--event-type", "payment.refund.*", "--since", "1h", "--yes", "--note", "reopened", "--as", "ana")
    assert (await told(servers, "redrive", *options))["redriven"] == 3
    await until(lambda: is_so(connection, {"dead": 3, "processed": 3}), "they are processed", deadline=30)
    assert await connection.fetchval("SELECT count(*) FROM sales") == 3
    assert await connection.fetch("SELECT id, notification_id, received_at, body_hash FROM events ORDER BY id") == before
    redriven = await connection.fetchval("SELECT id FROM events WHERE status = 'processed' LIMIT 1")
    trail = await connection.fetch("SELECT * FROM event_audit WHERE event_id = $1 ORDER BY at", redriven)
    changes = [(row["from_status"], row["to_status"]) for row in trail if row["to_status"] != "queued"]
    assert changes[-3:] == [(changes[-3][0], "dead"), ("dead", "received"), (changes[-1][0], "processed")]
    assert next(row["actor"] for row in trail if row["from_status"] == "dead") == "operator (ana)"
    assert next(row["reason"] for row in trail if row["from_status"] == "dead") == "reopened"
    assert trail[-1]["attempt"] == 1, "with all its attempts"
    await until(lambda: agreed(daemon, servers, 3), "their copies leave the dead-letter queue", deadline=60, every=0.5)


async def is_so(connection: Connection, expected: dict[str, int]) -> bool:
    return await statuses(connection) == expected


async def depth_is(servers: Servers, count: int) -> bool:
    return await depth(servers, servers.dead_letter_queue) == count


async def agreed(daemon: Daemon, servers: Servers, count: int) -> bool:
    await daemon.dead_letters.agree()
    return await depth_is(servers, count)


async def test_no_layer_of_idempotency_blocks_a_redriven_event(
    start: Start, servers: Servers, connection: Connection, shop: Shop
) -> None:
    daemon = await start(shop.registry, relay_window=30)
    await deliver(daemon, [AUTHCAPTURE], 3)
    await until(lambda: depth_is(servers, 3), "three copies", deadline=30)
    shop.closed = False
    ids = [row["id"] for row in await connection.fetch("SELECT id FROM events")]
    for event_id in ids:
        assert await daemon.claims.acquire([event_id]), "what a worker left that died: its claim"
    await connection.execute("UPDATE events SET send_after = now() + interval '1 day', retry_at = now() + interval '1 day'")
    assert (await told(servers, "redrive", *map(str, ids), "--yes"))["redriven"] == 3
    await until(lambda: is_so(connection, {"processed": 3}), "they are processed", deadline=30)
    assert await connection.fetchval("SELECT count(*) FROM sales") == 3


async def test_an_event_that_dies_again_is_dead_again_with_one_copy(
    start: Start, servers: Servers, connection: Connection, shop: Shop
) -> None:
    daemon = await start(shop.registry)
    await deliver(daemon, [AUTHCAPTURE], 2)
    await until(lambda: depth_is(servers, 2), "two copies", deadline=30)
    deaths = await connection.fetch("SELECT finished_at FROM events ORDER BY id")
    assert (await told(servers, "redrive", "--all", "--yes", "--rate", "1"))["redriven"] == 2, "each of them once"
    died_anew = "SELECT finished_at FROM events WHERE status = 'dead' ORDER BY id"

    async def have_died_anew() -> bool:
        rows = await connection.fetch(died_anew)
        return len(rows) == 2 and all(row["finished_at"] > was["finished_at"] for row, was in zip(rows, deaths, strict=True))

    await until(have_died_anew, "they die again", deadline=30)
    await until(lambda: agreed(daemon, servers, 2), "one copy each", deadline=60, every=0.5)


async def test_a_discarded_event_loses_its_copy_and_comes_back_by_its_id(
    start: Start, servers: Servers, connection: Connection, shop: Shop
) -> None:
    daemon = await start(shop.registry)
    await deliver(daemon, [AUTHCAPTURE], 2)
    await until(lambda: depth_is(servers, 2), "two copies", deadline=30)
    chosen, other = [str(row["id"]) for row in await connection.fetch("SELECT id FROM events ORDER BY id")]
    assert (await told(servers, "discard", chosen, "--yes", "--note", "told the merchant", "--as", "ana"))["discarded"] == 1
    await until(lambda: agreed(daemon, servers, 1), "its copy leaves the dead-letter queue", deadline=60, every=0.5)
    assert [event["id"] for event in (await told(servers, "list"))["events"]] == [other]
    assert [event["id"] for event in (await told(servers, "list", "--discarded"))["events"]] == [chosen]
    shown = await told(servers, "show", chosen)
    assert shown["dead_letter_copy"] == "none: the event was discarded"
    last = shown["audit"][-1]
    assert (last["from_status"], last["to_status"], last["actor"]) == ("dead", "dead", "operator (ana)")
    assert last["reason"] == "discarded: told the merchant"

    shop.closed = False
    assert (await told(servers, "redrive", "--all", "--yes"))["redriven"] == 1, "all does not mean what was let go"
    assert (await told(servers, "redrive", chosen, "--yes"))["redriven"] == 1
    await until(lambda: is_so(connection, {"processed": 2}), "both are processed", deadline=30)


async def test_list_filters_and_tells_that_there_are_more(servers: Servers, connection: Connection) -> None:
    payments = await bury(connection, 3)
    refunds = await bury(connection, 2, REFUND, last_error="'TimeoutError: the shop did not answer'")
    listed = await told(servers, "list", "--event-type", "payment.authcapture.*")
    assert [event["id"] for event in listed["events"]] == [str(one) for one in reversed(payments)], "the newest death first"
    assert listed["more"] is False
    by_reason = await told(servers, "list", "--reason", "timeouterror")
    assert {event["id"] for event in by_reason["events"]} == {str(one) for one in refunds}
    assert (await told(servers, "list", "--until", "1h"))["events"] == []
    assert (await told(servers, "list", "--account", "other"))["events"] == []
    two = await told(servers, "list", "--limit", "2")
    assert (len(two["events"]), two["more"]) == (2, True)
    code, out, err = await command(servers, "list", "--limit", "2")
    assert (code, err) == (0, "")
    assert "There are more than 2" in out


async def test_show_tells_all_but_the_body_which_must_be_asked_for(servers: Servers, connection: Connection) -> None:
    (event_id,) = await bury(connection, 1, last_error="'ValueError: no such order'")
    shown = await told(servers, "show", str(event_id))
    assert (shown["status"], shown["last_error"]) == ("dead", "ValueError: no such order")
    assert shown["dead_letter_copy"].startswith("owed")
    assert "body" not in shown
    assert (await told(servers, "show", str(event_id), "--body"))["body"] == '{"payload": {}}'
    code, out, _ = await command(servers, "show", str(event_id))
    assert code == 0
    assert "payload" not in out
    code, _, err = await command(servers, "show", str(uuid.uuid4()))
    assert code == 1
    assert "there is no event" in err


async def test_the_readmes_commands_work_as_they_stand_there(servers: Servers, connection: Connection) -> None:
    await bury(connection, 2, last_error="'timeout'")
    lines = re.findall(r"^webhookd dead-letters .+$", README.read_text(), re.MULTILINE)
    assert len(lines) == 4
    for line in lines:
        arguments = shlex.split(line, comments=True)[2:]
        code, _, err = await command(servers, *arguments, *([] if arguments[0] == "list" else ["--yes"]))
        assert (code, err) == (0, ""), line
    assert await statuses(connection) == {"received": 2}


@pytest.mark.parametrize(
    ("arguments", "remedy"),
    [
        (("redrive", "--yes"), "--all"),
        (("discard", "--yes"), "--all"),
        (("redrive", "--all", "--account", "default", "--yes"), "not both"),
        (("redrive", "--all"), "--yes"),
        (("list", "--since", "yesterday"), "--since"),
    ],
)
async def test_what_could_not_be_meant_changes_nothing(
    servers: Servers, connection: Connection, arguments: tuple[str, ...], remedy: str
) -> None:
    await bury(connection, 1)
    code, out, err = await command(servers, *arguments)
    assert (code, out) == (2, "")
    assert remedy in err
    assert await statuses(connection) == {"dead": 1}


async def test_a_database_without_the_schema_is_told_to_be_migrated(servers: Servers, connection: Connection) -> None:
    await connection.execute("DROP SCHEMA public CASCADE; CREATE SCHEMA public")
    code, _, err = await command(servers, "list")
    assert code == 1
    assert "webhookd migrate" in err


async def test_fresh_events_are_sent_before_redriven_ones(start: Start, servers: Servers, connection: Connection) -> None:
    daemon = await start(roles="receive")  # nobody sends
    await bury(connection, 5)
    assert (await told(servers, "redrive", "--all", "--yes"))["redriven"] == 5
    await deliver(daemon, [AUTHCAPTURE], 5)
    await connection.execute("UPDATE events SET send_after = now() WHERE redriven_at IS NULL")
    first = await daemon.store.claim_unsent([Status.RECEIVED], limit=5, lease=60)
    redriven = "SELECT count(*) FROM events WHERE redriven_at IS NOT NULL AND id = ANY($1)"
    assert await connection.fetchval(redriven, [event.id for event in first]) == 0
    rest = await daemon.store.claim_unsent([Status.RECEIVED], limit=5, lease=60)
    assert await connection.fetchval(redriven, [event.id for event in rest]) == 5


async def test_the_age_of_a_redriven_event_counts_from_its_redrive(
    start: Start, servers: Servers, connection: Connection
) -> None:
    daemon = await start(roles="receive")
    (event_id,) = await bury(connection, 1)
    await told(servers, "redrive", str(event_id), "--yes")
    _, oldest = await daemon.store.backlog()
    assert 0 < oldest < 600, "and not the three days since it was received"


async def test_a_redrive_holds_back_while_fresh_events_wait(servers: Servers, connection: Connection) -> None:
    await bury(connection, 3)
    waiting = await bury(connection, 100, REFUND)
    await connection.execute(
        "UPDATE events SET status = 'queued', finished_at = NULL, received_at = now() - interval '6 s' WHERE id = ANY($1)",
        waiting,
    )
    progress = Progress()
    held = asyncio.Event()

    def note_hold(now: Progress) -> None:
        if now.held_by == "fresh events go first":
            held.set()

    async with operating(servers) as dead_letters:
        redrive = asyncio.create_task(
            dead_letters.redrive(Selection(), progress, actor="operator (ana)", note="", rate=100, limit=None, told=note_hold)
        )
        await asyncio.wait_for(held.wait(), 10)
        assert progress.done == 0
        await connection.execute("UPDATE events SET status = 'processed' WHERE id = $1", waiting[0])
        await asyncio.wait_for(redrive, 10)
    assert (progress.done, progress.held_by) == (3, "")
    assert progress.held_seconds > 0


async def test_a_redrive_waits_for_what_it_put_back_and_keeps_its_rate(servers: Servers, connection: Connection) -> None:
    await bury(connection, 30)
    progress = Progress()
    began = time.monotonic()
    async with operating(servers) as dead_letters:
        redrive = asyncio.create_task(
            dead_letters.redrive(Selection(), progress, actor="", note="", rate=2, limit=None, told=lambda _: None)
        )
        await until(lambda: bool(progress.held_by), "it holds back: nobody works on them", deadline=30)
        assert progress.done == 20, "ten seconds of its rate"
        assert time.monotonic() - began >= 9, "and it did not take less than that"
        redrive.cancel()
        await asyncio.wait([redrive])
    assert await statuses(connection) == {"received": 20, "dead": 10}


async def test_ctrl_c_stops_between_two_events_and_the_next_run_goes_on(servers: Servers, connection: Connection) -> None:
    await bury(connection, 8)
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "webhookd", "dead-letters", "redrive", "--all", "--yes", "--json", "--rate", "2"),
        env={**os.environ, **servers.settings},
        cwd=servers.folder,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    one = "SELECT count(*) > 0 FROM events WHERE status = 'received'"
    await until(lambda: connection.fetchval(one), "the first one is redriven", deadline=30)
    process.send_signal(signal.SIGINT)
    out, err = await process.communicate()
    assert process.returncode == 130, err.decode()
    summary = json.loads(out)
    assert summary["stopped"] is True
    assert summary["left"] > 0
    assert await statuses(connection) == {"received": summary["redriven"], "dead": summary["left"]}
    again = await told(servers, "redrive", "--all", "--yes")
    assert again["redriven"] == summary["left"]
