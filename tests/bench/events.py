"""Loads the data of a busy installation of 60 days: events of every type, in every state, with the rows that belong to them.

Only the newest 100,000 events have bodies and audit rows. Hashes of an event's number decide everything. So two runs with the
same count store the same data, except for times and ids, which contain times.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import time
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import TypeAlias

import asyncpg

from tests.helpers.database import connect
from tests.helpers.stored import KIND
from webhookd.authorizenet.notification import EVENT_TYPES

DAYS = 60
_BATCH = 50_000
_WITH_BODIES = 100_000  # number of the newest events that have a body and audit rows
# Weights per mille of the events, in the order of EVENT_TYPES.
_WEIGHTS = (150, 380, 40, 110, 30, 20, 10, 5, 3, 60, 30, 5, 60, 20, 5, 20, 20, 3, 2, 8, 10, 8, 1)
RARE_TYPE = EVENT_TYPES[-1]
RARE_ACCOUNT = "seldom"
CLOSED_ACCOUNT = "closed"  # an account that has events only at the very beginning
_DIED = (
    ("the handlers gave up: attempts spent", "ledger.post: HTTPStatusError: 503 Service Unavailable from ledger.internal"),
    ("the handlers gave up: attempts spent", "mail.receipt: SMTPServerDisconnected: Connection unexpectedly closed"),
    ("the handlers gave up: permanent", "orders.capture: OrderNotFound: there is no order with this transaction"),
    ("the handlers gave up: permanent", "crm.sync: ValidationError: merchantCustomerId is not known"),
    ("the queue gave up: redrive policy", None),
)

# The same key as `webhookd.store.keys` makes.
_KEY = """(left(encode(sha256(convert_to(md5('n' || n)::uuid::text, 'UTF8')), 'hex'), 16)
        || left(encode(sha256(convert_to(account || chr(31) || md5('n' || n)::uuid::text, 'UTF8')), 'hex'), 16))"""
_KIND = KIND.format(account="account", event_type="event_type", entity_name="entity_name", key_fingerprint="'a1b2c3d4'")

# $1 to $2: the numbers of the events in this batch; $3: the count of all events; $4: now; $5: 1,000 event types, one for each
# per mille of the events; $6: the first number that has a body and audit rows; $7, $8: the reasons and error texts of _DIED.
_LOAD = f"""
WITH numbered AS (
    SELECT n, $3::bigint - n AS to_come, $4::timestamptz - (1 - n / $3::float8) * interval '{DAYS} days' AS received_at,
        ($5::text[])[1 + (hashint8extended(n, 1) & 1048575) % 1000] AS event_type,
        hashint8extended(n, 2) & 1048575 AS h2, hashint8extended(n, 3) & 1048575 AS h3,
        hashint8extended(n, 4) & 1048575 AS h4, hashint8extended(n, 5) & 1048575 AS h5, md5(n::text) AS digits
    FROM generate_series($1::bigint, $2::bigint) AS n
), placed AS (
    SELECT *,
        (lpad(to_hex(floor(extract(epoch FROM received_at) * 1000)::bigint), 12, '0') || '7' || left(digits, 3) || '8'
            || substr(digits, 4, 15))::uuid AS id,
        CASE
            WHEN n <= $3 / 1000 THEN '{CLOSED_ACCOUNT}' WHEN n % 100000 = 77777 % $3 THEN '{RARE_ACCOUNT}'
            WHEN h2 % 100 < 90 THEN 'default' WHEN h2 % 100 < 97 THEN 'shop' ELSE 'travel'
        END AS account,
        CASE
            WHEN event_type LIKE '%.payment.%' THEN 'transaction'
            WHEN event_type LIKE '%.subscription.%' THEN 'subscription'
            WHEN event_type LIKE '%.paymentProfile.%' THEN 'customerPaymentProfile'
            ELSE 'customerProfile'
        END AS entity_name,
        -- Some entities have several events, spread over the length of the entity's story.
        CASE
            WHEN event_type LIKE '%.payment.%' THEN (n - h3 % 5000) / 4 ELSE (n - h3 % 200000) / 60
        END + 1000000 AS entity,
        CASE
            WHEN to_come < $3 / 5000 THEN 'received' WHEN to_come < $3 * 3 / 5000 THEN 'queued'
            WHEN to_come < $3 / 20 AND h4 % 1000 = 1 THEN 'retrying'
            WHEN h5 % 4000 = 3 THEN (ARRAY['received', 'queued', 'retrying'])[1 + n % 3]
            WHEN h4 % 200 = 0 THEN 'dead'
            ELSE 'processed'
        END AS status,
        to_come >= $3 / 20 AND h5 % 4000 = 3 AS put_back,
        h5 % 100 = 7 AS once_put_back
    FROM numbered
), made AS MATERIALIZED (
    SELECT *,
        CASE entity_name
            WHEN 'transaction' THEN (60000000000 + entity)::text WHEN 'subscription' THEN (4400000 + entity)::text
            ELSE (1800000000 + entity)::text
        END AS entity_id,
        CASE status
            WHEN 'processed' THEN received_at + CASE WHEN once_put_back THEN interval '2 hours' ELSE interval '0' END
                + h2 % 2000 * interval '1 ms'
            WHEN 'dead' THEN received_at + interval '1 hour' + h2 % 82800 * interval '1 second'
        END AS ended,
        ($7::text[])[1 + n % {len(_DIED)}] AS reason, ($8::text[])[1 + n % {len(_DIED)}] AS words
    FROM placed
), stored AS (
    INSERT INTO ledger (id, notification_key, content_key, body_hash, received_at, event_date, kind, notification_id,
        entity_id, invoice_number, merchant_reference)
    -- The keys are as in production: the notification's key is random, the content's key begins with the date.
    SELECT id, {_KEY}::uuid,
        (lpad(to_hex(floor(extract(epoch FROM received_at))::bigint), 8, '0') || left(md5('c' || n), 24))::uuid,
        md5('b' || n)::uuid, received_at, received_at - h2 % 3000 * interval '1 ms', {_KIND}, md5('n' || n)::uuid::text,
        entity_id,
        CASE WHEN entity_name = 'transaction' AND entity % 10 < 6 THEN 'INV-' || entity END,
        CASE WHEN entity_name = 'transaction' AND entity % 10 < 3 THEN 'ref-' || entity END
    FROM made
), kinds AS (
    INSERT INTO kinds (id, account, event_type, entity_name, key_fingerprint)
    SELECT DISTINCT {_KIND}, account, event_type, entity_name, 'a1b2c3d4' FROM made
    ON CONFLICT DO NOTHING
), left_over AS (
    INSERT INTO work (event_id, consumer, status, attempts, sends, since, due, fresh, last_error, dead_reason, copy_sent_at,
        redriven_at, discarded_at)
    SELECT id, 'handlers', CASE WHEN status = 'dead' AND h2 % 10 = 0 THEN 'discarded' ELSE status END,
        CASE status WHEN 'dead' THEN 9 WHEN 'retrying' THEN 3 ELSE 0 END, 1, coalesce(again, received_at),
        -- No event is due during the measurement.
        CASE status WHEN 'dead' THEN least(ended, $4) ELSE $4::timestamptz + interval '30 days' END,
        status <> 'retrying' AND again IS NULL,
        CASE WHEN status IN ('dead', 'retrying') THEN words || repeat(' at /srv/app/handlers.py:120', 4) END,
        CASE status WHEN 'dead' THEN reason END, CASE status WHEN 'dead' THEN least(ended, $4) END, again,
        CASE WHEN status = 'dead' AND h2 % 10 = 0 THEN least(ended + interval '1 day', $4) END
    FROM made, LATERAL (SELECT CASE WHEN put_back THEN $4::timestamptz - h2 % 86400 * interval '1 second' END AS again) AS a
    WHERE status <> 'processed'
), bodies AS (
    INSERT INTO bodies (event_id, body)
    SELECT id, convert_to(format('{{"notificationId":"%s","eventType":"%s","eventDate":"2026-01-01T00:00:00.0000000Z",'
        '"webhookId":"e6b3764d-5677-4fb1-a929-2e25a02f3073","payload":{{"responseCode":1,"authCode":"P1XHLC",'
        '"avsResponse":"Y","authAmount":2.10,"entityName":"%s","id":"%s"}}}}', md5('n' || n), event_type, entity_name,
        entity_id), 'UTF8')
    FROM made WHERE n >= $6
), aliases AS (
    INSERT INTO notification_aliases (notification_key, event_id, body_hash, received_at, account, notification_id)
    SELECT md5('ak' || n)::uuid, id, md5('a' || n)::uuid, received_at, account, (md5('a' || n))::uuid::text
    FROM made WHERE h3 % 500 = 0
)
INSERT INTO audit (event_id, at, from_status, to_status, actor, attempt, reason)
SELECT id, received_at + attempt * interval '1 minute', CASE attempt WHEN 1 THEN 'queued' ELSE 'retrying' END, 'retrying',
    'worker', attempt, words
FROM made, generate_series(1, 8) AS attempt
WHERE n >= $6 AND (status = 'dead' OR (status = 'retrying' AND attempt <= 3))
UNION ALL
SELECT id, least(ended, $4), 'queued', status, 'worker', CASE status WHEN 'dead' THEN 9 ELSE 1 END,
    CASE status WHEN 'dead' THEN words END
FROM made WHERE n >= $6 AND status IN ('processed', 'dead')
"""

# $1: number of quarantined bodies; $2: now. Every fifth body waits for an operator.
_QUARANTINE = f"""
INSERT INTO quarantine (id, account, reason, detail, key_fingerprint, body, body_hash, received_at, times_received, handled_at,
    handled_by, outcome)
SELECT (lpad(to_hex(floor(extract(epoch FROM at) * 1000)::bigint), 12, '0') || '7' || left(md5(n::text), 3) || '8'
        || substr(md5(n::text), 4, 15))::uuid,
    CASE WHEN n % 10 < 9 THEN 'default' ELSE 'shop' END,
    (ARRAY['not_json', 'not_object', 'no_notification_id', 'no_event_type', 'unstorable', 'too_old',
        'in_the_future'])[1 + n % 7],
    'it cannot become an event', 'a1b2c3d4', convert_to(repeat(md5(n::text), 20), 'UTF8'), sha256(n::text::bytea), at,
    1 + n % 3,
    CASE WHEN n % 5 > 0 THEN at + interval '1 hour' END, CASE WHEN n % 5 > 0 THEN 'operator (ann)' END,
    CASE WHEN n % 5 > 0 THEN (ARRAY['released', 'discarded'])[1 + n % 2] END
FROM generate_series(1, $1::bigint) AS n,
    LATERAL (SELECT $2::timestamptz - (1 - n / $1::float8) * interval '{DAYS} days') AS a (at)
"""

_OPERATIONS = """
INSERT INTO operations (id, kind, state, dry_run, actor, reason, selection, rate, total, done, event_types, reasons, created_at,
    updated_at, finished_at)
SELECT (lpad(to_hex(floor(extract(epoch FROM at) * 1000)::bigint), 12, '0') || '7' || left(md5(n::text), 3) || '8'
        || substr(md5(n::text), 4, 15))::uuid,
    (ARRAY['replay', 'redrive', 'discard'])[1 + n % 3], 'done', n % 2 = 0, 'operator (ann)', 'the ledger is back',
    '{"event_type": ["payment.*"]}', 20, 100, 100, '{"net.authorize.payment.capture.created": 100}',
    '{"the handlers gave up: attempts spent": 100}', at, at, at
FROM generate_series(1, $1::bigint) AS n, LATERAL (SELECT $2::timestamptz - ($1 - n) * interval '1 hour') AS a (at)
"""

# The daemons' counts of each event type in each step of time. Each measure has a count in each step, as in an outage of a
# service that handlers call. $1: now; $2: event types.
_STEPS = """
(VALUES (10, 7200), (300, 172800), (3600, 1209600), (86400, 34560000)) AS s (step, age),
    generate_series(webhookd.step(step, $1::timestamptz - make_interval(secs => age)), $1, make_interval(secs => step)) AS at
"""
_STATISTICS = f"""
INSERT INTO statistics (step, at, measure, event_type, counts)
SELECT step, at, measure, event_type, ARRAY[1 + (hashtextextended(event_type, step) & 1023)]
FROM {_STEPS},
    unnest(ARRAY['received', 'processed', 'retried', 'dead']) AS measure, unnest($2::text[] || 'other'::text) AS event_type
UNION ALL
SELECT step, at, measure, '', ARRAY[3]
FROM {_STEPS},
    unnest(ARRAY['received', 'processed', 'retried', 'dead', 'duplicates', 'quarantined', 'refused']) AS measure
UNION ALL
SELECT step, at, measure, '', array_fill(7, ARRAY[16])
FROM {_STEPS},
    unnest(ARRAY['acknowledgement', 'end_to_end']) AS measure
"""
_GAUGES = f"""
INSERT INTO statistics_gauges (step, at, gauge, value)
SELECT step, at, gauge, 42
FROM {_STEPS},
    unnest(ARRAY['outbox', 'oldest_unfinished_seconds', 'main_visible', 'main_in_flight', 'main_delayed',
        'dead_letter_visible', 'dead_letter_in_flight', 'dead_letter_delayed']) AS gauge
"""

# The timeline of the entities of recent events. $1: events received before this time are left out.
_TIMELINE = """
INSERT INTO timeline (entity_name, account, entity_id, facts)
SELECT '{entity}', account, entity_id, jsonb_build_array(jsonb_build_array(0, 1, jsonb_build_object(
    '{state}', 'captured', 'first_event_at', at, 'last_event_at', at, 'last_event_type', 'net.authorize.payment.capture.created'
)))
FROM (
    SELECT account, entity_id, (max(extract(epoch FROM event_date)) * 1000000)::bigint::text AS at
    FROM events WHERE received_at >= $1 AND entity_name = '{entity}' GROUP BY account, entity_id
) AS e
"""


Connection: TypeAlias = "asyncpg.Connection[asyncpg.Record]"


def _silent(_: str) -> None:
    pass


async def load(url: str, count: int, tell: Callable[[str], None] = _silent) -> None:
    """Loads `count` events into a migrated database without events. `tell` receives a line of progress now and then."""
    connection = await connect(url)
    try:
        if await connection.fetchval("SELECT EXISTS (SELECT FROM events)"):
            raise RuntimeError("there are events in this database already; load into a fresh one")
        # This load is not measured. The checkpoint at its end makes it durable.
        await connection.execute("SET synchronous_commit = off")
        now: datetime = await connection.fetchval("SELECT now()")
        await _partitions(connection, now)
        await store(connection, count, now, tell)
        tell("statistics of 400 days")
        await record(connection, now)
        tell("vacuum")
        # Autovacuum would have done this in the time that so many events take to arrive.
        await connection.execute("VACUUM (ANALYZE)", timeout=3600)
        await connection.execute("CHECKPOINT", timeout=600)
    finally:
        await connection.close()


async def store(connection: Connection, count: int, now: datetime, tell: Callable[[str], None] = _silent) -> None:
    """Stores `count` events and the rows that belong to them."""
    types = [name for name, weight in zip(EVENT_TYPES, _WEIGHTS, strict=True) for _ in range(weight)]
    reasons, words = [reason for reason, _ in _DIED], [words for _, words in _DIED]
    started = time.monotonic()
    for first in range(1, count + 1, _BATCH):
        last = min(first + _BATCH - 1, count)
        bodies_from = count - _WITH_BODIES + 1
        await connection.execute(_LOAD, first, last, count, now, types, bodies_from, reasons, words, timeout=600)
        tell(f"{last:,} of {count:,} events, {last / (time.monotonic() - started):,.0f} a second")
    await connection.execute(_QUARANTINE, max(count // 300, 10), now, timeout=600)
    await connection.execute(_OPERATIONS, 500, now, timeout=600)
    since = now - timedelta(days=DAYS) * min(_WITH_BODIES / count, 1)
    for entity, state in (("transaction", "state"), ("subscription", "status")):
        timeline = _TIMELINE.format(entity=entity, state=state)
        await connection.execute(timeline, since, timeout=600)


async def record(connection: Connection, now: datetime) -> None:
    """Stores the statistics that the daemons of a busy installation would have written."""
    await connection.execute(_STATISTICS, now, list(EVENT_TYPES), timeout=600)
    await connection.execute(_GAUGES, now, timeout=600)


async def _partitions(connection: Connection, now: datetime) -> None:
    """Creates the weekly partitions that an installation of this age would have."""
    week = timedelta(days=7)
    monday = (now - timedelta(days=now.weekday())).replace(hour=0, minute=0, second=0, microsecond=0)
    have = {row["child"] for row in await connection.fetch("SELECT child::text FROM webhookd.partitions")}
    for back in range(DAYS // 7 + 1, -1, -1):
        first = monday - back * week
        for parent in ("bodies", "audit"):
            if f"{parent}_{first:%Y%m%d}" not in have:
                await connection.execute("CALL webhookd.make_partition($1, $2)", parent, first)


def main() -> int:
    """Loads the number of events that the command line gives."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.events", description=__doc__)
    parser.add_argument("database_url", help="URL of a fresh database on which `webhookd migrate` has run")
    parser.add_argument("--count", type=int, default=1_000_000, help="number of events (default: 1000000)")
    given = parser.parse_args()
    asyncio.run(load(given.database_url, given.count, lambda line: print(line, file=sys.stderr)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
