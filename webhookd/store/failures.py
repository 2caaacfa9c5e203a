"""The meaning of an error of asyncpg: PostgreSQL is away, or a statement is wrong."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import asyncpg

from webhookd.errors import BusyError, UnavailableError, WebhookdError
from webhookd.store.postgresql_problem import problem_of

# All errors of asyncpg: PostgreSQL's own, those of a connection and of misuse, and those of asyncpg's protocol.
ASYNCPG_ERRORS = (asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError)
# The errors of a statement in `gateway`, for a caller that goes on if the statement fails.
STATEMENT_ERRORS = (WebhookdError, asyncpg.PostgresError, TimeoutError)
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


@contextlib.contextmanager
def locking() -> Iterator[None]:
    """Raises BusyError if another transaction keeps a lock that a statement inside needs."""
    try:
        yield
    except asyncpg.LockNotAvailableError as error:
        raise BusyError("another transaction keeps the lock") from error
