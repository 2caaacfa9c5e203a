"""The scheduled reconciliation records each day's result, for metrics and for alerts."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from typing import Any

import pytest

from tests.helpers.operator import Connection
from tests.helpers.settled_books import keep_sweep
from tests.integration.test_reconciling import database as database  # noqa: PLC0414  a fixture
from webhookd.alerts.conditions import evaluate
from webhookd.alerts.facts import read_facts
from webhookd.operate.reconciling import Reconciler
from webhookd.store.database import Database
from webhookd.sync.day_reports import DayReports
from webhookd.telemetry.metrics import Metrics


@pytest.fixture
def metrics() -> Metrics:
    return Metrics()


def value(metrics: Metrics, name: str, **labels: str) -> float | None:
    return metrics.registry.get_sample_value(f"webhookd_provider_{name}", {"account": "default", **labels})


async def run(database: Database, metrics: Metrics) -> None:
    await DayReports("default", database, Reconciler(database, lambda _: None), metrics.provider).run()


async def keep_pending(connection: Connection, day: date) -> None:
    await connection.execute(
        """INSERT INTO provider_batches (account, batch_id, settlement_state, settled_at, reasons, looked_at)
           VALUES ('default', 'b1', 'settledSuccessfully', $1, '{the list moved}', now())""",
        datetime.combine(day, datetime.min.time(), UTC) + timedelta(hours=12),
    )


async def test_each_day_that_is_over_and_swept_gets_a_result(
    connection: Connection, database: Database, metrics: Metrics
) -> None:
    await run(database, metrics)
    assert await connection.fetchval("SELECT count(*) FROM reconciled_days") == 0, "nobody has swept the account"
    await keep_sweep(connection, zone="UTC")
    today = datetime.now(UTC).date()
    late = today - timedelta(days=5)
    await keep_pending(connection, late)
    await run(database, metrics)
    rows: dict[date, str] = {row["day"]: row["result"] for row in await connection.fetch("SELECT * FROM reconciled_days")}
    assert today not in rows
    assert {day for day, result in rows.items() if result != "green"} == {late}
    assert rows[late] == "not known"
    assert len(rows) >= 13
    assert value(metrics, "reconciled_days", result="not known") == 1
    assert value(metrics, "reconciled_days", result="green") == len(rows) - 1
    assert value(metrics, "days_not_reconciled") == 1
    assert await firing(database) == [("day_not_reconciled", f"{late}")]
    before = await connection.fetchval("SELECT since FROM reconciled_days WHERE day = $1", late)
    await run(database, metrics)
    assert await connection.fetchval("SELECT since FROM reconciled_days WHERE day = $1", late) == before
    await connection.execute("UPDATE provider_batches SET reasons = '{}'")
    await run(database, metrics)
    assert value(metrics, "days_not_reconciled") == 0
    assert await firing(database) == []


@pytest.mark.parametrize(("age", "fires"), [(2, False), (5, True), (16, False)])
async def test_only_a_day_that_is_over_for_three_days_is_an_alert(
    connection: Connection, database: Database, metrics: Metrics, age: int, fires: bool
) -> None:
    await keep_sweep(connection, zone="UTC")
    await keep_pending(connection, datetime.now(UTC).date() - timedelta(days=age))
    await run(database, metrics)
    assert value(metrics, "days_not_reconciled") == fires
    assert bool(await firing(database)) is fires


async def test_days_before_the_sweep_began_are_not_judged(connection: Connection, database: Database, metrics: Metrics) -> None:
    await keep_sweep(connection, zone="UTC")
    await connection.execute("UPDATE provider_sweeps SET swept_from = now() - interval '3 days'")
    await run(database, metrics)
    oldest = await connection.fetchval("SELECT min(day) FROM reconciled_days")
    assert oldest == datetime.now(UTC).date() - timedelta(days=2)


async def test_subscriptions_that_differ_and_old_lists_are_counted(
    connection: Connection, database: Database, metrics: Metrics
) -> None:
    await keep_sweep(connection, zone="UTC")
    await connection.execute(
        """INSERT INTO provider_subscriptions (account, subscription_id, status, status_since, created_at, amount, seen_at)
           VALUES ('default', '4415473', 'active', '2026-06-01', '2026-06-01', 9.5, '2026-06-01')"""
    )
    await connection.execute(
        """INSERT INTO provider_missed_renewals (account, subscription_id, expected_on)
           VALUES ('default', '4415473', current_date - 5)"""
    )
    for listed, number in (("NULL", 0), ("now()", 2), ("now() - interval '49 hours'", 3)):
        await connection.execute(f"UPDATE provider_sweeps SET subscriptions_at = {listed}")
        await run(database, metrics)
        assert value(metrics, "subscriptions_not_reconciled") == number
    await connection.execute("DELETE FROM provider_subscriptions")
    await connection.execute("UPDATE provider_missed_renewals SET came_at = now()")
    await connection.execute("UPDATE provider_sweeps SET subscriptions_at = now()")
    await run(database, metrics)
    assert value(metrics, "subscriptions_not_reconciled") == 0


async def firing(database: Database) -> list[Any]:
    async with database.acquire("admin") as connection:
        facts = await read_facts(connection, largest=None)
    found = [one for one in evaluate(facts) if one.name == "day_not_reconciled"]
    return [(one.name, one.detail.rpartition("--from ")[2].rstrip("`.")) for one in found]
