"""The refused credentials of the provider's API in PostgreSQL, for two replicas."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any, TypeAlias

import asyncpg
import pytest
import pytest_asyncio
from pydantic import SecretStr

from tests.contract.test_provider import simulating
from webhookd.authorizenet.api.client import ProviderClient
from webhookd.authorizenet.api.errors import CredentialsRefusedError, ProviderUnavailableError
from webhookd.authorizenet.api.refusals import CREDENTIALS_AGAIN
from webhookd.runtime.loops import Watch
from webhookd.settings.provider import ProviderAccess
from webhookd.store.database import Database
from webhookd.store.pools import PoolSettings
from webhookd.store.provider_refusals import ProviderRefusals
from webhookd.telemetry.metrics import Metrics

Connection: TypeAlias = "asyncpg.Connection[asyncpg.Record]"


@pytest_asyncio.fixture
async def replicas(database_url: str) -> AsyncIterator[list[Database]]:
    settings = PoolSettings(database_url, short=3, work=1, handler_timeout=5)
    both = [Database(settings, metrics=Metrics(), watch=Watch()) for _ in range(2)]
    for database in both:
        await database.start()
    yield both
    for database in both:
        await database.stop()


async def pass_time(connection: Connection, seconds: float) -> None:
    """Makes all that PostgreSQL has stored of refusals older."""
    move = "UPDATE webhookd.provider_refusals SET since = since - $1 * interval '1 s', until = until - $1 * interval '1 s'"
    await connection.execute(move, seconds)


async def test_a_refusal_holds_for_all_replicas_by_postgresqls_clock_and_one_of_them_tries(
    replicas: list[Database], connection: Connection
) -> None:
    first, second = map(ProviderRefusals, replicas)
    assert await first.read("f") is None
    assert not await first.take_try("f")
    await first.refused("f", "default", "E00007")
    await pass_time(connection, 100)
    found = await second.read("f")
    assert found is not None
    assert found.code == "E00007"
    assert found.refused_for == pytest.approx(100, abs=60)
    assert found.next_try_in == pytest.approx(800, abs=60)
    assert not await second.take_try("f")
    assert await second.read("g") is None
    await pass_time(connection, 800)
    found = await second.read("f")
    assert found is not None
    assert found.next_try_in == 0
    assert sorted(await asyncio.gather(*(one.take_try("f") for one in (first, second) * 3))) == [*[False] * 5, True]
    await second.refused("f", "default", "E00008")
    found = await first.read("f")
    assert found is not None
    assert found.code == "E00008"
    assert found.refused_for == pytest.approx(900, abs=60), "since the first refusal"
    assert found.next_try_in == pytest.approx(CREDENTIALS_AGAIN, abs=60)
    await first.accepted("f")
    assert await second.read("f") is None


async def test_refusals_of_credentials_that_are_no_longer_used_do_not_pile_up(
    replicas: list[Database], connection: Connection
) -> None:
    refusals = ProviderRefusals(replicas[0])
    await refusals.refused("old", "default", "E00007")
    await pass_time(connection, 8 * 86_400)
    await refusals.refused("other", "eu", "E00007")
    await refusals.accepted("mine")
    assert await refusals.read("old") is None
    assert await refusals.read("other") is not None


async def test_clients_of_two_replicas_send_refused_credentials_once_in_15_minutes(
    replicas: list[Database], connection: Connection
) -> None:
    async with simulating() as simulator:
        access = simulator.access()
        wrong = ProviderAccess("default", access.url, access.login_id, (SecretStr("wrongkey00000001"),))

        async def ask(database: Database, one: ProviderAccess) -> None:
            async with ProviderClient(one, refusals=ProviderRefusals(database), patience=0.0) as client:  # as after a restart
                await client.webhooks()

        for sent in (1, 2):
            for database in replicas * 2:
                with pytest.raises(CredentialsRefusedError, match="AUTHENTICATION_FAILED"):
                    await ask(database, wrong)
            assert len(simulator.calls) == sent
            await pass_time(connection, CREDENTIALS_AGAIN)
        await ask(replicas[1], access)
        stored = repr([dict(row) for row in await connection.fetch("SELECT * FROM webhookd.provider_refusals")])
        assert access.login_id.get_secret_value() not in stored
        assert "wrongkey" not in stored


async def test_while_postgresql_is_away_only_credentials_that_are_known_to_be_good_are_sent(replicas: list[Database]) -> None:
    async with simulating() as simulator:

        def client(**options: Any) -> ProviderClient:
            return ProviderClient(simulator.access(), refusals=ProviderRefusals(replicas[0]), patience=0.0, **options)

        async with client() as known, client() as new:
            await known.webhooks()
            await replicas[0].stop()
            await known.webhooks()
            with pytest.raises(ProviderUnavailableError, match="no call is sent"):
                await new.webhooks()
            assert len(simulator.calls) == 2
