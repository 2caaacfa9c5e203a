"""The gauges of PostgreSQL's storage: how large the tables are, and how far standbys lag."""

from __future__ import annotations

from webhookd.runtime.loops import Loop, Watch
from webhookd.store.database import Database
from webhookd.store.queries import queries
from webhookd.telemetry.metrics import Metrics

_EVERY_SECONDS = 60.0


class StorageGauges(Loop):
    """The loop that asks PostgreSQL once a minute, by one statement that reads no row of webhookd's tables."""

    def __init__(self, database: Database, *, metrics: Metrics, watch: Watch) -> None:
        super().__init__("storage gauges", self.measure, watch, every=_EVERY_SECONDS)
        self._database = database
        self._metrics = metrics

    async def measure(self) -> None:
        """Sets the gauges. Raises UnavailableError."""
        metrics = self._metrics
        gauges = {"database": metrics.database_bytes, "standbys": metrics.standbys, "lag": metrics.replication_lag}
        named = {"table": metrics.table_bytes, "default": metrics.default_partition_bytes}
        if not self._database.up:
            return  # the prober reports it
        for row in await self._database.all(queries.storage_state):
            kind = row["kind"]
            gauge = named[kind].labels(row["name"]) if kind in named else gauges[kind]
            gauge.set(row["value"])
