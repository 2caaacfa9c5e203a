"""Each dependency is away at the start or later, and comes back: webhooks are slower or refused, but never lost."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import asyncpg
import pytest_asyncio

from tests.conftest import settings_of
from tests.helpers.database import connect
from tests.helpers.running import KEY, base_settings
from tests.helpers.wait import until
from webhookd.authorizenet import sampling
from webhookd.daemon import Daemon
from webhookd.dev import traffic
from webhookd.dev.servers import Stack
from webhookd.process.handlers import Registry
from webhookd.store.migrations import migrate

AUTHCAPTURE = "net.authorize.payment.authcapture.created"


@pytest_asyncio.fixture
async def own(server_folder: Path) -> AsyncIterator[Stack]:
    """Starts servers that the test may stop and kill, and migrates the database. The test makes the queues."""
    stack = Stack(server_folder, durable=False)
    await asyncio.to_thread(stack.start)
    await migrate(stack.database_url)
    yield stack
    await asyncio.to_thread(stack.stop)


@contextlib.asynccontextmanager
async def running(stack: Stack) -> AsyncIterator[Daemon]:
    values = {
        **base_settings(),
        "WEBHOOKD_DATABASE_URL": stack.database_url,
        "WEBHOOKD_REDIS_URL": stack.redis_url,
        "WEBHOOKD_SQS_ENDPOINT_URL": stack.sqs_endpoint_url,
        "WEBHOOKD_RESEND_AFTER": "1",
    }
    daemon = Daemon(settings_of(values), Registry())
    await daemon.start()
    try:
        yield daemon
    finally:
        await daemon.stop()


async def send(daemon: Daemon, count: int) -> traffic.Summary:
    return await traffic.send(sampling.stream([AUTHCAPTURE], count), f"{daemon.public_url}/webhooks/authorize-net", KEY)


async def ended(stack: Stack, count: int) -> bool:
    with contextlib.suppress(OSError, asyncpg.PostgresError, asyncpg.InterfaceError):
        connection = await connect(stack.database_url, timeout=2)
        try:
            return bool(await connection.fetchval("SELECT count(*) = $1 FROM events WHERE status = 'processed'", count))
        finally:
            await connection.close()
    return False


async def test_a_daemon_starts_with_everything_away_and_works_when_it_comes(own: Stack) -> None:
    servers = (own.postgresql, own.redis, own.sqs)
    for server in servers:
        await asyncio.to_thread(server.stop)
    async with running(own) as daemon:
        async with aiohttp.ClientSession() as http:
            async with http.get(f"{daemon.admin_url}/readyz") as response:
                assert response.status == 503
                report = await response.json()
            async with http.get(f"{daemon.admin_url}/livez") as response:
                assert response.status == 200
        assert report["status"] == "unavailable"
        assert {name: of["up"] for name, of in report["dependencies"].items()} == {
            "postgresql": False,
            "redis": False,
            "sqs": False,
        }
        assert (await send(daemon, 1)).outcomes == {"503 webhookd cannot store webhooks at the moment": 1}
        for server in servers:
            await asyncio.to_thread(server.start)
        await until(lambda: daemon.health.ready, "it is ready", deadline=30)
        await daemon.sqs.create_queues(max_receive_count=15)
        assert (await send(daemon, 20)).outcomes == {"accepted": 20}
        await until(lambda: ended(own, 20), "every event is processed", deadline=60)


async def test_postgresql_killed_and_started_again(own: Stack) -> None:
    async with running(own) as daemon:
        await daemon.sqs.create_queues(max_receive_count=15)
        assert (await send(daemon, 50)).outcomes == {"accepted": 50}
        await asyncio.to_thread(own.postgresql.kill)
        summary = await send(daemon, 20)
        assert "accepted" not in summary.outcomes, "no 200 without a commit"
        assert all(outcome.startswith("503") for outcome in summary.outcomes)
        await asyncio.to_thread(own.postgresql.start)
        await until(lambda: daemon.health.ready, "it is ready again", deadline=30)
        assert (await send(daemon, 10)).outcomes == {"accepted": 10}
        await until(lambda: ended(own, 60), "what was accepted before and after is processed", deadline=60)


async def test_without_redis_everything_works(own: Stack) -> None:
    async with running(own) as daemon:
        await daemon.sqs.create_queues(max_receive_count=15)
        await asyncio.to_thread(own.redis.kill)
        samples = sampling.stream([AUTHCAPTURE], 60, duplicates=0.5)
        summary = await traffic.send(samples, f"{daemon.public_url}/webhooks/authorize-net", KEY)
        assert summary.outcomes == {"accepted": 30, "duplicate": 30}
        await until(lambda: ended(own, 30), "every event is processed", deadline=60)
        assert daemon.health.report()["status"] == "degraded"
        await asyncio.to_thread(own.redis.start)
        await until(lambda: daemon.idempotency.up, "Redis is back", deadline=30)


async def test_without_sqs_webhooks_are_accepted_and_the_outbox_drains_when_it_is_back(own: Stack) -> None:
    async with running(own) as daemon:
        await daemon.sqs.create_queues(max_receive_count=15)
        await asyncio.to_thread(own.sqs.kill)
        assert (await send(daemon, 100)).outcomes == {"accepted": 100}
        assert (await daemon.outbox.backlog())[0] > 0
        await asyncio.to_thread(own.sqs.start)
        # moto has lost its queues, so the test also covers queues that were deleted and made again.
        await daemon.sqs.create_queues(max_receive_count=15)
        await until(lambda: ended(own, 100), "every event is processed", deadline=60)
        await until(lambda: _outbox_is(daemon, 0), "the outbox is empty")


async def _outbox_is(daemon: Daemon, count: int) -> bool:
    return (await daemon.outbox.backlog())[0] == count
