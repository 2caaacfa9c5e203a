"""One session with PostgreSQL, for a command that asks little and must not wait."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any

from webhookd.errors import UnavailableError
from webhookd.store.failures import ASYNCPG_ERRORS
from webhookd.store.postgresql_problem import explained, problem_of
from webhookd.store.session import Server

_TIMEOUT = 5.0  # seconds of a connection, and of a statement


class SingleSession:
    """A session with `one`, as Database has it. `open` makes it; `close` it. Questions of several tasks take turns."""

    def __init__(self, connection: Any) -> None:
        self._connection = connection
        self._turn = asyncio.Lock()

    @classmethod
    async def open(cls, server: Server) -> SingleSession:
        """Opens a session. Raises WebhookdError, which says what to do."""
        with explained(server.url):
            # Prepare no statement ahead: there may be a pooler in between.
            options = {"timeout": _TIMEOUT, "command_timeout": _TIMEOUT, "statement_cache_size": 0}
            return cls(await server.connect(**options))

    async def one(self, query: Any, **parameters: Any) -> Any:
        """Returns the row or the value of a named query that has one result.

        Raises UnavailableError, also if the database lacks the tables, or the role a right: a command does without PostgreSQL.
        """
        try:
            async with self._turn:
                return await query(self._connection, **parameters)
        except (OSError, TimeoutError, *ASYNCPG_ERRORS) as error:
            raise UnavailableError("postgresql", problem_of(error)) from error

    async def close(self) -> None:
        """Ends the session."""
        with contextlib.suppress(OSError, TimeoutError, *ASYNCPG_ERRORS):
            await self._connection.close(timeout=_TIMEOUT)
