"""The named queries of `sql/queries`, and where `sql/` is: inside the wheel, or beside the package in a checkout."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiosql
from aiosql.adapters.asyncpg import AsyncPGAdapter

_package = Path(__file__).parent.parent
SQL = _package / "sql" if (_package / "sql").is_dir() else _package.parent / "sql"
SCHEMA = "webhookd"
_QUALIFIER = re.compile(r"\bwebhookd\.")
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


class Queries:
    """The named queries. Each is a coroutine function that takes a connection and its parameters by name (see the .sql files).

    The SQL names the schema in front of each table and function, so it depends on no session's search_path, neither on a
    role's nor on one that a user's handler has set. A process works on one schema; `use` chooses it at the start.
    """

    def __init__(self) -> None:
        self.use(SCHEMA)

    def use(self, schema: str) -> None:
        """Makes every query one of `schema`."""
        self.schema = schema
        texts = [path.read_text() for path in sorted((SQL / "queries").glob("*.sql"))]
        self._loaded: Any = aiosql.from_str(in_schema("\n".join(texts), schema), "webhookd")

    def __getattr__(self, name: str) -> Any:
        return getattr(self._loaded, name)


def in_schema(sql: str, schema: str) -> str:
    """`sql` with `schema` in place of the schema `webhookd`, in which all SQL here is written."""
    return sql if schema == SCHEMA else _QUALIFIER.sub(f'"{schema}".', sql)


queries = Queries()
