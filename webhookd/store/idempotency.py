"""Redis, the fast layer of idempotency. Redis never decides: without it, everything is as correct, only slower.

Keys of both kinds are set with `SET NX` and a TTL, and have the identity of the database in their prefix. `seen` means that a
notification id is *committed* (set only after the commit), and `claim` that a worker has an event in hand.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple
from uuid import UUID

from redis.exceptions import AuthenticationError

from webhookd.errors import OverloadedError, SettingsError, UnavailableError
from webhookd.runtime.batcher import Batcher
from webhookd.runtime.failpoints import Failpoint, reach
from webhookd.runtime.loops import Loop, Watch
from webhookd.store import redis_keys
from webhookd.store.keys import FastUUID
from webhookd.store.redis_node import Command, RedisNode
from webhookd.telemetry.logs import logger
from webhookd.telemetry.metrics import Metrics

# Short, because Redis is here to save time: if it is slower than this, PostgreSQL alone is better.
_TIMEOUT = 0.25
_CONNECT_TIMEOUT = 2.0
_MAX_BATCH = 256
_MARK = "marked"  # the value of a mark


class Seen(NamedTuple):
    """A committed notification, as Redis stores it: 32 bytes, the id before the hash."""

    event_id: UUID
    body_hash: bytes


class IdempotencyKeys:
    """The keys. A batch of operations waits half a second at most; no operation waits while Redis is known to be away."""

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
        self._node: RedisNode | None = None
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
        """Makes the client, which connects at first use, and probes once. Raises SettingsError if the URL cannot be read."""
        if self._node is not None:
            return
        self._node = RedisNode(self._url)
        await self._commands.start()
        with contextlib.suppress(UnavailableError):
            await self._probe()
        await self._prober.start()

    async def renew(self, url: str) -> None:
        """Uses a URL with another user or password from now on. Raises SettingsError if Redis refuses them."""
        node = RedisNode(url)
        try:
            async with asyncio.timeout(_CONNECT_TIMEOUT):
                await node.run([("PING",)])
        except Exception as error:
            if isinstance(error, AuthenticationError):
                await node.leave()
                raise SettingsError(f"WEBHOOKD_REDIS_URL is not taken: {node.problem(error)}") from error
        before, self._node, self._url = self._node, node, url
        self._prober.wake()
        if before is not None:
            await before.leave()

    async def stop(self) -> None:
        """Sends what is pending and closes the connections."""
        await self._prober.stop()
        await self._commands.stop()
        node, self._node = self._node, None
        if node is not None:
            await node.leave()

    def _key(self, kind: str, *parts: object) -> str:
        return redis_keys.key(self._instance(), kind, *parts)

    def _seen_keys(self, notifications: Iterable[tuple[str, str]]) -> list[str]:
        prefix = self._key("seen")
        return [f"{prefix}:{account}:{notification_id}" for account, notification_id in notifications]

    async def seen(self, notifications: Sequence[tuple[str, str]]) -> list[Seen | None]:
        """Returns each notification's committed event; None if it is not committed or not stored, or Redis is away."""
        reply = await self._ask("seen", redis_keys.look_up(self._seen_keys(notifications)))
        if not isinstance(reply, list) or len(reply) != len(notifications):
            return [None] * len(notifications)
        return [None if value is None else _load(value) for value in reply]

    def mark_seen(self, notifications: Sequence[tuple[str, str, Seen]]) -> None:
        """Stores *committed* notifications. If done before the commit, a crash would make the provider's retry a loss."""
        if not self._usable:
            self._skipped.labels("mark").inc(len(notifications))
            return
        keys = self._seen_keys((account, notification_id) for account, notification_id, _ in notifications)
        values = [seen.event_id.bytes + seen.body_hash for _, _, seen in notifications]
        self._send("mark", len(notifications), redis_keys.mark(keys, values, self._dedupe_ttl))

    def _claim_keys(self, event_ids: Iterable[UUID]) -> list[str]:
        prefix = self._key("claim")
        return [f"{prefix}:{event_id}" for event_id in event_ids]

    async def acquire(self, event_ids: Sequence[UUID]) -> tuple[str, list[bool]]:
        """Claims events for one worker. Returns a token, and for each event whether the token, and no other worker, has it.

        If Redis is away, the token has all events: then the row lock alone decides.
        """
        self._claims += 1
        token = f"{self._token}-{self._claims}"
        keys = self._claim_keys(event_ids)
        reply = await self._ask("claim", redis_keys.claim(keys, token, self._claim_ttl_ms))
        return token, [True] * len(keys) if reply is None else list(map(bool, reply))

    def release(self, event_ids: Sequence[UUID], token: str) -> None:
        """Releases those claims that this token still has."""
        if event_ids and self._usable:
            keys = self._claim_keys(event_ids)
            self._send("release", 1, redis_keys.release(keys, token))

    async def claim_mark(self, place: str, name: str, seconds: float) -> bool:
        """Sets a mark that expires. Returns False if it is there already; True also if Redis is away.

        Marks serve while PostgreSQL is away. So `place`, and not the identity of the database, is in their keys.
        """
        reply = await self._ask_always("claim", redis_keys.claim([_mark(place, name)], _MARK, int(seconds * 1000)))
        return reply is None or bool(reply[0])

    async def keep_mark(self, place: str, name: str, value: str, seconds: float) -> str:
        """Sets a mark to `value`, if it is not there, and lets it expire `seconds` from now. Returns the mark's value."""
        reply = await self._ask_always("mark", redis_keys.keep(_mark(place, name), value, int(seconds * 1000)))
        return reply.decode() if isinstance(reply, bytes) else value

    async def marked(self, place: str, name: str) -> bool:
        """Returns whether a mark is there; False also if Redis is away."""
        reply = await self._ask_always("seen", redis_keys.look_up([_mark(place, name)]))
        return bool(reply and reply[0])

    def _send(self, operation: str, count: int, command: Command) -> None:
        """Sends a command whose reply nobody waits for. A command that fails counts as `count` skipped operations."""

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

    async def _ask(self, operation: str, command: Command) -> Any:
        if self._instance() is not None:
            return await self._ask_always(operation, command)
        self._skipped.labels(operation).inc()
        return None

    async def _ask_always(self, operation: str, command: Command) -> Any:
        if self.up:
            try:
                return await self._commands.submit(command)
            except (UnavailableError, OverloadedError):
                pass
        self._skipped.labels(operation).inc()
        return None

    async def _execute(self, commands: list[Command]) -> Sequence[Any]:
        node = self._node
        if not self.up or node is None:  # Redis went away while the commands waited
            raise UnavailableError("redis", self.problem or "away")
        try:
            async with asyncio.timeout(2 * _TIMEOUT):
                replies = await node.run(commands)
                reach(Failpoint.REDIS_AFTER_WRITE)
        except Exception as error:  # not only Redis's errors: uvloop raises RuntimeError if a reset closed the transport
            await self._away(node, error)
            self._prober.wake()
            raise UnavailableError("redis", self.problem or "away") from error
        # The prober is not woken: if its probe succeeds, Redis then changes between up and away only every few seconds.
        if (refused := _refused(replies)) is not None:
            await self._away(node, refused)
        return [UnavailableError("redis", type(reply).__name__) if isinstance(reply, Exception) else reply for reply in replies]

    def _set(self, *, up: bool, problem: str | None = None) -> None:
        if up != self.up or (not up and problem != self.problem):
            logger.log(20 if up else 30, "redis is up" if up else "redis is away", problem=problem)
        self.up = up
        self.problem = problem
        self._up.set(up)

    async def _probe(self) -> None:
        node = self._node
        if node is None:
            return
        try:
            async with asyncio.timeout(_CONNECT_TIMEOUT):
                await node.run([("PING",)])
            # Use the limit of operations. With a longer limit here, the next operations would find Redis too slow again.
            async with asyncio.timeout(2 * _TIMEOUT):
                replies = await node.run(redis_keys.proof(self._instance(), self._token))
        except Exception as error:
            await self._away(node, error)
            raise UnavailableError("redis", self.problem or "away") from error
        if (refused := _refused(replies)) is not None:
            await self._away(node, refused)
            raise UnavailableError("redis", self.problem or "away")
        self._set(up=True)

    async def _away(self, node: RedisNode, error: Exception) -> None:
        self._set(up=False, problem=node.problem(error))
        await node.leave()


def _mark(place: str, name: str) -> str:
    return redis_keys.key(place, "mark", name)


def _refused(replies: Sequence[Any]) -> Exception | None:
    # The commands work on keys of any type. So an error is never about one key; it is about rights, memory, role or slots.
    return next((reply for reply in replies if isinstance(reply, Exception)), None)


def _load(value: bytes) -> Seen | None:
    return Seen(FastUUID(value[:16]), value[16:]) if len(value) == 32 else None  # None: another program's value
