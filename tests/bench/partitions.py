"""Compares a ledger that is partitioned by time, with its unique keys in a separate table, with the present ledger.

`python -m tests.bench.partitions` measures PostgreSQL's CPU time and WAL: for each inserted event, by turns, and for each
event that retention removes. Only ledger and keys are written: bodies, work and audit trail are the same in every shape.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeAlias
from uuid import UUID

import asyncpg

from tests.bench.meter import Meter
from tests.bench.releases import HERE
from tests.bench.scenarios import first_id
from tests.bench.servers import POSTGRESQL
from tests.helpers.database import connect
from webhookd.dev.servers import PostgresServer

_DAYS = 400  # days for which events are kept
_PARTS = 4  # number of partitions that the stored events fill; retention removes the oldest
_BATCH, _SESSIONS = 64, 3  # a receiver under load: events in a batch, and sessions that commit batches
_REMOVED = 1000  # events in one statement of retention
# Only the measured phases run: no vacuum and no checkpoint starts on its own.
_SETTINGS = POSTGRESQL | {"autovacuum": "off", "checkpoint_timeout": "1h", "max_wal_size": "20GB"}

_COLUMNS = """body_hash, received_at, event_date, kind, notification_id, entity_id, invoice_number, merchant_reference"""
_INCOMING = f"""
WITH incoming AS MATERIALIZED (
    SELECT *
    FROM unnest($1::uuid[], $2::uuid[], $3::uuid[], $4::uuid[], $5::timestamptz[], $5::timestamptz[], $6::bigint[], $7::text[],
        $8::text[], $9::text[], $10::text[])
        WITH ORDINALITY AS i (id, notification_key, content_key, {_COLUMNS}, position)
)"""


@dataclass(slots=True, frozen=True)
class Shape:
    """A shape of the ledger, in a PostgreSQL schema of its own.

    schema: the name of the PostgreSQL schema.
    what: the shape's name in the results.
    make: the statements that create the shape's tables.
    fill: the statements that store the rows of the table `stored`.
    insert: the statement that inserts one batch of new events.
    remove: removes up to $3 rows of events with ids above $1 and below $2, and returns the id of the last one.
    vacuumed: the table in which `remove` leaves dead rows.
    ages: the greatest and the least age, in days, of the events whose rows are removed one by one.
    partitions: whether the oldest partition is dropped, too.
    """

    schema: str
    what: str
    make: tuple[str, ...]
    fill: tuple[str, ...]
    insert: str
    remove: str
    vacuumed: str
    ages: tuple[float, float]
    partitions: bool


def _apart(schema: str, what: str, days: float, ages: tuple[float, float]) -> Shape:
    """Returns the shape with the ledger in partitions, and with the keys of the events of the last `days` in a separate table.

    Operators also search events by the notification's id. The table of keys serves this search if it has the keys of all
    events; otherwise an index of each partition does.
    """
    indexes = [] if days > _DAYS else [f"CREATE INDEX ON {schema}.ledger (notification_key)"]
    indexes += [
        f"CREATE INDEX ON {schema}.ledger ({column}, id) WHERE {column} IS NOT NULL"
        for column in ("entity_id", "invoice_number", "merchant_reference")
    ]
    return Shape(
        schema,
        what,
        make=(
            # The notification's key stays in the ledger. With it, retention finds the keys without an index on the event's id.
            f"CREATE TABLE {schema}.ledger (LIKE webhookd.ledger INCLUDING DEFAULTS, PRIMARY KEY (id)) PARTITION BY RANGE (id)",
            f"ALTER TABLE {schema}.ledger DROP COLUMN content_key",
            *indexes,
            f"CREATE TABLE {schema}.keys (notification_key uuid PRIMARY KEY, content_key uuid UNIQUE, event_id uuid NOT NULL)",
        ),
        fill=(
            f"""INSERT INTO {schema}.ledger (id, notification_key, {_COLUMNS})
            SELECT id, notification_key, {_COLUMNS} FROM stored""",
            f"""INSERT INTO {schema}.keys
            SELECT notification_key, content_key, id FROM stored WHERE received_at > now() - interval '{days} days'""",
        ),
        insert=f"""{_INCOMING}, keyed AS (
            INSERT INTO {schema}.keys (notification_key, content_key, event_id)
            SELECT notification_key, content_key, id FROM incoming ORDER BY position
            ON CONFLICT DO NOTHING
            RETURNING event_id
        ), inserted AS (
            INSERT INTO {schema}.ledger (id, notification_key, {_COLUMNS})
            SELECT id, notification_key, {_COLUMNS} FROM incoming JOIN keyed ON id = event_id ORDER BY position
        )
        SELECT count(*) FROM keyed""",
        remove=f"""
        WITH page AS MATERIALIZED (
            SELECT id, notification_key FROM {schema}.ledger WHERE id > $1 AND id < $2 ORDER BY id LIMIT $3
        ), gone AS (
            DELETE FROM {schema}.keys WHERE notification_key = ANY(ARRAY(SELECT notification_key FROM page))
        )
        SELECT id FROM page ORDER BY id DESC LIMIT 1""",
        vacuumed=f"{schema}.keys",
        ages=ages,
        partitions=True,
    )


WHOLE = Shape(
    "whole",
    "one table",
    make=("CREATE TABLE whole.ledger (LIKE webhookd.ledger INCLUDING ALL)",),
    fill=(
        f"""INSERT INTO whole.ledger (id, notification_key, content_key, {_COLUMNS})
        SELECT id, notification_key, content_key, {_COLUMNS} FROM stored""",
    ),
    insert=f"""{_INCOMING}, inserted AS (
        INSERT INTO whole.ledger (id, notification_key, content_key, {_COLUMNS})
        SELECT id, notification_key, content_key, {_COLUMNS} FROM incoming ORDER BY position
        ON CONFLICT DO NOTHING
        RETURNING id
    )
    SELECT count(*) FROM inserted""",
    remove="""
    WITH page AS MATERIALIZED (
        SELECT id FROM whole.ledger WHERE id > $1 AND id < $2 ORDER BY id LIMIT $3
    ), gone AS (
        DELETE FROM whole.ledger WHERE id = ANY(ARRAY(SELECT id FROM page))
    )
    SELECT id FROM page ORDER BY id DESC LIMIT 1""",
    vacuumed="whole.ledger",
    ages=(_DAYS, _DAYS - _DAYS / _PARTS),
    partitions=False,
)
# A webhook is quarantined if its eventDate is over 14 days old; the date may be a day ahead. Older keys decide nothing.
_WINDOW = 15.0
SHAPES = (
    WHOLE,
    _apart("apart", "partitions, all keys", _DAYS + 1, WHOLE.ages),
    _apart("recent", "partitions, keys of 15 days", _WINDOW, (_WINDOW, _WINDOW / 2)),
)

# {count} events, spread over the time that events are kept, the oldest first.
_STORED = f"""
CREATE TABLE stored AS
SELECT
    overlay(gen_random_uuid()::text PLACING left(webhookd.first_id(at)::text, 13) FROM 1 FOR 13)::uuid AS id,
    gen_random_uuid() AS notification_key,
    (lpad(to_hex(extract(epoch FROM at)::bigint), 8, '0') || left(md5(n::text), 24))::uuid AS content_key,
    gen_random_uuid() AS body_hash, at AS received_at, at AS event_date, 1::bigint AS kind,
    gen_random_uuid()::text AS notification_id, (60000000000 + n)::text AS entity_id,
    CASE WHEN n % 10 < 6 THEN 'INV-' || n END AS invoice_number, CASE WHEN n % 10 < 3 THEN 'ref-' || n END AS merchant_reference
FROM generate_series(1, {{count}}::bigint) AS n,
    LATERAL (SELECT now() - interval '5 minutes' - (1 - n / {{count}}::float8) * interval '{_DAYS} days') AS a (at)
ORDER BY n
"""


Connection: TypeAlias = "asyncpg.Connection[asyncpg.Record]"
Figures = dict[str, dict[str, list[float]]]  # {"shape, phase": {figure: one number a round}}


class Weighing:
    """A comparison that fills the shapes, inserts into each by turns, and removes old events from each."""

    def __init__(self, server: PostgresServer, stored: int) -> None:
        self._server = server
        self._stored = stored
        self._filled_at = time.time()
        self._random = random.Random(1)
        self._numbers = itertools.count(stored + 1)
        self.figures: Figures = {}

    async def fill(self) -> None:
        """Creates the table `stored`, and from its rows the tables of every shape."""
        connection = await connect(self._server.url)
        try:
            await connection.execute("SET synchronous_commit = off")
            await connection.execute(_STORED.format(count=self._stored), timeout=3600)
            for shape in SHAPES:
                await connection.execute(f"CREATE SCHEMA {shape.schema}")
                for statement in shape.make:
                    await connection.execute(statement)
                if shape.partitions:
                    await self._partition(connection, shape)
                for statement in shape.fill:
                    await connection.execute(statement, timeout=3600)
                print(f"{shape.what}: {self._stored:,} events stored", file=sys.stderr)
            await connection.execute("VACUUM (ANALYZE)", timeout=3600)
        finally:
            await connection.close()

    async def _partition(self, connection: Connection, shape: Shape) -> None:
        ends = [f"'{self._id_of_age(_DAYS * (1 - part / _PARTS))}'" for part in range(1, _PARTS + 1)]
        for part, (low, high) in enumerate(itertools.pairwise(["MINVALUE", *ends, "MAXVALUE"])):
            made = f"CREATE TABLE {shape.schema}.ledger_{part} PARTITION OF {shape.schema}.ledger"
            await connection.execute(f"{made} FOR VALUES FROM ({low}) TO ({high})")

    def _id_of_age(self, days: float) -> UUID:
        return first_id(self._filled_at - days * 86_400)

    def insert(self, shape: Shape, cold: int, warm: int) -> None:
        """Measures `cold` inserts just after a checkpoint, and then `warm` inserts after as many unmeasured ones."""
        self._measured(
            f"{shape.what}, insert just after a checkpoint", cold, lambda: self._insert(shape, cold), checkpoint=True
        )
        asyncio.run(self._insert(shape, warm))
        self._measured(f"{shape.what}, insert", warm, lambda: self._insert(shape, warm), checkpoint=False)

    def remove(self, shape: Shape) -> None:
        """Measures the removal of old events, and the vacuum afterwards."""
        asyncio.run(self._execute(f"VACUUM {shape.vacuumed}"))  # the measured vacuum is not to do the work of the inserts
        low, high = map(self._id_of_age, shape.ages)
        count = round(self._stored * (shape.ages[0] - shape.ages[1]) / _DAYS)
        self._measured(f"{shape.what}, remove", count, lambda: self._remove(shape, low, high), checkpoint=True)
        self._measured(f"{shape.what}, vacuum", count, lambda: self._execute(f"VACUUM {shape.vacuumed}"), checkpoint=False)
        if shape.partitions:
            drop = f"DROP TABLE {shape.schema}.ledger_0"
            self._measured(f"{shape.what}, drop", self._stored // _PARTS, lambda: self._execute(drop), checkpoint=False)

    def _measured(self, name: str, count: int, work: Callable[[], Any], *, checkpoint: bool) -> None:
        started = time.perf_counter()
        with Meter(self._server, self._server.url, checkpoint=checkpoint) as meter:
            asyncio.run(work())
        figures = meter.per_event(count)
        told = self.figures.setdefault(name, {})
        for figure in ("pg_cpu_us", "wal_bytes"):
            told.setdefault(figure, []).append(figures[figure])
        shown = f"{figures['pg_cpu_us']:.1f} µs, {figures['wal_bytes']:.0f} bytes of WAL"
        print(f"{name}: {shown} an event, {count:,} events, {time.perf_counter() - started:.1f} s", file=sys.stderr)

    async def _insert(self, shape: Shape, count: int) -> None:
        batches = self._batches(count)

        async def session() -> None:
            connection = await connect(self._server.url)
            try:
                statement = await connection.prepare(shape.insert)
                for batch in batches:
                    assert await statement.fetchval(*batch) == len(batch[0])
            finally:
                await connection.close()

        await asyncio.gather(*(session() for _ in range(_SESSIONS)))

    def _batches(self, count: int) -> Iterator[tuple[list[Any], ...]]:
        draw = self._random.getrandbits
        for first in range(0, count, _BATCH):
            numbers = list(itertools.islice(self._numbers, min(_BATCH, count - first)))
            now = time.time()
            yield (
                [UUID(int=int(now * 1000) << 80 | draw(76)) for _ in numbers],
                [UUID(int=draw(128)) for _ in numbers],
                [UUID(int=int(now) << 96 | draw(96)) for _ in numbers],
                [UUID(int=draw(128)) for _ in numbers],
                [datetime.fromtimestamp(now, UTC)] * len(numbers),
                [1] * len(numbers),
                [str(UUID(int=draw(128))) for _ in numbers],
                [str(60_000_000_000 + number) for number in numbers],
                [f"INV-{number}" if number % 10 < 6 else None for number in numbers],
                [f"ref-{number}" if number % 10 < 3 else None for number in numbers],
            )

    async def _remove(self, shape: Shape, low: UUID, high: UUID) -> None:
        connection = await connect(self._server.url)
        try:
            place: UUID | None = low
            while place is not None:
                place = await connection.fetchval(shape.remove, place, high, _REMOVED)
        finally:
            await connection.close()

    async def _execute(self, statement: str) -> None:
        connection = await connect(self._server.url)
        try:
            await connection.execute(statement, timeout=3600)
        finally:
            await connection.close()


def _shown(figures: Figures) -> str:
    """Returns a table of medians in Markdown."""
    lines = ["| an event | CPU, µs | WAL, bytes |", "|---|---|---|"]
    for name, told in figures.items():
        medians = (statistics.median(told[figure]) for figure in ("pg_cpu_us", "wal_bytes"))
        lines.append(f"| {name} | {' | '.join(f'{median:,.1f}' for median in medians)} |")
    return "\n".join(lines)


def main() -> int:
    """Runs the comparison and prints the medians."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.partitions", description=__doc__)
    parser.add_argument("--stored", type=int, default=2_000_000, help="events stored before the run (default: 2000000)")
    parser.add_argument("--count", type=int, default=60_000, help="number of events that a phase inserts (default: 60000)")
    parser.add_argument("--rounds", type=int, default=3, help="number of rounds of inserts (default: 3)")
    parser.add_argument("--json", action="store_true", help="print JSON instead of the table")
    given = parser.parse_args()
    with (
        tempfile.TemporaryDirectory(prefix="webhookd-bench-") as folder,
        PostgresServer(Path(folder), settings=_SETTINGS) as server,
    ):
        HERE.run("migrate", DATABASE_URL=server.url)
        weighing = Weighing(server, given.stored)
        asyncio.run(weighing.fill())
        for _ in range(given.rounds):
            for shape in SHAPES:
                weighing.insert(shape, given.count // 3, given.count)
        for shape in SHAPES:
            weighing.remove(shape)
    print(json.dumps(weighing.figures) if given.json else _shown(weighing.figures))
    return 0


if __name__ == "__main__":
    sys.exit(main())
