"""Destinations over real sockets: who gets an event, the request, the meaning of answers, and independence."""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
import statistics
from pathlib import Path
from typing import Any, TypeAlias

import asyncpg
import pytest
from aiohttp import web

from tests.conftest import Servers, Start
from tests.helpers.authority import Authority
from tests.helpers.receivers import OTHER_SECRET, SECRET, Got, raw, receiving
from tests.helpers.running import KEY, Process
from tests.helpers.wait import until
from webhookd.authorizenet import sampling
from webhookd.authorizenet.signature import Verifier, sign
from webhookd.daemon import Daemon
from webhookd.deliver import answers, role
from webhookd.dev import traffic
from webhookd.errors import SettingsError
from webhookd.event import Event
from webhookd.process.handlers import Registry

Connection: TypeAlias = "asyncpg.Connection[asyncpg.Record]"
AUTHCAPTURE = "net.authorize.payment.authcapture.created"
CUSTOMER = "net.authorize.customer.created"


def destination(url: str, **settings: Any) -> dict[str, Any]:
    return {"url": url, "allow_private": True, **settings}


async def send(daemon: Daemon, *samples: sampling.Sample) -> list[float]:
    """Sends webhooks, and returns the seconds until each answer."""
    summary = await traffic.send(list(samples), f"{daemon.public_url}/webhooks/authorize-net", KEY)
    assert summary.failed == 0
    return summary.latencies


async def left(connection: Connection, status: str | None = None) -> int:
    query = "SELECT count(*) FROM webhookd.deliveries WHERE $1::text IS NULL OR status = $1"
    return int(await connection.fetchval(query, status))


async def until_none_is_left(connection: Connection) -> None:
    async def none_left() -> bool:
        return await left(connection) == 0

    await until(none_left, "every delivery has ended", deadline=30)


async def delivery(connection: Connection, condition: str) -> asyncpg.Record:
    """Waits until one delivery meets the condition, and returns the delivery."""
    query = f"SELECT * FROM webhookd.deliveries WHERE {condition}"
    row: asyncpg.Record = await until(lambda: connection.fetchrow(query), condition, deadline=30)
    return row


def metric(daemon: Daemon, name: str, **labels: str) -> float:
    return daemon.metrics.registry.get_sample_value(name, labels) or 0.0


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Makes the delays between attempts short."""
    monkeypatch.setattr(answers, "_BASE", 0.05)
    monkeypatch.setattr(answers, "_CAP", 0.2)


async def test_an_event_reaches_its_destination_byte_for_byte_and_signed(start: Start, connection: Connection) -> None:
    async with receiving() as shop:
        daemon = await start(
            destinations={"shop": destination(shop.url, secrets=f"{SECRET},{OTHER_SECRET}", headers="X-Shop: 7")}
        )
        sent = sampling.sample(AUTHCAPTURE, 1)
        await send(daemon, sent)
        await until(lambda: shop.got, "the destination gets the event")
        await until_none_is_left(connection)
    (got,) = shop.got
    assert got.body == sent.body
    row = await connection.fetchrow("SELECT * FROM webhookd.events")
    assert row is not None
    expected = {
        "webhook-id": str(row["id"]),
        "webhookd-account": "default",
        "webhookd-event-type": AUTHCAPTURE,
        "webhookd-received-at": f"{row['received_at'].isoformat().removesuffix('+00:00')}Z",
        "webhookd-attempt": "1",
        "webhookd-origin": "webhook",
        "Content-Type": "application/json",
        "X-Shop": "7",
    }
    assert {name: got.headers[name] for name in expected} == expected
    assert len(got.headers["webhook-signature"].split(" ")) == 2
    Verifier([KEY]).verify(got.body, got.headers["X-ANET-Signature"])  # as a receiver of Authorize.Net does
    trail = await daemon.store.audit_trail(row["id"])
    assert [(t["from_status"], t["to_status"], t["attempt"]) for t in trail if t["consumer"] == "shop"] == [
        ("waiting", "delivered", 1)
    ]
    await until(lambda: metric(daemon, "webhookd_deliveries_total", destination="shop", outcome="delivered") == 1, "it counts")


async def test_the_event_is_processed_whatever_its_destination_does(start: Start, connection: Connection) -> None:
    async with receiving() as shop:
        shop.answer = lambda _: web.Response(status=500)
        daemon = await start(destinations={"shop": destination(shop.url)})
        await send(daemon, sampling.sample(CUSTOMER, 1))
        await delivery(connection, "status = 'retrying'")
        processed = "SELECT status = 'processed' AND attempts = 1 FROM webhookd.events"
        await until(lambda: connection.fetchval(processed), "the event is processed")


async def test_each_destination_gets_the_events_that_it_asks_for(start: Start, connection: Connection) -> None:
    async with receiving() as payments, receiving() as eu, receiving() as large, receiving() as every:
        daemon = await start(
            accounts={"eu": {"signature_keys": "E0" * 64}},
            destinations={
                "payments": destination(payments.url, event_types="net.authorize.payment.*"),
                "eu": destination(eu.url, accounts="eu"),
                "large": destination(large.url, filter="authAmount > `100`"),
                "every": destination(every.url),
            },
        )
        small, big = (body_of({"id": str(number), "authAmount": amount}, number) for number, amount in ((1, 99.5), (2, 100.01)))
        for body in (small, big):
            await post(daemon, body)
        await send(daemon, sampling.sample(CUSTOMER, 3))
        european = body_of({"id": "4", "authAmount": 1}, 4)
        await post(daemon, european, account="eu", key="E0" * 64)
        await until(lambda: len(every.got) == 4, "one destination gets all events")
        await until_none_is_left(connection)
    assert {one.body for one in payments.got} == {small, big, european}
    assert [one.headers["webhookd-account"] for one in eu.got] == ["eu"]
    Verifier(["E0" * 64]).verify(eu.got[0].body, eu.got[0].headers["X-ANET-Signature"])
    assert [one.body for one in large.got] == [big]


def body_of(payload: dict[str, Any], number: int) -> bytes:
    date = sampling.sample(AUTHCAPTURE, 1).body
    event_date = json.loads(date)["eventDate"]
    notification = {"notificationId": f"n-{number}", "eventType": AUTHCAPTURE, "eventDate": event_date, "payload": payload}
    return json.dumps(notification).encode()


async def post(daemon: Daemon, body: bytes, account: str = "", key: str = KEY) -> None:
    import aiohttp

    url = f"{daemon.public_url}/webhooks/authorize-net{account and f'/{account}'}"
    async with aiohttp.ClientSession() as http, http.post(url, data=body, headers={"X-ANET-Signature": sign(body, key)}) as got:
        assert got.status == 200, await got.text()


async def test_a_duplicate_makes_no_delivery(start: Start, connection: Connection) -> None:
    async with receiving() as shop:
        daemon = await start(destinations={"shop": destination(shop.url)})
        sent = sampling.sample(AUTHCAPTURE, 1)
        await send(daemon, sent)
        await until_none_is_left(connection)
        await send(daemon, sent, sampling.sample(CUSTOMER, 2))
        await until(lambda: len(shop.got) >= 2, "the other event is delivered")
        await until_none_is_left(connection)
    assert [one.body for one in shop.got].count(sent.body) == 1


async def test_a_failure_is_tried_again_with_the_same_id_and_then_ends(
    start: Start, connection: Connection, quick: None
) -> None:
    async with receiving() as shop:
        shop.answer = lambda _: web.Response(status=500 if len(shop.got) < 3 else 200)
        daemon = await start(destinations={"shop": destination(shop.url)})
        await send(daemon, sampling.sample(AUTHCAPTURE, 1))
        await until(lambda: len(shop.got) == 3, "it is tried three times")
        await until_none_is_left(connection)
    assert len(set(shop.ids)) == 1
    assert [one.headers["webhookd-attempt"] for one in shop.got] == ["1", "2", "3"]
    trail = await connection.fetch(
        "SELECT from_status, to_status, attempt FROM webhookd.audit WHERE consumer = 'shop' ORDER BY at"
    )
    assert [tuple(row) for row in trail] == [
        ("waiting", "retrying", 1),
        ("retrying", "retrying", 2),
        ("retrying", "delivered", 3),
    ]


@pytest.mark.parametrize(
    ("status", "settings"),
    [(410, {}), (422, {"give_up_on": "404,422"}), (500, {"max_attempts": 1})],
    ids=["410", "422", "spent"],
)
async def test_a_final_refusal_makes_the_delivery_dead_until_it_is_redriven(
    start: Start, connection: Connection, status: int, settings: dict[str, Any]
) -> None:
    async with receiving() as shop:
        shop.answer = lambda _: web.Response(status=status, text="we are closed")
        daemon = await start(destinations={"shop": destination(shop.url, **settings)})
        await send(daemon, sampling.sample(AUTHCAPTURE, 1))
        row = await delivery(connection, "status = 'dead'")
        assert (row["attempts"], row["last_status"], row["last_answer"]) == (1, status, "we are closed")
        assert row["last_error"].startswith(f"HTTP status {status} (after ")
        await until(lambda: metric(daemon, "webhookd_deliveries_total", destination="shop", outcome="dead") == 1, "it counts")
        shop.answer = lambda _: web.Response()
        assert await connection.fetchval("SELECT status FROM webhookd.events") != "dead", "handlers are another consumer"


async def test_a_redirect_is_a_failure_and_is_not_followed(start: Start, connection: Connection) -> None:
    async with receiving() as shop, receiving() as other:
        shop.answer = lambda _: web.Response(status=307, headers={"Location": other.url})
        daemon = await start(destinations={"shop": destination(shop.url)})
        await send(daemon, sampling.sample(AUTHCAPTURE, 1))
        row = await delivery(connection, "status = 'retrying'")
    assert row["last_status"] == 307
    assert other.got == []


async def test_retry_after_is_kept_to_twelve_hours(start: Start, connection: Connection) -> None:
    async with receiving() as shop:
        asked = iter(("3600", "999999"))
        shop.answer = lambda _: web.Response(status=503, headers={"Retry-After": next(asked)})
        daemon = await start(destinations={"shop": destination(shop.url)})
        await send(daemon, sampling.sample(AUTHCAPTURE, 1))
        await delivery(connection, "status = 'retrying'")
        wait = "SELECT extract(epoch FROM due - now())::float8 FROM webhookd.deliveries"
        assert 3500 < await connection.fetchval(wait) <= 3600
        await connection.execute("UPDATE webhookd.deliveries SET due = now()")
        await delivery(connection, "attempts = 2")
        assert 43_000 < await connection.fetchval(wait) <= 43_200


async def test_of_ten_destinations_one_hangs_and_nobody_else_waits(start: Start, connection: Connection) -> None:
    held = asyncio.Event()

    async def hang(_: Got) -> web.StreamResponse:
        await held.wait()
        return web.Response()

    async with contextlib.AsyncExitStack() as stack:
        shops = [await stack.enter_async_context(receiving()) for _ in range(10)]
        daemon = await start(
            destinations={f"shop{n}": destination(shop.url, concurrency=2, timeout=120) for n, shop in enumerate(shops)}
        )
        shops[0].answer = lambda _: web.Response()
        before = await send(daemon, *(sampling.sample(CUSTOMER, number) for number in range(100, 120)))
        await until(lambda: all(len(shop.got) == 20 for shop in shops), "all ten have all events", deadline=60)
        await until_none_is_left(connection)
        for shop in shops:
            shop.got.clear()
        shops[0].answer = hang
        during = await send(daemon, *(sampling.sample(CUSTOMER, number) for number in range(20)))
        assert statistics.median(during) < 5 * statistics.median(before) + 0.5, "the receiver does not wait"
        await until(lambda: all(len(shop.got) == 20 for shop in shops[1:]), "nine have all events", deadline=60)
        others = "SELECT count(*) FROM webhookd.audit WHERE consumer <> 'shop0' AND attempt > 1"
        assert await connection.fetchval(others) == 0, "each at the first attempt"
        processed = "SELECT count(*) = 40 FROM webhookd.events WHERE status = 'processed' AND attempts = 1"
        await until(lambda: connection.fetchval(processed), "the handlers are done", deadline=60)
        assert len(shops[0].got) == 2, "no more than its concurrency"
        assert all(shop.most_at_once <= 2 for shop in shops)
        taken = "SELECT count(*) FROM webhookd.deliveries WHERE destination = 'shop0' AND sends > 0"
        assert await connection.fetchval(taken) == 2, "what waits for a place is taken by nobody, and spends no time"
        held.set()
        await until(lambda: len(shops[0].got) == 20, "the tenth goes on", deadline=60)
        await until_none_is_left(connection)


async def test_two_replicas_deliver_each_event_once(start: Start, connection: Connection) -> None:
    async with receiving() as shop:
        one = await start(destinations={"shop": destination(shop.url)})
        await start(destinations={"shop": destination(shop.url)})
        await send(one, *(sampling.sample(CUSTOMER, number) for number in range(60)))
        await until(lambda: len(shop.got) >= 60, "all are delivered", deadline=60)
        await until_none_is_left(connection)
    assert len(shop.ids) == len(set(shop.ids)) == 60


async def test_without_sqs_and_redis_events_are_delivered(start: Start, connection: Connection) -> None:
    async with receiving() as shop:
        daemon = await start(
            destinations={"shop": destination(shop.url)},
            sqs_endpoint_url="http://127.0.0.1:1",
            redis_url="redis://127.0.0.1:1",
        )
        await send(daemon, *(sampling.sample(CUSTOMER, number) for number in range(3)))
        await until(lambda: len(shop.got) == 3, "all are delivered", deadline=30)
        await until_none_is_left(connection)


async def test_another_process_delivers_what_this_one_received(start: Start, connection: Connection) -> None:
    async with receiving() as shop:
        settings = {"shop": destination(shop.url)}
        receiver = await start(roles="receive", destinations=settings)
        await send(receiver, sampling.sample(CUSTOMER, 1))
        assert await left(connection, "waiting") == 1
        await start(roles="deliver", destinations=settings)
        await until_none_is_left(connection)
    assert len(shop.got) == 1


async def test_an_event_released_from_quarantine_is_delivered(start: Start, connection: Connection) -> None:
    async with receiving() as shop:
        daemon = await start(destinations={"shop": destination(shop.url)})
        from webhookd.operate.operator_queries import OperatorQueries
        from webhookd.operate.quarantine import Quarantine

        body = b'{"notificationId":"late","eventType":"%s","eventDate":"2019-01-31T14:38:42Z","payload":{"id":"1"}}'
        await post(daemon, body % AUTHCAPTURE.encode())
        body_id = await connection.fetchval("SELECT id FROM webhookd.quarantine")
        quarantine = Quarantine(OperatorQueries(daemon.database), daemon.receipts)
        released = await quarantine.release(body_id, actor="a test", note="")
        await until(lambda: shop.got, "it is delivered")
    assert shop.ids == [str(released.event_id)]


async def test_a_destination_that_is_removed_keeps_its_deliveries_until_it_comes_back(
    start: Start, connection: Connection
) -> None:
    async with receiving() as shop, receiving() as other:
        shop.answer = lambda _: web.Response(status=500)
        settings = {"shop": destination(shop.url), "other": destination(other.url)}
        daemon = await start(destinations=settings)
        await send(daemon, sampling.sample(CUSTOMER, 1))
        await delivery(connection, "destination = 'shop' AND status = 'retrying'")
        await daemon.renew(settings_with(daemon, {"other": settings["other"]}))
        await send(daemon, sampling.sample(CUSTOMER, 2))
        await until(lambda: len(other.got) == 2, "the other destination goes on")
        await connection.execute("UPDATE webhookd.deliveries SET due = now()")
        kept = "SELECT count(*) FROM webhookd.deliveries WHERE destination = 'shop'"
        assert await connection.fetchval(kept) == 1, "a removed destination gets no new event, and loses none"
        tried = len(shop.got)
        shop.answer = lambda _: web.Response()
        await daemon.renew(settings_with(daemon, settings))
        await until_none_is_left(connection)
    assert len(shop.got) == tried + 1


async def test_a_reload_does_not_wait_for_a_destination_that_hangs(start: Start) -> None:
    async def hang(_: Got) -> web.Response:
        await asyncio.sleep(60)
        return web.Response()

    async with receiving() as shop, receiving() as other:
        shop.answer = hang
        daemon = await start(destinations={"shop": destination(shop.url)})
        await send(daemon, sampling.sample(CUSTOMER, 1))
        await until(lambda: shop.got, "the destination hangs")
        async with asyncio.timeout(3):
            await daemon.renew(settings_with(daemon, {"shop": destination(other.url)}))
        await send(daemon, sampling.sample(CUSTOMER, 2))
        await until(lambda: other.got, "the new address gets events meanwhile")


async def test_a_reload_reads_the_files_of_tls_anew(start: Start, tmp_path: Path) -> None:
    file = Authority(tmp_path).ca
    shop = {"shop": destination("https://localhost/", ca_file=str(file))}
    daemon = await start(destinations=shop)
    before = daemon.deliver.destinations["shop"]
    await daemon.renew(settings_with(daemon, shop))
    assert daemon.deliver.destinations["shop"].tls is not before.tls
    file.write_text("no certificate")
    with pytest.raises(SettingsError, match="CA_FILE"):
        await daemon.renew(settings_with(daemon, shop))


async def test_nothing_is_sent_while_handlers_end_at_a_shutdown(start: Start) -> None:
    registry, hangs = Registry(), asyncio.Event()

    async def slow(event: Event, connection: Connection) -> None:
        hangs.set()
        await asyncio.sleep(60)

    registry.add(CUSTOMER, slow)

    async def answer(_: Got) -> web.Response:
        await asyncio.sleep(0.3)
        return web.Response()

    async with receiving() as shop:
        shop.answer = answer
        daemon = await start(registry, destinations={"shop": destination(shop.url, concurrency=1)}, shutdown_grace=12)
        await send(daemon, *(sampling.sample(CUSTOMER, number) for number in range(1, 41)))
        await until(lambda: shop.got and hangs.is_set(), "a handler and a destination are at work")
        stopping = asyncio.create_task(daemon.stop())
        await asyncio.sleep(2)
        sent = len(shop.got)
        await asyncio.sleep(2)
        assert not stopping.done(), "the handler still runs"
        assert len(shop.got) == sent
        await stopping


def settings_with(daemon: Daemon, destinations: dict[str, Any]) -> Any:
    from webhookd.settings.destinations import DestinationSettings

    made = {name: DestinationSettings.model_validate(one) for name, one in destinations.items()}
    return daemon.settings.model_copy(update={"destinations": made})


async def test_a_killed_process_sends_again_with_the_same_id_and_counts_it(
    servers: Servers, connection: Connection, tmp_path: Path
) -> None:
    async with receiving() as shop:
        settings = {
            **servers.settings,
            "WEBHOOKD_DESTINATIONS__SHOP__URL": shop.url,
            "WEBHOOKD_DESTINATIONS__SHOP__ALLOW_PRIVATE": "true",
            "WEBHOOKD_DESTINATIONS__SHOP__TIMEOUT": "1",
        }
        process = Process(settings, tmp_path)
        try:
            await process.start(failpoints="deliver.after-answer:1")
            await traffic.send([sampling.sample(CUSTOMER, 1)], process.webhook_url, KEY)
            await until(lambda: process.process is not None and process.process.poll() is not None, "it is killed", deadline=30)
            assert len(shop.got) == 1
            assert await left(connection) == 1, "the answer is not recorded"
            await connection.execute("UPDATE webhookd.deliveries SET due = now()")  # the end of the lease
            await process.start(failpoints="")
            await until_none_is_left(connection)
            assert len(shop.got) == 2
            assert len(set(shop.ids)) == 1
            assert await process.metric("webhookd_deliveries_repeated_total", destination="shop") == 1
        finally:
            process.end(signal.SIGKILL)


async def test_an_attempt_that_a_shutdown_cuts_off_is_made_again(
    start: Start, connection: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(role, "_STOP", 0.1)
    held = asyncio.Event()

    async def hang(_: Got) -> web.StreamResponse:
        await held.wait()
        return web.Response()

    async with receiving() as shop:
        shop.answer = hang
        settings = {"shop": destination(shop.url, timeout=120)}
        first = await start(destinations=settings)
        await send(first, sampling.sample(CUSTOMER, 1))
        await until(lambda: shop.got, "the attempt is under way")
        await first.stop()
        held.set()
        assert await left(connection, "waiting") == 1
        await connection.execute("UPDATE webhookd.deliveries SET due = now()")  # the end of the lease
        second = await start(destinations=settings)
        await until_none_is_left(connection)
        assert metric(second, "webhookd_deliveries_repeated_total", destination="shop") == 1
    assert len(shop.ids) == 2
    assert len(set(shop.ids)) == 1


async def test_nothing_is_sent_to_a_private_address_unless_the_settings_allow_it(start: Start, connection: Connection) -> None:
    reached: list[bool] = []

    async def note(*_: Any) -> None:
        reached.append(True)

    async with raw(note) as url:
        daemon = await start(
            destinations={
                "literal": {"url": url.replace("http:", "https:")},
                "named": {"url": url.replace("http:", "https:").replace("127.0.0.1", "localhost")},
            }
        )
        await send(daemon, sampling.sample(CUSTOMER, 1))
        for name in ("literal", "named"):
            row = await delivery(connection, f"destination = '{name}' AND status = 'retrying'")
            assert "leads to a private address" in row["last_error"], row["last_error"]
    assert reached == []


async def test_the_rate_is_kept(start: Start, connection: Connection) -> None:
    async with receiving() as shop:
        daemon = await start(destinations={"shop": destination(shop.url, rate=1)})
        await send(daemon, *(sampling.sample(CUSTOMER, number) for number in range(3)))
        begin = asyncio.get_running_loop().time()
        await until(lambda: len(shop.got) == 3, "all are delivered", deadline=30)
        await until_none_is_left(connection)
    assert asyncio.get_running_loop().time() - begin > 0.9, "the third came a second after the second, or later"


async def test_the_envelope_has_the_fields_and_the_body_as_it_is(start: Start, connection: Connection) -> None:
    async with receiving() as shop:
        daemon = await start(destinations={"shop": destination(shop.url, body="envelope", secrets=SECRET)})
        body = body_of({"id": "1", "authAmount": 1}, 1).replace(b'"authAmount": 1', b'"authAmount": 100.10')
        await post(daemon, body)
        await until_none_is_left(connection)
    (got,) = shop.got
    assert b'"authAmount": 100.10' in got.body
    found = json.loads(got.body)
    assert found.pop("data") == json.loads(body)
    assert found.pop("received_at").endswith("Z")
    assert found == {
        "id": got.headers["webhook-id"],
        "account": "default",
        "event_type": AUTHCAPTURE,
        "attempt": 1,
        "origin": "webhook",
    }
    Verifier([KEY]).verify(got.body, got.headers["X-ANET-Signature"])


async def test_an_odd_event_type_is_a_short_header_in_ascii(start: Start, connection: Connection) -> None:
    async with receiving() as shop:
        daemon = await start(destinations={"shop": destination(shop.url)})
        body = json.loads(body_of({"id": "1"}, 1)) | {"eventType": "caf\u00e9 \u2028%0d" + "x" * 100}
        await post(daemon, json.dumps(body).encode())
        await until(lambda: shop.got, "it is delivered")
    assert shop.got[0].headers["webhookd-event-type"].startswith("caf%C3%A9%20%E2%80%A8%250dxxx")
    assert len(shop.got[0].headers["webhookd-event-type"]) < 300


async def test_retention_keeps_a_body_that_is_still_to_be_delivered(start: Start, connection: Connection) -> None:
    async with receiving() as shop:
        daemon = await start(roles="receive,relay,work", destinations={"shop": destination(shop.url)})
        await send(daemon, sampling.sample(CUSTOMER, 1))
        event_id = await connection.fetchval("SELECT event_id FROM webhookd.deliveries")
        await until(lambda: connection.fetchval("SELECT count(*) = 0 FROM webhookd.work"), "the handlers are done")
        needed = "SELECT count(*) FROM webhookd.needed($1, $1, now() + interval '1 day')"
        assert await connection.fetchval(needed, event_id) == 1
        await connection.execute("DELETE FROM webhookd.deliveries")
        assert await connection.fetchval(needed, event_id) == 0
