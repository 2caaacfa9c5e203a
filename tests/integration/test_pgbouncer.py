"""The daemon works with PgBouncer in transaction mode, in which consecutive transactions meet different sessions."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any, TypeAlias
from urllib.parse import urlsplit

import aiohttp
import asyncpg
import pytest
import pytest_asyncio

from tests.conftest import Servers, Start, settings_of
from tests.helpers.debian import PgBouncer
from tests.helpers.rig import Rig
from tests.helpers.wait import until
from webhookd.authorizenet import sampling
from webhookd.authorizenet.notification import EVENT_TYPES
from webhookd.dev.servers import Stack
from webhookd.doctor import Finding, Verdict, examine
from webhookd.errors import WebhookdError
from webhookd.operate.operator_queries import OperatorQueries
from webhookd.runtime.loops import Watch
from webhookd.store import session
from webhookd.store.database import Database
from webhookd.store.migrations import State, migrate, state
from webhookd.store.pools import SESSIONS, PoolSettings
from webhookd.telemetry.metrics import Metrics

Connection: TypeAlias = "asyncpg.Connection[asyncpg.Record]"
pytestmark = pytest.mark.xdist_group("pgbouncer")  # one server for all tests
SIZE = 5  # sessions, fewer than two daemons' workers
SETTING = "WEBHOOKD_DATABASE_POOLER=transaction"

# Besides the counted effect, a handler leaves in its session whatever a handler can leave. Every third event is tried again.
UNTIDY = """
from webhookd import Retryable, on

SETTINGS = ["application_name", "client_encoding", "idle_in_transaction_session_timeout"]


@on("net.authorize.payment.*")
async def count(event, connection):
    await connection.execute("INSERT INTO effects (event_id, attempt) VALUES ($1, $2)", event.id, event.attempt)
    await connection.execute("SET work_mem = '1234kB'")
    await connection.execute("SELECT pg_advisory_lock($1)", event.id.int % 1_000_000)
    await connection.execute("DECLARE held CURSOR WITH HOLD FOR SELECT 1")
    async for _ in connection.cursor("SELECT generate_series(1, $1::int)", 3):
        pass
    prepared = await connection.prepare("SELECT 1")
    assert await prepared.fetchval() == 1
    await connection.execute("INSERT INTO limits SELECT name || ' ' || setting FROM pg_settings WHERE name = ANY($1)", SETTINGS)
    if event.id.int % 3 == 0 and event.attempt == 1:
        raise Retryable(f"once more, after {prepared.get_query()}", after=0)
"""


@pytest.fixture(scope="module")
def pgbouncer(stack: Stack) -> Iterator[PgBouncer]:
    with (
        tempfile.TemporaryDirectory(prefix="webhookd-pgbouncer-") as folder,
        PgBouncer(Path(folder) / "pgbouncer", stack.database_url, size=SIZE) as server,
    ):
        yield server


@pytest.fixture(scope="module")
def ignorant(stack: Stack) -> Iterator[PgBouncer]:
    """Yields a PgBouncer that accepts startup parameters and ignores them."""
    own = {name for settings in SESSIONS.values() for name in settings}
    other = (
        "jit",
        "idle_in_transaction_session_timeout",
        "tcp_keepalives_idle",
        "tcp_keepalives_interval",
        "tcp_keepalives_count",
    )
    ignored = ", ".join((*other, *sorted(own)))
    with (
        tempfile.TemporaryDirectory(prefix="webhookd-pgbouncer-") as folder,
        PgBouncer(Path(folder) / "it", stack.database_url, size=SIZE, ignore_startup_parameters=ignored) as server,
    ):
        yield server


def _database(url: str) -> str:
    return urlsplit(url).path.removeprefix("/")


@pytest.fixture
def pooled_url(pgbouncer: PgBouncer, database_url: str) -> str:
    """Returns the URL of the test's database through the pooler."""
    return pgbouncer.before(_database(database_url))


@pytest_asyncio.fixture
async def rig(servers: Servers, stack: Stack) -> AsyncIterator[Rig]:
    made = Rig("PgBouncer in transaction mode", servers, stack, long=False, record=lambda _: None)
    await made.open()
    yield made
    await made.close()


async def _in_every_session(pooled_url: str, query: str) -> list[Any]:
    """Returns the results of `query` in all of the pooler's sessions; transactions open at once have different sessions."""
    connections = [await asyncpg.connect(pooled_url, statement_cache_size=0) for _ in range(SIZE)]
    transactions = [connection.transaction() for connection in connections]
    try:
        await asyncio.gather(*(transaction.start() for transaction in transactions))
        pids = [await connection.fetchval("SELECT pg_backend_pid()") for connection in connections]
        assert len(set(pids)) == SIZE
        return [await connection.fetchval(query) for connection in connections]
    finally:
        for connection in connections:
            await connection.close()


async def _first_found(http: aiohttp.ClientSession, url: str, query: dict[str, str]) -> list[Any]:
    """Returns the events of the first page that has some: on a busy machine a page may end before its search finds one."""
    while True:
        async with http.get(url, params=query) as response:
            assert response.status == 200, await response.text()
            page = await response.json()
        if page["events"] or page["next"] is None:
            return list(page["events"])
        query = {**query, "cursor": page["next"]}


async def test_nothing_is_lost_or_doubled_and_nothing_stays_in_the_sessions(rig: Rig, pooled_url: str) -> None:
    await rig.connection.execute("CREATE TABLE limits (value text)")
    # The pooler's sessions begin with this encoding; users' handlers must not be set back to it.
    await rig.connection.execute(f"ALTER DATABASE {_database(pooled_url)} SET client_encoding = 'LATIN1'")
    rig.handlers(UNTIDY)
    for _ in range(2):
        await rig.daemon(database_url=pooled_url, database_pooler="transaction", concurrency="8", admin_anonymous="operate")
    samples = sampling.stream(list(EVENT_TYPES), 250, duplicates=0.2, out_of_order=True)
    await rig.ledger.send(samples, rig.urls, connections=24)
    row = await rig.finish()
    assert (row.lost, row.doubled) == (0, 0)
    assert await rig.connection.fetchval("SELECT count(*) FROM effects WHERE attempt = 2") > 10
    assert not await rig.connection.fetchval("SELECT count(*) FROM events WHERE status <> 'processed'")

    assert set(await _in_every_session(pooled_url, "SHOW work_mem")) == {"4MB"}
    assert set(await _in_every_session(pooled_url, "SELECT count(*) FROM pg_cursors WHERE is_holdable")) == {0}
    assert set(await _in_every_session(pooled_url, "SELECT count(*) FROM pg_prepared_statements WHERE name <> ''")) == {0}
    assert not await rig.connection.fetchval("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'")
    # The timeout ends the transaction of a frozen daemon, so the daemon does not keep its event for ever.
    assert {row["value"] for row in await rig.connection.fetch("SELECT DISTINCT value FROM limits")} == {
        "application_name webhookd work",
        "client_encoding UTF8",
        "idle_in_transaction_session_timeout 15000",
    }

    url = f"{rig.daemons[0].admin_url}/webhooks"
    async with aiohttp.ClientSession() as http:
        event = await rig.connection.fetchrow("SELECT * FROM events WHERE entity_id IS NOT NULL LIMIT 1")
        assert event
        for query in ({"status": "processed"}, {"entity_id": event["entity_id"]}, {"event_type": event["event_type"]}):
            assert await _first_found(http, f"{url}/events", query)
        async with http.post(
            f"{url}/events/{event['id']}/retry?force=true", json={}, headers={"X-Webhookd": "dashboard"}
        ) as response:
            assert response.status == 202, await response.text()
        async with http.get(f"{url}/stats") as response:
            assert response.status == 200, await response.text()

    async def again() -> Any:
        return await rig.connection.fetchval(
            "SELECT count(*) = 2 FROM audit WHERE event_id = $1 AND to_status = 'processed'", event["id"]
        )

    await until(again, "the event is processed once more")


async def test_upkeep_goes_by_way_of_the_pooler(start: Start, pooled_url: str, connection: Connection) -> None:
    daemon = await start(database_url=pooled_url, database_pooler="transaction")
    child = await connection.fetchval(
        "SELECT inhrelid::regclass::text FROM pg_inherits WHERE inhparent = 'bodies'::regclass "
        "AND inhrelid::regclass::text NOT LIKE '%default' ORDER BY 1 DESC LIMIT 1"
    )
    await connection.execute(f"DROP TABLE {child}")
    daemon.retention._due["partitions"] = 0.0
    await daemon.retention.keep_partitions()
    assert await connection.fetchval("SELECT to_regclass($1) IS NOT NULL", child)
    for task in ("bodies", "audit", "events", "quarantine"):
        await daemon.retention.remove(task)
        assert daemon.metrics.registry.get_sample_value("webhookd_retention_failures_total", {"task": task}) == 0
    assert daemon.database.up


@pytest.mark.parametrize("kind", ["refuses startup parameters", "takes them"])
async def test_a_pooler_that_webhookd_was_not_told_of_is_found_out(
    kind: str, pgbouncer: PgBouncer, ignorant: PgBouncer, servers: Servers, start: Start
) -> None:
    server = pgbouncer if kind == "refuses startup parameters" else ignorant
    url = server.before(_database(servers.database_url))
    daemon = await start(database_url=url)
    assert not daemon.health.ready
    await until(lambda: SETTING in str(daemon.database.problem), "the setting is named")
    finding = (await _doctor(servers, database_url=url))["pooler"]
    assert finding.verdict is Verdict.FAILED
    assert SETTING in finding.detail
    with pytest.raises(WebhookdError, match="name PostgreSQL itself in WEBHOOKD_DATABASE_URL"):
        await migrate(url)


async def test_a_pooler_that_no_setting_declares_is_not_used_even_if_it_would_work(
    ignorant: PgBouncer, database_url: str
) -> None:
    """A single client meets the same session again and again, so that no statement fails."""
    settings = PoolSettings(ignorant.before(_database(database_url)), short=1, work=1, handler_timeout=5, pooled=False)
    database = Database(settings, metrics=Metrics(), watch=Watch())
    await database.start()
    try:
        assert not database.up
        assert SETTING in str(database.problem)
    finally:
        await database.stop()


async def _doctor(servers: Servers, **settings: str) -> dict[str, Finding]:
    return {finding.check: finding async for finding in examine(settings_of(servers.settings, **settings))}


async def test_the_doctor_is_content_with_the_setting_and_says_where_it_is_not_needed(
    servers: Servers, pooled_url: str
) -> None:
    findings = await _doctor(servers, database_url=pooled_url, database_pooler="transaction")
    assert {finding.verdict for finding in findings.values()} == {Verdict.OK}
    assert "pooler" in findings
    needless = (await _doctor(servers, database_pooler="transaction"))["pooler"]
    assert needless.verdict is Verdict.WARNING
    assert "set it to none" in needless.detail
    assert "pooler" not in await _doctor(servers)


async def test_operators_statements_that_need_their_settings_have_them(pooled_url: str) -> None:
    """The settings make PostgreSQL read a page of waiting events by an index, whatever the statistics say."""

    async def settings(connection: Any) -> AsyncIterator[Any]:
        for name in ("enable_bitmapscan", "enable_seqscan", "plan_cache_mode"):
            yield await connection.fetchval(f"SHOW {name}")

    database = Database(
        PoolSettings(pooled_url, short=1, work=1, handler_timeout=5, pooled=True), metrics=Metrics(), watch=Watch()
    )
    await database.start()
    try:
        found: list[Any] = await OperatorQueries(database).all_in_order(settings)
    finally:
        await database.stop()
    assert found == ["off", "off", "force_custom_plan"]
    assert set(await _in_every_session(pooled_url, "SHOW enable_bitmapscan")) == {"on"}


async def test_whether_there_is_anything_to_migrate_can_be_asked_by_way_of_the_pooler(pooled_url: str) -> None:
    assert await state(pooled_url) == State([], [])


def test_without_a_pooler_sessions_are_as_they_were() -> None:
    settings = {"jit": "off", "tcp_keepalives_idle": "15"}
    assert session.session_options("x", settings, pooled=False, runs_user_code=True) == {
        "server_settings": {"application_name": "x", **settings},
    }
