"""Dead events: the list, and how an operation chooses them.

This module uses PostgreSQL only. A redriven event takes the way of every event, through the outbox. The daemons remove
the event's copy from the dead-letter queue, as they do for a discarded event. Each statement looks at a bounded number of
events.
"""

from __future__ import annotations

from datetime import UTC, datetime
from uuid import UUID

import asyncpg

from webhookd.operate.cursor import START, Cursor
from webhookd.operate.filter import DeadEventFilter
from webhookd.operate.operator_queries import OperatorQueries
from webhookd.operate.search import Page, Rows, ask, page_of
from webhookd.store.pools import Connection
from webhookd.store.queries import queries

_EARLIEST = datetime(1970, 1, 1, tzinfo=UTC)


async def search_dead(
    statements: OperatorQueries, dead: DeadEventFilter, cursor: Cursor, limit: int, *, discarded: bool = False
) -> Page:
    """Returns a page of at most `limit` dead events from `cursor` on, newest death first.

    discarded: chooses discarded events, instead of events that were not discarded.
    """
    if dead.died_to is not None and dead.died_to < cursor.at:
        cursor = Cursor(dead.died_to, START.id)

    async def search(cursor: Cursor, looked: int, limit: int) -> Rows:
        return await ask(
            statements.all_in_order,
            queries.search_dead,
            discarded=discarded,
            before=cursor.at,
            below=cursor.id,
            since=dead.died_from or _EARLIEST,
            wanted=dead,
            looked=looked,
            limit=limit,
        )

    return await page_of(search, _by_death, cursor, limit)


def _by_death(row: asyncpg.Record) -> Cursor:
    return Cursor(row["finished_at"], row["id"])


async def choose_dead(
    connection: Connection, dead: DeadEventFilter | tuple[UUID, ...], until: datetime, cursor: Cursor, looked: int, limit: int
) -> Rows:
    """Returns a batch of dead events after `cursor`, oldest death first, and the next cursor, None at the end.

    `dead`: a filter, or ids. Deaths after `until` are not chosen. A choice by a filter looks at `looked` events at most.
    """
    after = {"after_death": cursor.at, "after_id": cursor.id, "limit": limit}
    if not isinstance(dead, DeadEventFilter):
        rows = [row async for row in queries.choose_dead_by_id(connection, ids=dead, until=until, **after)]
        return rows, _by_death(rows[-1]) if len(rows) == limit else None
    if dead.died_from is not None and dead.died_from > cursor.at:
        after |= {"after_death": dead.died_from, "after_id": UUID(int=0)}
    if dead.died_to is not None:
        until = min(until, dead.died_to)
    looked_at = [row async for row in queries.choose_dead(connection, until=until, looked=looked, wanted=dead, **after)]
    rows = [row for row in looked_at if row["id"] is not None]
    if len(rows) == limit:
        return rows, _by_death(rows[-1])
    return rows, None if looked_at[0]["last_id"] is None else Cursor(looked_at[0]["last_at"], looked_at[0]["last_id"])
