"""The table of a run for the guide, and the README's few figures of the run, made from its `bench.json`."""

from __future__ import annotations

import json
import statistics
from pathlib import Path
from typing import Any

from tests.bench.load import PROVIDER, PROXY, SENDERS
from tests.bench.releases import BEFORE
from tests.bench.titles import (
    CAPACITY,
    CLIENT,
    CONSUME,
    DELIVER,
    LATENCY,
    REPLICAS,
    calls_title,
    cost_title,
    growth_title,
    ingest_title,
)

_COSTS = {"pg_cpu_us": "CPU", "wal_bytes": "WAL"}
RESULTS = Path(__file__).parent / "results" / "bench.json"


class _Medians:
    """The medians of a run's rounds."""

    def __init__(self, scenarios: dict[str, Any]) -> None:
        self._scenarios = scenarios

    def median(self, scenario: str, case: str, figure: str = "per_second") -> float:
        return float(self._scenarios[scenario][case][figure]["median"])

    def ratio(self, scenario: str, case: str, other: str, figure: str = "per_second") -> float:
        """Returns the median of the rounds' ratios of `case` to `other`."""
        mine, theirs = (self._scenarios[scenario][name][figure]["rounds"] for name in (case, other))
        return float(statistics.median(a / b for a, b in zip(mine, theirs, strict=True)))


def figures(told: dict[str, Any]) -> str:
    """Returns Markdown: a table of the five figures that a reader of the README wants to know first."""
    scenarios = told["scenarios"]
    median, ratio = _Medians(scenarios).median, _Medians(scenarios).ratio
    sender = PROXY if ingest_title("burst", 64, PROXY) in scenarios else PROVIDER
    burst, sustained = (ingest_title(kind, 64, sender) for kind in ("burst", "sustained"))
    half = "at 50 % of capacity"
    p50, p99, rate = (median(LATENCY, half, figure) for figure in ("p50_ms", "p99_ms", "rate"))
    rows = (
        (
            "webhooks committed and answered, by 64 connections",
            f"{median(burst, 'webhookd'):,.0f} a second, {ratio(burst, 'webhookd', 'textbook'):.1f} x the textbook",
        ),
        (
            "the same for a minute",
            f"{median(sustained, 'webhookd'):,.0f} a second, {median(sustained, 'webhookd', 'unsent'):,.0f} left in the outbox",
        ),
        (
            "events processed, without handlers",
            f"{median(CONSUME, 'webhookd'):,.0f} a second, {ratio(CONSUME, 'webhookd', 'textbook'):.1f} x the textbook",
        ),
        (
            f"from a webhook to its committed effects, at {rate:,.0f} webhooks a second",
            f"p50 {p50:.0f} ms, p99 {p99:.0f} ms",
        ),
        (
            "a backlog of 1,100,000 events drains",
            f"{median('backlog', 'webhookd'):,.0f} a second, in {median('backlog', 'webhookd', 'rss_mib'):.0f} MiB of memory",
        ),
    )
    return "\n".join(["| measured | webhookd |", "|---|---|", *(f"| {' | '.join(row)} |" for row in rows)]) + "\n"


def summary(told: dict[str, Any]) -> str:
    """Returns Markdown: a line on the machine, and a table of medians. For ratios, it is the median of the rounds' ratios."""
    machine, versions, scenarios = told["machine"], told["versions"], told["scenarios"]
    median, ratio = _Medians(scenarios).median, _Medians(scenarios).ratio

    def times_before(scenario: str) -> str:
        """Returns the ratio of webhookd to the release before, or an empty text if that was not measured."""
        return f", {ratio(scenario, 'webhookd', BEFORE):.2f} x {BEFORE}" if BEFORE in scenarios[scenario] else ""

    rows = []
    for sender in SENDERS:
        for connections in (1, 16, 64, 256):
            name = ingest_title("burst", connections, sender)
            if name not in scenarios:
                continue
            p50, p99 = median(name, "webhookd", "p50_ms"), median(name, "webhookd", "p99_ms")
            ceiling, textbook = (ratio(name, "webhookd", other) for other in ("ceiling", "textbook"))
            rows.append(
                (
                    name.replace("burst", "burst of 10 s"),
                    f"{median(name, 'webhookd'):,.0f}/s, p50 {p50:.1f} ms, p99 {p99:.1f} ms",
                    f"{ceiling:.0%} of the ceiling, {textbook:.1f} x the textbook",
                )
            )
    for sender in SENDERS:
        name = ingest_title("sustained", 64, sender)
        if name not in scenarios:
            continue
        p99, unsent = median(name, "webhookd", "p99_ms"), median(name, "webhookd", "unsent")
        rows.append(
            (
                name.replace("sustained", "sustained for 60 s"),
                f"{median(name, 'webhookd'):,.0f}/s, p99 {p99:.1f} ms, {unsent:,.0f} left in the outbox",
                f"{ratio(name, 'webhookd', 'ceiling'):.0%} of the ceiling{times_before(name)}",
            )
        )
    name = "duplicate storm, 64 connections"
    rows.append(
        (
            "duplicate storm: nine of ten are repetitions",
            f"{median(name, '90 % duplicates'):,.0f}/s",
            f"{ratio(name, '90 % duplicates', 'plain'):.2f} x the same without them",
        )
    )
    name = CONSUME
    one = "webhookd, one event a message"
    rows += [
        (
            "consume: from the queue to the commit of the effects",
            f"{median(name, 'webhookd'):,.0f}/s",
            f"{ratio(name, 'webhookd', 'textbook'):.1f} x the textbook{times_before(name)}",
        ),
        (
            "the same, each event in a message of its own",
            f"{median(name, one):,.0f}/s",
            f"{ratio(name, one, 'textbook'):.1f} x the textbook",
        ),
    ]
    rows.append(
        (
            "end to end, the most that one process does",
            f"{median(CAPACITY, 'webhookd'):,.0f}/s",
            times_before(CAPACITY).removeprefix(", "),
        )
    )
    for part in (25, 50, 90):
        name, case = LATENCY, f"at {part} % of capacity"

        def latency(case: str, name: str = name) -> str:
            return f"p50 {median(name, case, 'p50_ms'):.0f} ms, p99 {median(name, case, 'p99_ms'):.0f} ms"

        before = f"{BEFORE}: {case}"
        beside = f"; {BEFORE} at {part} % of its own: {latency(before)}" if before in scenarios[name] else ""
        rows.append((f"end to end at {median(name, case, 'rate'):,.0f}/s", latency(case), f"{part} % of the most{beside}"))
    for recorded in (False, True):
        name = cost_title(timeline=True, recorded=recorded)
        if name in scenarios:
            cpu, wal = (median(name, "webhookd", figure) for figure in _COSTS)
            beside = ""
            if BEFORE in scenarios[name]:
                times = (f"{what} {ratio(name, 'webhookd', BEFORE, figure):.2f}" for figure, what in _COSTS.items())
                beside = f"{', '.join(times)} x {BEFORE}"
            rows.append(
                (
                    f"PostgreSQL, for an event until it is processed, its send {'recorded' if recorded else 'not recorded'}",
                    f"{cpu:.0f} µs of CPU, {wal:,.0f} bytes of WAL",
                    beside,
                )
            )
    name = "backlog"
    rows.append(
        (
            "a backlog of 1,100,000 events drains",
            f"{median(name, 'webhookd'):,.0f}/s, {median(name, 'webhookd', 'rss_mib'):.0f} MiB resident",
            "",
        )
    )
    for stored in ("1,000,000", "10,000,000"):
        name = growth_title(int(stored.replace(",", "")))
        if name in scenarios:
            ingest, consume, cold = (
                ratio(name, f"{what}, {stored} stored{when}", f"{what}, nothing stored")
                for what, when in (("ingest", ""), ("consume", ""), ("ingest", ", just after a checkpoint"))
            )
            beside = f"ingest {ingest:.2f} x, consume {consume:.2f} x the same with none"
            rows.append((f"with {stored} events stored", "", f"{beside}; ingest {cold:.2f} x just after a checkpoint"))
    for count in (1_000_000, 10_000_000):
        name = calls_title(count)
        if name in scenarios:
            slowest, calls = (median(name, "webhookd", figure) for figure in ("slowest_p95_ms", "calls"))
            rows.append(
                (f"the slowest of {calls:.0f} lists, searches and statistics, {count:,} stored", f"p95 {slowest:.0f} ms", "")
            )
    ingest, consume = (ratio(REPLICAS, f"two, {what}", f"one, {what}") for what in ("ingest", "consume"))
    rows.append(("two replicas on the same two cores", "", f"ingest {ingest:.2f} x, consume {consume:.2f} x one"))
    if DELIVER in scenarios:
        memory, beside_client = median(DELIVER, "webhookd", "rss_mib"), ratio(DELIVER, "webhookd", CLIENT)
        rows.append(
            (
                "100,000 deliveries that wait for one destination",
                f"{median(DELIVER, 'webhookd'):,.0f}/s, {memory:.0f} MiB resident",
                f"{beside_client:.0%} of a plain aiohttp client",
            )
        )
    about = (
        f"{machine['cores']} cores ({machine['processor']}), {machine['memory_gib']} GiB; Python {versions['python']}, "
        f"PostgreSQL {versions['postgresql']}; webhookd at {', '.join(dict.fromkeys(told['commits'].values()))}."
    )
    lines = [about, "", "| what | webhookd | beside it |", "|---|---|---|", *(f"| {' | '.join(row)} |" for row in rows)]
    return "\n".join(lines) + "\n"


def last_run() -> str:
    """Returns the summary of the run whose results are kept here."""
    return summary(json.loads(RESULTS.read_text()))


def last_figures() -> str:
    """Returns the few figures of the run whose results are kept here."""
    return figures(json.loads(RESULTS.read_text()))
