"""The role `sync`: who asks the provider for an account, and when."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import UTC, date, datetime, tzinfo
from typing import Any, TypeAlias
from uuid import UUID, uuid4
from zoneinfo import ZoneInfo

import asyncpg
import pytest

from tests.conftest import Servers, Start, settings_of
from tests.helpers.wait import until
from webhookd.authorizenet.gaps import Completeness, Day
from webhookd.daemon import Daemon
from webhookd.errors import LeaseEndedError
from webhookd.simulate import Rules, Simulator
from webhookd.store.database import Database
from webhookd.store.provider_gaps import Ordered, ProviderGaps
from webhookd.store.provider_state import ProviderState
from webhookd.sync import role
from webhookd.sync.subscription_sweep import SubscriptionSweep

Connection: TypeAlias = "asyncpg.Connection[asyncpg.Record]"


@pytest.fixture
async def provider() -> AsyncIterator[Simulator]:
    async with Simulator(seed=7) as simulator:
        yield simulator


def credentials(provider: Simulator, account: str = "default") -> dict[str, Any]:
    own = provider.account(account)
    return {"provider": provider.url, "api_login_id": own.login_id, "transaction_key": own.transaction_key}


async def checked(connection: Connection, account: str = "default") -> bool:
    query = "SELECT credentials = 'good' FROM webhookd.provider_accounts WHERE account = $1"
    return bool(await connection.fetchval(query, account))


def of_kind(provider: Simulator, name: str) -> int:
    return sum(call.name == name for call in provider.calls)


async def test_without_credentials_the_role_is_idle(start: Start, connection: Connection) -> None:
    daemon = await start()
    assert daemon.sync.held == set()
    assert await connection.fetchval("SELECT count(*) FROM webhookd.provider_accounts") == 0


async def test_a_process_without_the_role_asks_nothing(start: Start, provider: Simulator, connection: Connection) -> None:
    await start(roles="receive,relay,work,deliver", **credentials(provider))
    await start(**credentials(provider))
    await until(lambda: checked(connection), "the process with the role asks")
    assert of_kind(provider, "getMerchantDetailsRequest") == 1


async def test_the_credentials_are_proved_and_their_account_is_known(
    start: Start, provider: Simulator, connection: Connection
) -> None:
    await start(**credentials(provider))
    await until(lambda: checked(connection), "the credentials are checked")
    query = "SELECT gateway_id IS NOT NULL AND NOT test_mode AND checked_at IS NOT NULL FROM webhookd.provider_accounts"
    await until(lambda: connection.fetchval(query), "the account is named")


async def test_one_replica_asks_for_an_account_and_another_takes_over_when_it_stops(
    start: Start, provider: Simulator, connection: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(role, "_LEASE", 1.5)
    first = await start(**credentials(provider))
    await until(lambda: first.sync.held, "the first replica holds the account")
    second = await start(**credentials(provider))
    for _ in range(4):
        await asyncio.sleep(0.5)  # for longer than a lease: the first one renews it
        assert (first.sync.held, second.sync.held) == ({"default"}, set())
    await first.stop()
    await until(lambda: second.sync.held, "the second replica takes over")
    await second.sync.stop()
    # An alert needs to know that a replica asked, and that none does now.
    state = "SELECT holder IS NULL AND held_until BETWEEN now() - interval '1 minute' AND now() FROM webhookd.provider_accounts"
    assert await connection.fetchval(state)


async def test_a_replica_takes_over_when_the_lease_of_a_dead_one_ends(
    start: Start, provider: Simulator, connection: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(role, "_LEASE", 1.5)
    holds = (
        "INSERT INTO webhookd.provider_accounts (account, holder, held_until) VALUES ('default', $1, now() + interval '3 s')"
    )
    await connection.execute(holds, uuid4())
    daemon = await start(**credentials(provider))
    await until(lambda: daemon.sync.held, "the account is taken over", deadline=30)
    still = "SELECT held_until > now() + interval '1 minute' OR holder IS NULL FROM webhookd.provider_accounts"
    assert not await connection.fetchval(still)


async def test_new_credentials_are_taken_without_a_restart(
    start: Start, servers: Servers, provider: Simulator, connection: Connection
) -> None:
    daemon: Daemon = await start(**credentials(provider) | {"transaction_key": "wrong"})
    refused = "SELECT credentials = 'refused' FROM webhookd.provider_accounts"
    await until(lambda: connection.fetchval(refused), "the credentials are refused")
    assert daemon.metrics.registry.get_sample_value("webhookd_provider_credentials_refused", {"account": "default"}) == 1
    await daemon.renew(settings_of(servers.settings, **credentials(provider)))
    await until(lambda: checked(connection), "the new credentials are taken")
    assert daemon.metrics.registry.get_sample_value("webhookd_provider_credentials_refused", {"account": "default"}) == 0
    await daemon.renew(settings_of(servers.settings))
    assert daemon.sync.held == set()


async def test_the_last_settlement_days_are_reconciled_on_schedule(
    start: Start, provider: Simulator, connection: Connection
) -> None:
    await connection.execute(
        """INSERT INTO webhookd.provider_sweeps (account, swept_from, begun_at) VALUES ('default', '2020-01-01', now())"""
    )
    await start(**credentials(provider))
    days = "SELECT count(*) >= 13 FROM webhookd.reconciled_days WHERE account = 'default'"
    await until(lambda: connection.fetchval(days), "the outcome of each day is recorded")


@pytest.mark.parametrize(
    ("named", "zone"), [("Eastern Standard Time", "America/New_York"), ("a zone of its own", "Asia/Tokyo")]
)
async def test_subscriptions_are_judged_in_the_zone_of_the_reconciliation(
    start: Start, provider: Simulator, connection: Connection, monkeypatch: pytest.MonkeyPatch, named: str, zone: str
) -> None:
    zones: list[Callable[[], tzinfo]] = []

    class Noted(SubscriptionSweep):
        def __init__(self, *given: Any) -> None:
            zones.append(given[-1])
            super().__init__(*given)

    monkeypatch.setattr(role, "SubscriptionSweep", Noted)
    provider.account().rules = Rules(zone=named)
    await start(**credentials(provider), time_zone="Asia/Tokyo")
    await until(lambda: checked(connection), "the provider names the zone")
    assert zones[0]() == ZoneInfo(zone)


async def test_a_secret_stands_in_no_log_line_of_a_refusal(
    start: Start, provider: Simulator, connection: Connection, capsys: pytest.CaptureFixture[str]
) -> None:
    given = credentials(provider) | {"transaction_key": "Wr0ngKey12345678"}
    await start(**given)
    refused = "SELECT credentials = 'refused' FROM webhookd.provider_accounts"
    await until(lambda: connection.fetchval(refused), "the credentials are refused")
    told = capsys.readouterr().out
    assert "a call of Authorize.Net's API failed" in told
    assert not [secret for secret in (given["transaction_key"], given["api_login_id"]) if secret in told]


DAY = date(2026, 11, 26)
ORDER = Ordered(UUID(int=1), DAY, 0)
# The writes of an account's holder, beside the events that it takes.
WRITES: dict[str, Callable[[Database, UUID], Awaitable[object]]] = {
    "the result of a comparison": lambda database, me: ProviderGaps(database, "default", me).record(
        [Day(DAY, Completeness.WHOLE, listed=1, ours=1)], datetime(2026, 11, 1, tzinfo=UTC), DAY
    ),
    "the progress of an order": lambda database, me: ProviderGaps(database, "default", me).advance(ORDER, 5, 4, ended=True),
    "the failure of an order": lambda database, me: ProviderGaps(database, "default", me).fail(ORDER, "a defect"),
    "the state of the credentials": lambda database, me: ProviderState(database, me).set_credentials("default", "refused"),
    "whose account it is": lambda database, me: ProviderState(database, me).set_merchant(
        "default", "2", "Another Shop", [], test_mode=True
    ),
}
_ROWS = """
SELECT
    (SELECT to_jsonb(a) FROM webhookd.provider_accounts a), (SELECT jsonb_agg(d) FROM webhookd.provider_days d),
    (SELECT to_jsonb(o) FROM webhookd.operations o)
"""


@pytest.mark.parametrize("write", WRITES)
@pytest.mark.parametrize("holder", ["another replica", "nobody"])
async def test_a_replica_that_lost_its_lease_writes_nothing(
    start: Start, connection: Connection, write: str, holder: str
) -> None:
    """A process may be frozen for longer than its lease, and go on in the middle of its work."""
    daemon, me = await start(roles="relay"), uuid4()
    await connection.execute(
        "INSERT INTO webhookd.provider_accounts (account, holder, held_until, gateway_id, credentials)"
        " VALUES ('default', $1, now() + interval '1 minute', '1', 'good')",
        uuid4() if holder == "another replica" else None,
    )
    await connection.execute(
        "INSERT INTO webhookd.provider_days (account, day, completeness, listed) VALUES ('default', $1, 'missing', 7)", DAY
    )
    await connection.execute(
        "INSERT INTO webhookd.operations (id, kind, dry_run, actor, reason, selection, rate, held_until)"
        " VALUES ($1, 'replay', false, 'ann', 'lost', '{\"gaps\": true, \"account\": \"default\"}', 0, 'infinity')",
        ORDER.id,
    )
    before = await connection.fetchrow(_ROWS)
    with pytest.raises(LeaseEndedError):
        await WRITES[write](daemon.database, me)
    assert await connection.fetchrow(_ROWS) == before
    await connection.execute("UPDATE webhookd.provider_accounts SET holder = $1", me)
    await WRITES[write](daemon.database, me)
    assert await connection.fetchrow(_ROWS) != before, "the holder writes"


async def test_a_replica_whose_account_another_one_took_over_notices_it_by_its_next_write(
    start: Start, provider: Simulator, connection: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(role, "_LEASE", 3600.0)  # so that no renewal shows it
    daemon = await start(**credentials(provider), gap_every=1)
    compared = "SELECT compared_at FROM webhookd.provider_accounts"
    await until(lambda: connection.fetchval(compared), "the replica compares")
    other = uuid4()
    await connection.execute("UPDATE webhookd.provider_accounts SET holder = $1, compared_at = now()", other)
    at = await connection.fetchval(compared)
    await until(lambda: not daemon.sync.held, "the replica notices that its lease ended", deadline=30)
    assert (
        await connection.fetchval(compared),
        await connection.fetchval("SELECT holder FROM webhookd.provider_accounts"),
    ) == (
        at,
        other,
    )
