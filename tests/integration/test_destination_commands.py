"""An operator's work with destinations, by the command line and the API: list, show, test, redrive, drop, pause, resume."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import sys
import uuid
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from tests.conftest import Servers, Start, settings_of
from tests.helpers.admin_api import ran
from tests.helpers.guide import GUIDE, blocks
from tests.helpers.npm import node_modules
from tests.helpers.operator import ANN, LEO, Connection, Operator
from tests.helpers.receivers import OTHER_SECRET, SECRET, receiving
from tests.helpers.running import KEY
from tests.helpers.wait import until
from tests.integration.test_destinations import CUSTOMER, destination, left, metric, send, until_none_is_left
from webhookd.authorizenet import sampling
from webhookd.authorizenet.signature import Verifier
from webhookd.daemon import Daemon
from webhookd.dev.servers import free_port
from webhookd.doctor.destinations import examine_destinations
from webhookd.doctor.finding import Verdict

EU_KEY = "E0" * 64


async def command(daemon: Daemon, *arguments: str, code: int = 0) -> str:
    """Runs `webhookd destinations …`, and returns its output."""
    found = await ran(daemon.admin_url, "destinations", *arguments, token=ANN["ann"])
    assert found.code == code, found.out + found.err
    return found.out + found.err


async def list_json(daemon: Daemon) -> list[dict[str, Any]]:
    printed = await command(daemon, "list", "--json")
    (line,) = [line for line in printed.splitlines() if line.startswith("{")]  # the daemon logs in this process, too
    found: list[dict[str, Any]] = json.loads(line)["destinations"]
    return found


async def dead_letter(daemon: Daemon, connection: Connection, *numbers: int) -> list[str]:
    """Sends events that the destination refuses for good; returns their ids."""
    await send(daemon, *(sampling.sample(CUSTOMER, number) for number in numbers))

    async def all_dead() -> bool:
        return await left(connection, "dead") == len(numbers)

    await until(all_dead, "all are dead", deadline=30)
    rows = await connection.fetch("SELECT event_id FROM webhookd.deliveries ORDER BY event_id")
    return [str(row["event_id"]) for row in rows]


async def test_dead_deliveries_are_seen_redriven_and_dropped(start: Start, connection: Connection) -> None:
    async with receiving() as shop:
        shop.answer = lambda _: web.Response(status=410, text="closed")
        daemon = await start(destinations={"shop": destination(shop.url, secrets=SECRET)}, admin_tokens=ANN, read_tokens=LEO)
        first, second, third = await dead_letter(daemon, connection, 1, 2, 3)
        listed = await list_json(daemon)
        (row,) = listed
        assert (row["name"], row["state"], row["dead"], row["waiting"]) == ("shop", "active", 3, 0)
        assert row["place"] == shop.url.removesuffix("/hooks")
        shown = await command(daemon, "show", "shop")
        assert first in shown
        assert "HTTP status 410" in shown
        assert SECRET not in shown
        assert "/hooks" not in shown
        _, event = await Operator(daemon.admin_url).get(f"events/{first}")
        consumers = {one["name"]: one for one in event["consumers"]}
        assert consumers["shop"]["status"] == "dead"
        assert consumers["shop"]["last_answer"] == "closed"
        assert consumers["handlers"]["status"] == event["status"] != "dead"
        (failure,) = event["failed_attempts"]
        assert (failure["consumer"], failure["attempt"]) == ("shop", 1)
        event_shown = (await ran(daemon.admin_url, "events", "show", first, token=ANN["ann"])).out
        failed = event_shown[event_shown.index("failed at") :].splitlines()[2]  # the row below the head and its line
        assert "shop" in failed
        assert "HTTP status 410" in failed

        status, _ = await Operator(daemon.admin_url, LEO["leo"]).post("destinations/shop/redrive", {"all": True})
        assert status == 403
        shop.answer = lambda _: web.Response()
        assert "redriven: 1 delivery of shop" in await command(daemon, "redrive", "shop", first, "--note", "open again")
        await until(lambda: asyncio.ensure_future(_left_are(connection, 2)), "one is delivered")
        assert "dropped: 1 delivery of shop" in await command(daemon, "drop", "shop", second, "--yes")
        assert "redriven: 1 delivery of shop" in await command(daemon, "redrive", "shop", "--all")
        await until_none_is_left(connection)
        _, event = await Operator(daemon.admin_url).get(f"events/{second}")
        assert {one["name"]: one["status"] for one in event["consumers"]}["shop"] == "dropped"
        trail = [(c["to_status"], c["actor"], c["reason"]) for c in event["audit"] if c["consumer"] == "shop"]
        assert trail[-1] == ("dropped", "operator (ann)", None)
        _, event = await Operator(daemon.admin_url).get(f"events/{third}")
        assert {one["name"]: one["status"] for one in event["consumers"]}["shop"] == "delivered"


async def _left_are(connection: Connection, number: int) -> bool:
    return await left(connection) == number


async def test_a_pause_holds_on_every_replica_and_counts_no_attempt(start: Start, connection: Connection) -> None:
    async with receiving() as shop, receiving() as other:
        settings = {"shop": destination(shop.url), "other": destination(other.url)}
        one = await start(destinations=settings, admin_tokens=ANN)
        await start(destinations=settings, admin_tokens=ANN)
        assert "shop: paused" in await command(one, "pause", "shop")
        await send(one, *(sampling.sample(CUSTOMER, number) for number in range(3)))
        await until(lambda: len(other.got) == 3, "the other destination goes on", deadline=30)
        rows = await connection.fetch("SELECT attempts, sends FROM webhookd.deliveries WHERE destination = 'shop'")
        assert [tuple(row) for row in rows] == [(0, 0)] * 3
        assert shop.got == []
        assert "by operator (ann)" in await command(one, "list")
        assert "shop: active; 0 retries are due now" in await command(one, "resume", "shop")
        await until_none_is_left(connection)
        assert "there is no destination nobody" in await command(one, "resume", "nobody", code=3)
    assert len(shop.got) == 3


async def test_the_log_names_the_operator_who_pauses_resumes_or_tests_a_destination(
    start: Start, capsys: pytest.CaptureFixture[str]
) -> None:
    async with receiving() as shop:
        daemon = await start(destinations={"shop": destination(shop.url)}, admin_tokens=ANN)
        for action in ("pause", "resume", "test"):
            await Operator(daemon.admin_url).post(f"destinations/shop/{action}")
    log = capsys.readouterr().out
    for said in ("an operator paused a destination", "an operator resumed a destination", "an operator sent a test event"):
        (line,) = [line for line in log.splitlines() if said in line]
        assert "shop" in line
        assert "operator (ann)" in line


async def test_after_a_repair_a_resume_has_all_retries_due_now(
    start: Start, connection: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with receiving() as shop:
        shop.answer = lambda _: web.Response(status=401)
        daemon = await start(destinations={"shop": destination(shop.url), "other": destination(shop.url)}, admin_tokens=ANN)
        await send(daemon, *(sampling.sample(CUSTOMER, number) for number in range(5)))

        async def all_failed() -> bool:
            return await left(connection, "retrying") == 10

        await until(all_failed, "each delivery has failed", deadline=30)
        later = "now() + make_interval(hours => 9)"
        await connection.execute(f"UPDATE webhookd.deliveries SET due = {later}, attempts = 15, sends = 0")
        got = len(shop.got)
        shop.answer = lambda _: web.Response()
        assert "shop: active; 5 retries are due now" in await command(daemon, "resume", "shop")
        await until(lambda: len(shop.got) == got + 5, "the retries come at once", deadline=30)
        rows = await connection.fetch("SELECT destination, due > now() + make_interval(hours => 8) FROM webhookd.deliveries")
        assert {tuple(row) for row in rows if row[0] == "other"} == {("other", True)}, "other destinations keep their times"
        monkeypatch.setattr("webhookd.operate.destinations._MOST_HASTENED", 2)
        said = "other: active; 2 retries are due now; more are due later: run the command again when these are over"
        assert said in " ".join((await command(daemon, "resume", "other")).split())


async def test_a_removed_destination_is_listed_until_its_deliveries_are_dropped(start: Start, connection: Connection) -> None:
    async with receiving() as shop:
        daemon = await start(roles="receive", destinations={"shop": destination(shop.url)}, admin_tokens=ANN)
        await send(daemon, sampling.sample(CUSTOMER, 1))
    after = await start(admin_tokens=ANN)
    (row,) = await list_json(after)
    assert (row["name"], row["state"], row["waiting"], row["place"]) == ("shop", "removed", 1, None)
    assert "no longer set" in await command(after, "test", "shop", code=1)
    assert "no longer set" in await command(after, "redrive", "shop", "--all", code=1)
    assert "dropped: 0 deliveries" in await command(after, "drop", "shop", "--all", "--yes")
    assert "dropped: 1 delivery" in await command(after, "drop", "shop", "--all", "--unfinished", "--yes")
    assert "no destination is set" in await command(after, "list")
    assert "there is no destination shop" in await command(after, "show", "shop", code=3)


async def test_a_test_event_is_marked_signed_and_stored_nowhere(start: Start, connection: Connection) -> None:
    async with receiving() as shop:
        daemon = await start(destinations={"shop": destination(shop.url, secrets=SECRET)}, admin_tokens=ANN)
        assert "shop: accepted: HTTP status 204" in await command(daemon, "test", "shop")
        shop.answer = lambda _: web.Response(status=500, text="broken")
        assert "answer: broken" in await command(daemon, "test", "shop", code=1)
        assert "there is no destination nobody" in await command(daemon, "test", "nobody", code=3)
    assert [one.headers["webhookd-origin"] for one in shop.got] == ["test", "test"]
    assert json.loads(shop.got[0].body)["eventType"] == "webhookd.test"
    assert "webhook-signature" in shop.got[0].headers
    assert await connection.fetchval("SELECT count(*) FROM webhookd.ledger") == 0


async def test_a_test_event_is_of_an_account_whose_events_the_destination_gets(start: Start) -> None:
    async with receiving() as shop, receiving() as every:
        daemon = await start(
            accounts={"eu": {"signature_keys": EU_KEY}, "us": {"signature_keys": "F0" * 64}},
            destinations={"shop": destination(shop.url, accounts="eu"), "every": destination(every.url)},
            admin_tokens=ANN,
        )
        await command(daemon, "test", "shop")
        await command(daemon, "test", "every")
    for got, account, key in ((shop.got[0], "eu", EU_KEY), (every.got[0], "default", KEY)):
        assert got.headers["webhookd-account"] == account
        Verifier([key]).verify(got.body, got.headers["X-ANET-Signature"])


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("redrive", "shop"), "give ids of events, or --all"),
        (("drop", "shop", "--all"), "give --yes"),
        (("redrive", "shop", "--all", "00000000-0000-0000-0000-000000000000"), "give ids of events, or --all"),
    ],
)
async def test_an_order_that_could_not_be_meant_is_refused(start: Start, arguments: tuple[str, ...], said: str) -> None:
    daemon = await start(admin_tokens=ANN)
    assert said in await command(daemon, *arguments, code=2)


@pytest.mark.parametrize(
    ("settings", "verdict", "said"),
    [
        ({"url": "https://localhost/x"}, Verdict.FAILED, "leads to 127.0.0.1"),
        ({"url": "https://localhost/x", "allow_private": True}, Verdict.OK, "signed by the Signature Key"),
        ({"url": "https://localhost/x", "allow_private": True, "event_types": "net.x"}, Verdict.WARNING, "no known event type"),
        ({"url": "sqs://orders", "allow_private": True}, Verdict.OK, "only a test event shows whether AWS takes its events"),
        ({"url": "sqs://orders", "allow_private": True, "event_types": "net.x"}, Verdict.WARNING, "no known event type"),
        ({"url": "https://no-such-host.invalid/"}, Verdict.FAILED, "cannot be resolved"),
        ({"url": "https://localhost/", "ca_file": "none.pem"}, Verdict.FAILED, "__CA_FILE: none.pem cannot be used"),
    ],
)
async def test_the_doctor_examines_each_destination(
    servers: Servers, settings: dict[str, Any], verdict: Verdict, said: str
) -> None:
    (found,) = await examine_destinations(settings_of(servers.settings, destinations={"shop": settings}))
    assert found.verdict is verdict, found
    assert said in found.detail


async def test_the_doctor_warns_if_every_role_is_set_but_the_one_that_sends(servers: Servers) -> None:
    for roles, warned in (("receive,relay,work", 1), ("receive", 0), ("receive,relay,work,deliver", 0)):
        shop = destination("http://127.0.0.1:9/hooks", secrets=SECRET)
        findings = await examine_destinations(settings_of(servers.settings, destinations={"shop": shop}, roles=roles))
        told = [found for found in findings if found.check == "role deliver" and found.verdict is Verdict.WARNING]
        assert len(told) == warned, roles


async def test_a_process_that_does_not_send_shows_what_waits(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("webhookd.deliver.role._MEASURE", 0.2)
    daemon = await start(roles="receive,relay,work", destinations={"shop": destination("http://127.0.0.1:9/hooks")})
    await send(daemon, sampling.sample(CUSTOMER, 1))
    await until(lambda: metric(daemon, "webhookd_deliveries_waiting", destination="shop") == 1, "the gauge counts it")


@pytest.mark.skipif(shutil.which("npm") is None, reason="no npm")
async def test_the_public_library_for_node_verifies_what_a_destination_gets(start: Start) -> None:
    package = Path(__file__).parents[1] / "helpers" / "standardwebhooks"
    modules = await asyncio.to_thread(node_modules, package)
    async with receiving() as shop:
        daemon = await start(destinations={"shop": destination(shop.url, secrets=f"{OTHER_SECRET},{SECRET}")})
        await send(daemon, sampling.sample(CUSTOMER, 1))
        await until(lambda: shop.got, "it is delivered")
    (got,) = shop.got
    for body, verified in ((got.body.decode(), True), (got.body.decode() + " ", False)):
        node = await asyncio.create_subprocess_exec(
            "node", str(package / "verify.cjs"), str(modules), stdin=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
        )
        given = json.dumps({"secret": SECRET, "headers": got.headers, "body": body})
        _, said = await node.communicate(given.encode())
        assert (node.returncode == 0) is verified, said.decode()


async def test_the_guides_receiver_verifies_and_takes_each_event_once(
    start: Start, connection: Connection, tmp_path: Path
) -> None:
    (program,) = blocks((GUIDE / "receivers.md").read_text(), "python")
    (tmp_path / "shop.py").write_text(program)
    port = free_port(0)
    environment = {
        **os.environ,
        "SHOP_SECRET": SECRET,
        "SHOP_DATABASE": str(tmp_path / "orders.db"),
        "SHOP_PORT": str(port),
    }
    shop = await asyncio.create_subprocess_exec(sys.executable, str(tmp_path / "shop.py"), env=environment)
    try:
        daemon = await start(
            destinations={"shop": destination(f"http://127.0.0.1:{port}/hooks", secrets=SECRET)}, admin_tokens=ANN
        )

        async def accepted() -> bool:
            _, tested = await Operator(daemon.admin_url).post("destinations/shop/test")
            return bool(tested["accepted"])

        await until(accepted, "the receiver answers", deadline=60)
        samples = [sampling.sample(CUSTOMER, number) for number in range(20)]
        await send(daemon, *samples)
        await until_none_is_left(connection)
        await connection.execute(
            "INSERT INTO webhookd.deliveries (event_id, destination) SELECT id, 'shop' FROM webhookd.ledger"
        )
        await until_none_is_left(connection)
    finally:
        shop.terminate()
        await shop.wait()
    import sqlite3

    orders = sqlite3.connect(tmp_path / "orders.db")
    stored = {bytes(body) for (body,) in orders.execute("SELECT body FROM events") if b"webhookd.test" not in body}
    orders.close()
    assert stored == {sample.body for sample in samples}, "each event once, also those that were delivered twice"


async def test_the_api_reports_the_oldest_deliveries_and_what_all_replicas_sent_in_the_last_hour(
    start: Start, connection: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("webhookd.operate.statistics._EVERY", 0.1)
    async with receiving() as shop:
        settings = {"shop": destination(shop.url, concurrency=1)}
        one = await start(destinations=settings, admin_tokens=ANN)
        other = await start(destinations=settings, admin_tokens=ANN, roles="receive")
        await send(one, *(sampling.sample(CUSTOMER, number) for number in range(3)))
        await until_none_is_left(connection)
        shop.answer = lambda _: web.Response(status=410)
        await dead_letter(one, connection, 4, 5)
        death = "UPDATE webhookd.deliveries SET due = '2026-01-31T12:00:00Z' WHERE event_id = $1"
        await connection.execute(death, uuid.UUID(shop.ids[-1]))
        waits = """INSERT INTO webhookd.deliveries (event_id, destination, since, due)
                   VALUES (gen_random_uuid(), 'former', $1::text::timestamptz, now())"""
        for since in ("2026-01-31T13:00:00Z", "2026-01-31T12:30:00Z"):
            await connection.execute(waits, since)
        # The waits between attempts grow, so the oldest retry is due last.
        await connection.execute(
            """INSERT INTO webhookd.deliveries (event_id, destination, status, since, due)
               SELECT gen_random_uuid(), 'former', 'retrying', '2026-01-30T12:00:00Z'::timestamptz + n * interval '1 second',
                   now() + (2000 - n) * interval '1 second'
               FROM generate_series(0, 1500) AS n"""
        )

        async def counted() -> Any:
            _, found = await Operator(other.admin_url).get("destinations")
            rows = {row["name"]: row for row in found["destinations"]}
            return rows if rows["shop"]["last_hour"]["failed"] == 2 else None

        rows = await until(counted, "the counts are recorded")
        _, stats = await Operator(other.admin_url).get("stats")
    hour = rows["shop"]["last_hour"]
    assert (hour["delivered"], hour["failed"], hour["died"]) == (3, 2, 2)
    assert hour["per_second"] == round(3 / 3600, 4)
    assert 0 < hour["attempt"]["p50"] <= hour["attempt"]["p99"]
    assert 0 < hour["latency"]["p50"] <= hour["latency"]["p99"]
    assert rows["shop"]["oldest"] == {"waiting": None, "retrying": None, "dead": "2026-01-31T12:00:00Z"}
    assert rows["former"]["oldest"]["waiting"] == "2026-01-31T12:30:00Z"
    assert rows["former"]["oldest"]["retrying"] == "2026-01-30T12:00:00Z"
    assert rows["former"]["last_hour"]["latency"] == {"p50": None, "p99": None}
    assert stats["now"]["destinations"] == [
        {"name": "former", "waiting": 2, "retrying": 1501, "dead": 0, "opened_at": None},
        {"name": "shop", "waiting": 0, "retrying": 0, "dead": 2, "opened_at": None},
    ]
