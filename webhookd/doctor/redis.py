"""The doctor's findings about Redis."""

from __future__ import annotations

import asyncio
import time
import uuid

from redis.exceptions import RedisError

from webhookd.doctor.finding import Finding, Verdict
from webhookd.settings import Settings
from webhookd.store import redis_keys
from webhookd.store.redis_node import RedisNode

_TIMEOUT = 3.0


async def examine_redis(settings: Settings) -> list[Finding]:
    """Checks whether Redis accepts every command of the daemon, each with several keys, and whether it is in cluster mode."""
    node = RedisNode(settings.redis_url.get_secret_value())
    try:
        async with asyncio.timeout(_TIMEOUT):
            started = time.perf_counter()
            await node.run([("PING",)])
            took = time.perf_counter() - started
            replies = await node.run(redis_keys.proof("doctor", str(uuid.uuid4())))
            refused = next((reply for reply in replies if isinstance(reply, RedisError)), None)
            if refused is not None:
                return [_refuses(node, refused)]
            (info,) = await node.run([("INFO", "cluster")])
            address = node.address
    except (OSError, RedisError, TimeoutError, TypeError) as error:  # TypeError: an option that the library does not know
        return [_refuses(node, error)]
    finally:
        await node.leave()
    detail = f"answers in {took * 1000:.1f} ms, and accepts every command of webhookd"
    if isinstance(info, dict) and info.get("cluster_enabled"):
        detail += f"; it is in cluster mode: all keys of the installation are in one slot, which the node {address} has"
    return [Finding("redis", Verdict.OK, detail)]


def _refuses(node: RedisNode, error: BaseException) -> Finding:
    return Finding("redis", Verdict.FAILED, f"{node.problem(error)} (webhookd works without Redis, but more slowly)")
