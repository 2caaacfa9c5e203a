"""Retention on a real PostgreSQL removes old rows, keeps rows that are still needed, and never locks out the receiver."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, TypeAlias

import aiohttp
import asyncpg
import pytest
import pytest_asyncio

from tests.conftest import Servers, Start, settings_of
from tests.helpers.database import connect
from tests.helpers.running import KEY
from tests.helpers.stored import store, store_alias
from tests.helpers.wait import until
from webhookd.authorizenet.notification import parse
from webhookd.authorizenet.sampling import sample
from webhookd.authorizenet.signature import sign
from webhookd.doctor import Verdict, examine
from webhookd.runtime.loops import Watch
from webhookd.store import retention as module
from webhookd.store.database import Database
from webhookd.store.pools import PoolSettings
from webhookd.store.queries import queries
from webhookd.store.retention import REMOVALS, Ages, Retention
from webhookd.telemetry.metrics import Metrics

Connection: TypeAlias = "asyncpg.Connection[asyncpg.Record]"
AUTHCAPTURE = "net.authorize.payment.authcapture.created"
PATH = "/webhooks/authorize-net"
DAY = 86_400.0
AGES = Ages(bodies=90 * DAY, audit=400 * DAY, events=400 * DAY, quarantine=90 * DAY, window=15 * DAY)
WEEK = 7 * DAY


@dataclass(slots=True)
class Replica:
    """The retention of one process, without its loops."""

    retention: Retention
    metrics: Metrics
    database: Database

    def metric(self, name: str, **labels: str) -> float:
        return self.metrics.registry.get_sample_value(f"webhookd_{name}", labels) or 0.0


@pytest_asyncio.fixture
async def replicas(database_url: str) -> AsyncIterator[list[Replica]]:
    """Yields two replicas on one database."""
    made = []
    for _ in range(2):
        metrics, watch = Metrics(), Watch()
        database = Database(PoolSettings(database_url, short=2, work=1, handler_timeout=5), metrics=metrics, watch=watch)
        await database.start()
        made.append(Replica(Retention(database, AGES, metrics=metrics, watch=watch), metrics, database))
    yield made
    for replica in made:
        await replica.retention.stop()
        await replica.database.stop()


@pytest.fixture
def replica(replicas: list[Replica]) -> Replica:
    return replicas[0]


async def make_week(connection: Connection, days_ago: float) -> str:
    """Makes the partitions of the week `days_ago` days ago; returns the week's date, with which their names end."""
    sql = "SELECT date_trunc('week', (now() - make_interval(secs => $1)) AT TIME ZONE 'UTC') AT TIME ZONE 'UTC'"
    first = await connection.fetchval(sql, days_ago * DAY)
    for parent in ("bodies", "audit"):
        await queries.make_partition(connection, parent=parent, first=first)
    return f"{first:%Y%m%d}"


async def keep(
    connection: Connection, days_ago: float, status: str = "processed", *, body: bytes = b"{}", discarded: bool = False
) -> uuid.UUID:
    """Stores an event of `days_ago` days ago, its body and its audit trail, as the receiver and a worker leave them."""
    when = datetime.now(UTC) - timedelta(days=days_ago)
    low: uuid.UUID = await connection.fetchval("SELECT webhookd.first_id($1)", when)
    event_id = uuid.UUID(int=low.int | uuid.uuid4().int >> 64)
    notification = parse(body, "default") if body != b"{}" else None
    event = {
        "id": event_id,
        "account": "default",
        "notification_id": notification.notification_id if notification else str(event_id),
        "event_type": AUTHCAPTURE,
        "status": status,
        "received_at": when,
        "event_date": notification.event_date if notification else when,
        "content_key": uuid.UUID(bytes=notification.content_key) if notification and notification.content_key else None,
        "finished_at": when,
        "dead_reason": "x",
        "discarded_at": when if discarded else None,
    }
    await store(connection, [event])
    await connection.execute("INSERT INTO bodies VALUES ($1, $2)", event_id, body)
    if status != "processed":  # for a processed event, `store` has written the row
        trail = "INSERT INTO audit VALUES ($1, $2, 'received', $3, 'test')"
        await connection.execute(trail, event_id, when, status)
    return event_id


async def ids(connection: Connection, table: str) -> list[uuid.UUID]:
    column = "id" if table == "events" else "event_id"
    return [row[0] for row in await connection.fetch(f"SELECT DISTINCT {column} FROM {table}")]


async def partition_exists(connection: Connection, name: str) -> bool:
    return bool(await connection.fetchval("SELECT to_regclass($1) IS NOT NULL", name))


async def post(http: aiohttp.ClientSession, body: bytes) -> dict[str, Any]:
    async with http.post(PATH, data=body, headers={"X-ANET-Signature": sign(body, KEY)}) as response:
        assert response.status == 200
        return dict(await response.json())


async def test_an_old_week_of_bodies_goes_whole_and_a_younger_one_stays(replica: Replica, connection: Connection) -> None:
    old, young = await make_week(connection, 100), await make_week(connection, 60)
    await keep(connection, 100)
    stays = await keep(connection, 60)
    await replica.retention.remove("bodies")
    assert not await partition_exists(connection, f"bodies_{old}")
    assert await partition_exists(connection, f"bodies_{young}")
    assert await ids(connection, "bodies") == [stays]
    assert len(await ids(connection, "audit")) == len(await ids(connection, "events")) == 2, "they are kept longer"
    assert replica.metric("retention_removed_total", kind="bodies_partitions") == 1
    assert replica.metric("retention_failures_total", task="bodies") == 0
    success = replica.metric("retention_last_success_timestamp_seconds", task="bodies")
    assert success == pytest.approx(time.time(), abs=60)


@pytest.mark.parametrize(("task", "table"), [("bodies", "bodies"), ("audit", "audit")])
async def test_what_waits_or_is_dead_keeps_its_body_and_trail_until_an_operator_lets_it_go(
    replica: Replica, connection: Connection, task: str, table: str
) -> None:
    week = await make_week(connection, 410)
    needed = {await keep(connection, 410, status) for status in ("received", "queued", "retrying", "dead")}
    for status, discarded in (("processed", False), ("dead", True)):
        await keep(connection, 410, status, discarded=discarded)
    for _ in range(2):
        await replica.retention.remove(task)
        assert set(await ids(connection, table)) == needed
        assert set(await ids(connection, f"{table}_{week}")) == needed, "where they were, and not in the default partition"
    await connection.execute("UPDATE work SET status = 'discarded', due = since, discarded_at = now()")
    await replica.retention.remove(task)
    assert set(await ids(connection, table)) == needed, "who let them go can change his mind for as long again"
    await connection.execute("UPDATE work SET discarded_at = now() - interval '401 days'")
    await replica.retention.remove(task)
    assert not await partition_exists(connection, f"{table}_{week}")
    assert replica.metric("retention_failures_total", task=task) == 0


async def test_after_retention_a_dead_event_can_be_redriven_and_a_waiting_one_ends(
    start: Start, replica: Replica, connection: Connection
) -> None:
    await make_week(connection, 100)
    dead = await keep(connection, 100, "dead", body=sample(AUTHCAPTURE, 1).body)
    waiting = await keep(connection, 100, "retrying", body=sample(AUTHCAPTURE, 2).body)
    await replica.retention.remove("bodies")
    daemon = await start()
    died = (await daemon.store.states([dead]))[dead]["died"]
    assert await daemon.store.revive(dead, died=died, actor="test", reason="redriven")
    ended = "SELECT count(*) = 2 FROM events WHERE id = ANY($1) AND status = 'processed'"
    await until(lambda: connection.fetchval(ended, [dead, waiting]), "both are processed", deadline=60)
    assert await connection.fetchval("SELECT count(*) FROM transactions") == 2


@pytest.mark.parametrize(("task", "table"), [("bodies", "bodies"), ("audit", "audit")])
async def test_what_an_event_left_stays_as_long_again_where_it_ended_late(
    replica: Replica, connection: Connection, task: str, table: str
) -> None:
    """An event was redriven after more than a year. Its body and its audit trail stay for another full period from its end.

    People may ask during this period who redrove the event, and which body the handlers received.
    """
    await make_week(connection, 420)
    await keep(connection, 420)
    late = await keep(connection, 420)
    await connection.execute("UPDATE audit SET at = now() WHERE event_id = $1", late)
    await replica.retention.remove(task)
    assert await ids(connection, table) == [late]


@pytest.mark.parametrize(("task", "table"), [("bodies", "bodies"), ("audit", "audit")])
async def test_where_some_stand_the_others_leave_and_their_disk_space_is_free(
    replica: Replica, connection: Connection, monkeypatch: pytest.MonkeyPatch, task: str, table: str
) -> None:
    monkeypatch.setattr(module, "_BATCH", 300)
    week = await make_week(connection, 410)
    needed = {await keep(connection, 410, "dead") for _ in range(3)}
    await keep(connection, 410)
    places = "SELECT (substr(webhookd.first_id(now() - interval '410 days')::text, 1, 24) || lpad(n::text, 12, '0'))::uuid"
    await connection.execute(f"INSERT INTO bodies {places}, repeat('x', 900)::bytea FROM generate_series(1, 1000) n")
    old = "now() - interval '410 days'"
    await connection.execute(f"INSERT INTO audit {places}, {old}, NULL, '', '' FROM generate_series(1, 1000) n")
    size = "SELECT pg_relation_size($1::regclass)"
    assert await connection.fetchval(size, f"{table}_{week}") > 50_000
    await replica.retention.remove(task)
    assert set(await ids(connection, table)) == needed
    assert await connection.fetchval(f"SELECT count(*) FROM {table}") == 3
    assert replica.metric("retention_removed_total", kind=task) == 1001
    assert await connection.fetchval(size, f"{table}_{week}") == 8192
    # Readers of events wait for the compaction, so the compaction must have no deleted rows to read: the vacuum is first.
    vacuumed = f"SELECT pg_stat_get_vacuum_count('{table}_{week}'::regclass) > 0"
    await until(lambda: connection.fetchval(vacuumed), "PostgreSQL's statistics count the vacuum")


async def test_a_week_is_left_to_end_for_a_day_so_that_it_leaves_as_a_whole(connection: Connection) -> None:
    """Retention takes a week's partition a day late, since events of the week's last hours ended a little after the week."""
    week = await make_week(connection, 100)
    high = "SELECT extract(epoch FROM now() - webhookd.time_of(high))::float8 FROM webhookd.partitions WHERE child = $1"
    age = await connection.fetchval(high, f"bodies_{week}")
    for kept, found in ((age - 0.9 * DAY, []), (age - 1.1 * DAY, [f"bodies_{week}"])):
        rows = [row["child"] async for row in queries.old_partitions(connection, parent="bodies", age=kept)]
        assert rows == found


async def test_a_dump_that_began_before_the_removal_holds_all_that_is_needed(
    replica: Replica, connection: Connection, database_url: str
) -> None:
    """A dump takes its snapshot first, and then opens one table after the other."""
    await make_week(connection, 410)
    needed = {await keep(connection, 410, "dead") for _ in range(3)}
    await keep(connection, 410)
    dump = await connect(database_url)
    await dump.execute("BEGIN ISOLATION LEVEL REPEATABLE READ, READ ONLY; SELECT FROM instance")
    for task in REMOVALS:
        await replica.retention.remove(task)
    for table in ("bodies", "audit"):
        assert set(await ids(connection, table)) == needed
        assert set(await ids(dump, table)) >= needed
    await dump.close()


async def test_a_row_that_comes_while_the_drop_waits_is_not_dropped(
    replica: Replica, connection: Connection, database_url: str
) -> None:
    """The row stays even if the database's default isolation level is repeatable read."""
    name = await connection.fetchval("SELECT current_database()")
    await connection.execute(f"ALTER DATABASE {name} SET default_transaction_isolation = 'repeatable read'")
    week = await make_week(connection, 410)
    event_id = await keep(connection, 410)
    await connection.execute("DELETE FROM audit")
    waits = "SELECT count(*) > 0 FROM pg_locks WHERE mode = 'AccessExclusiveLock' AND NOT granted"
    other = await connect(database_url)
    await other.execute("BEGIN ISOLATION LEVEL READ COMMITTED")
    row = f"INSERT INTO audit_{week} (event_id, to_status, actor) VALUES ($1, 'received', 'test')"
    await other.execute(row, event_id)
    removal = asyncio.create_task(replica.retention.remove("audit"))
    await until(lambda: connection.fetchval(waits), "the drop waits")
    await other.execute("COMMIT")
    await removal
    await other.close()
    assert await ids(connection, f"audit_{week}") == [event_id]


async def test_a_partition_that_cannot_be_removed_does_not_keep_the_others(replica: Replica, connection: Connection) -> None:
    weeks = [await make_week(connection, days) for days in (120, 110)]
    for days in (120, 110):
        await keep(connection, days)
    await connection.execute(f"CREATE VIEW of_a_user AS SELECT * FROM bodies_{weeks[0]}")
    await keep(connection, 100)  # the default partition stores this event
    await replica.retention.remove("bodies")
    assert [await partition_exists(connection, f"bodies_{week}") for week in weeks] == [True, False]
    assert await ids(connection, "bodies") == []
    assert replica.metric("retention_failures_total", task="bodies") == 1


async def test_a_partition_that_somebody_made_without_bounds_is_left_alone(replica: Replica, connection: Connection) -> None:
    await connection.execute(
        "CREATE TABLE webhookd.bodies_ancient PARTITION OF bodies FOR VALUES FROM (MINVALUE) TO "
        "('01000000-0000-0000-0000-000000000000')"
    )
    dead = await keep(connection, 100, "dead")
    older = uuid.UUID(int=5)
    await connection.execute("UPDATE ledger SET id = $1 WHERE id = $2", older, dead)
    for table in ("work", "bodies"):
        await connection.execute(f"UPDATE {table} SET event_id = $1 WHERE event_id = $2", older, dead)
    await replica.retention.remove("bodies")
    await replica.retention.keep_partitions()
    assert await ids(connection, "bodies_ancient") == [older]
    assert replica.metric("partitions_ahead_seconds") > 3 * WEEK


async def test_the_default_partition_is_trimmed_but_for_what_stands_and_what_came_lately(
    replica: Replica, connection: Connection
) -> None:
    """The rows are in the default partition, since no partition holds their time.

    Two events came today, though a receiver's wrong clock gave them old ids; one of the two is dead.
    """
    await keep(connection, 100)
    needed = {await keep(connection, 100, "dead"), await keep(connection, 100)}
    await connection.execute("UPDATE ledger SET received_at = now() WHERE id = ANY($1)", list(needed))
    await replica.retention.remove("bodies")
    assert set(await ids(connection, "bodies_default")) == needed
    assert replica.metric("retention_removed_total", kind="bodies") == 1


async def test_an_event_that_is_forced_to_run_again_at_that_moment_keeps_its_body(
    replica: Replica, connection: Connection, database_url: str
) -> None:
    """The retry has found the body of a processed event, and commits after the trimming has begun."""
    event_id = await keep(connection, 100)
    operator = await connect(database_url)
    await operator.execute("BEGIN")
    await queries.lock_ends(operator)
    ended = await connection.fetchval("SELECT finished_at FROM events WHERE id = $1", event_id)
    assert await queries.redrive_events(operator, actor="test", reason="", ids=[event_id], ended=[ended], forced=True) == 1
    removal = asyncio.create_task(replica.retention.remove("bodies"))
    waiting = "SELECT count(*) > 0 FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"

    async def ended_or_waits() -> bool:
        return removal.done() or bool(await connection.fetchval(waiting))

    await until(ended_or_waits, "the trimming has met the retry")
    await operator.execute("COMMIT")
    await removal
    await operator.close()
    assert await ids(connection, "bodies_default") == [event_id]
    assert replica.metric("retention_failures_total", task="bodies") == 0


async def test_a_stop_cancels_a_statement_that_waits(replica: Replica, database_url: str, connection: Connection) -> None:
    """Retention stops before the receiver. A statement may take ten minutes, and no other part may wait for the statement."""
    event = await keep(connection, 100)
    other = await connect(database_url)
    waits = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
    async with other.transaction():
        await other.execute("SELECT FROM bodies WHERE event_id = $1 FOR UPDATE", event)
        removing = asyncio.create_task(replica.retention.remove("bodies"))
        await until(lambda: connection.fetchval(waits), "retention waits for the row")
        async with asyncio.timeout(15):
            await replica.retention.stop()
            await removing
        assert await connection.fetchval(waits) == 0, "PostgreSQL has given the statement up"
    await other.close()
    assert replica.metric("retention_failures_total", task="bodies") == 0


async def test_what_stays_is_not_read_again_by_each_pass(
    replica: Replica, connection: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An event without a date is never removed, because a repeat of the event would look like a new event."""
    passed: list[Any] = []
    remove_events = queries.remove_events

    async def recorded(used: Any, **parameters: Any) -> Any:
        row = await remove_events(used, **parameters)
        if row["last"] is not None:
            passed.append(row["last"])
        return row

    monkeypatch.setattr(queries, "remove_events", recorded)
    undated = [await keep(connection, days) for days in (500, 499)]
    await connection.execute("UPDATE ledger SET event_date = NULL")
    await replica.retention.remove("events")
    assert passed == [undated[-1]]
    await keep(connection, 450)
    await replica.retention.remove("events")
    assert set(await ids(connection, "events")) == set(undated), "what has come of age since is removed"
    dated = await keep(connection, 460)  # its id is below the ids already read, like an event that ended late
    await replica.retention.remove("events")
    assert dated in await ids(connection, "events")
    assert len(passed) == 2
    replica.retention._whole_pass_at = 0.0  # as if a day had passed
    await replica.retention.remove("events")
    assert set(await ids(connection, "events")) == set(undated)


async def test_look_ups_by_id_do_not_wait_for_a_lock_on_another_partition(connection: Connection, database_url: str) -> None:
    """Retention locks an old partition, and so does a person who reindexes a partition."""
    old = await make_week(connection, 30)
    event = await keep(connection, 0)
    other = await connect(database_url, server_settings={"lock_timeout": "1s"})
    async with connection.transaction():
        await connection.execute(f"LOCK TABLE bodies_{old}, audit_{old} IN ACCESS EXCLUSIVE MODE")
        # The first five runs are planned for these ids. Later, PostgreSQL may use a plan for any ids if that plan costs less.
        for _ in range(5):
            assert len([row async for row in queries.read_events(other, ids=[event])]) == 1
            assert (await queries.claim_event(other, id=event))["body"] == b"{}"
            assert len([row async for row in queries.audit_trail(other, id=event)]) == 2
    await other.close()


async def test_a_week_with_rows_that_stand_is_known_without_a_lock(connection: Connection, database_url: str) -> None:
    week = await make_week(connection, 100)
    await keep(connection, 100)
    await keep(connection, 100, status="dead")
    reader = await connect(database_url)
    await reader.execute(f"BEGIN; LOCK TABLE bodies_{week} IN ACCESS SHARE MODE")
    # With a lock, this would fail after three seconds.
    assert await queries.clear_partition(connection, child=f"bodies_{week}", age=30 * DAY) == "mixed"
    await reader.close()


async def test_the_receiver_goes_on_while_a_drop_waits_for_its_lock(
    start: Start, replica: Replica, connection: Connection, database_url: str
) -> None:
    """A worker's transaction has locked the table of bodies. The drop waits for the worker, and each commit for the drop."""
    daemon = await start(roles="receive")
    week = await make_week(connection, 100)
    await keep(connection, 100)
    other = await connect(database_url)
    await other.execute("BEGIN; LOCK TABLE ONLY bodies IN ACCESS SHARE MODE")
    removal = asyncio.create_task(replica.retention.remove("bodies"))
    waits = "SELECT count(*) > 0 FROM pg_locks WHERE mode = 'AccessExclusiveLock' AND NOT granted"
    await until(lambda: connection.fetchval(waits), "the drop waits")
    longest = 0.0
    async with aiohttp.ClientSession(daemon.public_url) as http:
        for number in range(10):
            started = time.perf_counter()
            assert (await post(http, sample(AUTHCAPTURE, number).body))["status"] == "accepted"
            longest = max(longest, time.perf_counter() - started)
    assert longest < 4, "below WEBHOOKD_COMMIT_TIMEOUT"
    assert not removal.done(), "it tries again"
    assert await connection.fetchval(f"SELECT count(*) = 0 FROM bodies_{week}"), "its disk space is free already"
    await other.close()
    await asyncio.wait_for(removal, 30)
    assert not await partition_exists(connection, f"bodies_{week}")
    assert replica.metric("retention_failures_total", task="bodies") == 0


async def test_a_backup_that_reads_an_old_partition_puts_off_its_removal_and_nothing_else(
    replica: Replica, connection: Connection, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    weeks = [await make_week(connection, days) for days in (110, 100)]
    for days in (110, 100):
        await keep(connection, days)
    other = await connect(database_url)
    await other.execute(f"BEGIN; LOCK TABLE bodies_{weeks[0]} IN ACCESS SHARE MODE")
    await replica.retention.remove("bodies")
    assert [await partition_exists(connection, f"bodies_{week}") for week in weeks] == [True, False]
    assert replica.metric("retention_failures_total", task="bodies") == 1
    assert replica.metric("retention_last_success_timestamp_seconds", task="bodies") == 0
    await other.close()
    await replica.retention.remove("bodies")
    assert not await partition_exists(connection, f"bodies_{weeks[0]}")


async def test_finished_events_go_with_their_aliases_and_nothing_that_stands(replica: Replica, connection: Connection) -> None:
    gone = [await keep(connection, 401), await keep(connection, 500, "dead", discarded=True)]
    stays = {
        await keep(connection, 399),
        *[await keep(connection, 500, status) for status in ("dead", "received", "queued", "retrying")],
    }
    lately = await keep(connection, 500)  # an operator redrove it, or its receiver's clock was wrong
    await connection.execute("UPDATE audit SET at = now() WHERE event_id = $1", lately)
    for event_id in (*gone, lately):
        await store_alias(connection, event_id, "default", f"alias of {event_id}")
    await replica.retention.remove("events")
    assert set(await ids(connection, "events")) == stays | {lately}
    assert [row[0] for row in await connection.fetch("SELECT event_id FROM notification_aliases")] == [lately]
    assert replica.metric("retention_removed_total", kind="events") == 2


async def test_an_event_that_is_redriven_at_that_moment_stays(
    replica: Replica, connection: Connection, database_url: str
) -> None:
    """The event was discarded long ago. The redrive has locked the row, and commits after the removal has begun."""
    event_id = await keep(connection, 500, "dead", discarded=True)
    operator = await connect(database_url)
    await operator.execute("BEGIN")
    await queries.lock_ends(operator)
    ended = await connection.fetchval("SELECT finished_at FROM events WHERE id = $1", event_id)
    assert await queries.redrive_events(operator, actor="test", reason="", ids=[event_id], ended=[ended], forced=False) == 1
    removal = asyncio.create_task(replica.retention.remove("events"))
    waiting = "SELECT count(*) > 0 FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"

    async def ended_or_waits() -> bool:
        return removal.done() or bool(await connection.fetchval(waiting))

    await until(ended_or_waits, "the removal has met the row")
    await operator.execute("COMMIT")
    await removal
    await operator.close()
    assert await ids(connection, "events") == [event_id]
    assert replica.metric("retention_failures_total", task="events") == 0


async def test_a_repeat_of_a_removed_event_is_not_processed_anew(
    start: Start, replica: Replica, connection: Connection, servers: Servers
) -> None:
    """A repeat of a removed event is too old. An event whose date proves nothing stays while its repeat would be accepted."""
    old = datetime.now(UTC) - timedelta(days=401)
    removed = sample(AUTHCAPTURE, 1, old).body
    dateless = sample(AUTHCAPTURE, 2, old).body.replace(b'"eventDate"', b'"eventDay"')
    odd = sample(AUTHCAPTURE, 3, old).body.replace(b'"eventDate":"2', b'"eventDate":"the year 2')
    lately = sample(AUTHCAPTURE, 4, datetime.now(UTC) - timedelta(days=13)).body  # an operator released this body long ago
    for body in (removed, dateless, odd, lately):
        await keep(connection, 401, body=body)
    await replica.retention.remove("events")
    assert await connection.fetchval("SELECT count(*) FROM events") == 3
    daemon = await start()
    async with aiohttp.ClientSession(daemon.public_url) as http:
        answers = [(await post(http, body))["status"] for body in (removed, dateless, odd, lately)]
    assert answers == ["quarantined", "duplicate", "duplicate", "duplicate"]
    assert await connection.fetchval("SELECT count(*) FROM events") == 3


async def test_removing_events_reads_a_range_of_the_primary_key(connection: Connection) -> None:
    await connection.execute(
        "INSERT INTO ledger (id, notification_key, body_hash, kind, notification_id) "
        "SELECT webhookd.first_id(now() - n * interval '30 min'), md5(n::text)::uuid, gen_random_uuid(), 1, n::text "
        "FROM generate_series(1, 20000) n; "
        "INSERT INTO audit (event_id, at, from_status, to_status, actor) "
        "SELECT id, webhookd.time_of(id), 'queued', 'processed', 'worker' FROM ledger; ANALYZE ledger, work, audit_default"
    )
    sql = queries.remove_events.sql
    for name, value in (("$1", f"'{uuid.UUID(int=0)}'"), ("$2", str(400 * DAY)), ("$3", "1000"), ("$4", str(15 * DAY))):
        sql = sql.replace(name, value)
    plan = "\n".join(row[0] for row in await connection.fetch(f"EXPLAIN {sql}"))
    for table in ("ledger", "work", "audit_default"):
        assert f"Seq Scan on {table}" not in plan, plan


async def test_two_replicas_at_once_remove_each_event_once(
    replicas: list[Replica], connection: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The result is the same if both replicas have the duty: the duty only saves work."""
    monkeypatch.setattr(module, "_BATCH", 7)
    for duty in (True, False):
        if not duty:
            for replica in replicas:
                monkeypatch.setattr(replica.database, "take_duty", _granted)
        await make_week(connection, 410)
        for _ in range(50):
            await keep(connection, 410)
        before = sum(replica.metric("retention_removed_total", kind="events") for replica in replicas)
        for task in REMOVALS:
            await asyncio.gather(*(replica.retention.remove(task) for replica in replicas))
        assert await ids(connection, "events") == await ids(connection, "bodies") == await ids(connection, "audit") == []
        removed = sum(replica.metric("retention_removed_total", kind="events") for replica in replicas)
        assert removed - before == 50
        if duty:
            assert all(replica.metric("retention_failures_total", task=task) == 0 for replica in replicas for task in REMOVALS)


async def _granted(*_: object) -> bool:
    return True


async def test_quarantine_is_bounded_by_age_and_its_size_shows(replica: Replica, connection: Connection) -> None:
    await connection.execute(
        "INSERT INTO quarantine (id, account, reason, detail, key_fingerprint, body, body_hash, received_at) "
        "SELECT gen_random_uuid(), 'a', '', '', '', '', n::text::bytea, now() - n * interval '1 day' "
        "FROM generate_series(1, 200) n"
    )
    await replica.retention.remove("quarantine")
    assert await connection.fetchval("SELECT count(*) FROM quarantine") == 89
    assert replica.metric("retention_removed_total", kind="quarantine") == 111
    await replica.retention.keep_partitions()
    assert replica.metric("quarantine_rows") == 89
    assert replica.metric("quarantine_bytes") > 8192


async def test_nothing_is_removed_by_a_wrong_clock(
    replica: Replica, connection: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    await make_week(connection, 410)
    await keep(connection, 410)
    monkeypatch.setattr(time, "time", lambda: datetime.now(UTC).timestamp() - 2 * DAY)
    for task in REMOVALS:
        await replica.retention.remove(task)
        assert replica.metric("retention_failures_total", task=task) == 1
    for table in ("events", "bodies", "audit"):
        assert len(await ids(connection, table)) == 1


async def test_partitions_are_made_four_weeks_ahead_once(replicas: list[Replica], connection: Connection) -> None:
    await connection.execute(
        "DO $$ DECLARE child text; BEGIN FOR child IN SELECT p.child FROM webhookd.partitions p WHERE high > "
        "webhookd.first_id(now() + interval '10 days') LOOP EXECUTE 'DROP TABLE ' || child; END LOOP; END $$"
    )
    replica = replicas[0]
    for each in replicas:
        await each.retention.keep_partitions()
        assert each.metric("partitions_ahead_seconds") > 4 * WEEK
        assert each.metric("retention_last_success_timestamp_seconds", task="partitions") > 0
    assert [row async for row in queries.missing_partitions(connection, weeks=4)] == []
    sql = "SELECT parent, count(*), count(DISTINCT high) FROM webhookd.partitions GROUP BY parent"
    counts = [(row[1], row[2]) for row in await connection.fetch(sql)]
    assert len(counts) == 2
    assert all(5 <= count == ends <= 6 for count, ends in counts)
    assert not await connection.fetch("SELECT FROM pg_constraint WHERE conname = 'webhookd_excluded'")
    assert replica.metric("retention_failures_total", task="partitions") == 0


async def drop_from_now_on(connection: Connection) -> None:
    for row in await connection.fetch("SELECT child FROM webhookd.partitions WHERE high > webhookd.first_id(now())"):
        await connection.execute(f"DROP TABLE {row['child']}")


async def test_partitions_that_are_missing_show_and_are_made_with_the_rows_that_came_meanwhile(
    start: Start, replica: Replica, connection: Connection, servers: Servers
) -> None:
    await drop_from_now_on(connection)
    findings = {finding.check: finding async for finding in examine(settings_of(servers.settings))}
    assert findings["partitions"].verdict is Verdict.FAILED
    event_id = await keep(connection, 0)
    await replica.retention._measure()
    assert replica.metric("partitions_ahead_seconds") == 0
    await replica.retention.keep_partitions()
    assert replica.metric("partitions_ahead_seconds") > 4 * WEEK
    assert await ids(connection, "bodies_default") == await ids(connection, "audit_default") == []
    assert await ids(connection, "bodies") == await ids(connection, "audit") == [event_id]
    findings = {finding.check: finding async for finding in examine(settings_of(servers.settings))}
    assert findings["partitions"].verdict is Verdict.OK


async def test_the_present_week_is_made_at_once_though_a_workers_transaction_is_in_the_way(
    replica: Replica, connection: Connection, database_url: str
) -> None:
    """If retention made the week later, the default partition might hold too many rows to move."""
    await drop_from_now_on(connection)
    other = await connect(database_url)
    await other.execute("BEGIN; LOCK TABLE ONLY bodies IN ACCESS SHARE MODE")
    making = asyncio.create_task(replica.retention.keep_partitions())
    waiting = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"

    async def waits(number: int) -> bool:
        return bool(await connection.fetchval(waiting) == number)

    await until(lambda: waits(1), "retention waits for its lock")
    await until(lambda: waits(0), "retention pauses, and other sessions go on")
    await other.close()
    await making
    assert replica.metric("retention_failures_total", task="partitions") == 0
    assert replica.metric("partitions_ahead_seconds") > 4 * WEEK


async def test_a_week_that_has_too_many_stray_rows_is_left_and_the_next_ones_are_made(
    replica: Replica, connection: Connection, servers: Servers
) -> None:
    """Moving the stray rows would lock out the receiver."""
    await drop_from_now_on(connection)
    await connection.execute(
        "INSERT INTO bodies SELECT (substr(webhookd.first_id(now())::text, 1, 24) || lpad(to_hex(n), 12, '0'))::uuid, '' "
        "FROM generate_series(1, 10001) n"
    )
    await replica.retention.keep_partitions()
    assert replica.metric("partitions_ahead_seconds") == 0
    assert replica.metric("retention_failures_total", task="partitions") == 1
    missing = [row["parent"] async for row in queries.missing_partitions(connection, weeks=4)]
    assert missing == ["bodies"], "the present week of bodies, and only that"
    async with asyncio.timeout(5):
        await keep(connection, 0)


EXCLUDED = "SELECT count(*) FROM pg_constraint WHERE conname = 'webhookd_excluded'"


@pytest.mark.parametrize("parent", ["bodies", "audit"])
async def test_a_partition_that_cannot_be_made_leaves_nothing_that_refuses_its_rows(
    connection: Connection, parent: str
) -> None:
    first = datetime(2031, 3, 3, tzinfo=UTC)
    await connection.execute(f"CREATE TABLE webhookd.{parent}_20310303 ()")
    with pytest.raises(asyncpg.DuplicateTableError):
        await queries.make_partition(connection, parent=parent, first=first)
    assert await connection.fetchval(EXCLUDED) == 0
    await keep(connection, (datetime.now(UTC) - first).total_seconds() / DAY - 1)
    assert len(await ids(connection, f"{parent}_default")) == 1


THIS_WEEK = "SELECT date_trunc('week', now() AT TIME ZONE 'UTC') AT TIME ZONE 'UTC'"


@pytest.mark.parametrize("strays", [0, 10_001])
async def test_what_a_crash_left_in_the_way_of_rows_goes_also_where_the_partition_cannot_be_made(
    connection: Connection, strays: int
) -> None:
    """The daemon was killed between two steps, and that week had begun before another daemon started."""
    first = await connection.fetchval(THIS_WEEK)
    await connection.execute(f"DROP TABLE bodies_{first:%Y%m%d}; CREATE TABLE webhookd.bodies_{first:%Y%m%d} ()")
    await connection.execute(
        "INSERT INTO bodies SELECT (substr(webhookd.first_id(now())::text, 1, 24) || lpad(to_hex(n), 12, '0'))::uuid, '' "
        "FROM generate_series(1, $1) n",
        strays,
    )
    check = f"CHECK (event_id < '{uuid.UUID(int=1)}') NOT VALID"
    await connection.execute(f"ALTER TABLE bodies_default ADD CONSTRAINT webhookd_excluded {check}")
    with pytest.raises(asyncpg.CheckViolationError):
        await keep(connection, 0)
    with pytest.raises((asyncpg.DuplicateTableError, asyncpg.ObjectNotInPrerequisiteStateError)):
        await queries.make_partition(connection, parent="bodies", first=first)
    assert await connection.fetchval(EXCLUDED) == 0
    await keep(connection, 0)


async def test_who_looks_a_body_up_while_it_is_moved_into_its_partition_finds_it(
    connection: Connection, database_url: str
) -> None:
    """A worker that finds no body makes the event dead."""
    await drop_from_now_on(connection)
    event_id = await keep(connection, 0, "queued")
    first = await connection.fetchval(THIS_WEEK)
    maker, other, worker = [await connect(database_url) for _ in range(3)]
    waiting = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"

    async def moved() -> bool:
        await other.execute(f"BEGIN; CREATE TABLE webhookd.bodies_{first:%Y%m%d} ()")  # the maker waits for this transaction
        made = asyncio.create_task(_made(maker, first))

        async def reached(number: int) -> bool:
            return made.done() or await connection.fetchval(waiting) == number

        await until(lambda: reached(1), "the move has its locks")
        claim = asyncio.create_task(queries.claim_event(worker, id=event_id))
        await until(lambda: reached(2), "the worker waits behind it")
        await other.execute("ROLLBACK")
        assert (await claim)["body"] == b"{}"
        return await made

    async with asyncio.timeout(60):
        while not await moved():  # tries again if the lock timed out before the worker arrived
            pass
    assert len(await ids(connection, "bodies_default")) == 0
    for each in (maker, other, worker):
        await each.close()


async def _made(connection: Connection, first: datetime) -> bool:
    try:
        await queries.make_partition(connection, parent="bodies", first=first)
    except asyncpg.LockNotAvailableError:
        return False
    return True


async def test_the_default_partition_is_not_scanned_under_a_lock_for_a_week_to_come(connection: Connection) -> None:
    await keep(connection, 1000, "dead")
    told: list[str] = []
    connection.add_log_listener(lambda _, message: told.append(str(message)))
    await connection.execute("SET client_min_messages = debug1")
    first = datetime.now(UTC) + timedelta(weeks=10)
    await queries.make_partition(connection, parent="bodies", first=first)
    implied = 'updated partition constraint for default partition "bodies_default" is implied by existing constraints'
    assert implied in "\n".join(told)


async def test_a_partition_that_cannot_be_made_is_counted_and_the_daemon_goes_on(
    start: Start, connection: Connection, servers: Servers
) -> None:
    ends = "SELECT max(high::text)::uuid AS high FROM webhookd.partitions WHERE parent = 'bodies'"
    last = await connection.fetchval(f"SELECT child FROM webhookd.partitions WHERE high = ({ends}) AND parent = 'bodies'")
    await connection.execute(f"DROP TABLE {last}; CREATE TABLE webhookd.{last} ()")
    daemon = await start()
    value = daemon.metrics.registry.get_sample_value
    failures = ("webhookd_retention_failures_total", {"task": "partitions"})
    await until(lambda: (value(*failures) or 0) >= 1, "the failure is counted")
    assert 3 * WEEK < (value("webhookd_partitions_ahead_seconds") or 0) < 4 * WEEK
    assert daemon.health.ready
    async with aiohttp.ClientSession(daemon.public_url) as http:
        assert (await post(http, sample(AUTHCAPTURE, 1).body))["status"] == "accepted"


async def test_a_partition_is_a_week_whatever_the_sessions_time_zone_and_meets_its_neighbours(connection: Connection) -> None:
    await connection.execute("SET TIME ZONE 'America/New_York'")
    first = datetime(2031, 3, 3, tzinfo=UTC)  # summer time begins on the 9th
    for week in (0, 2, 1):
        await queries.make_partition(connection, parent="bodies", first=first + week * timedelta(weeks=1))
    sql = (
        "SELECT webhookd.time_of(low), webhookd.time_of(high) FROM webhookd.partitions WHERE child LIKE '%_2031%' ORDER BY low"
    )
    bounds = [tuple(row) for row in await connection.fetch(sql)]
    assert bounds == [(first + timedelta(weeks=n), first + timedelta(weeks=n + 1)) for n in range(3)]


async def test_a_daemon_removes_by_its_settings_and_stops_at_once(start: Start, connection: Connection) -> None:
    daemon = await start(body_retention=2 * DAY, event_retention=20 * DAY)
    await make_week(connection, 12)
    await keep(connection, 12)
    await keep(connection, 21)
    await daemon.retention.remove("bodies")
    await daemon.retention.remove("events")
    assert await ids(connection, "bodies") == []
    assert len(await ids(connection, "events")) == 1
