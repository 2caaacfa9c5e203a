"""New events as they arrive: the client asks the API for the latest events again and again."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator
from datetime import datetime, timedelta
from typing import Any

from webhookd.cli.operator.api import Api, Json
from webhookd.cli.operator.failures import ApiError, Exit
from webhookd.cli.operator.options import iso
from webhookd.cli.operator.screen import instant
from webhookd.runtime.console import err

PAUSE = 1.0  # seconds between two looks
MOST_PAGES = 20  # pages that `tail` searches for its first events: the last event of a rare kind may be far back
# An event's time is its receipt, but its commit makes it visible: each look reaches so far back behind the look before.
OVERLAP = timedelta(seconds=15)


async def follow(api: Api, last: int, *, most_pages: int | None = MOST_PAGES, **query: Any) -> AsyncGenerator[Json, None]:
    """Yields the `last` newest events, then each new event once, for ever. The events of a look are in the order of receipt.

    Times are by the server's clock. Raises ApiError if the API is away at first; later, waits until the API is back.

    most_pages: how many pages are searched for the `last` events; None searches all. Says so if a search ends earlier.
    """
    seen: dict[str, Json] = {}
    looks, since = 0, api.clock
    page: deque[Json] = deque(maxlen=1)
    async for events, more in api.pages("events", key="events", limit=max(last, 1), told=page.append, **query):
        looks += 1
        since = since if looks > 1 else api.clock - OVERLAP
        seen.update((event["id"], event) for event in events)
        if looks == most_pages:
            if more and len(seen) < last:
                _note(f"searched back to {instant(page[0]['searched_to'])}: found {len(seen)} of the last {last} events")
            break
    else:
        if more and most_pages is None:
            _note(f"begins with the newest {last} events that match, and leaves out older ones")
    first, away = True, False
    while True:
        found: dict[str, Json] = {}
        try:
            looked_at = None
            async for events, _ in api.pages("events", key="events", **{**query, "received_from": iso(since)}):
                looked_at = looked_at or api.clock
                found.update((event["id"], event) for event in events)
        except ApiError as error:
            if first or error.exit_code is not Exit.UNAVAILABLE:
                raise
            if not away:
                _note(f"{error}; waiting for it")
            away = True
        else:
            away = False
            fresh = {**seen, **found} if first else {id_: event for id_, event in found.items() if id_ not in seen}
            ordered = sorted(fresh.values(), key=lambda event: (datetime.fromisoformat(event["received_at"]), event["id"]))
            for event in ordered[max(len(ordered) - last, 0) :] if first else ordered:
                yield event
            # Later looks reach back to `since` at most, so only events that this look found can come again.
            seen, first = {**seen, **found} if first else found, False
            since = max(since, (looked_at or api.clock) - OVERLAP)
        await asyncio.sleep(PAUSE)


def _note(text: str) -> None:
    err.print(text, markup=False, highlight=False, soft_wrap=True)
