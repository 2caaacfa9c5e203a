"""Partitions for events of the past, which an import stores. Retention makes partitions from the present week on."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import datetime

import asyncpg

from webhookd.errors import UnavailableError
from webhookd.store.database import Database
from webhookd.store.failures import gateway
from webhookd.store.queries import queries

_TRIES = 10
_PAUSE_SECONDS = 0.5  # between two tries, sessions that wait behind the lock go on


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
                except (asyncpg.LockNotAvailableError, asyncpg.DuplicateTableError):  # busy, or another process makes it, too
                    pass
                else:
                    return
        await asyncio.sleep(_PAUSE_SECONDS)
    raise UnavailableError("postgresql", f"a partition of the table {parent} could not be made, since the table is busy")
