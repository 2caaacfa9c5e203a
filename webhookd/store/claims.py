"""Redis: the fast layer of idempotency. Never the truth: without it everything is as correct, only slower.

Two kinds of keys, both set with `SET NX` and a TTL, both prefixed with the identity of the database:
`seen`, that a notification id is *committed* (set only after the commit), and `claim`, that a worker has an event in hand.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple
from uuid import UUID

import hiredis
from asyncpg.pgproto import pgproto
from redis.asyncio import BlockingConnectionPool, Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError, ResponseError

from webhookd.batcher import Batcher
from webhookd.errors import OverloadedError, UnavailableError
from webhookd.failpoints import Failpoint, reach
from webhookd.lifecycle import Loop, Watch
from webhookd.logs import logger, where
from webhookd.metrics import Metrics
from webhookd.store.tls import REDIS, tls_problem

# Short, because Redis is here to save time: slower than this, PostgreSQL alone is the better way.
_TIMEOUT = 0.25
_CONNECTIONS = 4
_MAX_BATCH = 256

# One command for a batch of events: 1 for each that nobody had.
_CLAIM = """
local got = {}
for i, key in ipairs(KEYS) do got[i] = redis.call('set', key, ARGV[1], 'NX', 'PX', ARGV[2]) and 1 or 0 end
return got
"""
# Deletes a claim only where it is still ours: after its TTL another worker may hold it.
_RELEASE = "for _, key in ipairs(KEYS) do if redis.call('get', key) == ARGV[1] then redis.call('del', key) end end"

# One command for a batch of notifications: each key is set where it is not, with the TTL that comes last.
_MARK = "for i, key in ipairs(KEYS) do redis.call('set', key, ARGV[i], 'NX', 'EX', ARGV[#ARGV]) end"


class Seen(NamedTuple):
    """A committed notification, as Redis remembers it: 32 bytes, the id before the hash."""

    event_id: UUID
    body_hash: bytes


class Claims:
    """The keys. Each operation waits at most a quarter of a second, and none at all while Redis is known to be away."""

    def __init__(
        self,
        url: str,
        *,
        instance: Callable[[], UUID | None],
        dedupe_ttl: float,
        claim_ttl: float,
        metrics: Metrics,
        watch: Watch,
    ) -> None:
        self._url = url
        self._instance = instance
        self._dedupe_ttl = int(dedupe_ttl)
        self._claim_ttl_ms = int(claim_ttl * 1000)
        self._skipped = metrics.redis_skipped
        self._up = metrics.dependency_up.labels("redis")
        self._redis: Any = None
        self._connections: list[Any] = []  # at hand, for batches of commands
        self._token = f"{os.getpid()}-{secrets.token_hex(8)}"
        self._claims = 0
        # All operations of one moment share one pipeline, so that a round trip serves many events.
        self._commands: Batcher[tuple[Any, ...], Any] = Batcher(
            "redis", self._execute, watch, max_batch=_MAX_BATCH, max_pending=20_000, workers=2
        )
        self._prober = Loop("redis prober", self._probe, watch, every=2.0)
        self.up = False
        self.problem: str | None = "not yet reached"

    async def start(self) -> None:
        """Makes the client (it connects at first use) and probes once; never fails."""
        if self._redis is not None:
            return
        # No retries: a SET NX sent again after a lost reply finds its own key, and takes it for someone else's.
        pool: Any = BlockingConnectionPool.from_url(
            self._url,
            max_connections=_CONNECTIONS,
            timeout=_TIMEOUT,
            socket_connect_timeout=1.0,
            retry=Retry(NoBackoff(), 0),
            client_name="webhookd",
        )
        self._redis = Redis.from_pool(pool)
        await self._commands.start()
        with contextlib.suppress(UnavailableError):
            await self._probe()
        await self._prober.start()

    async def stop(self) -> None:
        """Sends what is pending and closes the connections."""
        await self._prober.stop()
        await self._commands.stop()
        redis, self._redis = self._redis, None
        while self._connections:
            await self._connections.pop().disconnect(nowait=True)
        if redis is not None:
            try:
                async with asyncio.timeout(1):
                    await redis.aclose()
            except (RedisError, OSError, TimeoutError) as error:
                logger.debug("redis did not close in order", error=where(error))

    def _key(self, kind: str, *parts: object) -> str:
        return ":".join(("webhookd", str(self._instance()), kind, *map(str, parts)))

    def _seen_keys(self, notifications: Iterable[tuple[str, str]]) -> list[str]:
        prefix = self._key("seen")
        return [f"{prefix}:{account}:{notification_id}" for account, notification_id in notifications]

    async def seen(self, notifications: Sequence[tuple[str, str]]) -> list[Seen | None]:
        """For each (account, notification id) its committed event, or None: not committed, forgotten, or Redis is away."""
        reply = await self._ask("seen", "MGET", *self._seen_keys(notifications))
        if not isinstance(reply, list) or len(reply) != len(notifications):
            return [None] * len(notifications)
        return [None if value is None else _load(value) for value in reply]

    def mark_seen(self, notifications: Sequence[tuple[str, str, Seen]]) -> None:
        """Remembers *committed* notifications; before the commit, a crash would turn the provider's retry into a loss."""
        if not self._usable:
            self._skipped.labels("mark").inc(len(notifications))
            return
        keys = self._seen_keys((account, notification_id) for account, notification_id, _ in notifications)
        values = [seen.event_id.bytes + seen.body_hash for _, _, seen in notifications]
        self._send("mark", len(notifications), "EVAL", _MARK, len(keys), *keys, *values, self._dedupe_ttl)

    def _claim_keys(self, event_ids: Iterable[UUID]) -> list[str]:
        prefix = self._key("claim")
        return [f"{prefix}:{event_id}" for event_id in event_ids]

    async def acquire(self, event_ids: Sequence[UUID]) -> tuple[str, list[bool]]:
        """Claims events for one worker: a token, and for each event whether it is this token's, or another worker has it.

        Where Redis is away all are: then the row lock alone decides.
        """
        self._claims += 1
        token = f"{self._token}-{self._claims}"
        keys = self._claim_keys(event_ids)
        reply = await self._ask("claim", "EVAL", _CLAIM, len(keys), *keys, token, self._claim_ttl_ms)
        return token, [True] * len(keys) if reply is None else list(map(bool, reply))

    def release(self, event_ids: Sequence[UUID], token: str) -> None:
        """Gives claims back, those that are still this token's."""
        if event_ids and self._usable:
            keys = self._claim_keys(event_ids)
            self._send("release", 1, "EVAL", _RELEASE, len(keys), *keys, token)

    def _send(self, operation: str, count: int, *command: Any) -> None:
        """Gives Redis a command whose reply nobody waits for; one that fails counts as `count` skipped operations."""

        def replied(reply: asyncio.Future[Any]) -> None:
            if reply.cancelled() or reply.exception() is not None:
                self._skipped.labels(operation).inc(count)

        try:
            self._commands.submit(command).add_done_callback(replied)
        except OverloadedError:
            self._skipped.labels(operation).inc(count)

    @property
    def _usable(self) -> bool:
        return self.up and self._instance() is not None

    async def _ask(self, operation: str, *command: Any) -> Any:
        if self._usable:
            try:
                return await self._commands.submit(command)
            except (UnavailableError, OverloadedError):
                pass
        self._skipped.labels(operation).inc()
        return None

    async def _execute(self, commands: list[tuple[Any, ...]]) -> Sequence[Any]:
        if not self.up or self._redis is None:  # fell away while these waited
            raise UnavailableError("redis", self.problem or "away")
        try:
            async with asyncio.timeout(2 * _TIMEOUT):
                replies = await self._pipeline(self._redis.connection_pool, commands)
                reach(Failpoint.REDIS_AFTER_WRITE)
        except Exception as error:  # not only Redis's own: uvloop raises RuntimeError where a reset closed the transport
            self._set(up=False, problem=self._told(error))
            self._prober.wake()
            raise UnavailableError("redis", where(error)) from error
        return [UnavailableError("redis", type(reply).__name__) if isinstance(reply, Exception) else reply for reply in replies]

    async def _pipeline(self, pool: Any, commands: list[tuple[Any, ...]]) -> list[Any]:
        # What the library's own pipeline does; but it packs each key in Python, which costs more than the round trip, and so
        # does its pool.
        connection = self._connections.pop() if self._connections else pool.make_connection()
        try:
            await pool.ensure_connection(connection)
            await connection.send_packed_command([hiredis.pack_command(command) for command in commands], check_health=False)
            return [await _reply(connection) for _ in commands]
        except BaseException:
            await connection.disconnect(nowait=True)  # replies may be on their way, which are nobody's any more
            raise
        finally:
            self._connections.append(connection)

    def _set(self, *, up: bool, problem: str | None = None) -> None:
        if up != self.up:
            logger.log(20 if up else 30, "redis is up" if up else "redis is away", problem=problem)
        self.up = up
        self.problem = problem
        self._up.set(up)

    async def _probe(self) -> None:
        if self._redis is None:
            return
        try:
            async with asyncio.timeout(2):
                # A write, since all that is asked of Redis is one: a replica, or a Redis that is full, answers PING.
                await self._redis.execute_command("SET", "webhookd:probe", self._token, "EX", 60)
        except Exception as error:
            self._set(up=False, problem=self._told(error))
            raise UnavailableError("redis", where(error)) from error
        self._set(up=True)

    def _told(self, error: Exception) -> str:
        return tls_problem(error, self._url, REDIS) or where(error)


async def _reply(connection: Any) -> Any:
    try:
        return await connection.read_response()
    except ResponseError as error:  # of this command alone
        return error


def _load(value: bytes) -> Seen | None:
    return Seen(pgproto.UUID(value[:16]), value[16:]) if len(value) == 32 else None  # None: not ours; PostgreSQL knows
