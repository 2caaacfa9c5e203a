"""The committed notifications of an installation that Redis remembers, also from before a recovery of PostgreSQL.

Only `webhookd recover` reads this. A daemon believes the keys of its present instance, and ignores all others.
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Sequence
from typing import Any, NamedTuple
from uuid import UUID

from redis.asyncio import Redis, RedisCluster
from redis.exceptions import NoPermissionError, RedisError

from webhookd.errors import UnavailableError
from webhookd.store.keys import FastUUID
from webhookd.store.redis_node import RedisNode

_BATCH = 1000  # keys of one command
_SEEN = re.compile(rb"webhookd:\{([0-9a-f-]{36})\}:seen:([a-z0-9_-]{1,64}):(.+)", re.DOTALL)


class Remembered(NamedTuple):
    """A committed notification, as Redis remembers it."""

    key: bytes
    instance: UUID  # the instance of the database that committed the notification
    account: str
    notification_id: str
    event_id: UUID


class RedisMemory:
    """Reads and removes the keys of committed notifications. All methods raise UnavailableError if Redis does not answer."""

    def __init__(self, url: str) -> None:
        """Raises SettingsError if the URL cannot be read."""
        self._url = url
        self._node = RedisNode(url)
        self._client: Any = None

    async def connect(self) -> None:
        """Connects to the server, or to all nodes if the server is in cluster mode."""
        try:
            (info,) = await self._node.run([("INFO", "cluster")])
            clustered = isinstance(info, dict) and info.get("cluster_enabled")
            self._client = (RedisCluster if clustered else Redis).from_url(self._url, socket_timeout=5.0)
        except (OSError, RedisError, TimeoutError, TypeError) as error:
            raise self._unavailable(error) from error

    async def close(self) -> None:
        """Closes the connections."""
        await self._node.leave()
        if self._client is not None:
            await self._client.aclose()

    async def of_installation(self, instance: UUID) -> AsyncIterator[list[Remembered]]:
        """Yields all notifications of the installation, in batches, whatever instance of its database has committed them.

        `instance`: the present instance. The first eight digits of all instances of an installation are the same.
        """
        found: list[bytes] = []
        try:
            async for key in self._client.scan_iter(match=f"webhookd:{{{str(instance)[:8]}*}}:seen:*", count=_BATCH):
                found.append(key)
                if len(found) >= _BATCH:
                    yield await self._read(found)
                    found = []
            if found:
                yield await self._read(found)
        except (OSError, RedisError, TimeoutError) as error:
            raise self._unavailable(error) from error

    async def remove(self, keys: Sequence[bytes]) -> None:
        """Removes keys."""
        try:
            for begin in range(0, len(keys), _BATCH):
                await self._client.delete(*keys[begin : begin + _BATCH])
        except (OSError, RedisError, TimeoutError) as error:
            raise self._unavailable(error) from error

    async def _read(self, keys: Sequence[bytes]) -> list[Remembered]:
        read = self._client.mget if isinstance(self._client, Redis) else self._client.mget_nonatomic
        remembered = []
        for key, value in zip(keys, await read(keys), strict=True):
            # A value of another length was written by another program. A key may have expired since the scan.
            if (match := _SEEN.fullmatch(key)) is not None and value is not None and len(value) == 32:
                account, notification_id = match[2].decode(), match[3].decode(errors="replace")
                remembered.append(Remembered(key, UUID(match[1].decode()), account, notification_id, FastUUID(value[:16])))
        return remembered

    def _unavailable(self, error: BaseException) -> UnavailableError:
        if isinstance(error, NoPermissionError):
            return UnavailableError(
                "redis",
                "the user in WEBHOOKD_REDIS_URL may not run a command (NOPERM): for this command, also allow SCAN "
                "(ACL SETUSER the-user +scan)",
            )
        return UnavailableError("redis", self._node.problem(error))
