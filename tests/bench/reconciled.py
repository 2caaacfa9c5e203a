"""The scenario of the reconciliation: the report over all days of a merchant whose settlement is swept."""

from __future__ import annotations

import asyncio
import contextlib
import json
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import psutil

from tests.bench.bench import Bench, Figures
from tests.bench.merchant import ZONE, settlement_days
from tests.bench.meter import Meter
from tests.bench.processes import CORES, Target, running
from tests.bench.settlement import Merchant, execute, row
from tests.helpers.database import connect
from webhookd.dev.postgres import PostgresServer
from webhookd.store.keys import kind_id

_TOKEN = "a-token-for-the-bench"
_MISSING = 1_000  # webhookd's books lack one transaction of so many
_SALE = 50  # which one: a sale
_REFUND = "net.authorize.payment.refund.created"
_CHARGE = "net.authorize.payment.authcapture.created"
_TEXTS = {kind: ("default", kind, "transaction", "a1b2c3d4e5f6") for kind in (_CHARGE, _REFUND)}
_KIND = {kind: kind_id("\x1f".join(texts)) for kind, texts in _TEXTS.items()}
# The facts are those that `timeline.fold_all` makes of such events. The report reads neither bodies nor the audit trail.
_BOOKS = f"""
WITH numbered AS (
    SELECT
        transaction_id, amount::text AS amount, state, submitted_at AS at, invoice_number,
        (extract(epoch FROM submitted_at) * 1000000)::bigint AS us,
        row_number() OVER (ORDER BY submitted_at, transaction_id) AS n
    FROM webhookd.provider_transactions WHERE batch_id IS NOT NULL
), kept AS MATERIALIZED (
    SELECT *, state = 'refund settled' AS is_refund FROM numbered WHERE n % {_MISSING} <> {_SALE}
), kinds AS (
    INSERT INTO webhookd.kinds VALUES {", ".join(str((_KIND[kind], *texts)) for kind, texts in _TEXTS.items())}
), ledger AS (
    INSERT INTO webhookd.ledger
        (id, notification_key, content_key, body_hash, received_at, event_date, kind, notification_id, entity_id)
    SELECT
        overlay(gen_random_uuid()::text PLACING left(webhookd.first_id(at)::text, 13) FROM 1 FOR 13)::uuid, gen_random_uuid(),
        (lpad(to_hex(us / 1000000), 8, '0') || left(md5(transaction_id), 24))::uuid, gen_random_uuid(), at, at,
        CASE WHEN is_refund THEN {_KIND[_REFUND]} ELSE {_KIND[_CHARGE]} END, gen_random_uuid()::text, transaction_id
    FROM kept ORDER BY n
)
INSERT INTO webhookd.timeline (entity_name, account, entity_id, facts)
SELECT 'transaction', 'default', transaction_id, jsonb_build_array(
    jsonb_build_array(us, 1, jsonb_strip_nulls(jsonb_build_object(
        'requested_amount', amount, 'response_code', CASE state WHEN 'declined' THEN '2' ELSE '1' END, 'avs_response', 'Y',
        'last_event_at', us::text, 'last_event_type', CASE WHEN is_refund THEN '{_REFUND}' ELSE '{_CHARGE}' END,
        'invoice_number', invoice_number
    )) || CASE
        WHEN is_refund THEN jsonb_build_object(
            'kind', 'refund', 'state', 'refunded', 'refunded_at', us::text, 'refunded_amount', amount
        )
        WHEN state = 'settled' THEN jsonb_build_object(
            'state', 'captured', 'auth_code', 'P1XHLC', 'authorized_at', us::text, 'authorized_amount', amount,
            'captured_at', us::text, 'captured_amount', amount, 'captures_when_approved', us::text
        )
        ELSE jsonb_build_object('state', state)
    END),
    jsonb_build_array(-us, 0, jsonb_build_object('first_event_at', us::text))
)
FROM kept ORDER BY n
"""
_WHOLE = """
INSERT INTO webhookd.provider_days (account, day, completeness)
SELECT DISTINCT 'default', (submitted_at AT TIME ZONE 'UTC')::date, 'whole' FROM webhookd.provider_transactions
ON CONFLICT (account, day) DO UPDATE SET completeness = 'whole'
"""
_PLANTED = """
SELECT count(*) FROM webhookd.provider_transactions t
WHERE t.batch_id IS NOT NULL AND t.state IN ('settled', 'refund settled')
    AND NOT EXISTS (SELECT FROM webhookd.timeline w WHERE w.entity_name = 'transaction' AND w.entity_id = t.transaction_id)
"""
_FLOOR = """
SELECT
    (SELECT count(*) FROM webhookd.provider_transactions WHERE account = 'default' AND batch_id IN (
        SELECT batch_id FROM webhookd.provider_batches WHERE account = 'default' AND settled_at >= $1 AND settled_at < $2
    )),
    (SELECT count(*) FROM webhookd.timeline WHERE account = 'default' AND entity_name = 'transaction')
"""


def keep_books(database: str) -> None:
    """Writes webhookd's events and timeline of the swept transactions, but for one of each thousand. All days are whole."""
    for statement in (_BOOKS, _WHOLE, "VACUUM (ANALYZE)", "CHECKPOINT"):
        asyncio.run(execute(database, statement))


def report(bench: Bench, provider: Merchant, database: str) -> Figures:
    """Measures `webhookd reconcile` over all days, from its start to its end; and CPU and memory of both sides.

    Every process may use all cores: most of the time is PostgreSQL's, which reads two days side by side.
    """
    days = settlement_days(provider.days, datetime.now(UTC))
    command = [sys.executable, "-m", "webhookd", "reconcile", "--from", str(days[0]), "--to", str(days[-1]), "--json"]
    out = bench.folder / "reconcile.json"
    out.unlink(missing_ok=True)
    settings: dict[str, Any] = {**provider.settings, "roles": "receive", "read_tokens": _TOKEN}
    with running(bench.webhookd(database, bench.queues(), **settings)) as daemon:
        environment = {"WEBHOOKD_API_URL": daemon.admin, "WEBHOOKD_API_TOKEN": _TOKEN}
        daemon.process.cpu_affinity(CORES)
        with _all_cores(bench.servers.postgresql), Meter(bench.servers.postgresql, database) as meter:
            before, began = daemon.processor_seconds, time.perf_counter()
            client, client_cpu, client_memory = Target(command, environment, out, pinned=False), 0.0, 0.0
            while client.running:
                with contextlib.suppress(psutil.Error, ValueError):  # it has just ended
                    client_cpu, client_memory = client.processor_seconds, client.peak_memory
                time.sleep(0.005)
            seconds, spent = time.perf_counter() - began, daemon.processor_seconds - before
        memory = daemon.peak_memory
    told = json.loads(out.read_text())["accounts"][0]["days"]
    found = [
        sum(Decimal(day["charged"]) for day in told),
        sum(day["difference_count"] for day in told),
        sum(day["reason_count"] for day in told),
    ]
    wanted = [Decimal(provider.books["charged"]), row(database, _PLANTED)[0], 0]
    if found != wanted:
        reasons = sorted({reason for day in told for reason in day["reasons"]})
        raise RuntimeError(f"the report has {found} (charged, differences, reasons), and the books have {wanted}: {reasons}")
    return {
        "seconds": seconds,
        "cli_cpu_s": client_cpu,
        "daemon_cpu_s": spent,
        "pg_cpu_s": meter.per_event(1)["pg_cpu_us"] / 1e6,
        "cli_rss_mib": client_memory,
        "daemon_rss_mib": memory,
        "differences": found[1],
    }


@contextlib.contextmanager
def _all_cores(server: PostgresServer) -> Iterator[None]:
    """Lets PostgreSQL, with the sessions that it has and will have, run on all cores."""
    assert server.process is not None
    postmaster = psutil.Process(server.process.pid)

    def pin(cores: list[int]) -> None:
        for process in (postmaster, *postmaster.children()):
            with contextlib.suppress(psutil.NoSuchProcess):
                process.cpu_affinity(cores)

    before = postmaster.cpu_affinity()
    pin(CORES)
    try:
        yield
    finally:
        pin(before)


def floor(bench: Bench, provider: Merchant, database: str) -> Figures:
    """Measures a plain count of the same rows, in both tables."""
    days = settlement_days(provider.days, datetime.now(UTC))
    span = (datetime.combine(day, datetime.min.time(), ZONE) for day in (days[0], days[-1] + timedelta(days=1)))

    async def count() -> float:
        connection = await connect(database)
        try:
            began = time.perf_counter()
            await connection.fetchrow(_FLOOR, *span, timeout=600)
            return time.perf_counter() - began
        finally:
            await connection.close()

    with Meter(bench.servers.postgresql, database) as meter:
        seconds = asyncio.run(count())
    return {"seconds": seconds, "pg_cpu_s": meter.per_event(1)["pg_cpu_us"] / 1e6}
