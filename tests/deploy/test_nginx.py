"""nginx with the project's configuration, before a real daemon: what it passes and refuses, and what the provider sees."""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest
import pytest_asyncio
import trustme

from tests.conftest import Start
from tests.helpers.nginx import Nginx, needs_nginx
from tests.helpers.running import KEY
from webhookd.authorizenet import sampling
from webhookd.daemon import Daemon
from webhookd.dev import traffic
from webhookd.dev.servers import free_port
from webhookd.settings import Settings

pytestmark = needs_nginx
PATH = "/webhooks/authorize-net"
TYPE = "net.authorize.payment.authcapture.created"


@pytest_asyncio.fixture
async def daemon(start: Start) -> Daemon:
    return await start(roles="receive", accounts={"eu": {"signature_keys": KEY}})


@pytest_asyncio.fixture
async def nginx(daemon: Daemon, tmp_path: Path) -> AsyncIterator[Nginx]:
    """Yields nginx before one replica that answers, and two that do not."""
    addresses = [f"127.0.0.1:{free_port(0)}", daemon.public_url.removeprefix("http://"), f"127.0.0.1:{free_port(0)}"]
    async with Nginx(tmp_path / "nginx", addresses, trustme.CA()) as running:
        yield running


async def test_webhooks_pass_byte_for_byte_over_tls_and_nothing_else_does(nginx: Nginx) -> None:
    async with aiohttp.ClientSession(nginx.https_url, connector=aiohttp.TCPConnector(ssl=nginx.trust)) as http:
        for number, path in enumerate((PATH, f"{PATH}/", f"{PATH}/eu", f"{PATH}/eu/"), 1):
            sample = sampling.sample(TYPE, number)
            answer = await traffic.post(http, path, sample, key=KEY)
            assert (answer.status, answer.outcome) == (200, "accepted")
            answer = await traffic.post(http, path, sample, key=KEY)
            assert (answer.status, answer.outcome) == (200, "duplicate")
        assert (await traffic.post(http, PATH, sampling.sample(TYPE, 9), signature="sha512=00")).status == 401
        assert (await traffic.post(http, f"{PATH}/us", sampling.sample(TYPE, 9), key=KEY)).status == 404
        for path in ("/", "/metrics", "/webhooks/events", "/livez", f"{PATH}/eu/x", f"{PATH}/../../metrics"):
            async with http.get(path) as response:
                assert response.status == 404, path
        async with http.get(PATH) as response:
            assert response.status == 403
        limit = Settings.model_fields["max_body_bytes"].default
        async with http.post(PATH, data=io.BytesIO(b"x" * (limit + 1))) as response:
            assert response.status == 413
        async with http.post(PATH, data=io.BytesIO(b"x" * limit)) as response:
            assert response.status == 401, "a body of the size that webhookd takes must reach it"


async def test_where_no_replica_answers_the_provider_is_told_to_come_again(nginx: Nginx, daemon: Daemon) -> None:
    await daemon.stop()
    async with aiohttp.ClientSession() as http:
        headers = {"X-ANET-Signature": "sha512=00"}
        async with http.post(f"{nginx.http_url}{PATH}", data=b"{}", headers=headers) as response:
            assert response.status == 503
            assert response.headers["Retry-After"] == "5"
            assert response.content_type == "application/problem+json"
            assert json.loads(await response.read())["status"] == 503


@contextlib.asynccontextmanager
async def faulty(answer: bytes) -> AsyncIterator[tuple[str, list[bytes]]]:
    """Yields the address of a replica that reads a request, sends `answer` and closes, and the list of requests.

    An empty answer stands for a replica that is killed.
    """
    taken: list[bytes] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        taken.append(await reader.readuntil(b"\r\n\r\n"))
        writer.write(answer)
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield f"127.0.0.1:{server.sockets[0].getsockname()[1]}", taken
    finally:
        server.close()


@pytest.mark.parametrize("answer", [b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\nConnection: close\r\n\r\n", b""])
async def test_what_a_replica_puts_off_or_drops_another_one_is_asked(daemon: Daemon, tmp_path: Path, answer: bytes) -> None:
    async with faulty(answer) as (one, first), faulty(answer) as (other, second):
        addresses = [one, daemon.public_url.removeprefix("http://"), other]
        async with Nginx(tmp_path / "nginx", addresses, trustme.CA()) as nginx, aiohttp.ClientSession(nginx.http_url) as http:
            answers = [await traffic.post(http, PATH, sampling.sample(TYPE, number), key=KEY) for number in range(1, 7)]
        assert first or second
        assert [(answer.status, answer.outcome) for answer in answers] == [(200, "accepted")] * 6
