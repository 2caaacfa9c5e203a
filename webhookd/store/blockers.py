"""Finds who blocks a session that waits for a lock, from a session of its own."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Iterator

import asyncpg

from webhookd.errors import WebhookdError
from webhookd.store.failures import ASYNCPG_ERRORS
from webhookd.store.queries import queries
from webhookd.store.session import Server

_LOOK = 0.5  # seconds between two looks, and before the first one: a shorter wait is not reported
_TIMEOUT = 5.0  # seconds
_NAMED = 3  # sessions that one report names at most


class Blockers:
    """A watcher of the statements of session `pid`. Whenever the blockers of one change, it reports them by `tell`.

    It connects at once, since a lock timeout may leave little time to look, and again when the connection is lost. Never fails.
    """

    def __init__(self, server: Server, pid: int, tell: Callable[[str], None]) -> None:
        self._server = server
        self._pid = pid
        self._tell = tell
        self._connection: asyncpg.Connection[asyncpg.Record] | None = None
        self._task: asyncio.Task[None] | None = None
        self._since: float | None = None  # when the present statement began
        self._what = ""
        self._found: set[int] = set()
        self.last: str | None = None  # the blockers of the present piece of work, when last seen

    async def __aenter__(self) -> Blockers:
        self._task = asyncio.create_task(self._run(), name="blockers")
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])
        self._disconnect()

    def begin(self, what: str) -> None:
        """Sets the name of the piece of work to which the next statements belong."""
        self._what, self.last = what, None
        self._found = set()

    @contextlib.contextmanager
    def watching(self) -> Iterator[None]:
        """Marks a statement as running during the block."""
        self._since = time.monotonic()
        try:
            yield
        finally:
            self._since = None

    async def _run(self) -> None:
        while True:
            try:
                if self._connection is None:
                    self._connection = await self._server.connect(timeout=_TIMEOUT, command_timeout=_TIMEOUT)
                if self._since is not None and time.monotonic() - self._since >= _LOOK:
                    await self._look(self._connection)
            except (OSError, TimeoutError, WebhookdError, *ASYNCPG_ERRORS):
                self._disconnect()
            await asyncio.sleep(_LOOK)

    async def _look(self, connection: asyncpg.Connection[asyncpg.Record]) -> None:
        rows = [row async for row in queries.in_the_way(connection, waiting=self._pid)]
        if not rows:
            return
        self.last = " and ".join(map(_named, rows[:_NAMED]))
        if self._found != (found := {row["pid"] for row in rows}):
            self._found = found
            self._tell(f"{self._what}: waits for {self.last}")

    def _disconnect(self) -> None:
        if self._connection is not None:
            self._connection.terminate()
            self._connection = None


def _named(row: asyncpg.Record) -> str:
    """Describes one session in an operator's terms."""
    if row["pid"] == 0:
        return "a prepared transaction (see pg_prepared_xacts)"
    told = [row["application"] or row["kind"], f"role {row['role']}" if row["role"] else "", row["state"]]
    if row["seconds"] is not None:
        told.append(f"in its transaction for {row['seconds']:.0f} s")
    return f"session {row['pid']} ({', '.join(filter(None, told))})"
