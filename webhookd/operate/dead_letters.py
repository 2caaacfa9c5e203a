"""Dead events: the filter, the list, and how an operation chooses them.

This module uses PostgreSQL only. A redriven event takes the way of every event, through the outbox. The daemons remove
the event's copy from the dead-letter queue, as they do for a discarded event. Each statement looks at a bounded number of
events.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import asyncpg

from webhookd.operate.cursor import START, Cursor
from webhookd.operate.filter import patterns
from webhookd.operate.operator_queries import OperatorQueries
from webhookd.operate.search import Page, Rows, ask, page_of
from webhookd.store.pools import Connection
from webhookd.store.queries import queries

_EARLIEST = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(slots=True, frozen=True)
class DeadEventFilter:
    """A filter of dead events; None stands for any.

    event_types: names, in which `*` stands for any text and `net.authorize.` may be left out.
    reason: a part of the reason or of the last error.
    since, until: bounds of the time of death.
    discarded: chooses discarded events, instead of events that were not discarded.
    """

    event_types: tuple[str, ...] | None = None
    account: str | None = None
    reason: str | None = None
    since: datetime | None = None
    until: datetime | None = None
    discarded: bool = False

    @property
    def filters(self) -> dict[str, Any]:
        """Returns the filters as the queries take them."""
        return {"event_types": patterns(self.event_types), "account": self.account, "reason": self.reason}


async def search_dead(statements: OperatorQueries, dead: DeadEventFilter, cursor: Cursor, limit: int) -> Page:
    """Returns a page of at most `limit` dead events from `cursor` on, newest death first."""
    if dead.until is not None and dead.until < cursor.at:
        cursor = Cursor(dead.until, START.id)

    async def search(cursor: Cursor, looked: int, limit: int) -> Rows:
        return await ask(
            statements.all_in_order,
            queries.search_dead,
            discarded=dead.discarded,
            before=cursor.at,
            below=cursor.id,
            since=dead.since or _EARLIEST,
            looked=looked,
            limit=limit,
            **dead.filters,
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
    if dead.since is not None and dead.since > cursor.at:
        after |= {"after_death": dead.since, "after_id": UUID(int=0)}
    if dead.until is not None:
        until = min(until, dead.until)
    looked_at = [row async for row in queries.choose_dead(connection, until=until, looked=looked, **dead.filters, **after)]
    rows = [row for row in looked_at if row["id"] is not None]
    if len(rows) == limit:
        return rows, _by_death(rows[-1])
    return rows, None if looked_at[0]["last_id"] is None else Cursor(looked_at[0]["last_at"], looked_at[0]["last_id"])
