"""`make bench` runs the scenarios with webhookd, the release before and the baselines by turns, and checks the aims.

Cases run by turns because the speed of a virtual machine changes from minute to minute. Only measurements side by side can be
compared. So each ratio is taken within a round, and the result is the median of the rounds' ratios.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import psutil

from tests.bench import deliveries, reconciled, scenarios, settlement
from tests.bench.aims import markdown, reached
from tests.bench.bench import Bench, Figures
from tests.bench.load import AUTHCAPTURE, NOT_ON_TIMELINE, PROVIDER, PROXY
from tests.bench.processes import CORES
from tests.bench.releases import BEFORE, HERE, Release, ReleaseError, before
from tests.bench.report import Result, Table, machine, print_tables, save
from tests.bench.servers import servers
from tests.bench.stored import disk_bytes, grow
from tests.bench.titles import (
    CAPACITY,
    CLIENT,
    CONSUME,
    DELIVER,
    DISK,
    FLOOR,
    LATENCY,
    NIGHTLY,
    REPLICAS,
    calls_title,
    case_title,
    cost_title,
    growth_title,
    ingest_title,
    reconcile_title,
    stored_title,
    sweep_calls_title,
    sweep_title,
)

RESULTS = Path(__file__).parent / "results"


class Run:
    """One run of the bench: rounds of scenarios, and the figures of each."""

    def __init__(self, bench: Bench, rounds: int, stored: list[int], days: int) -> None:
        self.bench = bench
        self.days = days
        self.stored = sorted(stored)[-1:] if bench.quick else sorted(stored)
        self.rounds = 1 if bench.quick else rounds
        self.tables: list[Table] = []

    def measure(self, title: str, cases: dict[str, Callable[[], Figures]], rounds: int | None = None) -> Table:
        """Runs `cases` by turns; returns a table of their figures, round by round."""
        table = Table(title, {name: Result() for name in cases})
        for number in range(min(rounds or self.rounds, self.rounds)):
            for name, case in cases.items():
                started = time.perf_counter()
                figures = case()
                table.results[name].add(figures)
                told = ", ".join(f"{key} {value:,.1f}" for key, value in figures.items())
                print(f"{title}, round {number + 1}: {name}: {told} ({time.perf_counter() - started:.0f} s)", file=sys.stderr)
        self.tables.append(table)
        return table


def by_turns(run: Run, case: Callable[[Release], Figures], what: str = "") -> dict[str, Callable[[], Figures]]:
    """Returns the case of each release. `what` names the case if a table has several cases of a release."""
    return {case_title(release, what): partial(case, release) for release in run.bench.releases}


def ingest_burst(run: Run) -> None:
    """Measures durable acknowledgements at full speed for 10 s, by number of connections; at 64 also from a proxy."""
    bench = run.bench
    for connections, sender in ((1, PROVIDER), (16, PROVIDER), (64, PROVIDER), (64, PROXY), (256, PROVIDER)):
        run.measure(
            ingest_title("burst", connections, sender),
            {
                "ceiling": partial(scenarios.ceiling, bench, connections, 10, sender),
                "webhookd": partial(scenarios.ingest, bench, connections, 10, sender=sender),
                "textbook": partial(scenarios.textbook_ingest, bench, connections, 10, sender),
            },
        )


def ingest_sustained(run: Run) -> None:
    """Measures durable acknowledgements for 60 s at 64 connections, from the provider and from a proxy."""
    bench = run.bench
    for sender in (PROVIDER, PROXY):
        ingest = partial(scenarios.ingest, bench, 64, 60, sender=sender)
        run.measure(
            ingest_title("sustained", 64, sender),
            {
                "ceiling": partial(scenarios.ceiling, bench, 64, 10, sender),
                **{release.name: partial(ingest, release=release) for release in bench.releases},
            },
        )


def consume(run: Run) -> None:
    """Measures the way from a queue of 50,000 events to their effects' commit."""
    bench = run.bench
    run.measure(
        CONSUME,
        {
            **by_turns(run, lambda release: scenarios.consume(bench, 50_000, release=release)),
            "webhookd, one event a message": lambda: scenarios.consume(bench, 20_000, bundled=False),
            "textbook": lambda: scenarios.textbook_consume(bench, 20_000),
        },
    )


def database_cost(run: Run) -> None:
    """Measures an event's cost in PostgreSQL, from receipt to processed, with two million stored; also without a timeline."""
    bench = run.bench
    databases = {release.name: bench.database(f"cost_{release.name}", release) for release in bench.releases}
    for release in bench.releases:
        grow(databases[release.name], release.tables, bench.count(2_000_000))  # the aims were set with this number

    def cost(release: Release, *, event_type: str, recorded: bool) -> Figures:
        database = databases[release.name]
        return scenarios.database_cost(
            bench, 30_000, database=database, event_type=event_type, recorded=recorded, release=release
        )

    # Each row has one version here, as loaded. In 0.2.0, updates leave more versions until a vacuum; this figure excludes them.
    disk = by_turns(run, lambda release: {"bytes": disk_bytes(databases[release.name], release.tables)})
    run.measure(DISK, disk, rounds=1)
    # The timeline is the same in both releases. Here each event is the first of its entity, which is the greatest cost.
    for event_type in (AUTHCAPTURE, NOT_ON_TIMELINE):
        for recorded in (False, True):
            title = cost_title(timeline=event_type == AUTHCAPTURE, recorded=recorded)
            run.measure(title, by_turns(run, partial(cost, event_type=event_type, recorded=recorded)))


def end_to_end(run: Run) -> None:
    """Measures from the making of a webhook to its effects' commit: the most that one process does, and a part of that rate."""
    bench = run.bench
    whole = run.measure(CAPACITY, by_turns(run, lambda release: scenarios.capacity(bench, 10, release)))
    cases: dict[str, Callable[[], Figures]] = {}
    for release in bench.releases:
        capacity = statistics.median(whole.results[release.name].figures["per_second"])
        for part in (25, 50, 90) if release is HERE else (25,):
            title = case_title(release, f"at {part} % of capacity")
            cases[title] = partial(scenarios.end_to_end, bench, capacity * part / 100, 15, release)
    run.measure(LATENCY, cases)


def duplicates(run: Run) -> None:
    """Measures a storm of repetitions beside a plain load."""
    run.measure(
        "duplicate storm, 64 connections",
        {
            "plain": lambda: scenarios.ingest(run.bench, 64, 10),
            "90 % duplicates": lambda: scenarios.ingest(run.bench, 64, 10, duplicates=0.9),
        },
    )


def backlog(run: Run) -> None:
    """Measures a million events waiting in PostgreSQL and a hundred thousand in SQS."""
    run.measure("backlog", {"webhookd": lambda: scenarios.backlog(run.bench, 1_000_000, 100_000)}, rounds=1)


def cost_growth(run: Run) -> None:
    """Measures ingest and consume with nothing stored, and with much (`--stored`), its ages spread over the retention."""
    bench = run.bench
    databases = {release.name: bench.database(f"growth_{release.name}", release) for release in bench.releases}

    def ingest(release: Release, *, stored: bool, warm: float) -> Figures:
        database = databases[release.name] if stored else None
        return scenarios.ingest(bench, 64, 10, release=release, database=database, warm=warm)

    def consume(release: Release, *, stored: bool) -> Figures:
        database = databases[release.name] if stored else None
        return scenarios.consume(bench, 20_000, release=release, database=database)

    for count in run.stored:
        for release in bench.releases:
            grow(databases[release.name], release.tables, bench.count(count))
        much = f"{count:,} stored"
        run.measure(
            growth_title(count),
            {
                # Both kinds of ingest warm up, since sends are recorded from the fifth second on. With much stored, the warm-up
                # is long enough for each page of the indexes to have been written since the checkpoint.
                **by_turns(run, partial(ingest, stored=False, warm=15), "ingest, nothing stored"),
                **by_turns(run, partial(ingest, stored=True, warm=90), f"ingest, {much}"),
                **by_turns(run, partial(ingest, stored=True, warm=0), f"ingest, {much}, just after a checkpoint"),
                **by_turns(run, partial(consume, stored=False), "consume, nothing stored"),
                **by_turns(run, partial(consume, stored=True), f"consume, {much}"),
            },
        )


def operator_calls(run: Run) -> None:
    """Measures every list, search and statistics call of the operator's API with the largest number in `--stored`."""
    stored = run.stored[-1]
    run.measure(calls_title(stored), {"webhookd": lambda: scenarios.operator_calls(run.bench, stored)}, rounds=1)


def replicas(run: Run) -> None:
    """Measures one daemon and two daemons, on all cores."""
    bench = run.bench
    run.measure(
        REPLICAS,
        {
            **by_turns(run, lambda release: scenarios.side_by_side(bench, 1, 10, release), "one, ingest"),
            **by_turns(run, lambda release: scenarios.side_by_side(bench, 2, 10, release), "two, ingest"),
            **by_turns(run, lambda release: scenarios.consume(bench, 30_000, release=release, pinned=False), "one, consume"),
            **by_turns(run, lambda release: scenarios.consume(bench, 30_000, release=release, replicas=2), "two, consume"),
        },
    )


def deliver(run: Run) -> None:
    """Measures 100,000 deliveries that wait for a destination, also after an outage, beside a plain client."""
    bench = run.bench
    run.measure(
        DELIVER,
        {
            CLIENT: lambda: deliveries.client_loop(bench, 50_000),
            "webhookd": lambda: deliveries.drain(bench, 100_000),
            "webhookd, after an outage": lambda: deliveries.drain(bench, 100_000, after_outage=True),
        },
    )


def settled(run: Run) -> None:
    """Measures a merchant with 10,000 transactions a day (`--days`): the sweep from nothing, and the report over all days."""
    bench, days = run.bench, run.days
    calls: dict[str, Figures] = {}

    def noted(name: str, case: Callable[[], tuple[Figures, Figures]]) -> Figures:
        figures, calls[name] = case()
        return figures

    with settlement.merchant(bench, days) as provider:
        sweep = partial(settlement.sweep, bench, provider)
        cases = {
            "webhookd": partial(sweep, "settlement"),
            "webhookd, killed": partial(sweep, "settlement_killed", killed=True),
            NIGHTLY: partial(settlement.nightly_job, bench, provider),
        }
        run.measure(sweep_title(days), {name: partial(noted, name, case) for name, case in cases.items()}, rounds=1)
        run.measure(sweep_calls_title(days), {name: partial(calls.__getitem__, name) for name in cases}, rounds=1)
        database = bench.url("settlement")
        reconciled.keep_books(database)
        run.measure(stored_title(days), settlement.tables(database), rounds=1)
        run.measure(
            reconcile_title(days),
            {
                "webhookd": lambda: reconciled.report(bench, provider, database),
                FLOOR: lambda: reconciled.floor(bench, provider, database),
            },
        )


SCENARIOS = {
    "ingest-burst": ingest_burst,
    "ingest-sustained": ingest_sustained,
    "consume": consume,
    "database-cost": database_cost,
    "end-to-end": end_to_end,
    "duplicates": duplicates,
    "replicas": replicas,
    "backlog": backlog,
    "cost-growth": cost_growth,
    "operator-calls": operator_calls,
    "deliver": deliver,
    "settlement": settled,
}


def _counts(text: str) -> list[int]:
    return [int(count) for count in text.split(",")]


def main() -> int:
    """Runs the bench; prints the tables; writes JSON and a chart."""
    listed = "".join(f"\n  {name}: {scenario.__doc__}" for name, scenario in SCENARIOS.items())
    parser = argparse.ArgumentParser(
        prog="make bench ARGS=",
        description=f"{__doc__}\nScenarios:{listed}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("scenarios", nargs="*", choices=[[], *SCENARIOS], default=[], help="default: all")
    parser.add_argument("--rounds", type=int, default=3, help="number of runs of each scenario (default: 3)")
    parser.add_argument("--quick", action="store_true", help="run for seconds only, to show that it works")
    parser.add_argument("--alone", action="store_true", help=f"leave out {BEFORE}, the release before")
    default = "1000000,10000000"
    parser.add_argument("--stored", type=_counts, default=default, help=f"events stored before the run (default: {default})")
    parser.add_argument("--days", type=int, default=60, help="days of the scenario settlement (default: 60)")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of JSON and chart (default: tests/bench/results)")
    parser.add_argument("--folder", type=Path, help="folder for the servers' data (default: a temporary one)")
    given = parser.parse_args()
    try:
        release = None if given.alone else before()
    except ReleaseError as error:
        parser.error(str(error))
    # Keep the first core for the process under measurement. Everything that is started from here inherits the other cores.
    psutil.Process().cpu_affinity(CORES[1:] or CORES)
    with tempfile.TemporaryDirectory(prefix="webhookd-bench-") as temporary:
        folder = given.folder or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        with servers(folder) as started:
            os.environ["SQS_ENDPOINT_URL"] = started.sqs.url
            # A stop waits until a long poll ends.
            settings = {"SQS_WAIT": "1"} if given.quick else {}
            bench = Bench(started, folder, quick=given.quick, before=release, settings=settings)
            run = Run(bench, given.rounds, given.stored, given.days)
            about = machine(started, release)
            for name in given.scenarios or SCENARIOS:
                SCENARIOS[name](run)
                # Save after each scenario, so that a failure in a later scenario loses no result.
                measured = save(given.results, about, run.tables, quick=given.quick)
    print_tables(about, run.tables)
    print(markdown(reached(measured)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
