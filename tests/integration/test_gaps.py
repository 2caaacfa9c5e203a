"""The gap closer beside a simulated provider: what no webhook brought comes in once, and the days say what is known."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime, timedelta
from functools import partial
from importlib import import_module
from json import dumps, loads
from typing import Any, TypeAlias
from uuid import uuid4

import aiohttp
import asyncpg
import pytest
from aiohttp import web

from tests.conftest import Start
from tests.helpers.admin_api import ran
from tests.helpers.operator import ANN, Operator
from tests.helpers.receivers import receiving
from tests.helpers.wait import until
from webhookd.authorizenet.api.client import clients_of
from webhookd.authorizenet.sampling import sample
from webhookd.authorizenet.signature import sign
from webhookd.daemon import Daemon
from webhookd.event import Event
from webhookd.process.handlers import Registry
from webhookd.simulate import Clock, Notification, Simulator, Webhook
from webhookd.simulate.answering import json
from webhookd.store.provider_state import ProviderState
from webhookd.store.queries import queries

Connection: TypeAlias = "asyncpg.Connection[asyncpg.Record]"
REFUND = "net.authorize.payment.refund.created"
OTHER_URL = "http://127.0.0.1:9/another-program"


@pytest.fixture
async def provider() -> AsyncIterator[Simulator]:
    async with Simulator(seed=3) as simulator:
        yield simulator


class Shop:
    """A daemon beside the provider, with a handler that counts."""

    def __init__(self, start: Start, provider: Simulator, connection: Connection) -> None:
        self._start = start
        self.provider = provider
        self.connection = connection
        self.events: list[Event] = []
        self.webhook: Webhook | None = None

    async def open(self, **settings: Any) -> Daemon:
        """Starts a daemon. The first one is the webhook's address."""
        own = self.provider.account()
        registry = Registry()

        async def count(event: Event, connection: Any) -> None:
            self.events.append(event)

        registry.add("*", count)
        given = {
            "signature_keys": own.signature_key,
            "provider": self.provider.url,
            "api_login_id": own.login_id,
            "transaction_key": own.transaction_key,
            "provider_rate": 100,
            "gap_every": 1,
            "gap_grace": 0,
        }
        daemon = await self._start(registry, **given | settings)
        # Notifications that were made earlier are not webhookd's business.
        known = "SELECT count(*) FROM webhookd.provider_accounts"
        await until(lambda: self.connection.fetchval(known), "the account is known", deadline=60)
        if self.webhook is None:
            self.webhook = self.provider.register(f"{daemon.public_url}/webhooks/authorize-net")
        return daemon

    async def ids(self) -> list[str]:
        return [row["notification_id"] for row in await self.connection.fetch("SELECT notification_id FROM webhookd.events")]

    async def processed(self) -> int:
        return int(await self.connection.fetchval("SELECT count(*) FROM webhookd.events WHERE status = 'processed'"))

    async def day(self) -> dict[str, Any]:
        row = await self.connection.fetchrow("SELECT * FROM webhookd.provider_days ORDER BY day DESC LIMIT 1")
        return dict(row or {})

    async def until_whole(self, **counts: int) -> None:
        async def found() -> bool:
            day = await self.day()
            return bool(day) and {name: day[name] for name in counts} == counts

        await until(found, f"the day has {counts}", deadline=60)


@pytest.fixture
async def shop(start: Start, provider: Simulator, connection: Connection) -> Shop:
    return Shop(start, provider, connection)


def made(notifications: list[Notification]) -> Notification:
    (one,) = notifications
    return one


async def test_what_no_webhook_brought_comes_in_once_and_is_processed_once(shop: Shop, provider: Simulator) -> None:
    daemon = await shop.open()
    sent = [made(provider.make()) for _ in range(3)]
    await until(shop.processed, "an event came as a webhook")
    lost = [made(provider.make(REFUND, withheld=True)) for _ in range(2)]
    await shop.until_whole(listed=5, ours=5, recovered=2, missing=0, unlisted=0)
    await until(lambda: _equals(shop.processed(), 5), "all are processed")
    await asyncio.sleep(2.5)  # two more comparisons
    assert sorted(await shop.ids()) == sorted(one.id for one in [*sent, *lost])
    assert sorted(event.notification_id for event in shop.events) == sorted(one.id for one in [*sent, *lost])
    origins = {event.notification_id: (event.origin, event.verified) for event in shop.events}
    assert {origins[one.id] for one in sent} == {("webhook", True)}
    assert {origins[one.id] for one in lost} == {("history", False)}
    recovered = next(event for event in shop.events if event.notification_id == lost[0].id)
    assert recovered.payload["id"] == lost[0].payload["id"]
    counted = daemon.metrics.registry.get_sample_value("webhookd_accepted_total", {"event_type": REFUND})
    assert counted == 2, "as new events, whatever brought them"


async def _equals(found: Any, expected: object) -> bool:
    return bool(await found == expected)


async def test_the_audit_trail_names_the_gap_closer(shop: Shop, provider: Simulator) -> None:
    await shop.open()
    provider.make()
    await until(shop.processed, "an event came as a webhook")
    lost = made(provider.make(withheld=True))
    await shop.until_whole(recovered=1)
    query = """
        SELECT a.actor, a.reason FROM webhookd.audit a JOIN webhookd.ledger l ON l.id = a.event_id
        WHERE l.notification_id = $1 AND a.to_status = 'received'
    """
    row = await shop.connection.fetchrow(query, lost.id)
    assert row is not None
    assert row["actor"] == "gap closer"
    assert "history" in row["reason"]


async def test_the_late_webhook_of_a_recovered_event_is_a_duplicate_with_the_same_body(shop: Shop, provider: Simulator) -> None:
    daemon = await shop.open()
    provider.make()
    await until(shop.processed, "an event came as a webhook")
    lost = made(provider.make(withheld=True))
    await shop.until_whole(recovered=1)
    webhook = provider.account().webhooks[lost.webhook_id]
    assert await provider._deliverer.ping(provider.account(), webhook, lost)  # as a retry of the provider
    assert (await shop.ids()).count(lost.id) == 1
    value = daemon.metrics.registry.get_sample_value
    assert value("webhookd_body_mismatches_total", {"account": "default"}) == 0
    assert value("webhookd_duplicates_total", {"layer": "notification_id"}) == 1
    await asyncio.sleep(1.5)
    assert [event.notification_id for event in shop.events].count(lost.id) == 1


async def test_a_notification_for_another_webhook_is_not_taken(shop: Shop, provider: Simulator) -> None:
    """Another program processes it: webhookd would do so a second time."""
    provider.register(OTHER_URL)
    await shop.open()
    provider.make()
    await until(shop.processed, "an event came as a webhook")
    ours = [one for one in provider.make(withheld=True) if shop.webhook and one.webhook_id == shop.webhook.id]
    await shop.until_whole(listed=2, ours=2, recovered=1, missing=0)
    assert sorted(await shop.ids()) == sorted({*(event.notification_id for event in shop.events), ours[0].id})
    assert len(await shop.ids()) == 2
    foreign = "SELECT count(*) FROM webhookd.provider_notifications WHERE status = 'foreign'"
    assert await shop.connection.fetchval(foreign) == 2


async def test_while_no_webhook_is_known_as_ours_nothing_is_taken_and_the_day_is_not_known(
    shop: Shop, provider: Simulator, capsys: pytest.CaptureFixture[str]
) -> None:
    provider.register(OTHER_URL)
    await shop.open()
    provider.make(withheld=True)

    async def not_known() -> bool:
        return (await shop.day()).get("completeness") == "not known"

    await until(not_known, "the day is not known")
    assert await shop.ids() == []
    assert "set WEBHOOKD_PUBLIC_URL" in capsys.readouterr().out


async def test_the_public_url_tells_which_webhook_is_ours_before_any_event_came(shop: Shop, provider: Simulator) -> None:
    provider.register(OTHER_URL)
    ours = provider.register("http://127.0.0.1:9/WEBHOOKS/net")
    shop.webhook = ours
    await shop.open(public_url="http://127.0.0.1:9/WEBHOOKS/net/")
    lost = next(one for one in provider.make(withheld=True) if one.webhook_id == ours.id)
    await shop.until_whole(listed=1, ours=1, recovered=1)
    assert await shop.ids() == [lost.id]


async def test_what_was_made_before_webhookd_had_the_credentials_is_not_taken(shop: Shop, provider: Simulator) -> None:
    """The program that webhookd replaces has processed it."""
    ours = shop.webhook = provider.register(OTHER_URL)
    before = made(provider.make(withheld=True))
    await asyncio.sleep(0.01)
    await shop.open(public_url=OTHER_URL)
    after = made(provider.make(withheld=True))
    assert after.webhook_id == ours.id
    await shop.until_whole(recovered=1)
    await asyncio.sleep(1.5)
    assert before.id not in await shop.ids()


async def test_a_notification_may_be_on_its_way_for_the_grace(shop: Shop, provider: Simulator) -> None:
    await shop.open(gap_grace=3600)
    provider.make()
    await until(shop.processed, "an event came as a webhook")
    provider.make(withheld=True)
    await shop.until_whole(listed=2, ours=1, waiting=1, missing=0)
    await asyncio.sleep(1.5)
    assert len(await shop.ids()) == 1


async def test_a_destination_gets_a_recovered_event_with_its_origin(shop: Shop, provider: Simulator) -> None:
    async with receiving() as receiver:
        destination = {"url": receiver.url, "allow_private": True}
        await shop.open(destinations={"shop": destination})
        provider.make()
        await until(lambda: receiver.got, "the destination gets the webhook")
        lost = made(provider.make(withheld=True))
        await until(lambda: len(receiver.got) == 2, "the destination gets the recovered event", deadline=60)
    origins = [got.headers["webhookd-origin"] for got in receiver.got]
    assert origins == ["webhook", "history"]
    assert lost.id.encode() in receiver.got[1].body


async def test_what_cannot_be_read_is_noted_with_the_reason_and_the_day_is_not_whole(shop: Shop, provider: Simulator) -> None:
    await shop.open()
    provider.make()
    await until(shop.processed, "an event came as a webhook")
    lost = made(provider.make(withheld=True))
    lost.payload = None  # type: ignore[assignment]
    await shop.until_whole(listed=2, ours=1, unreadable=1, missing=0)
    row = await shop.connection.fetchrow("SELECT * FROM webhookd.provider_notifications WHERE status = 'unreadable'")
    assert row is not None
    assert (row["notification_id"], row["reason"]) == (lost.id, "the answer has no payload")


async def test_two_replicas_take_each_notification_once(shop: Shop, provider: Simulator) -> None:
    await shop.open()
    await shop.open()
    provider.make()
    await until(shop.processed, "an event came as a webhook")
    for _ in range(30):
        provider.make(withheld=True)
    await shop.until_whole(ours=31, recovered=30, missing=0)
    await until(lambda: _equals(shop.processed(), 31), "all are processed", deadline=60)
    assert len(shop.events) == 31


async def test_the_gap_closer_goes_on_after_the_provider_was_away(
    shop: Shop, provider: Simulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("webhookd.authorizenet.api.limits._BASE", 0.1)
    monkeypatch.setattr("webhookd.authorizenet.api.limits._CAP", 0.5)
    await shop.open()
    provider.make()
    await until(shop.processed, "an event came as a webhook")
    monkeypatch.setattr(provider._spoiler, "before", lambda *, reports: json({}, 503))
    for _ in range(5):
        provider.make(withheld=True)
    await asyncio.sleep(2)
    monkeypatch.undo()
    await shop.until_whole(ours=6, recovered=5, missing=0)


@pytest.fixture
async def past_provider() -> AsyncIterator[Simulator]:
    """A provider with a clock that is three days slow until a test puts it forward."""
    async with Simulator(seed=5, clock=Clock(datetime.now(UTC) - timedelta(days=3))) as simulator:
        yield simulator


@pytest.fixture
async def past(start: Start, past_provider: Simulator, connection: Connection) -> Shop:
    """A shop with a webhook whose notifications of three days never came: ten in all."""
    shop = Shop(start, past_provider, connection)
    shop.webhook = past_provider.register(OTHER_URL)
    for count in (4, 3, 2, 1):
        for _ in range(count):
            past_provider.make(withheld=True)
        if count > 1:
            past_provider.clock.advance(86_400)
    return shop


async def test_an_order_takes_what_is_older_than_the_credentials_day_by_day(past: Shop) -> None:
    daemon = await past.open(public_url=OTHER_URL, admin_tokens=ANN)
    operator = Operator(daemon.admin_url)
    since = (datetime.now(UTC) - timedelta(days=4)).date()
    order = await operator.order(
        "provider/accounts/default/close-gaps", since=since.isoformat(), reason="the old receiver lost them"
    )
    ended = await operator.ended(order, deadline=90)
    assert (ended["kind"], ended["state"], ended["done"], ended["total"]) == ("gaps", "done", 5, 5)
    assert ended["reasons"] == {"recovered": 10}
    await until(lambda: _equals(past.processed(), 10), "all are processed", deadline=60)
    days = await past.connection.fetch("SELECT * FROM webhookd.provider_days ORDER BY day")
    assert [day["recovered"] for day in days if day["listed"]] == [4, 3, 2, 1]
    assert {day["missing"] for day in days} == {0}


async def whole_days(connection: Connection, *ages: int) -> None:
    """Stores days of so many days ago as whole and empty, and as compared."""
    await connection.execute(
        "INSERT INTO webhookd.provider_accounts (account, compared_from, compared_to)"
        " VALUES ('default', now() - interval '1 year', (now() AT TIME ZONE 'UTC')::date - 1)"
    )
    await connection.execute(
        "INSERT INTO webhookd.provider_days (account, day, completeness, looks, looked_at)"
        " SELECT 'default', (now() AT TIME ZONE 'UTC')::date - age, 'whole', 2, now() - make_interval(days => age - 1)"
        " FROM unnest($1::integer[]) AS age",
        ages,
    )


async def test_a_notification_that_is_listed_late_is_taken_when_its_day_is_seven_days_old(
    start: Start, connection: Connection
) -> None:
    now = datetime.now(UTC)
    async with Simulator(seed=6, clock=Clock(now - timedelta(days=9))) as provider:
        shop = Shop(start, provider, connection)
        shop.webhook = provider.register(OTHER_URL)
        late = made(provider.make(withheld=True))  # listed by now, and not when its day was compared
        provider.clock.advance(4 * 86_400)
        made(provider.make(withheld=True))
        provider.clock.advance(5 * 86_400)
        await whole_days(connection, *range(1, 12))
        await shop.open(public_url=OTHER_URL)
        query = (
            "SELECT * FROM webhookd.provider_days WHERE day = $1 AND looked_at > now() - interval '1 hour' AND recovered = 1"
        )
        day = await until(lambda: connection.fetchrow(query, late.made_at.date()), "the day says so", deadline=30)
        assert (day["listed"], day["ours"], day["looks"], day["completeness"]) == (1, 1, 1, "not known"), (
            "a second look follows"
        )
        await quiet()
        assert await shop.ids() == [late.id], "a younger day gets its last look later"
        old = "SELECT completeness FROM webhookd.provider_days WHERE day < $1"
        assert {row["completeness"] for row in await connection.fetch(old, late.made_at.date())} == {"whole"}


async def test_a_day_that_is_older_than_the_events_that_are_kept_gets_no_look(
    start: Start, connection: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The result would not be recorded, so that look after look would follow, and none at younger days."""
    async with Simulator(seed=6) as provider:
        shop = Shop(start, provider, connection)
        await whole_days(connection, *range(5, 20))
        asked: set[str] = set()
        spoil(provider, monkeypatch, lambda request, _: asked.add(request.query.get("from_date", "9999")))
        kept = 14 * 86_400
        await shop.open(event_retention=kept, body_retention=kept, max_event_age=10 * 86_400)
        looked = """
            SELECT count(*) FROM webhookd.provider_days
            WHERE looked_at > now() - interval '1 hour' AND day < (now() AT TIME ZONE 'UTC')::date - 7
        """
        await until(
            lambda: _equals(connection.fetchval(looked), 5), "the days of eight to twelve days ago get looks", deadline=30
        )
        await quiet()
        assert min(asked) == (datetime.now(UTC) - timedelta(days=13)).date().isoformat(), "the look at the twelfth day"


@pytest.mark.parametrize(
    "part",
    [
        "webhookd.authorizenet.gaps.compare",
        "webhookd.sync.gap_closer._ledger",
        "webhookd.sync.gap_closer._names",
        "webhookd.store.provider_gaps._noted",
    ],
)
async def test_webhooks_are_received_while_many_rows_are_compared(
    shop: Shop, provider: Simulator, monkeypatch: pytest.MonkeyPatch, part: str
) -> None:
    module, _, name = part.rpartition(".")
    real, came, results = getattr(import_module(module), name), threading.Event(), []

    def compare(*given: Any) -> Any:
        results.append(came.wait(20))  # as long as the comparison of very many rows
        return real(*given)

    monkeypatch.setattr(part, compare)
    await shop.open()
    provider.make()
    await until(shop.processed, "the webhook is received and processed", deadline=60)
    came.set()
    await shop.until_whole(listed=1, ours=1)
    assert set(results) == {True}


async def test_an_order_that_is_cancelled_takes_no_more_and_a_second_one_at_once_is_refused(
    past: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("webhookd.sync.role._ORDERS_EVERY", 3600.0)
    daemon = await past.open(public_url=OTHER_URL, admin_tokens=ANN)
    operator = Operator(daemon.admin_url)
    await asyncio.sleep(1)  # for the look when the account is taken over
    path, since = "provider/accounts/default/close-gaps", datetime.now(UTC).date().isoformat()
    order = await operator.order(path, since=since)
    status, problem = await operator.post(path, {"since": since})
    assert (status, order["id"] in problem["detail"]) == (409, True)
    status, cancelled = await operator.post(f"operations/{order['id']}/cancel")
    assert (status, cancelled["state"]) == (202, "cancelled")
    monkeypatch.undo()
    await asyncio.sleep(1.5)
    assert await past.ids() == []


@pytest.mark.parametrize(
    ("account", "body", "status"),
    [
        ("nobody", {"since": "2026-11-01"}, 404),
        ("default", {"since": "2199-01-01"}, 409),
        ("default", {"since": "yesterday"}, 422),
        ("default", {"since": "0001-01-01"}, 409),
        ("default", {"since": (datetime.now(UTC).date() - timedelta(days=402)).isoformat()}, 409),
        ("default", {}, 422),
    ],
)
async def test_an_order_that_makes_no_sense_is_refused(shop: Shop, account: str, body: dict[str, str], status: int) -> None:
    daemon = await shop.open(admin_tokens=ANN)
    assert (await Operator(daemon.admin_url).post(f"provider/accounts/{account}/close-gaps", body))[0] == status


async def test_an_order_that_fails_by_a_defect_ends_with_its_error_and_blocks_no_other(
    past: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    daemon = await past.open(public_url=OTHER_URL, admin_tokens=ANN)
    operator = Operator(daemon.admin_url)
    path, today = "provider/accounts/default/close-gaps", datetime.now(UTC).date()

    async def fail(*_: object) -> int:
        raise OverflowError("date value out of range")

    with monkeypatch.context() as patch:
        patch.setattr("webhookd.sync.gap_closer.GapCloser._close_day", fail)
        failed = await operator.ended(await operator.order(path, since=today.isoformat()), deadline=60)
    assert (failed["state"], failed["error"]) == ("failed", f"OverflowError at {today}: the daemon's log has more")
    ended = await operator.ended(await operator.order(path, since=today.isoformat()), deadline=60)
    assert ended["state"] == "done"


async def test_the_command_closes_gaps_and_says_how_many(past: Shop) -> None:
    daemon = await past.open(public_url=OTHER_URL, admin_tokens=ANN)
    found = await ran(daemon.admin_url, "gaps", "close", "--since", "4d", "--yes", token=ANN["ann"])
    assert found.code == 0, found.out + found.err
    assert "5 days compared, 10 events taken from the history" in found.out
    assert len(await past.ids()) == 10


async def test_old_rows_are_removed(start: Start, connection: Connection) -> None:
    daemon = await start()
    await connection.execute(
        """
        INSERT INTO webhookd.provider_days (account, day, completeness)
        SELECT 'default', (now() - make_interval(days => n))::date, 'whole' FROM unnest(ARRAY[1, 700, 800]) AS n;
        INSERT INTO webhookd.provider_calls (id, account, at, name, seconds)
        SELECT gen_random_uuid(), a, now() - make_interval(secs => n), 'webhooks', 0
        FROM generate_series(1, 250) AS n, unnest(ARRAY['default', 'eu']) AS a;
        INSERT INTO webhookd.provider_notifications (account, notification_id, status, reason, event_date)
        SELECT 'default', n::text, 'foreign', 'x', now() - make_interval(days => n) FROM unnest(ARRAY[1, 500]) AS n;
        """
    )
    await ProviderState(daemon.database, uuid4()).remove_old("default")
    counts = """
        SELECT
            (SELECT count(*) FROM webhookd.provider_days), (SELECT count(*) FROM webhookd.provider_notifications),
            (SELECT count(*) FROM webhookd.provider_calls WHERE account = 'default'),
            (SELECT count(*) FROM webhookd.provider_calls WHERE account = 'eu')
    """
    assert tuple(await connection.fetchrow(counts) or ()) == (2, 1, 200, 250)


async def test_the_calls_are_counted_and_kept_for_people(shop: Shop) -> None:
    daemon = await shop.open()
    kept = "SELECT count(*) FROM webhookd.provider_calls WHERE name = 'notifications' AND error IS NULL"
    await until(lambda: shop.connection.fetchval(kept), "the calls are kept", deadline=30)
    labels = {"account": "default", "outcome": "done"}
    assert (daemon.metrics.registry.get_sample_value("webhookd_provider_calls_total", labels) or 0) >= 2


async def test_a_quiet_account_costs_at_most_twenty_calls_an_hour(shop: Shop, provider: Simulator) -> None:
    """The gap closer may take eight of them: one each ten minutes, and each hour the second one of a thorough look."""
    await shop.open(gap_every=1)
    await shop.until_whole(listed=0)
    before = sum("notifications" in call.name for call in provider.calls)
    looked = "SELECT compared_at FROM webhookd.provider_accounts"
    passes = {await shop.connection.fetchval(looked)}

    async def six() -> bool:
        passes.add(await shop.connection.fetchval(looked))
        return len(passes) > 6

    await until(six, "six comparisons", deadline=60)
    calls = sum("notifications" in call.name for call in provider.calls) - before
    assert calls <= len(passes) + 1


async def quiet(seconds: float = 3.0) -> None:
    """Waits for some comparisons: what must not happen could happen in each."""
    await asyncio.sleep(seconds)


def bytes_of(answer: web.Response) -> bytes:
    assert isinstance(answer.body, bytes)
    return answer.body


def spoil(provider: Simulator, monkeypatch: pytest.MonkeyPatch, change: Callable[[web.Request, Any], Any]) -> None:
    """Lets `change` replace answers of the REST API."""
    real = provider._rest.answer

    async def answer(request: web.Request) -> Any:
        account, got = await real(request)
        return account, change(request, got) or got

    monkeypatch.setattr(provider._rest, "answer", answer)


async def test_two_webhooks_of_ours_bring_each_event_once_whatever_comes_and_whatever_is_recovered(
    shop: Shop, provider: Simulator
) -> None:
    daemon = await shop.open()
    first = shop.webhook
    assert first is not None
    second = provider.register(first.url)
    for _ in range(3):
        provider.make()
    await until(lambda: _equals(shop.processed(), 3), "three events came, each twice", deadline=30)
    both = provider.make(REFUND, withheld=True)  # lost by both
    await until(lambda: _equals(shop.processed(), 4), "the refund is recovered", deadline=30)
    first.status = "inactive"
    provider.make(REFUND)  # the second one delivers, and the first one's notification stands in the history as failed
    await until(lambda: _equals(shop.processed(), 5), "the second refund came", deadline=30)
    await shop.until_whole(listed=10, ours=10, missing=0)
    await quiet()
    late = next(one for one in both if one.webhook_id == second.id)
    assert await provider._deliverer.ping(provider.account(), second, late)
    await quiet(1.0)
    assert len(shop.events) == len({event.payload["id"] for event in shop.events}) == 5
    assert daemon.metrics.registry.get_sample_value("webhookd_body_mismatches_total", {"account": "default"}) == 0


async def test_two_events_of_one_webhook_about_one_entity_at_one_instant_are_both_taken(
    start: Start, connection: Connection
) -> None:
    """Events of one request share their eventDate. The same event under another id is one."""
    async with Simulator(seed=8, clock=Clock(datetime.now(UTC) - timedelta(minutes=5), speed=0)) as provider:
        shop = Shop(start, provider, connection)
        shop.webhook = provider.register(OTHER_URL)
        await whole_days(connection)
        await shop.open(public_url=OTHER_URL)
        updated = partial(provider.make, "net.authorize.customer.updated", number=7, withheld=True)
        some = [made(updated(changes={"description": text})) for text in ("first", "second", "second")]
        await shop.until_whole(listed=3, ours=3)
        await until(lambda: _equals(shop.processed(), 2), "both are processed")
        ids = await shop.ids()
        assert (len(ids), len({*ids} & {one.id for one in some})) == (2, 2)
        assert sorted(event.payload["description"] for event in shop.events) == ["first", "second"]


@pytest.mark.parametrize("kind", ["500", "latin-1", "403", "404 as HTML", "hostile id"])
async def test_one_notification_that_cannot_be_fetched_keeps_back_no_others(
    shop: Shop, provider: Simulator, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    monkeypatch.setattr("webhookd.authorizenet.api.limits._BASE", 0.1)
    monkeypatch.setattr("webhookd.authorizenet.api.limits._CAP", 0.3)
    monkeypatch.setattr("webhookd.sync.role.clients_of", partial(clients_of, patience=1.0))
    poison: list[Notification] = []

    def change(request: web.Request, got: web.Response) -> web.Response | None:
        if kind == "hostile id" and poison and request.path.endswith("/notifications"):
            return web.Response(body=bytes_of(got).replace(poison[0].id.encode(), b"0f/x_1"), content_type="application/json")
        if not poison or not request.path.endswith(poison[0].id):
            return None
        if kind == "500":
            return web.Response(status=500, text="<html>oops</html>")
        if kind == "403":
            return json({"status": 403, "reason": "FORBIDDEN", "message": "no", "correlationId": "1"}, 403)
        if kind == "404 as HTML":
            return web.Response(status=404, text="<html>Not Found</html>")
        spoiled = bytes_of(got).replace(b'"payload"', b'"x":"caf\xe9","payload"')
        return web.Response(body=spoiled, content_type="application/json")

    spoil(provider, monkeypatch, change)
    await shop.open(webhook_guardian="off")
    provider.make()
    await until(shop.processed, "an event came as a webhook")
    poison.append(made(provider.make(REFUND, withheld=True)))
    lost = {made(provider.make(REFUND, withheld=True)).id for _ in range(5)}

    async def recovered() -> bool:
        return lost <= set(await shop.ids())

    await until(recovered, "all others are recovered", deadline=90)
    await shop.until_whole(unreadable=0 if kind == "latin-1" and poison[0].id in await shop.ids() else 1, missing=0)


async def test_if_the_provider_forbids_every_call_the_account_stops_after_two(
    shop: Shop, provider: Simulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """For as long as the list comes, only another call shows that the credentials are refused."""
    forbidden: list[str] = []

    def change(request: web.Request, _: web.Response) -> web.Response | None:
        if not lost or request.path.endswith("/notifications"):
            return None
        forbidden.append(request.path)
        return json({"status": 403, "reason": "FORBIDDEN", "message": "no", "correlationId": "1"}, 403)

    lost: list[str] = []
    spoil(provider, monkeypatch, change)
    await shop.open(webhook_guardian="off")
    provider.make()
    await until(shop.processed, "an event came as a webhook")
    lost += [made(provider.make(REFUND, withheld=True)).id for _ in range(5)]
    state = "SELECT credentials = 'refused' FROM webhookd.provider_accounts"
    await until(lambda: shop.connection.fetchval(state), "the account's calls stop", deadline=60)
    assert [path.rpartition("/")[2] in lost for path in forbidden] == [True, False]


async def test_an_id_that_no_index_can_hold_does_not_keep_the_account_from_its_other_gaps(
    shop: Shop, provider: Simulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    identifier = "".join(f"{number:03x}" for number in range(1365))  # 4095 characters, which no compression makes short

    def change(request: web.Request, got: web.Response) -> web.Response | None:
        if not request.path.endswith("/notifications") or request.query["offset"] != "0":
            return None
        page = loads(bytes_of(got))
        page["notifications"].append({"notificationId": identifier, "eventType": REFUND})
        return json(page)

    spoil(provider, monkeypatch, change)
    await shop.open()
    provider.make()
    await until(shop.processed, "an event came as a webhook")
    lost = made(provider.make(REFUND, withheld=True))
    await until(lambda: _has(shop, lost.id), "the gap is closed", deadline=20)
    assert (await shop.day())["completeness"] != "whole"


@pytest.mark.parametrize("webhook_id", ["\x00", "x" * 100_000], ids=["zero", "long"])
async def test_an_event_that_names_an_odd_webhook_does_not_keep_the_account_from_its_gaps(
    shop: Shop, provider: Simulator, webhook_id: str
) -> None:
    daemon = await shop.open()
    provider.make()
    await until(shop.processed, "an event came as a webhook")
    body = dumps(loads(sample(REFUND, 1).body) | {"webhookId": webhook_id}).encode()
    key = provider.account().signature_key
    url, headers = f"{daemon.public_url}/webhooks/authorize-net", {"X-ANET-Signature": sign(body, key)}
    async with aiohttp.ClientSession() as http, http.post(url, data=body, headers=headers) as response:
        assert response.status == 200
    lost = made(provider.make(REFUND, withheld=True))
    await until(lambda: _has(shop, lost.id), "the gap is closed", deadline=20)
    ours = await shop.connection.fetchval("SELECT our_webhooks FROM webhookd.provider_accounts")
    assert all(len(one) < 100 for one in ours)


@pytest.mark.parametrize("kind", ["a byte order mark", "no webhook"])
async def test_two_events_at_one_instant_are_both_taken_if_their_answers_have(
    start: Start, connection: Connection, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    def change(request: web.Request, got: web.Response) -> web.Response | None:
        if "/notifications/" not in request.path:
            return None
        if kind == "no webhook":
            return json({name: value for name, value in loads(bytes_of(got)).items() if name != "webhookId"})
        return web.Response(body=b"\xef\xbb\xbf" + bytes_of(got), content_type="application/json")

    async with Simulator(seed=8, clock=Clock(datetime.now(UTC) - timedelta(minutes=5), speed=0)) as provider:
        spoil(provider, monkeypatch, change)
        shop = Shop(start, provider, connection)
        shop.webhook = provider.register(OTHER_URL)
        await whole_days(connection)
        await shop.open(public_url=OTHER_URL)
        updated = partial(provider.make, "net.authorize.customer.updated", number=7, withheld=True)
        for text in ("first", "second", "second"):
            updated(changes={"description": text})
        await shop.until_whole(listed=3, ours=3)
        await until(lambda: _equals(shop.processed(), 2), "both are processed")
        assert sorted(event.payload["description"] for event in shop.events) == ["first", "second"]


async def _has(shop: Shop, identifier: str) -> bool:
    return identifier in await shop.ids()


async def test_several_notifications_in_a_row_that_cannot_be_fetched_keep_back_no_others(
    shop: Shop, provider: Simulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("webhookd.authorizenet.api.limits._BASE", 0.1)
    monkeypatch.setattr("webhookd.authorizenet.api.limits._CAP", 0.3)
    monkeypatch.setattr("webhookd.sync.role.clients_of", partial(clients_of, patience=0.5))
    poison: list[str] = []

    def change(request: web.Request, _: web.Response) -> web.Response | None:
        is_poisoned = any(request.path.endswith(one) for one in poison)
        return web.Response(status=500, text="<html>oops</html>") if is_poisoned else None

    spoil(provider, monkeypatch, change)
    await shop.open(webhook_guardian="off")
    provider.make()
    await until(shop.processed, "an event came as a webhook")
    notifications = [made(provider.make(REFUND, withheld=True)).id for _ in range(9)]
    poison += notifications[:7]  # they are older, so that each look begins with them

    async def recovered() -> bool:
        return set(notifications[7:]) <= set(await shop.ids())

    await until(recovered, "the others are recovered", deadline=90)
    await shop.until_whole(unreadable=7, missing=0)


async def test_while_nothing_can_be_fetched_the_day_says_what_is_missing(
    shop: Shop, provider: Simulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else only looks at lists that are empty by mistake would be recorded, and the day could become whole."""
    monkeypatch.setattr("webhookd.authorizenet.api.limits._BASE", 0.1)
    monkeypatch.setattr("webhookd.authorizenet.api.limits._CAP", 0.3)
    monkeypatch.setattr("webhookd.sync.role.clients_of", partial(clients_of, patience=0.5))
    away: list[bool] = []

    def change(request: web.Request, _: web.Response) -> web.Response | None:
        is_away = away and not request.path.endswith("/notifications")
        return web.Response(status=500, text="<html>oops</html>") if is_away else None

    spoil(provider, monkeypatch, change)
    await shop.open(webhook_guardian="off")
    provider.make()
    await shop.until_whole(listed=1, ours=1)
    away.append(True)
    for _ in range(4):
        provider.make(REFUND, withheld=True)
    await shop.until_whole(listed=5, ours=1, missing=4, unreadable=0)
    away.clear()
    await shop.until_whole(listed=5, ours=5, recovered=4, missing=0)


@pytest.mark.parametrize("days", [20, -40])
async def test_after_postgresqls_clock_was_wrong_the_days_are_judged_anew_and_nothing_is_lost(
    shop: Shop, provider: Simulator, monkeypatch: pytest.MonkeyPatch, days: int
) -> None:
    await shop.connection.execute(
        "INSERT INTO webhookd.provider_accounts (account, compared_from) VALUES ('default', now() - interval '3 days')"
    )
    daemon = await shop.open()
    provider.make()
    await until(shop.processed, "an event came as a webhook")
    right = daemon.database.now
    for hours in (0, 2):  # two thorough looks make a day whole
        monkeypatch.setattr(daemon.database, "now", partial(_shifted, right, timedelta(days=days, hours=hours)))
        made(provider.make(REFUND, withheld=True))
        await until(partial(_looked, provider, _looks(provider) + 8), "some looks by the wrong clock", deadline=60)
    if days > 0:
        whole = "SELECT count(*) > 2 FROM webhookd.provider_days WHERE day <= now()::date AND completeness = 'whole'"
        await until(lambda: shop.connection.fetchval(whole), "the clock ends days too early", deadline=60)
    monkeypatch.setattr(daemon.database, "now", right)
    made(provider.make(REFUND, withheld=True))
    judged = """
        SELECT bool_or(d.ours = 4 AND d.missing = 0 AND d.day = now()::date) AND bool_and(d.completeness <> 'whole')
            AND bool_and(d.looked_at IS NULL OR d.looked_at <= now())
            AND bool_and(a.compared_to BETWEEN a.compared_from::date AND now()::date)
        FROM webhookd.provider_days d JOIN webhookd.provider_accounts a USING (account) WHERE d.day <= now()::date
    """
    await until(lambda: shop.connection.fetchval(judged), "the days are judged by the right clock", deadline=60)
    shown = await daemon.database.all(queries.list_provider_days, account="default", days=14)
    assert shown[0]["day"] == datetime.now(UTC).date(), "no day that is to come is shown"
    await until(lambda: _equals(shop.processed(), 4), "all are processed", deadline=30)


def _shifted(now: Callable[[], datetime], by: timedelta) -> datetime:
    return now() + by


def _looks(provider: Simulator) -> int:
    return sum(call.name == "GET notifications" for call in provider.calls)


def _looked(provider: Simulator, number: int) -> bool:
    return _looks(provider) >= number


def dated(text: str) -> Callable[[web.Request, web.Response], web.Response | None]:
    """Returns a change of the provider's answers: each notification has the date `text`."""

    def change(request: web.Request, got: web.Response) -> web.Response | None:
        if request.method != "GET" or "/notifications" not in request.path or got.status != 200:
            return None
        body = loads(bytes_of(got))
        for row in body.get("notifications", [body]):
            row["eventDate"] = text
        return json(body)

    return change


async def test_a_notification_without_a_date_from_before_the_credentials_is_not_taken(
    shop: Shop, provider: Simulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    shop.webhook = provider.register(OTHER_URL)
    provider.make(REFUND, withheld=True)
    spoil(provider, monkeypatch, dated("12/01/2026 02:44:00 AM"))
    await shop.open(public_url=OTHER_URL)
    noted = "SELECT reason FROM webhookd.provider_notifications WHERE status = 'unreadable'"
    assert "has a date that can be read" in await until(lambda: shop.connection.fetchval(noted), "it is noted", deadline=30)
    await quiet()
    assert await shop.ids() == []


async def test_a_notification_that_is_dated_far_ahead_is_taken_once(
    shop: Shop, provider: Simulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A young one may be on its way, and this one would be young for years."""

    shop.webhook = provider.register(OTHER_URL)
    spoil(provider, monkeypatch, dated("2999-12-31T23:59:59.999"))
    await shop.open(gap_grace=900, public_url=OTHER_URL)
    lost = made(provider.make(REFUND, withheld=True))
    await until(lambda: _equals(shop.processed(), 1), "it is processed", deadline=60)
    await quiet()
    assert await shop.ids() == [lost.id]
    assert len(shop.events) == 1
    assert await shop.connection.fetchval("SELECT count(*) FROM webhookd.provider_notifications") == 0


async def test_an_order_waits_with_the_reason_while_no_webhook_is_known_as_ours(shop: Shop, provider: Simulator) -> None:
    provider.register(OTHER_URL)
    daemon = await shop.open(admin_tokens=ANN)
    provider.make(withheld=True)
    operator = Operator(daemon.admin_url)
    today = datetime.now(UTC).date().isoformat()
    order = await operator.order("provider/accounts/default/close-gaps", since=today)

    async def waits() -> bool:
        return "set WEBHOOKD_PUBLIC_URL" in ((await operator.operation(order))["held_by"] or "")

    await until(waits, "the order waits", deadline=30)
    assert (await operator.operation(order))["state"] == "working"


async def test_an_order_that_the_provider_rejects_fails_with_the_reason(
    shop: Shop, provider: Simulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    def change(request: web.Request, got: web.Response) -> web.Response | None:
        if request.path.endswith("/notifications") and request.query["from_date"] < "2026-11-01":
            return json({"status": 400, "reason": "INVALID_DATA", "message": "from_date is too old", "correlationId": "1"}, 400)
        return None

    spoil(provider, monkeypatch, change)
    daemon = await shop.open(admin_tokens=ANN)
    operator = Operator(daemon.admin_url)
    order = await operator.order("provider/accounts/default/close-gaps", since="2026-01-01")
    ended = await operator.ended(order, deadline=60)
    assert ended["state"] == "failed"
    assert "from_date is too old" in ended["error"]
    assert sum(call.status == 400 for call in provider.calls) == 1


async def test_an_order_takes_what_was_foreign_by_a_wrong_public_url(shop: Shop, provider: Simulator) -> None:
    daemon = await shop.open(public_url="http://127.0.0.1:9/wrong", webhook_guardian="off")
    provider.make()
    await until(shop.processed, "an event came as a webhook")
    assert shop.webhook is not None
    del provider.account().webhooks[shop.webhook.id]
    provider.register(OTHER_URL)  # ours, registered anew at an address that does not work yet
    lost = made(provider.make(REFUND, withheld=True))
    noted = "SELECT status FROM webhookd.provider_notifications"
    await until(lambda: _equals(shop.connection.fetchval(noted), "foreign"), "it is foreign", deadline=30)
    await daemon.stop()
    again = await shop.open(public_url=OTHER_URL, admin_tokens=ANN, webhook_guardian="off")
    operator = Operator(again.admin_url)
    today = datetime.now(UTC).date().isoformat()
    ended = await operator.ended(await operator.order("provider/accounts/default/close-gaps", since=today), deadline=60)
    assert (ended["state"], ended["reasons"]) == ("done", {"recovered": 1})
    assert lost.id in await shop.ids()


async def test_the_events_of_an_account_that_got_another_name_are_not_taken_again(shop: Shop, provider: Simulator) -> None:
    daemon = await shop.open()
    for _ in range(3):
        provider.make()
    await until(lambda: _equals(shop.processed(), 3), "three events came")
    await daemon.stop()
    assert shop.webhook is not None
    own = provider.account()
    renamed = {
        "signature_keys": own.signature_key,
        "api_login_id": own.login_id,
        "transaction_key": own.transaction_key,
        "provider": provider.url,
        "public_url": shop.webhook.url,
    }
    again = await shop.open(
        signature_keys=(), api_login_id=None, transaction_key=(), accounts={"shop": renamed}, admin_tokens=ANN
    )
    accounts = "SELECT count(*) FROM webhookd.provider_accounts WHERE account = 'shop'"
    await until(lambda: shop.connection.fetchval(accounts), "the account has its new name", deadline=30)
    operator = Operator(again.admin_url)
    since = (datetime.now(UTC) - timedelta(days=1)).date().isoformat()
    ended = await operator.ended(await operator.order("provider/accounts/shop/close-gaps", since=since), deadline=60)
    assert (ended["state"], ended["reasons"]) == ("done", {"recovered": 0})
    assert len(shop.events) == 3


async def test_with_credentials_of_another_account_the_comparison_begins_anew(shop: Shop, provider: Simulator) -> None:
    daemon = await shop.open()
    provider.make()
    await shop.until_whole(ours=1)
    await daemon.stop()
    # As if these days had been compared with the history of another account.
    await shop.connection.execute("UPDATE webhookd.provider_accounts SET gateway_id = 'another', compared_from = '2026-01-01'")
    await shop.connection.execute("UPDATE webhookd.provider_days SET completeness = 'whole'")
    await shop.connection.execute(
        "INSERT INTO webhookd.provider_days (account, day, completeness) VALUES ('default', now()::date - 3, 'whole')"
    )
    await shop.connection.execute("UPDATE webhookd.provider_accounts SET gateway_since = now() - interval '4 days'")
    await shop.open()
    began = "SELECT compared_from > '2026-11-01' AND gateway_id <> 'another' FROM webhookd.provider_accounts"
    await until(lambda: shop.connection.fetchval(began), "the comparison begins anew", deadline=30)
    known = "SELECT completeness FROM webhookd.provider_days WHERE day = now()::date - 3"
    assert await shop.connection.fetchval(known) == "not known"


async def test_what_a_former_webhook_of_ours_lost_is_still_taken(shop: Shop, provider: Simulator) -> None:
    """After an outage, a person may register the webhook anew, and many events may come by the new one before the look."""
    daemon = await shop.open(gap_grace=3600)
    provider.make()
    await shop.until_whole(listed=1, ours=1)
    noted = "SELECT cardinality(our_webhooks) FROM webhookd.provider_accounts"
    await until(lambda: shop.connection.fetchval(noted), "the webhook is known as ours", deadline=30)
    lost = {made(provider.make(REFUND, withheld=True)).id for _ in range(3)}
    await daemon.stop()
    assert shop.webhook is not None
    del provider.account().webhooks[shop.webhook.id]
    shop.webhook = None
    daemon = await shop.open(gap_every=3600, gap_grace=3600)
    for _ in range(55):
        provider.make()
    await until(lambda: _equals(shop.processed(), 56), "the new webhook brings events", deadline=60)
    await daemon.stop()
    await shop.open()

    async def recovered() -> bool:
        return lost <= set(await shop.ids())

    await until(recovered, "what the former webhook lost is recovered", deadline=60)
