"""A batch of Redis commands that was given up halfway disturbs no other batch."""

from __future__ import annotations

import asyncio

import pytest

from tests.conftest import Servers
from webhookd.store.redis_node import RedisNode


async def test_a_batch_that_was_given_up_leaves_no_reply_to_the_next_one(servers: Servers) -> None:
    # A busy machine may stand still for longer than the client waits by default (1 s for a connection, 5 s for a reply).
    node = RedisNode(f"{servers.redis_url}?socket_timeout=60&socket_connect_timeout=60")
    for seconds in (0.0, 0.001, 0.01, 0.1):
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(seconds):
                await node.run([("ECHO", "before"), ("BLPOP", "webhookd:nothing", 0), ("ECHO", "after")])
        assert await node.run([("ECHO", "mine"), ("ECHO", "too")]) == [b"mine", b"too"]
    await node.leave()
