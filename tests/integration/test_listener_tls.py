"""TLS on the public listener: certificates are served, and renewed without a restart; without TLS there is no answer."""

from __future__ import annotations

import asyncio
import json
import ssl
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import aiohttp
import pytest
import trustme

from tests.conftest import Servers, Start, settings_of
from tests.helpers.command import webhookd
from tests.helpers.running import KEY
from tests.helpers.wait import until
from webhookd.authorizenet import sampling
from webhookd.daemon import Daemon
from webhookd.dev import traffic
from webhookd.errors import SettingsError

TYPE = "net.authorize.customer.created"


def issue(folder: Path, authority: trustme.CA, *, days: int = 30) -> dict[str, str]:
    """Writes a certificate for 127.0.0.1 and its key into `folder`, and returns the settings."""
    folder.mkdir(exist_ok=True)
    made = authority.issue_cert("127.0.0.1", not_after=datetime.now(UTC) + timedelta(days=days))
    # Write beside and then move, as certificate managers do.
    (folder / "new.pem").write_bytes(b"".join(pem.bytes() for pem in made.cert_chain_pems))
    (folder / "new.key").write_bytes(made.private_key_pem.bytes())
    (folder / "new.key").replace(folder / "key.pem")
    (folder / "new.pem").replace(folder / "certificate.pem")
    return {"tls_certificate": str(folder / "certificate.pem"), "tls_key": str(folder / "key.pem")}


def trusting(authority: trustme.CA) -> ssl.SSLContext:
    context = ssl.create_default_context()
    authority.configure_trust(context)
    return context


async def sent(daemon: Daemon, context: ssl.SSLContext, sample: sampling.Sample) -> traffic.Answer:
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=context)) as http:
        return await traffic.post(http, f"{daemon.public_url}/webhooks/authorize-net", sample, key=KEY)


async def served(daemon: Daemon, context: ssl.SSLContext) -> str:
    """Returns the serial number of the certificate that a new connection gets."""
    host, port = urlsplit(daemon.public_url).hostname, urlsplit(daemon.public_url).port
    _, writer = await asyncio.open_connection(host, port, ssl=context, server_hostname=host)
    serial = writer.get_extra_info("peercert")["serialNumber"]
    writer.close()
    return str(serial)


def metric(daemon: Daemon, name: str, **labels: str) -> float:
    return daemon.metrics.registry.get_sample_value(f"webhookd_{name}", labels) or 0.0


async def test_webhooks_are_taken_over_tls_one_by_one_and_many_on_a_connection(start: Start, tmp_path: Path) -> None:
    authority = trustme.CA()
    daemon = await start(roles="receive", **issue(tmp_path / "tls", authority))
    assert daemon.public_url.startswith("https://")
    context = trusting(authority)
    sample = sampling.sample(TYPE, 1)
    assert (await sent(daemon, context, sample)).outcome == "accepted"
    assert (await sent(daemon, context, sample)).outcome == "duplicate"
    url = f"{daemon.public_url}/webhooks/authorize-net"
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=context, limit=2)) as http:
        answers = await asyncio.gather(*(traffic.post(http, url, sampling.sample(TYPE, n), key=KEY) for n in range(10, 60)))
        assert {answer.outcome for answer in answers} == {"accepted"}
        # `pieces` sends this large body in pieces.
        large = sampling.sample(TYPE, 100)
        async with http.post(url, data=pieces(large.body), headers={"X-ANET-Signature": "sha512=00"}) as response:
            assert response.status == 401
        async with http.get(f"{daemon.public_url}/livez") as response:
            assert (response.status, json.loads(await response.read())) == (200, {"status": "alive"})
    ends = metric(daemon, "tls_certificate_expiry_timestamp_seconds")
    assert abs(ends - (datetime.now(UTC) + timedelta(days=30)).timestamp()) < 86_400


async def pieces(body: bytes) -> Any:
    for at in range(0, len(body), 50):
        yield body[at : at + 50]
        await asyncio.sleep(0)


async def test_what_speaks_no_tls_or_nothing_gets_no_answer_and_keeps_nobody_out(start: Start, tmp_path: Path) -> None:
    authority = trustme.CA()
    daemon = await start(roles="receive", head_timeout=1, max_connections=16, **issue(tmp_path / "tls", authority))
    host, port = urlsplit(daemon.public_url).hostname, urlsplit(daemon.public_url).port
    silent = [await asyncio.open_connection(host, port) for _ in range(40)]  # more than max_connections
    reader, writer = await asyncio.open_connection(host, port)
    writer.write(b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n")
    assert not (await asyncio.wait_for(reader.read(), 5)).startswith(b"HTTP")
    assert (await sent(daemon, trusting(authority), sampling.sample(TYPE, 1))).outcome == "accepted"
    await until(lambda: metric(daemon, "connections_closed_total", reason="tls") >= 41, "the silent ones are closed")
    for _, writing in [*silent, (reader, writer)]:
        writing.close()
    assert (await sent(daemon, trusting(authority), sampling.sample(TYPE, 2))).outcome == "accepted"


async def test_more_handshakes_than_there_may_be_connections_make_way_for_newer_ones(start: Start, tmp_path: Path) -> None:
    authority = trustme.CA()
    daemon = await start(roles="receive", head_timeout=60, max_connections=16, **issue(tmp_path / "tls", authority))
    host, port = urlsplit(daemon.public_url).hostname, urlsplit(daemon.public_url).port
    silent = [await asyncio.open_connection(host, port) for _ in range(40)]
    await until(lambda: metric(daemon, "connections_closed_total", reason="tls") >= 24, "the oldest have made way")
    assert (await sent(daemon, trusting(authority), sampling.sample(TYPE, 1))).outcome == "accepted"
    for _, writing in silent:
        writing.close()


async def test_a_renewed_certificate_is_served_and_connections_go_on(
    start: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("webhookd.http.certificate._EVERY", 0.05)
    old, new = trustme.CA(), trustme.CA()
    daemon = await start(roles="receive", **issue(tmp_path / "tls", old))
    both = trusting(old)
    new.configure_trust(both)
    before = await served(daemon, both)
    url = f"{daemon.public_url}/webhooks/authorize-net"
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=both, limit=1)) as http:
        assert (await traffic.post(http, url, sampling.sample(TYPE, 1), key=KEY)).status == 200
        # Half a renewal, or a wrong one, changes nothing; an unreadable renewal changes nothing until it is readable.
        (tmp_path / "tls" / "certificate.pem").write_bytes(b"-----BEGIN CERTIFICATE-----\nno\n-----END CERTIFICATE-----\n")
        await asyncio.sleep(0.2)
        assert await served(daemon, both) == before
        with monkeypatch.context() as unreadable:
            unreadable.setattr("webhookd.http.certificate.usable", refused)
            issue(tmp_path / "tls", new, days=60)
            await asyncio.sleep(0.2)
        (tmp_path / "tls" / "key.pem").chmod(0o640)

        async def renewed() -> bool:
            return await served(daemon, both) != before

        await until(renewed, "the new certificate is served")
        assert (await traffic.post(http, url, sampling.sample(TYPE, 2), key=KEY)).status == 200
    ends = metric(daemon, "tls_certificate_expiry_timestamp_seconds")
    assert abs(ends - (datetime.now(UTC) + timedelta(days=60)).timestamp()) < 86_400


def refused(certificate: Path, key: Path) -> None:
    raise SettingsError("not to be read")


async def test_a_stop_does_not_wait_for_handshakes(start: Start, tmp_path: Path) -> None:
    daemon = await start(roles="receive", **issue(tmp_path / "tls", trustme.CA()))
    _, writer = await asyncio.open_connection(urlsplit(daemon.public_url).hostname, urlsplit(daemon.public_url).port)
    async with asyncio.timeout(5):  # a head may take 10 s, and this must be faster
        await daemon.stop()
    writer.close()


@pytest.mark.parametrize(
    ("breakage", "names"),
    [
        ("no certificate", "WEBHOOKD_TLS_CERTIFICATE: cannot use"),
        ("no key", "WEBHOOKD_TLS_KEY: cannot use"),
        ("another's key", "WEBHOOKD_TLS_KEY: cannot use"),
        ("not PEM", "WEBHOOKD_TLS_CERTIFICATE: cannot use"),
    ],
)
async def test_a_certificate_that_cannot_be_used_stops_the_start_and_names_the_setting(
    breakage: str, names: str, start: Start, tmp_path: Path
) -> None:
    given = issue(tmp_path / "tls", trustme.CA())
    if breakage == "no certificate":
        (tmp_path / "tls/certificate.pem").unlink()
    elif breakage == "no key":
        (tmp_path / "tls/key.pem").unlink()
    elif breakage == "another's key":
        (tmp_path / "tls/key.pem").write_bytes(trustme.CA().issue_cert("x").private_key_pem.bytes())
    else:
        (tmp_path / "tls/certificate.pem").write_text("none")
    with pytest.raises(SettingsError, match=names):
        await start(roles="receive", **given)


def test_one_of_the_two_alone_is_refused(servers: Servers) -> None:
    with pytest.raises(SettingsError, match="WEBHOOKD_TLS_CERTIFICATE and WEBHOOKD_TLS_KEY go together"):
        settings_of(servers.settings, tls_key="key.pem")


async def test_doctor_tells_when_the_certificate_ends(servers: Servers, tmp_path: Path) -> None:
    environment = {**servers.settings, "AWS_DEFAULT_REGION": "us-east-1"}

    async def told(days: int) -> str:
        given = issue(tmp_path / "tls", trustme.CA(), days=days)
        environment.update({f"WEBHOOKD_{name.upper()}": value for name, value in given.items()})
        _, out, _ = await webhookd("doctor", "--json", folder=tmp_path, **environment)
        (found,) = [f for f in json.loads(out)["findings"] if f["check"] == "WEBHOOKD_TLS_CERTIFICATE"]
        return f"{found['verdict']}: {found['detail']}"

    assert (await told(30)).startswith("ok: of 127.0.0.1, expires in 29 days")
    assert (await told(3)).startswith("warning: of 127.0.0.1, expires in 2 days")
