"""The scenarios, each a function that runs once and returns what it measured as {name: number}."""

from __future__ import annotations

import asyncio
import itertools
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import asyncpg
from aiobotocore.session import get_session

from tests.bench.load import Report
from tests.bench.processes import KEY, PATH, Target, Webhookd, load, running
from tests.bench.servers import Servers
from webhookd.dev.servers import free_port
from webhookd.store.database import migrate

Figures = dict[str, float]
_numbers = itertools.count(1)


@dataclass(slots=True)
class Bench:
    """What a scenario runs on."""

    servers: Servers
    folder: Path
    quick: bool = False
    settings: dict[str, str] = field(default_factory=dict)  # WEBHOOKD_* over the bench's own, without the prefix

    def seconds(self, whole: float) -> float:
        """`whole`, or a few seconds where the run is only to show that it works."""
        return min(whole, 3.0) if self.quick else whole

    def count(self, whole: int) -> int:
        """`whole`, or a few where the run is only to show that it works."""
        return min(whole, 2_000) if self.quick else whole

    def database(self, name: str) -> str:
        """A fresh database with webhookd's schema; its URL."""
        return asyncio.run(_database(self.servers.postgresql.url, name))

    def queues(self) -> tuple[str, str]:
        """A fresh queue and its dead-letter queue; their names."""
        names = f"bench-{os.getpid()}-{next(_numbers)}", f"bench-{os.getpid()}-{next(_numbers)}-dead"
        asyncio.run(_queues(self.servers.sqs.url, names))
        return names

    def webhookd(self, database: str, queues: tuple[str, str], **settings: str) -> Webhookd:
        """A daemon, ready."""
        given = {
            "DATABASE_URL": database,
            "REDIS_URL": self.servers.redis.url,
            "SQS_ENDPOINT_URL": self.servers.sqs.url,
            "SQS_QUEUE": queues[0],
            "SQS_DEAD_LETTER_QUEUE": queues[1],
            **self.settings,
            **{name.upper(): value for name, value in settings.items()},
        }
        daemon = Webhookd(given, self.folder / "webhookd.log")
        daemon.wait(daemon.ready)
        return daemon

    @contextmanager
    def baseline(self, name: str, *options: str, **environment: str) -> Iterator[str]:
        """A baseline that receives; its URL."""
        port = free_port(0)
        command = ["-m", f"tests.bench.baselines.{name}", "--port", str(port), "--key", KEY, *options]
        log = self.folder / f"{name}.log"
        log.unlink(missing_ok=True)
        target = Target(command, environment, log)
        with running(target):
            target.wait(lambda: "serving" in log.read_text())
            yield f"http://127.0.0.1:{port}{PATH}"


async def _database(server: str, name: str) -> str:
    connection = await asyncpg.connect(server)
    try:
        await connection.execute(f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)')
        await connection.execute(f'CREATE DATABASE "{name}"')
        # What an earlier scenario left to be written must not be written during the next one.
        await connection.execute("CHECKPOINT")
    finally:
        await connection.close()
    url = f"{server.rpartition('/')[0]}/{name}"
    await migrate(url)
    return url


async def _queues(endpoint: str, names: tuple[str, str]) -> None:
    async with get_session().create_client("sqs", endpoint_url=endpoint) as client:
        for name in names:
            await client.create_queue(QueueName=name)


def _figures(report: Report) -> Figures:
    accepted = sum(report.outcomes.values())
    return {
        "per_second": accepted / report.seconds,
        "p50_ms": report.p50 * 1000,
        "p99_ms": report.p99 * 1000,
        "refused": sum(report.statuses.values()) - accepted,
    }


def ceiling(bench: Bench, connections: int, seconds: float) -> Figures:
    """The HMAC-only endpoint."""
    with bench.baseline("ceiling") as url:
        return _figures(load(url, connections=connections, seconds=bench.seconds(seconds)))


def textbook_ingest(bench: Bench, connections: int, seconds: float) -> Figures:
    """The textbook receiver."""
    database, (queue, _) = bench.database("textbook"), bench.queues()
    given = {"DATABASE_URL": database, "SQS_ENDPOINT_URL": bench.servers.sqs.url}
    with bench.baseline("receiver", "--queue", queue, **given) as url:
        return _figures(load(url, connections=connections, seconds=bench.seconds(seconds)))


def ingest(bench: Bench, connections: int, seconds: float, **options: float) -> Figures:
    """webhookd, receive and relay: durable acknowledgements; and how large the outbox was at the end."""
    with running(bench.webhookd(bench.database("webhookd"), bench.queues(), roles="receive,relay")) as daemon:
        before = daemon.processor_seconds
        report = load(daemon.url, connections=connections, seconds=bench.seconds(seconds), **options)
        figures = _figures(report)
        figures["cpu_us"] = (daemon.processor_seconds - before) / max(report.sent, 1) * 1e6
        figures["unsent"] = report.outcomes.get("accepted", 0) - daemon.metric("relayed_total", outcome="sent")
        figures["rss_mib"] = daemon.process.memory_info().rss / 2**20
        return figures


def until(condition: Callable[[], Any], seconds: float, every: float = 0.1) -> None:
    """Waits for `condition`; raises RuntimeError after `seconds`."""
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            raise RuntimeError("a scenario did not end in time")
        time.sleep(every)
