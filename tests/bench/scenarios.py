"""The scenarios. Each is a function that runs once and returns its measurements as {name: number}."""

from __future__ import annotations

import asyncio
import json
import statistics
import sys
import time
import uuid
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from aiobotocore.session import get_session

from tests.bench import admin
from tests.bench.baselines.receiver import SCHEMA
from tests.bench.bench import Bench, Figures, until
from tests.bench.load import AUTHCAPTURE, PROVIDER, PROXY, Report
from tests.bench.meter import Meter
from tests.bench.processes import Target, Webhookd, load, running
from tests.bench.releases import HERE, Release
from tests.bench.stored import grow, settle
from tests.helpers.database import connect
from webhookd.authorizenet import sampling


def _figures(report: Report) -> Figures:
    accepted = sum(report.outcomes.values())
    return {
        "per_second": accepted / report.seconds,
        "p50_ms": report.p50 * 1000,
        "p99_ms": report.p99 * 1000,
        "refused": sum(report.statuses.values()) - accepted,
    }


# -- ingest


def ceiling(bench: Bench, connections: int, seconds: float, sender: str = PROVIDER) -> Figures:
    """Measures the endpoint that only verifies the HMAC and answers."""
    with bench.baseline("ceiling") as url:
        return _figures(load(url, sender=sender, connections=connections, seconds=bench.seconds(seconds)))


def textbook_ingest(bench: Bench, connections: int, seconds: float, sender: str = PROVIDER) -> Figures:
    """Measures the textbook receiver."""
    database, (queue, _) = bench.database("textbook"), bench.queues()
    given: dict[str, Any] = {"DATABASE_URL": database, "SQS_ENDPOINT_URL": bench.servers.sqs.url}
    with bench.baseline("receiver", "--queue", queue, **given) as url:
        return _figures(load(url, sender=sender, connections=connections, seconds=bench.seconds(seconds)))


def ingest(
    bench: Bench,
    connections: int,
    seconds: float,
    *,
    release: Release = HERE,
    database: str | None = None,
    warm: float = 0,
    **options: float | str,
) -> Figures:
    """Measures webhookd's receive and relay: durable acknowledgements, and how many of them were not relayed at the end.

    An unmeasured load of `warm` seconds goes before the measured load. A given `database` comes fresh from a checkpoint.
    """
    used = database or bench.database("webhookd", release)
    with running(bench.webhookd(used, bench.queues(), release, roles="receive,relay")) as daemon:
        if warm:
            load(daemon.url, connections=connections, seconds=bench.seconds(warm), **options)
        before, sent = daemon.processor_seconds, daemon.metric("relayed_total", outcome="sent")
        report = load(daemon.url, connections=connections, seconds=bench.seconds(seconds), **options)
        figures = _figures(report)
        figures["cpu_us"] = (daemon.processor_seconds - before) / max(report.sent, 1) * 1e6
        figures["unsent"] = report.outcomes.get("accepted", 0) - (daemon.metric("relayed_total", outcome="sent") - sent)
        figures["rss_mib"] = daemon.memory
    if database is not None:
        settle(database, release.tables)
    return figures


# -- consume


def consume(
    bench: Bench,
    count: int,
    *,
    release: Release = HERE,
    database: str | None = None,
    bundled: bool = True,
    replicas: int = 1,
    pinned: bool = True,
) -> Figures:
    """Measures webhookd's work: from the start of the daemon's work to the last event, from a queue that its own relay filled.

    With `bundled`, the queue is filled as by heavy load; otherwise with one message for each event, as by light load.
    """
    count = bench.count(count)
    database, queues = database or bench.database("webhookd", release), bench.queues()
    oldest = first_id(time.time())
    _fill(bench, database, queues, count, release, bundled=bundled)
    one = pinned and replicas == 1
    daemons = [bench.webhookd(database, queues, release, roles="work", pinned=one) for _ in range(replicas)]
    try:
        (started,) = asyncio.run(_one(database, "SELECT clock_timestamp()"))  # the daemons are already working
        spent = sum(daemon.processor_seconds for daemon in daemons)
        until(lambda: sum(d.metric("processed_total", outcome="processed") for d in daemons) >= count, 600, every=0.2)
        spent = sum(daemon.processor_seconds for daemon in daemons) - spent
    finally:
        for daemon in daemons:
            daemon.stop()
    done, seconds = asyncio.run(_one(database, _DONE, started, oldest))
    return {"per_second": done / seconds, "cpu_us": spent / done * 1e6}


# Select by ids, since otherwise every stored event would be read.
_DONE = """
SELECT greatest(count(*), 1), coalesce(extract(epoch FROM max(finished_at) - $1)::float8, 1)
FROM events
WHERE id >= $2 AND finished_at > $1
"""


def first_id(instant: float) -> uuid.UUID:
    """Returns a lower bound of the UUIDs version 7 that are made at or after `instant` (seconds since 1970)."""
    return uuid.UUID(int=int(instant * 1000) << 80)


def _fill(bench: Bench, database: str, queues: tuple[str, str], count: int, release: Release, *, bundled: bool) -> None:
    with running(bench.webhookd(database, queues, release, roles="receive,relay")) as daemon:
        left = count
        while left > 0:
            # With two connections, at most ten events are present at a time, so each has a message of its own. The sender is a
            # proxy because it is faster, and only the filling matters here.
            report = load(daemon.url, sender=PROXY, connections=64 if bundled else 2, seconds=600, count=left)
            left -= report.outcomes.get("accepted", 0)
        until(lambda: daemon.metric("relayed_total", outcome="sent") >= count, 120)


def textbook_consume(bench: Bench, count: int) -> Figures:
    """Measures how fast the textbook consumer empties a queue of `count` events."""
    count = bench.count(count)
    database, (queue, _) = bench.database("textbook"), bench.queues()
    asyncio.run(_fill_textbook(database, bench.servers.sqs.url, queue, count))
    given = {"DATABASE_URL": database, "SQS_ENDPOINT_URL": bench.servers.sqs.url}
    log = bench.folder / "consumer.log"
    log.unlink(missing_ok=True)
    command = [sys.executable, "-m", "tests.bench.baselines.consumer", "--queue", queue, "--count", str(count)]
    with running(Target(command, given, log)) as target:
        return {"per_second": count / target.result(600)["seconds"]}


async def _fill_textbook(database: str, endpoint: str, queue: str, count: int) -> None:
    connection = await connect(database)
    await connection.execute(SCHEMA)
    samples = (sampling.sample(AUTHCAPTURE, number) for number in range(1, count + 1))
    rows = [(uuid.uuid4(), sample.notification_id, sample.event_type, sample.body) for sample in samples]
    columns = ["id", "notification_id", "event_type", "body"]
    await connection.copy_records_to_table("textbook_events", records=rows, columns=columns)
    await connection.execute("CHECKPOINT")
    await connection.close()
    texts = [json.dumps({"event": str(row[0]), "type": row[2]}) for row in rows]
    async with get_session().create_client("sqs", endpoint_url=endpoint) as client:
        url = (await client.get_queue_url(QueueName=queue))["QueueUrl"]
        for i in range(0, count, 10):
            entries: Any = [{"Id": str(n), "MessageBody": text} for n, text in enumerate(texts[i : i + 10])]
            await client.send_message_batch(QueueUrl=url, Entries=entries)


# -- the work of PostgreSQL for an event


_BURST = 5_000  # even a slow machine ends so many events within the 5 s after which a send is recorded


def database_cost(
    bench: Bench, count: int, *, database: str, event_type: str, recorded: bool, release: Release = HERE
) -> Figures:
    """Measures the cost of `count` events in PostgreSQL, from receipt to processed, after `count` unmeasured ones.

    With `recorded`, each send is recorded before a worker starts. Otherwise all roles run, and the load comes in bursts that
    end before sends are recorded. `row_versions` shows whether that succeeded.
    """
    count = bench.count(count)
    # After a checkpoint, the first change of a page writes the whole page to the WAL. The next checkpoint is minutes away.
    asyncio.run(_one(database, "CHECKPOINT"))
    _pass_through(bench, count, database=database, event_type=event_type, recorded=recorded, release=release)
    with Meter(bench.servers.postgresql, database) as meter:
        _pass_through(bench, count, database=database, event_type=event_type, recorded=recorded, release=release)
    return meter.per_event(count)


def _pass_through(bench: Bench, count: int, *, database: str, event_type: str, recorded: bool, release: Release) -> None:
    """Receives and processes `count` events."""
    queues = bench.queues()
    if recorded:
        with running(bench.webhookd(database, queues, release, roles="receive,relay")) as daemon:
            _send(daemon, count, event_type)
            until(lambda: not asyncio.run(_one(database, release.tables.unsent))[0], 300, every=1.0)
        with running(bench.webhookd(database, queues, release, roles="work")) as daemon:
            until(lambda: daemon.metric("processed_total", outcome="processed") >= count, 300, every=0.2)
    else:
        with running(bench.webhookd(database, queues, release)) as daemon:
            for sent in range(0, count, _BURST):
                _send(daemon, min(_BURST, count - sent), event_type)
                until(lambda: daemon.metric("processed_total", outcome="processed") >= daemon.metric("accepted_total"), 300)


def _send(daemon: Webhookd, count: int, event_type: str = AUTHCAPTURE) -> None:
    """Sends webhooks until `count` are accepted."""
    while count > 0:
        report = load(daemon.url, sender=PROXY, connections=64, seconds=600, count=count, event_type=event_type)
        count -= report.outcomes.get("accepted", 0)


# -- the whole way


def capacity(bench: Bench, seconds: float, release: Release = HERE) -> Figures:
    """Measures webhookd, all roles: events a second from a load's first webhook, at 64 connections, to the last processed."""
    with running(bench.webhookd(bench.database("webhookd", release), bench.queues(), release)) as daemon:
        report = load(daemon.url, connections=64, seconds=bench.seconds(seconds))
        started = time.perf_counter()
        accepted = report.outcomes.get("accepted", 0)
        until(lambda: daemon.metric("processed_total", outcome="processed") >= accepted, 300)
        return {"per_second": accepted / (report.seconds + time.perf_counter() - started)}


def end_to_end(bench: Bench, rate: float, seconds: float, release: Release = HERE) -> Figures:
    """Measures webhookd, all roles, at a steady rate: from the making of a webhook to its effects' commit."""
    database = bench.database("webhookd", release)
    with running(bench.webhookd(database, bench.queues(), release)) as daemon:
        load(daemon.url, connections=64, seconds=1, rate=min(rate, 200))  # the daemon opens sessions and prepares statements
        started = time.time()
        report = load(daemon.url, connections=64, seconds=bench.seconds(seconds), rate=rate)
        until(lambda: daemon.metric("processed_total", outcome="processed") >= daemon.metric("accepted_total"), 120)
        p50, p99 = asyncio.run(_one(database, _LATENCIES, first_id(started)))
        return {"p50_ms": p50, "p99_ms": p99, "rate": rate, "ack_p50_ms": report.p50 * 1000, "ack_p99_ms": report.p99 * 1000}


# The load dates each webhook when it makes it. Its clock is the clock of PostgreSQL's machine, too.
_LATENCIES = """
SELECT percentile_cont(0.5) WITHIN GROUP (ORDER BY ms), percentile_cont(0.99) WITHIN GROUP (ORDER BY ms)
FROM (SELECT extract(epoch FROM finished_at - event_date)::float8 * 1000 AS ms FROM events WHERE id >= $1) AS e
"""


async def _one(database: str, statement: str, *arguments: Any) -> Any:
    connection = await connect(database)
    try:
        return await connection.fetchrow(statement, *arguments, timeout=3600)
    finally:
        await connection.close()


# -- much work waiting, and several daemons


def backlog(bench: Bench, stored: int, queued: int) -> Figures:
    """Measures webhookd, all roles, from its start with `stored` events in the outbox and `queued` in SQS to the last one."""
    stored, queued = bench.count(stored), bench.count(queued)
    database, queues = bench.database("webhookd"), bench.queues()
    _fill(bench, database, queues, queued, HERE, bundled=True)
    grow(database, HERE.tables, queued + stored, status="received")
    with running(bench.webhookd(database, queues)) as daemon:
        started, spent, memory = time.perf_counter(), daemon.processor_seconds, [0.0]

        def done() -> bool:
            memory.append(daemon.memory)
            return bool(daemon.metric("processed_total", outcome="processed") >= stored + queued)

        until(done, 3600, every=0.5)
        seconds = time.perf_counter() - started
        return {
            "per_second": (stored + queued) / seconds,
            "rss_mib": max(memory),
            "cpu_us": (daemon.processor_seconds - spent) / (stored + queued) * 1e6,
        }


def side_by_side(bench: Bench, count: int, seconds: float, release: Release = HERE) -> Figures:
    """Measures `count` daemons, receive and relay, on all cores, with 128 connections in total."""
    database, queues = bench.database("webhookd", release), bench.queues()
    daemons = [bench.webhookd(database, queues, release, roles="receive,relay", pinned=False) for _ in range(count)]
    try:
        with ThreadPoolExecutor(count) as threads:
            each = [
                threads.submit(load, daemon.url, connections=128 // count, seconds=bench.seconds(seconds)) for daemon in daemons
            ]
            reports = [one.result() for one in each]
    finally:
        for daemon in daemons:
            daemon.stop()
    accepted = sum(report.outcomes.get("accepted", 0) for report in reports)
    return {"per_second": accepted / max(report.seconds for report in reports)}


# -- the operator's calls


def operator_calls(bench: Bench, stored: int) -> Figures:
    """Measures every list, search and statistics call: the slowest 95th percentile, and how many calls are above the aim."""
    cases = admin.run(bench, bench.count(stored), 20 if bench.quick else 100)
    return {
        "slowest_p95_ms": max(case.p95 for case in cases),
        "median_p95_ms": statistics.median(case.p95 for case in cases),
        "above_aim": sum(case.p95 > admin.AIM for case in cases),
        "calls": len(cases),
    }
