"""The base of every scenario: servers, databases, queues, and the processes under measurement."""

from __future__ import annotations

import asyncio
import itertools
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from aiobotocore.session import get_session

from tests.bench.processes import CORES, KEY, PATH, Target, Webhookd, running
from tests.bench.releases import HERE, Release
from tests.bench.servers import Servers
from tests.helpers.database import connect
from webhookd.dev.servers import free_port

Figures = dict[str, float]
_numbers = itertools.count(1)


@dataclass(slots=True)
class Bench:
    """The servers, databases and queues of a scenario."""

    servers: Servers
    folder: Path
    quick: bool = False
    before: Release | None = None  # the release to measure beside this checkout
    settings: dict[str, str] = field(default_factory=dict)  # WEBHOOKD_* over the bench's own, without the prefix

    @property
    def releases(self) -> tuple[Release, ...]:
        """Returns the releases that are measured by turns, this checkout first."""
        return (HERE,) if self.before is None else (HERE, self.before)

    def seconds(self, whole: float) -> float:
        """Returns `whole`, or at most two seconds if the run only shows that the bench works."""
        return min(whole, 2.0) if self.quick else whole

    def count(self, whole: int) -> int:
        """Returns `whole`, or at most 2,000 if the run only shows that the bench works."""
        return min(whole, 2_000) if self.quick else whole

    def database(self, name: str, release: Release = HERE) -> str:
        """Creates a fresh database with the schema of `release`; returns its URL."""
        url = self.url(name)
        asyncio.run(_create(self.servers.postgresql.url, name))
        release.run("migrate", DATABASE_URL=url)
        return url

    def url(self, name: str) -> str:
        """Returns the URL of a database."""
        return f"{self.servers.postgresql.url.rpartition('/')[0]}/{name}"

    def queues(self) -> tuple[str, str]:
        """Creates a fresh queue and its dead-letter queue; returns their names."""
        names = f"bench-{os.getpid()}-{next(_numbers)}", f"bench-{os.getpid()}-{next(_numbers)}-dead"
        asyncio.run(_queues(self.servers.sqs.url, names))
        return names

    def webhookd(
        self, database: str, queues: tuple[str, str], release: Release = HERE, *, pinned: bool = True, **settings: str
    ) -> Webhookd:
        """Starts a daemon and returns it when it is ready. With `pinned`, the daemon has a core of its own."""
        given = {
            "DATABASE_URL": database,
            "REDIS_URL": self.servers.redis.url,
            "SQS_ENDPOINT_URL": self.servers.sqs.url,
            "SQS_QUEUE": queues[0],
            "SQS_DEAD_LETTER_QUEUE": queues[1],
            **self.settings,
            **{name.upper(): value for name, value in settings.items()},
        }
        daemon = Webhookd(release, given, self.folder / "webhookd.log", pinned=pinned)
        daemon.wait(daemon.ready)
        return daemon

    @contextmanager
    def baseline(self, name: str, *options: str, beside: bool = False, **environment: str) -> Iterator[str]:
        """Runs a baseline that receives requests; yields its URL. With `beside`, the baseline leaves the first core free."""
        port = free_port(0)
        command = [sys.executable, "-m", f"tests.bench.baselines.{name}", "--port", str(port), "--key", KEY, *options]
        log = self.folder / f"{name}.log"
        log.unlink(missing_ok=True)
        target = Target(command, environment, log)
        if beside:
            target.process.cpu_affinity(CORES[1:] or CORES)
        with running(target):
            target.wait(lambda: "serving" in log.read_text())
            yield f"http://127.0.0.1:{port}{PATH}"


async def _create(server: str, name: str) -> None:
    connection = await connect(server)
    try:
        await connection.execute(f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)')
        await connection.execute(f'CREATE DATABASE "{name}"')
        # Write the pending data of an earlier scenario now, not during the next scenario.
        await connection.execute("CHECKPOINT")
    finally:
        await connection.close()


async def _queues(endpoint: str, names: tuple[str, str]) -> None:
    async with get_session().create_client("sqs", endpoint_url=endpoint) as client:
        for name in names:
            await client.create_queue(QueueName=name)


def until(condition: Callable[[], Any], seconds: float, every: float = 0.05) -> None:
    """Waits for `condition`; raises RuntimeError after `seconds`."""
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            raise RuntimeError("a scenario did not end in time")
        time.sleep(every)
