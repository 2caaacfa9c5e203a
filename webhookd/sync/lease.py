"""The right to ask the provider for one account. One replica has it at a time."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Protocol

from webhookd.errors import LeaseEndedError, UnavailableError

_MARGIN = 1 / 9  # of the lease: the time for a call under way to end before another replica may begin


class Store(Protocol):
    """The leases of this replica, in PostgreSQL. Both methods raise UnavailableError."""

    async def hold(self, account: str, seconds: float, provider: str) -> bool:
        """Takes or keeps the lease of an account. Returns whether this replica has it now."""

    async def release(self, account: str) -> None:
        """Ends the lease, if this replica has it."""


class Lease:
    """The lease of one account, by PostgreSQL's clock.

    account, provider: the account, and the host of its API.
    seconds: the time after which another replica may take over, if this one does not renew the lease.
    """

    def __init__(self, store: Store, account: str, provider: str, seconds: float) -> None:
        self._store = store
        self._account = account
        self._provider = provider
        self._seconds = seconds
        self._until = 0.0  # by the event loop's clock
        self._running: set[asyncio.Timeout] = set()

    @property
    def held(self) -> bool:
        """Returns whether this replica may ask the provider now."""
        return asyncio.get_running_loop().time() < self._until

    async def renew(self) -> bool:
        """Takes or keeps the lease, and returns whether this replica has it.

        Raises UnavailableError. Then a lease that this replica has goes on to its end.
        """
        asked = asyncio.get_running_loop().time()  # PostgreSQL counts from a later moment
        held = await self._store.hold(self._account, self._seconds, self._provider)
        self._set(asked + self._seconds * (1 - _MARGIN) if held else 0.0)
        return held

    async def release(self) -> None:
        """Ends the lease, so that another replica takes over at once."""
        if self.held:
            self._set(0.0)
            with contextlib.suppress(UnavailableError):  # then the lease ends by itself
                await self._store.release(self._account)

    @contextlib.asynccontextmanager
    async def during(self) -> AsyncIterator[None]:
        """Runs a block while the lease lasts, however often it is renewed. If the lease ends first, cancels the block.

        Raises LeaseEndedError then. If the block itself raises LeaseEndedError, PostgreSQL has refused a write, and the lease
        ends at once, for all blocks.
        """
        limit = asyncio.timeout_at(self._until)
        try:
            async with limit:
                self._running.add(limit)
                try:
                    yield
                finally:
                    self._running.discard(limit)
        except LeaseEndedError:
            self._set(0.0)
            raise
        except TimeoutError:
            if limit.expired():
                raise LeaseEndedError from None
            raise

    def _set(self, until: float) -> None:
        self._until = until
        for limit in self._running:
            if not limit.expired():  # else its block is ending already
                limit.reschedule(until)
