"""PostgreSQL over TLS, as `sslmode` and related options in WEBHOOKD_DATABASE_URL require; and the errors if TLS fails."""

from __future__ import annotations

import asyncio
import contextlib
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import Servers, Start, settings_of
from tests.helpers.authority import Authority
from tests.helpers.database import connect
from tests.helpers.debian import TlsPostgres
from tests.helpers.running import KEY, Process
from tests.helpers.wait import until
from webhookd.authorizenet import sampling
from webhookd.daemon import Daemon
from webhookd.dev import traffic
from webhookd.dev.servers import free_port
from webhookd.doctor import Verdict, examine
from webhookd.errors import UnavailableError, WebhookdError
from webhookd.sqs.rds import RdsTokens
from webhookd.store.migrations import migrate, state

pytestmark = pytest.mark.xdist_group("database_tls")  # all these tests share one server
TYPE = "net.authorize.payment.authcapture.created"


@pytest.fixture(scope="module")
def authority() -> Iterator[Authority]:
    with tempfile.TemporaryDirectory(prefix="webhookd-tls-") as folder:
        Path(folder).chmod(0o711)  # PostgreSQL reads its files there, as another user if the tests run as root
        yield Authority(Path(folder) / "authority")


@pytest.fixture(scope="module")
def postgres(authority: Authority) -> Iterator[TlsPostgres]:
    with (
        tempfile.TemporaryDirectory(prefix="webhookd-tls-") as folder,
        TlsPostgres(Path(folder) / "postgresql", authority) as server,
    ):

        async def make() -> None:
            url = server.address(sslmode="verify-full", sslrootcert=authority.ca)
            await migrate(url)
            connection = await connect(url)
            await connection.execute("CREATE DATABASE certified TEMPLATE template0")
            await connection.close()

        asyncio.run(make())
        yield server


@pytest.fixture
def stranger(tmp_path: Path) -> Authority:
    """Returns an authority that has issued no certificate here."""
    return Authority(tmp_path / "stranger")


async def _is_up(daemon: Daemon) -> None:
    await until(lambda: daemon.database.up, "PostgreSQL is up")


async def test_a_daemon_speaks_nothing_but_tls_with_a_server_whose_certificate_it_trusts(
    postgres: TlsPostgres, authority: Authority, servers: Servers, tmp_path: Path
) -> None:
    url = postgres.address(sslmode="verify-full", sslrootcert=authority.ca)
    async with Process({**servers.settings, "WEBHOOKD_DATABASE_URL": url}, tmp_path) as daemon:
        summary = await traffic.send(sampling.stream([TYPE], 40), daemon.webhook_url, KEY)
        assert summary.failed == 0
        connection = await connect(url)

        async def processed() -> bool:
            return bool(await connection.fetchval("SELECT count(*) >= 40 FROM events WHERE status = 'processed'"))

        await until(processed, "all are processed", deadline=30)
        rows = await connection.fetch(
            "SELECT a.application_name AS name, s.ssl FROM pg_stat_ssl s JOIN pg_stat_activity a USING (pid) "
            "WHERE a.backend_type = 'client backend'"
        )
        await connection.close()
    assert {"webhookd short", "webhookd fold"} <= {row["name"] for row in rows}
    assert all(row["ssl"] for row in rows)


async def test_require_takes_any_certificate_and_so_does_a_home_that_is_not_there(
    postgres: TlsPostgres, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    for home in ("/nonexistent", "/dev/null"):
        monkeypatch.setenv("HOME", home)
        for url in (postgres.address(sslmode="require"), postgres.address()):
            await _is_up(await start(roles="relay", database_url=url))


async def test_verify_ca_trusts_the_authority_whatever_the_host(
    postgres: TlsPostgres, authority: Authority, start: Start
) -> None:
    url = postgres.address(host="127.0.0.1", sslmode="verify-ca", sslrootcert=authority.ca)
    await _is_up(await start(roles="relay", database_url=url))


async def test_a_client_is_known_by_its_certificate(postgres: TlsPostgres, authority: Authority) -> None:
    certificate, key = authority.issue(common_name="postgres")
    trusted: dict[str, Any] = {"sslmode": "verify-full", "sslrootcert": authority.ca}
    url = postgres.address("certified", **trusted, sslcert=certificate, sslkey=key)
    assert (await state(url)).unknown == []
    with pytest.raises(WebhookdError, match="name its files in WEBHOOKD_DATABASE_URL, as sslcert and sslkey"):
        await state(postgres.address("certified", **trusted))


async def test_of_several_hosts_one_that_answers_is_taken(postgres: TlsPostgres, authority: Authority, start: Start) -> None:
    url = postgres.address(sslmode="verify-full", sslrootcert=authority.ca)
    away = free_port(0)
    several = url.replace(f"localhost:{postgres.port}", f"127.0.0.1:{away},localhost:{postgres.port}")
    assert several != url
    await _is_up(await start(roles="relay", database_url=several))


Broken = Callable[[TlsPostgres, Authority, Authority], str]


@pytest.mark.parametrize(
    ("broken", "remedy"),
    [
        pytest.param(
            lambda server, _, stranger: server.address(sslmode="verify-full", sslrootcert=stranger.ca),
            "certificate in certificate chain): in WEBHOOKD_DATABASE_URL, set sslrootcert",
            id="another CA",
        ),
        pytest.param(
            lambda server, ours, _: server.address(host="127.0.0.1", sslmode="verify-full", sslrootcert=ours.ca),
            "certificate is not for the host that WEBHOOKD_DATABASE_URL names",
            id="another host",
        ),
        pytest.param(
            lambda server, _, __: server.address(sslmode="verify-full", sslrootcert="/nonexistent/ca.pem"),
            "sslrootcert=/nonexistent/ca.pem in WEBHOOKD_DATABASE_URL cannot be read (No such file or directory)",
            id="no file",
        ),
        pytest.param(
            lambda server, ours, _: server.address(sslmode="verify-full", sslrootcert=ours.ca.with_name("localhost.key")),
            "TLS with PostgreSQL fails",
            id="a file of something else",
        ),
        pytest.param(
            lambda server, _, __: server.address(sslmode="verify-full"), "name its CA's file there, as sslrootcert", id="no CA"
        ),
        pytest.param(lambda server, _, __: server.address(sslmode="on"), "must be one of disable, allow, prefer", id="no mode"),
        pytest.param(
            lambda server, _, __: server.address(sslmode="disable"), "admits no session without TLS: set sslmode", id="no TLS"
        ),
        pytest.param(
            lambda server, _, __: server.address(sslmode="require", sslcert="/nonexistent/me.pem"),
            "sslcert=/nonexistent/me.pem in WEBHOOKD_DATABASE_URL cannot be read",
            id="no client certificate",
        ),
    ],
)
async def test_what_is_wrong_is_told_with_its_remedy_and_no_secret(
    broken: Broken,
    remedy: str,
    postgres: TlsPostgres,
    authority: Authority,
    stranger: Authority,
    start: Start,
    servers: Servers,
) -> None:
    url = broken(postgres, authority, stranger)
    daemon = await start(roles="relay", database_url=url)
    assert not daemon.health.ready
    await until(lambda: remedy in str(daemon.database.problem), "the reason is reported")
    problem = daemon.health.report()["dependencies"]["postgresql"]["problem"]
    settings = settings_of(servers.settings, database_url=url)
    (finding,) = [finding async for finding in examine(settings) if finding.check == "postgresql"]
    assert finding.verdict is Verdict.FAILED
    assert remedy in finding.detail
    with pytest.raises(WebhookdError) as raised:
        await migrate(url)
    assert remedy in str(raised.value)
    assert postgres.password not in problem + finding.detail + str(raised.value)


async def test_a_server_without_tls_is_told_of(servers: Servers, start: Start) -> None:
    daemon = await start(roles="relay", database_url=f"{servers.database_url}?sslmode=require")
    await until(lambda: "PostgreSQL offers no TLS" in str(daemon.database.problem), "the reason is reported")


async def test_the_daemon_goes_on_by_itself_once_the_file_is_there(
    postgres: TlsPostgres, authority: Authority, start: Start, tmp_path: Path
) -> None:
    late = tmp_path / "ca.pem"
    daemon = await start(roles="relay", database_url=postgres.address(sslmode="verify-full", sslrootcert=late))
    assert not daemon.database.up
    late.write_bytes(authority.ca.read_bytes())
    await _is_up(daemon)


async def test_a_home_that_may_not_be_looked_into_is_told_of(
    postgres: TlsPostgres, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    def closed(path: Path, *_: Any, **__: Any) -> bool:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "exists", closed)  # simulated, since root may look into every folder
    daemon = await start(roles="relay", database_url=postgres.address(sslmode="require"))
    await until(lambda: "set HOME to a folder that the user may read" in str(daemon.database.problem), "the reason is reported")


async def test_each_connection_gets_a_password_of_its_own(
    postgres: TlsPostgres, authority: Authority, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    """RDS itself cannot run here. The token's form has a unit test; here, PostgreSQL's own password stands for the token."""
    password = postgres.password
    asked: list[str] = []

    async def token(_: RdsTokens, url: str) -> str:
        asked.append(url)
        return password if len(asked) > 1 else "a token that has expired"

    monkeypatch.setattr(RdsTokens, "token", token)
    url = postgres.address(sslmode="verify-full", sslrootcert=authority.ca).replace(f":{password}@", "@")
    daemon = await start(database_url=url, database_auth="rds-iam")
    await _is_up(daemon)
    assert len(asked) > 1
    assert set(asked) == {url}
    summary = await traffic.send(sampling.stream([TYPE], 20), f"{daemon.public_url}/webhooks/authorize-net", KEY)
    assert summary.failed == 0


async def test_without_a_token_open_sessions_go_on(
    postgres: TlsPostgres, authority: Authority, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    password = postgres.password
    away: list[bool] = []

    async def token(_: RdsTokens, url: str) -> str:
        if away:
            raise WebhookdError("no token could be signed: give the process AWS credentials")
        return password

    monkeypatch.setattr(RdsTokens, "token", token)
    url = postgres.address(sslmode="verify-full", sslrootcert=authority.ca).replace(f":{password}@", "@")
    daemon = await start(database_url=url, database_auth="rds-iam")
    await _is_up(daemon)
    webhook = f"{daemon.public_url}/webhooks/authorize-net"
    assert (await traffic.send(sampling.stream([TYPE], 20), webhook, KEY)).failed == 0
    away.append(True)
    async with daemon.database.acquire("short") as connection:
        # The daemon is right to call PostgreSQL away for a moment if a loop's own statement breaks. So only idle sessions end.
        of_the_pool = "application_name = 'webhookd admin' AND state = 'idle'"
        await connection.execute(f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE {of_the_pool}")

    async def take_every_session() -> None:
        async with contextlib.AsyncExitStack() as stack:
            for _ in range(4):  # a loop of the daemon may hold a session that it opened before
                await stack.enter_async_context(daemon.database.acquire("admin"))

    with pytest.raises(UnavailableError, match="no token could be signed"):
        await take_every_session()
    assert daemon.database.up
    assert "no token could be signed" in (daemon.database.refusal or "")
    assert (await traffic.send(sampling.stream([TYPE], 20), webhook, KEY, connections=1)).failed == 0
    away.clear()
    await until(lambda: daemon.database.refusal is None, "tokens are signed again")
