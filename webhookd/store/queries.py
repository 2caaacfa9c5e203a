"""The named queries of `sql/queries`, and where `sql/` is: inside the wheel, or beside the package in a checkout."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiosql
from aiosql.adapters.asyncpg import AsyncPGAdapter

_package = Path(__file__).parent.parent
SQL = _package / "sql" if (_package / "sql").is_dir() else _package.parent / "sql"
MIGRATIONS = frozenset(path.stem for path in (SQL / "migrations").glob("*.sql"))  # their ids


class _Adapter(AsyncPGAdapter):
    """For connections only. aiosql's own finds out each time whether it was given a pool, by listing all attributes (dir)."""

    def _ordered(self, query_name: str, parameters: dict[str, Any]) -> list[Any]:
        return [parameters[name] for name in self.var_sorted[query_name]]

    async def select(
        self, conn: Any, query_name: str, sql: str, parameters: Any, record_class: Any = None
    ) -> AsyncIterator[Any]:
        for row in await conn.fetch(sql, *self._ordered(query_name, parameters)):
            yield row

    async def select_one(self, conn: Any, query_name: str, sql: str, parameters: Any, record_class: Any = None) -> Any:
        return await conn.fetchrow(sql, *self._ordered(query_name, parameters))

    async def select_value(self, conn: Any, query_name: str, sql: str, parameters: Any) -> Any:
        return await conn.fetchval(sql, *self._ordered(query_name, parameters))

    async def insert_update_delete(self, conn: Any, query_name: str, sql: str, parameters: Any) -> Any:
        return await conn.execute(sql, *self._ordered(query_name, parameters))


_adapter: Any = _Adapter  # which aiosql does not type
aiosql.register_adapter("webhookd", _adapter)

# Each query is a coroutine function that takes a connection and its parameters by name (see the .sql files).
queries: Any = aiosql.from_path(SQL / "queries", "webhookd")
