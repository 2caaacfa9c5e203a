"""The schema, its migrations, and every query, against a real PostgreSQL."""

from __future__ import annotations

import asyncio
import re
import uuid
from datetime import UTC, datetime
from typing import Any
from urllib.parse import urlsplit

import asyncpg
import pytest

from tests.conftest import Start
from tests.helpers.database import connect
from tests.helpers.running import KEY
from tests.helpers.stored import lease, store
from tests.helpers.wait import until
from webhookd.authorizenet import sampling
from webhookd.authorizenet.notification import EVENT_TYPES
from webhookd.dev import traffic
from webhookd.dev.servers import Stack
from webhookd.errors import UnavailableError
from webhookd.runtime.loops import Watch
from webhookd.store.database import Database
from webhookd.store.migrations import migrate
from webhookd.store.pools import SESSIONS, PoolSettings
from webhookd.store.queries import MIGRATIONS, queries
from webhookd.telemetry.metrics import Metrics


@pytest.fixture
async def database(database_url: str) -> Any:
    """Starts a Database with a single connection in each pool."""
    made = Database(PoolSettings(database_url, short=1, work=1, handler_timeout=5), metrics=Metrics(), watch=Watch())
    await made.start()
    yield made
    await made.stop()


async def test_a_connection_goes_from_one_to_the_next(database: Database) -> None:
    async def statement(number: int) -> tuple[int, int]:
        async with database.acquire() as connection:
            return await connection.fetchval("SELECT $1::int", number), await connection.fetchval("SELECT pg_backend_pid()")

    async with asyncio.timeout(20):  # no statement waits for a connection that another statement keeps
        results = await asyncio.gather(*(statement(number) for number in range(200)))
    assert [number for number, _ in results] == list(range(200))
    assert len({pid for _, pid in results}) == 1


async def test_a_transaction_left_open_ends_with_the_use_of_its_connection(database: Database) -> None:
    async with database.acquire() as used:
        await used.execute("BEGIN")
    async with database.acquire() as used:
        assert not used.is_in_transaction()


async def test_after_the_stop_there_is_no_connection(database: Database) -> None:
    await database.stop()
    with pytest.raises(UnavailableError, match="the daemon has stopped"):
        async with database.acquire():
            pass


async def test_a_session_that_ended_while_nobody_had_it_is_made_anew(
    database: Database, connection: asyncpg.Connection[asyncpg.Record]
) -> None:
    async with database.acquire() as used:
        pid = await used.fetchval("SELECT pg_backend_pid()")
    await connection.execute("SELECT pg_terminate_backend($1)", pid)
    await until(lambda: not database._pools["short"].get_size(), "its end is known")
    async with database.acquire() as used:
        assert await used.fetchval("SELECT pg_backend_pid()") != pid
    assert database.up


async def test_every_query_is_valid_on_the_migrated_schema(connection: asyncpg.Connection[asyncpg.Record]) -> None:
    names = [name for name in queries.available_queries if not name.endswith("_cursor")]
    assert len(names) > 20
    await connection.execute("SET search_path = ''")  # so every query must name its schemas
    for name in names:
        try:
            await connection.prepare(getattr(queries, name).sql)
        except asyncpg.PostgresError as error:
            raise AssertionError(f"the query {name} does not fit the schema: {error}") from error


async def test_replicas_that_start_at_once_migrate_once(empty_url: str) -> None:
    applied = await asyncio.gather(*(migrate(empty_url) for _ in range(5)))
    assert max(applied, key=len) == sorted(MIGRATIONS)
    assert sum(len(one) for one in applied) == len(MIGRATIONS)
    assert await migrate(empty_url) == []


async def test_migrating_without_a_database_says_so() -> None:
    with pytest.raises(UnavailableError, match="postgresql is unavailable"):
        await migrate("postgresql://nobody@127.0.0.1:1/none")


async def test_uniqueness_stands_in_a_table_that_is_not_partitioned(connection: asyncpg.Connection[asyncpg.Record]) -> None:
    kinds = {
        row["relname"]: row["relkind"]
        for row in await connection.fetch("SELECT relname, relkind FROM pg_class WHERE relname IN ('ledger', 'bodies')")
    }
    assert kinds == {"ledger": b"r", "bodies": b"p"}
    sql = "SELECT pg_get_constraintdef(oid) FROM pg_constraint WHERE conname = $1"
    for column in ("notification_key", "content_key"):
        assert await connection.fetchval(sql, f"ledger_{column}") == f"UNIQUE ({column})"


async def test_the_outbox_and_the_unfinished_are_found_by_partial_indexes(
    connection: asyncpg.Connection[asyncpg.Record], database_url: str
) -> None:
    """With 20,000 finished events and 20 unfinished events, no statement of the sweeper or the gauges reads a whole table."""
    now = datetime.now(UTC)
    event = {"account": "a", "event_type": "t", "received_at": now, "finished_at": now}
    events = [
        {"id": uuid.uuid4(), "notification_id": str(n), "status": "processed" if n % 1000 else "received", **event}
        for n in range(20_000)
    ]
    await store(connection, events)
    await connection.execute("ANALYZE ledger, work")
    session = await connect(database_url, server_settings=SESSIONS.get("short", {}))
    for sql in (
        re.sub(r"\$\d+", "10", queries.lease_work.sql),
        re.sub(r"\$\d+", "100", queries.count_in_queue.sql),
        queries.backlog.sql,
    ):
        plan = "\n".join(row[0] for row in await session.fetch(f"EXPLAIN {sql}"))
        for table in ("ledger", "work"):
            assert f"Seq Scan on {table}" not in plan, plan
    await session.close()


async def test_a_body_lies_in_the_partition_of_its_time(connection: asyncpg.Connection[asyncpg.Record]) -> None:
    event_id = await connection.fetchval("SELECT webhookd.first_id(now())")
    await connection.execute("INSERT INTO bodies VALUES ($1, '')", event_id)
    assert await connection.fetchval("SELECT count(*) FROM bodies_default") == 0
    plan = await connection.fetch(f"EXPLAIN SELECT body FROM bodies WHERE event_id = '{event_id}'")
    assert sum("Scan" in row[0] for row in plan) == 1, "a look-up by id reads one partition"


async def test_a_daemon_on_a_database_without_its_schema_is_not_ready_and_becomes_so(start: Start, empty_url: str) -> None:
    daemon = await start(database_url=empty_url)
    assert not daemon.health.ready
    assert "run `webhookd migrate`" in str(daemon.database.problem)
    await migrate(empty_url)
    await until(lambda: daemon.health.ready, "it is ready once the schema is there")


async def test_a_copy_of_the_database_is_another_instance(
    stack: Stack, database_url: str, connection: asyncpg.Connection[asyncpg.Record]
) -> None:
    """A restored dump, beside the original or over it, may lack commits that Redis knows of."""
    original = (await queries.identify(connection))["instance"]
    assert (await queries.identify(connection))["instance"] == original
    await connection.execute("ALTER TABLE instance RENAME TO old; CREATE TABLE webhookd.instance (LIKE old INCLUDING ALL)")
    await connection.execute("INSERT INTO instance SELECT * FROM old; DROP TABLE old")
    restored = (await queries.identify(connection))["instance"]
    name = urlsplit(database_url).path[1:]
    await connection.close()
    server = await connect(stack.database_url)
    await server.execute(f"CREATE DATABASE {name}_copy TEMPLATE {name}")
    copied = await connect(urlsplit(database_url)._replace(path=f"/{name}_copy").geturl())
    beside = (await queries.identify(copied))["instance"]
    await copied.close()
    await server.execute(f"DROP DATABASE {name}_copy WITH (FORCE)")
    await server.close()
    assert len({original, restored, beside}) == 3


async def test_a_database_that_does_not_wait_for_its_disk_is_refused(
    start: Start, database_url: str, connection: asyncpg.Connection[asyncpg.Record]
) -> None:
    """With synchronous_commit off, a 200 would promise more than PostgreSQL does."""
    name = urlsplit(database_url).path[1:]
    await connection.execute(f"ALTER DATABASE {name} SET synchronous_commit = off")
    daemon = await start()
    assert not daemon.health.ready
    assert "synchronous_commit is off" in str(daemon.database.problem)


async def test_after_a_failover_to_what_takes_no_writes_the_daemon_comes_back_by_itself(
    start: Start, database_url: str, connection: asyncpg.Connection[asyncpg.Record]
) -> None:
    """No restart is needed, and events that were in hand meanwhile are not given up."""
    daemon = await start(visibility_timeout=2)
    url = f"{daemon.public_url}/webhooks/authorize-net"
    assert (await traffic.send(sampling.stream(EVENT_TYPES, 23), url, KEY)).failed == 0
    name = urlsplit(database_url).path[1:]
    await connection.execute(f"ALTER DATABASE {name} SET default_transaction_read_only = on")
    others = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = $1 AND pid <> pg_backend_pid()"
    await connection.execute(others, name)
    await until(lambda: not daemon.database.up, "the daemon notices that PostgreSQL takes no writes")
    (answer,) = (await traffic.send(sampling.stream(EVENT_TYPES, 1), url, KEY)).statuses
    assert answer == 503
    await connection.execute(f"ALTER DATABASE {name} SET default_transaction_read_only = off")
    await until(lambda: daemon.database.up, "the daemon notices that PostgreSQL takes writes again")
    assert (await traffic.send(sampling.stream(EVENT_TYPES, 23), url, KEY)).failed == 0
    ended = "SELECT count(*) = 46 FROM events WHERE status = 'processed'"
    # If the reply to a sweeper's claim was lost with its session, the claim holds its events for 30 s.
    await until(lambda: connection.fetchval(ended), "every event is processed", deadline=90)


async def test_connections_that_lead_to_a_replica_now_are_given_up(
    start: Start, connection: asyncpg.Connection[asyncpg.Record], database_url: str
) -> None:
    """The server was demoted while the connections were open: no probe closes them, since the server answers."""
    daemon = await start(roles="receive")
    url = f"{daemon.public_url}/webhooks/authorize-net"
    pool = daemon.database._pools["short"]
    every = [await pool.acquire() for _ in range(pool.get_max_size())]
    for each in every:
        await each.execute("SET default_transaction_read_only = on")
    for each in every:
        await pool.release(each)
    (answer,) = (await traffic.send(sampling.stream(EVENT_TYPES, 1), url, KEY)).statuses
    assert answer == 503
    await until(lambda: daemon.database.up, "a connection that takes writes is found")
    assert (await traffic.send(sampling.stream(EVENT_TYPES, 23), url, KEY)).failed == 0


async def test_a_duty_is_one_processs_and_falls_to_another_that_sees_it_held_by_a_clock_put_back(
    connection: asyncpg.Connection[asyncpg.Record],
) -> None:
    one, other = uuid.uuid4(), uuid.uuid4()
    assert await queries.take_duty(connection, name="d", holder=one, seconds=300)
    assert not await queries.take_duty(connection, name="d", holder=other, seconds=300)
    await connection.execute("UPDATE duties SET held_until = held_until + interval '1 hour'")
    assert await queries.take_duty(connection, name="d", holder=other, seconds=300)


async def test_what_was_never_sent_and_is_due_by_a_clock_put_back_is_taken_after_all_others(
    start: Start, connection: asyncpg.Connection[asyncpg.Record]
) -> None:
    daemon = await start(roles="receive")  # nothing sends events
    url = f"{daemon.public_url}/webhooks/authorize-net"
    assert (await traffic.send(sampling.stream(list(EVENT_TYPES), 4), url, KEY)).failed == 0
    await connection.execute("UPDATE work SET due = now()")
    stranded = await connection.fetchval(
        "UPDATE work SET due = now() + interval '1 hour' "
        "WHERE event_id = (SELECT min(event_id::text)::uuid FROM work) RETURNING event_id"
    )
    assert stranded not in {event.id for event in (await lease(daemon.outbox, fresh=3)).fresh}
    assert [event.id for event in (await lease(daemon.outbox, lost=3)).fresh] == [stranded]
    assert (await lease(daemon.outbox, fresh=3, lost=3)).all == []


@pytest.mark.parametrize("state", ["received", "queued", "retrying"])
async def test_what_is_there_since_a_time_to_come_is_sent_once(
    start: Start, connection: asyncpg.Connection[asyncpg.Record], state: str
) -> None:
    """The times of the work are from a clock that has been put back since."""
    daemon = await start(roles="receive")  # nothing sends events
    url = f"{daemon.public_url}/webhooks/authorize-net"
    assert (await traffic.send(sampling.stream(list(EVENT_TYPES), 3), url, KEY)).failed == 0
    later = "now() + interval '1 hour'"
    await connection.execute(f"UPDATE work SET status = $1, fresh = $1 = 'received', due = {later}, since = {later}", state)
    assert (await lease(daemon.outbox, fresh=9, rest=9, later=9)).all == []
    assert len((await lease(daemon.outbox, lost=9)).all) == 3
    assert await connection.fetchval("SELECT bool_and(since <= now() AND sends = 1) FROM work")
    await connection.execute(f"UPDATE work SET due = {later} WHERE status <> 'received'")
    assert (await lease(daemon.outbox, fresh=9, rest=9, later=9, lost=9)).all == []
