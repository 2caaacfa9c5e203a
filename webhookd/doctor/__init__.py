"""The doctor: checks every setting and dependency, and reports for each the finding and the remedy."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable

from webhookd.doctor.configuration import examine_settings
from webhookd.doctor.destinations import examine_destinations
from webhookd.doctor.finding import Finding, Verdict
from webhookd.doctor.postgresql import examine_postgresql
from webhookd.doctor.provider import examine_provider
from webhookd.doctor.redis import examine_redis
from webhookd.doctor.sqs import examine_sqs
from webhookd.errors import WebhookdError
from webhookd.settings import Settings

_SECONDS = 15
_SLOW = {
    "postgresql": "look for load or locks in PostgreSQL, and check the network to the host in WEBHOOKD_DATABASE_URL",
    "redis": "check the network to the host in WEBHOOKD_REDIS_URL",
    "destinations": "check the DNS server that this machine asks",
    "provider": "check the network to Authorize.Net",
    "sqs": "check the network to SQS, and the source of the AWS credentials",
}

__all__ = ["Finding", "Verdict", "examine"]


async def examine(settings: Settings, *, source: str = "") -> AsyncIterator[Finding]:
    """Yields the findings of every check as it ends. `source`: where settings came from that are not the user's own.

    Changes nothing in any dependency but two Redis keys, which it removes.
    """
    yield Finding("settings", Verdict.OK, "valid" + (f"; {source}" if source else ""))
    for finding in examine_settings(settings):
        yield finding
    checks: tuple[tuple[str, Callable[[Settings], Awaitable[list[Finding]]]], ...] = (
        ("postgresql", examine_postgresql),
        ("redis", examine_redis),
        ("sqs", examine_sqs),
        ("destinations", examine_destinations),
        ("provider", examine_provider),
    )
    for name, check in checks:
        try:
            async with asyncio.timeout(_SECONDS):
                findings = await check(settings)
        except TimeoutError:
            findings = [Finding(name, Verdict.FAILED, f"the checks took longer than {_SECONDS} s: {_SLOW[name]}")]
        except WebhookdError as error:
            reason = str(error).removeprefix(f"{name} is unavailable: ")
            findings = [Finding(name, Verdict.FAILED, reason)]
        for finding in findings:
            yield finding
