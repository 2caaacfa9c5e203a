"""The scheduled reconciliation of an account: its last settlement days, recorded for alerts, and its subscriptions."""

from __future__ import annotations

import asyncio
from collections import Counter
from datetime import timedelta

from webhookd.authorizenet.reconciliation import LATE
from webhookd.operate.reconciling import ReconciledDay, Reconciler
from webhookd.store.database import Database
from webhookd.store.queries import queries
from webhookd.telemetry.provider_metrics import RESULTS, ProviderMetrics

DAYS = 14  # days that are reconciled each time: what was open may close, and what was green may differ by a late event
PATIENCE = timedelta(days=3)  # after which a day should be green
_KEPT = timedelta(days=400)


class DayReports:
    """The scheduled reconciliation of one account. Only the days are reconciled that are over and were swept whole."""

    def __init__(self, account: str, database: Database, reconciler: Reconciler, metrics: ProviderMetrics) -> None:
        self._account = account
        self._database = database
        self._reconciler = reconciler
        self._metrics = metrics

    async def run(self) -> None:
        """Reconciles the last days, and records the outcome. Raises UnavailableError while PostgreSQL is away."""
        since = await self._database.one(queries.swept_from, account=self._account)
        if since is None:
            return
        today = self._database.now().date()
        found: list[ReconciledDay] = []
        for age in range(DAYS, -1, -1):
            one = await self._reconciler.day(self._account, today - timedelta(days=age))
            if one.report.begins >= since and one.report.ends + LATE <= one.report.as_of:
                found.append(one)
            await asyncio.sleep(0)  # other jobs of this process go on between two days
        await self._record(found)
        results = Counter[str](one.result for one in found)
        for result in RESULTS:
            self._metrics.reconciled_days.labels(self._account, result).set(results[result])
        late = sum(one.result != "green" and one.report.ends + PATIENCE <= one.report.as_of for one in found)
        self._metrics.days_not_reconciled.labels(self._account).set(late)
        await self._count_subscriptions()

    async def _count_subscriptions(self) -> None:
        """Counts what differs. Without any list, nothing does: the account may have no recurring billing."""
        report = await self._reconciler.subscriptions(self._account)
        number = 0 if report.listed_at is None else len(report.findings) + len(report.reasons)
        self._metrics.subscriptions_not_reconciled.labels(self._account).set(number)

    async def _record(self, found: list[ReconciledDay]) -> None:
        async with self._database.acquire() as connection:
            await queries.record_reconciled_days(
                connection,
                account=self._account,
                days=[one.report.day for one in found],
                results=[one.result for one in found],
                differences=[len(one.report.findings) for one in found],
                reasons=[len(one.report.reasons) for one in found],
                as_of=[one.report.as_of for one in found],
            )
            before = self._database.now().date() - _KEPT
            await queries.remove_reconciled_days(connection, account=self._account, before=before)
