"""The daemon runs with a provider's limited role, which may not call every function, and the doctor sees what fails there."""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import TypeAlias
from urllib.parse import urlsplit

import asyncpg
import pytest
import pytest_asyncio

from tests.conftest import Servers, Start, settings_of
from tests.helpers.running import KEY
from tests.helpers.wait import until
from webhookd.authorizenet import sampling
from webhookd.dev import traffic
from webhookd.doctor import Finding, Verdict, examine

Connection: TypeAlias = "asyncpg.Connection[asyncpg.Record]"

# Amazon Aurora, with its default parameters, refuses every function that looks at the WAL, with 55000.
WAL_FUNCTIONS = ("pg_current_wal_lsn()", "pg_current_wal_insert_lsn()", "pg_current_wal_flush_lsn()", "pg_walfile_name(pg_lsn)")


@pytest_asyncio.fixture
async def role_url(database_url: str, connection: Connection) -> AsyncIterator[str]:
    """Yields the URL of the test's database for a role that is no superuser and has the rights that the deploy guide names."""
    role, password = f"webhookd_{secrets.token_hex(4)}", secrets.token_hex(8)
    await connection.execute(
        f"CREATE ROLE {role} LOGIN PASSWORD '{password}';"
        f"GRANT USAGE, CREATE ON SCHEMA webhookd TO {role};"
        f"GRANT SELECT, INSERT, UPDATE, DELETE, TRUNCATE ON ALL TABLES IN SCHEMA webhookd TO {role}"
    )
    place = urlsplit(database_url).netloc.rpartition("@")[2]
    yield urlsplit(database_url)._replace(netloc=f"{role}:{password}@{place}").geturl()
    await connection.execute(
        f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = '{role}';"
        f"REASSIGN OWNED BY {role} TO CURRENT_USER; DROP OWNED BY {role}; DROP ROLE {role}"
    )


async def _shadow(connection: Connection, *functions: str) -> None:
    """Makes each of `functions` fail as on Aurora: a function of the same name stands first in the search path."""
    database = await connection.fetchval("SELECT current_database()")
    await connection.execute("CREATE SCHEMA shadow; GRANT USAGE ON SCHEMA shadow TO PUBLIC")
    for function in functions:
        returns = await connection.fetchval(
            "SELECT prorettype::regtype::text FROM pg_proc WHERE oid = $1::regprocedure", function
        )
        await connection.execute(
            f"CREATE FUNCTION shadow.{function} RETURNS {returns} LANGUAGE plpgsql AS "
            "$$ BEGIN RAISE 'function is not available' USING ERRCODE = '55000'; END $$"
        )
    await connection.execute(f"ALTER DATABASE {database} SET search_path = shadow, pg_catalog, public")


async def _revoke(connection: Connection, *functions: str) -> None:
    for function in functions:
        await connection.execute(f"REVOKE EXECUTE ON FUNCTION {function} FROM PUBLIC")


async def _give_partitions(connection: Connection, role_url: str) -> None:
    """Makes the role the owner of the tables that have partitions, and of the partitions."""
    tables = await connection.fetch(
        "SELECT relid::regclass::text AS name FROM pg_partition_tree('webhookd.bodies')"
        " UNION ALL SELECT relid::regclass::text FROM pg_partition_tree('webhookd.audit')"
    )
    for table in tables:
        await connection.execute(f"ALTER TABLE {table['name']} OWNER TO {urlsplit(role_url).username}")


async def _findings(servers: Servers, database_url: str) -> dict[str, Finding]:
    settings = settings_of(servers.settings, database_url=database_url)
    return {finding.check: finding async for finding in examine(settings)}


@pytest.mark.parametrize("refuse", [_shadow, _revoke])
async def test_a_server_that_refuses_to_tell_its_wal_position_becomes_ready(
    refuse: Callable[..., Awaitable[None]], start: Start, servers: Servers, connection: Connection, role_url: str
) -> None:
    await refuse(connection, *WAL_FUNCTIONS)
    await _give_partitions(connection, role_url)
    daemon = await start(database_url=role_url)
    await until(lambda: daemon.health.ready, f"it is ready, rather than: {daemon.database.problem}", deadline=10)
    url = f"{daemon.public_url}/webhooks/authorize-net"
    assert (await traffic.send(sampling.stream(["net.authorize.customer.created"], 5), url, KEY)).outcomes == {"accepted": 5}
    ended = "SELECT count(*) = 5 FROM events WHERE status = 'processed'"
    await until(lambda: connection.fetchval(ended), "every event is processed", deadline=30)
    findings = await _findings(servers, role_url)
    assert [
        finding for finding in findings.values() if finding.verdict is not Verdict.OK and "WEBHOOKD_" not in finding.check
    ] == []


@pytest.mark.parametrize(
    ("hinder", "told"),
    [
        pytest.param("REVOKE UPDATE ON instance FROM {role}", "42501", id="a right that is missing"),
        pytest.param("REVOKE SELECT ON quarantine FROM {role}", "42501", id="a right of a gauge"),
        pytest.param("REVOKE EXECUTE ON FUNCTION pg_postmaster_start_time() FROM PUBLIC", "42501", id="a function"),
        pytest.param("REVOKE INSERT ON duties FROM {role}", "42501", id="a right of upkeep"),
    ],
)
async def test_the_doctor_fails_where_a_statement_of_the_start_fails(
    hinder: str, told: str, servers: Servers, connection: Connection, role_url: str
) -> None:
    await connection.execute(hinder.format(role=urlsplit(role_url).username))
    findings = await _findings(servers, role_url)
    finding = findings["statements"]
    assert finding.verdict is Verdict.FAILED
    assert told in finding.detail
    assert "WEBHOOKD_DATABASE_URL" in finding.detail


async def test_the_doctor_warns_of_a_role_that_can_make_no_partition(
    servers: Servers, connection: Connection, role_url: str
) -> None:
    role = urlsplit(role_url).username
    week = "CALL webhookd.make_partition('bodies', '2031-01-06 00:00Z')"
    own = await asyncpg.connect(role_url)
    with pytest.raises(asyncpg.InsufficientPrivilegeError):
        await own.execute(week)
    finding = (await _findings(servers, role_url))["partitions"]
    assert finding.verdict is Verdict.WARNING
    assert "does not own audit, audit_" in finding.detail
    assert "ALTER TABLE … OWNER TO" in finding.detail

    await _give_partitions(connection, role_url)
    await connection.execute(f"REVOKE CREATE ON SCHEMA webhookd FROM {role}")
    with pytest.raises(asyncpg.InsufficientPrivilegeError):
        await own.execute(week)
    finding = (await _findings(servers, role_url))["partitions"]
    assert finding.verdict is Verdict.WARNING
    assert "GRANT CREATE ON SCHEMA webhookd" in finding.detail

    await connection.execute(f"GRANT CREATE ON SCHEMA webhookd TO {role}")
    await own.execute(week)
    await own.close()
    assert (await _findings(servers, role_url))["partitions"].verdict is Verdict.OK


@pytest.mark.parametrize(
    "hinder", ["REVOKE USAGE ON SCHEMA webhookd FROM {role}", "REVOKE SELECT ON applied_migrations FROM {role}"]
)
async def test_the_doctor_names_the_schema_that_a_role_may_not_read(
    hinder: str, servers: Servers, connection: Connection, role_url: str
) -> None:
    await connection.execute(hinder.format(role=urlsplit(role_url).username))
    finding = (await _findings(servers, role_url))["schema"]
    assert finding.verdict is Verdict.FAILED
    assert "GRANT USAGE ON SCHEMA webhookd" in finding.detail


async def test_the_doctor_leaves_nothing_behind(servers: Servers, connection: Connection, role_url: str) -> None:
    await connection.execute("UPDATE instance SET created_at = '2020-01-01'")
    before = await connection.fetchrow("SELECT xmin::text, * FROM instance")
    assert (await _findings(servers, role_url))["statements"].verdict is Verdict.OK
    assert await connection.fetchrow("SELECT xmin::text, * FROM instance") == before
    assert await connection.fetchval("SELECT count(*) FROM duties WHERE name = 'doctor'") == 0
