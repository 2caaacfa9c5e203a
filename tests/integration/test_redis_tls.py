"""Redis over TLS works with the CA in WEBHOOKD_REDIS_URL or the system's CAs, and a failure is reported with its cause."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from redis.asyncio import Redis

from tests.conftest import Servers, Start, settings_of
from tests.helpers.authority import Authority
from tests.helpers.debian import TlsRedis
from tests.helpers.running import KEY
from tests.helpers.wait import until
from webhookd.authorizenet import sampling
from webhookd.dev import traffic
from webhookd.doctor import Verdict, examine

pytestmark = pytest.mark.xdist_group("redis_tls")  # one server for all tests
TYPE = "net.authorize.customer.created"


@pytest.fixture(scope="module")
def authority() -> Iterator[Authority]:
    with tempfile.TemporaryDirectory(prefix="webhookd-tls-") as folder:
        yield Authority(Path(folder))


@pytest.fixture(scope="module")
def redis(authority: Authority) -> Iterator[TlsRedis]:
    with tempfile.TemporaryDirectory(prefix="webhookd-tls-") as folder, TlsRedis(Path(folder) / "redis", authority) as server:
        yield server


@pytest.fixture
def stranger(tmp_path: Path) -> Authority:
    """Returns an authority that issued none of the certificates here."""
    return Authority(tmp_path / "stranger")


async def test_a_daemon_keeps_its_keys_in_redis_over_tls(redis: TlsRedis, authority: Authority, start: Start) -> None:
    url = redis.address(ssl_ca_certs=authority.ca)
    daemon = await start(redis_url=url)
    samples, webhook_url = sampling.stream([TYPE], 5), f"{daemon.public_url}/webhooks/authorize-net"

    async def known_by_redis() -> bool:
        await traffic.send(samples, webhook_url, KEY)
        return bool(daemon.metrics.registry.get_sample_value("webhookd_duplicates_total", {"layer": "redis"}))

    await until(known_by_redis, "a repeat is known by what Redis keeps", every=0.2)
    client: Any = Redis.from_url(url)
    assert [key async for key in client.scan_iter("webhookd:*:seen:*")]
    await client.aclose()


async def test_without_a_ca_in_the_url_the_systems_are_trusted(
    redis: TlsRedis, authority: Authority, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert not (await start(roles="relay", redis_url=redis.address())).idempotency.up
    monkeypatch.setenv("SSL_CERT_FILE", str(authority.ca))
    daemon = await start(roles="relay", redis_url=redis.address())
    await until(lambda: daemon.idempotency.up, "Redis is up")


Broken = Callable[[TlsRedis, Authority, Authority], str]


@pytest.mark.parametrize(
    ("broken", "remedy"),
    [
        pytest.param(
            lambda server, _, stranger: server.address(ssl_ca_certs=stranger.ca),
            "Redis's certificate is not trusted (unable to get local issuer certificate): in WEBHOOKD_REDIS_URL, set",
            id="another CA",
        ),
        pytest.param(
            lambda server, ours, _: server.address(host="127.0.0.1", ssl_ca_certs=ours.ca),
            "Redis's certificate is not for the host that WEBHOOKD_REDIS_URL names",
            id="another host",
        ),
        pytest.param(
            lambda server, _, __: server.address(ssl_ca_certs="/nonexistent/ca.pem"),
            "ssl_ca_certs=/nonexistent/ca.pem in WEBHOOKD_REDIS_URL cannot be read (No such file or directory)",
            id="no file",
        ),
    ],
)
async def test_redis_that_is_not_trusted_counts_as_away_and_the_reason_is_told(
    broken: Broken, remedy: str, redis: TlsRedis, authority: Authority, stranger: Authority, start: Start, servers: Servers
) -> None:
    url = broken(redis, authority, stranger)
    daemon = await start(redis_url=url)
    await until(lambda: remedy in str(daemon.idempotency.problem), "the reason is reported")
    report = daemon.health.report()
    assert report["status"] == "degraded"
    summary = await traffic.send(sampling.stream([TYPE], 5), f"{daemon.public_url}/webhooks/authorize-net", KEY)
    assert summary.failed == 0
    settings = settings_of(servers.settings, redis_url=url)
    (finding,) = [finding async for finding in examine(settings) if finding.check == "redis"]
    assert finding.verdict is Verdict.FAILED
    assert remedy in finding.detail
    assert redis.password not in f"{report}{finding.detail}"
    assert "webhookd works without Redis" in finding.detail


@pytest.mark.parametrize(
    "url",
    [
        pytest.param(lambda server, _: server.address(scheme="redis"), id="no TLS to a server that speaks nothing else"),
        pytest.param(lambda server, ours: server.address(scheme="redis", ssl_ca_certs=ours.ca), id="a CA, and no TLS"),
    ],
)
async def test_a_url_without_tls_fails_and_is_told_in_a_line(
    url: Callable[[TlsRedis, Authority], str], redis: TlsRedis, authority: Authority, servers: Servers, start: Start
) -> None:
    daemon = await start(roles="relay", redis_url=url(redis, authority))
    assert not daemon.idempotency.up
    settings = settings_of(servers.settings, redis_url=url(redis, authority))
    (finding,) = [finding async for finding in examine(settings) if finding.check == "redis"]
    assert finding.verdict is Verdict.FAILED
    assert "rediss:// for TLS" in finding.detail
    assert redis.password not in finding.detail
