"""Routes of statistics and health."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any

from pydantic import Field

from webhookd.admin.access import AccessLevel
from webhookd.admin.health_routes import Health
from webhookd.admin.route import Call, Route, Shape
from webhookd.admin.shapes import Time, Whole
from webhookd.operate.destinations import Destinations
from webhookd.operate.operator_queries import OperatorQueries
from webhookd.operate.statistics import COUNTED, LONGEST_WINDOW, Statistics, bounds, percentiles, read_statistics
from webhookd.store.queries import queries
from webhookd.telemetry.metrics import Metrics


class Window(Shape):
    """The window that the statistics cover, until now."""

    window: Annotated[
        int,
        Field(
            ge=60,
            le=LONGEST_WINDOW,
            description="Seconds. The steps are 10 s up to an hour, 300 s up to a day, an hour up to a week, and a day beyond.",
        ),
        Whole,
    ] = 3600


class Counts(Shape):
    """Counts over the window: events, quarantined bodies, refused requests, and attempts."""

    received: Annotated[int, Field(description="New events that PostgreSQL has stored.")]
    duplicates: int
    quarantined: int
    refused: Annotated[int, Field(description="Refused requests: a wrong signature, overload and so on.")]
    processed: int
    retried: Annotated[int, Field(description="Failed attempts that are followed by another attempt.")]
    dead: int


class Rates(Shape):
    """The counts per second."""

    received: float
    duplicates: float
    quarantined: float
    refused: float
    processed: float
    retried: float
    dead: float


class TypeCounts(Shape):
    """The number of events of one type."""

    event_type: str
    received: int = 0
    processed: int = 0
    retried: int = 0
    dead: int = 0


class Percentiles(Shape):
    """Percentiles of a latency, in seconds, estimated from the buckets of a histogram."""

    count: int
    p50: float | None
    p95: float | None
    p99: float | None


class Latency(Shape):
    """The time that webhooks wait for their 200, and the time until events are processed."""

    acknowledgement: Percentiles
    end_to_end: Percentiles


class Statuses(Shape):
    """The number of events in each status."""

    received: int
    queued: int
    retrying: int
    dead: Annotated[int, Field(description="Dead events that were not discarded.")]


class Depth(Shape):
    """Messages in a queue, as SQS counts them."""

    visible: int
    in_flight: int
    delayed: int


class DestinationCounts(Shape):
    """Deliveries to a destination that have not ended."""

    name: str
    waiting: int
    retrying: int
    dead: int
    opened_at: Annotated[Time | None, Field(description="The time from which the circuit is open; null if it is closed.")]


class Now(Shape):
    """The present state of events, quarantine and queues."""

    statuses: Statuses
    capped_at: Annotated[
        int, Field(description="Events and deliveries of one status, and bodies in quarantine, are counted up to this number.")
    ]
    destinations: Annotated[
        list[DestinationCounts],
        Field(description="The destinations that have deliveries left. `/webhooks/destinations` has the figures of each."),
    ]
    quarantine: Annotated[int, Field(description="Bodies that wait in quarantine.")]
    oldest_unfinished_seconds: float
    queue: Annotated[Depth | None, Field(description="Null if the process that answers has not reached SQS.")]
    dead_letter_queue: Depth | None


class Step(Shape):
    """A step of the window; latencies in seconds."""

    at: Time
    received: int
    processed: int
    retried: int
    dead: int
    ack_p50: float | None
    ack_p99: float | None
    end_to_end_p50: float | None
    end_to_end_p99: float | None
    outbox: float | None
    queue: float | None
    oldest_unfinished_seconds: float | None


class Stats(Shape):
    """The statistics of a window, and the present state."""

    window: int
    step: Annotated[int, Field(description="The length of a step of `series`, in seconds.")]
    from_: Annotated[Time, Field(alias="from")]
    to: Time
    totals: Counts
    rates: Annotated[Rates, Field(description="Per second, averaged over the window.")]
    event_types: Annotated[list[TypeCounts], Field(description="The types with the most received events first.")]
    latency: Latency
    now: Now
    series: Annotated[list[Step], Field(description="The oldest step first; the last step is not complete.")]


class DependencyState(Shape):
    """The state of a dependency: whether it answers."""

    up: bool
    problem: str | None = None


class HealthReport(Shape):
    """The health of the process that answers."""

    status: Annotated[str, Field(description="ok, degraded (slower, or queueing) or unavailable (refusing webhooks).")]
    version: str
    stopping: bool
    dependencies: dict[str, DependencyState]


class StatisticsRoutes:
    """Routes of statistics and health."""

    def __init__(self, statements: OperatorQueries, destinations: Destinations, health: Health, metrics: Metrics) -> None:
        self._statements = statements
        self._destinations = destinations
        self._health = health
        self._metrics = metrics
        self._bounds = {
            "acknowledgement": bounds(metrics.ack_seconds),
            "end_to_end": bounds(metrics.end_to_end_seconds),
        }

    def routes(self) -> list[Route]:
        """Returns the table of routes."""
        return [
            Route("GET", "/webhooks/stats", AccessLevel.READ, self.show_stats, Stats, query=Window),
            Route("GET", "/webhooks/health", AccessLevel.READ, self.show_health, HealthReport),
        ]

    async def show_health(self, _: Call) -> HealthReport:
        """Show whether webhooks can be taken, and whether each dependency answers."""
        return HealthReport.model_validate(self._health.report())

    async def show_stats(self, call: Call) -> Stats:
        """Show throughput, latencies and the backlog over a window.

        The figures include all replicas. If a process is killed, the counts of its last five seconds are lost; events
        themselves are never lost in this way.
        """
        read = await read_statistics(self._statements, call.query.window)
        left = await self._statements.all(queries.destination_counts, most=read.cap)
        failing = await self._destinations.failing()
        types = [TypeCounts(event_type=name, **_flow(counts)) for name, counts in read.types.items()]
        return Stats(
            window=read.window,
            step=read.step,
            **{"from": read.start},
            to=read.end,
            totals=Counts(**{name: read.totals.get(name, 0) for name in COUNTED}),
            rates=Rates(**{name: round(read.totals.get(name, 0) / read.window, 4) for name in COUNTED}),
            event_types=sorted(types, key=lambda row: (-row.received, row.event_type)),
            latency=Latency(
                acknowledgement=self._percentiles(read, "acknowledgement"), end_to_end=self._percentiles(read, "end_to_end")
            ),
            now=self._now(read, [_left(row, failing.get(row["destination"])) for row in left]),
            series=self._series(read),
        )

    def _parts(self, counts: list[int] | None, measure: str, *parts: int) -> list[float | None]:
        values = percentiles(counts or (), self._bounds[measure], [part / 100 for part in parts])
        return [None if value is None else round(value, 6) for value in values]

    def _percentiles(self, read: Statistics, measure: str) -> Percentiles:
        counts = read.latency.get(measure)
        p50, p95, p99 = self._parts(counts, measure, 50, 95, 99)
        return Percentiles(count=sum(counts or ()), p50=p50, p95=p95, p99=p99)

    def _now(self, read: Statistics, destinations: list[DestinationCounts]) -> Now:
        standing = read.standing
        statuses = {name: min(standing[name], read.cap) for name in Statuses.model_fields}
        return Now(
            statuses=Statuses(**statuses),
            capped_at=read.cap,
            destinations=destinations,
            quarantine=min(standing["quarantine"], read.cap),
            oldest_unfinished_seconds=_gauge(self._metrics.oldest_unfinished),
            queue=self._depth("main"),
            dead_letter_queue=self._depth("dead_letter"),
        )

    def _depth(self, queue: str) -> Depth | None:
        counts = {}
        for family in self._metrics.queue_depth.collect():
            for sample in family.samples:
                if sample.labels["queue"] == queue:
                    counts[sample.labels["state"]] = int(sample.value)
        return Depth(**{state: counts.get(state, 0) for state in Depth.model_fields}) if counts else None

    def _series(self, read: Statistics) -> list[Step]:
        series = []
        for at in read.steps:
            counts, latencies, gauges = read.counts.get(at, {}), read.latencies.get(at, {}), read.gauges.get(at, {})
            ack_p50, ack_p99 = self._parts(latencies.get("acknowledgement"), "acknowledgement", 50, 99)
            end_p50, end_p99 = self._parts(latencies.get("end_to_end"), "end_to_end", 50, 99)
            waits = [gauges[name] for name in ("main_visible", "main_in_flight", "main_delayed") if name in gauges]
            series.append(
                Step(
                    at=at,
                    **_flow(counts),
                    ack_p50=ack_p50,
                    ack_p99=ack_p99,
                    end_to_end_p50=end_p50,
                    end_to_end_p99=end_p99,
                    outbox=gauges.get("outbox"),
                    queue=sum(waits) if waits else None,
                    oldest_unfinished_seconds=gauges.get("oldest_unfinished_seconds"),
                )
            )
        return series


def _left(row: Any, opened_at: datetime | None) -> DestinationCounts:
    counts = {name: row[name] for name in ("waiting", "retrying", "dead")}
    return DestinationCounts(name=row["destination"], **counts, opened_at=opened_at)


def _flow(counts: dict[str, int]) -> dict[str, int]:
    return {name: counts.get(name, 0) for name in ("received", "processed", "retried", "dead")}


def _gauge(metric: Any) -> float:
    return float(sum(sample.value for family in metric.collect() for sample in family.samples))
