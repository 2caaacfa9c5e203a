"""The meaning of an error of asyncpg: PostgreSQL is away, or a statement is wrong."""

from __future__ import annotations

import contextlib
from typing import Any

import asyncpg

from webhookd.errors import UnavailableError
from webhookd.store.postgresql_problem import problem_of

# SQLSTATE classes that another try can mend: connection, transaction rollback (deadlock), insufficient resources,
# operator intervention, system error; and read_only_sql_transaction, which a failover causes.
_TRANSIENT = ("08", "40", "53", "57", "58")
READ_ONLY = "25006"


def unavailable(error: BaseException) -> bool:
    """Returns whether `error` means that PostgreSQL is away or cannot serve just now, not that a statement is wrong."""
    if isinstance(error, asyncpg.PostgresError):
        state = getattr(error, "sqlstate", None) or ""
        return state.startswith(_TRANSIENT) or state == READ_ONLY
    # asyncpg raises InterfaceError for a connection that broke, and for misuse, which a test would have found.
    broken = isinstance(error, (OSError, TimeoutError, asyncpg.InterfaceError, asyncpg.InternalClientError))
    return broken and not isinstance(error, ValueError)  # ValueError: an argument that asyncpg cannot encode


@contextlib.contextmanager
def gateway() -> Any:
    """Turns asyncpg's errors into UnavailableError if they mean that PostgreSQL is away. Lets other errors through."""
    try:
        yield
    except Exception as error:
        if unavailable(error):
            raise UnavailableError("postgresql", problem_of(error)) from error
        raise
