"""The cost of a load in PostgreSQL: CPU of the whole server, WAL and rows written."""

from __future__ import annotations

import asyncio
import contextlib
import time
from types import TracebackType
from typing import Self

import psutil

from tests.helpers.database import connect
from webhookd.dev.servers import PostgresServer

_STATE = """
SELECT
    pg_current_wal_insert_lsn() - '0/0'::pg_lsn AS wal_bytes,
    (SELECT tup_inserted + tup_updated FROM pg_stat_database WHERE datname = current_database()) AS row_versions
"""
_REPORTED_SECONDS = 1.5  # a session that ended, or begins a transaction, reports to pg_stat_database within this time


class Meter:
    """A meter of PostgreSQL in a `with` block, from a checkpoint on if `checkpoint`. Nothing else may use the server meanwhile.

    Just after a checkpoint, the first change of a page writes the whole page to the WAL.
    CPU time includes the postmaster and all its children, also ended ones: sessions, checkpointer, WAL writer, autovacuum.
    """

    def __init__(self, server: PostgresServer, database: str, *, checkpoint: bool = False) -> None:
        self._server = server
        self._database = database
        self._checkpoint = checkpoint
        self._before: dict[str, float] = {}
        self._after: dict[str, float] = {}

    def __enter__(self) -> Self:
        self._before = asyncio.run(self._state(checkpoint=self._checkpoint))
        self._before["cpu_seconds"] = self._cpu_seconds()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None) -> None:
        if error is None:
            self._after["cpu_seconds"] = self._cpu_seconds()
            time.sleep(_REPORTED_SECONDS)
            self._after |= asyncio.run(self._state(checkpoint=False))

    def per_event(self, count: int) -> dict[str, float]:
        """Returns the cost of one of `count` events: CPU in microseconds, bytes of WAL, row versions."""
        spent = {name: (after - self._before[name]) / count for name, after in self._after.items()}
        return {
            "pg_cpu_us": spent["cpu_seconds"] * 1e6,
            "wal_bytes": spent["wal_bytes"],
            "row_versions": spent["row_versions"],
        }

    async def _state(self, *, checkpoint: bool) -> dict[str, float]:
        connection = await connect(self._database)
        try:
            if checkpoint:
                await connection.execute("CHECKPOINT", timeout=600)
            row = await connection.fetchrow(_STATE)
            assert row is not None
            return {name: float(value) for name, value in row.items()}
        finally:
            await connection.close()

    def _cpu_seconds(self) -> float:
        assert self._server.process is not None
        postmaster = psutil.Process(self._server.process.pid)
        while True:
            children = postmaster.children()
            with contextlib.suppress(psutil.NoSuchProcess):
                ended = postmaster.cpu_times()
                total = ended.user + ended.system + ended.children_user + ended.children_system
                for child in children:
                    times = child.cpu_times()
                    total += times.user + times.system
                # An ended child's CPU time moves to the postmaster. Between two readings, it would be missing or count twice.
                if postmaster.children() == children:
                    return float(total)
