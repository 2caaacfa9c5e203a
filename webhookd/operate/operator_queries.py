"""An operator's statements, on connections of their own: a long query never takes the connections that commit webhooks."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from typing import Any

import asyncpg

from webhookd.store.database import Database
from webhookd.store.failures import gateway
from webhookd.store.pools import Connection


class OperatorQueries:
    """Runs operators' named queries. Each raises UnavailableError if PostgreSQL does not answer, or takes longer than 5 s."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def one(self, query: Any, **parameters: Any) -> Any:
        """Returns the row or the value of a query that has one result."""
        async with self.connection() as connection:
            return await query(connection, **parameters)

    async def all(self, query: Any, **parameters: Any) -> list[asyncpg.Record]:
        """Returns the rows of a query."""
        async with self.connection() as connection:
            return [row async for row in query(connection, **parameters)]

    async def all_in_order(self, query: Any, **parameters: Any) -> list[asyncpg.Record]:
        """Returns the rows of a query that must read an index in its order, however few rows PostgreSQL expects."""
        async with self.connection() as connection, self.settled(connection):
            return [row async for row in query(connection, **parameters)]

    def settled(self, connection: Connection) -> contextlib.AbstractAsyncContextManager[Any]:
        """Returns a block in which the settings of an operator's session hold."""
        return self._database.settled(connection)

    @contextlib.asynccontextmanager
    async def connection(self) -> AsyncIterator[Connection]:
        """Lends a connection for several statements."""
        with gateway():
            async with self._database.acquire("admin") as connection:
                yield connection
