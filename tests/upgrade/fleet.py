"""Replicas of two releases on one database, queue and Redis, and a load for the replicas in service."""

from __future__ import annotations

import asyncio
import itertools
import os
import random
import sys
import time
from collections import Counter
from collections.abc import Coroutine, Iterator
from pathlib import Path
from typing import Any

import aiohttp
import asyncpg

from tests.conftest import Servers
from tests.helpers.database import PATH
from tests.helpers.ledger import COUNTING, Ledger
from tests.helpers.operator import ANN
from tests.helpers.rig import QUICK
from tests.helpers.running import KEY, Process
from tests.helpers.wait import until
from webhookd.authorizenet import sampling
from webhookd.authorizenet.notification import EVENT_TYPES
from webhookd.dev import traffic

# The counting handler, a handler that fails at first, one that gives up, and one that is put off while the gate is shut. A
# record shows the release that processed each event.
HANDLERS = (
    COUNTING
    + """
import webhookd
from webhookd import Permanent, Retryable

RELEASE = "previous" if "webhookd-previous-" in webhookd.__file__ else "present"


@on("net.authorize.payment.*")
async def sign(event, connection):
    await connection.execute("INSERT INTO signatures VALUES ($1, $2)", event.id, RELEASE)


@on("net.authorize.payment.void.created")
async def fails_at_first(event, connection):
    if event.attempt == 1:
        raise RuntimeError("not yet")


@on("net.authorize.payment.refund.created")
async def gives_up(event, connection):
    raise Permanent("the order is closed")


@on("net.authorize.payment.fraud.held")
async def is_put_off(event, connection):
    if not await connection.fetchval("SELECT open FROM gate"):
        raise Retryable("the gate is shut", after=3)
"""
)
_TABLES = """
CREATE TABLE signatures (event_id uuid NOT NULL, release text NOT NULL);
CREATE TABLE gate (open boolean NOT NULL);
INSERT INTO gate VALUES (false);
"""
_UNUSABLE = b'{"eventType": 7, "number": "%d"}'
_numbers = itertools.count(1)


async def together(*work: Coroutine[Any, Any, Any]) -> None:
    """Does all of `work` at once; if one fails, the others end as well."""
    async with asyncio.TaskGroup() as group:
        for one in work:
            group.create_task(one)


class Fleet:
    """Replicas of the `previous` release (whose code is in that folder) and of the present one."""

    def __init__(self, servers: Servers, previous: Path) -> None:
        self.servers = servers
        self.previous = previous
        self.ledger = Ledger(servers.database_url)
        self.database: asyncpg.Pool[asyncpg.Record]  # a pool, since queries run at the same time
        self.replicas: list[Process] = []  # all replicas that were started
        self.old: list[Process] = []  # the replicas of the previous release
        self.slowest = 0.0
        self.targets: list[Process] = []  # the replicas that get the load
        self.failed: Counter[str] = Counter()  # answers other than 200, or with an unexpected outcome
        self._in_flight: Counter[str] = Counter()
        self._turn = 0

    async def __aenter__(self) -> Fleet:
        await self.ledger.connect()
        await self.ledger.open()
        self.database = await asyncpg.create_pool(self.servers.database_url, min_size=1, max_size=4, server_settings=PATH)
        await self.database.execute(_TABLES)
        (self.servers.folder / "fleet_handlers.py").write_text(HANDLERS)
        return self

    async def __aexit__(self, *_: object) -> None:
        for replica in self.replicas:
            if replica.process is not None and replica.running:
                replica.process.kill()
                await asyncio.to_thread(replica.process.wait)
        await self.ledger.close()
        self.database.terminate()

    def environment(self, *, old: bool) -> dict[str, str]:
        """Returns the environment that makes a `python -m webhookd` part of the fleet."""
        code = [str(self.servers.folder), *([str(self.previous)] if old else []), os.environ.get("PYTHONPATH", "")]
        return {
            **self.servers.settings,
            **QUICK,
            "WEBHOOKD_BODY_TIMEOUT": "30",  # the load's own process may be slow
            "WEBHOOKD_RELAY_WINDOW": "200",  # large, since events that are put off stay in the window
            "WEBHOOKD_RESEND_AFTER": "15",  # if shorter, put-off events fill the queue, and moto scans all of them
            "WEBHOOKD_MAX_ATTEMPTS": "100",
            "WEBHOOKD_HANDLERS": "fleet_handlers",
            "WEBHOOKD_ADMIN_TOKENS": ",".join(f"{name}:{token}" for name, token in ANN.items()),
            "PYTHONPATH": os.pathsep.join(filter(None, code)),
        }

    async def start(self, *, old: bool, **settings: str) -> Process:
        """Starts a replica with `settings` by field; once ready, it gets a part of the load."""
        folder = self.servers.folder / f"replica{next(_numbers)}"
        folder.mkdir()
        own = {f"WEBHOOKD_{name.upper()}": value for name, value in settings.items()}
        replica = Process({**self.environment(old=old), **own}, folder)
        self.replicas.append(replica)
        if old:
            self.old.append(replica)
        await replica.start()
        self.targets.append(replica)
        return replica

    async def stop(self, replica: Process) -> None:
        """Takes a replica out of the load, as a load balancer does, and stops it; the exit code must be 0."""
        self.targets.remove(replica)
        await until(lambda: not self._in_flight[replica.webhook_url], "nothing is in flight to it")
        assert await replica.stop() == 0, replica.log.read_text()[-2000:]

    async def replace(self, replica: Process, *, old: bool, **settings: str) -> Process:
        """Starts another replica, then stops this one."""
        made = await self.start(old=old, **settings)
        await self.stop(replica)
        return made

    async def run(self, *script: str, old: bool, at: Process | None = None) -> str:
        """Runs a Python process of either release; if `at` is given, as an operator who knows only that replica.

        Returns the process's output. The exit code must be 0.
        """
        environment = self.environment(old=old)
        if at is not None:
            operator = {"WEBHOOKD_API_URL": at.admin_url, "WEBHOOKD_API_TOKEN": ANN["ann"]}
            environment = {**operator, "PYTHONPATH": environment["PYTHONPATH"]}
        # Unbuffered, Python loses output that a pipe does not take at once.
        inherited = {k: v for k, v in os.environ.items() if not k.startswith("WEBHOOKD_") and k != "PYTHONUNBUFFERED"}
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-P", *script),
            env=inherited | environment,
            cwd=self.servers.folder,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        try:
            async with asyncio.timeout(120):
                out, err = await process.communicate()
        finally:
            if process.returncode is None:
                process.kill()
                await process.communicate()
        assert process.returncode == 0, f"{script}: {out.decode()} {err.decode()}"
        return out.decode()

    def misread(self) -> list[str]:
        """Returns the log lines about unreadable messages: such a message would be sent again, and look like a slow one."""
        found = "a message in the queue is not one of webhookd's"
        return [line for replica in self.replicas for line in replica.log.read_text().splitlines() if found in line]

    async def signed(self) -> dict[str, int]:
        """Returns how many events each release's handlers have processed."""
        rows = await self.database.fetch("SELECT release, count(*) FROM signatures GROUP BY release")
        return {row["release"]: row["count"] for row in rows}

    async def load(self, rate: float, stop: asyncio.Event) -> None:
        """Sends `rate` webhooks a second to the targets in turn, until `stop`; a fifth are duplicates, some unusable."""
        due = iter(itertools.count())
        began = time.monotonic()
        connector = aiohttp.TCPConnector(limit=0)
        async with aiohttp.ClientSession(connector=connector, timeout=aiohttp.ClientTimeout(total=30)) as session:

            async def send() -> None:
                for number in due:
                    if stop.is_set():
                        return
                    await asyncio.sleep(max(began + number / rate - time.monotonic(), 0))
                    await self._send_one(session)

            await asyncio.gather(*(send() for _ in range(16)))

    async def _send_one(self, session: aiohttp.ClientSession) -> None:
        ledger = self.ledger
        number = next(_numbers)
        if number % 5 == 0 and ledger.acknowledged:
            sample, expected = ledger.samples[random.choice(list(ledger.acknowledged))], "duplicate"
        elif number % 50 == 1:
            sample, expected = sampling.Sample("", f"unusable-{number}", "", _UNUSABLE % number), "quarantined"
        else:
            sample, expected = sampling.sample(EVENT_TYPES[number % len(EVENT_TYPES)], number), "accepted"
        ledger.samples.setdefault(sample.notification_id, sample)
        self._turn += 1
        url = self.targets[self._turn % len(self.targets)].webhook_url
        self._in_flight[url] += 1
        try:
            answer = await traffic.post(session, url, sample, key=KEY)
        finally:
            self._in_flight[url] -= 1
        ledger.record(answer)
        self.slowest = max(self.slowest, answer.seconds)
        if answer.status != 200 or answer.outcome != expected:
            self.failed[f"{answer.status} {answer.outcome}, not {expected}"] += 1

    def samples(self, count: int) -> Iterator[sampling.Sample]:
        """Yields `count` new events, of every type in turn."""
        for _ in range(count):
            number = next(_numbers)
            yield sampling.sample(EVENT_TYPES[number % len(EVENT_TYPES)], number)
