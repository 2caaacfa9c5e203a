"""DNS rebinding and other sites' pages: the admin listener refuses unknown host names, and changes from other origins."""

from __future__ import annotations

import asyncio
import json
import socket
import uuid
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import pytest

from tests.conftest import Start
from webhookd.admin.access import HEADER
from webhookd.daemon import Daemon
from webhookd.errors import SettingsError

OPERATE = "operate-0123456789"
ANYBODY: dict[str, Any] = {"roles": "receive", "admin_anonymous": "operate", "admin_tokens": {"ann": OPERATE}}
BEARER = {"Authorization": f"Bearer {OPERATE}"}
PROBES = ("/livez", "/readyz", "/metrics")
SHOWING = ("/webhooks/events", "/webhooks/stats", "/webhooks/health", "/session", "/", "/docs", "/guide", "/openapi.json")


@pytest.fixture
async def daemon(start: Start) -> Daemon:
    return await start(**ANYBODY, admin_hosts="ops.example.com,hooks.example.com:8443")


@pytest.fixture
async def http(daemon: Daemon) -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession(daemon.admin_url) as session:
        yield session


def port(daemon: Daemon) -> int:
    return int(daemon.admin_url.rpartition(":")[2])


async def status(http: aiohttp.ClientSession, method: str, path: str, **headers: str) -> int:
    async with http.request(method, path, headers=headers) as answer:
        return answer.status


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:9090", "127.0.0.1.evil.example", "localhost.evil", "10.9.8.7", "a b", ""]
)
async def test_an_unknown_host_name_is_shown_nothing_and_changes_nothing(http: aiohttp.ClientSession, host: str) -> None:
    for path in SHOWING:
        assert await status(http, "GET", path, Host=host) == 421, path
    retry = f"/webhooks/events/{uuid.uuid4()}/retry"
    assert await status(http, "POST", retry, Host=host, **{HEADER: "dashboard"}) == 421
    assert await status(http, "POST", retry, Host=host, **BEARER) == 421
    assert await status(http, "POST", "/session", Host=host) == 421
    assert await status(http, "DELETE", "/session", Host=host) == 421
    for path in PROBES:
        assert await status(http, "GET", path, Host=host) == 200, path


async def test_the_refusal_names_the_setting_the_host_and_the_remedy(http: aiohttp.ClientSession) -> None:
    async with http.get("/webhooks/events", headers={"Host": "admin.shop.internal:9090"}) as answer:
        problem = json.loads(await answer.text())
    assert answer.content_type == "application/problem+json"
    for part in ("WEBHOOKD_ADMIN_HOSTS", "'admin.shop.internal'", "add"):
        assert part in problem["detail"]
    async with http.get("/webhooks/events", headers={"Host": "x" * 4000}) as answer:
        assert (answer.status, len(await answer.read()) < 1000) == (421, True)


async def test_loopback_names_and_those_of_the_setting_are_known_with_any_port(http: aiohttp.ClientSession) -> None:
    for host in (
        "localhost",
        "LOCALHOST:1",
        "127.0.0.1",
        "127.9.9.9:80",
        "[::1]:9090",
        "ops.example.com",
        "OPS.example.com.:443",
    ):
        assert await status(http, "GET", "/webhooks/events", Host=host) == 200, host
    assert await status(http, "GET", "/webhooks/events", Host="hooks.example.com") == 200


async def test_the_listeners_own_address_is_known(start: Start) -> None:
    daemon = await start(**ANYBODY, admin_listen="0.0.0.0:0")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))
        except OSError:
            pytest.skip("this machine has no address but loopback's")
        own = probe.getsockname()[0]
    async with aiohttp.ClientSession(f"http://{own}:{port(daemon)}") as http:
        assert await status(http, "GET", "/webhooks/events") == 200
        assert await status(http, "GET", "/webhooks/events", Host="0.0.0.0") == 421


@pytest.mark.parametrize(
    "head", ["GET /webhooks/events HTTP/1.0\r\n", "GET /webhooks/events HTTP/1.1\r\nHost: localhost\r\nHost: evil\r\n"]
)
async def test_a_request_with_no_host_name_or_with_two_is_refused(daemon: Daemon, head: str) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", port(daemon))
    writer.write(f"{head}Connection: close\r\n\r\n".encode())
    answer = await reader.read()
    writer.close()
    assert int(answer.split()[1]) in (400, 421), answer


FOREIGN = [
    {"Origin": "https://evil.example"},
    {"Origin": "null"},
    {"Origin": "http://localhost:1"},  # another program on the same machine
    {"Origin": "file://"},
    {"Origin": "https://ops.example.com:444"},
    {"Sec-Fetch-Site": "cross-site"},
    {"Sec-Fetch-Site": "same-site"},
]


@pytest.mark.parametrize("headers", FOREIGN, ids=str)
async def test_a_change_that_another_origins_page_sends_is_refused(
    http: aiohttp.ClientSession, headers: dict[str, str]
) -> None:
    for method, path in (
        ("POST", f"/webhooks/events/{uuid.uuid4()}/retry"),
        ("POST", "/webhooks/dead-letters/redrive"),
        ("POST", "/session"),
        ("DELETE", "/session"),
    ):
        for more in ({HEADER: "dashboard"}, BEARER):
            assert await status(http, method, path, **headers, **more) == 403, (method, path)
    assert await status(http, "GET", "/webhooks/events", **headers) == 200, "which its page cannot read"


async def test_the_dashboards_own_page_makes_changes_behind_a_proxy_too(daemon: Daemon, http: aiohttp.ClientSession) -> None:
    own = daemon.admin_url
    for headers in (
        {"Origin": own, "Sec-Fetch-Site": "same-origin"},
        {"Sec-Fetch-Site": "none"},
        {"Origin": "https://ops.example.com", "Host": "ops.example.com"},
        {"Origin": "https://ops.example.com"},  # the proxy passes its own host name
        {"Origin": "https://hooks.example.com:8443"},
        {},
    ):
        retry = f"/webhooks/events/{uuid.uuid4()}/retry"
        assert await status(http, "POST", retry, **headers, **{HEADER: "dashboard"}) == 404, headers


@pytest.mark.parametrize("given", ["https://ops.example.com", "ops.example.com/", "ops.example.com:99999", "a b"])
async def test_what_is_no_host_name_is_an_error_of_the_setting(start: Start, given: str) -> None:
    with pytest.raises(SettingsError, match=r"WEBHOOKD_ADMIN_HOSTS.*ops\.example\.com:8443"):
        await start(admin_hosts=given)
