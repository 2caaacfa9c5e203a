"""The reports of this replica to all replicas: its counts, its keys, and the dependencies that do not answer it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any
from uuid import UUID

from webhookd.store.database import Database
from webhookd.store.failures import gateway
from webhookd.store.queries import queries
from webhookd.telemetry.metrics import Metrics

EVERY = 15.0  # seconds between two reports
_STEPS = [60, 3_600]  # seconds
_AUTHENTIC = ("accepted", "duplicate", "quarantined")
_FOR_ALL = ("put_off", "not_stored")  # measures that belong to no account


class Reports:
    """The reports of this replica. The counts come from its own metrics, so an event costs nothing more."""

    def __init__(self, database: Database, replica: UUID, metrics: Metrics) -> None:
        self._database = database
        self._replica = replica
        self._metrics = metrics
        self._told: dict[tuple[str, str], int] = {}
        self.channels: tuple[str, ...] = ()  # the names of this replica's channels

    async def report(self) -> None:
        """Adds the counts since the last report, and notes keys and state. Raises UnavailableError."""
        if not self._database.up:
            return
        now = self._counted()
        new = {key: added for key, count in now.items() if (added := count - self._told.get(key, 0))}
        keys = [(labels["account"], labels["key"], value) for labels, value in _values(self._metrics.key_last_used)]
        with gateway():
            async with self._database.acquire("admin") as connection, connection.transaction():
                if new:
                    await queries.add_alert_counts(
                        connection,
                        steps=_STEPS,
                        measures=[measure for measure, _ in new],
                        accounts=[account for _, account in new],
                        counts=list(new.values()),
                    )
                if keys:
                    accounts, fingerprints, used = map(list, zip(*keys, strict=True))
                    await queries.report_alert_keys(connection, accounts=accounts, keys=fingerprints, used=used)
                await queries.report_alert_replica(
                    connection,
                    id=self._replica,
                    away=[labels["dependency"] for labels, up in _values(self._metrics.dependency_up) if not up],
                    channels=list(self.channels),
                    certificate_ends=sum(value for _, value in _values(self._metrics.certificate_ends)),
                    stuck=int(sum(value for _, value in _values(self._metrics.unended_handlers))),
                )
        self._told = now

    def _counted(self) -> dict[tuple[str, str], int]:
        counts: dict[tuple[str, str], int] = {}
        for labels, value in _values(self._metrics.received):
            for measure in _measures(labels["outcome"]):
                key = measure, "" if measure in _FOR_ALL else labels["account"]
                counts[key] = counts.get(key, 0) + int(value)
        return counts


def _measures(outcome: str) -> Iterable[str]:
    if outcome in _AUTHENTIC:
        yield "authentic"
    if outcome == "accepted":
        yield "accepted"
    if outcome == "signature_mismatch":
        yield "mismatch"
    if outcome in ("overload", "error") or outcome.endswith(("_away", "_refused")):
        yield "put_off"
    if outcome == "error" or outcome.endswith("_refused"):
        yield "not_stored"


def _values(metric: Any) -> Iterable[tuple[dict[str, str], float]]:
    for family in metric.collect():
        for sample in family.samples:
            yield sample.labels, sample.value
