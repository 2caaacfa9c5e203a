"""The gauges of PostgreSQL: pools of connections, sizes, rows outside every partition, standbys and their lag."""

from __future__ import annotations

import asyncio
import contextlib
import math
import subprocess
from pathlib import Path
from typing import Any
from uuid import uuid4

from tests.conftest import Servers, Start
from tests.helpers.wait import until
from webhookd.daemon import Daemon
from webhookd.dev.postgres import PostgresServer
from webhookd.runtime.loops import Watch
from webhookd.store.queries import queries
from webhookd.store.storage import StorageGauges


def value(daemon: Daemon, name: str, **labels: str) -> float:
    found = daemon.metrics.registry.get_sample_value(f"webhookd_{name}", labels)
    assert found is not None, f"{name} {labels}"
    return found


async def test_the_sizes_are_known_within_a_minute_of_the_start(start: Start, connection: Any) -> None:
    daemon = await start(roles="relay")
    await until(lambda: value(daemon, "database_bytes") > 0, "the sizes are measured")
    for table in ("ledger", "work", "quarantine", "bodies", "audit"):
        assert value(daemon, "table_bytes", table=table) > 0
    for table in ("bodies", "audit"):
        assert value(daemon, "default_partition_bytes", table=table) == 0
    # The id is from the year 2255, and no partition reaches so far.
    await connection.execute("INSERT INTO bodies VALUES ('08300000-0000-7000-8000-000000000000', 'a stray')")
    await StorageGauges(daemon.database, metrics=daemon.metrics, watch=Watch()).measure()
    assert value(daemon, "default_partition_bytes", table="bodies") > 0
    assert value(daemon, "default_partition_bytes", table="audit") == 0


async def test_the_pools_show_who_holds_and_who_waits(start: Start) -> None:
    daemon = await start(roles="receive")
    most = int(value(daemon, "pool_connections", pool="admin", state="most"))
    async with contextlib.AsyncExitStack() as held:
        for _ in range(most):
            await held.enter_async_context(daemon.database.acquire("admin"))
        assert value(daemon, "pool_connections", pool="admin", state="in_use") == most
        assert value(daemon, "pool_waiting", pool="admin") == 0

        async def acquire() -> None:
            async with daemon.database.acquire("admin"):
                pass

        waiting = asyncio.create_task(acquire())
        await until(lambda: value(daemon, "pool_waiting", pool="admin") == 1, "a task waits")
    await waiting
    assert value(daemon, "pool_waiting", pool="admin") == 0
    assert value(daemon, "pool_connections", pool="admin", state="in_use") == 0
    assert value(daemon, "pool_connections", pool="admin", state="idle") >= 1


async def test_standbys_are_counted_and_their_lag_needs_a_right(servers: Servers, connection: Any, tmp_path: Path) -> None:
    role = f"plain_{uuid4().hex[:8]}"
    await connection.execute(f"CREATE ROLE {role}; GRANT USAGE ON SCHEMA webhookd TO {role}")
    await connection.execute(f"GRANT SELECT ON ALL TABLES IN SCHEMA webhookd TO {role}")
    receive = [str(PostgresServer.binaries() / "pg_receivewal"), "-d", servers.database_url, "-D", str(tmp_path), "--no-loop"]

    async def state() -> dict[str, float]:
        return {row["kind"]: row["value"] async for row in queries.storage_state(connection)}

    assert (await state())["standbys"] == 0
    assert (await state())["lag"] == 0
    with subprocess.Popen(receive, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as standby:  # noqa: ASYNC220
        try:

            async def connected() -> bool:
                return (await state())["standbys"] == 1

            await until(connected, "the standby is connected")
            assert (await state())["lag"] >= 0
            await connection.execute(f"SET ROLE {role}")
            assert (await state())["standbys"] == 1
            assert math.isnan((await state())["lag"])
        finally:
            standby.terminate()
            await connection.execute(f"RESET ROLE; DROP OWNED BY {role}; DROP ROLE {role}")
