"""Details that handlers wait for, and a daemon that is killed: no event is lost, and none has its effects twice."""

from __future__ import annotations

import signal
from decimal import Decimal
from typing import TypeAlias

import asyncpg

from tests.conftest import Servers
from tests.helpers.running import Process
from tests.helpers.wait import until
from webhookd.runtime.failpoints import Failpoint
from webhookd.simulate import Faults, Simulator

Connection: TypeAlias = "asyncpg.Connection[asyncpg.Record]"
SALES = 12
HANDLERS = """
from webhookd import on

@on("payment.*", details=True)
async def book(event, connection):
    details = event.details()
    await connection.execute("INSERT INTO public.effects VALUES ($1, $2)", details.transaction_id, event.attempt)

@on("payment.*")
async def asks_without_waiting(event, connection):
    assert event.details().amount == event.payload["authAmount"]
"""


async def test_a_kill_between_the_facts_and_the_wake_loses_and_doubles_nothing(
    servers: Servers, connection: Connection
) -> None:
    await connection.execute("CREATE TABLE public.effects (transaction_id text, attempt integer)")
    (servers.folder / "book_with_details.py").write_text(HANDLERS)
    async with Simulator(seed=13, faults=Faults(unknown_seconds=1), retries=(1.0,) * 60) as provider:
        own = provider.account()
        given = {
            "provider": provider.url,
            "api_login_id": own.login_id,
            "transaction_key": own.transaction_key,
            "signature_keys": own.signature_key,
            "provider_rate": "100",
            "handlers": "book_with_details",
            "visibility_timeout": "3",
            "resend_after": "2",
            "handler_timeout": "2",
        }
        environment = servers.settings | {f"WEBHOOKD_{name.upper()}": value for name, value in given.items()}
        environment["PYTHONPATH"] = str(servers.folder)
        daemon = Process(environment, servers.folder / "daemon")
        (servers.folder / "daemon").mkdir()
        try:
            await daemon.start(failpoints=f"{Failpoint.SYNC_AFTER_DETAILS}:4")
            provider.register(daemon.webhook_url)
            sales = [provider.till().sale(Decimal("5.00")).id for _ in range(SALES)]
            await provider.idle()
            await until(lambda: not daemon.running, "it is killed after it has stored facts", deadline=60)
            assert f'"failpoint":"{Failpoint.SYNC_AFTER_DETAILS}"' in daemon.log.read_text()
            stored = "SELECT count(*) FROM webhookd.provider_transactions"
            waiting = "SELECT count(*) FROM webhookd.details_wanted WHERE came_at IS NULL"
            assert await connection.fetchval(stored) > SALES - await connection.fetchval(waiting), "facts without their wake"
            # The lease of the killed process would hold for 45 s.
            await connection.execute("UPDATE webhookd.provider_accounts SET held_until = '-infinity'")
            await daemon.start(failpoints="")
            left = "SELECT count(*) FROM webhookd.work"
            await until(lambda: _is(connection, left, 0), "each event has ended", deadline=90)
            found = await connection.fetch("SELECT * FROM public.effects")
            assert sorted(row["transaction_id"] for row in found) == sorted(sales)
            assert {row["attempt"] for row in found} == {1}
        finally:
            daemon.end(signal.SIGKILL)


async def _is(connection: Connection, query: str, number: int) -> bool:
    return bool(await connection.fetchval(query) == number)
