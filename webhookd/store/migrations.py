"""Brings the schema up to date."""

from __future__ import annotations

import asyncio
from typing import Any

import asyncpg
from pogo_core.util.migrate import apply

from webhookd.store.database import CONNECT_TIMEOUT, gateway
from webhookd.store.queries import SQL, queries

_LOCKED = 0.2  # seconds between two tries to be the one that migrates


async def migrate(url: str) -> list[str]:
    """Brings the schema at `url` up to date; returns the ids of the migrations that were applied.

    Safe when several replicas start at once: an advisory lock lets one do it, and the others find it done. Raises
    UnavailableError where PostgreSQL does not answer.
    """
    with gateway():
        # UTC: where the session's time zone has summer time, a week is not always 168 hours, and partitions would overlap.
        connection = await asyncpg.connect(url, timeout=CONNECT_TIMEOUT, server_settings={"timezone": "UTC"})
        try:
            while not await queries.lock_migrations(connection):  # noqa: ASYNC110  another process has it
                await asyncio.sleep(_LOCKED)
            before = await _applied(connection)
            await apply(connection, SQL / "migrations", schema_name="public", logger=_Quiet())
            return sorted(await _applied(connection) - before)
        finally:
            await connection.close(timeout=5)  # which releases the lock, whatever happened


async def _applied(connection: Any) -> set[str]:
    try:
        row = await queries.applied_migrations(connection)
    except asyncpg.UndefinedTableError:
        return set()
    return set(row or ())


class _Quiet:
    """pogo logs each migration as a warning; we log one line ourselves."""

    def _nothing(self, *_: object, **__: object) -> None: ...

    debug = info = warn = warning = error = exception = critical = _nothing
