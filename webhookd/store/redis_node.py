"""The Redis server that has our keys: the server in the URL, or the node of a cluster to which that server redirects."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Sequence
from typing import Any

from redis.asyncio import ConnectionPool, Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import (
    AuthenticationError,
    AuthenticationWrongNumberOfArgsError,
    BusyLoadingError,
    ClusterDownError,
    InvalidResponse,
    MaxConnectionsError,
    MovedError,
    NoPermissionError,
    OutOfMemoryError,
    ReadOnlyError,
    RedisError,
    ResponseError,
)

from webhookd.errors import SettingsError
from webhookd.store.network import network_problem, unreadable
from webhookd.store.tls import REDIS, tls_problem

Command = tuple[Any, ...]

_CLOSE_SECONDS = 0.1
_NO_DATABASE = ("SELECT is not allowed in cluster mode", "DB index is out of range")
_URL = REDIS.setting
_REMEDIES: dict[type[RedisError], str] = {
    NoPermissionError: f"Redis refuses a command (NOPERM): allow the user in {_URL} to run EVAL, GET, MGET, SET and DEL on "
    "keys webhookd:*",
    OutOfMemoryError: "Redis is full: raise its maxmemory, or set maxmemory-policy to volatile-ttl",
    ReadOnlyError: f"Redis takes no writes, since it is a replica: name the primary in {_URL}",
    ClusterDownError: "the cluster of Redis serves no slot for webhookd's keys: look at CLUSTER INFO on its nodes",
    BusyLoadingError: "Redis still loads its data: wait, and webhookd uses it by itself",
    MaxConnectionsError: "Redis has reached its limit of connections: raise its maxclients",
    AuthenticationWrongNumberOfArgsError: f"Redis is older than 6, and knows no users: name no user in {_URL}",
    InvalidResponse: f"the answer is not one of Redis: check in {_URL} that host and port are Redis' own, and write rediss:// "
    "for TLS, if Redis wants TLS",
}
_BY_CODE = {
    "MISCONF": "Redis cannot save its data, and takes no writes (MISCONF): give its disk space, or look into its log",
    "NOREPLICAS": "Redis takes no writes without its replicas (NOREPLICAS): start them, or lower min-replicas-to-write",
    "NOAUTH": f"Redis wants a password: write it into {_URL}, as redis://:password@host:6379/0",
}


class RedisNode:
    """Connections to one server, for batches of commands.

    All keys of an installation are in one slot: commands with several keys work, and one node has all keys. A redirection
    (MOVED) to that node is followed. When the node fails, the redirection is forgotten: the URL then leads to the next node.
    """

    def __init__(self, url: str) -> None:
        """Raises SettingsError if the URL cannot be read."""
        self._url = url
        # No retries: a SET NX sent again after a lost reply finds its own key, and takes it for someone else's.
        try:
            self._first: Any = ConnectionPool.from_url(
                url, socket_connect_timeout=1.0, retry=Retry(NoBackoff(), 0), client_name="webhookd"
            )
        except (TypeError, ValueError) as error:
            raise SettingsError(unreadable(url, REDIS)) from error
        self._pool: Any = self._first
        self._client = Redis(
            connection_pool=self._pool
        )  # one for all batches: making a client takes longer than sending a batch

    @property
    def address(self) -> str:
        """Returns the address to which commands go now: host and port, or a socket's path."""
        at = self._pool.connection_kwargs
        return str(at["path"]) if "path" in at else f"{at.get('host', 'localhost')}:{at.get('port', 6379)}"

    async def run(self, commands: Sequence[Command]) -> list[Any]:
        """Returns the replies to the commands, in order. A reply can be an error. Raises RedisError and OSError."""
        replies = await self._pipeline(commands)
        refused = [position for position, reply in enumerate(replies) if isinstance(reply, MovedError)]
        # A refused command was not executed: it may be sent again. But only once: nodes that disagree could redirect for ever.
        if refused and await self._follow(replies[refused[-1]]):
            again = await self._pipeline([commands[position] for position in refused])
            for position, reply in zip(refused, again, strict=True):
                replies[position] = reply
        return replies

    async def leave(self) -> None:
        """Closes the idle connections. The next command goes to the server in the URL again."""
        await self._go(self._first)

    def problem(self, error: BaseException) -> str:
        """Returns what to mend after `error`. Quotes no message of Redis, which could hold a key or a user's name."""
        if problem := tls_problem(error, self._url, REDIS):
            return problem
        if isinstance(error, MovedError):
            return (
                f"Redis is in cluster mode, and its nodes redirect to each other ({error.host}:{error.port}): "
                "look at CLUSTER SLOTS on its nodes, and name the cluster's endpoint in WEBHOOKD_REDIS_URL"
            )
        database = self._first.connection_kwargs.get("db") or 0
        if database and isinstance(error, ResponseError) and any(reply in str(error) for reply in _NO_DATABASE):
            reason = "which this Redis does not have (in cluster mode, only the database 0 may exist): end the URL in /0"
            return f"WEBHOOKD_REDIS_URL names the database {database}, {reason}"
        code = _code_of(error)
        if code in _BY_CODE:
            return _BY_CODE[code]
        if isinstance(error, AuthenticationError):
            return self._sign_in()
        for kind, remedy in _REMEDIES.items():
            if isinstance(error, kind):
                return remedy
        if "max number of clients" in str(error):
            return _REMEDIES[MaxConnectionsError]
        if isinstance(error, ResponseError):
            return f"Redis refuses a command of webhookd ({code or 'no code'}): look for this code in Redis' documentation"
        if self._pool is not self._first:
            return (
                f"Redis is in cluster mode, and its node {self.address} does not answer: "
                "let webhookd connect to every node of the cluster"
            )
        if isinstance(error, TypeError) and "ssl_" in self._url and not self._url.startswith("rediss://"):
            return f"{_URL} has options of TLS (ssl_…), and does not ask for TLS: begin it with rediss:// for TLS"
        return network_problem(error, self._url, REDIS) or (
            f"Redis closed the connection, or its answer was not as expected: look into its log, and check in {_URL} that host "
            "and port are Redis' own, and that the URL begins with rediss:// for TLS, if Redis wants TLS"
        )

    def _sign_in(self) -> str:
        if self._first.connection_kwargs.get("username"):
            return (
                f"Redis refuses the user and the password in {_URL}: look with ACL LIST whether Redis has this user, and "
                "correct both; if Redis has only requirepass, name no user: redis://:password@host:6379/0"
            )
        return (
            f"Redis refuses the password in {_URL}: write there the one of requirepass in Redis, with / # % in it as %2F %23 "
            "%25; if the password is a user's, name the user, too: redis://user:password@host:6379/0"
        )

    async def _follow(self, moved: MovedError) -> bool:
        at = self._first.connection_kwargs
        if "path" in at:  # the URL names a socket of this machine, and a redirection would lead elsewhere
            return False
        # A node that does not know its own name sends no host, and means the host that was asked.
        host = moved.host or self._pool.connection_kwargs.get("host", "localhost")
        await self._go(
            ConnectionPool(connection_class=self._first.connection_class, **{**at, "host": host, "port": moved.port})
        )
        return True

    async def _go(self, pool: Any) -> None:
        before, self._pool = self._pool, pool
        self._client = Redis(connection_pool=pool)
        await _close_idle(before)

    async def _pipeline(self, commands: Sequence[Command]) -> list[Any]:
        # The library closes a connection whose replies were not all read, for example after the caller's timeout.
        pool = self._pool
        pipeline = self._client.pipeline(transaction=False)
        for command in commands:
            pipeline.execute_command(*command)
        try:
            return await pipeline.execute(raise_on_error=False)
        finally:
            if pool is not self._pool:  # commands go to another server now
                await _close_idle(pool)


def _code_of(error: BaseException) -> str:
    """Returns the code of Redis' answer, which is its first word; empty if `error` is no answer."""
    return str(getattr(error, "status_code", None) or "")


async def _close_idle(pool: Any) -> None:
    # redis-py waits for the end of TLS, which a server that hangs does not send.
    with contextlib.suppress(RedisError, OSError, TimeoutError):
        async with asyncio.timeout(_CLOSE_SECONDS):
            await pool.disconnect(inuse_connections=False)
