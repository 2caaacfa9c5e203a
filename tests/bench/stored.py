"""Events that are stored before a measurement, in the tables of either release.

SQL stores them, since ten million webhooks would take an hour. Only this module knows the releases' tables. The rest of the
bench drives a release through its environment and HTTP, and reads `events`, which is a table in 0.2.0 and a view since then.
"""

from __future__ import annotations

import asyncio
import sys
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TypeAlias

import asyncpg

from tests.helpers.database import connect
from webhookd.store.keys import kind_id

Connection: TypeAlias = "asyncpg.Connection[asyncpg.Record]"

# By default, events and their audit trail are kept for 400 days, and bodies for 90 days. The ages here are some days less, so
# that retention finds nothing to remove during a measurement.
_DAYS, _DAYS_OF_BODIES = 390, 80
_BATCH = 50_000


@dataclass(slots=True, frozen=True)
class Tables:
    """The statements that know a release's tables. All run with the search_path `public, webhookd`.

    count: the number of events.
    insert: events $1 to $2 of $3, from the oldest to the newest, over $4 days, with status $5 ('processed' or 'received').
    settle: ends all unfinished work.
    unsent: whether the send of an event is not recorded yet.
    parents: the tables that are partitioned by week.
    partitions: the names of their partitions.
    make_partition: creates the partition of the table $1 for the week that begins at $2.
    """

    count: str
    insert: str
    settle: str
    unsent: str
    parents: tuple[str, str]
    partitions: str
    make_partition: str


# As in production, ids and content keys grow with time, and notification keys are random.
_MADE = f"""
WITH numbered AS (
    SELECT n, now() - interval '5 minutes' - (1 - n / $3::float8) * $4::float8 * interval '1 day' AS at
    FROM generate_series($1::bigint, $2::bigint) AS n
), made AS MATERIALIZED (
    SELECT n, at, gen_random_uuid()::text AS notification_id, at > now() - interval '{_DAYS_OF_BODIES} days' AS has_body,
        overlay(gen_random_uuid()::text PLACING left({{first_id}}(at)::text, 13) FROM 1 FOR 13)::uuid AS id
    FROM numbered
)"""
_BODY = """
    SELECT id, convert_to(format('{"notificationId":"%s","eventType":"net.authorize.payment.authcapture.created",'
        '"eventDate":"2026-01-01T00:00:00.0000000Z","webhookId":"e6b3764d-5677-4fb1-a929-2e25a02f3073","payload":'
        '{"responseCode":1,"authCode":"P1XHLC","avsResponse":"Y","authAmount":2.10,"entityName":"transaction","id":"%s"}}',
        notification_id, n), 'UTF8')
    FROM made WHERE has_body"""

_TEXTS = ("default", "net.authorize.payment.authcapture.created", "transaction", "a1b2c3d4e5f6")
_KIND = kind_id("\x1f".join(_TEXTS))

LEDGER = Tables(
    count="SELECT count(*) FROM ledger",
    insert=f"""{_MADE.format(first_id="webhookd.first_id")}, ledger AS (
    INSERT INTO ledger (id, notification_key, content_key, body_hash, received_at, event_date, kind, notification_id, entity_id)
    SELECT id, gen_random_uuid(),
        (lpad(to_hex(extract(epoch FROM at)::bigint), 8, '0') || left(md5(notification_id), 24))::uuid, gen_random_uuid(),
        at, at, {_KIND}, notification_id, n::text
    FROM made
), kinds AS (
    INSERT INTO kinds VALUES ({_KIND}, '{"', '".join(_TEXTS)}') ON CONFLICT DO NOTHING
), left_over AS (
    INSERT INTO work (event_id, consumer, status, due) SELECT id, 'handlers', $5, at FROM made WHERE $5::text <> 'processed'
), bodies AS (
    INSERT INTO bodies (event_id, body){_BODY}
)
INSERT INTO audit (event_id, at, from_status, to_status, actor, attempt)
SELECT id, at, 'received', 'processed', 'worker', 1 FROM made WHERE $5::text = 'processed'
""",
    settle="DELETE FROM work WHERE status IN ('received', 'queued')",
    unsent="SELECT EXISTS (SELECT FROM work WHERE status = 'received')",
    parents=("bodies", "audit"),
    partitions="SELECT child::text FROM webhookd.partitions",
    make_partition="CALL webhookd.make_partition($1, $2)",
)

# 0.2.0: an event is one row with its status, and each change of the status has a row in the audit trail.
EVENTS = Tables(
    count="SELECT count(*) FROM events",
    insert=f"""{_MADE.format(first_id="webhookd_first_id")}, events AS (
    INSERT INTO events (id, account, notification_id, event_type, status, attempts, received_at, event_date, entity_name,
        entity_id, key_fingerprint, content_hash, body_hash, sends, send_after, finished_at)
    SELECT id, 'default', notification_id, 'net.authorize.payment.authcapture.created', $5,
        CASE WHEN $5::text = 'processed' THEN 1 ELSE 0 END, at, at, 'transaction', n::text, 'a1b2c3d4e5f6',
        substring(int8send(extract(epoch FROM at)::bigint) FROM 4) || substring(sha256(notification_id::bytea) FROM 17),
        substring(sha256(notification_id::bytea) FROM 17), CASE WHEN $5::text = 'processed' THEN 1 ELSE 0 END, at,
        CASE WHEN $5::text = 'processed' THEN at END
    FROM made
), bodies AS (
    INSERT INTO event_bodies (event_id, body){_BODY}
)
INSERT INTO event_audit (event_id, at, from_status, to_status, actor)
SELECT id, at, NULL, 'received', 'receiver' FROM made
UNION ALL SELECT id, at, 'received', 'processed', 'worker' FROM made WHERE $5::text = 'processed'
""",
    settle="UPDATE events SET status = 'processed', finished_at = now() WHERE status IN ('received', 'queued')",
    unsent="SELECT EXISTS (SELECT FROM events WHERE status = 'received')",
    parents=("event_bodies", "event_audit"),
    partitions="SELECT child::text FROM webhookd_partitions",
    make_partition="CALL webhookd_make_partition($1, $2)",
)


def grow(database: str, tables: Tables, total: int, *, status: str = "processed") -> None:
    """Inserts events, with bodies and audit rows, until the database has `total` events.

    The new events have `status`. Processed events have ages spread over their retention; other events are minutes old.
    """
    asyncio.run(_grow(database, tables, total, status))


async def _grow(database: str, tables: Tables, total: int, status: str) -> None:
    connection = await connect(database)
    try:
        days = _DAYS if status == "processed" else 0
        if days:
            await _make_partitions(connection, tables)
        missing = total - await connection.fetchval(tables.count, timeout=3600)
        # The checkpoint at the end makes the events durable, and nothing is measured here.
        await connection.execute("SET synchronous_commit = off")
        for first in range(1, missing + 1, _BATCH):
            last = min(first + _BATCH - 1, missing)
            await connection.execute(tables.insert, first, last, missing, days, status, timeout=600)
            if last % (10 * _BATCH) == 0:
                print(f"{last:,} of {missing:,} events stored", file=sys.stderr)
        # Autovacuum would have done this in the time that so many events take to arrive.
        await connection.execute("VACUUM (ANALYZE)", timeout=3600)
        await connection.execute("CHECKPOINT", timeout=600)
    finally:
        await connection.close()


async def _make_partitions(connection: Connection, tables: Tables) -> None:
    """Creates the weekly partitions that an installation of this age would have."""
    have = {row[0] for row in await connection.fetch(tables.partitions)}
    today = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    monday = today - timedelta(days=today.weekday())
    for week in range(_DAYS // 7 + 1, -1, -1):
        first = monday - timedelta(weeks=week)
        for parent in tables.parents:
            if f"{parent}_{first:%Y%m%d}" not in have:
                await connection.execute(tables.make_partition, parent, first)


def disk_bytes(database: str, tables: Tables) -> float:
    """Returns the bytes of tables and indexes for each stored event, with all rows that belong to the events."""
    return asyncio.run(_disk_bytes(database, tables))


# pg_total_relation_size includes a table's indexes and TOAST. For a partitioned table it returns nothing: each partition is a
# table of its own.
_SIZE = """
SELECT sum(pg_total_relation_size(c.oid))
FROM pg_class c
WHERE c.relkind = 'r' AND c.relnamespace NOT IN ('pg_catalog'::regnamespace, 'information_schema'::regnamespace)
"""


async def _disk_bytes(database: str, tables: Tables) -> float:
    connection = await connect(database)
    try:
        return float(await connection.fetchval(_SIZE) / await connection.fetchval(tables.count, timeout=600))
    finally:
        await connection.close()


def settle(database: str, tables: Tables) -> None:
    """Ends the unfinished events. A later daemon would otherwise send them again during its measurement."""
    asyncio.run(_settle(database, tables))


async def _settle(database: str, tables: Tables) -> None:
    connection = await connect(database)
    try:
        await connection.execute(tables.settle, timeout=600)
        await connection.execute("CHECKPOINT", timeout=600)
    finally:
        await connection.close()
