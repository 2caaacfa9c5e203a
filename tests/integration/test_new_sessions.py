"""PostgreSQL opens no new sessions, but open sessions continue: after a changed password, or at a limit."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from typing import Any
from urllib.parse import urlsplit

import aiohttp
import pytest
import pytest_asyncio

from tests.conftest import Servers, settings_of
from tests.helpers.running import KEY
from tests.helpers.strict_sqs import StrictSqs
from tests.helpers.wait import until
from tests.integration.test_work import AUTHCAPTURE, Connection, handlers, metric, status
from webhookd.authorizenet import sampling
from webhookd.daemon import Daemon
from webhookd.dev import traffic

PASSWORD = uuid.uuid4().hex
REFUSALS = {
    "28P01, a changed password": ("PASSWORD 'another'", f"PASSWORD '{PASSWORD}'", "28P01"),
    "53300, a limit that is reached": ("CONNECTION LIMIT 1", "CONNECTION LIMIT -1", "53300"),
}


@dataclass(slots=True)
class Role:
    """The role that the daemon signs in as."""

    name: str
    connection: Connection

    async def alter(self, change: str) -> None:
        await self.connection.execute(f"ALTER ROLE {self.name} {change}")

    async def end_workers(self) -> None:
        """Ends the sessions of workers; the sessions that receive webhooks stay."""
        await self.connection.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
            "WHERE usename = $1 AND application_name IN ('webhookd work', 'webhookd fold')",
            self.name,
        )


@pytest_asyncio.fixture
async def role(connection: Connection) -> AsyncIterator[Role]:
    name = f"webhookd_{uuid.uuid4().hex[:12]}"
    owner = await connection.fetchval("SELECT current_user")
    await connection.execute(f"CREATE ROLE {name} LOGIN PASSWORD '{PASSWORD}' IN ROLE {owner}")
    yield Role(name, connection)
    await connection.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = $1", name)
    await connection.execute(f"REASSIGN OWNED BY {name} TO {owner}")  # the daemon makes partitions of a new week
    await connection.execute(f"DROP ROLE {name}")


@pytest_asyncio.fixture
async def gateway(servers: Servers) -> AsyncIterator[StrictSqs]:
    async with StrictSqs(servers.sqs_endpoint_url) as made:
        yield made


@pytest_asyncio.fixture
async def daemon(servers: Servers, role: Role, gateway: StrictSqs) -> AsyncIterator[Daemon]:
    url = urlsplit(servers.database_url)
    signed_in = replace(servers, database_url=url._replace(netloc=f"{role.name}:{PASSWORD}@{url.hostname}:{url.port}").geturl())
    made = Daemon(settings_of(signed_in.settings, sqs_endpoint_url=gateway.url), handlers())
    await made.start()
    yield made
    await made.stop()


async def send(daemon: Daemon, first: int, count: int) -> traffic.Summary:
    samples = [sampling.sample(AUTHCAPTURE, number) for number in range(first, first + count)]
    return await traffic.send(samples, f"{daemon.public_url}/webhooks/authorize-net", KEY)


def receives(gateway: StrictSqs) -> int:
    return sum(action == "ReceiveMessage" for action, _ in gateway.done)


@pytest.mark.parametrize(("refuse", "admit", "state"), REFUSALS.values(), ids=list(REFUSALS))
async def test_without_new_sessions_workers_stop_polling_and_say_so_and_nothing_dies(
    daemon: Daemon, role: Role, gateway: StrictSqs, connection: Connection, refuse: str, admit: str, state: str
) -> None:
    await send(daemon, 0, 5)
    await until(lambda: status(connection, "processed"), "the events are processed")
    await role.alter(refuse)
    await role.end_workers()
    summary = await send(daemon, 5, 5)
    assert summary.outcomes == {"accepted": 5}, "the sessions that are open go on receiving"
    await until(lambda: daemon.database.refusal, "the refusal is known")
    assert state in str(daemon.database.refusal)

    async with aiohttp.ClientSession() as http, http.get(f"{daemon.admin_url}/readyz") as response:
        report: Any = await response.json()
        assert response.status == 200, "webhooks are still taken"
    assert report["status"] == "degraded"
    assert report["dependencies"]["postgresql"] == {"up": False, "problem": daemon.database.refusal}
    assert metric(daemon, "webhookd_dependency_up", dependency="postgresql") == 0
    assert "PostgreSQL away" in daemon.health.summary()

    # A poll that was in progress may still end.
    before = receives(gateway) + daemon.settings.pollers
    tries = []
    real = daemon.database._try_new_session

    async def counted() -> None:
        await real()
        tries.append(daemon.database.refusal)

    daemon.database._try_new_session = counted  # type: ignore[method-assign]
    await until(lambda: len(tries) >= 3, "it asks for a session, again and again", deadline=30)
    assert all(tries)
    assert receives(gateway) <= before, "no message is spent on it"
    assert metric(daemon, "webhookd_processed_total", outcome="interrupted") <= 10

    await role.alter(admit)
    await until(lambda: status(connection, "processed"), "every event is processed", deadline=60)
    assert daemon.database.refusal is None
    assert metric(daemon, "webhookd_dependency_up", dependency="postgresql") == 1
    assert await connection.fetchval("SELECT count(*) FROM audit WHERE to_status = 'dead'") == 0
    assert await connection.fetchval("SELECT max(attempts) FROM events") == 1, "no attempt was spent on it"
