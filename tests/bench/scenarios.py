"""The scenarios, each a function that runs once and returns what it measured as {name: number}."""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import time
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from aiobotocore.session import get_session

from tests.bench.baselines.receiver import SCHEMA
from tests.bench.load import AUTHCAPTURE, PROVIDER, PROXY, Report
from tests.bench.processes import KEY, PATH, Target, Webhookd, load, running
from tests.bench.servers import Servers
from tests.helpers.database import connect
from webhookd.dev import traffic
from webhookd.dev.servers import free_port
from webhookd.store.migrations import migrate

Figures = dict[str, float]
_numbers = itertools.count(1)


@dataclass(slots=True)
class Bench:
    """What a scenario runs on."""

    servers: Servers
    folder: Path
    quick: bool = False
    settings: dict[str, str] = field(default_factory=dict)  # WEBHOOKD_* over the bench's own, without the prefix

    def seconds(self, whole: float) -> float:
        """`whole`, or a few seconds where the run is only to show that it works."""
        return min(whole, 3.0) if self.quick else whole

    def count(self, whole: int) -> int:
        """`whole`, or a few where the run is only to show that it works."""
        return min(whole, 2_000) if self.quick else whole

    def database(self, name: str) -> str:
        """A fresh database with webhookd's schema; its URL."""
        return asyncio.run(_database(self.servers.postgresql.url, name))

    def queues(self) -> tuple[str, str]:
        """A fresh queue and its dead-letter queue; their names."""
        names = f"bench-{os.getpid()}-{next(_numbers)}", f"bench-{os.getpid()}-{next(_numbers)}-dead"
        asyncio.run(_queues(self.servers.sqs.url, names))
        return names

    def webhookd(self, database: str, queues: tuple[str, str], *, pinned: bool = True, **settings: str) -> Webhookd:
        """A daemon, ready; on a core of its own if `pinned`."""
        given = {
            "DATABASE_URL": database,
            "REDIS_URL": self.servers.redis.url,
            "SQS_ENDPOINT_URL": self.servers.sqs.url,
            "SQS_QUEUE": queues[0],
            "SQS_DEAD_LETTER_QUEUE": queues[1],
            **self.settings,
            **{name.upper(): value for name, value in settings.items()},
        }
        daemon = Webhookd(given, self.folder / "webhookd.log", pinned=pinned)
        daemon.wait(daemon.ready)
        return daemon

    @contextmanager
    def baseline(self, name: str, *options: str, **environment: str) -> Iterator[str]:
        """A baseline that receives; its URL."""
        port = free_port(0)
        command = ["-m", f"tests.bench.baselines.{name}", "--port", str(port), "--key", KEY, *options]
        log = self.folder / f"{name}.log"
        log.unlink(missing_ok=True)
        target = Target(command, environment, log)
        with running(target):
            target.wait(lambda: "serving" in log.read_text())
            yield f"http://127.0.0.1:{port}{PATH}"


async def _database(server: str, name: str) -> str:
    connection = await connect(server)
    try:
        await connection.execute(f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)')
        await connection.execute(f'CREATE DATABASE "{name}"')
        # What an earlier scenario left to be written must not be written during the next one.
        await connection.execute("CHECKPOINT")
    finally:
        await connection.close()
    url = f"{server.rpartition('/')[0]}/{name}"
    await migrate(url)
    return url


async def _queues(endpoint: str, names: tuple[str, str]) -> None:
    async with get_session().create_client("sqs", endpoint_url=endpoint) as client:
        for name in names:
            await client.create_queue(QueueName=name)


def _figures(report: Report) -> Figures:
    accepted = sum(report.outcomes.values())
    return {
        "per_second": accepted / report.seconds,
        "p50_ms": report.p50 * 1000,
        "p99_ms": report.p99 * 1000,
        "refused": sum(report.statuses.values()) - accepted,
    }


def until(condition: Callable[[], Any], seconds: float, every: float = 0.05) -> None:
    """Waits for `condition`; raises RuntimeError after `seconds`."""
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            raise RuntimeError("a scenario did not end in time")
        time.sleep(every)


# -- ingest


def ceiling(bench: Bench, connections: int, seconds: float, sender: str = PROVIDER) -> Figures:
    """The endpoint that only verifies the HMAC and answers."""
    with bench.baseline("ceiling") as url:
        return _figures(load(url, sender=sender, connections=connections, seconds=bench.seconds(seconds)))


def textbook_ingest(bench: Bench, connections: int, seconds: float, sender: str = PROVIDER) -> Figures:
    """The textbook receiver."""
    database, (queue, _) = bench.database("textbook"), bench.queues()
    given = {"DATABASE_URL": database, "SQS_ENDPOINT_URL": bench.servers.sqs.url}
    with bench.baseline("receiver", "--queue", queue, **given) as url:
        return _figures(load(url, sender=sender, connections=connections, seconds=bench.seconds(seconds)))


def ingest(
    bench: Bench, connections: int, seconds: float, *, database: str | None = None, warm: float = 0, **options: float | str
) -> Figures:
    """webhookd, receive and relay: durable acknowledgements, and how many of them were not relayed at the end.

    After `warm` seconds of the same load, which are not measured. A `database` that is given comes fresh from a checkpoint.
    """
    with running(bench.webhookd(database or bench.database("webhookd"), bench.queues(), roles="receive,relay")) as daemon:
        if warm:
            load(daemon.url, connections=connections, seconds=bench.seconds(warm), **options)
        before, sent = daemon.processor_seconds, daemon.metric("relayed_total", outcome="sent")
        report = load(daemon.url, connections=connections, seconds=bench.seconds(seconds), **options)
        figures = _figures(report)
        figures["cpu_us"] = (daemon.processor_seconds - before) / max(report.sent, 1) * 1e6
        figures["unsent"] = report.outcomes.get("accepted", 0) - (daemon.metric("relayed_total", outcome="sent") - sent)
        figures["rss_mib"] = daemon.memory
    if database is not None:
        asyncio.run(_settle(database))
    return figures


# -- consume


def consume(
    bench: Bench,
    count: int,
    *,
    database: str | None = None,
    bundled: bool = True,
    replicas: int = 1,
    pinned: bool = True,
) -> Figures:
    """webhookd, work: from the start of the daemon's work to the last event, out of a queue that its own relay filled.

    With `bundled` as heavy load fills it, else one message an event, as light load does.
    """
    count = bench.count(count)
    database, queues = database or bench.database("webhookd"), bench.queues()
    _fill(bench, database, queues, count, bundled=bundled)
    daemons = [bench.webhookd(database, queues, roles="work", pinned=pinned and replicas == 1) for _ in range(replicas)]
    try:
        (started,) = asyncio.run(_one(database, "SELECT clock_timestamp()"))  # they are at it already
        spent = sum(daemon.processor_seconds for daemon in daemons)
        until(lambda: sum(d.metric("processed_total", outcome="processed") for d in daemons) >= count, 600, every=0.2)
        spent = sum(daemon.processor_seconds for daemon in daemons) - spent
    finally:
        for daemon in daemons:
            daemon.stop()
    done, seconds = asyncio.run(_one(database, _DONE, started))
    return {"per_second": done / seconds, "cpu_us": spent / done * 1e6}


_DONE = """
SELECT greatest(count(*), 1), coalesce(extract(epoch FROM max(finished_at) - $1)::float8, 1) FROM events WHERE finished_at > $1
"""


def _fill(bench: Bench, database: str, queues: tuple[str, str], count: int, *, bundled: bool) -> None:
    with running(bench.webhookd(database, queues, roles="receive,relay")) as daemon:
        left = count
        while left > 0:
            # With two connections no more than ten events are there at a time, so each has a message of its own. From a
            # proxy, since only the filling is wanted here, and that is faster.
            report = load(daemon.url, sender=PROXY, connections=64 if bundled else 2, seconds=600, count=left)
            left -= report.outcomes.get("accepted", 0)
        until(lambda: daemon.metric("relayed_total", outcome="sent") >= count, 120)


def textbook_consume(bench: Bench, count: int) -> Figures:
    """The textbook consumer, out of a queue filled for it."""
    count = bench.count(count)
    database, (queue, _) = bench.database("textbook"), bench.queues()
    asyncio.run(_fill_textbook(database, bench.servers.sqs.url, queue, count))
    given = {"DATABASE_URL": database, "SQS_ENDPOINT_URL": bench.servers.sqs.url}
    log = bench.folder / "consumer.log"
    log.unlink(missing_ok=True)
    command = ["-m", "tests.bench.baselines.consumer", "--queue", queue, "--count", str(count)]
    with running(Target(command, given, log)) as target:
        return {"per_second": count / target.result(600)["seconds"]}


async def _fill_textbook(database: str, endpoint: str, queue: str, count: int) -> None:
    connection = await connect(database)
    await connection.execute(SCHEMA)
    samples = (traffic.sample(AUTHCAPTURE, number) for number in range(1, count + 1))
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


# -- the whole way


def capacity(bench: Bench, seconds: float) -> Figures:
    """webhookd, all roles: events a second from the first webhook of a load at 64 connections until the last is processed."""
    with running(bench.webhookd(bench.database("webhookd"), bench.queues())) as daemon:
        report = load(daemon.url, connections=64, seconds=bench.seconds(seconds))
        started = time.perf_counter()
        accepted = report.outcomes.get("accepted", 0)
        until(lambda: daemon.metric("processed_total", outcome="processed") >= accepted, 300)
        return {"per_second": accepted / (report.seconds + time.perf_counter() - started)}


def end_to_end(bench: Bench, rate: float, seconds: float) -> Figures:
    """webhookd, all roles, at a steady rate: from the moment that a webhook is made to its effects' commit."""
    database = bench.database("webhookd")
    with running(bench.webhookd(database, bench.queues())) as daemon:
        load(daemon.url, connections=64, seconds=1, rate=min(rate, 200))  # connections are made, statements prepared
        warm = asyncio.run(_one(database, "SELECT clock_timestamp()"))
        report = load(daemon.url, connections=64, seconds=bench.seconds(seconds), rate=rate)
        until(lambda: daemon.metric("processed_total", outcome="processed") >= daemon.metric("accepted_total"), 120)
        p50, p99 = asyncio.run(_one(database, _LATENCIES, warm[0]))
        return {"p50_ms": p50, "p99_ms": p99, "rate": rate, "ack_p50_ms": report.p50 * 1000, "ack_p99_ms": report.p99 * 1000}


# The load dates each webhook when it makes it, by the clock of the machine that PostgreSQL is on as well.
_LATENCIES = """
SELECT percentile_cont(0.5) WITHIN GROUP (ORDER BY ms), percentile_cont(0.99) WITHIN GROUP (ORDER BY ms)
FROM (SELECT extract(epoch FROM finished_at - event_date)::float8 * 1000 AS ms FROM events WHERE event_date > $1) AS e
"""


async def _one(database: str, statement: str, *arguments: Any) -> Any:
    connection = await connect(database)
    try:
        return await connection.fetchrow(statement, *arguments, timeout=3600)
    finally:
        await connection.close()


# -- much stored, and much waiting


def grow(database: str, total: int, *, status: str = "processed") -> None:
    """Brings the database to `total` events, with bodies and audit rows; those that are made have `status`."""
    asyncio.run(_grow(database, total, status))


_GROW = """
WITH made AS MATERIALIZED (
    SELECT n, overlay(overlay(gen_random_uuid()::text PLACING to_char(n, 'FM000000000000') FROM 25 FOR 12)
        PLACING left(webhookd.first_id(now() - interval '5 minutes')::text, 13) FROM 1 FOR 13)::uuid AS id,
        gen_random_uuid()::text AS notification_id
    FROM generate_series($1::bigint, $2::bigint) AS n
), ledger AS (
    INSERT INTO ledger (id, notification_key, content_key, body_hash, event_date, account, notification_id, event_type,
        key_fingerprint, entity_name, entity_id)
    SELECT id, gen_random_uuid(),
        (lpad(to_hex(extract(epoch FROM now())::bigint), 8, '0') || left(md5(notification_id), 24))::uuid, gen_random_uuid(),
        now(), 'default', notification_id, 'net.authorize.payment.authcapture.created', 'bench', 'transaction', n::text
    FROM made
), left_over AS (
    INSERT INTO work (event_id, consumer, status, due) SELECT id, 'handlers', $3, now() FROM made WHERE $3 <> 'processed'
), bodies AS (
    INSERT INTO bodies (event_id, body)
    SELECT id, convert_to(format('{"notificationId":"%s","eventType":"net.authorize.payment.authcapture.created",'
        '"eventDate":"2026-01-01T00:00:00.0000000Z","webhookId":"e6b3764d-5677-4fb1-a929-2e25a02f3073","payload":'
        '{"responseCode":1,"authCode":"P1XHLC","avsResponse":"Y","authAmount":2.10,"entityName":"transaction","id":"%s"}}',
        notification_id, n), 'UTF8') FROM made
)
INSERT INTO audit (event_id, from_status, to_status, actor, attempt)
SELECT id, 'received', 'processed', 'worker', 1 FROM made WHERE $3 = 'processed'
"""


async def _settle(database: str) -> None:
    """Ends what nobody worked on, or a later daemon would send it again while it is measured."""
    connection = await connect(database)
    try:
        await connection.execute("DELETE FROM work WHERE status IN ('received', 'queued')", timeout=600)
        await connection.execute("CHECKPOINT", timeout=600)
    finally:
        await connection.close()


async def _grow(database: str, total: int, status: str) -> None:
    connection = await connect(database)
    try:
        present = await connection.fetchval("SELECT count(*) FROM ledger")
        for first in range(present, total, 50_000):
            await connection.execute(_GROW, first, min(first + 50_000, total) - 1, status, timeout=600)
        # As autovacuum would have, in the time that so many events take to arrive.
        await connection.execute("VACUUM (ANALYZE)", timeout=3600)
        await connection.execute("CHECKPOINT", timeout=600)
    finally:
        await connection.close()


def backlog(bench: Bench, stored: int, queued: int) -> Figures:
    """webhookd, all roles, started on `stored` events in the outbox and `queued` in SQS, until all are processed."""
    stored, queued = bench.count(stored), bench.count(queued)
    database, queues = bench.database("webhookd"), bench.queues()
    _fill(bench, database, queues, queued, bundled=True)
    grow(database, queued + stored, status="received")
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


def side_by_side(bench: Bench, count: int, seconds: float) -> Figures:
    """`count` daemons, receive and relay, on all cores, with 128 connections between them."""
    database, queues = bench.database("webhookd"), bench.queues()
    daemons = [bench.webhookd(database, queues, roles="receive,relay", pinned=False) for _ in range(count)]
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
