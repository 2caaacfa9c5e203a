"""No event is lost on its way to a destination: answers get lost, the receiver fails and is killed, and so is the sender.

The receiver is the guide's program for Node, behind a proxy that makes the faults and knows what passed.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
import random
import shutil
import signal
import subprocess
from collections import Counter
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path
from typing import Any

import aiohttp
import asyncpg
import pytest
from aiohttp import web
from standardwebhooks import Webhook

from tests.conftest import Servers
from tests.faults.test_clock import DAY, LIBRARY, Clock
from tests.helpers.guide import GUIDE, blocks
from tests.helpers.npm import node_modules
from tests.helpers.receivers import SECRET, receiving
from tests.helpers.running import KEY, Process
from tests.helpers.wait import until, until_ended
from webhookd.authorizenet import sampling
from webhookd.authorizenet.signature import sign
from webhookd.dev import traffic
from webhookd.dev.servers import free_port

_node = pytest.mark.skipif(shutil.which("npm") is None, reason="no npm")

CUSTOMER = "net.authorize.customer.created"
PACKAGE = Path(__file__).parents[1] / "helpers" / "express"


class Node:
    """A program for Node, which can be killed and started again."""

    def __init__(self, program: Path, environment: dict[str, str], port: int) -> None:
        self._program = program
        self._environment = {**os.environ, **environment}
        self._port = port
        self._process: subprocess.Popen[bytes] | None = None

    async def start(self) -> None:
        self._process = subprocess.Popen(["node", str(self._program)], env=self._environment)  # noqa: ASYNC220  only forks
        await until(self._listens, "the program listens", deadline=120)

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait(60)

    async def _listens(self) -> bool:
        assert self._process is not None
        assert self._process.poll() is None, "the program ended"
        with contextlib.suppress(OSError):
            _, writer = await asyncio.open_connection("127.0.0.1", self._port)
            writer.close()
            return True
        return False


class Faults:
    """A proxy before the receiver. Of twenty requests, one gets 500, one is reset, and two are handled without an answer."""

    def __init__(self, upstream: str) -> None:
        self._upstream = upstream
        self._session = aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0))
        self.healthy = False
        self.ids: dict[bytes, set[str]] = {}  # hash of a body → each `webhook-id` that came with the body
        self.handled: Counter[str] = Counter()  # requests that the receiver has accepted, by id
        self.lost = self.refused = 0
        self.url = ""

    async def handle(self, request: web.Request) -> web.StreamResponse:
        body = await request.read()
        event_id = request.headers["webhook-id"]
        self.ids.setdefault(hashlib.sha256(body).digest(), set()).add(event_id)
        fault = 1.0 if self.healthy else random.random()
        if fault < 0.1:
            self.refused += 1
            if fault < 0.05 and request.transport is not None:
                request.transport.abort()
            return web.Response(status=500)
        try:
            async with self._session.post(self._upstream, data=body, headers=request.headers) as answer:
                status = answer.status
        except aiohttp.ClientError:  # the receiver is being killed
            return web.Response(status=502)
        assert status == 204, status
        self.handled[event_id] += 1
        if fault < 0.2 and request.transport is not None:
            self.lost += 1
            request.transport.abort()
        return web.Response(status=status)

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[Faults]:
        app = web.Application(client_max_size=2**24)
        app.router.add_post("/hooks", self.handle)
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        self.url = f"http://127.0.0.1:{runner.addresses[0][1]}/hooks"
        try:
            yield self
        finally:
            await runner.cleanup()
            await self._session.close()


async def program(tmp_path: Path, name: str, text: str) -> Path:
    """Writes a program beside the packages that it needs."""
    modules = await asyncio.to_thread(node_modules, PACKAGE)
    (tmp_path / "node_modules").symlink_to(modules)
    file = tmp_path / name
    file.write_text(text)
    return file


@_node
@pytest.mark.parametrize("count", [300, pytest.param(10_000, marks=pytest.mark.long)])
async def test_the_guides_receiver_for_express_gets_each_event(
    servers: Servers, connection: asyncpg.Connection[Any], tmp_path: Path, count: int
) -> None:
    (text,) = blocks((GUIDE / "receivers.md").read_text(), "js")
    folder, port = tmp_path / "events", free_port(0)
    environment = {"SHOP_SECRET": SECRET, "SHOP_FOLDER": str(folder), "SHOP_PORT": str(port)}
    receiver = Node(await program(tmp_path, "shop.mjs", text), environment, port)
    async with Faults(f"http://127.0.0.1:{port}/hooks").running() as faults:
        settings = {
            **servers.settings,
            "WEBHOOKD_DESTINATIONS__SHOP__URL": faults.url,
            "WEBHOOKD_DESTINATIONS__SHOP__SECRETS": SECRET,
            "WEBHOOKD_DESTINATIONS__SHOP__ALLOW_PRIVATE": "true",
            "WEBHOOKD_DESTINATIONS__SHOP__TIMEOUT": "5",
            "WEBHOOKD_DESTINATIONS__SHOP__MAX_ATTEMPTS": "1000",
        }
        daemon = Process(settings, tmp_path)
        try:
            await receiver.start()
            await daemon.start()
            samples = [sampling.sample(CUSTOMER, number) for number in range(count)]
            assert (await traffic.send(samples, daemon.webhook_url, KEY)).failed == 0
            for _ in range(3):
                enough = partial(_get_through, connection, faults.handled, faults.handled.total() + count // 20)
                await until(enough, "some get through", deadline=120, every=0.5)
                daemon.end(signal.SIGKILL)
                receiver.kill()
                await daemon.start()
                await asyncio.sleep(0.5)  # attempts fail meanwhile
                await receiver.start()
                await hurry(connection)
            assert faults.refused
            assert faults.lost
            faults.healthy = True

            async def left() -> int:
                await hurry(connection)
                return int(await connection.fetchval("SELECT count(*) FROM webhookd.deliveries"))

            await until_ended(left, "every delivery ends", patience=120, every=0.5)
        finally:
            daemon.end(signal.SIGKILL)
            receiver.kill()
    wanted = {str(row["id"]) for row in await connection.fetch("SELECT id FROM webhookd.ledger")}
    assert len(wanted) == count
    stored = {file.stem: file.read_bytes() for file in folder.glob("*.json")}
    assert stored.keys() == wanted, "none is missing"
    assert {hashlib.sha256(body).digest() for body in stored.values()} == {
        hashlib.sha256(sample.body).digest() for sample in samples
    }
    assert faults.handled.total() > count, "some were sent again"
    assert all(len(ids) == 1 for ids in faults.ids.values()), "a repeat has the id of the first send"


async def _get_through(connection: asyncpg.Connection[Any], handled: Counter[str], number: int) -> bool:
    await hurry(connection)  # after each outage, the probes of the circuit would come minutes apart
    return handled.total() > number


async def hurry(connection: asyncpg.Connection[Any]) -> None:
    """Makes deliveries and probes due now, and ends leases that end soon: most are of killed processes."""
    await connection.execute(
        "UPDATE webhookd.deliveries SET due = now() "
        "WHERE status <> 'dead' AND due > now() AND (sends = 0 OR due < now() + interval '9 s')"
    )
    await connection.execute("UPDATE webhookd.circuits SET probe_at = now() WHERE opened_at IS NOT NULL")


@_node
async def test_a_receiver_for_authorize_net_works_behind_webhookd_as_it_is(servers: Servers, tmp_path: Path) -> None:
    book, port = tmp_path / "book", free_port(0)
    book.touch()
    url = f"http://127.0.0.1:{port}/any/path"
    receiver = Node(PACKAGE / "authorize_net.mjs", {"SIGNATURE_KEY": KEY, "BOOK": str(book), "PORT": str(port)}, port)
    direct, *others = (sampling.sample(CUSTOMER, number) for number in range(5))
    settings = {
        **servers.settings,
        "WEBHOOKD_DESTINATIONS__SHOP__URL": url,
        "WEBHOOKD_DESTINATIONS__SHOP__ALLOW_PRIVATE": "true",
    }
    daemon = Process(settings, tmp_path)
    try:
        await receiver.start()
        async with aiohttp.ClientSession() as provider:
            for body, status in ((direct.body, 200), (direct.body + b" ", 401)):
                headers = {"X-ANET-Signature": sign(direct.body, KEY)}
                async with provider.post(url, data=body, headers=headers) as answer:
                    assert answer.status == status
        await daemon.start()
        assert (await traffic.send(others, daemon.webhook_url, KEY)).failed == 0
        await until(lambda: len(book.read_text().split()) == 5, "the receiver books what webhookd passes on", deadline=60)
    finally:
        daemon.end(signal.SIGKILL)
        receiver.kill()
    assert len(set(book.read_text().split())) == 5


@pytest.mark.skipif(LIBRARY is None, reason="needs libfaketime: apt-get install faketime")
@pytest.mark.parametrize("seconds", [40 * DAY, pytest.param(-40 * DAY, marks=pytest.mark.long)])
async def test_a_wrong_clock_of_the_sender_changes_neither_retries_nor_signatures(
    servers: Servers, connection: asyncpg.Connection[Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seconds: int
) -> None:
    """PostgreSQL's clock counts: a receiver refuses a request whose time is five minutes away."""
    async with receiving() as shop:
        shop.answer = lambda _: web.Response(status=500 if len(shop.got) <= 5 else 200)
        settings = {
            **servers.settings,
            "WEBHOOKD_DESTINATIONS__SHOP__URL": shop.url,
            "WEBHOOKD_DESTINATIONS__SHOP__SECRETS": SECRET,
            "WEBHOOKD_DESTINATIONS__SHOP__ALLOW_PRIVATE": "true",
        }
        Clock(tmp_path, monkeypatch, "wrong").set(seconds)
        daemon = Process(settings, tmp_path)
        try:
            await daemon.start()
            samples = [sampling.sample(CUSTOMER, number) for number in range(5)]
            assert (await traffic.send(samples, daemon.webhook_url, KEY)).failed == 0
            await until(lambda: len(shop.got) >= 10, "each is sent again, in seconds", deadline=60)
            ahead = await daemon.metric("webhookd_clock_ahead_seconds")
        finally:
            daemon.end(signal.SIGKILL)
    assert ahead == pytest.approx(seconds, abs=60), "the clock is wrong"
    for got in shop.got:
        Webhook(SECRET).verify(got.body, got.headers)
    assert set(Counter(shop.ids).values()) == {2}
