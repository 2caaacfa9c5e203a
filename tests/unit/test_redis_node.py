"""A redirection of Redis (MOVED) leads to the node that it names, with the same TLS, once for each batch."""

from __future__ import annotations

import ssl
from collections.abc import Sequence
from typing import Any

import pytest
from redis.asyncio import SSLConnection
from redis.exceptions import MovedError

from webhookd.store.redis_node import Command, RedisNode

MOVED = MovedError("1 cache-2.example.com:7000")


async def test_a_redirection_keeps_tls_and_what_is_trusted() -> None:
    node = RedisNode("rediss://:hunter2hunter2@cache.example.com:6379/0?ssl_ca_certs=/etc/ca.pem")
    assert await node._follow(MOVED)
    assert node.address == "cache-2.example.com:7000"
    assert node._pool.connection_class is SSLConnection
    tls = SSLConnection(**node._pool.connection_kwargs).ssl_context
    assert (tls.ca_certs, tls.cert_reqs, tls.check_hostname) == ("/etc/ca.pem", ssl.CERT_REQUIRED, True)
    await node.leave()
    assert node.address == "cache.example.com:6379"


async def test_a_socket_of_this_machine_redirects_to_no_other_one() -> None:
    node = RedisNode("unix:///run/redis.sock")
    assert not await node._follow(MOVED)
    assert node.address == "/run/redis.sock"


async def test_nodes_that_redirect_to_each_other_are_followed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    async def moved(self: RedisNode, commands: Sequence[Command]) -> list[Any]:
        asked.append(self.address)
        return [MOVED for _ in commands]

    monkeypatch.setattr(RedisNode, "_pipeline", moved)
    node = RedisNode("redis://cache.example.com:6379/0")
    assert await node.run([("GET", "webhookd:x")]) == [MOVED]
    assert asked == ["cache.example.com:6379", "cache-2.example.com:7000"]
