"""Turns: bound how many transactions with handlers a worker has open at a time, and let one run alone."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator


class Turns:
    """A number (`count`) of turns, given in the order in which they were asked for."""

    def __init__(self, count: int) -> None:
        self._count = count
        self._free = asyncio.Semaphore(count)
        self._alone = asyncio.Lock()  # lets one task at a time gather all turns: two such tasks would wait for each other

    def take(self, *, alone: bool) -> contextlib.AbstractAsyncContextManager[None]:
        """Returns a context that waits for a turn. `alone`: waits for all turns, so that nobody else has a turn meanwhile."""
        return self._take_all() if alone else self._free

    @contextlib.asynccontextmanager
    async def _take_all(self) -> AsyncIterator[None]:
        async with self._alone, contextlib.AsyncExitStack() as turns:
            for _ in range(self._count):
                await turns.enter_async_context(self._free)
            yield
