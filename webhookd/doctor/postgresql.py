"""What the doctor finds in PostgreSQL."""

from __future__ import annotations

import time
from typing import Any

import asyncpg

from webhookd.doctor.finding import Finding, Verdict
from webhookd.settings import Settings
from webhookd.store.queries import MIGRATIONS, queries
from webhookd.store.session import UNTOLD, connect, is_pooled

_OLDEST = 140000
_CLOCK_TOLERANCE = 5.0  # seconds
_PARTITIONS_AHEAD = 14 * 86_400.0  # seconds; a daemon keeps them four weeks ahead


async def examine_postgresql(settings: Settings) -> list[Finding]:
    """Findings about version, pooler, clock, durability, schema and partitions."""
    # Nothing is prepared ahead, so that a pooler in between gets as far as being found out.
    connection = await connect(settings.database_url.get_secret_value(), timeout=5, statement_cache_size=0)
    findings = []
    try:
        server = await queries.server_state(connection)
        fine = server["version_number"] >= _OLDEST
        findings.append(
            Finding(
                "postgresql version",
                Verdict.OK if fine else Verdict.FAILED,
                server["version"] + ("" if fine else ": 14 or newer is needed"),
            )
        )
        findings += _pooler(is_pooled(connection, server["backend"]), told=settings.database_pooler != "none")
        skew = abs(server["epoch"] - time.time())
        findings.append(
            Finding("clock", Verdict.OK, f"within {skew:.1f} s of PostgreSQL's")
            if skew < _CLOCK_TOLERANCE
            else Finding("clock", Verdict.WARNING, f"{skew:.0f} s away from PostgreSQL's: run NTP on both machines")
        )
        off = server["synchronous_commit"] == "off"
        findings.append(
            Finding(
                "synchronous_commit",
                Verdict.FAILED if off else Verdict.OK,
                server["synchronous_commit"] + (": a crash would lose what was answered 200; set it to on" if off else ""),
            )
        )
        try:
            missing = MIGRATIONS - set(await queries.applied_migrations(connection) or ())
        except asyncpg.UndefinedTableError:
            missing = MIGRATIONS
        findings.append(
            Finding("schema", Verdict.FAILED, f"lacks {', '.join(sorted(missing))}: run `webhookd migrate`")
            if missing
            else Finding("schema", Verdict.OK, "up to date")
        )
        if not missing:
            findings.append(await _partitions(connection))
    finally:
        await connection.close(timeout=5)
    return findings


def _pooler(there: bool, *, told: bool) -> list[Finding]:
    if there and not told:
        return [Finding("pooler", Verdict.FAILED, UNTOLD)]
    if told and not there:
        detail = "none is seen before PostgreSQL, and WEBHOOKD_DATABASE_POOLER has each statement parsed anew: set it to none"
        return [Finding("pooler", Verdict.WARNING, detail)]
    return [Finding("pooler", Verdict.OK, "one stands before PostgreSQL, as WEBHOOKD_DATABASE_POOLER says")] if told else []


async def _partitions(connection: Any) -> Finding:
    ahead = (await queries.retention_state(connection))["ahead"]
    if ahead < _PARTITIONS_AHEAD:
        remedy = "start `webhookd serve`, which makes them, or look in its log for what hinders it (the right to CREATE?)"
        verdict = Verdict.WARNING if ahead > 0 else Verdict.FAILED
        return Finding("partitions", verdict, f"reach only {ahead / 86_400:.1f} days ahead: {remedy}")
    strays = await queries.strays(connection)
    if strays["bodies"] or strays["audit"]:
        detail = "bodies or audit rows outside every partition: was a machine's clock wrong, or a partition made too late?"
        return Finding("partitions", Verdict.WARNING, detail)
    return Finding("partitions", Verdict.OK, f"reach {ahead / 86_400:.0f} days ahead")
