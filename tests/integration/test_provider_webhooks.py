"""The registration of a webhook at the simulated provider, its guardian, and what is changed there."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any, TypeAlias
from unittest.mock import AsyncMock

import asyncpg
import pytest
import pytest_asyncio
import structlog

from tests.conftest import Start
from tests.helpers.running import KEY
from tests.helpers.secrets import note
from tests.helpers.wait import until
from webhookd.authorizenet.api.client import ProviderClient
from webhookd.authorizenet.api.errors import CallRejectedError, ProviderUnavailableError, UnreadableAnswerError
from webhookd.authorizenet.notification import EVENT_TYPES
from webhookd.authorizenet.signature import fingerprint
from webhookd.daemon import Daemon
from webhookd.errors import ConflictError, NotFoundError, UnavailableError
from webhookd.simulate import Faults, Simulator
from webhookd.simulate import Webhook as Registered
from webhookd.store import provider_pings
from webhookd.store.provider_webhooks import WebhookRecords
from webhookd.sync import pings
from webhookd.sync.guardian import Guardian
from webhookd.sync.pings import HeldNotifications, PingFailedError
from webhookd.sync.registration import Registrar

Connection: TypeAlias = "asyncpg.Connection[asyncpg.Record]"
SALE, REFUND = "net.authorize.payment.authcapture.created", "net.authorize.payment.refund.created"
LIMITS = (14 * 86400.0, 300.0)  # seconds: the greatest age of an event, and by how much its date may lie ahead
CHANGES = "SELECT change FROM provider_changes ORDER BY at, id"


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(provider_pings, "AGE", 0.3)
    monkeypatch.setattr(provider_pings, "_AHEAD", 0.2)
    monkeypatch.setattr(provider_pings, "LEAD", 0.4)
    monkeypatch.setattr(pings, "_LATE", 0.5)


@pytest_asyncio.fixture
async def daemon(start: Start) -> Daemon:
    return await start(roles="receive")


@pytest_asyncio.fixture
async def simulator() -> AsyncIterator[Simulator]:
    async with Simulator() as one:
        account = one.account(signature_key=KEY)
        note([account.transaction_key])
        yield one


@pytest_asyncio.fixture
async def client(simulator: Simulator) -> AsyncIterator[ProviderClient]:
    async with ProviderClient(simulator.access(), patience=0) as one:
        yield one


@pytest_asyncio.fixture
async def steps() -> list[str]:
    return []


@pytest_asyncio.fixture
async def registrar(daemon: Daemon, client: ProviderClient, steps: list[str]) -> Registrar:
    return registrar_of(daemon, client, steps)


def registrar_of(daemon: Daemon, client: ProviderClient, steps: list[str], *, dry_run: bool = False) -> Registrar:
    records = WebhookRecords(daemon.database, "default", "ann")
    held = HeldNotifications(records, daemon.receipts, *LIMITS, client)
    return Registrar(client, records, held, steps.append, dry_run=dry_run)


def url_of(daemon: Daemon) -> str:
    return f"{daemon.public_url}/webhooks/authorize-net"


def registered(simulator: Simulator) -> list[Registered]:
    return list(simulator.account().webhooks.values())


def changing_calls(simulator: Simulator) -> list[str]:
    return [call.name for call in simulator.calls if call.name.startswith(("POST ", "PUT ", "DELETE "))]


async def changes(connection: Connection) -> list[str]:
    return [row["change"] for row in await connection.fetch(CHANGES)]


async def events(connection: Connection) -> int:
    return int(await connection.fetchval("SELECT count(*) FROM ledger"))


def keep_silent(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lets a ping wait no longer than a moment for a sample that will not come."""
    monkeypatch.setattr(pings, "_ARRIVAL", 0.5)


async def test_one_command_sets_everything_up_and_run_again_changes_nothing(
    registrar: Registrar, daemon: Daemon, simulator: Simulator, connection: Connection, steps: list[str]
) -> None:
    outcome = await registrar.setup(url_of(daemon))
    (webhook,) = registered(simulator)
    assert (webhook.status, webhook.url, webhook.event_types) == ("active", url_of(daemon), EVENT_TYPES)
    assert outcome.sample is not None
    assert outcome.sample.key_fingerprint == fingerprint(KEY)
    assert await changes(connection) == ["create", "ping", "activate"]
    assert {row["actor"] for row in await connection.fetch("SELECT actor FROM provider_changes")} == {"ann"}
    assert [call.split("/")[0] for call in changing_calls(simulator)] == ["POST webhooks", "POST webhooks", "PUT webhooks"]
    assert any("verified" in step for step in steps)
    assert await events(connection) == 0, "the ping's sample is no event"
    row = await connection.fetchrow("SELECT webhook_id, webhook_state, webhook_event_types FROM provider_accounts")
    assert row is not None
    assert tuple(row) == (webhook.id, "ok", sorted(EVENT_TYPES))

    simulator.make(SALE)
    await until(lambda: events(connection), "a real notification is an event")

    called = len(changing_calls(simulator))
    assert (await registrar.setup(url_of(daemon).replace("http://", "HTTP://") + "/")).changes == ()
    assert len(changing_calls(simulator)) == called
    assert await changes(connection) == ["create", "ping", "activate"]


async def test_a_dry_run_shows_the_changes_and_makes_none(
    daemon: Daemon, client: ProviderClient, simulator: Simulator, connection: Connection, steps: list[str]
) -> None:
    dry = registrar_of(daemon, client, steps, dry_run=True)
    outcome = await dry.setup(url_of(daemon), [SALE])
    assert [str(one) for one in outcome.changes] == [
        f"url: {url_of(daemon)}",
        f"event type: {SALE}",
        "status: inactive",
        "status: inactive → active",
    ]
    webhook = simulator.register(url_of(daemon))
    await dry.update(webhook.id, event_types=[SALE], name="shop")
    await dry.switch(webhook.id, active=False)
    await dry.delete(webhook.id)
    await dry.create("https://other.example.com/x")
    assert changing_calls(simulator) == []
    assert await changes(connection) == []
    assert registered(simulator) == [webhook]


async def test_a_webhook_is_not_activated_before_its_ping_has_come(
    registrar: Registrar, simulator: Simulator, connection: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    keep_silent(monkeypatch)
    with pytest.raises(PingFailedError, match="did not answer the ping"):
        await registrar.setup("http://127.0.0.1:9/webhooks/authorize-net")
    (webhook,) = registered(simulator)
    assert webhook.status == "inactive"
    assert await changes(connection) == ["create"]


async def test_a_ping_that_another_program_answers_is_no_proof(
    registrar: Registrar, simulator: Simulator, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    keep_silent(monkeypatch)
    monkeypatch.setattr(simulator._rest, "_ping", _answered)
    with pytest.raises(PingFailedError, match="no webhookd with this database knew a sample"):
        await registrar.setup("http://127.0.0.1:9/webhooks/authorize-net")


async def _answered(*_: Any) -> bool:
    return True


async def test_a_ping_whose_signature_does_not_verify_is_no_proof_and_the_message_says_why(
    registrar: Registrar, daemon: Daemon, simulator: Simulator, connection: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pings, "_ARRIVAL", 3)  # samples of refused webhooks are stored within a second
    simulator.account().signature_keys = [("F" * 128, None)]
    with pytest.raises(PingFailedError, match="webhookd refused the ping"):
        await registrar.setup(url_of(daemon))
    assert registered(simulator)[0].status == "inactive"
    simulator.account().signature_keys = [(KEY, None)]
    await registrar.setup(url_of(daemon))  # goes on from there
    assert registered(simulator)[0].status == "active"
    assert await changes(connection) == ["create", "ping", "activate"]


async def test_if_the_ping_cannot_be_closed_the_webhook_is_not_activated(
    registrar: Registrar, daemon: Daemon, simulator: Simulator, connection: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fails(*_: Any) -> None:
        raise UnavailableError("postgresql", "away")

    with monkeypatch.context() as patch:
        patch.setattr(WebhookRecords, "close_ping", fails)
        with pytest.raises(UnavailableError):
            await registrar.setup(url_of(daemon))
    (webhook,) = registered(simulator)
    assert webhook.status == "inactive"
    # Also a person who activates it by hand waits for the ping's end.
    await connection.execute("UPDATE provider_pings SET closes_at = now() + interval '2 seconds'")
    await registrar.switch(webhook.id, active=True)
    assert await connection.fetchval("SELECT count(*) FROM provider_pings WHERE closes_at > now()") == 0
    assert webhook.status == "active"


async def test_after_a_creation_without_an_answer_no_second_webhook_is_made(
    registrar: Registrar,
    daemon: Daemon,
    client: ProviderClient,
    simulator: Simulator,
    connection: Connection,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    create = client.create_webhook

    async def lost(*arguments: Any, **options: Any) -> Any:
        await create(*arguments, **options)
        raise ProviderUnavailableError("create webhook: the connection ended before the whole answer")

    monkeypatch.setattr(client, "create_webhook", lost)
    await registrar.setup(url_of(daemon))
    (webhook,) = registered(simulator)
    assert webhook.status == "active"
    assert await changes(connection) == ["create", "create", "ping", "activate"]


async def test_a_second_webhook_on_one_url_is_refused(registrar: Registrar, daemon: Daemon, simulator: Simulator) -> None:
    first = simulator.register(url_of(daemon))
    other = simulator.register(f"{daemon.public_url}/other")
    same = url_of(daemon).replace("http://", "HTTP://") + "/"
    with pytest.raises(ConflictError, match=first.id):
        await registrar.create(same)
    with pytest.raises(ConflictError, match=first.id):
        await registrar.update(other.id, url=same)
    second = simulator.register(url_of(daemon))
    second.status = "inactive"
    with pytest.raises(ConflictError, match=first.id):
        await registrar.switch(second.id, active=True)
    second.status = "active"
    with pytest.raises(ConflictError, match="each event comes 2 times"):
        await registrar.setup(url_of(daemon))
    assert changing_calls(simulator) == []


async def test_each_change_is_made_and_kept(
    registrar: Registrar, daemon: Daemon, simulator: Simulator, connection: Connection
) -> None:
    await registrar.create(url_of(daemon), [SALE], name="shop")
    (webhook,) = registered(simulator)
    assert (webhook.status, webhook.name, webhook.event_types) == ("inactive", "shop", (SALE,))
    await registrar.update(webhook.id[:6], event_types=[SALE, REFUND])
    assert webhook.event_types == (SALE, REFUND)
    assert (await registrar.ping(webhook.id)).sample is not None
    await registrar.switch(webhook.id, active=True)
    with pytest.raises(ConflictError, match="pings inactive ones only"):
        await registrar.ping(webhook.id)
    await registrar.switch(webhook.id, active=False)
    assert webhook.status == "inactive"
    assert (await registrar.switch(webhook.id, active=False)).changes == ()
    await registrar.delete(webhook.id)
    assert registered(simulator) == []
    with pytest.raises(NotFoundError):
        await registrar.delete(webhook.id)
    assert await changes(connection) == ["create", "update", "ping", "activate", "deactivate", "delete"]


# The guardian


def guardian(daemon: Daemon, client: ProviderClient, simulator: Simulator, *, heal: bool = True, **options: Any) -> Guardian:
    access = replace(simulator.access(), public_url=url_of(daemon))
    return Guardian(client, daemon.database, access, daemon.receipts, LIMITS, heal=heal, **options)


async def state(connection: Connection) -> tuple[str, str | None]:
    row = await connection.fetchrow("SELECT webhook_state, webhook_detail FROM provider_accounts")
    assert row is not None
    return row["webhook_state"], row["webhook_detail"]


async def test_the_guardian_finds_each_state_by_one_call_and_reports_each_change_once(
    daemon: Daemon, client: ProviderClient, simulator: Simulator, connection: Connection
) -> None:
    noted: list[str] = []
    watching = guardian(daemon, client, simulator, heal=False, noted=noted.append)
    webhook = simulator.register(url_of(daemon))
    with structlog.testing.capture_logs() as logs:
        assert await watching.look() == "ok"
        assert await watching.look() == "ok"
        webhook.event_types = (SALE,)
        assert await watching.look() == "event_types"
        webhook.event_types = EVENT_TYPES
        webhook.status = "inactive"
        assert await watching.look() == "inactive"
        webhook.status = "active"
        second = simulator.register(url_of(daemon))
        assert await watching.look() == "doubled"
        del simulator.account().webhooks[second.id]
        webhook.url = "http://127.0.0.1:9/other"
        assert await watching.look() == "url"
    assert len(simulator.calls) == 6
    assert noted == ["ok", "ok", "event_types", "inactive", "doubled", "url"]
    said = [line for line in logs if line["event"] == "the webhook's registration changed"]
    assert [line["state"] for line in said] == ["ok", "event_types", "inactive", "doubled", "url"]
    del simulator.account().webhooks[webhook.id]
    assert await watching.look() == "missing"
    assert "webhookd provider setup" in str((await state(connection))[1])
    assert changing_calls(simulator) == []


async def test_a_webhook_that_no_look_has_shown_for_long_is_unknown_and_a_bad_state_stays(
    daemon: Daemon,
    client: ProviderClient,
    simulator: Simulator,
    connection: Connection,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    noted: list[str] = []
    watching = guardian(daemon, client, simulator, heal=False, noted=noted.append)
    webhook = simulator.register(url_of(daemon))

    async def fails() -> tuple[Any, ...]:
        raise UnreadableAnswerError("the list is no list")

    async def looks_after(interval: str) -> tuple[str, str | None]:
        await connection.execute(f"UPDATE provider_accounts SET webhook_seen_at = now() - interval '{interval}'")
        with monkeypatch.context() as patch:
            patch.setattr(client, "webhooks", fails)
            with pytest.raises(UnreadableAnswerError):
                await watching.look()
        return await state(connection)

    assert await watching.look() == "ok"
    assert (await looks_after("119 minutes"))[0] == "ok"
    seen, detail = await looks_after("121 minutes")
    assert seen == "unknown"
    assert "has not seen the webhook since" in str(detail)
    assert "the list is no list" in str(detail)
    assert (await looks_after("121 minutes")) == ("unknown", detail)
    assert noted == ["ok", "ok", "unknown", "unknown"]
    assert await watching.look() == "ok"
    watching, usual = guardian(daemon, client, simulator, heal=False, every=86_400), watching
    assert (await looks_after("26 hours"))[0] == "ok", "a guardian that looks once a day is not blind after one failed look"
    watching = usual
    assert await watching.look() == "ok"
    webhook.status = "inactive"
    assert await watching.look() == "inactive"
    assert (await looks_after("24 hours"))[0] == "inactive"
    age = "SELECT now() - webhook_seen_at < interval '1 minute' FROM provider_accounts"
    assert await connection.fetchval(age), "the alert goes on for longer than 25 hours"
    assert noted[-1] == "inactive"


async def test_a_look_that_shows_no_event_types_changes_nothing_and_all_types_that_become_some_are_a_loss(
    daemon: Daemon, client: ProviderClient, simulator: Simulator
) -> None:
    watching = guardian(daemon, client, simulator, heal=False)
    webhook = simulator.register(url_of(daemon))
    webhook.event_types = ()  # it gets all
    assert await watching.look() == "ok"
    webhook.event_types = (SALE,)
    assert await watching.look() == "event_types"
    webhook.event_types = ()
    assert await watching.look() == "ok"
    webhook.event_types = (SALE,)
    assert await watching.look() == "event_types"


@pytest.mark.parametrize("known", [True, False])
async def test_a_look_undoes_no_change_that_another_process_made_meanwhile(
    known: bool,
    daemon: Daemon,
    client: ProviderClient,
    simulator: Simulator,
    registrar: Registrar,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    noted: list[str] = []
    watching = guardian(daemon, client, simulator, heal=False, noted=noted.append)
    webhook = simulator.register(url_of(daemon))
    if known:
        assert await watching.look() == "ok"
    read = client.webhooks
    seen = await read()

    async def slow() -> tuple[Any, ...]:
        monkeypatch.setattr(client, "webhooks", read)
        await registrar.setup(url_of(daemon), [SALE])
        return seen

    monkeypatch.setattr(client, "webhooks", slow)
    await watching.look()
    assert noted == ["ok"] * known, "the list of this look is from before the change"
    assert (await WebhookRecords(daemon.database, "default", "ann").known()).event_types == frozenset({SALE})
    assert webhook.event_types == (SALE,)
    assert await watching.look() == "ok", "the types that somebody chose are no loss"


async def test_a_list_that_is_empty_by_mistake_is_no_missing_webhook(
    daemon: Daemon, client: ProviderClient, simulator: Simulator, connection: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    watching = guardian(daemon, client, simulator)
    simulator.register(url_of(daemon))
    await watching.look()

    async def empty() -> tuple[()]:
        return ()

    monkeypatch.setattr(client, "webhooks", empty)
    await watching.look()
    assert (await state(connection))[0] == "ok"


UNREADABLE: list[dict[str, Any]] = [
    {"webhookId": "a/../b", "status": "active", "url": "https://other.example.com/x", "eventTypes": [SALE]},
    {"webhookId": "b", "status": "active", "eventTypes": [SALE]},
    {"webhookId": "b", "url": "https://other.example.com/x", "eventTypes": [SALE]},
    {"webhookId": "b", "status": "active", "url": "https://other.example.com/x", "eventTypes": {"name": SALE}},
    {"status": "active"},
]


@pytest.fixture
def rows(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Returns a mapping from a webhook's id to what the provider shows of it."""
    plain, instead = Registered.shown, dict[str, Any]()
    monkeypatch.setattr(Registered, "shown", lambda one: instead[one.id] if one.id in instead else plain(one))
    return instead


@pytest.mark.parametrize("row", [*UNREADABLE, None])
async def test_a_webhook_that_cannot_be_read_hides_no_other_and_nothing_is_changed_on_a_guess(
    row: Any,
    daemon: Daemon,
    client: ProviderClient,
    simulator: Simulator,
    connection: Connection,
    registrar: Registrar,
    rows: dict[str, Any],
) -> None:
    webhook = simulator.register(url_of(daemon))
    rows[simulator.register("https://other.example.com/x").id] = row
    watching = guardian(daemon, client, simulator)
    with structlog.testing.capture_logs() as logs:
        assert [await watching.look(), await watching.look()] == ["ok", "ok"]
    said = [line["detail"] for line in logs if line["event"] == "webhookd cannot read a webhook"]
    assert len(said) == 1, "once"
    may_be_ours = not isinstance(row, dict) or not row.get("url")
    webhook.status = "inactive"
    assert await watching.look() == ("inactive" if may_be_ours else "ok"), "it may be active, and have our URL"
    assert webhook.status == ("inactive" if may_be_ours else "active")
    del simulator.account().webhooks[webhook.id]
    assert await watching.look() == ("unknown" if may_be_ours else "missing")
    if may_be_ours:
        assert said[0] in str((await state(connection))[1])
        before = changing_calls(simulator)
        for change in (registrar.setup, registrar.create):
            with pytest.raises(ConflictError, match="cannot read"):
                await change(url_of(daemon))
        assert changing_calls(simulator) == before


async def test_the_state_of_our_own_webhook_is_not_known_while_it_cannot_be_read(
    daemon: Daemon,
    client: ProviderClient,
    simulator: Simulator,
    connection: Connection,
    registrar: Registrar,
    rows: dict[str, Any],
) -> None:
    watching = guardian(daemon, client, simulator)
    webhook = simulator.register(url_of(daemon))
    own = webhook.shown()
    for lost in ({"url": None}, {"status": None}, {"eventTypes": 7}, {"webhookId": "a/b"}, {"webhookId": "a b", "url": 7}):
        rows.clear()
        assert await watching.look() == "ok"
        rows[webhook.id] = own | lost
        assert await watching.look() == "unknown", lost
        assert (await state(connection))[0] == "unknown"
        assert "cannot read" in str((await state(connection))[1])
        with pytest.raises((ConflictError, UnreadableAnswerError)):
            await registrar.setup(url_of(daemon))
    assert changing_calls(simulator) == []
    assert (await WebhookRecords(daemon.database, "default", "ann").known()).webhook_id == webhook.id


async def test_after_a_creation_whose_answer_cannot_be_read_no_second_webhook_is_made(
    registrar: Registrar, daemon: Daemon, simulator: Simulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = Registered.shown
    monkeypatch.setattr(Registered, "shown", lambda one: plain(one) | {"webhookId": "a/b"})
    with pytest.raises(ConflictError, match="cannot read"):
        await registrar.setup(url_of(daemon))
    assert len(registered(simulator)) == 1


async def test_an_inactive_webhook_is_healed_and_the_gap_is_closed(
    daemon: Daemon, client: ProviderClient, simulator: Simulator, connection: Connection
) -> None:
    closed: list[str] = []

    async def close() -> None:
        closed.append(registered(simulator)[0].status)

    healing = guardian(daemon, client, simulator, healed=close)
    webhook = simulator.register(url_of(daemon))
    await healing.look()
    webhook.status = "inactive"
    assert await healing.look() == "ok"
    assert webhook.status == "active"
    assert closed == ["active"]
    assert await changes(connection) == ["heal", "ping", "activate"]
    assert (await state(connection))[0] == "ok"
    assert await events(connection) == 0
    assert await connection.fetchval("SELECT count(*) FROM provider_tests") == 1


async def test_without_heal_and_without_a_ping_that_comes_nothing_is_activated(
    daemon: Daemon, client: ProviderClient, simulator: Simulator, connection: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    keep_silent(monkeypatch)
    webhook = simulator.register(url_of(daemon))
    webhook.status = "inactive"
    assert await guardian(daemon, client, simulator, heal=False).look() == "inactive"
    assert changing_calls(simulator) == []
    simulator.account().signature_keys = [("F" * 128, None)]
    assert await guardian(daemon, client, simulator).look() == "inactive"
    assert webhook.status == "inactive"
    assert await changes(connection) == ["heal"]
    reason = (await state(connection))[1]
    assert "tried to heal it" in str(reason)
    await guardian(daemon, client, simulator).look()
    assert (await state(connection))[1] == reason, "the reason stays while nothing else is tried"


async def test_a_webhook_is_healed_once_an_hour_and_three_times_a_day_by_all_replicas(
    daemon: Daemon, client: ProviderClient, simulator: Simulator, connection: Connection
) -> None:
    webhook = simulator.register(url_of(daemon))

    async def healed() -> bool:
        webhook.status = "inactive"
        await guardian(daemon, client, simulator).look()  # a new guardian each time, as after a restart
        return webhook.status == "active"

    async def later(interval: str) -> None:
        await connection.execute(f"UPDATE provider_changes SET at = at - interval '{interval}'")

    assert await healed()
    assert not await healed()
    assert "too often" in str((await state(connection))[1])
    await later("59 minutes")
    assert not await healed()
    await later("2 minutes")
    assert await healed()
    await later("2 hours")
    assert await healed()
    await later("2 hours")
    assert not await healed(), "three times within a day"
    await later("20 hours")
    assert await healed()


async def test_tries_whose_ping_does_not_come_use_up_nothing_of_the_day(
    daemon: Daemon, client: ProviderClient, simulator: Simulator, connection: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    keep_silent(monkeypatch)
    webhook = simulator.register(url_of(daemon))
    webhook.status = "inactive"
    simulator.account().signature_keys = [("F" * 128, None)]  # as with a proxy that is down, no ping comes
    for _ in range(4):
        assert await guardian(daemon, client, simulator).look() == "inactive"
        await guardian(daemon, client, simulator).look()  # within the hour
        await connection.execute("UPDATE provider_changes SET at = at - interval '61 minutes'")
        await connection.execute("UPDATE provider_pings SET closes_at = now()")
    assert await changes(connection) == ["heal"] * 4, "one try an hour"
    simulator.account().signature_keys = [(KEY, None)]
    assert await guardian(daemon, client, simulator).look() == "ok"
    assert webhook.status == "active"


async def test_a_healing_that_dies_in_the_middle_counts(
    daemon: Daemon, client: ProviderClient, simulator: Simulator, connection: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    webhook = simulator.register(url_of(daemon))
    webhook.status = "inactive"

    async def dies(_: str) -> bool:
        raise asyncio.CancelledError

    with monkeypatch.context() as patch:
        patch.setattr(client, "ping", dies)
        with pytest.raises(asyncio.CancelledError):
            await guardian(daemon, client, simulator).look()
    await guardian(daemon, client, simulator).look()
    assert webhook.status == "inactive"
    assert await changes(connection) == ["heal"]


async def test_the_guardian_leaves_alone_what_is_missing_or_inactive_on_purpose(
    daemon: Daemon, client: ProviderClient, simulator: Simulator, connection: Connection, registrar: Registrar
) -> None:
    healing = guardian(daemon, client, simulator)
    assert await healing.look() == "missing"
    assert registered(simulator) == []
    await registrar.create(url_of(daemon))
    assert await healing.look() == "inactive"
    await registrar.setup(url_of(daemon))
    await registrar.switch(registered(simulator)[0].id, active=False)
    assert await healing.look() == "inactive"
    assert "on purpose" in str((await state(connection))[1])
    assert registered(simulator)[0].status == "inactive"
    await registrar.setup(url_of(daemon))
    registered(simulator)[0].status = "inactive"
    assert await healing.look() == "ok"


async def test_without_a_url_the_webhook_of_an_earlier_look_is_watched_and_else_nothing_is_asked(
    daemon: Daemon, client: ProviderClient, simulator: Simulator, connection: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    noted: list[str | None] = []
    nameless = Guardian(client, daemon.database, simulator.access(), daemon.receipts, LIMITS, heal=True, noted=noted.append)
    assert await nameless.look() == "unknown"
    assert noted == [None], "nobody has set a webhook up, so no alert fires"
    watching = guardian(daemon, client, simulator, noted=noted.append)
    with monkeypatch.context() as patch:
        patch.setattr(client, "webhooks", AsyncMock(side_effect=UnreadableAnswerError("the list is no list")))
        for _ in range(2):
            with pytest.raises(UnreadableAnswerError):
                await watching.look()
    assert noted == [None] * 3, "nor if the list cannot be read"
    assert "WEBHOOKD_PUBLIC_URL" in str((await state(connection))[1])
    assert list(simulator.calls) == []
    webhook = simulator.register(url_of(daemon))
    await guardian(daemon, client, simulator).look()
    webhook.status = "inactive"
    assert await nameless.look() == "ok", "healed"
    assert webhook.status == "active"


async def test_while_another_process_changes_the_webhooks_the_guardian_waits_for_its_next_look(
    daemon: Daemon, client: ProviderClient, simulator: Simulator, connection: Connection
) -> None:
    webhook = simulator.register(url_of(daemon))
    webhook.status = "inactive"
    async with WebhookRecords(daemon.database, "default", "ann").alone():
        assert await guardian(daemon, client, simulator).look() == "inactive"
    assert await changes(connection) == []
    assert await guardian(daemon, client, simulator).look() == "ok"


async def test_the_role_sync_heals_a_webhook_and_closes_the_gap_though_another_replica_receives(
    start: Start, connection: Connection
) -> None:
    receiver = await start(roles="receive")
    async with Simulator(faults=Faults(pings_listed=True)) as simulator:
        own = simulator.account(signature_key=KEY)
        webhook = simulator.register(url_of(receiver))
        holder = await start(
            roles="sync",
            provider=simulator.url,
            api_login_id=own.login_id,
            transaction_key=own.transaction_key,
            public_url=url_of(receiver),
            webhook_guardian="heal",
            guardian_every=1,
            gap_every=3600,  # only the healing makes the gap closer look again
            gap_grace=0,
        )
        labels = {"account": "default", "state": "ok"}
        name = "webhookd_provider_webhook_state"
        await until(lambda: holder.metrics.registry.get_sample_value(name, labels), "the guardian has looked", deadline=60)
        await until(lambda: connection.fetchval("SELECT compared_at FROM provider_accounts"), "the gap closer has looked")
        webhook.status = "inactive"
        for _ in range(3):
            simulator.make(SALE)
        await until(lambda: webhook.status == "active", "the webhook is healed", deadline=60)
        query = "SELECT count(*) FROM events WHERE key_fingerprint = 'history'"
        await until(lambda: _equals(connection, query, 3), "the gap is closed", deadline=60)
        assert await events(connection) == 3, "the ping's sample, which the history lists, is no event"
        assert await changes(connection) == ["heal", "ping", "activate"]


async def _equals(connection: Connection, query: str, wanted: int) -> bool:
    return bool(await connection.fetchval(query) == wanted)


async def test_a_ping_that_the_provider_rejects_is_closed_at_once(
    registrar: Registrar,
    daemon: Daemon,
    simulator: Simulator,
    client: ProviderClient,
    connection: Connection,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    webhook = simulator.register(url_of(daemon))
    webhook.status = "inactive"
    ping = client.ping

    async def late(identifier: str) -> bool:
        webhook.status = "active"  # somebody activates it in the Merchant Interface
        simulator.make(SALE)
        await until(lambda: connection.fetchval("SELECT count(*) FROM provider_tests"), "the notification is held")
        return await ping(identifier)

    monkeypatch.setattr(client, "ping", late)
    with pytest.raises(CallRejectedError):
        await registrar.ping(webhook.id)
    assert await events(connection) == 1, "what came is released"
    assert await connection.fetchval("SELECT count(*) FROM provider_pings WHERE closes_at > now()") == 0


async def test_a_webhook_that_became_active_after_the_list_was_read_is_not_pinged(
    daemon: Daemon,
    client: ProviderClient,
    simulator: Simulator,
    connection: Connection,
    registrar: Registrar,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    webhook = simulator.register(url_of(daemon))
    webhook.status = "inactive"
    listed = client.webhooks

    async def slow() -> Any:
        found = await listed()
        webhook.status = "active"  # while the answer is on its way
        return found

    monkeypatch.setattr(client, "webhooks", slow)
    assert await guardian(daemon, client, simulator).look() == "ok"
    webhook.status = "inactive"
    assert (await registrar.setup(url_of(daemon))).sample is None
    assert await connection.fetchval("SELECT count(*) FROM provider_pings") == 0
    assert changing_calls(simulator) == []


@pytest.mark.parametrize("command", ["heal", "setup"])
async def test_if_a_webhook_becomes_active_while_its_ping_is_open_no_notification_is_lost(
    command: str, daemon: Daemon, client: ProviderClient, simulator: Simulator, connection: Connection, registrar: Registrar
) -> None:
    webhook = simulator.register(url_of(daemon))
    webhook.status = "inactive"
    work: Any = guardian(daemon, client, simulator).look() if command == "heal" else registrar.setup(url_of(daemon))
    working = asyncio.create_task(work)
    await until(lambda: connection.fetchval("SELECT count(*) FROM provider_pings"), "the ping is open")
    webhook.status = "active"
    for _ in range(10):
        simulator.make(SALE)
        await asyncio.sleep(0.02)
    await working
    await until(lambda: _equals(connection, "SELECT count(*) FROM ledger", 10), "each notification is an event")
    assert await connection.fetchval("SELECT count(*) FROM provider_tests") == 0
    assert (await state(connection))[0] == "ok"
    assert changing_calls(simulator) == []


async def test_setup_and_create_do_not_trust_one_empty_list(
    daemon: Daemon,
    client: ProviderClient,
    simulator: Simulator,
    connection: Connection,
    registrar: Registrar,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    listed = client.webhooks
    answers: list[tuple[()]] = []

    async def once_empty() -> Any:
        return answers.pop() if answers else await listed()

    monkeypatch.setattr(client, "webhooks", once_empty)
    webhook = simulator.register(url_of(daemon))
    answers.append(())
    with pytest.raises(ConflictError, match=webhook.id):
        await registrar.create(url_of(daemon))
    await guardian(daemon, client, simulator).look()  # from now on, webhookd knows the webhook's id
    answers += [(), ()]
    assert (await registrar.setup(url_of(daemon))).changes == ()
    assert registered(simulator) == [webhook]
    assert changing_calls(simulator) == []
