"""A daemon that has met nearly everything while a real Prometheus scrapes it; one daemon for the whole session."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import shutil
import signal
import tempfile
import threading
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import urlsplit

import aiohttp
import orjson
import pytest

from tests.conftest import Servers, make_queues
from tests.helpers.database import connect
from tests.helpers.prometheus import Prometheus, Sample
from tests.helpers.running import KEY, Process
from tests.helpers.wait import until
from webhookd.authorizenet import sampling
from webhookd.authorizenet.notification import EVENT_TYPES
from webhookd.dev import traffic
from webhookd.dev.servers import Stack
from webhookd.simulate import Simulator

VOID = "net.authorize.payment.void.created"
REFUND = "net.authorize.payment.refund.created"
OLD_KEY = KEY[::-1]
HANDLERS = f"""
from webhookd import Permanent, Retryable, on

@on("{VOID}")
async def give_up(event, connection):
    raise Permanent("as the test wants it")

@on("{REFUND}")
async def succeed_at_the_second_try(event, connection):
    if event.attempt == 1:
        raise Retryable("as the test wants it", after=0)
"""
SECRET = "whsec_" + base64.b64encode(bytes(range(32))).decode()
Page = dict[tuple[str, frozenset[tuple[str, str]]], float]  # one scrape: name and labels → value


class Shop(BaseHTTPRequestHandler):
    """A destination that accepts each event, but for voids, which it never wants, and refunds, which it takes only later."""

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response({VOID: 410, REFUND: 503}.get(self.headers["webhookd-event-type"], 204))
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Writes no line for each request."""


@dataclass
class Observed:
    """The daemon and its observer.

    before: the alerts that fired before the daemon ran.
    start: the daemon's page before any webhook.
    at: when Prometheus had scraped the daemon after the webhooks (seconds since 1970).
    """

    prometheus: Prometheus
    daemon: Process
    stack: Stack
    database: str
    before: set[str]
    start: Page
    at: float

    def query(self, expression: str) -> list[Sample]:
        """Returns the values of an expression after the webhooks. A later rate over minutes would find none of them."""
        return self.prometheus.query(expression, at=self.at)

    async def put_off(self) -> bool:
        """Sends a webhook; returns whether the answer is 503."""
        async with aiohttp.ClientSession() as http:
            return (
                await traffic.post(http, self.daemon.webhook_url, sampling.sample(EVENT_TYPES[0], 1), key=KEY)
            ).status == 503

    def admit(self, *, connections: bool) -> None:
        """Makes PostgreSQL admit the daemon or refuse it; ends the daemon's sessions in both cases."""

        async def alter() -> None:
            server = await connect(self.stack.database_url)
            await server.execute(f"ALTER DATABASE {self.database} ALLOW_CONNECTIONS {connections}")
            await server.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = $1", self.database)
            await server.close()

        asyncio.run(alter())


async def _database(stack: Stack, name: str, template: str | None) -> None:
    server = await connect(stack.database_url)
    await server.execute(f"CREATE DATABASE {name} TEMPLATE {template}" if template else f"DROP DATABASE {name} WITH (FORCE)")
    await server.close()


async def begin_sweep(url: str) -> None:
    """Writes that an earlier daemon has swept the settlement. Else the first sweep and report come after an hour."""
    connection = await connect(url)
    await connection.execute(
        """INSERT INTO provider_sweeps (account, swept_from, batches_listed_at, unsettled_at, time_zone)
           VALUES ('default', now() - interval '30 days', now(), now(), 'UTC')"""
    )
    await connection.close()


async def make_round(daemon: Process, number: int) -> None:
    """Sends one webhook of each type, three sorts of duplicates, one for quarantine, and two that are refused.

    Also makes two unauthorized requests to the admin listener, and waits until every event has ended.
    """
    async with aiohttp.ClientSession() as http:

        async def post(sample: sampling.Sample, outcome: str, **more: str) -> None:
            answer = await traffic.post(http, daemon.webhook_url, sample, **({"key": KEY} | more))
            assert (answer.outcome if answer.status == 200 else str(answer.status)) == outcome, answer

        samples = [sampling.sample(event_type, number) for event_type in EVENT_TYPES]
        for sample in samples:
            await post(sample, "accepted")
        first = samples[0]
        await post(first, "duplicate")
        await post(replace(first, body=first.body + b" "), "duplicate")
        again = orjson.dumps(orjson.loads(first.body) | {"notificationId": str(uuid.uuid4())})
        await post(replace(first, body=again), "duplicate")
        await post(replace(first, body=b'{"eventType": "no id"}'), "quarantined", key=OLD_KEY)
        await post(first, "401", signature="sha512=" + "0" * 128)
        await post(first, "401", signature="none")
        for headers in ({}, {"Authorization": "Bearer nobody's"}):
            async with http.get(f"{daemon.admin_url}/webhooks/events", headers=headers) as response:
                assert response.status == 401

    async def ended() -> bool:
        done = [
            await daemon.metric("webhookd_processed_total", outcome=outcome) for outcome in ("processed", "dead", "retrying")
        ]
        return done == [22 * number, number, number]

    await until(ended, "every event has ended", deadline=30)


@contextlib.contextmanager
def provider() -> Iterator[Simulator]:
    """Runs a provider on a thread of its own."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    simulator = Simulator(seed=1)
    asyncio.run_coroutine_threadsafe(simulator.start(), loop).result(30)
    try:
        yield simulator
    finally:
        asyncio.run_coroutine_threadsafe(simulator.stop(), loop).result(30)
        loop.call_soon_threadsafe(loop.stop)
        thread.join(30)
        loop.close()


async def wait_for_gauges(daemon: Process) -> None:
    """Waits until the gauges that are measured from time to time show what happened."""

    async def shown() -> bool:
        left = [await daemon.metric(f"webhookd_deliveries_{state}", destination="shop") for state in ("waiting", "dead")]
        compared = await daemon.metric("webhookd_provider_compared_timestamp_seconds", account="default")
        names = {name for name, _ in await daemon.metrics()}
        return all((*left, compared)) and names >= {"webhookd_provider_reports_off", "webhookd_provider_days_not_reconciled"}

    await until(shown, "the gauges show what is left", deadline=60, every=0.5)


@pytest.fixture(scope="session")
def asked() -> Iterator[Simulator]:
    """Yields the provider that the session's daemon asks."""
    with provider() as simulator:
        yield simulator


@pytest.fixture(scope="session")
def observed(stack: Stack, template: str, asked: Simulator) -> Iterator[Observed]:
    """Yields the session's daemon and its Prometheus, after two rounds of webhooks."""
    folder = Path(tempfile.mkdtemp(prefix="webhookd-prometheus-"))
    name = f"webhookd_observed_{uuid.uuid4().hex[:8]}"
    url = urlsplit(stack.database_url)._replace(path=f"/{name}").geturl()
    servers = Servers(url, stack.redis_url, stack.sqs_endpoint_url, name, f"{name}_dead", folder)
    asyncio.run(_database(stack, name, template))
    asyncio.run(begin_sweep(url))
    (folder / "observed_handlers.py").write_text(HANDLERS)
    shop = ThreadingHTTPServer(("127.0.0.1", 0), Shop)
    threading.Thread(target=shop.serve_forever, daemon=True).start()
    daemon = Process(
        {
            **servers.settings,
            "WEBHOOKD_DESTINATIONS__SHOP__URL": f"http://127.0.0.1:{shop.server_port}/hooks",
            "WEBHOOKD_DESTINATIONS__SHOP__SECRETS": SECRET,
            "WEBHOOKD_DESTINATIONS__SHOP__ALLOW_PRIVATE": "true",
            "WEBHOOKD_SIGNATURE_KEYS": f"{OLD_KEY},{KEY}",
            "WEBHOOKD_ADMIN_TOKENS": "ann:who-watches-this-daemon",
            "WEBHOOKD_HANDLERS": "observed_handlers",
            "WEBHOOKD_PROVIDER": asked.url,
            "WEBHOOKD_API_LOGIN_ID": asked.account().login_id,
            "WEBHOOKD_TRANSACTION_KEY": asked.account().transaction_key,
            "PYTHONPATH": str(folder),
        },
        folder,
    )
    asked.register(daemon.webhook_url)
    prometheus = Prometheus(folder / "prometheus", [daemon.admin_url.removeprefix("http://")])
    try:
        prometheus.start()
        asyncio.run(make_queues(servers))
        prometheus.fires("WebhookdDown")
        before = prometheus.firing()
        asyncio.run(daemon.start())
        start = asyncio.run(daemon.metrics())
        prometheus.scraped()
        for number in (1, 2):  # a counter has no rate yet when it first appears with a number
            asyncio.run(make_round(daemon, number))
            prometheus.scraped()
        asyncio.run(wait_for_gauges(daemon))
        prometheus.scraped()
        prometheus.scraped()  # evaluates the rules on the last scrape
        yield Observed(prometheus, daemon, stack, name, before, start, time.time())
    finally:
        daemon.end(signal.SIGKILL)
        shop.shutdown()
        shop.server_close()
        prometheus.stop()
        asyncio.run(_database(stack, name, None))
        shutil.rmtree(folder, ignore_errors=True)
