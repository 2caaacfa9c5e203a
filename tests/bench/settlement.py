"""The scenario of the settlement: a sweep of a merchant's last days from nothing, also with a process that is killed.

The provider is `merchant`, over a socket of this machine. webhookd's calls have the highest rate that the setting allows, so
that the wall time shows webhookd's own work. The time that the calls take at the default rate is computed from their number.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from tests.bench.bench import Bench, Figures, until
from tests.bench.merchant import ZONE, login
from tests.bench.meter import Meter
from tests.bench.processes import CORES, Target, Webhookd, running
from tests.helpers.database import connect
from webhookd.authorizenet.api.limits import BURST
from webhookd.dev.servers import free_port
from webhookd.settings.provider import ProviderSettings

A_DAY = 10_000
_RATE = float(ProviderSettings.model_fields["provider_rate"].default)  # calls a second
_FASTEST = "100"  # calls a second, the most that the setting allows
_SAMPLE = 5_000  # calls of the textbook job that are really made
_HISTORY = "REST /rest/v1/notifications"  # the comparison with the history is another job of the process
# Column of the table → the call.
_KINDS = {
    "batch_lists": "getSettledBatchListRequest",
    "lists": "getTransactionListRequest",
    "unsettled": "getUnsettledTransactionListRequest",
    "details": "getTransactionDetailsRequest",
}
_TABLES = (
    "provider_transactions",
    "provider_batches",
    "provider_sweeps",
    "provider_days",
    "reconciled_days",
    "timeline",
    "ledger",
)

_BEGIN = """
INSERT INTO webhookd.provider_accounts (account, compared_from) VALUES ('default', now() - interval '{days} days');
INSERT INTO webhookd.provider_sweeps (account, swept_from) VALUES ('default', now() - interval '{days} days')
"""
_STATE = """
SELECT
    (SELECT count(*) FROM webhookd.provider_batches WHERE looked_at IS NOT NULL) AS read,
    EXISTS (SELECT FROM webhookd.provider_sweeps WHERE swept_at IS NOT NULL AND unsettled_at IS NOT NULL) AS done
"""
_FOUND = """
SELECT count(*) FILTER (WHERE batch_id IS NOT NULL) AS settled, count(*) FILTER (WHERE batch_id IS NULL) AS unsettled,
    coalesce(sum(amount) FILTER (WHERE state = 'settled'), 0) AS charged,
    (SELECT count(*) FROM webhookd.provider_batches WHERE reasons <> '{}') AS open
FROM webhookd.provider_transactions
"""
_FREE = "UPDATE webhookd.provider_accounts SET held_until = '-infinity'"


@dataclass(slots=True, frozen=True)
class Merchant:
    """A running provider with a merchant's books."""

    url: str
    books: dict[str, Any]
    days: int
    settings: dict[str, Any]

    def calls(self) -> dict[str, list[int]]:
        """Returns the calls since the last look: {name: [calls, calls that were made before]}."""
        return dict(_get(f"{self.url}/calls"))


def _get(url: str) -> Any:
    with urllib.request.urlopen(url, timeout=60) as answer:
        return json.load(answer)


@contextmanager
def merchant(bench: Bench, days: int) -> Iterator[Merchant]:
    """Runs a provider with the books of so many days; in a quick run, with 3 days of 200 transactions."""
    days, a_day = (3, 200) if bench.quick else (days, A_DAY)
    url, log = f"http://127.0.0.1:{(port := free_port(0))}", bench.folder / "merchant.log"
    log.unlink(missing_ok=True)
    command = [sys.executable, "-m", "tests.bench.merchant", "--port", str(port), "--days", str(days), "--a-day", str(a_day)]
    target = Target(command, {}, log)
    target.process.cpu_affinity(CORES[1:] or CORES)
    books: dict[str, Any] = {}

    def answers() -> bool:
        try:
            books.update(_get(f"{url}/books"))
        except OSError:
            return False
        return True

    own = login()
    settings = {
        "provider": url,
        "api_login_id": own.login_id,
        "transaction_key": own.transaction_key,
        "provider_rate": _FASTEST,
        "settlement_every": "1",
        "gap_every": "3600",
        "webhook_guardian": "off",
        "time_zone": ZONE.key,  # the sweep asks for it after some minutes only
    }
    with running(target):
        target.wait(answers, 600)
        yield Merchant(url, books, days, settings)


# -- the sweep


def sweep(bench: Bench, provider: Merchant, name: str, *, killed: bool = False) -> tuple[Figures, Figures]:
    """Measures the sweep of all days into a fresh database, from the start of the process to the end of the sweep.

    killed: the process is killed when half of the batches are read, and another one goes on.
    rss_quarter_mib: the most memory until a quarter of the batches were read. It shows whether memory grows with the days.
    twice: calls that were made before, with the same fields.
    Returns these figures, and the number of calls by kind.
    """
    database, queues = bench.database(name), bench.queues()
    asyncio.run(execute(database, _BEGIN.format(days=provider.days + 3)))
    provider.calls()
    half = provider.books["batches"] / 2
    began, spent, memory = time.perf_counter(), 0.0, [0.0]
    with Meter(bench.servers.postgresql, database) as meter:
        if killed:
            with running(_start(bench, database, queues, provider)) as daemon:
                until(lambda: row(database, _STATE)["read"] >= half, 7200, every=0.1)
                spent, memory = daemon.processor_seconds, [daemon.peak_memory]
                daemon.kill()
            asyncio.run(execute(database, _FREE))  # the lease of the killed process would hold for 45 s
            if row(database, _STATE)["done"]:
                raise RuntimeError("the sweep had ended before its process was killed")
        with running(_start(bench, database, queues, provider)) as daemon:
            until(lambda: row(database, _STATE)["read"] >= half / 2, 7200, every=0.5)
            quarter = daemon.peak_memory
            until(lambda: row(database, _STATE)["done"], 7200, every=0.5)
            seconds = time.perf_counter() - began
            spent, memory = spent + daemon.processor_seconds, [*memory, daemon.peak_memory]
    _check(provider, row(database, _FOUND))
    made = {call: counts for call, counts in provider.calls().items() if call != _HISTORY}
    calls = sum(count for count, _ in made.values())
    figures = {
        "seconds": seconds,
        "minutes_at_default_rate": _minutes(calls),
        "calls": calls,
        "twice": sum(again for _, again in made.values()),
        "cpu_s": spent,
        "pg_cpu_s": meter.per_event(1)["pg_cpu_us"] / 1e6,
        "wal_mib": meter.per_event(1)["wal_bytes"] / 2**20,
        "rss_mib": max(memory),
        **({} if killed else {"rss_quarter_mib": quarter}),
    }
    kinds: Figures = {column: made.get(call, [0])[0] for column, call in _KINDS.items()}
    return figures, {**kinds, "other": calls - sum(kinds.values())}


def _start(bench: Bench, database: str, queues: tuple[str, str], provider: Merchant) -> Webhookd:
    return bench.webhookd(database, queues, roles="sync", **provider.settings)


def _minutes(calls: float) -> float:
    """Returns the minutes in which the account's token bucket lets so many calls pass at the default rate."""
    return max(0.0, calls - BURST) / _RATE / 60


def _check(provider: Merchant, found: Any) -> None:
    """Raises RuntimeError if the sweep has found other books than the provider's."""
    wanted = [provider.books["settled"], provider.books["unsettled"], Decimal(provider.books["charged"]), 0]
    if list(found) != wanted:
        raise RuntimeError(f"the sweep found {list(found)}, and the books have {wanted}")


def nightly_job(bench: Bench, provider: Merchant) -> tuple[Figures, Figures]:
    """Computes what a call for each transaction takes, from a measured sample of these calls. Nothing is stored here."""
    log = bench.folder / "nightly_job.log"
    log.unlink(missing_ok=True)
    sample = bench.count(_SAMPLE)
    command = [sys.executable, "-m", "tests.bench.baselines.nightly_job", "--url", f"{provider.url}/xml/v1/request.api"]
    command += ["--login-id", provider.settings["api_login_id"], "--key", provider.settings["transaction_key"]]
    with running(Target([*command, "--days", str(provider.days), "--sample", str(sample)], {}, log)) as target:
        made = target.result(600)
    kinds: Figures = {
        "batch_lists": -(-(provider.days + 3) // 30),
        "lists": provider.books["pages"],
        "details": provider.books["settled"],
    }
    calls = sum(kinds.values())
    figures = {
        "seconds": made["seconds"] / made["listed"] * calls,
        "minutes_at_default_rate": _minutes(calls),
        "calls": calls,
        "sampled": made["listed"],
    }
    return figures, kinds


def tables(database: str) -> dict[str, Callable[[], Figures]]:
    """Returns a case for each table: its rows, and its MiB with indexes."""

    def size(name: str) -> Figures:
        found = row(database, f"SELECT count(*), pg_total_relation_size('webhookd.{name}') FROM webhookd.{name}")
        return {"rows": found[0], "mib": found[1] / 2**20}

    return {name: lambda name=name: size(name) for name in _TABLES}  # type: ignore[misc]


async def execute(database: str, statement: str) -> None:
    """Executes a statement."""
    connection = await connect(database)
    try:
        await connection.execute(statement, timeout=3600)
    finally:
        await connection.close()


def row(database: str, statement: str) -> Any:
    """Returns the row of a statement."""

    async def read() -> Any:
        connection = await connect(database)
        try:
            return await connection.fetchrow(statement, timeout=600)
        finally:
            await connection.close()

    return asyncio.run(read())
