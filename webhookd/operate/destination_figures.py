"""Figures of destinations: the age of their oldest deliveries, and what all replicas have sent in the last hour."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from datetime import datetime

from prometheus_client import Histogram

from webhookd.operate.operator_queries import OperatorQueries
from webhookd.store.deliveries import MOST
from webhookd.store.queries import queries
from webhookd.telemetry.metrics import Metrics

WINDOW = 3600  # seconds
KEPT = 2 * WINDOW
OUTCOMES = ("delivered", "retrying", "dead")
LATENCIES = ("delivery_seconds", "attempt_seconds")


@dataclass(slots=True)
class Figures:
    """The figures of a destination.

    waiting, retrying: since when the oldest such delivery waits.
    dead: when the first of the dead deliveries died.
    counts: what was sent in the last hour, by measure: one number, or one for each bucket of a histogram.
    """

    waiting: datetime | None = None
    retrying: datetime | None = None
    dead: datetime | None = None
    counts: dict[str, list[int]] = field(default_factory=dict)


def sent_so_far(metrics: Metrics) -> dict[tuple[str, str], list[int]]:
    """Returns what this process has sent since its start, by destination and measure."""
    found: dict[tuple[str, str], list[int]] = {}
    for family in metrics.deliveries.collect():
        for sample in family.samples:
            if sample.labels["outcome"] in OUTCOMES:
                found[sample.labels["destination"], sample.labels["outcome"]] = [int(sample.value)]
    for measure, histogram in zip(LATENCIES, (metrics.delivery_seconds, metrics.delivery_attempt_seconds), strict=True):
        for destination, upto in _upto(histogram).items():
            found[destination, measure] = [count - below for count, below in zip(upto, [0, *upto], strict=False)]
    return found


def _upto(histogram: Histogram) -> dict[str, list[int]]:
    """Returns for each destination the number of observations up to the bound of each bucket."""
    found: dict[str, list[int]] = {}
    for family in histogram.collect():
        for sample in family.samples:
            if sample.name.endswith("_bucket"):
                found.setdefault(sample.labels["destination"], []).append(int(sample.value))
    return found


async def read_figures(statements: OperatorQueries, names: Collection[str]) -> dict[str, Figures]:
    """Returns the figures of the destinations `names`."""
    oldest = await statements.all(queries.oldest_deliveries, names=list(names), most=MOST)
    found = {row["name"]: Figures(row["waiting"], row["retrying"], row["dead"]) for row in oldest}
    for row in await statements.all(queries.destination_statistics, seconds=WINDOW):
        if row["destination"] in found:
            found[row["destination"]].counts[row["measure"]] = list(row["counts"])
    return found


def as_arrays(counts: Iterable[list[int]]) -> list[str]:
    """Returns arrays of numbers as PostgreSQL reads them from text."""
    return ["{" + ",".join(map(str, each)) + "}" for each in counts]
