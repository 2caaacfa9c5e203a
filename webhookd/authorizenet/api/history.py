"""Reads the provider's history of some days. The list may be clamped, unordered, and may move while it is read.

`offset` of this list counts rows from 0. (The JSON API's `paging.offset` counts pages from 1, and shares no code with this.)
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import datetime
from typing import NamedTuple

from webhookd.authorizenet.api.results import History, HistoryPage, HistoryRow

LIMIT = 1000  # rows that each call asks for; the server may give fewer
_FEW = 20  # rows; a shorter first page ends a quick look, and needs no second pass. It saves calls, and proves nothing
_TRUSTED = 5  # quick looks in a row that end at a page because an empty one followed it before: about an hour
_MOST_PASSES = 5
_MOST_UNREADABLE = 10_000  # rows of a pass
_MOST_PAGES = 10_000  # of a pass
_EMPTY = HistoryPage(())

Page = Callable[[int, int], Awaitable[HistoryPage]]


class _Pass(NamedTuple):
    """One pass: the number of rows that cannot be read, and of pages with rows. `ended`: the pass came to the list's end."""

    rows: dict[str, HistoryRow]
    unreadable: int
    pages: int
    ended: bool


class HistoryReader:
    """Reads lists of one account's history. It remembers which pages were, and were not, followed by another."""

    def __init__(self) -> None:
        self._full = 0  # rows of the shortest page that another page followed; 0: none was
        self._longest = 0  # rows of the longest page: the server gives pages of this size
        self._whole: tuple[frozenset[str], int] | None = None  # a first page that an empty one followed: its rows, as in _Pass
        self._trusted = 0  # quick looks that ended at that page since
        self._has_proof = False

    async def read(self, page: Page, young_from: datetime, *, thorough: bool = True) -> History:
        """Returns the rows of all pages, each once.

        page: `page(offset, limit)` gets one page.
        young_from: rows from this time on are returned, but a difference in them between two passes does not count.
        thorough: reads until no page follows and two passes agree, or five passes are over. Only such a list can be complete.
            One short page with an empty page after it needs no second pass. Without `thorough`, one pass ends at a
            page that is likely the last (see `_is_last`). The first read is always thorough.
        """
        thorough = thorough or not self._has_proof
        last = await self._pass(page, thorough=thorough)
        found, unreadable = dict(last.rows), last.unreadable
        if not thorough:
            return History(tuple(found.values()), False, unreadable)
        if last.ended and last.pages == 1 and len(last.rows) + unreadable < _FEW:
            self._has_proof = True
            return History(tuple(found.values()), True, unreadable)
        for _ in range(_MOST_PASSES - 1):
            before, last = last, await self._pass(page, thorough=True)
            found |= last.rows
            unreadable = max(unreadable, last.unreadable)
            changed = [found[name].event_date for name in before.rows.keys() ^ last.rows.keys()]
            days = {at and at.date() for at in changed if at is None or at < young_from}
            complete = before.ended and last.ended and None not in days
            if complete and not days:
                break
        self._has_proof = self._has_proof or complete
        return History(tuple(found.values()), complete, unreadable, frozenset(day for day in days if day))

    async def _pass(self, page: Page, *, thorough: bool) -> _Pass:
        """Reads the list once, from its beginning.

        The next offset follows from the number of rows received, not from the number asked: the server may clamp pages.
        """
        rows: dict[str, HistoryRow] = {}
        offset = unreadable = size = first = 0
        for pages in range(_MOST_PAGES):
            got = await page(offset, LIMIT)
            if pages > 1 and got == _EMPTY:
                got = await page(offset, LIMIT)  # one mistake must not spoil a long pass
            if got == _EMPTY:
                if pages == 1:
                    self._whole, self._trusted = (frozenset(rows), unreadable), 0
                return _Pass(rows, unreadable, pages, True)
            if pages and thorough:
                self._full = min(self._full or size, size)  # the size of the page before
            is_new = any(row.notification_id not in rows for row in got.rows)
            rows |= {row.notification_id: row for row in got.rows}
            unreadable += got.unreadable
            size = len(got.rows) + got.unreadable
            offset += size
            first = first or size
            self._longest = max(self._longest, size)
            if pages and not is_new and (got.rows or unreadable > _MOST_UNREADABLE):
                # Rows that new ones moved to the end; or a server that ignores the offset, and gives the same page for ever.
                return _Pass(rows, unreadable, pages + 1, size < first)
            if not thorough and self._is_last(size, None if pages else (frozenset(rows), unreadable)):
                return _Pass(rows, unreadable, pages + 1, False)
        return _Pass(rows, unreadable, _MOST_PAGES, False)

    def _is_last(self, size: int, first: tuple[frozenset[str], int] | None) -> bool:
        """Returns whether a page is likely the list's last. `first`: the page's rows, as in _Pass, if it is the first page.

        It is, if it is shorter than any that was followed by another. If none was, it is if it is shorter than the server's
        pages can be, or the same page that an empty one followed a short time ago. A mistake lasts until a thorough look.
        """
        if self._full:
            return size < self._full
        if size < max(_FEW, self._longest):
            return True
        if first is None or first != self._whole or self._trusted >= _TRUSTED:
            return False
        self._trusted += 1
        return True
