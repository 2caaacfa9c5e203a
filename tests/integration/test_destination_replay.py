"""The replay of stored events to a destination: no handler runs, and each request has the event's own id."""

from __future__ import annotations

import json
import uuid
import zipfile
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from tests.conftest import Start
from tests.helpers.admin_api import ran
from tests.helpers.operator import ANN, AUTHCAPTURE, LEO, REFUND, Connection, Operator, bury
from tests.helpers.receivers import SECRET, receiving
from tests.helpers.wait import until
from tests.integration.test_destinations import destination, left, until_none_is_left
from webhookd.daemon import Daemon
from webhookd.event import Event
from webhookd.operate import runner
from webhookd.process.handlers import Registry

WAITING = "INSERT INTO webhookd.deliveries (event_id, destination) SELECT gen_random_uuid(), $1 FROM generate_series(1, $2)"
REPLAY = {"reason": "the shop lost its database", "filter": {"received_from": "2020-01-01T00:00:00Z"}}
WHEEL = Path(__file__).parents[1] / "upgrade" / "webhookd-0.3.0-py3-none-any.whl"


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Makes the looks for operations frequent."""
    monkeypatch.setattr(runner, "_IDLE", 0.05)


async def replay(daemon: Daemon, name: str = "shop", **body: Any) -> dict[str, Any]:
    return await Operator(daemon.admin_url).done(f"destinations/{name}/replay", **REPLAY | {"rate": 1000} | body)


async def test_a_replay_to_a_destination_sends_stored_events_again_and_runs_no_handler(
    start: Start, connection: Connection
) -> None:
    ran: list[uuid.UUID] = []
    registry = Registry()

    async def note(event: Event, _: Any) -> None:
        ran.append(event.id)

    registry.add("*", note)
    processed, dead = await bury(connection, 2, status="processed"), await bury(connection, 1, REFUND)
    async with receiving() as shop:
        daemon = await start(registry=registry, destinations={"shop": destination(shop.url, secrets=SECRET)}, admin_tokens=ANN)
        before = [dict(row) for row in await connection.fetch("SELECT * FROM webhookd.work ORDER BY event_id")]
        counted = await replay(daemon, dry_run=True)
        assert (counted["total"], counted["done"], shop.got) == (3, 0, [])
        done = await replay(daemon)
        assert (done["total"], done["done"], done["skipped"]) == (3, 3, 0)
        await until_none_is_left(connection)
        assert sorted(one.headers["webhook-id"] for one in shop.got) == sorted(map(str, processed + dead))
        assert {one.headers["webhookd-attempt"] for one in shop.got} == {"1"}
        assert [dict(row) for row in await connection.fetch("SELECT * FROM webhookd.work ORDER BY event_id")] == before
        assert ran == []

        await replay(daemon, filter={"event_type": [REFUND]})
        await until(lambda: len(shop.got) == 4, "one of them is sent once more")
        await until_none_is_left(connection)
        trail = [
            (change["from_status"], change["to_status"], change["actor"], change["reason"])
            for change in (await Operator(daemon.admin_url).get(f"events/{dead[0]}"))[1]["audit"]
            if change["consumer"] == "shop"
        ]
    assert [(one, other) for one, other, *_ in trail] == [
        ("unsent", "waiting"),
        ("waiting", "delivered"),
        ("delivered", "waiting"),
        ("waiting", "delivered"),
    ]
    assert trail[0][2:] == ("operator (ann)", f"replay {done['id']}: the shop lost its database")
    assert ran == []


async def test_what_a_replay_leaves_out_is_reported(start: Start, connection: Connection) -> None:
    kept = await bury(connection, 3, status="processed")
    await bury(connection, 1, status="processed", body=False)
    await bury(connection, 1, REFUND, status="processed")
    async with receiving() as shop:
        settings = destination(shop.url, event_types=AUTHCAPTURE)
        daemon = await start(destinations={"shop": settings}, admin_tokens=ANN)
        await Operator(daemon.admin_url).post("destinations/shop/pause")
        insert = "INSERT INTO webhookd.deliveries (event_id, destination, status, attempts) VALUES ($1, 'shop', $2, 20)"
        await connection.execute(insert, kept[0], "retrying")
        await connection.execute(insert, kept[1], "dead")
        counted = await replay(daemon, dry_run=True)
        assert counted["reasons"] == {
            "the delivery is dead": 1,
            "never sent": 1,
            "left out: a delivery is under way": 1,
            "left out: the body is no longer kept": 1,
            "left out: the destination's settings do not ask for the type or the account": 1,
        }
        done = await replay(daemon)
        assert (done["total"], done["done"], done["skipped"]) == (2, 2, 0)
        again = await replay(daemon)  # the first replay's deliveries are under way, so nothing is sent twice
        assert (again["total"], again["done"]) == (0, 0)
        rows = await connection.fetch("SELECT event_id, status, attempts, redriven_at FROM webhookd.deliveries")
        found = {row["event_id"]: (row["status"], row["attempts"], row["redriven_at"] is not None) for row in rows}
    assert found == {kept[0]: ("retrying", 20, False), kept[1]: ("waiting", 0, True), kept[2]: ("waiting", 0, True)}


async def test_the_condition_of_the_destination_chooses_what_is_replayed(start: Start, connection: Connection) -> None:
    events = await bury(connection, 600, status="processed")
    large = [events[0], events[-1]]
    await connection.execute(
        """UPDATE webhookd.bodies SET body = '{"payload": {"authAmount": 101}}' WHERE event_id = ANY($1)""", large
    )
    async with receiving() as shop:
        daemon = await start(destinations={"shop": destination(shop.url, filter="authAmount > `100`")}, admin_tokens=ANN)
        done = await replay(daemon)
        await until_none_is_left(connection)
    assert (done["total"], done["done"]) == (2, 2)
    assert sorted(one.headers["webhook-id"] for one in shop.got) == sorted(map(str, large))


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ("UPDATE webhookd.deliveries SET since = since", "deliveries that are due go first"),
        ("UPDATE webhookd.deliveries SET status = 'retrying', attempts = 3", "deliveries that are due go first"),
        ("INSERT INTO webhookd.paused_destinations VALUES ('shop', now(), 'ann')", "the destination is paused"),
        (
            """WITH failed AS (UPDATE webhookd.deliveries SET status = 'retrying', due = now() + interval '1 hour')
               INSERT INTO webhookd.circuits (destination, opened_at) VALUES ('shop', now())""",
            "the destination fails, and gets only probes",
        ),
    ],
)
async def test_a_replay_waits_while_deliveries_are_due_and_goes_on_afterwards(
    start: Start, connection: Connection, monkeypatch: pytest.MonkeyPatch, change: str, reason: str
) -> None:
    monkeypatch.setattr(runner, "_PAUSE", 0.1)
    await bury(connection, 12, status="processed")
    settings = {"shop": destination("http://127.0.0.1:9/hooks")}
    daemon = await start(roles="receive", destinations=settings, admin_tokens=ANN)  # nobody sends
    operator = Operator(daemon.admin_url)
    await connection.execute(WAITING, "shop", 10)
    await connection.execute(change)
    ordered = await operator.order("destinations/shop/replay", **REPLAY, dry_run=False, rate=0.5)  # 10 may be ahead
    assert (await operator.held(ordered, reason))["done"] == 0, "all of the ten count"
    await connection.execute("UPDATE webhookd.operations SET rate = 1000")
    ended = await operator.ended(ordered)
    assert (ended["state"], ended["done"], ended["held_by"]) == ("done", 12, None)


async def test_a_retry_that_is_not_due_holds_no_replay(start: Start, connection: Connection) -> None:
    await bury(connection, 3, status="processed")
    settings = {"shop": destination("http://127.0.0.1:9/hooks")}
    daemon = await start(roles="receive", destinations=settings, admin_tokens=ANN)
    await connection.execute(WAITING, "shop", 50)
    await connection.execute("UPDATE webhookd.deliveries SET status = 'retrying', due = now() + interval '1 hour'")
    assert (await replay(daemon, rate=2))["done"] == 3


async def test_a_replay_that_cannot_be_meant_is_refused(start: Start, connection: Connection) -> None:
    daemon = await start(destinations={"shop": destination("http://127.0.0.1:9/hooks")}, admin_tokens=ANN, read_tokens=LEO)
    operator, looker = Operator(daemon.admin_url), Operator(daemon.admin_url, LEO["leo"])
    assert (await looker.post("destinations/shop/replay", REPLAY))[0] == 403
    assert (await operator.post("destinations/nobody/replay", REPLAY))[0] == 404
    for chosen in ({}, {"status": ["processed"]}, {"event_type": ["*"]}):
        assert (await operator.post("destinations/shop/replay", REPLAY | {"filter": chosen}))[0] == 422, chosen
    await connection.execute("INSERT INTO webhookd.deliveries (event_id, destination) VALUES (gen_random_uuid(), 'former')")
    status, problem = await operator.post("destinations/former/replay", REPLAY)
    assert (status, "no longer set" in problem["detail"]) == (409, True)


async def test_only_a_process_that_knows_the_destination_does_its_replay(start: Start, connection: Connection) -> None:
    await bury(connection, 2, status="processed")
    async with receiving() as shop:
        knows = await start(roles="receive", destinations={"shop": destination(shop.url)}, admin_tokens=ANN)
        ordered = await Operator(knows.admin_url).order("destinations/shop/replay", **REPLAY, dry_run=False)
        await Operator(knows.admin_url).ended(ordered)
        await knows.stop()
        await connection.execute("UPDATE webhookd.operations SET finished_at = NULL, state = 'working', done = 0")
        await connection.execute("UPDATE webhookd.operations SET held_until = now() + interval '1000 years'")
        stranger = await start(admin_tokens=ANN)
        other = await Operator(stranger.admin_url).done("events/replay", filter={"invoice_number": "none"}, reason="to wait")
        assert other["total"] == 0
        holders = "SELECT holder FROM webhookd.operations WHERE id = $1"
        present = await connection.fetchval("SELECT holder FROM webhookd.operations WHERE id = $1", uuid.UUID(other["id"]))
        assert await connection.fetchval(holders, uuid.UUID(ordered["id"])) != present


async def test_the_release_before_never_takes_a_replay_to_a_destination(start: Start, connection: Connection) -> None:
    """0.3.0 knows no destinations. It would read the order as a replay that runs the handlers again."""
    text = zipfile.ZipFile(WHEEL).read("webhookd/sql/queries/operator.sql").decode()
    _, _, rest = text.partition("-- name: hold_operations(holder, seconds, limit)\n")
    take = rest.partition("-- name:")[0]
    for place, (name, kind) in enumerate((("holder", "uuid"), ("seconds", "float8"), ("limit", "integer")), 1):
        take = take.replace(f":{name}::{kind}", f":{name}").replace(f":{name}", f"${place}::{kind}")
    daemon = await start(destinations={"shop": destination("http://127.0.0.1:9/hooks")}, admin_tokens=ANN)
    operator = Operator(daemon.admin_url)
    to_shop = await operator.order("destinations/shop/replay", **REPLAY, dry_run=False)
    to_handlers = await operator.order("events/replay", reason="x", dry_run=False, filter={"invoice_number": "none"})
    await operator.ended(to_shop)
    await operator.ended(to_handlers)
    await daemon.stop()
    for until_then in ("held_until", "held_until - interval '1 day'"):  # as it stands, and long after its holder has died
        await connection.execute(f"UPDATE webhookd.operations SET finished_at = NULL, held_until = {until_then}")
        taken = await connection.fetch(take, uuid.uuid4(), 30.0, 16)
        assert uuid.UUID(to_shop["id"]) not in {row["id"] for row in taken}
    assert {row["id"] for row in taken} == {uuid.UUID(to_handlers["id"])}


async def test_the_command_counts_asks_for_a_reason_and_shows_the_result(start: Start, connection: Connection) -> None:
    await bury(connection, 2, status="processed")
    async with receiving() as shop:
        shop.answer = lambda _: web.Response()
        daemon = await start(destinations={"shop": destination(shop.url)}, admin_tokens=ANN)

        async def command(*arguments: str) -> Any:
            return await ran(daemon.admin_url, "destinations", "replay", *arguments, token=ANN["ann"])

        refused = await command("shop", "--since", "30d")
        assert (refused.code, "--note: give the reason" in refused.err) == (2, True)
        refused = await command("shop", "--status", "processed", "--note", "x")
        assert (refused.code, "choose the events by a filter" in refused.err) == (2, True)
        counted = await command("shop", "--since", "30d", "--dry-run")
        assert "replay would send 2 events to shop; nothing was sent" in counted.out
        done = await command("shop", "--since", "30d", "--yes", "--note", "lost", "--json")
        (line,) = [line for line in done.out.splitlines() if line.startswith("{")]
        assert json.loads(line)["selection"]["destination"] == "shop"
        await until_none_is_left(connection)
        assert await left(connection) == 0
        await connection.execute("DELETE FROM webhookd.bodies WHERE event_id = (SELECT event_id FROM webhookd.bodies LIMIT 1)")
        said = await command("shop", "--since", "30d", "--yes", "--note", "lost")
        assert "1 event is on its way to shop" in said.out
        assert "left out: the body is no longer kept" in said.out
        await until(lambda: len(shop.got) == 3, "one was sent twice")
        listed = await ran(daemon.admin_url, "operations", "list", token=ANN["ann"])
        assert "replay to shop (dry run)" in listed.out
