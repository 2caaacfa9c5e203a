"""Reads the whole history of some days. The list may be clamped, unordered, and may move while it is read.

`offset` of this list counts rows from 0. (The JSON API's `paging.offset` counts pages from 1, and shares no code with this.)
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from webhookd.authorizenet.api.results import History, HistoryRow

LIMIT = 1000  # rows that each call asks for; the server may give fewer
_SURELY_LAST = 20  # rows; a page that is shorter ends the list, because no server is known to clamp pages to so few rows
_MOST_PASSES = 5
_MOST_PAGES = 10_000  # of a pass

Page = Callable[[int, int], Awaitable[tuple[HistoryRow, ...]]]


async def read_history(page: Page) -> History:
    """Returns the rows of all pages, each once. `page(offset, limit)` gets one page.

    New rows shift the pages while they are read, and may hide others. So a list of several pages is read again until a pass
    brings no new row. After five passes, the result is not settled.
    """
    found: dict[str, HistoryRow] = {}
    for _ in range(_MOST_PASSES):
        before = len(found)
        pages, whole = await _pass(page, found)
        if whole and (pages == 1 or len(found) == before):
            return History(tuple(found.values()), settled=True)
    return History(tuple(found.values()), settled=False)


async def _pass(page: Page, found: dict[str, HistoryRow]) -> tuple[int, bool]:
    """Reads the list once, from its beginning. Returns the number of pages with rows, and whether the end was reached.

    The next offset follows from the number of rows received, not from the number asked: the server may clamp pages.
    """
    offset, smallest = 0, 0
    seen: set[str] = set()
    for pages in range(1, _MOST_PAGES + 1):
        rows = await page(offset, LIMIT)
        ids = {row.notification_id for row in rows}
        for row in rows:
            found[row.notification_id] = row
        if len(rows) < max(_SURELY_LAST, smallest):
            return max(pages - (not rows), 1), True
        if ids <= seen:  # a server that ignores the offset would give the same page for ever
            return pages, False
        seen |= ids
        offset += len(rows)
        smallest = min(smallest or len(rows), len(rows))
    return _MOST_PAGES, False
