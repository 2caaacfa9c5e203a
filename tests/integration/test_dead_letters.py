"""Dead letters by the API and `webhookd dead-letters`: found, redriven, discarded; nothing blocks a redriven event."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shlex
import signal
import sys
import uuid
from collections.abc import AsyncIterator
from typing import Any

import pytest

from tests.conftest import Servers, Start
from tests.helpers.guide import lines_of
from tests.helpers.operator import ANN, AUTHCAPTURE, LEO, REFUND, Connection, Operator, bury, come_to, statuses, times_put_back
from tests.helpers.queues import depth
from tests.helpers.running import KEY
from tests.helpers.stored import end_well, lease
from tests.helpers.wait import until
from webhookd.authorizenet import sampling
from webhookd.daemon import Daemon
from webhookd.dev import traffic
from webhookd.errors import Permanent
from webhookd.event import Event
from webhookd.process.handlers import Registry


class Shop:
    """Handlers that give up while the shop is closed, and otherwise write a row; the tests count rows as effects."""

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


@pytest.fixture
async def idle(start: Start) -> Operator:
    """Returns an operator of a daemon that takes orders, but sends and processes no events: put-back work stays visible."""
    return Operator((await start(roles="receive", admin_tokens=ANN)).admin_url)


async def deliver(daemon: Daemon, types: list[str], count: int) -> None:
    summary = await traffic.send(sampling.stream(types, count), f"{daemon.public_url}/webhooks/authorize-net", KEY)
    assert summary.failed == 0


async def command(operator: Operator, servers: Servers, *arguments: str) -> tuple[int, str, str]:
    return await operator.command(servers, "dead-letters", *arguments)


async def told(operator: Operator, servers: Servers, *arguments: str) -> Any:
    code, out, err = await command(operator, servers, *arguments, "--json")
    assert (code, err) == (0, "")
    return json.loads(out)


async def copies(servers: Servers, count: int) -> None:
    async def look() -> bool:
        return await depth(servers, servers.dead_letter_queue) == count

    await until(look, f"{count} copies in the dead-letter queue", deadline=30)


async def agreed(daemon: Daemon, servers: Servers, count: int) -> None:
    async def look() -> bool:
        await daemon.dead_letters.reconcile()
        return await depth(servers, servers.dead_letter_queue) == count

    await until(look, f"{count} copies in the dead-letter queue", deadline=60, every=0.5)


async def test_a_chosen_set_is_redriven_and_keeps_its_identity_and_its_audit_trail(
    start: Start, servers: Servers, connection: Connection, shop: Shop
) -> None:
    daemon = await start(shop.registry, admin_tokens=ANN)
    ann = Operator(daemon.admin_url)
    await deliver(daemon, [AUTHCAPTURE, REFUND], 6)
    await copies(servers, 6)
    before = await connection.fetch("SELECT * FROM ledger ORDER BY id")
    shop.closed = False

    would = await told(ann, servers, "redrive", "--event-type", "payment.refund.*", "--dry-run")
    assert (would["event_types"], would["total"], would["done"]) == ({REFUND: 3}, 3, 0)
    assert sum(would["reasons"].values()) == 3
    assert await statuses(connection) == {"dead": 6}, "a dry run changes nothing"

    options = ("--event-type", "payment.refund.*", "--since", "1h", "--yes", "--note", "reopened")
    redriven = await told(ann, servers, "redrive", *options)
    assert (redriven["done"], redriven["skipped"]) == (3, 0)
    await come_to(connection, {"dead": 3, "processed": 3})
    assert await connection.fetchval("SELECT count(*) FROM sales") == 3
    assert await connection.fetch("SELECT * FROM ledger ORDER BY id") == before
    one = await connection.fetchval("SELECT id FROM events WHERE status = 'processed' LIMIT 1")
    _, shown = await ann.get(f"events/{one}")
    trail = [change for change in shown["audit"] if change["to_status"] != "queued"]
    changes = [(change["from_status"], change["to_status"]) for change in trail]
    assert changes[-3:] == [(changes[-3][0], "dead"), ("dead", "received"), (changes[-1][0], "processed")]
    assert trail[-2]["actor"] == "operator (ann)"
    assert trail[-2]["reason"] == f"redrive {redriven['id']}: reopened"
    assert trail[-1]["attempt"] == 1, "with all its attempts"
    await agreed(daemon, servers, 3)


async def test_no_layer_of_idempotency_blocks_a_redriven_event(
    start: Start, servers: Servers, connection: Connection, shop: Shop
) -> None:
    daemon = await start(shop.registry, relay_window=30, admin_tokens=ANN)
    ann = Operator(daemon.admin_url)
    await deliver(daemon, [AUTHCAPTURE], 3)
    await copies(servers, 3)
    shop.closed = False
    ids = [row["id"] for row in await connection.fetch("SELECT id FROM events")]
    for event_id in ids:
        assert await daemon.idempotency.acquire([event_id]), "what a worker left that died: its claim"
    assert (await ann.done("dead-letters/redrive", ids=[str(one) for one in ids]))["done"] == 3
    await come_to(connection, {"processed": 3})
    assert await connection.fetchval("SELECT count(*) FROM sales") == 3


async def test_an_event_that_dies_again_is_dead_again_with_one_copy(
    start: Start, servers: Servers, connection: Connection, shop: Shop
) -> None:
    daemon = await start(shop.registry, admin_tokens=ANN)
    ann = Operator(daemon.admin_url)
    await deliver(daemon, [AUTHCAPTURE], 3)
    await copies(servers, 3)
    deaths = await connection.fetch("SELECT finished_at FROM events ORDER BY id")
    # The first event has died again long before the last event's turn.
    redriven = await ann.done("dead-letters/redrive", all=True, rate=1)
    assert (redriven["done"], redriven["skipped"]) == (3, 0), "each of them once"

    async def have_died_anew() -> bool:
        rows = await connection.fetch("SELECT finished_at FROM events WHERE status = 'dead' ORDER BY id")
        return len(rows) == 3 and all(row["finished_at"] > was["finished_at"] for row, was in zip(rows, deaths, strict=True))

    await until(have_died_anew, "they die again", deadline=30)
    assert set((await times_put_back(connection)).values()) == {1}
    await agreed(daemon, servers, 3)


async def test_a_discarded_event_loses_its_copy_and_comes_back_by_its_id(
    start: Start, servers: Servers, connection: Connection, shop: Shop
) -> None:
    daemon = await start(shop.registry, admin_tokens=ANN)
    ann = Operator(daemon.admin_url)
    await deliver(daemon, [AUTHCAPTURE], 2)
    await copies(servers, 2)
    chosen, other = [str(row["id"]) for row in await connection.fetch("SELECT id FROM events ORDER BY id")]
    discarded = await told(ann, servers, "discard", chosen, "--yes", "--note", "told the merchant")
    assert (discarded["kind"], discarded["done"]) == ("discard", 1)
    await agreed(daemon, servers, 1)
    assert [event["id"] for event in (await told(ann, servers, "list"))["events"]] == [other]
    assert [event["id"] for event in (await told(ann, servers, "list", "--discarded"))["events"]] == [chosen]
    shown = await told(ann, servers, "show", chosen)
    assert shown["discarded_at"] is not None
    assert shown["dead_letter_copy"] is None, "neither sent nor owed"
    last = shown["audit"][-1]
    assert (last["from_status"], last["to_status"], last["actor"]) == ("dead", "dead", "operator (ann)")
    assert last["reason"] == f"discarded: discard {discarded['id']}: told the merchant"
    assert (await ann.done("dead-letters/discard", ids=[chosen]))["done"] == 0, "once"

    shop.closed = False
    assert (await ann.done("dead-letters/redrive", all=True))["done"] == 1, "all does not include discarded events"
    assert (await ann.done("dead-letters/redrive", ids=[chosen]))["done"] == 1
    await come_to(connection, {"processed": 2})


async def test_list_filters_and_tells_that_there_are_more(idle: Operator, servers: Servers, connection: Connection) -> None:
    payments = await bury(connection, 3)
    refunds = await bury(connection, 2, REFUND, error="TimeoutError: the shop did not answer")
    await bury(connection, 1, status="processed")
    listed = await told(idle, servers, "list", "--event-type", "payment.authcapture.*")
    assert [event["id"] for event in listed["events"]] == [str(one) for one in reversed(payments)], "the newest death first"
    assert listed["more"] is False
    by_reason = await told(idle, servers, "list", "--reason", "timeouterror")
    assert {event["id"] for event in by_reason["events"]} == {str(one) for one in refunds}
    assert (await told(idle, servers, "list", "--until", "1h"))["events"] == []
    assert (await told(idle, servers, "list", "--account", "other"))["events"] == []
    two = await told(idle, servers, "list", "--limit", "2")
    assert (len(two["events"]), two["more"]) == (2, True)
    code, out, err = await command(idle, servers, "list", "--limit", "2")
    assert (code, err) == (0, "")
    assert "more than 2" in out


async def test_pages_of_dead_events_hold_each_of_them_once(idle: Operator, connection: Connection) -> None:
    expected = [str(one) for one in reversed(await bury(connection, 5))]
    await connection.execute("UPDATE work SET due = now()")  # all at one instant: the id decides the order
    found: list[str] = []
    cursor: dict[str, str] = {}
    while True:
        _, page = await idle.get("dead-letters", limit=2, **cursor)
        found += [event["id"] for event in page["events"]]
        if page["next"] is None:
            break
        cursor = {"cursor": page["next"]}
    assert found == expected


async def test_show_tells_all_but_the_body_which_must_be_asked_for(
    idle: Operator, servers: Servers, connection: Connection
) -> None:
    (event_id,) = await bury(connection, 1, error="ValueError: no such order")
    shown = await told(idle, servers, "show", str(event_id))
    assert (shown["status"], shown["last_error"]) == ("dead", "ValueError: no such order")
    assert shown["dead_letter_copy"] == "owed"
    assert "body" not in shown
    with_body = await told(idle, servers, "show", str(event_id), "--body")
    assert with_body["body"] == {"encoding": "utf-8", "text": '{"payload": {}}', "mended": []}
    code, out, _ = await command(idle, servers, "show", str(event_id))
    assert code == 0
    assert "payload" not in out
    code, _, err = await command(idle, servers, "show", str(uuid.uuid4()))
    assert code == 3
    assert "there is no event" in err
    (alive,) = await bury(connection, 1, status="processed")
    status, answer = await idle.get(f"dead-letters/{alive}")
    assert status == 404
    assert "not dead" in answer["detail"]


async def test_the_guides_commands_work_as_they_stand_there(idle: Operator, servers: Servers, connection: Connection) -> None:
    lines = lines_of("dead-letters")
    assert len(lines) == 9
    for line in lines:
        (event,) = await bury(connection, 1, error="timeout")
        arguments = [str(event) if word == "ID" else word for word in shlex.split(line, comments=True)[2:]]
        code, _, err = await command(idle, servers, *arguments, *(["--yes"] if arguments[0] in ("redrive", "discard") else []))
        assert (code, err) == (0, ""), line
    # The last redrive takes all that died since the redrive before. The last line discards no event of today.
    assert await statuses(connection) == {"received": 8, "dead": 1}


async def test_what_could_not_be_meant_changes_nothing(idle: Operator, servers: Servers, connection: Connection) -> None:
    await bury(connection, 1)
    cases = (
        (("redrive", "--yes"), "--all"),
        (("discard", "--yes"), "--all"),
        (("redrive", "--all", "--account", "default", "--yes"), "in exactly one way"),
        (("redrive", "--all"), "--yes"),
        (("redrive", "--all", "--json"), "--yes"),
        (("list", "--since", "yesterday"), "--since"),
    )
    answers = await asyncio.gather(*(command(idle, servers, *arguments) for arguments, _ in cases))
    for (code, out, err), (arguments, remedy) in zip(answers, cases, strict=True):
        assert (code, out) == (2, ""), arguments
        assert remedy in err
    assert await statuses(connection) == {"dead": 1}
    assert await connection.fetchval("SELECT count(*) FROM operations") == 0


async def test_an_order_that_could_not_be_meant_is_refused(idle: Operator, connection: Connection) -> None:
    orders: list[Any] = [
        {},
        {"all": False},
        {"all": True, "ids": [str(uuid.uuid4())]},
        {"all": True, "filter": {}},
        {"filter": {}},
        {"filter": {"account": None}},
        {"filter": {"event_type": ["*"]}},
        {"filter": {"event_type": ["payment.void.*", "net.authorize.**"]}},
        {"ids": []},
        {"all": True, "rate": 0.01},
        {"all": True, "limit": 0},
        {"all": True, "dryrun": True},
    ]
    for order in orders:
        for kind in ("redrive", "discard"):
            status, answer = await idle.post(f"dead-letters/{kind}", order | {"dry_run": False})
            assert status == 422 or (kind == "discard" and "rate" in order), (order, answer)
    _, answer = await idle.post("dead-letters/discard", {"filter": {}, "dry_run": False})
    assert "all: true" in answer["detail"], "the remedy"
    assert await connection.fetchval("SELECT count(*) FROM operations") == 0


async def test_an_order_is_a_dry_run_unless_it_says_otherwise(idle: Operator, connection: Connection) -> None:
    await bury(connection, 3)
    for kind in ("redrive", "discard"):
        operation = await idle.ended(await idle.order(f"dead-letters/{kind}", all=True))
        assert (operation["dry_run"], operation["state"], operation["total"], operation["done"]) == (True, "done", 3, 0)
    assert await statuses(connection) == {"dead": 3}
    assert await connection.fetchval("SELECT count(*) FROM audit") == 0


async def test_who_may_only_look_sees_dead_events_and_redrives_none(
    start: Start, servers: Servers, connection: Connection
) -> None:
    daemon = await start(roles="receive", admin_tokens=ANN, read_tokens=LEO)
    leo = Operator(daemon.admin_url, LEO["leo"])
    await bury(connection, 1)
    assert len((await told(leo, servers, "list"))["events"]) == 1
    code, out, err = await command(leo, servers, "redrive", "--all", "--yes")
    assert (code, out) == (5, "")
    assert "WEBHOOKD_ADMIN_TOKENS" in err
    assert await connection.fetchval("SELECT count(*) FROM operations") == 0


async def test_a_database_without_the_schema_is_told_to_be_migrated(
    start: Start, servers: Servers, connection: Connection
) -> None:
    await connection.execute("DROP SCHEMA webhookd CASCADE")
    daemon = await start(admin_tokens=ANN)
    code, _, err = await command(Operator(daemon.admin_url), servers, "list")
    assert code == 4
    assert "webhookd migrate" in err


async def test_fresh_events_are_sent_before_redriven_ones(start: Start, connection: Connection) -> None:
    daemon = await start(roles="receive", admin_tokens=ANN)  # nothing sends events
    await bury(connection, 5)
    assert (await Operator(daemon.admin_url).done("dead-letters/redrive", all=True))["done"] == 5
    await deliver(daemon, [AUTHCAPTURE], 5)
    await connection.execute("UPDATE work SET due = now() WHERE redriven_at IS NULL")
    no_room = await lease(daemon.outbox, fresh=5, rest=0)
    assert (len(no_room.fresh), no_room.rest) == (5, []), "what was redriven takes no room of what is fresh"
    redriven = "SELECT count(*) FROM events WHERE redriven_at IS NOT NULL AND id = ANY($1)"
    assert await connection.fetchval(redriven, [event.id for event in no_room.fresh]) == 0
    later = await lease(daemon.outbox, fresh=5, rest=5)
    assert (later.fresh, len(later.rest)) == ([], 5)
    assert await connection.fetchval(redriven, [event.id for event in later.rest]) == 5


async def test_the_age_of_a_redriven_event_counts_from_its_redrive(start: Start, connection: Connection) -> None:
    daemon = await start(roles="receive", admin_tokens=ANN)
    (event_id,) = await bury(connection, 1)
    await Operator(daemon.admin_url).done("dead-letters/redrive", ids=[str(event_id)])
    _, oldest, _ = await daemon.outbox.backlog()
    assert 0 < oldest < 600, "and not the three days since it was received"


async def test_an_event_that_waits_for_a_retry_is_not_overdue(start: Start, connection: Connection) -> None:
    daemon = await start(roles="receive")
    assert (await daemon.outbox.backlog())[1:] == (0, 0)
    await bury(connection, 1, status="retrying")
    await connection.execute("UPDATE work SET due = now() + interval '1 hour', since = now() - interval '2 hours'")
    _, oldest, overdue = await daemon.outbox.backlog()
    assert 7200 <= oldest < 7800
    assert overdue == 0
    await bury(connection, 1, status="queued")
    await connection.execute("UPDATE work SET since = now() - interval '1 hour' WHERE status = 'queued'")
    assert 3600 <= (await daemon.outbox.backlog())[2] < 4200, "another event waits for no retry"
    await connection.execute("UPDATE work SET due = now() WHERE status = 'retrying'")
    assert 7200 <= (await daemon.outbox.backlog())[2] < 7800, "the delay is over"


async def test_behind_ten_thousand_events_that_wait_for_retries_nothing_is_overlooked(
    start: Start, connection: Connection
) -> None:
    daemon = await start(roles="receive")
    await bury(connection, 10_000, status="retrying")
    await connection.execute("UPDATE work SET due = now() + interval '1 hour', since = now() - interval '2 hours'")
    await bury(connection, 1, status="queued")
    await connection.execute("UPDATE work SET since = now() - interval '1 hour' WHERE status = 'queued'")
    assert 3600 <= (await daemon.outbox.backlog())[2] < 7800


async def test_a_redrive_holds_back_while_fresh_events_wait(idle: Operator, connection: Connection) -> None:
    await bury(connection, 3)
    waiting = await bury(connection, 100, REFUND, status="queued")
    operation = await idle.order("dead-letters/redrive", all=True, dry_run=False, rate=100)
    assert (await idle.held(operation, "fresh events go first"))["done"] == 0
    await end_well(connection, waiting[:1])
    ended = await idle.ended(operation)
    assert (ended["state"], ended["done"], ended["held_by"]) == ("done", 3, None)


async def test_a_redrive_waits_for_what_was_put_back_before(idle: Operator, connection: Connection) -> None:
    dead = await bury(connection, 6)
    before = await bury(connection, 18, REFUND, status="received")
    redriven = "UPDATE work SET redriven_at = now(), fresh = false, attempts = 0 WHERE event_id = ANY($1)"
    await connection.execute(redriven, before)
    operation = await idle.order("dead-letters/redrive", all=True, dry_run=False, rate=2)
    held = await idle.held(operation, "events that were put back earlier still wait for an attempt")
    assert held["done"] == 2, "with those before, ten seconds of its rate"
    await end_well(connection, [*before, *dead[:2]])
    assert (await idle.ended(operation))["done"] == 6


async def test_a_redrive_keeps_its_rate_and_takes_the_oldest_death_first(idle: Operator, connection: Connection) -> None:
    dead = await bury(connection, 60)
    await idle.done("dead-letters/redrive", all=True, rate=20)
    rows = await connection.fetch("SELECT event_id, at FROM audit ORDER BY at, event_id")
    assert [row["event_id"] for row in rows] == dead
    assert (rows[-1]["at"] - rows[0]["at"]).total_seconds() >= 55 / 20 - 0.5, "a batch of five each quarter of a second"


async def test_a_limit_means_those_that_died_first(idle: Operator, connection: Connection) -> None:
    dead = await bury(connection, 5)
    for kind, expected in (("redrive", dead[:2]), ("discard", dead[2:4])):
        operation = await idle.done(f"dead-letters/{kind}", all=True, limit=2)
        assert (operation["total"], operation["done"]) == (2, 2)
        changed = "SELECT event_id FROM audit WHERE reason LIKE '%' || $1 || '%' ORDER BY event_id"
        assert [row["event_id"] for row in await connection.fetch(changed, operation["id"])] == expected


@contextlib.asynccontextmanager
async def running(
    operator: Operator, servers: Servers, *arguments: str, stdin: int
) -> AsyncIterator[asyncio.subprocess.Process]:
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("WEBHOOKD_")}
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "webhookd", "dead-letters", *arguments),
        env={**inherited, "COLUMNS": "80", **operator.environment},
        cwd=servers.folder,
        stdin=stdin,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


@pytest.mark.parametrize(("answer", "code", "done"), [(b"y\n", 0, 2), (b"n\n", 1, 0)])
async def test_it_counts_and_asks_before_it_acts_and_takes_only_what_it_counted(
    idle: Operator, servers: Servers, connection: Connection, answer: bytes, code: int, done: int
) -> None:
    await bury(connection, 2)
    ours, theirs = os.openpty()
    try:
        async with running(idle, servers, "redrive", "--all", stdin=theirs) as process, asyncio.timeout(30):
            assert process.stderr is not None
            await process.stderr.readuntil(b"redrive 2 events?")
            await bury(connection, 1, REFUND)
            os.write(ours, answer)
            await process.communicate()
    finally:
        os.close(ours)
        os.close(theirs)
    assert process.returncode == code
    assert await statuses(connection) == {"dead": 3 - done} | ({"received": done} if done else {})
    assert await connection.fetchval("SELECT count(*) FROM events WHERE status = 'dead' AND event_type = $1", REFUND) == 1


async def test_ctrl_c_leaves_the_operation_to_the_daemon_and_it_can_be_cancelled(
    idle: Operator, servers: Servers, connection: Connection
) -> None:
    await bury(connection, 40)
    arguments = ("redrive", "--all", "--yes", "--json", "--rate", "4")
    async with running(idle, servers, *arguments, stdin=asyncio.subprocess.DEVNULL) as process:
        some = "SELECT count(*) FROM events WHERE status = 'received'"
        await until(lambda: connection.fetchval(some), "the first one is redriven", deadline=30)
        process.send_signal(signal.SIGINT)
        async with asyncio.timeout(30):
            out, err = await process.communicate()
    assert process.returncode == 130, err.decode()
    operation = json.loads(out)
    assert "webhookd operations cancel" in err.decode()
    count = await connection.fetchval(some)

    async def goes_on() -> bool:
        return bool(await connection.fetchval(some) > count)

    await until(goes_on, "the daemon goes on with it")
    code, out_, err_ = await idle.command(servers, "operations", "cancel", operation["id"], "--json")
    assert (code, err_) == (0, "")
    cancelled = json.loads(out_)
    assert cancelled["state"] == "cancelled"
    assert await statuses(connection) == {"received": cancelled["done"], "dead": 40 - cancelled["done"]}
    again = await told(idle, servers, "redrive", "--all", "--yes", "--rate", "1000")
    assert again["done"] == 40 - cancelled["done"]
    assert set((await times_put_back(connection)).values()) == {1}
