"""An operator's statements, on connections of their own: a look at much never takes those that webhooks are committed by."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from typing import Any

import asyncpg

from webhookd.store.database import Connection, Database
from webhookd.store.failures import gateway


class Statements:
    """Runs named queries. All raise UnavailableError where PostgreSQL does not answer, or takes longer than 5 s."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def one(self, query: Any, **parameters: Any) -> Any:
        """The row or the value of a query that has one."""
        async with self.connection() as connection:
            return await query(connection, **parameters)

    async def all(self, query: Any, **parameters: Any) -> list[asyncpg.Record]:
        """The rows of a query."""
        async with self.connection() as connection:
            return [row async for row in query(connection, **parameters)]

    async def all_in_order(self, query: Any, **parameters: Any) -> list[asyncpg.Record]:
        """The rows of a query that is to read an index in its order, whatever PostgreSQL thinks of how few rows there are."""
        async with self.connection() as connection, self.settled(connection):
            return [row async for row in query(connection, **parameters)]

    def settled(self, connection: Connection) -> contextlib.AbstractAsyncContextManager[Any]:
        """A block in which the settings of an operator's session hold."""
        return self._database.settled(connection)

    @contextlib.asynccontextmanager
    async def connection(self) -> AsyncIterator[Connection]:
        """A connection for several statements."""
        with gateway():
            async with self._database.acquire("admin") as connection:
                yield connection
