"""The role `sync`: who asks the provider for an account, and when."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any, TypeAlias
from uuid import uuid4

import asyncpg
import pytest

from tests.conftest import Servers, Start, settings_of
from tests.helpers.wait import until
from webhookd.daemon import Daemon
from webhookd.simulate import Simulator
from webhookd.sync import role

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
