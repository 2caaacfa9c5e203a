"""The named queries of `sql/queries`, and the path of `sql/`: inside the wheel, or beside the package in a checkout."""

from __future__ import annotations

import functools
import re
from pathlib import Path
from typing import Any

import aiosql

_package = Path(__file__).parent.parent
SQL = _package / "sql" if (_package / "sql").is_dir() else _package.parent / "sql"
SCHEMA = "webhookd"
_QUALIFIER = re.compile(r"\bwebhookd\.")
MIGRATIONS = frozenset(path.stem for path in (SQL / "migrations").glob("*.sql"))  # the ids of all migrations


class Queries:
    """The named queries. Each is a coroutine function that takes a connection and its parameters by name (see the .sql files).

    The SQL names the schema in front of each table and function. So it depends on no search_path, neither a role's nor one
    that a user's handler has set. A process works on one schema, which `use` chooses at the start.
    """

    def __init__(self) -> None:
        self.use(SCHEMA)

    def use(self, schema: str) -> None:
        """Chooses the schema whose tables the queries name."""
        vars(self).clear()
        self.schema = schema

    def __getattr__(self, name: str) -> Any:
        found = vars(self)[name] = getattr(_loaded(self.schema), name)
        return found


@functools.cache
def _loaded(schema: str) -> Any:
    """Loads every query for the schema `schema`, at the first use: this takes 70 ms, and most commands send no query."""
    return aiosql.from_str(in_schema(text_of(SQL), schema), "asyncpg")


def text_of(sql: Path) -> str:
    """Returns the text of all queries below `sql`. In a query, `{name}` stands for the text of `parts/name.sql`."""
    text = "\n".join(path.read_text() for path in sorted((sql / "queries").glob("*.sql")))
    for part in (sql / "parts").glob("*.sql"):
        text = text.replace(f"{{{part.stem}}}", f"\n{part.read_text()}")
    return text


def in_schema(sql: str, schema: str) -> str:
    """Returns `sql` with `schema` in place of the schema `webhookd`, in which all SQL here is written."""
    return sql if schema == SCHEMA else _QUALIFIER.sub(f'"{schema}".', sql)


queries = Queries()
