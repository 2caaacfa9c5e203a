"""A search in bounded steps: what one statement looks at, and how many statements a page may take."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import asyncpg

from webhookd.operate.place import Place

_LOOKED = (250, 1000, 2000, 2000, 2000, 2000)  # events that a search looks at, at most, one statement after the other
_BUDGET = 0.02  # seconds that the statements of a page may take together

Rows = tuple[list[asyncpg.Record], Place | None]
Search = Callable[[Place, int, int], Awaitable[Rows]]  # from a place on, looking at so many, returning so many at most


@dataclass(slots=True, frozen=True)
class Page:
    """Rows of events; `next` is where the next page begins, None at the end. `searched_to`: how far back it looked."""

    rows: list[asyncpg.Record]
    next: Place | None
    searched_to: datetime | None


async def page_of(search: Search, place_of: Callable[[asyncpg.Record], Place], place: Place, limit: int) -> Page:
    """A page of at most `limit` rows from `place` on; it ends early when enough events were looked at for one call."""
    rows: list[asyncpg.Record] = []
    # Where nothing is filtered out, a page is as long as what it looks at.
    looked = limit + 1
    looks = iter(_LOOKED)
    last: Place | None = place
    end = time.perf_counter() + _BUDGET
    while True:
        begun = time.perf_counter()
        found, last = await search(place, looked, limit + 1 - len(rows))
        rows += found
        if last is None or len(rows) > limit:
            break
        # As many as fit into the time that is left, at the pace of this statement. An event that is read from disk takes many
        # times as long as one in memory, and a busy machine is slow at both.
        now = time.perf_counter()
        looked = min(next(looks, 0), int(looked * (end - now) / max(now - begun, 1e-6)))
        if looked <= 0:
            break
        place = last
    if len(rows) > limit:
        rows = rows[:limit]
        last = place_of(rows[-1])
    return Page(rows, last, None if last is None else last.at)


async def ask(run: Callable[..., Awaitable[list[asyncpg.Record]]], query: Any, **parameters: Any) -> Rows:
    """The rows that a statement chose, and the place that it looked at last; None at the end."""
    found = await run(query, **parameters)
    last = None if found[0]["last_id"] is None else Place(found[0]["last_at"], found[0]["last_id"])
    return [row for row in found if row["id"] is not None], last
