"""A search in bounded steps: how many events one statement looks at, and how many statements a page may take."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import asyncpg

from webhookd.operate.cursor import Cursor

_LOOKED = (250, 1000, 2000, 2000, 2000, 2000)  # how many events each statement after the first looks at, at most
_BUDGET = 0.02  # seconds that the statements of a page may take together

Rows = tuple[list[asyncpg.Record], Cursor | None]
Search = Callable[[Cursor, int, int], Awaitable[Rows]]  # takes the cursor, how many to look at, and how many to return at most


@dataclass(slots=True, frozen=True)
class Page:
    """A page of rows. `next`: where the next page begins, None at the end. `searched_to`: how far back the search looked."""

    rows: list[asyncpg.Record]
    next: Cursor | None
    searched_to: datetime | None


async def page_of(search: Search, cursor_of: Callable[[asyncpg.Record], Cursor], cursor: Cursor, limit: int) -> Page:
    """Returns a page of at most `limit` rows from `cursor` on. The page ends early when a call has looked at enough events."""
    rows: list[asyncpg.Record] = []
    # If the filters leave nothing out, the first statement fills the page.
    looked = limit + 1
    looks = iter(_LOOKED)
    last: Cursor | None = cursor
    end = time.perf_counter() + _BUDGET
    while True:
        begun = time.perf_counter()
        matching, last = await search(cursor, looked, limit + 1 - len(rows))
        rows += matching
        if last is None or len(rows) > limit:
            break
        # Look at as many events as fit into the time that is left, at the pace of this statement. An event that is read from
        # disk takes many times as long as an event in memory, and a busy machine is slow at both.
        now = time.perf_counter()
        looked = min(next(looks, 0), int(looked * (end - now) / max(now - begun, 1e-6)))
        if looked <= 0:
            break
        cursor = last
    if len(rows) > limit:
        rows = rows[:limit]
        last = cursor_of(rows[-1])
    return Page(rows, last, None if last is None else last.at)


async def ask(run: Callable[..., Awaitable[list[asyncpg.Record]]], query: Any, **parameters: Any) -> Rows:
    """Returns the rows that a statement chose, and the cursor of the last row that it looked at; None at the end."""
    looked_at = await run(query, **parameters)
    last = None if looked_at[0]["last_id"] is None else Cursor(looked_at[0]["last_at"], looked_at[0]["last_id"])
    return [row for row in looked_at if row["id"] is not None], last
