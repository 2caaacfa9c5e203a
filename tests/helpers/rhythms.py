"""Webhooks of merchants over weeks, as the table of counts has them."""

from __future__ import annotations

import random
from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import TypeAlias

import asyncpg

Connection: TypeAlias = "asyncpg.Connection[asyncpg.Record]"

_STORE = """
INSERT INTO alert_counts (measure, account, step, at, count, first_at, last_at, longest_gap)
SELECT 'authentic', $1, step, step(step, at), count(*), min(at), max(at), coalesce(max(gap), 0)
FROM (
    SELECT step, at, extract(epoch FROM at - lag(at) OVER (PARTITION BY step, step(step, at) ORDER BY at)) AS gap
    FROM unnest(ARRAY[60, 3600]) AS step, unnest($2::timestamptz[]) AS at
) AS each
GROUP BY step, step(step, at)
"""


def small_shop(start: datetime, end: datetime, seed: int = 1) -> Iterator[datetime]:
    """Yields the times of 20 webhooks a day between 8 and 20 o'clock, none at weekends."""
    chance = random.Random(seed)
    day = start.replace(hour=0, minute=0, second=0, microsecond=0)
    while day < end:
        if day.weekday() < 5:
            for second in sorted(chance.uniform(8 * 3600, 20 * 3600) for _ in range(20)):
                at = day + timedelta(seconds=second)
                if start <= at < end:
                    yield at
        day += timedelta(days=1)


def big_shop(start: datetime, end: datetime) -> Iterator[datetime]:
    """Yields times so dense that no report misses one: the counts of 50 webhooks a second look the same."""
    while start < end:
        yield start
        start += timedelta(seconds=20)


async def store_rhythm(connection: Connection, account: str, times: list[datetime]) -> None:
    """Puts these webhooks of an account in the place of all that are stored. Times later than now are an error."""
    await connection.execute("DELETE FROM alert_counts WHERE account = $1 AND measure = 'authentic'", account)
    await connection.execute(_STORE, account, times)
