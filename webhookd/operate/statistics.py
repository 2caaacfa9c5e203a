"""Statistics: the daemons' counts, which PostgreSQL keeps by steps of time, and from which any window is read."""

from __future__ import annotations

import asyncio
import bisect
import contextlib
import itertools
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import asyncpg
import orjson
from prometheus_client import Counter, Gauge, Histogram

from webhookd.authorizenet.notification import label
from webhookd.operate.destination_figures import KEPT, as_arrays, sent_so_far
from webhookd.operate.operator_queries import OperatorQueries
from webhookd.runtime.loops import Loop, Watch
from webhookd.store.database import Database
from webhookd.store.failures import STATEMENT_ERRORS
from webhookd.store.queries import queries
from webhookd.telemetry.metrics import Metrics

_EVERY = 5.0  # seconds
_CAP = 10_000  # events of one status are counted no further
_CLEANED = 600.0
# Seconds of a step → seconds of the longest window that is read from such steps, and seconds for which they are kept.
_STEPS = {10: (3_600, 7_200), 300: (86_400, 172_800), 3_600: (604_800, 1_209_600), 86_400: (7_776_000, 34_560_000)}
LONGEST_WINDOW = _STEPS[86_400][0]
COUNTED = ("received", "duplicates", "quarantined", "refused", "processed", "retried", "dead")
_OUTCOMES = {"accepted": "", "duplicate": "duplicates", "quarantined": "quarantined"}
_WORKED = {"processed": "processed", "retrying": "retried", "dead": "dead"}
_LATENCIES = ("acknowledgement", "end_to_end")
_ORIGIN = datetime(2000, 1, 1, tzinfo=UTC)  # the beginnings of steps are counted from here


def step_of(window: float) -> int:
    """Returns the length in seconds of the steps from which a window of `window` seconds is read."""
    return next(step for step, (longest, _) in _STEPS.items() if window <= longest)


class Recorder:
    """The recorder of this process's counts: adds them to the statistics every 5 s. A crash loses the last seconds' counts.

    The counts are read from the process's own metrics, so an event costs nothing more.
    """

    def __init__(self, database: Database, metrics: Metrics, watch: Watch) -> None:
        self._database = database
        self._statements = OperatorQueries(database)
        self._metrics = metrics
        self._told: dict[tuple[str, str], list[int]] = {}
        self._told_sent: dict[tuple[str, str], list[int]] = {}
        self._cleaned = time.monotonic()
        self._loop = Loop("statistics", self._record, watch, every=_EVERY)

    async def start(self) -> None:
        """Starts recording."""
        await self._loop.start()

    async def stop(self) -> None:
        """Stops recording, after a last record that takes 2 s at most."""
        await self._loop.stop()
        with contextlib.suppress(*STATEMENT_ERRORS):
            async with asyncio.timeout(2):
                await self._record()

    async def _record(self) -> None:
        if not self._database.up:
            return
        now, sent = self._counted(), sent_so_far(self._metrics)
        new, new_sent = _added(now, self._told), _added(sent, self._told_sent)
        # At the first record the gauges may not be measured yet, and would look as if nothing were waiting.
        gauges = self._measured() if self._told else {}
        async with self._statements.connection() as connection, connection.transaction():
            if new:
                await queries.add_statistics(
                    connection,
                    steps=list(_STEPS),
                    measures=[measure for measure, _ in new],
                    event_types=[event_type for _, event_type in new],
                    counts=as_arrays(new.values()),
                )
            if new_sent:
                await queries.add_destination_statistics(
                    connection,
                    destinations=[destination for destination, _ in new_sent],
                    measures=[measure for _, measure in new_sent],
                    counts=as_arrays(new_sent.values()),
                )
            if gauges:
                await queries.add_gauges(
                    connection, steps=list(_STEPS), gauges=list(gauges), values=[float(value) for value in gauges.values()]
                )
        self._told, self._told_sent = now, sent
        if time.monotonic() - self._cleaned > _CLEANED:
            self._cleaned = time.monotonic()
            for step, (_, age) in _STEPS.items():
                await self._statements.one(queries.remove_statistics, step=step, age=age)
                await self._statements.one(queries.remove_gauges, step=step, age=age)
            await self._statements.one(queries.remove_destination_statistics, age=float(KEPT))

    def _counted(self) -> dict[tuple[str, str], list[int]]:
        metrics = self._metrics
        counts: dict[tuple[str, str], int] = {}

        def add(measure: str, event_type: str, value: float) -> None:
            counts[measure, event_type] = counts.get((measure, event_type), 0) + int(value)

        for labels, value in _values(metrics.accepted):
            add("received", labels["event_type"], value)
        for labels, value in _values(metrics.received):
            if measure := _OUTCOMES.get(labels["outcome"], "refused"):
                add(measure, "", value)
        for labels, value in _values(metrics.processed):
            if measure := _WORKED.get(labels["outcome"], ""):
                add(measure, label(labels["event_type"]), value)
        # Some deaths are counted by no worker, and so by no type. Count these deaths under the type "other".
        worked = sum(count for (measure, _), count in counts.items() if measure == "dead")
        add("dead", "other", max(sum(value for _, value in _values(metrics.dead)) - worked, 0))
        # Keep the sums over all types too: a chart of 360 steps reads the sums, and not the rows of 24 types for each step.
        for (measure, event_type), count in list(counts.items()):
            if event_type:
                add(measure, "", count)
        counted = {key: [count] for key, count in counts.items()}
        counted["acknowledgement", ""] = _buckets(metrics.ack_seconds)
        counted["end_to_end", ""] = _buckets(metrics.end_to_end_seconds)
        return counted

    def _measured(self) -> dict[str, float]:
        metrics = self._metrics
        gauges = {"outbox": _value(metrics.outbox_pending), "oldest_unfinished_seconds": _value(metrics.oldest_unfinished)}
        for labels, value in _values(metrics.queue_depth):
            gauges[f"{labels['queue']}_{labels['state']}"] = value
        return gauges


def _added(now: dict[tuple[str, str], list[int]], told: dict[tuple[str, str], list[int]]) -> dict[tuple[str, str], list[int]]:
    """Returns the counts that are new since `told`."""
    new = {}
    for key, counts in now.items():
        before = told.get(key) or [0] * len(counts)
        if any(added := [count - earlier for count, earlier in zip(counts, before, strict=True)]):
            new[key] = added
    return new


def _values(metric: Counter | Gauge) -> Iterable[tuple[dict[str, str], float]]:
    for family in metric.collect():
        for sample in family.samples:
            yield sample.labels, sample.value


def _value(metric: Gauge) -> float:
    return sum(value for _, value in _values(metric))


def _kept(metric: Histogram) -> list[tuple[float, int]]:
    """Returns the upper bound of each bucket, in seconds, and the number of observations up to it; the last one is infinite.

    Leaves out the bound 2.0, which 0.3.0 did not have: the stored counts of both releases must have the same places.
    """
    return [
        (float(sample.labels["le"]), int(sample.value))
        for family in metric.collect()
        for sample in family.samples
        if sample.name.endswith("_bucket") and sample.labels["le"] != "2.0"
    ]


def _buckets(metric: Histogram) -> list[int]:
    """Returns the number of observations in each bucket alone, without the buckets below it."""
    upto = [count for _, count in _kept(metric)]
    return [count - below for count, below in zip(upto, [0, *upto], strict=False)]


def bounds(metric: Histogram) -> list[float]:
    """Returns the upper bounds of the stored buckets, in seconds; the last one is infinite."""
    return [bound for bound, _ in _kept(metric)]


def percentiles(counts: Sequence[int], upper: Sequence[float], parts: Sequence[float]) -> list[float | None]:
    """Returns the values below which `parts` (0 to 1) of a histogram's observations lie, taken as spread evenly in a bucket.

    A value is None if nothing was counted, and the last finite bound if it lies beyond all finite bounds.
    """
    upto = list(itertools.accumulate(counts))
    if not upto or not upto[-1]:
        return [None] * len(parts)
    values: list[float | None] = []
    for part in parts:
        place = part * upto[-1]
        at = bisect.bisect_left(upto, max(place, 1))  # the first bucket that holds anything, for 0
        if at >= len(upper) - 1:
            values.append(upper[-2])
            continue
        low = upper[at - 1] if at else 0.0
        below = upto[at - 1] if at else 0
        values.append(low + (upper[at] - low) * (place - below) / (upto[at] - below))
    return values


@dataclass(slots=True, frozen=True)
class Statistics:
    """The counts, latencies and gauges of a window, in total and by the beginning of a step; `steps` has every beginning."""

    window: int
    step: int
    start: datetime
    end: datetime
    totals: dict[str, int]
    types: dict[str, dict[str, int]]
    latency: dict[str, list[int]]
    counts: dict[datetime, dict[str, int]]
    latencies: dict[datetime, dict[str, list[int]]]
    gauges: dict[datetime, dict[str, float]]
    standing: asyncpg.Record
    cap: int

    @property
    def steps(self) -> list[datetime]:
        """Returns the beginning of each step, oldest first."""
        length = timedelta(seconds=self.step)
        first = _beginning(self.start, self.step) + length
        return [first + n * length for n in range((self.end - first) // length + 1)] if first <= self.end else []


async def read_statistics(statements: OperatorQueries, window: int) -> Statistics:
    """Returns the statistics of the last `window` seconds, and how many events have each status now."""
    step = step_of(window)
    longer = next((other for other in _STEPS if other > step), None)
    row = await statements.one(queries.statistics, step=step, window=window, longer=longer, limit=_CAP)
    totals: dict[str, int] = dict.fromkeys(COUNTED, 0)
    histograms: dict[str, list[list[int]]] = {}
    counts: dict[datetime, dict[str, int]] = {}
    latencies: dict[datetime, dict[str, list[int]]] = {}
    for at, measures in _by_step(row["series"]).items():
        counts[at], latencies[at] = {}, {}
        for measure, counted in measures.items():
            if measure in _LATENCIES:
                latencies[at][measure] = counted
                histograms.setdefault(measure, []).append(counted)
            else:
                counts[at][measure] = counted[0]
                totals[measure] = totals.get(measure, 0) + counted[0]
    latency = {measure: [sum(bucket) for bucket in zip(*parts, strict=False)] for measure, parts in histograms.items()}
    types = orjson.loads(row["types"] or "{}")
    start = row["now"] - timedelta(seconds=window)
    gauges = _by_step(row["gauges"])
    return Statistics(window, step, start, row["now"], totals, types, latency, counts, latencies, gauges, row, _CAP)


def _by_step(text: str | None) -> dict[datetime, dict[str, Any]]:
    """Reads a JSON object that has an entry for each step. Returns the entries by the beginning of their step."""
    return {datetime.fromtimestamp(int(at), UTC): counts for at, counts in orjson.loads(text or "{}").items()}


def _beginning(instant: datetime, step: int) -> datetime:
    """Returns the beginning of the step that contains an instant (sql: webhookd.step)."""
    length = timedelta(seconds=step)
    return _ORIGIN + (instant - _ORIGIN) // length * length
