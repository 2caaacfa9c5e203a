"""The tables of the guide's page on sizes, computed from the results of the last bench by the formulas of that page."""

from __future__ import annotations

import json
import math
from typing import Any

from tests.bench.load import PROVIDER
from tests.bench.summary import RESULTS
from tests.bench.titles import CAPACITY, CONSUME, DISK, cost_title, ingest_title
from webhookd.settings import Settings

_RATES = ((20, "20 events a day"), (86_400, "1 a second"), (50 * 86_400, "50 a second"), (500 * 86_400, "500 a second"))
_SPARE = 0.5  # part of its capacity that a process should use at the peak
_DAY = 86_400  # seconds
_LEAST_REPLICAS = 2


def _median(told: dict[str, Any], scenario: str, figure: str) -> float:
    return float(told["scenarios"][scenario]["webhookd"][figure]["median"])


def measured(told: dict[str, Any]) -> str:
    """Returns Markdown: the figures that the formulas use, each with the commit of its run."""
    ingest, cost = ingest_title("sustained", 64, PROVIDER), cost_title(timeline=True, recorded=True)
    rows = (
        ("*most*: events a second, end to end, in one process", f"{_median(told, CAPACITY, 'per_second'):,.0f}", CAPACITY),
        ("*receive*: CPU of webhookd for a webhook", f"{_median(told, ingest, 'cpu_us'):.0f} µs", ingest),
        ("*work*: CPU of webhookd for an event without handlers", f"{_median(told, CONSUME, 'cpu_us'):.0f} µs", CONSUME),
        ("*database*: CPU of PostgreSQL for an event", f"{_median(told, cost, 'pg_cpu_us'):.0f} µs", cost),
        ("*wal*: WAL of an event", f"{_median(told, cost, 'wal_bytes'):,.0f} bytes", cost),
        ("*disk*: disk of a stored event, with its indexes", f"{_median(told, DISK, 'bytes'):,.0f} bytes", DISK),
    )
    lines = ["| figure | measured | by the scenario | at commit |", "|---|---|---|---|"]
    lines += [f"| {name} | {value} | {scenario} | {told['commits'][scenario]} |" for name, value, scenario in rows]
    return "\n".join(lines) + "\n"


def needed(told: dict[str, Any]) -> str:
    """Returns Markdown: what some rates need, by the formulas."""
    most = _median(told, CAPACITY, "per_second")
    own = _median(told, ingest_title("sustained", 64, PROVIDER), "cpu_us") + _median(told, CONSUME, "cpu_us")
    cost = cost_title(timeline=True, recorded=True)
    concurrency = int(Settings.model_fields["concurrency"].default)
    days = float(Settings.model_fields["event_retention"].default) / _DAY
    lines = [
        "| events | replicas | cores of webhookd | cores of PostgreSQL | WAL a day | disk in the end | connections |",
        "|---|---|---|---|---|---|---|",
    ]
    for a_day, name in _RATES:
        rate = a_day / _DAY
        replicas = max(_LEAST_REPLICAS, math.ceil(rate / (_SPARE * most)))
        cells = (
            name,
            str(replicas),
            _cores(rate * own),
            _cores(rate * _median(told, cost, "pg_cpu_us")),
            _bytes(a_day * _median(told, cost, "wal_bytes")),
            _bytes(a_day * days * _median(told, DISK, "bytes")),
            str((concurrency + 17) * (replicas + 1) + 20),
        )
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def last_measured() -> str:
    """Returns the figures of the run whose results are kept here."""
    return measured(json.loads(RESULTS.read_text()))


def last_needed() -> str:
    """Returns what some rates need, by the run whose results are kept here."""
    return needed(json.loads(RESULTS.read_text()))


def _cores(microseconds: float) -> str:
    cores = microseconds / 1e6
    return f"{cores:.2f}" if cores >= 0.01 else "< 0.01"


def _bytes(count: float) -> str:
    for unit in ("kB", "MB", "GB"):
        count /= 1000
        if count < 1000:
            return f"{count:.0f} {unit}" if count >= 10 else f"{count:.1f} {unit}"
    return f"{count / 1000:.1f} TB"
