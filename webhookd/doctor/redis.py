"""What the doctor finds in Redis."""

from __future__ import annotations

import time
import uuid
from typing import Any

from redis.asyncio import Redis
from redis.exceptions import RedisError, ResponseError

from webhookd.doctor.finding import Finding, Verdict
from webhookd.errors import WebhookdError
from webhookd.settings import Settings
from webhookd.store.tls import REDIS, tls_problem


async def examine_redis(settings: Settings) -> list[Finding]:
    """Whether Redis answers, and takes a key."""
    url = settings.redis_url.get_secret_value()
    try:
        return await _ask(url)
    except (OSError, RedisError) as error:
        if problem := tls_problem(error, url, REDIS):
            raise WebhookdError(problem) from error
        raise


async def _ask(url: str) -> list[Finding]:
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
