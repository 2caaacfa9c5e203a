"""The doctor: checks every setting and dependency, and reports for each the finding and the remedy."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable

from redis.exceptions import RedisError

from webhookd.doctor.configuration import examine_settings
from webhookd.doctor.finding import Finding, Verdict
from webhookd.doctor.postgresql import examine_postgresql
from webhookd.doctor.redis import examine_redis
from webhookd.doctor.sqs import examine_sqs
from webhookd.errors import WebhookdError
from webhookd.settings import Settings
from webhookd.store.failures import ASYNCPG_ERRORS
from webhookd.telemetry.logs import where

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
            *ASYNCPG_ERRORS,
            ValueError,  # a URL that its library cannot read
            TypeError,  # a URL with an option that its library does not know
        ) as error:
            # Show no message of another library: such messages quote URLs with their passwords.
            reason = str(error) if isinstance(error, WebhookdError) else where(error)
            findings = [Finding(name, Verdict.FAILED, f"cannot be used ({reason}): check {_URLS[name]}")]
        for finding in findings:
            yield finding


_URLS = {
    "postgresql": "WEBHOOKD_DATABASE_URL, the network, and whether the role may connect",
    "redis": "WEBHOOKD_REDIS_URL (rediss:// for TLS) and the network; webhookd works without Redis, but more slowly",
    "sqs": "WEBHOOKD_SQS_QUEUE, WEBHOOKD_SQS_DEAD_LETTER_QUEUE, WEBHOOKD_SQS_ENDPOINT_URL, and the AWS region and credentials",
}
