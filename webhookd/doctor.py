"""The doctor: checks every setting and dependency, and says of each what it found and what to do."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import asdict, dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

import asyncpg
from redis.asyncio import Redis
from redis.exceptions import RedisError, ResponseError

from webhookd.authorizenet.signature import fingerprint
from webhookd.daemon import make_sqs
from webhookd.errors import SettingsError, WebhookdError
from webhookd.lifecycle import Watch
from webhookd.logs import where
from webhookd.metrics import Metrics
from webhookd.process import handlers
from webhookd.receive.certificate import usable
from webhookd.settings import Settings
from webhookd.store.queries import MIGRATIONS, queries
from webhookd.store.session import UNTOLD, connect, is_pooled
from webhookd.store.tls import REDIS, tls_problem

_OLDEST_POSTGRESQL = 140000
_CLOCK_TOLERANCE = 5.0  # seconds
_PARTITIONS_AHEAD = 14 * 86_400.0  # seconds; a daemon keeps them four weeks ahead
_CERTIFICATE_DAYS = 14  # certificate managers renew a month ahead
_KEY_SHAPE = "Authorize.Net's Signature Key has 128 hexadecimal digits: copy it whole"


class Verdict(StrEnum):
    """How a check ended. Only `failed` makes the command fail."""

    OK = "ok"
    WARNING = "warning"
    FAILED = "failed"


@dataclass(slots=True, frozen=True)
class Finding:
    """One check: what was looked at, how it is, and what to do where it is not well."""

    check: str
    verdict: Verdict
    detail: str

    def as_dict(self) -> dict[str, str]:
        """For `--json`."""
        return asdict(self)


async def examine(settings: Settings, *, source: str = "") -> AsyncIterator[Finding]:
    """Every check, as each one ends; `source` tells where settings came from that are not the user's own.

    Changes nothing in any dependency but one Redis key, which it removes.
    """
    yield Finding("settings", Verdict.OK, "valid" + (f"; {source}" if source else ""))
    for finding in _settings(settings):
        yield finding
    checks: tuple[tuple[str, Callable[[Settings], Awaitable[list[Finding]]]], ...] = (
        ("postgresql", _postgresql),
        ("redis", _redis),
        ("sqs", _sqs),
    )
    for name, check in checks:
        try:
            async with asyncio.timeout(15):
                findings = await check(settings)
        except (
            OSError,
            TimeoutError,
            RedisError,
            WebhookdError,
            asyncpg.PostgresError,
            asyncpg.InterfaceError,
            asyncpg.InternalClientError,
            ValueError,  # a URL that its library cannot read
            TypeError,  # one with an option that its library does not know
        ) as error:
            # Of other libraries' messages none is shown: they quote URLs with their passwords.
            reason = str(error) if isinstance(error, WebhookdError) else where(error)
            findings = [Finding(name, Verdict.FAILED, f"does not answer ({reason}): check {_URLS[name]}")]
        for finding in findings:
            yield finding


_URLS = {
    "postgresql": "WEBHOOKD_DATABASE_URL, the network, and that the role may connect",
    "redis": "WEBHOOKD_REDIS_URL (rediss:// for TLS) and the network; webhookd works without it, only slower",
    "sqs": "WEBHOOKD_SQS_QUEUE, WEBHOOKD_SQS_DEAD_LETTER_QUEUE, WEBHOOKD_SQS_ENDPOINT_URL, and the AWS region and credentials",
}


def _settings(settings: Settings) -> list[Finding]:
    findings = []
    for account, keys in settings.keys_by_account.items():
        for key in keys:
            well_formed = len(key) == 128 and all(c in "0123456789abcdefABCDEF" for c in key)
            verdict = Verdict.OK if well_formed else Verdict.WARNING
            detail = "128 hexadecimal digits" if well_formed else f"{len(key)} characters, and {_KEY_SHAPE}"
            findings.append(Finding(f"signature key of {account}", verdict, f"fingerprint {fingerprint(key)}; {detail}"))
    try:
        handlers.load(settings.handlers)
        detail = f"{len(handlers.registered)} registered" if settings.handlers else "none: only the timeline is kept"
        findings.append(Finding("handlers", Verdict.OK, detail))
    except SettingsError as error:
        findings.append(Finding("handlers", Verdict.FAILED, str(error)))
    findings.append(_operators(settings))
    if settings.tls_certificate is not None and settings.tls_key is not None:
        findings.append(_certificate(settings.tls_certificate, settings.tls_key))
    for name, address in (
        ("WEBHOOKD_LISTEN", settings.public_address),
        ("WEBHOOKD_ADMIN_LISTEN", settings.admin_address),
    ):
        findings.append(_address(name, address))
    return findings


def _operators(settings: Settings) -> Finding:
    roles = {"operate": settings.admin_tokens, "look": settings.read_tokens}
    told = [f"{role}: {', '.join(sorted(tokens))}" for role, tokens in roles.items() if tokens]
    if settings.admin_anonymous != "nothing":
        told.append(f"{settings.admin_anonymous}: whoever reaches WEBHOOKD_ADMIN_LISTEN, without a token")
    nobody = "nobody may use the API and the dashboard; set WEBHOOKD_ADMIN_TOKENS"
    return Finding("operators", Verdict.OK, "; ".join(told) or nobody)


def _certificate(certificate: Path, key: Path) -> Finding:
    check = "WEBHOOKD_TLS_CERTIFICATE"
    try:
        found = usable(certificate, key)
    except SettingsError as error:
        return Finding(check, Verdict.FAILED, str(error))
    left = (found.ends - time.time()) / 86_400
    names = f"of {', '.join(found.names) or 'no name'}"
    if left < 0:
        return Finding(check, Verdict.FAILED, f"{names}, ended {-left:.0f} days ago: renew it; it is taken without a restart")
    verdict = Verdict.WARNING if left < _CERTIFICATE_DAYS else Verdict.OK
    return Finding(check, verdict, f"{names}, ends in {int(left)} days" + ("" if verdict is Verdict.OK else ": renew it"))


def _address(name: str, address: tuple[str, int]) -> Finding:
    host, port = address
    with contextlib.closing(socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(address)
        except OSError as error:
            return Finding(name, Verdict.WARNING, f"{host}:{port}: {error.strerror}; fine where webhookd is running now")
    return Finding(name, Verdict.OK, f"{host}:{port} is free")


async def _postgresql(settings: Settings) -> list[Finding]:
    # Nothing is prepared ahead, so that a pooler in between gets as far as being found out.
    connection = await connect(settings.database_url.get_secret_value(), timeout=5, statement_cache_size=0)
    findings = []
    try:
        server = await queries.server_state(connection)
        fine = server["version_number"] >= _OLDEST_POSTGRESQL
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


async def _redis(settings: Settings) -> list[Finding]:
    url = settings.redis_url.get_secret_value()
    try:
        return await _ask_redis(url)
    except (OSError, RedisError) as error:
        if problem := tls_problem(error, url, REDIS):
            raise WebhookdError(problem) from error
        raise


async def _ask_redis(url: str) -> list[Finding]:
    client: Any = Redis.from_url(url, socket_timeout=3, socket_connect_timeout=3)
    key = f"webhookd:doctor:{uuid.uuid4()}"
    try:
        started = time.perf_counter()
        await client.execute_command("PING")
        took = time.perf_counter() - started
        try:
            await client.set(key, "1", nx=True, px=10_000)
            await client.delete(key)
        except ResponseError as error:  # a replica, a user without the right, or no memory left
            return [
                Finding("redis", Verdict.FAILED, f"answers, but takes no key ({error}): webhookd needs SET, GET, DEL and EVAL")
            ]
    finally:
        await client.aclose()
    return [Finding("redis", Verdict.OK, f"answers in {took * 1000:.1f} ms, and takes a key")]


async def _sqs(settings: Settings) -> list[Finding]:
    sqs = make_sqs(settings, Metrics(), Watch())
    await sqs.start()
    try:
        main = await sqs.attributes(sqs.queue)
        dead = await sqs.attributes(sqs.dead_letter_queue)
    finally:
        await sqs.stop()
    return [Finding("sqs queue", Verdict.OK, "answers"), *_queue_findings(main, dead, settings)]


def _queue_findings(main: dict[str, Any], dead: dict[str, Any], settings: Settings) -> list[Finding]:
    findings = []
    policy = main.get("RedrivePolicy", {})
    if policy.get("deadLetterTargetArn") != dead.get("QueueArn"):
        findings.append(
            Finding(
                "sqs redrive policy",
                Verdict.FAILED,
                f"the queue does not redrive to {settings.sqs_dead_letter_queue}: a message that kills its worker never ends",
            )
        )
    else:
        receives = int(policy.get("maxReceiveCount", 0))
        enough = receives > settings.max_attempts
        findings.append(
            Finding(
                "sqs redrive policy",
                Verdict.OK if enough else Verdict.WARNING,
                f"after {receives} receives"
                + (
                    ""
                    if enough
                    else f": set more than WEBHOOKD_MAX_ATTEMPTS ({settings.max_attempts}), or SQS gives up before webhookd"
                ),
            )
        )
    retention = int(main.get("MessageRetentionPeriod", 0))
    if retention < 4 * 86400:
        findings.append(
            Finding("sqs retention", Verdict.WARNING, f"{retention} s: events are sent again from PostgreSQL, but late")
        )
    return findings
