"""If a dependency is away, the doctor, the log and the health show the same sentence, with the setting and the remedy."""

from __future__ import annotations

import contextlib
import re
import socket
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
import structlog
from aiohttp import web
from redis.asyncio import Redis

from tests.conftest import Servers, Start, settings_of
from tests.helpers.database import connect
from tests.helpers.wait import until
from webhookd.dev.child import HOST
from webhookd.dev.servers import PostgresServer, ValkeyServer, free_port
from webhookd.doctor import Verdict, examine
from webhookd.errors import SettingsError, UnavailableError
from webhookd.store.migrations import migrate

PASSWORD = "hunter2@x/y#z%41?q[1]"  # every character that a URL reserves
HBA = f"""
host all trusted {HOST}/32 trust
host all ghost {HOST}/32 trust
host all locked {HOST}/32 trust
host rejected all {HOST}/32 reject
host postgres,private,missing all {HOST}/32 scram-sha-256
"""
LIBRARY = re.compile(r"\w+\.py:\d+|\[Errno|\w+Error\b")


class Postgres(PostgresServer):
    """A server without TLS, with lines of its own in pg_hba.conf."""

    def _prepare(self) -> None:
        super()._prepare()
        (self.data / "pg_hba.conf").write_text(HBA)

    def address(self, user: str, password: str, database: str = "postgres", options: str = "") -> str:
        return f"postgresql://{user}:{password}@{HOST}:{self.port}/{database}{options}"


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="webhookd-sentences-") as name:
        yield Path(name)


@pytest.fixture(scope="module")
def postgres(folder: Path) -> Iterator[Postgres]:
    with Postgres(folder / "postgresql", settings={"fsync": "off"}) as server:
        yield server


@pytest.fixture(scope="module")
def redis(folder: Path) -> Iterator[ValkeyServer]:
    with ValkeyServer(folder / "valkey", durable=False) as server:
        yield server


async def sentence(servers: Servers, start: Start, name: str, **overrides: Any) -> str:
    """Returns the sentence about a dependency, and asserts that doctor, health and log show the same one, the log once."""
    settings = settings_of(servers.settings, **overrides)
    details = [
        finding.detail async for finding in examine(settings) if finding.check == name and finding.verdict is Verdict.FAILED
    ]
    assert len(details) == 1
    with structlog.testing.capture_logs() as lines:
        daemon = await start(roles="relay", **overrides)
        await until(lambda: _problem(daemon, name) not in (None, "not yet reached"), "the reason is known")
        told = str(_problem(daemon, name))
        probe = {"postgresql": daemon.database._probe, "redis": daemon.idempotency._probe, "sqs": daemon.sqs._probe}[name]
        for _ in range(3):
            with pytest.raises(UnavailableError):
                await probe()
    assert details[0].startswith(told), "doctor and health"
    logged = [line for line in lines if line.get("problem") and name in line["event"]]
    assert [line["problem"] for line in logged] == [told], "the log, once"
    assert "hunter2" not in repr((details, lines)), "no password"
    assert not LIBRARY.search(told), "no name or line of a library"
    return told


def _problem(daemon: Any, name: str) -> str | None:
    problem: str | None = daemon.health.report()["dependencies"][name].get("problem")
    return problem


async def _roles(server: Postgres) -> None:
    connection = await connect(server.url)
    if not await connection.fetchval("SELECT count(*) FROM pg_roles WHERE rolname = 'odd'"):
        await connection.execute("CREATE ROLE trusted LOGIN")
        await connection.execute("CREATE ROLE locked NOLOGIN")
        await connection.execute(f"CREATE ROLE odd SUPERUSER LOGIN PASSWORD '{PASSWORD}'")
        await connection.execute("CREATE ROLE plain LOGIN PASSWORD 'hunter2'")
        await connection.execute("CREATE DATABASE private")
        await connection.execute("REVOKE CONNECT ON DATABASE private FROM PUBLIC")
    await connection.close()


@pytest.mark.parametrize(
    ("user", "password", "database", "words"),
    [
        ("plain", "hunter2wrong", "postgres", "(28P01, the role may not sign in): the user or the password in"),
        ("odd", PASSWORD, "postgres", "holds @ and / and # and ? and [ and ], and there"),
        ("odd", quote(PASSWORD, safe="%"), "postgres", "with @ / # % in the password as %40 %2F %23 %25"),
        ("ghost", "hunter2", "postgres", "no such role): create the role that WEBHOOKD_DATABASE_URL names"),
        ("locked", "hunter2", "postgres", "the role may not log in): run ALTER ROLE … LOGIN"),
        ("plain", "hunter2", "missing", "no such database): create the database missing in PostgreSQL, or correct the name"),
        ("plain", "hunter2", "private", "run GRANT CONNECT ON DATABASE private TO the role in WEBHOOKD_DATABASE_URL"),
        ("plain", "hunter2", "rejected", "pg_hba.conf does not admit this machine): add a line"),
        ("plain", "hunter2", "elsewhere", "pg_hba.conf for the database elsewhere, the role in WEBHOOKD_DATABASE_URL"),
        ("plain", "hunter2", "postgres?sslmod=require", "a parameter that PostgreSQL does not know (42704): correct"),
        ("plain", "hunter2", "postgres?sslmode=require", "PostgreSQL offers no TLS, but sslmode in WEBHOOKD_DATABASE_URL"),
    ],
    ids=[
        "password",
        "unescaped",
        "percent",
        "no role",
        "nologin",
        "no database",
        "no right",
        "rejected",
        "no line",
        "parameter",
        "no TLS",
    ],
)
async def test_a_session_that_postgresql_refuses(
    postgres: Postgres, servers: Servers, start: Start, user: str, password: str, database: str, words: str
) -> None:
    await _roles(postgres)
    told = await sentence(servers, start, "postgresql", database_url=postgres.address(user, password, database))
    assert words in told
    assert "WEBHOOKD_DATABASE_URL" in told or "pg_hba.conf" in told


async def test_an_escaped_password_signs_in(postgres: Postgres, servers: Servers, start: Start) -> None:
    await _roles(postgres)
    url = postgres.address("odd", quote(PASSWORD, safe=""))
    await migrate(url)
    assert (await start(roles="relay", database_url=url)).database.up


@pytest.mark.parametrize(
    ("place", "words"),
    [
        ("nowhere.invalid", "(nowhere.invalid:5432) is unknown: correct the host"),
        (HOST, f"nothing listens at {HOST}:"),
    ],
)
async def test_a_postgresql_that_is_not_there(servers: Servers, start: Start, place: str, words: str) -> None:
    port = 5432 if place != HOST else free_port(0)
    told = await sentence(servers, start, "postgresql", database_url=f"postgresql://u:hunter2@{place}:{port}/shop")
    # Without a network, the name server of a machine may not answer at all.
    assert words in told or "cannot be looked up now" in told
    assert "WEBHOOKD_DATABASE_URL" in told


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("redis://{host}/0", "Redis wants a password: write it into WEBHOOKD_REDIS_URL"),
        ("redis://:hunter2@{host}/0", "Redis refuses the password in WEBHOOKD_REDIS_URL: write there the one of requirepass"),
        ("redis://nobody:hunter2@{host}/0", "Redis refuses the user and the password in WEBHOOKD_REDIS_URL"),
        ("redis://reader:hunter2@{host}/0", "(NOPERM): allow the user in WEBHOOKD_REDIS_URL to run EVAL"),
        ("rediss://:{password}@{host}/0", "write redis:// if Redis speaks no TLS there"),
        ("redis://:{password}@nowhere.invalid/0", "the host in WEBHOOKD_REDIS_URL (nowhere.invalid)"),
        ("redis://:{password}@127.0.0.1:1/0", "nothing listens at 127.0.0.1:1: start Redis"),
    ],
)
async def test_a_redis_that_refuses(redis: ValkeyServer, servers: Servers, start: Start, url: str, words: str) -> None:
    client: Any = Redis.from_url(redis.url)
    await client.execute_command("ACL", "SETUSER", "reader", "on", ">hunter2", "~*", "+@read", "+ping")
    await client.aclose()
    filled = url.format(host=f"{HOST}:{redis.port}", password=redis.password)
    told = await sentence(servers, start, "redis", redis_url=filled)
    assert words in told
    assert redis.password not in told


@contextlib.asynccontextmanager
async def refusing(code: str) -> AsyncIterator[str]:
    """Runs a server that answers each call with AWS' error `code`, in the form of the JSON protocol of SQS.

    Contract: the SQS API reference, "Making Query and JSON API requests" (the field __type and the status 400), and "Common
    error types".
    """

    async def answer(_: web.Request) -> web.Response:
        body = {"__type": f"com.amazonaws.sqs#{code}", "message": "AKIAhunter2 may not"}
        return web.json_response(body, status=400, content_type="application/x-amz-json-1.0")

    app = web.Application()
    app.router.add_post("/", answer)
    runner = web.AppRunner(app)
    await runner.setup()
    port = free_port(0)
    await web.TCPSite(runner, HOST, port).start()
    try:
        yield f"http://{HOST}:{port}"
    finally:
        await runner.cleanup()


@pytest.mark.parametrize(
    ("code", "words"),
    [
        ("AccessDeniedException", "lack the right sqs:GetQueueUrl on the queue"),
        ("ExpiredTokenException", "the AWS credentials have expired (ExpiredTokenException): set new ones"),
        ("UnrecognizedClientException", "correct AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"),
        ("InvalidSignatureException", "AWS_DEFAULT_REGION names the queue's region (calls are signed for the region us-east-1"),
        ("RequestTimeTooSkewed", "this machine's clock is wrong, so AWS refuses webhookd's signatures"),
    ],
)
async def test_an_sqs_that_refuses(servers: Servers, start: Start, code: str, words: str) -> None:
    async with refusing(code) as url:
        assert words in await sentence(servers, start, "sqs", sqs_endpoint_url=url)


async def test_a_queue_that_does_not_exist_in_the_region(servers: Servers, start: Start) -> None:
    told = await sentence(servers, start, "sqs", sqs_queue="nowhere", sqs_region="eu-west-1")
    assert "the queue nowhere does not exist in the region eu-west-1 (from WEBHOOKD_SQS_REGION)" in told
    assert "correct WEBHOOKD_SQS_QUEUE or WEBHOOKD_SQS_REGION" in told


async def test_credentials_that_nobody_set(servers: Servers, start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    for name in ("AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE"):
        monkeypatch.setenv(name, "/nonexistent")
    told = await sentence(servers, start, "sqs")
    assert "no AWS credentials: none found: give the machine or the pod a role, or set AWS_ACCESS_KEY_ID" in told


async def test_a_problem_that_changes_is_logged_again(redis: ValkeyServer, servers: Servers, start: Start) -> None:
    client: Any = Redis.from_url(redis.url)
    with structlog.testing.capture_logs() as lines:
        daemon = await start(roles="relay", redis_url=f"redis://late:hunter2@{HOST}:{redis.port}/0")
        await client.execute_command("ACL", "SETUSER", "late", "on", ">hunter2", "~*", "+@read", "+ping")
        await until(lambda: "NOPERM" in str(daemon.idempotency.problem), "the reason is another one", deadline=30)
    logged = [line["problem"] for line in lines if line["event"] == "redis is away"]
    assert len(logged) == 2
    assert "Redis refuses the user and the password" in logged[0]
    assert "NOPERM" in logged[1]
    await client.execute_command("ACL", "DELUSER", "late")
    await client.aclose()


@pytest.mark.parametrize(("setting", "field"), [("WEBHOOKD_ADMIN_LISTEN", "admin_listen"), ("WEBHOOKD_LISTEN", "listen")])
async def test_a_port_in_use_is_named_with_its_setting_and_the_remedy(start: Start, setting: str, field: str) -> None:
    with socket.create_server((HOST, 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(SettingsError) as raised:
            await start(**{field: f"{HOST}:{port}"})
    told = str(raised.value)
    assert told.startswith(f"{setting}: cannot listen on {HOST}:{port}: another process has the port; stop it")
    assert told.endswith(f"or set {setting} to another port")
