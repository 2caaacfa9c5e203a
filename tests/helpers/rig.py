"""A rig: servers behind fault proxies, real daemons before them, a load, and the ledger that checks the result."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import signal
import time
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from dataclasses import dataclass, field
from urllib.parse import urlsplit

import asyncpg

from tests.conftest import Servers
from tests.helpers.database import connect
from tests.helpers.ledger import COUNTING, Ledger
from tests.helpers.proxy import FaultProxy
from tests.helpers.running import Process
from tests.helpers.wait import until, until_ended
from webhookd.authorizenet import sampling
from webhookd.authorizenet.notification import EVENT_TYPES
from webhookd.dev import traffic
from webhookd.dev.servers import Stack

# With these settings, the work of a killed daemon comes back soon, and a failed attempt is repeated soon.
QUICK = {
    "WEBHOOKD_VISIBILITY_TIMEOUT": "3",
    "WEBHOOKD_HANDLER_TIMEOUT": "2",
    "WEBHOOKD_RESEND_AFTER": "2",
    "WEBHOOKD_RETRY_BASE": "0.2",
    "WEBHOOKD_RETRY_CAP": "2",
}
_numbers = itertools.count(1)


@dataclass(slots=True)
class Row:
    """One row of the table that a run of the suite prints."""

    case: str
    rounds: int
    sent: int
    acknowledged: int
    lost: int
    doubled: int
    recovery: float | None  # seconds from the end of the fault until a fresh webhook was processed


@dataclass(slots=True, frozen=True)
class Proxies:
    """A proxy in front of each server."""

    postgresql: FaultProxy
    redis: FaultProxy
    sqs: FaultProxy

    def __iter__(self) -> Iterator[FaultProxy]:
        return iter((self.postgresql, self.redis, self.sqs))


def _through(url: str, proxy: FaultProxy) -> str:
    parts = urlsplit(url)
    return parts._replace(netloc=parts.netloc.rpartition(":")[0] + f":{proxy.port}").geturl()


def _proxy(url: str) -> FaultProxy:
    parts = urlsplit(url)
    assert parts.hostname, url
    return FaultProxy(parts.hostname, parts.port or 0)


@dataclass(slots=True)
class Rig:
    """One case of the fault suite. A case calls `finish` last."""

    case: str
    servers: Servers
    stack: Stack
    long: bool
    record: Callable[[Row], None]
    proxies: Proxies = field(init=False)
    ledger: Ledger = field(init=False)
    daemons: list[Process] = field(default_factory=list)
    through: str = ""  # the webhook's address on a proxy in front of the daemons, if there is one
    rounds_run: int = 1
    _handlers: str = COUNTING
    _recovered_at: float | None = None
    _recovery: float | None = None
    _probe: asyncio.Task[None] | None = None

    async def open(self) -> None:
        """Starts the proxies, and connects the ledger."""
        servers = self.servers
        self.proxies = Proxies(_proxy(servers.database_url), _proxy(servers.redis_url), _proxy(servers.sqs_endpoint_url))
        for proxy in self.proxies:
            await proxy.start()
        self.ledger = Ledger(servers.database_url)
        await self.ledger.connect()
        await self.ledger.open()

    async def close(self) -> None:
        """Kills the daemons, and closes the ledger and the proxies."""
        if self._probe is not None:
            self._probe.cancel()
            await asyncio.gather(self._probe, return_exceptions=True)
        for daemon in self.daemons:
            await asyncio.to_thread(daemon.end, signal.SIGKILL)
        for proxy in self.proxies:
            await proxy.stop()
        await self.ledger.close()

    @property
    def connection(self) -> asyncpg.Connection[asyncpg.Record]:
        """Returns the direct connection to the database, not through the proxy."""
        return self.ledger.connection

    def rounds(self, short: int, long: int) -> int:
        """Returns how many rounds this run makes: `long` with `--faults-long`, otherwise `short`."""
        self.rounds_run = long if self.long else short
        return self.rounds_run

    def handlers(self, source: str) -> None:
        """Sets the source of the users' handler module for daemons that start from now on."""
        self._handlers = source

    def settings(self, **overrides: str) -> dict[str, str]:
        """Returns the environment of a daemon whose connections go through the proxies."""
        module = f"handlers_{next(_numbers)}"
        (self.servers.folder / f"{module}.py").write_text(self._handlers)
        return {
            **self.servers.settings,
            **QUICK,
            "WEBHOOKD_DATABASE_URL": _through(self.servers.database_url, self.proxies.postgresql),
            "WEBHOOKD_REDIS_URL": _through(self.servers.redis_url, self.proxies.redis),
            "WEBHOOKD_SQS_ENDPOINT_URL": _through(self.servers.sqs_endpoint_url, self.proxies.sqs),
            "WEBHOOKD_HANDLERS": module,
            "PYTHONPATH": str(self.servers.folder),
            **{f"WEBHOOKD_{name.upper()}": value for name, value in overrides.items()},
        }

    async def daemon(self, *, ready: bool = True, **settings: str) -> Process:
        """Starts one more real daemon, with `settings` by field. Waits until it is ready, unless `ready` is false."""
        folder = self.servers.folder / f"daemon{len(self.daemons)}"
        folder.mkdir()
        process = Process(self.settings(**settings), folder)
        self.daemons.append(process)
        await process.start(ready=ready)
        return process

    @property
    def urls(self) -> list[str]:
        """Returns the webhook's address of each running daemon, or of the proxy in front of them all."""
        if self.through:
            return [self.through]
        return [daemon.webhook_url for daemon in self.daemons if daemon.running]

    def samples(self, count: int | None = None, types: Iterable[str] = EVENT_TYPES) -> Iterator[sampling.Sample]:
        """Returns notifications of every type in turn, each a new event: `count` of them, or without end."""
        names = itertools.cycle(list(types))
        stream = (sampling.sample(name, next(_numbers)) for name in names)
        return stream if count is None else itertools.islice(stream, count)

    async def send(self, count: int, *, rate: float | None = None, connections: int = 16) -> traffic.Summary:
        """Sends `count` new events to the running daemons, and records them in the ledger."""
        return await self.ledger.send(self.samples(count), self.urls, rate=rate, connections=connections)

    @contextlib.asynccontextmanager
    async def load(self, rate: float = 100.0, *, connections: int = 32) -> AsyncIterator[None]:
        """Sends new events throughout the block, `rate` a second, to every daemon, whether it runs or not."""
        going = True

        def samples() -> Iterator[sampling.Sample]:
            for sample in self.samples():
                if not going:
                    return
                yield sample

        urls = [self.through] if self.through else [daemon.webhook_url for daemon in self.daemons]
        sending = asyncio.create_task(self.ledger.send(samples(), urls, rate=rate, connections=connections))
        try:
            yield
        finally:
            going = False
            await sending

    async def acknowledged(self, more: int, *, deadline: float = 30.0) -> None:
        """Waits until `more` further webhooks have been answered 200; fails after `deadline` seconds without a further one."""
        goal = len(self.ledger.acknowledged) + more
        await until_ended(
            lambda: max(goal - len(self.ledger.acknowledged), 0),
            f"{more} more webhooks are acknowledged",
            patience=deadline,
            every=0.002,
        )

    def recovered(self) -> None:
        """Marks the end of the fault: starts to measure the time until a fresh webhook is accepted and processed."""
        self._recovered_at = time.monotonic()
        self._probe = asyncio.create_task(self._probing(), name="time to recover")

    async def _probing(self) -> None:
        """Sends webhooks, one after the other, until one is accepted, and waits until that webhook is processed."""
        assert self._recovered_at is not None
        connection = await connect(self.servers.database_url, timeout=30)
        try:
            while True:
                (sample,) = self.samples(1)
                await self.ledger.send([sample], self.urls)
                if sample.notification_id in self.ledger.acknowledged:
                    break
                await asyncio.sleep(0.05)
            event_id = self.ledger.acknowledged[sample.notification_id]
            query = "SELECT status IN ('processed', 'dead') FROM events WHERE id::text = $1"
            await until(lambda: connection.fetchval(query, event_id), "a fresh event is processed", deadline=120)
            self._recovery = time.monotonic() - self._recovered_at
        finally:
            connection.terminate()

    async def finish(self, *, deadline: float = 90.0, dead_effects: bool = False) -> Row:
        """Settles open work, checks the ledger, and adds the case's row to the table."""
        await self.ledger.settle(self.urls, deadline=deadline)
        if self._probe is not None:
            await self._probe
        totals = await self.ledger.check(dead_effects=dead_effects)
        row = Row(self.case, self.rounds_run, totals.sent, totals.acknowledged, totals.lost, totals.doubled, self._recovery)
        self.record(row)
        return row
