"""Partitions for events of the past, which an import stores. Retention makes partitions from the present week on."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence
from datetime import datetime

import asyncpg

from webhookd.errors import UnavailableError
from webhookd.store.database import Database
from webhookd.store.failures import gateway
from webhookd.store.queries import queries

_TRIES = 10
_PAUSE_SECONDS = 0.5  # between two tries, sessions that wait behind the lock go on


# The table is busy, or another process makes a partition at the same time: both lock the default partition, and both add and
# drop the constraint on it.
_MEANWHILE = (
    asyncpg.LockNotAvailableError,
    asyncpg.DeadlockDetectedError,
    asyncpg.DuplicateTableError,
    asyncpg.DuplicateObjectError,
    asyncpg.UndefinedObjectError,
    asyncpg.CheckViolationError,
)


async def make_past_partitions(database: Database, parent: str, instants: Sequence[datetime]) -> None:
    """Makes the missing partitions of `parent` (bodies, audit) for the weeks of `instants`.

    No webhook waits for a partition of a week that is over, unless rows of the week are in the default partition: then for
    300 ms at most. Raises UnavailableError if the table is too busy.
    """
    for _ in range(_TRIES):
        with gateway():
            async with database.acquire("upkeep") as connection:
                missing = [
                    row["first"] async for row in queries.weeks_without_partition(connection, parent=parent, instants=instants)
                ]
                if not missing:
                    return
                try:
                    for first in missing:
                        await queries.make_partition(connection, parent=parent, first=first)
                except _MEANWHILE:
                    pass
                else:
                    return
        await asyncio.sleep(_PAUSE_SECONDS * random.uniform(0.5, 1.5))  # two processes shall not meet again and again
    raise UnavailableError("postgresql", f"a partition of the table {parent} could not be made, since the table is busy")
