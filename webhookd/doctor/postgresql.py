"""The doctor's findings about PostgreSQL."""

from __future__ import annotations

import time
from typing import Any

from webhookd.daemon import pool_settings
from webhookd.doctor.finding import Finding, Verdict
from webhookd.settings import Settings
from webhookd.sqs.rds import RdsTokens
from webhookd.store.migrations import State, read, state_of
from webhookd.store.postgresql_problem import explained
from webhookd.store.queries import queries
from webhookd.store.rights import refusal_of, statement_names
from webhookd.store.session import POOLER_NOT_DECLARED, Server, is_pooled

_OLDEST = 140000
_CLOCK_TOLERANCE = 5.0  # seconds
_PARTITIONS_AHEAD = 14 * 86_400.0  # seconds; a daemon keeps partitions four weeks ahead

_NAMED = 5  # most refused statements that a finding names


async def examine_postgresql(settings: Settings) -> list[Finding]:
    """Returns the findings about version, pooler, clock, durability, schema, statements, partitions. Raises WebhookdError."""
    url = settings.database_url.get_secret_value()
    with explained(url):
        return await _examine(settings, url)


async def _examine(settings: Settings, url: str) -> list[Finding]:
    # Prepare no statement ahead: otherwise the check would fail at a pooler in between, before it detects the pooler.
    queries.use(settings.database_schema)
    async with RdsTokens.password(settings.database_auth, settings.sqs_region) as password:
        connection = await Server(url, password).connect(timeout=5, statement_cache_size=0)
    findings = []
    try:
        server = await queries.server_state(connection)
        fine = server["version_number"] >= _OLDEST
        findings.append(
            Finding(
                "postgresql version",
                Verdict.OK if fine else Verdict.FAILED,
                server["version"] + ("" if fine else ": upgrade PostgreSQL to 14 or newer"),
            )
        )
        if settings.database_pooler == "none":  # a pooler counts its own clients
            findings.append(_connections(pool_settings(settings).most, server["connections"]))
        findings += _pooler(is_pooled(connection, server["backend"]), told=settings.database_pooler != "none")
        skew = time.time() - server["epoch"]
        findings.append(
            Finding("clock", Verdict.OK, f"within {abs(skew):.1f} s of PostgreSQL's")
            if abs(skew) < _CLOCK_TOLERANCE
            else Finding("clock", Verdict.WARNING, f"{_skewed(skew)}: run NTP (chrony, systemd-timesyncd) on both machines")
        )
        off = server["synchronous_commit"] == "off"
        findings.append(
            Finding(
                "synchronous_commit",
                Verdict.FAILED if off else Verdict.OK,
                server["synchronous_commit"]
                + (": a crash of PostgreSQL would lose events that were answered 200; set it to on" if off else ""),
            )
        )
        state = await state_of(connection, read())
        findings.append(_schema(state))
        if not state.pending:
            findings.append(await _statements(connection))
            if findings[-1].verdict is Verdict.OK:
                findings.append(await _partitions(connection))
    finally:
        await connection.close(timeout=5)
    return findings


def _connections(most: int, admitted: int) -> Finding:
    """Checks whether PostgreSQL admits the connections of this replica, and of the one that a rollout adds."""
    detail = f"PostgreSQL admits {admitted} of this role, and a replica with these settings takes up to {most}"
    if admitted >= 2 * most:
        return Finding("connections", Verdict.OK, f"{detail}: enough for {admitted // most} replicas at a time")
    remedy = "raise max_connections, or the limit of the role or database, or lower WEBHOOKD_CONCURRENCY"
    needed = "one replica" if admitted < most else "a second replica, which a rollout starts"
    return Finding("connections", Verdict.WARNING, f"{detail}, so they do not suffice for {needed}: {remedy}")


def _skewed(seconds: float) -> str:
    return f"this machine's clock is {abs(seconds):.0f} s {'ahead of' if seconds > 0 else 'behind'} PostgreSQL's"


def _schema(state: State) -> Finding:
    if state.problem:
        return Finding("schema", Verdict.FAILED, state.problem)
    if state.pending:
        missing = ", ".join(one.id for one in state.pending)
        return Finding("schema", Verdict.FAILED, f"{queries.schema} lacks the migrations {missing}: run `webhookd migrate`")
    if state.is_on_path:
        detail = (
            f"the search_path of the role in WEBHOOKD_DATABASE_URL contains the schema {queries.schema}, so `customers` in a "
            "handler's SQL means webhookd's table, not your application's: run ALTER ROLE … SET search_path = public, or name "
            "the schemas that your handlers need"
        )
        return Finding("schema", Verdict.WARNING, detail)
    return Finding("schema", Verdict.OK, f"{queries.schema} is up to date")


def _pooler(there: bool, *, told: bool) -> list[Finding]:
    if there and not told:
        return [Finding("pooler", Verdict.FAILED, POOLER_NOT_DECLARED)]
    if told and not there:
        detail = (
            "WEBHOOKD_DATABASE_POOLER makes PostgreSQL parse each statement anew, but no pooler stands before PostgreSQL: "
            "set it to none"
        )
        return [Finding("pooler", Verdict.WARNING, detail)]
    return [Finding("pooler", Verdict.OK, "one stands before PostgreSQL, as WEBHOOKD_DATABASE_POOLER declares")] if told else []


async def _statements(connection: Any) -> Finding:
    """Checks whether PostgreSQL lets the role run each statement of webhookd."""
    names = statement_names()
    refused = [f"{name} ({reason})" for name in names if (reason := await refusal_of(connection, name)) is not None]
    if not refused:
        return Finding("statements", Verdict.OK, f"the role may run all {len(names)} statements of webhookd")
    named = ", ".join(refused[:_NAMED]) + (f" and {len(refused) - _NAMED} more" if len(refused) > _NAMED else "")
    remedy = "grant the role the rights in the guide (/guide/databases), or run `webhookd migrate` as that role"
    detail = f"the role in WEBHOOKD_DATABASE_URL may not run {named}: {remedy}"
    return Finding("statements", Verdict.FAILED, detail)


async def _partitions(connection: Any) -> Finding:
    rights = await queries.partition_rights(connection)
    if hindrance := _hindrance(rights["may_create"], rights["not_owned"]):
        lost = "Without this, webhookd makes no new partition, and removes no old data"
        return Finding("partitions", Verdict.WARNING, f"the role in WEBHOOKD_DATABASE_URL {hindrance}. {lost}")
    ahead = (await queries.retention_state(connection))["ahead"]
    if ahead < _PARTITIONS_AHEAD:
        remedy = (
            "start `webhookd serve`, which makes them; if it is running, look in its log for the error "
            "(a missing right to CREATE?)"
        )
        verdict = Verdict.WARNING if ahead > 0 else Verdict.FAILED
        return Finding("partitions", verdict, f"reach only {ahead / 86_400:.1f} days ahead: {remedy}")
    strays = await queries.strays(connection)
    if strays["bodies"] or strays["audit"]:
        detail = (
            "some bodies or audit rows are outside every week's partition: was a machine's clock wrong, or a partition made "
            "too late?"
        )
        return Finding("partitions", Verdict.WARNING, detail)
    return Finding("partitions", Verdict.OK, f"reach {ahead / 86_400:.0f} days ahead")


def _hindrance(may_create: bool, not_owned: list[str]) -> str | None:
    if not_owned:
        named = ", ".join(not_owned[:_NAMED]) + (f" and {len(not_owned) - _NAMED} more" if len(not_owned) > _NAMED else "")
        return f"does not own {named}: run ALTER TABLE … OWNER TO the role for each of them, or GRANT the owner TO the role"
    if not may_create:
        return f"may create no table in the schema: run GRANT CREATE ON SCHEMA {queries.schema} TO the role"
    return None
