"""The rights of the role in PostgreSQL: which statements of webhookd PostgreSQL lets the role run."""

from __future__ import annotations

import contextlib
import re
from collections.abc import AsyncIterator
from typing import Any
from uuid import UUID

import asyncpg

from webhookd.store.queries import queries
from webhookd.store.retention import WEEKS_AHEAD

_EXPLAINABLE = ("SELECT", "WITH", "INSERT", "UPDATE", "DELETE")
# The statements that a daemon runs at its start, and their parameters. `refusal_of` runs these, and EXPLAIN for others.
_FIRST: dict[str, tuple[object, ...]] = {
    "identify": (),
    "prove_writable": (),
    "retention_state": (),
    "missing_partitions": (WEEKS_AHEAD,),
    "strays": (),
    "backlog": (),
    "take_duty": ("doctor", UUID(int=0), 0.0),
}


def statement_names() -> list[str]:
    """Returns the names of all statements of webhookd, in alphabetical order."""
    return sorted(name for name in queries.available_queries if not name.endswith("_cursor"))


async def refusal_of(connection: Any, name: str) -> str | None:
    """Returns why PostgreSQL does not let the role run the statement `name`; None if PostgreSQL does.

    The reason is PostgreSQL's SQLSTATE, and for a missing right also PostgreSQL's message. Everything that runs is rolled back.
    """
    sql = getattr(queries, name).sql
    try:
        async with _undone(connection):
            if name in _FIRST:
                await connection.fetch(sql, *_FIRST[name])
            elif sql.upper().startswith(_EXPLAINABLE):
                await _explain(connection, sql)
    except asyncpg.InsufficientPrivilegeError as error:
        return f"{error.sqlstate}: {error.args[0]}"  # the message names the table or function, and nothing secret
    except asyncpg.PostgresError as error:
        return str(error.sqlstate)
    return None


async def _explain(connection: Any, sql: str) -> None:
    # EXPLAIN checks the rights to tables and functions, and runs nothing. In a plan for NULL, PostgreSQL would leave parts out:
    # ask for the generic plan.
    await connection.execute("SET LOCAL plan_cache_mode = force_generic_plan")
    await connection.execute(f"PREPARE webhookd_doctor AS {sql}")
    try:
        count = max((int(number) for number in re.findall(r"\$(\d+)", sql)), default=0)
        parameters = f"({', '.join(['NULL'] * count)})" if count else ""
        await connection.execute(f"EXPLAIN EXECUTE webhookd_doctor{parameters}")
    finally:
        with contextlib.suppress(asyncpg.InFailedSQLTransactionError):
            await connection.execute("DEALLOCATE webhookd_doctor")


@contextlib.asynccontextmanager
async def _undone(connection: Any) -> AsyncIterator[None]:
    transaction = connection.transaction()
    await transaction.start()
    try:
        yield
    finally:
        await transaction.rollback()
