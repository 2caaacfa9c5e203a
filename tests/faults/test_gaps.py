"""The provider's history and a daemon that is killed: nothing lost, nothing doubled, and another replica takes over."""

from __future__ import annotations

import asyncio
import signal
import time
from collections import Counter
from datetime import UTC, datetime
from typing import TypeAlias

import asyncpg

from tests.conftest import Servers
from tests.helpers.running import Process
from tests.helpers.wait import until
from webhookd.simulate import Simulator

Connection: TypeAlias = "asyncpg.Connection[asyncpg.Record]"
URL = "http://127.0.0.1:9/webhooks/authorize-net"
HANDLER = """
from webhookd import on

@on("*")
async def count(event, connection):
    await connection.execute("INSERT INTO public.effects VALUES ($1)", event.notification_id)
"""


def daemon(servers: Servers, provider: Simulator, name: str, **settings: str) -> Process:
    own = provider.account()
    (servers.folder / "count_effects.py").write_text(HANDLER)
    folder = servers.folder / name
    folder.mkdir(exist_ok=True)
    given = {
        "provider": provider.url,
        "api_login_id": own.login_id,
        "transaction_key": own.transaction_key,
        "signature_keys": own.signature_key,
        "public_url": URL,
        "gap_every": "1",
        "gap_grace": "0",
        "provider_rate": "50",
        "handlers": "count_effects",
    }
    environment = {f"WEBHOOKD_{name.upper()}": value for name, value in (given | settings).items()}
    return Process({**servers.settings, **environment, "PYTHONPATH": str(servers.folder)}, folder)


async def open_effects(connection: Connection) -> None:
    await connection.execute("CREATE TABLE public.effects (notification_id text)")


async def effects(connection: Connection) -> Counter[str]:
    return Counter(row["notification_id"] for row in await connection.fetch("SELECT * FROM public.effects"))


async def test_a_kill_in_the_middle_of_a_recovery_loses_and_doubles_nothing(servers: Servers, connection: Connection) -> None:
    await open_effects(connection)
    async with Simulator(seed=11) as provider:
        provider.register(URL)
        one = daemon(servers, provider, "one")
        await one.start()
        try:
            await until(
                lambda: connection.fetchval("SELECT count(*) FROM webhookd.provider_accounts"), "it begins", deadline=60
            )
            lost = [made.id for _ in range(150) for made in provider.make(withheld=True)]
            for share in (30, 80):

                async def taken(share: int = share) -> bool:
                    return int(await connection.fetchval("SELECT count(*) FROM webhookd.ledger")) >= share

                await until(taken, f"{share} are taken", deadline=90, every=0.005)
                one.end(signal.SIGKILL)
                assert await connection.fetchval("SELECT count(*) FROM webhookd.ledger") < len(lost)
                # The lease of the killed process would hold for 45 s.
                await connection.execute("UPDATE webhookd.provider_accounts SET held_until = '-infinity'")
                await one.start()

            async def all_done() -> bool:
                return sum((await effects(connection)).values()) >= len(lost)

            await until(all_done, "all are processed", deadline=120)
            await asyncio.sleep(2)
            assert await effects(connection) == Counter(lost)
            day = await connection.fetchrow("SELECT * FROM webhookd.provider_days ORDER BY day DESC LIMIT 1")
            assert day is not None
            assert (day["listed"], day["ours"], day["recovered"], day["missing"]) == (150, 150, 150, 0)
            asked = Counter(call.name for call in provider.calls if call.name.startswith("GET notifications/"))
            again = sum(count - 1 for count in asked.values())
            assert again <= 2 * 22, "each kill costs at most one batch, and the calls under way"
        finally:
            await one.stop()


async def test_another_replica_takes_over_within_a_minute_of_a_kill(servers: Servers, connection: Connection) -> None:
    await open_effects(connection)
    async with Simulator(seed=12) as provider:
        provider.register(URL)
        one, other = daemon(servers, provider, "one"), daemon(servers, provider, "other")
        await one.start()
        holder = "SELECT holder FROM webhookd.provider_accounts"
        first = await until(lambda: connection.fetchval(holder), "the first one holds the account", deadline=60)
        await other.start()
        try:
            one.end(signal.SIGKILL)
            killed = time.monotonic()
            lost = [made.id for made in provider.make(withheld=True)]
            assert datetime.now(UTC) < await connection.fetchval("SELECT held_until FROM webhookd.provider_accounts")

            async def taken_over() -> bool:
                return bool(await connection.fetchval(holder) != first)

            await until(taken_over, "the other one holds the account", deadline=120, every=0.1)
            # By PostgreSQL's clock: a busy machine may run the test itself late.
            assert time.monotonic() - killed < 60 + 15
            await until(lambda: connection.fetchval("SELECT count(*) FROM public.effects"), "it goes on", deadline=60)
            assert await effects(connection) == Counter(lost)
        finally:
            await other.stop()
