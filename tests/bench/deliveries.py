"""The scenario of destinations: many deliveries wait for a receiver that answers at once."""

from __future__ import annotations

import asyncio
import sys
import time
from typing import Any

from tests.bench.bench import Bench, Figures, until
from tests.bench.load import PROXY
from tests.bench.processes import Target, load, running
from tests.helpers.database import connect

CONNECTIONS = 64  # requests at a time, of webhookd and of the plain client

_OPEN = "INSERT INTO webhookd.circuits (destination, opened_at, probe_at) VALUES ('shop', now(), now())"
_SPEED = """
SELECT count(*) / greatest(extract(epoch FROM max(at) - min(at)), 0.001)::float8
FROM webhookd.audit WHERE to_status = 'delivered'
"""


def client_loop(bench: Bench, count: int) -> Figures:
    """Measures a plain aiohttp client, with the same number of requests at a time."""
    count = bench.count(count)
    log = bench.folder / "client_loop.log"
    log.unlink(missing_ok=True)
    with bench.baseline("destination", beside=True) as url:
        command = [sys.executable, "-m", "tests.bench.baselines.client_loop", "--url", url]
        command += ["--count", str(count), "--connections", str(CONNECTIONS)]
        with running(Target(command, {}, log)) as target:
            return {"per_second": count / target.result(600)["seconds"]}


def drain(bench: Bench, count: int, *, after_outage: bool = False) -> Figures:
    """Measures webhookd with the role `deliver`, from its start with `count` deliveries that wait to the last one.

    after_outage: the destination's circuit is open at the start, and the first probe closes it. A minute of slow start follows.
    per_second: from the first delivery's commit to the last one's. drain_s: from the start of the process.
    rss_mib: the most resident memory while the deliveries drain.
    """
    count = bench.count(count)
    database, queues = bench.database("deliver"), bench.queues()
    with bench.baseline("destination", beside=True) as url:
        settings: dict[str, Any] = {
            "destinations__shop__url": url,
            "destinations__shop__allow_private": "true",
            "destinations__shop__concurrency": str(CONNECTIONS),
            "destinations__shop__secrets": "whsec_" + "c2VjcmV0" * 5 + "MDE=",
        }
        with running(bench.webhookd(database, queues, roles="receive", **settings)) as daemon:
            left = count
            while left > 0:
                left -= load(daemon.url, sender=PROXY, connections=64, seconds=600, count=left).outcomes.get("accepted", 0)
        if after_outage:
            asyncio.run(_execute(database, _OPEN))
        began, memory = time.perf_counter(), [0.0]
        with running(bench.webhookd(database, queues, roles="deliver", **settings)) as daemon:

            def done() -> bool:
                memory.append(daemon.memory)
                return bool(daemon.metric("deliveries_total", outcome="delivered") >= count)

            until(done, 3600, every=1.0)  # the answer to each look costs the daemon milliseconds
            seconds, spent = time.perf_counter() - began, daemon.processor_seconds
            repeated = daemon.metric("deliveries_repeated_total")
    return {
        "per_second": asyncio.run(_speed(database)),
        "drain_s": seconds,
        "rss_mib": max(memory),
        "cpu_us": spent / count * 1e6,
        "repeated": repeated,
    }


async def _execute(database: str, statement: str) -> None:
    connection = await connect(database)
    try:
        await connection.execute(statement)
    finally:
        await connection.close()


async def _speed(database: str) -> float:
    connection = await connect(database)
    try:
        return float(await connection.fetchval(_SPEED))
    finally:
        await connection.close()
