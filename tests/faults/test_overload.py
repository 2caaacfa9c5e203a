"""An overloaded receiver refuses the excess, answers fast and keeps what it accepts, and recovers by itself."""

from __future__ import annotations

import asyncio
import contextlib
import os
import resource
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import psutil
import pytest

from tests.helpers import flood
from tests.helpers.flood import flooding
from tests.helpers.rig import Rig
from tests.helpers.running import Process
from tests.helpers.wait import until

MIB = 1 << 20
COMMIT_TIMEOUT = 5.0
PROBE_TIMEOUT = 5.0  # seconds: the timeout of the livenessProbe in deploy/kubernetes, which must fail six times in a row


class Vigil:
    """An observer of a daemon's memory, and of how long liveness takes on either listener, in seconds."""

    def __init__(self, daemon: Process) -> None:
        assert daemon.process is not None
        self._daemon = daemon
        self._process = psutil.Process(daemon.process.pid)
        self._urls = [f"{url}/livez" for url in (daemon.public_url, daemon.admin_url)]
        self.began = self.memory = self._process.memory_info().rss
        self.looks = 0
        self.slowest = 0.0

    async def look(self) -> None:
        """Asks both listeners, each through a new connection, and notes the worst values."""
        for url in self._urls:
            started = self._daemon.spent
            async with aiohttp.ClientSession() as session, session.get(url) as response:
                assert response.status == 200, url
            self.slowest = max(self.slowest, self._daemon.spent - started)
        self.memory = max(self.memory, self._process.memory_info().rss)
        self.looks += 1

    def check(self, *, grown: int) -> None:
        """Fails if memory grew by more than `grown` bytes, or if a liveness probe would have failed."""
        assert self.looks, "nobody looked"
        assert self.slowest < PROBE_TIMEOUT, f"liveness took {self.slowest:.1f} s"
        assert self.memory - self.began < grown, f"memory grew from {self.began // MIB} to {self.memory // MIB} MiB"


@contextlib.asynccontextmanager
async def watched(daemon: Process) -> AsyncIterator[Vigil]:
    """Looks at a daemon again and again during the block."""
    vigil = Vigil(daemon)
    await vigil.look()

    async def look_on() -> None:
        while True:
            await asyncio.sleep(0.1)
            await vigil.look()

    looking = asyncio.create_task(look_on())
    try:
        yield vigil
        await vigil.look()
    finally:
        looking.cancel()
        (failure,) = await asyncio.gather(looking, return_exceptions=True)
    if isinstance(failure, Exception):
        raise failure


def keep(rig: Rig, record: Path) -> None:
    """Enters the webhooks that a flood sent, and their answers, into the ledger."""
    for answer in flood.read(record):
        rig.ledger.samples[answer.sample.notification_id] = answer.sample
        rig.ledger.record(answer)


async def accepted(rig: Rig, within: float) -> None:
    """Sends fresh webhooks, one after the other, until one is answered 200: the provider tries again, too.

    Fails after `within` seconds. Seconds for which the daemon waited for a processor are not counted.
    """
    daemon = rig.daemons[-1]
    end = daemon.spent + within
    while (await rig.send(1)).failed:
        assert daemon.spent < end, f"not within {within:g} s: a fresh webhook is accepted"
        await asyncio.sleep(0.1)


async def test_beyond_a_slow_postgresql_the_excess_is_503_and_what_is_accepted_is_in_time(rig: Rig) -> None:
    daemon = await rig.daemon(max_pending="20", roles="receive")
    await rig.send(60, connections=32)  # opens the sessions of all commits: a slow PostgreSQL takes seconds to open one
    rig.proxies.postgresql.delay(0.2)
    record = daemon.log.parent / "flood"
    async with (
        watched(daemon) as vigil,
        flooding(daemon.webhook_url, "--rate", "100", "--seconds", "1.5", "--record", str(record)) as flooded,
    ):
        report = await flooded
    await rig.proxies.postgresql.heal()
    keep(rig, record)
    assert set(report.statuses) == {"200", "503"}, report
    assert report.retry_after == report.statuses["503"], "each refusal says when to come again"
    assert report.p99 is not None
    assert report.p99 < COMMIT_TIMEOUT * 1.1, report  # the group commit gives up within another tenth of its time
    vigil.check(grown=100 * MIB)
    await accepted(rig, within=5)
    await rig.daemon(roles="relay,work")
    rig.recovered()
    await rig.finish()


@pytest.mark.long
async def test_at_far_more_than_it_can_take_what_is_accepted_is_in_time_and_kept(rig: Rig) -> None:
    daemon = await rig.daemon(roles="receive")
    record = daemon.log.parent / "flood"
    async with (
        watched(daemon) as vigil,
        flooding(
            daemon.webhook_url, "--rate", "12000", "--seconds", "1.5", "--connections", "3500", "--record", str(record)
        ) as flooded,
    ):
        report = await flooded
    keep(rig, record)
    assert set(report.statuses) == {"200", "503"}, report
    assert report.statuses["200"] > 100, report
    assert report.retry_after == report.statuses["503"], "each refusal says when to come again"
    assert report.p99 is not None
    assert report.p99 < COMMIT_TIMEOUT, report
    vigil.check(grown=150 * MIB)
    await accepted(rig, within=10)
    # The ledger sends only a part of the refused webhooks again now. The rest stays refused: a provider retries it later.
    stored = {row["notification_id"] for row in await rig.connection.fetch("SELECT notification_id FROM events")}
    for sample in rig.ledger.unanswered[100:]:
        if sample.notification_id not in stored:
            del rig.ledger.samples[sample.notification_id]
    await rig.daemon(roles="relay,work")
    rig.recovered()
    await rig.finish(deadline=120)


async def test_authentic_webhooks_are_accepted_among_forged_ones(rig: Rig) -> None:
    count = rig.rounds(3_000, 100_000)
    daemon = await rig.daemon()
    options = ["--forged", "--rate", "10000", "--seconds", str(count / 10_000), "--connections", "32", "--all"]
    async with watched(daemon) as vigil, flooding(daemon.webhook_url, *options) as flooded:
        while not flooded.done():
            await accepted(rig, within=10)
        report = await flooded
    assert sum(report.statuses.values()) == count
    assert set(report.statuses) <= {"401", "503"}, report
    assert report.statuses["401"] > count / 2, report
    vigil.check(grown=100 * MIB)
    assert len(daemon.log.read_bytes().splitlines()) < 100, "no line for each of them"
    await rig.finish()


async def test_huge_forged_bodies_do_not_keep_authentic_webhooks_out(rig: Rig) -> None:
    daemon = await rig.daemon()
    seconds = rig.rounds(2, 10)
    options = ["--forged", "--size", str(MIB), "--rate", "300", "--seconds", str(seconds), "--connections", "100"]
    async with watched(daemon) as vigil, flooding(daemon.webhook_url, *options) as flooded:
        while not flooded.done():
            await accepted(rig, within=15)
        report = await flooded
    assert set(report.statuses) <= {"401", "503", "reset"}, report
    vigil.check(grown=250 * MIB)
    await rig.finish()


@pytest.mark.long
async def test_ten_thousand_idle_connections_leave_room_for_webhooks(rig: Rig) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard < 11_000:
        pytest.skip(f"this process may open {hard} files at most")
    resource.setrlimit(resource.RLIMIT_NOFILE, (11_000, hard))
    daemon = await rig.daemon(max_connections="12000" if hard > 16_000 else "4000", head_timeout="60")
    host, _, port = daemon.public_url.removeprefix("http://").partition(":")
    writers: list[asyncio.StreamWriter] = []
    try:
        async with watched(daemon) as vigil:
            for n in range(100):
                opened = [asyncio.open_connection(host, int(port), local_addr=(f"127.0.0.{2 + n % 8}", 0)) for _ in range(100)]
                writers += [writer for _, writer in await asyncio.gather(*opened)]
            await until(lambda: idle(daemon), "the connections are accepted", deadline=30)
            await accepted(rig, within=10)
            await rig.send(200)
        vigil.check(grown=200 * MIB)
    finally:
        for writer in writers:
            writer.transport.abort()
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    await until(lambda: gone(daemon), "the connections are closed", deadline=30)
    rig.recovered()
    await rig.finish()


async def idle(daemon: Process) -> bool:
    return await daemon.metric("webhookd_connections") >= 4000


async def gone(daemon: Process) -> bool:
    return await daemon.metric("webhookd_connections") < 100


async def test_slow_heads_and_slow_bodies_on_every_connection_leave_room_for_webhooks(rig: Rig) -> None:
    daemon = await rig.daemon(max_connections="200", head_timeout="1", body_timeout="1")
    host, _, port = daemon.public_url.removeprefix("http://").partition(":")
    going = True

    async def attack(number: int) -> None:
        starts = (b"POST /webhooks/authorize-net HTTP/1.1\r\nHost: x\r\n", b"Content-Length: 1000\r\n\r\n")
        while going:
            try:
                _, writer = await asyncio.open_connection(host, int(port))
                writer.write(b"".join(starts[: 1 + number % 2]))
                while going and not writer.transport.is_closing():
                    writer.write(b"x" if number % 2 else f"X-{os.urandom(2).hex()}: x\r\n".encode())
                    await writer.drain()
                    await asyncio.sleep(0.1)
                writer.close()
            except OSError:
                await asyncio.sleep(0.1)

    attackers = [asyncio.create_task(attack(n)) for n in range(300)]
    try:
        async with watched(daemon) as vigil:
            await until(lambda: full(daemon), "the slow ones take every connection", deadline=30)
            for _ in range(rig.rounds(10, 100)):
                await accepted(rig, within=10)
        vigil.check(grown=100 * MIB)
    finally:
        going = False
        await asyncio.gather(*attackers)
    assert await daemon.metric("webhookd_connections") <= 400
    await rig.finish()


async def full(daemon: Process) -> bool:
    return await daemon.metric("webhookd_connections") >= 200


async def test_a_file_limit_that_is_too_low_is_named_and_obeyed(rig: Rig) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(soft, 1024), hard))
    try:
        daemon = await rig.daemon(max_connections=str(hard + 1000))
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    log = daemon.log.read_text()
    assert "WEBHOOKD_MAX_CONNECTIONS" in log
    assert "LimitNOFILE" in log
    assert daemon.process is not None
    assert psutil.Process(daemon.process.pid).rlimit(psutil.RLIMIT_NOFILE) == (hard, hard), "as far as it may"
    await rig.send(5)
    await rig.finish()


@pytest.mark.long
async def test_posts_of_a_proxy_that_keeps_connections_survive_an_overload(rig: Rig) -> None:
    """The same clients retry after a 503, over the connections that they have, and all are served in the end."""
    await rig.daemon(max_pending="5")
    rig.proxies.postgresql.delay(0.1)
    summary = await rig.send(60, connections=40)
    refused = rig.ledger.unanswered
    assert summary.statuses[503] == len(refused) > 0, summary
    assert summary.statuses[0] == 0, "none was cut off"
    await rig.proxies.postgresql.heal()
    rig.recovered()
    await rig.finish()
