"""The connection pools on PostgreSQL: one for each purpose, each with its own size, timeout and settings."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, TypeAlias

import asyncpg
from asyncpg.connect_utils import SessionAttribute
from asyncpg.pool import PoolConnectionProxy

from webhookd.store.session import Password, Server, session_options
from webhookd.telemetry.metrics import Metrics

if TYPE_CHECKING:
    import asyncpg.transaction

HandlerConnection = PoolConnectionProxy  # for users' annotations
Connection: TypeAlias = "PoolConnectionProxy[asyncpg.Record]"
Transaction: TypeAlias = "asyncpg.transaction.Transaction"

CONNECT_TIMEOUT = 5.0  # seconds, like the other timeouts
_STATEMENT_TIMEOUT = 10.0
_UPKEEP_TIMEOUT = 600.0
_UPKEEP_CONNECTIONS = 1
_ADMIN_TIMEOUT = 5.0
_ABANDONED = 5.0  # seconds after the daemon's own timeout, until PostgreSQL ends a silent session
# After 15 s of silence, PostgreSQL probes the client's machine. After three unanswered probes, it drops the connection.
_KEEPALIVE = {"tcp_keepalives_idle": "15", "tcp_keepalives_interval": "5", "tcp_keepalives_count": "3"}

# Further settings of a pool's sessions. Our own statements find their rows by an index. Without enable_seqscan = off,
# PostgreSQL reads the whole table `work` while few rows wait, and keeps that plan in the burst that follows. Operators'
# statements are planned anew for each call: a plan that serves every filter would use no index. They read an index in order:
# with statistics from a time when few rows waited, PostgreSQL would build a bitmap of all waiting rows for one page of them.
# By statement_timeout, PostgreSQL ends operators' statements when their caller has given up.
SESSIONS = {
    "short": {"enable_seqscan": "off"},
    "fold": {"enable_seqscan": "off"},
    "admin": {
        "enable_seqscan": "off",
        "enable_bitmapscan": "off",
        "plan_cache_mode": "force_custom_plan",
        "statement_timeout": str(int(_ADMIN_TIMEOUT * 1000)),
    },
}
# Operators' statements return whole rows, and fail in a transaction if they were prepared before a migration added a column.
_CACHES = {"admin": {"statement_cache_size": 0}}


@dataclass(slots=True, frozen=True)
class PoolSettings:
    """The settings of the connections to PostgreSQL.

    short, work, fold, admin: most connections of these pools.
    handler_timeout: seconds that an event's handlers have.
    pooled: a pooler stands before PostgreSQL, and gives consecutive transactions different sessions.
    password: makes the password of each connection, if it does not stand in the URL.
    """

    url: str = field(repr=False)  # it may hold a password
    short: int
    work: int
    handler_timeout: float
    fold: int = 1
    admin: int = 1
    pooled: bool = False
    password: Password | None = None

    @property
    def most(self) -> int:
        """Returns the most connections of all pools together."""
        return self.short + self.work + self.fold + self.admin + _UPKEEP_CONNECTIONS


async def _leave_as_is(_: Any) -> None:
    """Does nothing. asyncpg's reset on release would cost a round trip, and our own statements leave nothing to reset."""


class Pools:
    """Five pools on one database.

    short: webhookd's own single statements.
    fold: statements that fold events into the timeline. Some wait for a row's lock; they delay neither webhooks nor handlers.
    work: one connection for each worker's transaction. A session in which users' handlers ran is reset on release.
    upkeep: one connection, open while it is needed, for retention's statements. Some of them take long.
    admin: operators' statements, which can never take a connection of the other pools.
    """

    def __init__(self, settings: PoolSettings, server: Server) -> None:
        self._server = server
        self._pooled = settings.pooled
        self._sizes = {
            "short": settings.short,
            "fold": settings.fold,
            "work": settings.work,
            "upkeep": _UPKEEP_CONNECTIONS,
            "admin": settings.admin,
        }
        # A statement's timeout reveals a connection that died silently, so our timeouts are short.
        self._timeouts = {
            "short": _STATEMENT_TIMEOUT,
            "fold": _STATEMENT_TIMEOUT,
            "work": max(settings.handler_timeout, _STATEMENT_TIMEOUT),
            "upkeep": _UPKEEP_TIMEOUT,
            "admin": _ADMIN_TIMEOUT,
        }
        # If a daemon is cut off or freezes in a transaction, its event's row stays locked until TCP gives the connection up:
        # two hours, without probes. These settings are startup parameters, since RESET ALL does not change those.
        self._session = {
            "jit": "off",
            "idle_in_transaction_session_timeout": str(int((self._timeouts["work"] + _ABANDONED) * 1000)),
            **_KEEPALIVE,
        }
        self._pools: dict[str, asyncpg.Pool[asyncpg.Record]] = {}
        self._waiting = dict.fromkeys(self._sizes, 0)

    def __bool__(self) -> bool:
        """Returns whether the pools are open."""
        return bool(self._pools)

    def __getitem__(self, name: str) -> asyncpg.Pool[asyncpg.Record]:
        """Returns the pool `name`."""
        return self._pools[name]

    async def open(self, check: Callable[[Any], Coroutine[Any, Any, None]]) -> None:
        """Makes the pools, which connect at first use. `check` is called with each new session, and may refuse it."""
        for name, size in self._sizes.items():
            self._pools[name] = asyncpg.create_pool(
                self._server.url,  # not used: `connect` takes the server's present URL
                min_size=0,
                max_size=max(size, 1),
                max_inactive_connection_lifetime=60.0,
                command_timeout=self._timeouts[name],
                timeout=CONNECT_TIMEOUT,
                # After a failover, the host's name may still lead to a server that is a replica now.
                target_session_attrs=SessionAttribute.read_write,
                **session_options(
                    f"webhookd {name}",
                    {**self._session, **SESSIONS.get(name, {})},
                    pooled=self._pooled,
                    runs_user_code=name == "work",
                )
                | _CACHES.get(name, {})
                | {"connect": self._connect},
                # Settings of a role or database, and a failover, may show in a new session first.
                init=check,
                reset=None if name == "upkeep" and not self._pooled else _leave_as_is,
            )
            await self._pools[name]

    async def _connect(self, _: str, **options: Any) -> Any:
        return await self._server.connect(**options)

    async def close(self) -> None:
        """Closes the pools; connections that do not close within 5 s are cut."""
        pools, self._pools = self._pools, {}
        for pool in pools.values():
            try:
                async with asyncio.timeout(5):
                    await pool.close()
            except (TimeoutError, OSError, asyncpg.PostgresError, asyncpg.InterfaceError):
                pool.terminate()

    def report(self, metrics: Metrics) -> None:
        """Lets the gauges of the pools show their state at each scrape."""
        for name in self._sizes:
            for state, count in (("in_use", self._in_use), ("idle", self._idle), ("most", self._sizes.__getitem__)):
                metrics.pool_connections.labels(name, state).set_function(partial(count, name))
            metrics.pool_waiting.labels(name).set_function(partial(self._waiting.__getitem__, name))

    def _in_use(self, name: str) -> int:
        pool = self._pools.get(name)
        return 0 if pool is None else pool.get_size() - pool.get_idle_size()

    def _idle(self, name: str) -> int:
        pool = self._pools.get(name)
        return 0 if pool is None else pool.get_idle_size()

    async def acquire(self, name: str) -> Connection:
        """Returns a connection, which the caller must release."""
        self._waiting[name] += 1
        try:
            # Do not use asyncpg's own timeout: before Python 3.12, it makes a task for each statement.
            async with asyncio.timeout(_STATEMENT_TIMEOUT):
                return await self._pools[name].acquire()
        finally:
            self._waiting[name] -= 1

    async def release(self, name: str, connection: Connection, *, reset: bool) -> None:
        """Takes a connection back. `reset`: resets its session first, because users' code ran in it. Raises nothing."""
        # asyncpg shields the release: it must end even if the caller is cancelled, or the pool would lose the connection.
        try:
            if reset and not self._pooled and not connection.is_closed():  # a pooler's session is reset as its transaction ends
                await connection.reset(timeout=2.0)
            await self._pools[name].release(connection, timeout=2.0)
        except (OSError, TimeoutError, KeyError, asyncpg.PostgresError, asyncpg.InterfaceError):
            with contextlib.suppress(asyncpg.InterfaceError):  # the pool took the connection back in spite of the error
                connection.terminate()

    async def renew_sessions(self) -> None:
        """Lets new sessions replace all present ones.

        A dead session (its server is gone, or a firewall forgot it) costs time. A session that began before somebody mended a
        setting never sees the new value. A session that leads to a server that is a replica now would stay in use, because the
        probes use it.
        """
        for pool in self._pools.values():
            await pool.expire_connections()


def is_lost(connection: Connection) -> bool:
    """Returns whether a connection that `acquire` has lent is closed."""
    try:
        return connection.is_closed()
    except asyncpg.InterfaceError:  # a closed connection is back in its pool, and asyncpg then refuses this call
        return True


async def roll_back(transaction: Transaction) -> None:
    """Rolls a transaction back, unless it has ended already, as after a commit that failed."""
    with contextlib.suppress(asyncpg.InterfaceError):  # the pool resets the connection in any case
        await transaction.rollback()
