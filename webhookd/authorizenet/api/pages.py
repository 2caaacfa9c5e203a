"""Reads all pages of a list of the JSON API. `offset` of this API is the page's number, from 1."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

from webhookd.authorizenet.api.errors import ListMovedError, UnreadableAnswerError
from webhookd.authorizenet.api.results import ListPage

MOST_PAGES = 100_000  # the schema allows no more

Page = Callable[[int], Awaitable[ListPage]]


async def read_pages(name: str, page: Page) -> AsyncIterator[Any]:
    """Yields the rows of all pages, each row once. `page(number)` gets one page; `name` names the call.

    The list ends when all rows of its total have come, or with a page without rows. A page can be shorter than asked, so its
    length tells nothing. Raises ListMovedError or UnreadableAnswerError rather than end a list that may lack rows.
    """
    seen: set[str] = set()
    total: int | None = None
    for number in range(1, MOST_PAGES + 1):
        found = await page(number)
        rows = {row.id: row for row in found.rows if row.id not in seen}
        # A total that is less than the rows of this page is wrong: then only a page without rows ends the list.
        counted = found.total if found.total is not None and found.total >= len({row.id for row in found.rows}) else None
        if total is not None and counted is not None and counted < total:
            raise ListMovedError(f"{name}: the list lost rows while it was read, so that others may be missing: read it again")
        total = counted if counted is not None else total
        for identifier, row in rows.items():
            seen.add(identifier)
            yield row
        if total is not None and len(seen) >= total:
            return
        if not found.rows and total is None:
            return
        if not found.rows:
            raise ListMovedError(f"{name}: the list has fewer rows than its total: read it again")
        if not rows:
            raise UnreadableAnswerError(f"{name}: page {number} brings only rows that came before, and is not the last")
    raise UnreadableAnswerError(f"{name}: the list has no end")
