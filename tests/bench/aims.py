"""The aims for figures of the bench, and the results of a run. `python -m tests.bench.aims` shows the last run's results.

Most figures are ratios within a round. The median of the rounds counts.
"""

from __future__ import annotations

import json
import statistics
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from tests.bench.load import PROVIDER, SENDERS
from tests.bench.releases import BEFORE
from tests.bench.titles import (
    CAPACITY,
    CLIENT,
    CONSUME,
    DELIVER,
    DISK,
    LATENCY,
    REPLICAS,
    before_title,
    calls_title,
    cost_title,
    growth_title,
    ingest_title,
    reconcile_title,
)

_MUCH = 10_000_000
_DAYS = 60  # of the merchant whose settlement is reconciled


@dataclass(slots=True, frozen=True)
class Aim:
    """An aim for a figure of a case, or for its ratio to the figure of another case.

    what: the figure, in words.
    scenario, case, figure: the place of the figure in the results.
    other: the case to compare with; None if the figure itself counts.
    bound: the least value that is good enough; the greatest if `at_most`.
    """

    what: str
    scenario: str
    case: str
    figure: str
    other: str | None
    bound: float
    at_most: bool = False

    def measured(self, scenarios: dict[str, Any]) -> float | None:
        """Returns the median, or None if the scenario was not run with all of its cases."""
        cases = scenarios.get(self.scenario, {})
        wanted = [self.case] if self.other is None else [self.case, self.other]
        if any(case not in cases for case in wanted):
            return None
        mine: list[float] = cases[self.case][self.figure]["rounds"]
        if self.other is None:
            return statistics.median(mine)
        theirs: list[float] = cases[self.other][self.figure]["rounds"]
        return statistics.median(a / b for a, b in zip(mine, theirs, strict=True))

    @property
    def wanted(self) -> str:
        """Returns the bound in words."""
        return f"{'≤' if self.at_most else '≥'} {self.bound:g}"


@dataclass(slots=True, frozen=True)
class Reached:
    """The result of a run for one aim. `measured` and `met` are None if it was not measured."""

    what: str
    wanted: str
    measured: float | None
    met: bool | None


def _aims() -> Iterator[Aim]:
    before = before_title()
    for timeline, what in ((True, ""), (False, " without a timeline")):
        for recorded, sends in ((False, "not recorded"), (True, "recorded")):
            title, beside = cost_title(timeline=timeline, recorded=recorded), f"an event{what}, sends {sends}, part of {BEFORE}"
            yield Aim(f"PostgreSQL's CPU {beside}", title, "webhookd", "pg_cpu_us", before, 0.45, at_most=True)
            yield Aim(f"WAL {beside}", title, "webhookd", "wal_bytes", before, 0.5, at_most=True)
    yield Aim(f"disk an event, part of {BEFORE}", DISK, "webhookd", "bytes", before, 0.65, at_most=True)
    for sender in SENDERS:
        title = ingest_title("sustained", 64, sender)
        whose = "from the provider" if sender == PROVIDER else "from a proxy"
        yield Aim(f"ingest {whose}, part of the ceiling", title, "webhookd", "per_second", "ceiling", 0.4)
        yield Aim(f"ingest {whose}, times {BEFORE}", title, "webhookd", "per_second", before, 1.0)
        yield Aim(f"ingest {whose}, p99 in ms", title, "webhookd", "p99_ms", None, 25, at_most=True)
    yield Aim(f"consume, times {BEFORE}", CONSUME, "webhookd", "per_second", before, 1.4)
    yield Aim(f"end to end, times {BEFORE}", CAPACITY, "webhookd", "per_second", before, 1.3)
    yield Aim("end to end at a quarter of that, p99 in ms", LATENCY, "at 25 % of capacity", "p99_ms", None, 40, at_most=True)
    title, much = growth_title(_MUCH), f"ingest, {_MUCH:,} stored"
    none, cold = "ingest, nothing stored", f"{much}, just after a checkpoint"
    yield Aim(f"{much}, times none", title, much, "per_second", none, 0.95)
    yield Aim(f"{cold}, times none", title, cold, "per_second", none, 0.75)
    for what in ("ingest", "consume"):
        yield Aim(f"two replicas, {what}, times one", REPLICAS, f"two, {what}", "per_second", f"one, {what}", 1.0)
    calls = f"slowest list, search or statistics call with {_MUCH:,} stored, p95 in ms"
    yield Aim(calls, calls_title(_MUCH), "webhookd", "slowest_p95_ms", None, 50, at_most=True)
    yield Aim("deliveries, part of a plain client", DELIVER, "webhookd", "per_second", CLIENT, 0.5)
    yield Aim("deliveries a second", DELIVER, "webhookd", "per_second", None, 2_000)
    yield Aim("memory with 100,000 deliveries waiting, in MiB", DELIVER, "webhookd", "rss_mib", None, 200, at_most=True)
    report = f"the report over {_DAYS} days of 10,000 transactions, in seconds"
    yield Aim(report, reconcile_title(_DAYS), "webhookd", "seconds", None, 5, at_most=True)


def reached(scenarios: dict[str, Any]) -> list[Reached]:
    """Returns the result for each aim, from `scenarios` as `bench.json` holds them."""
    every = []
    for aim in _aims():
        measured = aim.measured(scenarios)
        met = None if measured is None else (measured <= aim.bound if aim.at_most else measured >= aim.bound)
        every.append(Reached(aim.what, aim.wanted, measured, met))
    return every


def markdown(every: list[Reached]) -> str:
    """Returns the table of the aims."""
    lines = ["| what | aim | measured | met |", "|---|---|---|---|"]
    for one in every:
        measured = "not measured" if one.measured is None else f"{one.measured:.3g}"
        met = "" if one.met is None else "yes" if one.met else "no"
        lines.append(f"| {one.what} | {one.wanted} | {measured} | {met} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    from tests.bench.summary import RESULTS

    sys.stdout.write(markdown(reached(json.loads(RESULTS.read_text())["scenarios"])))
