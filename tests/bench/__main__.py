"""`make bench`: every scenario several times, webhookd and the baselines by turns, and what came of them.

By turns, because the speed of a virtual machine changes from minute to minute: only what ran side by side can be compared,
so each ratio is taken within a round, and the median is that of the rounds' ratios.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import psutil

from tests.bench import scenarios
from tests.bench.load import PROVIDER, PROXY
from tests.bench.processes import CORES
from tests.bench.report import Result, Table, machine, print_tables, save
from tests.bench.scenarios import Bench, Figures
from tests.bench.servers import servers
from tests.bench.summary import ingest_title

RESULTS = Path(__file__).parent / "results"


class Run:
    """One run of the bench: rounds of scenarios, and the figures of each."""

    def __init__(self, bench: Bench, rounds: int) -> None:
        self.bench = bench
        self.rounds = 1 if bench.quick else rounds
        self.tables: list[Table] = []

    def measure(self, title: str, cases: dict[str, Callable[[], Figures]], rounds: int | None = None) -> Table:
        """Runs `cases` by turns; a table of their figures, round by round."""
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


def ingest_burst(run: Run) -> None:
    """Durable acknowledgements by concurrency, as fast as they come, for 10 s; at 64 connections from a proxy, too."""
    bench = run.bench
    for connections, sender in ((1, PROVIDER), (16, PROVIDER), (64, PROVIDER), (64, PROXY), (256, PROVIDER)):
        run.measure(
            ingest_title("burst", connections, sender),
            {
                "ceiling": lambda c=connections, s=sender: scenarios.ceiling(bench, c, 10, s),  # type: ignore[misc]
                "webhookd": lambda c=connections, s=sender: scenarios.ingest(bench, c, 10, sender=s),  # type: ignore[misc]
                "textbook": lambda c=connections, s=sender: scenarios.textbook_ingest(bench, c, 10, s),  # type: ignore[misc]
            },
        )


def ingest_sustained(run: Run) -> None:
    """Durable acknowledgements for 60 s at 64 connections, from the provider and from a proxy."""
    for sender in (PROVIDER, PROXY):
        run.measure(
            ingest_title("sustained", 64, sender),
            {
                "ceiling": lambda s=sender: scenarios.ceiling(run.bench, 64, 10, s),  # type: ignore[misc]
                "webhookd": lambda s=sender: scenarios.ingest(run.bench, 64, 60, sender=s),  # type: ignore[misc]
            },
        )


def consume(run: Run) -> None:
    """From a queue of 50,000 events to their effects' commit."""
    bench = run.bench
    run.measure(
        "consume, 50,000 events",
        {
            "webhookd": lambda: scenarios.consume(bench, 50_000),
            "webhookd, one event a message": lambda: scenarios.consume(bench, 20_000, bundled=False),
            "textbook": lambda: scenarios.textbook_consume(bench, 20_000),
        },
    )


def end_to_end(run: Run) -> None:
    """From the making of a webhook to its effects' commit, at a part of the capacity."""
    bench = run.bench
    whole = run.measure("end to end, capacity", {"webhookd": lambda: scenarios.capacity(bench, 10)})
    capacity = statistics.median(whole.results["webhookd"].figures["per_second"])
    run.measure(
        "end to end, latency",
        {
            f"at {part} % of capacity": lambda part=part: scenarios.end_to_end(bench, capacity * part / 100, 15)  # type: ignore[misc]
            for part in (25, 50, 90)
        },
    )


def duplicates(run: Run) -> None:
    """A storm of repetitions, beside a plain load."""
    run.measure(
        "duplicate storm, 64 connections",
        {
            "plain": lambda: scenarios.ingest(run.bench, 64, 10),
            "90 % duplicates": lambda: scenarios.ingest(run.bench, 64, 10, duplicates=0.9),
        },
    )


def backlog(run: Run) -> None:
    """A million events waiting in PostgreSQL, a hundred thousand in SQS."""
    run.measure("backlog", {"webhookd": lambda: scenarios.backlog(run.bench, 1_000_000, 100_000)}, rounds=1)


def cost_growth(run: Run) -> None:
    """Ingest and consume with nothing stored, and with much."""
    bench = run.bench
    database = bench.database("growth")
    for stored in (1_000_000, 10_000_000):
        scenarios.grow(database, bench.count(stored))
        much = f"{stored:,} stored"
        run.measure(
            f"cost growth, {much}",
            {
                # Both warm, since sends are recorded from the fifth second on; with much stored, long enough for each page
                # of the indexes to have been written since the checkpoint.
                "ingest, nothing stored": lambda: scenarios.ingest(bench, 64, 10, warm=15),
                f"ingest, {much}": lambda: scenarios.ingest(bench, 64, 10, database=database, warm=90),
                f"ingest, {much}, just after a checkpoint": lambda: scenarios.ingest(bench, 64, 10, database=database),
                "consume, nothing stored": lambda: scenarios.consume(bench, 20_000),
                f"consume, {much}": lambda: scenarios.consume(bench, 20_000, database=database),
            },
        )


def replicas(run: Run) -> None:
    """One daemon and two, on all cores."""
    bench = run.bench
    run.measure(
        "replicas",
        {
            "one, ingest": lambda: scenarios.side_by_side(bench, 1, 10),
            "two, ingest": lambda: scenarios.side_by_side(bench, 2, 10),
            "one, consume": lambda: scenarios.consume(bench, 30_000, pinned=False),
            "two, consume": lambda: scenarios.consume(bench, 30_000, replicas=2),
        },
    )


SCENARIOS = {
    "ingest-burst": ingest_burst,
    "ingest-sustained": ingest_sustained,
    "consume": consume,
    "end-to-end": end_to_end,
    "duplicates": duplicates,
    "replicas": replicas,
    "backlog": backlog,
    "cost-growth": cost_growth,
}


def main() -> int:
    """Runs; prints the tables; writes JSON and a chart."""
    listed = "".join(f"\n  {name}: {scenario.__doc__}" for name, scenario in SCENARIOS.items())
    parser = argparse.ArgumentParser(
        prog="make bench ARGS=",
        description=f"{__doc__}\nScenarios:{listed}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("scenarios", nargs="*", choices=[[], *SCENARIOS], default=[], help="all of them when none is named")
    parser.add_argument("--rounds", type=int, default=3, help="how often each is run (default: 3)")
    parser.add_argument("--quick", action="store_true", help="seconds, not minutes: shows that it works, measures nothing")
    parser.add_argument("--results", type=Path, default=RESULTS, help="where JSON and chart go (default: tests/bench/results)")
    parser.add_argument("--folder", type=Path, help="where the servers keep their data (default: a temporary folder)")
    given = parser.parse_args()
    # The cores of what is measured are its own; everything that is started from here inherits the others.
    psutil.Process().cpu_affinity(CORES[1:] or CORES)
    with tempfile.TemporaryDirectory(prefix="webhookd-bench-") as temporary:
        folder = given.folder or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        with servers(folder) as started:
            os.environ["SQS_ENDPOINT_URL"] = started.sqs.url
            run = Run(Bench(started, folder, quick=given.quick), given.rounds)
            about = machine(started)
            for name in given.scenarios or SCENARIOS:
                SCENARIOS[name](run)
                save(given.results, about, run.tables, quick=given.quick)  # after each, so that none is lost with a later one
    print_tables(about, run.tables)
    return 0


if __name__ == "__main__":
    sys.exit(main())
