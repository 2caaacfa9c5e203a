"""The samples of pings that webhookd ordered are kept as tests; a real notification never is."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Awaitable, Callable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, TypeAlias

import aiohttp
import asyncpg
import orjson
import pytest

from tests.conftest import Servers, Start
from tests.helpers.database import connect
from tests.helpers.operator import ANN, Operator
from tests.helpers.running import KEY
from tests.helpers.secrets import note
from tests.helpers.wait import until
from webhookd.authorizenet.api.client import ProviderClient
from webhookd.authorizenet.sampling import sample
from webhookd.authorizenet.signature import fingerprint, sign
from webhookd.daemon import Daemon
from webhookd.errors import ConflictError
from webhookd.simulate import Faults, Simulator
from webhookd.store import provider_pings
from webhookd.store.keys import new_id
from webhookd.store.provider_webhooks import WebhookRecords
from webhookd.store.queries import queries
from webhookd.sync import pings
from webhookd.sync.pings import HeldNotifications

Connection: TypeAlias = "asyncpg.Connection[asyncpg.Record]"
SALE = "net.authorize.payment.authcapture.created"
OURS, OTHER, UNKNOWN = (str(uuid.UUID(int=number)) for number in (1, 2, 3))
LONG_AGO = datetime(2019, 1, 31, tzinfo=UTC)
AGE = 0.6  # seconds, instead of three


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(provider_pings, "AGE", AGE)
    monkeypatch.setattr(provider_pings, "_AHEAD", AGE / 2)


def body_of(webhook_id: str | None, *, entity: str = "245", when: datetime | None = None) -> bytes:
    """Makes the body of a notification, or of a sample, which looks like one."""
    envelope = orjson.loads(sample(SALE, 1, when).body)
    envelope["payload"]["id"] = entity
    envelope["webhookId"] = webhook_id
    return orjson.dumps(envelope)


async def post(daemon: Daemon, body: bytes, path: str = "") -> tuple[int, str]:
    """Sends a webhook. Returns the status and the outcome."""
    headers = {"X-ANET-Signature": sign(body, KEY)}
    async with (
        aiohttp.ClientSession() as http,
        http.post(f"{daemon.public_url}/webhooks/authorize-net{path}", data=body, headers=headers) as response,
    ):
        return response.status, str((await response.json(content_type=None)).get("status"))


def held(daemon: Daemon) -> HeldNotifications:
    return HeldNotifications(records(daemon), daemon.receipts, 14 * 86400, 300)


def records(daemon: Daemon, account: str = "default") -> WebhookRecords:
    return WebhookRecords(daemon.database, account, "a test")


async def opened(daemon: Daemon) -> uuid.UUID:
    """Opens a ping of OURS, beside OTHER, while every replica believes that there is none; returns when they may know it."""
    assert await post(daemon, body_of(OURS)) == (200, "accepted")
    ping = await records(daemon).open_ping(OURS, [OTHER], 60)
    await asyncio.sleep(AGE)
    return ping


async def counts(connection: Connection) -> tuple[int, int]:
    """Returns the numbers of events and of samples."""
    row = await connection.fetchrow("SELECT (SELECT count(*) FROM ledger), (SELECT count(*) FROM provider_tests)")
    assert row is not None
    return row[0], row[1]


async def test_a_sample_is_a_test_at_every_replica_and_no_event(start: Start, connection: Connection) -> None:
    first, second = [await start(roles="receive") for _ in range(2)]
    assert await post(second, body_of(OURS)) == (200, "accepted")
    ping = await opened(first)
    body = body_of(OURS)
    assert [await post(daemon, body) for daemon in (first, second)] == [(200, "test")] * 2
    assert await counts(connection) == (2, 1)
    row = await connection.fetchrow("SELECT * FROM provider_tests")
    assert row is not None
    assert (row["account"], row["event_type"], row["webhook_id"]) == ("default", SALE, OURS)
    assert (row["notification_id"], row["ping"]) == (orjson.loads(body)["notificationId"], ping)
    assert row["key_fingerprint"] == fingerprint(KEY)
    for daemon in (first, second):
        labels = {"account": "default", "outcome": "test"}
        assert daemon.metrics.registry.get_sample_value("webhookd_received_total", labels) == 1


@pytest.mark.parametrize("webhook_id", [UNKNOWN, None, "a\u0000b"])
async def test_a_sample_need_not_name_the_pinged_webhook(webhook_id: str | None, start: Start, connection: Connection) -> None:
    daemon = await start(roles="receive")
    await opened(daemon)
    assert await post(daemon, body_of(webhook_id)) == (200, "test")
    assert await counts(connection) == (1, 1)


def without_date(body: bytes) -> bytes:
    """Returns a body without its date."""
    envelope = orjson.loads(body)
    del envelope["eventDate"]
    return orjson.dumps(envelope)


async def test_what_may_be_a_late_retry_or_names_no_webhook_and_no_date_is_no_sample(
    start: Start, connection: Connection
) -> None:
    daemon = await start(roles="receive")
    await opened(daemon)
    for days in (0.01, 1, 10):
        late = body_of(OURS, when=datetime.now(UTC) - timedelta(days=days))
        assert await post(daemon, late) == (200, "accepted")
    assert await post(daemon, without_date(body_of(UNKNOWN))) == (200, "accepted")
    assert await post(daemon, body_of(None, when=LONG_AGO)) == (200, "quarantined")
    assert await counts(connection) == (5, 0)


@pytest.mark.parametrize("sample_of_ping", [without_date(body_of(OURS)), body_of(OURS, when=LONG_AGO)], ids=["none", "old"])
@pytest.mark.parametrize("alone", [True, False])
async def test_a_sample_of_the_pinged_webhook_may_have_any_date_if_nothing_else_may_be_the_sample(
    sample_of_ping: bytes, start: Start, connection: Connection, *, alone: bool
) -> None:
    daemon = await start(roles="receive")
    ping = await opened(daemon)
    assert await post(daemon, sample_of_ping) == (200, "test")
    other = body_of(OURS)
    if not alone:
        assert await post(daemon, other) == (200, "test"), "held"
    assert (await records(daemon).sample(ping)) is not None
    await records(daemon).close_ping(ping)
    await held(daemon).decide()
    decided = await kinds(connection)
    if alone:
        assert decided[id_of(sample_of_ping)] == "sample"
    else:  # of two kinds, each may be real; the age of the old one leads it into quarantine
        assert decided[id_of(other)] == "event"
        assert decided.get(id_of(sample_of_ping), "quarantine") in ("event", "quarantine")
        assert await connection.fetchval("SELECT count(*) FROM provider_tests WHERE body IS NOT NULL") == 0


async def test_while_a_ping_is_open_other_webhooks_notifications_are_events(start: Start, connection: Connection) -> None:
    eu = {"eu": {"signature_keys": KEY}}
    daemon = await start(roles="receive", accounts=eu)
    await opened(daemon)
    assert await post(daemon, body_of(OTHER.upper())) == (200, "accepted")
    assert await post(daemon, body_of(OURS), "/eu") == (200, "accepted"), "another account"
    # The provider goes on with the retries of a notification from before the webhook became inactive.
    retried = body_of(OURS, when=datetime.now(UTC) - timedelta(minutes=6))
    assert await post(daemon, retried) == (200, "accepted")
    assert await counts(connection) == (4, 0)


async def test_from_the_closing_on_every_notification_is_an_event_though_the_receivers_know_of_an_open_ping(
    start: Start, connection: Connection
) -> None:
    daemon = await start(roles="receive")
    ping = await opened(daemon)
    copied = body_of(OURS)
    assert await post(daemon, copied) == (200, "test")
    await records(daemon).close_ping(ping)  # the receiver has just read that the ping is open
    assert await post(daemon, body_of(OURS)) == (200, "accepted")
    assert await post(daemon, copied) == (200, "test"), "a copy of the sample"
    await asyncio.sleep(AGE)
    assert await post(daemon, body_of(OURS)) == (200, "accepted")
    assert await post(daemon, copied) == (200, "test"), "a late copy of the sample"
    assert await counts(connection) == (3, 1)


async def test_closing_waits_for_a_sample_that_is_being_kept(start: Start, connection: Connection, servers: Servers) -> None:
    daemon = await start(roles="receive")
    ping = await opened(daemon)
    kept: dict[str, Any] = {
        "account": "default",
        "notification_id": "n",
        "event_type": SALE,
        "webhook_id": OURS,
        "key_fingerprint": "f",
    }
    kept |= {"event_date": None, "body": b"{}"}
    transaction = connection.transaction()
    await transaction.start()
    assert await queries.keep_sample(connection, id=new_id(), ping=ping, sure=False, **kept) is not None
    closing = asyncio.create_task(records(daemon).close_ping(ping))
    watcher = await connect(servers.database_url)
    waiting = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
    await until(lambda: watcher.fetchval(waiting), "the closing waits for the sample")
    await watcher.close()
    assert not closing.done()
    await transaction.commit()
    await closing
    assert await queries.keep_sample(connection, id=new_id(), ping=ping, sure=False, **kept | {"notification_id": "m"}) is None


async def _locked(connection: Connection) -> Callable[[], Awaitable[Any]]:
    transaction = connection.transaction()
    await transaction.start()
    await connection.execute("LOCK TABLE provider_pings IN ACCESS EXCLUSIVE MODE")
    return transaction.rollback


async def test_while_postgresql_is_slow_no_webhook_is_judged_by_old_knowledge(
    start: Start, connection: Connection, servers: Servers
) -> None:
    daemon = await start(roles="receive", commit_timeout=60, shutdown_grace=70)
    await opened(daemon)
    release = await _locked(connection)
    sending = asyncio.create_task(post(daemon, body_of(OURS)))
    watcher = await connect(servers.database_url)
    waiting = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
    await until(lambda: watcher.fetchval(waiting), "the receiver reads the pings")
    await asyncio.sleep(2 * AGE)  # what is being read is too old by the time that it comes
    assert await watcher.fetchval("SELECT count(*) FROM ledger") == 1
    await release()
    assert await sending == (200, "test")
    assert await watcher.fetchval("SELECT count(*) FROM ledger") == 1
    await watcher.close()


async def test_a_webhook_whose_pings_cannot_be_read_in_time_is_put_off(start: Start, connection: Connection) -> None:
    daemon = await start(roles="receive", commit_timeout=0.5)
    await opened(daemon)
    release = await _locked(connection)
    assert (await post(daemon, body_of(OURS)))[0] == 503
    await release()
    assert await until(lambda: _taken(daemon), "webhooks are taken again") == (200, "test")
    assert (await counts(connection))[0] == 1


async def _taken(daemon: Daemon) -> tuple[int, str] | None:
    answer = await post(daemon, body_of(OURS))
    return answer if answer[0] == 200 else None


async def test_if_the_right_to_read_pings_is_missing_webhooks_are_put_off(start: Start, connection: Connection) -> None:
    daemon = await start(roles="receive")
    await opened(daemon)
    await connection.execute("ALTER TABLE provider_pings RENAME COLUMN others TO gone")
    assert (await post(daemon, body_of(OURS)))[0] == 503
    assert (await counts(connection))[0] == 1


@pytest.mark.parametrize(
    ("changes", "reports", "real"),
    [({}, True, True), ({"authAmount": 12.5}, True, False), ({"id": "245"}, True, False), ({}, False, False)],
)
async def test_a_real_notification_that_comes_alone_while_a_ping_is_open_is_an_event_if_the_provider_knows_its_transaction(
    changes: dict[str, Any], reports: bool, real: bool, start: Start, connection: Connection
) -> None:
    daemon = await start(roles="receive")
    async with Simulator(faults=Faults(reports_off=not reports)) as simulator:
        simulator.register("http://127.0.0.1:9/nobody")
        (made,) = simulator.make(SALE, number=7, withheld=True)
        access = simulator.access()
        note([access.keys[0].get_secret_value()])
        ping = await opened(daemon)
        body = orjson.loads(body_of(OURS))
        body["payload"] = made.payload | changes
        assert await post(daemon, orjson.dumps(body)) == (200, "test"), "it may be the sample"
        await records(daemon).close_ping(ping)
        async with ProviderClient(access, patience=0) as client:
            await HeldNotifications(records(daemon), daemon.receipts, 14 * 86400, 300, client).decide()
    assert await counts(connection) == ((2, 0) if real else (1, 1))


@pytest.mark.parametrize("sampled", [True, False])
async def test_of_many_real_notifications_none_is_taken_for_the_sample_and_each_is_asked_for_once_at_most(
    sampled: bool, start: Start, connection: Connection
) -> None:
    daemon = await start(roles="receive")
    async with Simulator() as simulator:
        simulator.register("http://127.0.0.1:9/nobody")
        access = simulator.access()
        note([access.keys[0].get_secret_value()])
        ping = await opened(daemon)
        for number in range(12):
            body = orjson.loads(body_of(OURS))
            body["payload"] = simulator.make(SALE, number=number, withheld=True)[0].payload
            assert await post(daemon, orjson.dumps(body)) == (200, "test"), "it may be the sample"
        if sampled:
            assert await post(daemon, body_of(OURS)) == (200, "test")
        await records(daemon).close_ping(ping)
        async with ProviderClient(access, patience=0) as client:
            await HeldNotifications(records(daemon), daemon.receipts, 14 * 86400, 300, client).decide()
        assert len(simulator.calls) == (1 if sampled else 12)
    assert await counts(connection) == (13, 1 if sampled else 0)


async def test_a_ping_waits_for_its_sample_though_a_real_notification_came_before(
    start: Start, connection: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(provider_pings, "LEAD", AGE)
    daemon = await start(roles="receive")
    url = f"{daemon.public_url}/webhooks/authorize-net"
    lost = asyncio.Event()

    async def deliver(_: str, body: bytes, headers: Mapping[str, str]) -> int:
        assert await post(daemon, real.body) == (200, "test")
        await asyncio.sleep(0.5)  # the sample takes longer
        async with aiohttp.ClientSession() as http, http.post(url, data=body, headers=headers) as response:
            assert (await response.json())["status"] == "test", "the ping is still open"
        lost.set()
        return 200

    async with Simulator(post=deliver) as simulator:
        note([simulator.account(signature_key=KEY).transaction_key])
        webhook = simulator.register(url)
        (real,) = simulator.make(SALE, number=7, withheld=True)
        webhook.status = "inactive"
        async with ProviderClient(simulator.access(), patience=0) as client:
            own = HeldNotifications(records(daemon), daemon.receipts, 14 * 86400, 300, client)
            sample_ = await pings.ping(client, records(daemon), own, await client.webhook(webhook.id), [])
    assert lost.is_set()
    assert sample_ is not None
    assert sample_.notification_id != real.id
    assert await counts(connection) == (1, 1)
    assert await connection.fetchval("SELECT notification_id FROM events") == real.id


async def test_each_new_event_is_counted_as_accepted_once_whether_it_was_held_or_set_aside(
    start: Start, connection: Connection
) -> None:
    daemon = await start(roles="receive", admin_tokens=ANN)

    def accepted() -> float | None:
        return daemon.metrics.registry.get_sample_value("webhookd_accepted_total", {"event_type": SALE})

    ping = await opened(daemon)
    assert accepted() == 1
    bodies = [body_of(OURS), body_of(OURS)]
    assert [await post(daemon, body) for body in bodies] == [(200, "test")] * 2
    assert accepted() == 1
    await records(daemon).close_ping(ping)
    await held(daemon).decide()
    assert await counts(connection) == (2, 1), "one of the two is the sample"
    assert accepted() == 2
    old = body_of(OTHER, when=datetime(2019, 1, 31, tzinfo=UTC))
    assert await post(daemon, old) == (200, "quarantined")
    body_id = await connection.fetchval("SELECT id::text FROM quarantine")
    assert (await Operator(daemon.admin_url).post(f"quarantine/{body_id}/release"))[0] == 200
    assert accepted() == 3
    assert sorted([await post(daemon, body) for body in bodies]) == [(200, "duplicate"), (200, "test")]
    assert accepted() == 3, "a copy is no new event"


async def test_a_notification_about_nothing_is_a_test_without_a_ping(start: Start, connection: Connection) -> None:
    daemon = await start(roles="receive")
    body = body_of(OTHER, entity="0")
    assert [await post(daemon, body) for _ in range(2)] == [(200, "test")] * 2
    assert await counts(connection) == (0, 1)


async def test_a_steady_stream_of_webhooks_waits_for_no_reading(
    start: Start, connection: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(provider_pings, "AGE", 3600)
    monkeypatch.setattr(provider_pings, "_AHEAD", 0)
    daemon = await start(roles="receive")
    assert await post(daemon, body_of(OURS)) == (200, "accepted")
    release = await _locked(connection)
    assert await post(daemon, body_of(OURS)) == (200, "accepted"), "the next reading has begun, and nothing waits for it"
    await release()


async def test_a_webhook_has_one_open_ping_and_its_changes_have_one_owner(start: Start) -> None:
    daemon = await start(roles="receive")
    ping = await opened(daemon)
    with pytest.raises(ConflictError, match="under way"):
        await records(daemon).open_ping(OURS, [], 60)
    await records(daemon).close_ping(ping)
    async with records(daemon).alone():
        with pytest.raises(ConflictError, match="try again in a minute"):
            async with records(daemon).alone():
                pass
    async with records(daemon).alone():
        await records(daemon).open_ping(OURS, [], 60)


# The end of a ping


async def kinds(connection: Connection) -> dict[str, str]:
    """Returns what each notification is: an event, a sample, or held."""
    rows = await connection.fetch(
        """SELECT notification_id, 'event' AS what FROM ledger UNION ALL
           SELECT notification_id, CASE WHEN body IS NULL THEN 'sample' ELSE 'held' END FROM provider_tests"""
    )
    return {row["notification_id"]: row["what"] for row in rows}


def id_of(body: bytes) -> str:
    return str(orjson.loads(body)["notificationId"])


async def _three(daemon: Daemon) -> tuple[str, str, str]:
    """Sends two young retries of real notifications, and a sample between them. Returns the ids, the sample's first."""
    now = datetime.now(UTC)
    bodies = [body_of(OURS, when=now - timedelta(minutes=minutes)) for minutes in (4, 0, 2)]
    assert [await post(daemon, body) for body in bodies] == [(200, "test")] * 3
    retried, sample_, other = map(id_of, bodies)
    return sample_, retried, other


async def test_young_retries_are_held_while_a_ping_is_open_and_then_become_events(start: Start, connection: Connection) -> None:
    daemon = await start(roles="receive")
    ping = await opened(daemon)
    sample_, *real = await _three(daemon)
    stranger = body_of(UNKNOWN)
    assert await post(daemon, stranger) == (200, "test")
    await held(daemon).decide()
    assert set((await kinds(connection)).values()) == {"event", "held"}, "an open ping is not decided"
    await records(daemon).close_ping(ping)
    await held(daemon).decide()
    found = await kinds(connection)
    assert found[sample_] == "sample"
    assert [found[one] for one in (*real, id_of(stranger))] == ["event"] * 3
    rows = await connection.fetch("SELECT * FROM provider_tests")
    assert [(row["notification_id"], row["body"], row["decided_at"] is None) for row in rows] == [(sample_, None, False)]
    said = await connection.fetch("SELECT actor, reason FROM audit WHERE reason IS NOT NULL")
    assert {tuple(row) for row in said} == {("a test", "released: it came while a ping was open")}
    assert await connection.fetchval("SELECT count(*) FROM events WHERE key_fingerprint = $1", fingerprint(KEY)) == 4


async def test_if_the_provider_sent_no_sample_all_that_was_held_becomes_events(start: Start, connection: Connection) -> None:
    daemon = await start(roles="receive")
    ping = await opened(daemon)
    await _three(daemon)
    await records(daemon).close_ping(ping, unsent=True)
    await held(daemon).decide()
    assert await counts(connection) == (4, 0)


async def test_a_sample_that_is_about_nothing_is_the_pings_sample_and_all_that_was_held_becomes_events(
    start: Start, connection: Connection
) -> None:
    daemon = await start(roles="receive")
    ping = await opened(daemon)
    await _three(daemon)
    nothing = body_of(OURS, entity="0")
    assert await post(daemon, nothing) == (200, "test")
    await records(daemon).close_ping(ping)
    await held(daemon).decide()
    assert await counts(connection) == (4, 1)
    assert (await kinds(connection))[id_of(nothing)] == "sample"


async def test_after_a_crash_between_the_release_and_the_removal_no_event_is_doubled(
    start: Start, connection: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    daemon = await start(roles="receive")
    ping = await opened(daemon)
    await _three(daemon)
    await records(daemon).close_ping(ping)

    async def dies(*_: Any) -> None:
        raise asyncio.CancelledError

    with monkeypatch.context() as patch:
        patch.setattr(WebhookRecords, "forget_held", dies)
        with pytest.raises(asyncio.CancelledError):
            await held(daemon).decide()
    assert await counts(connection) == (3, 3)
    await held(daemon).decide()
    assert await counts(connection) == (3, 1)


async def test_the_role_sync_decides_the_ping_of_a_process_that_died(start: Start, connection: Connection) -> None:
    daemon = await start(roles="receive")
    ping = await opened(daemon)
    sample_, *real = await _three(daemon)
    await connection.execute("UPDATE provider_pings SET closes_at = now() WHERE id = $1", ping)
    async with Simulator() as simulator:
        own = simulator.account(signature_key=KEY)
        note([own.transaction_key])
        await start(
            roles="sync",
            provider=simulator.url,
            api_login_id=own.login_id,
            transaction_key=own.transaction_key,
            webhook_guardian="off",
        )
        await until(lambda: _decided(connection), "the ping is decided", deadline=60)
    found = await kinds(connection)
    assert [found[one] for one in (sample_, *real)] == ["sample", "event", "event"]


async def _decided(connection: Connection) -> bool:
    return "held" not in (await kinds(connection)).values()
