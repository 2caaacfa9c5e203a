"""Measures every list and stats call of the admin API over HTTP, on many events, with many filters and places.

As in `make bench`, PostgreSQL commits durably and the daemon has a core of its own. Calls are made one at a time.
"""

from __future__ import annotations

import argparse
import asyncio
import http.client
import itertools
import json
import os
import statistics
import sys
import tempfile
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode, urlsplit
from uuid import UUID

import asyncpg
import psutil
from rich.console import Console
from rich.table import Table

from tests.bench import events
from tests.bench.bench import Bench
from tests.bench.processes import CORES, running
from tests.bench.servers import servers
from tests.helpers.database import connect
from webhookd.operate.cursor import Cursor

AIM = 50.0  # ms, at the 95th percentile
_WARM = 5  # uncounted calls of each case: they read plans and pages for the first time
_WINDOWS = (900, 3600, 86_400, 604_800, 7_776_000)
_PAGES = 40  # pages that are followed in a list


@dataclass(slots=True)
class Case:
    """Calls of one kind. `paths` are called in turn; with `follow`, page by page."""

    name: str
    paths: list[str]
    follow: bool = False
    milliseconds: list[float] = field(default_factory=list)
    rows: int = 0
    bytes: int = 0

    @property
    def p50(self) -> float:
        """Returns the median in milliseconds."""
        return statistics.median(self.milliseconds)

    @property
    def p95(self) -> float:
        """Returns the 95th percentile in milliseconds."""
        return statistics.quantiles(self.milliseconds, n=20, method="inclusive")[-1]


class Client:
    """One connection to the admin listener."""

    def __init__(self, url: str, token: str) -> None:
        self._connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=60)
        self._headers = {"Authorization": f"Bearer {token}"}

    def get(self, path: str) -> tuple[float, bytes]:
        """Returns the milliseconds to the answer's last byte, and the answer. Raises RuntimeError if its status is not 200."""
        started = time.perf_counter()
        self._connection.request("GET", path, headers=self._headers)
        answer = self._connection.getresponse()
        body = answer.read()
        taken = (time.perf_counter() - started) * 1000
        if answer.status != 200:
            raise RuntimeError(f"{path}: {answer.status} {body[:300]!r}")
        return taken, body


def measure(client: Client, case: Case, calls: int) -> None:
    """Makes the calls of a case."""
    paths = itertools.cycle(case.paths)
    path, page = next(paths), 0
    for number in range(-_WARM, calls):
        taken, body = client.get(path)
        answer = json.loads(body)
        if number >= 0:
            case.milliseconds.append(taken)
            case.bytes = max(case.bytes, len(body))
            rows: list[Any] = next(
                (answer[name] for name in ("events", "bodies", "operations", "series") if name in answer), []
            )
            case.rows = max(case.rows, len(rows))
        page += 1
        if case.follow and answer["next"] is not None and page < _PAGES:
            path = f"{path.partition('&cursor=')[0]}&cursor={answer['next']}"
        else:
            path, page = next(paths), 0


async def samples(url: str) -> dict[str, list[Any]]:
    """Returns sample rows from all over the database, whose values the calls ask for."""
    connection = await connect(url)
    try:
        low, high = (
            await connection.fetchval("SELECT id FROM events ORDER BY id LIMIT 1"),
            await connection.fetchval("SELECT id FROM events ORDER BY id DESC LIMIT 1"),
        )
        found: dict[str, list[Any]] = {name: [] for name in ("rows", "transactions", "subscriptions", "aliases", "dead")}
        for part in range(25):
            place = UUID(int=low.int + (high.int - low.int) * part // 25)
            for name, also in (
                ("rows", "invoice_number IS NOT NULL AND merchant_reference IS NOT NULL"),
                ("transactions", "entity_name = 'transaction'"),
                ("subscriptions", "entity_name = 'subscription'"),
                ("dead", "status = 'dead'"),
            ):
                row = await connection.fetchrow(f"SELECT * FROM events WHERE id >= $1 AND {also} ORDER BY id LIMIT 1", place)
                if row is not None:
                    found[name].append(row)
        found["aliases"] = await connection.fetch("SELECT * FROM notification_aliases LIMIT 25")
        found["quarantine"] = await connection.fetch("SELECT * FROM quarantine LIMIT 25")
        return found
    finally:
        await connection.close()


def cases(found: dict[str, list[Any]]) -> list[Case]:
    """Returns a case for every list and stats call."""
    made: list[Case] = []
    rows = found["rows"]

    def listed(name: str, path: str, *, follow: bool = True, **query: Any) -> None:
        made.append(Case(name, [f"{path}?{urlencode({'limit': 50} | query, doseq=True)}"], follow))

    def each(name: str, paths: list[str]) -> None:
        made.append(Case(name, paths))

    path = "/webhooks/events"
    now = datetime.now(UTC)
    ago = {days: (now - timedelta(days=days)).isoformat().replace("+00:00", "Z") for days in (1, 7, 30, 59, 90)}
    listed("events", path, follow=False)
    listed("events, page by page", path)
    listed("events, 200 a page", path, limit=200)
    each("events, deep pages", [f"{path}?limit=200&cursor={Cursor(row['received_at'], row['id']).encode()}" for row in rows])
    for status in ("received", "queued", "retrying", "processed", "dead"):
        listed(f"events, {status}", path, status=status, limit=200)
    listed("events, unfinished", path, status=["received", "queued", "retrying"])
    listed("events, retrying or dead", path, status=["retrying", "dead"])
    listed("events, processed or dead", path, status=["processed", "dead"])
    for name, pattern in {
        "a frequent type": "payment.authcapture.created",
        "a rare type": events.RARE_TYPE,
        "types by pattern": "customer.subscription.*",
        "a type that nobody has": "payment.nothing.*",
    }.items():
        listed(f"events, {name}", path, event_type=pattern, limit=200)
        listed(f"events, {name}, dead", path, event_type=pattern, status="dead", limit=200)
    listed("events, 50 types", path, event_type=[f"*.nothing{n}.*" for n in range(50)])
    for account in ("default", "travel", events.RARE_ACCOUNT, events.CLOSED_ACCOUNT, "nobody"):
        listed(f"events, account {account}", path, account=account, limit=200)
        listed(f"events, account {account}, not ended", path, account=account, status=["received", "retrying", "dead"])
    listed("events, of a day", path, received_from=ago[30], received_to=ago[7])
    listed("events, before the first", path, received_to=ago[90])
    listed("events, of long ago, a rare type", path, received_to=ago[59], event_type=events.RARE_TYPE)
    listed("events, dead, of a range", path, status="dead", received_from=ago[30], received_to=ago[7])
    listed(
        "events, all together",
        path,
        account="shop",
        status=["processed", "retrying"],
        event_type="*.refund.created",
        received_from=ago[30],
        received_to=ago[1],
    )
    for name in ("entity_id", "invoice_number", "merchant_reference", "notification_id"):
        each(f"events, by {name}", [f"{path}?{name}={quote(row[name])}" for row in rows])
        each(f"events, by unknown {name}", [f"{path}?{name}=nothing"])
        each(f"events, q: {name}", [f"{path}?q={quote(row[name])}" for row in rows])
    each(
        "events, by entity, type and account",
        [f"{path}?entity_id={row['entity_id']}&event_type=*void*&account=shop" for row in rows],
    )
    each("events, q: id", [f"{path}?q={row['id']}" for row in rows])
    each("events, q: alias", [f"{path}?q={row['notification_id']}" for row in found["aliases"]])
    each("events, q: unknown", [f"{path}?q={key}" for key in ("nothing", "00000000-0000-4000-8000-000000000000", "7")])
    each("event", [f"{path}/{row['id']}" for row in rows])
    each("event, dead", [f"{path}/{row['id']}" for row in found["dead"]])

    path = "/webhooks/dead-letters"
    listed("dead letters", path)
    listed("dead letters, 200 a page", path, limit=200)
    listed("dead letters, a frequent reason", path, reason="gave up", limit=200)
    listed("dead letters, one reason", path, reason="connection unexpectedly")
    listed("dead letters, a reason that nobody has", path, reason="out of paper")
    listed("dead letters, a rare type", path, event_type=events.RARE_TYPE)
    listed("dead letters, account of few", path, account=events.RARE_ACCOUNT)
    listed("dead letters, of a range", path, died_from=ago[30], died_to=ago[7])
    listed("dead letters, discarded", path, discarded="true")
    each("dead letter", [f"{path}/{row['id']}" for row in found["dead"]])

    path = "/webhooks/quarantine"
    for state in ("waiting", "released", "discarded"):
        listed(f"quarantine, {state}", path, state=state, limit=200)
    listed("quarantine, account and reason", path, account="shop", reason="not_json", state="released")
    listed("quarantine, nobody's", path, account="nobody", state="discarded")
    listed("quarantine, of a range", path, received_from=ago[30], received_to=ago[7])
    each("quarantined body", [f"{path}/{row['id']}" for row in found["quarantine"]])

    listed("operations", "/webhooks/operations", limit=200)
    for entity in ("transactions", "subscriptions"):
        named = [f"/webhooks/{entity}/{row['entity_id']}?account={row['account']}" for row in found[entity]]
        each(entity, named)
    for window in _WINDOWS:
        each(f"stats, {window} s", [f"/webhooks/stats?window={window}"])
    each("health", ["/webhooks/health"])
    return made


def print_table(done: list[Case], count: int) -> None:
    """Prints the cases as a table for a person."""
    table = Table(title=f"the admin API with {count:,} events stored, milliseconds")
    table.add_column("call")
    for name in ("p50", "p95", "max", "rows", "KiB", "calls"):
        table.add_column(name, justify="right")
    for case in done:
        style = "bold red" if case.p95 > AIM else None
        figures = [f"{case.p50:.1f}", f"{case.p95:.1f}", f"{max(case.milliseconds):.1f}"]
        table.add_row(case.name, *figures, str(case.rows), f"{case.bytes / 1024:.0f}", str(len(case.milliseconds)), style=style)
    Console(width=100).print(table)
    slow = [case.name for case in done if case.p95 > AIM]
    print(f"above {AIM:.0f} ms at the 95th percentile: {', '.join(slow) or 'none'}")


def main() -> int:
    """Runs the measurement; returns 1 if a call's 95th percentile is above the aim."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.admin", description=__doc__)
    parser.add_argument("--count", type=int, default=1_000_000, help="number of stored events (default: 1000000)")
    parser.add_argument("--calls", type=int, default=100, help="number of calls of each case (default: 100)")
    parser.add_argument("--only", default="", help="run only the cases whose name contains this text")
    parser.add_argument("--json", action="store_true", help="print JSON instead of the table")
    parser.add_argument("--folder", type=Path, help="folder for the servers' data, events included (default: a temporary one)")
    given = parser.parse_args()
    psutil.Process().cpu_affinity(CORES[1:] or CORES)
    with tempfile.TemporaryDirectory(prefix="webhookd-bench-") as temporary:
        folder = given.folder or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        with servers(folder) as started:
            os.environ["SQS_ENDPOINT_URL"] = started.sqs.url
            done = run(Bench(started, folder), given.count, given.calls, given.only)
    if given.json:
        figures = {case.name: {"p50": case.p50, "p95": case.p95, "max": max(case.milliseconds)} for case in done}
        print(json.dumps({"events": given.count, "milliseconds": figures}))
    else:
        print_table(done, given.count)
    return int(any(case.p95 > AIM for case in done))


def run(bench: Bench, count: int, calls: int, only: str = "") -> list[Case]:
    """Loads `count` events, unless an earlier run did so in this folder; makes `calls` of each case with `only` in its name."""
    name = f"admin_{count}"
    database = f"{bench.servers.postgresql.url.rpartition('/')[0]}/{name}"
    if not asyncio.run(_loaded(database, count)):
        bench.database(name)
        asyncio.run(events.load(database, count, lambda line: print(line, file=sys.stderr)))
    token = "a-token-for-the-bench"
    made = [case for case in cases(asyncio.run(samples(database))) if only in case.name]
    # Only the role receive: the relay and the workers would end events that the calls must find unfinished.
    with running(bench.webhookd(database, bench.queues(), roles="receive", read_tokens=token)) as daemon:
        client = Client(daemon.admin, token)
        for case in made:
            if case.paths:
                measure(client, case, calls)
                print(f"{case.name}: p50 {case.p50:.1f}, p95 {case.p95:.1f} ms", file=sys.stderr)
    return [case for case in made if case.milliseconds]


async def _loaded(database: str, count: int) -> bool:
    try:
        connection = await connect(database)
    except asyncpg.InvalidCatalogNameError:
        return False
    try:
        return bool(await connection.fetchval("SELECT count(*) FROM ledger") >= count)
    finally:
        await connection.close()


if __name__ == "__main__":
    sys.exit(main())
