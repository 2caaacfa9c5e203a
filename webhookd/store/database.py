"""The connection pools on PostgreSQL, and whether PostgreSQL is up."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, NoReturn, TypeAlias
from uuid import UUID, uuid4

import asyncpg
from asyncpg.connect_utils import SessionAttribute

from webhookd.errors import UnavailableError, WebhookdError
from webhookd.runtime.loops import Loop, Watch
from webhookd.store.failures import READ_ONLY, gateway, refusal, unavailable
from webhookd.store.queries import MIGRATIONS, SCHEMA, queries
from webhookd.store.session import POOLER_NOT_DECLARED, STATEMENT_OF_ANOTHER_SESSION, connect, is_pooled, session_options
from webhookd.telemetry.logs import logger, where
from webhookd.telemetry.metrics import Metrics

if TYPE_CHECKING:
    from asyncpg.pool import PoolConnectionProxy

Connection: TypeAlias = "PoolConnectionProxy[asyncpg.Record]"

CONNECT_TIMEOUT = 5.0
_STATEMENT_TIMEOUT = 10.0
_UPKEEP_TIMEOUT = 600.0
_ADMIN_TIMEOUT = 5.0

_EXHAUSTED = ("53100", "53200")  # disk full, out of memory. "Too many connections" stops no open session
_REFUSED = 2.0  # seconds for which a pool that gave no connection counts as not workable
_ABANDONED = 5.0  # seconds after the daemon's own timeout, until PostgreSQL ends a silent session
# After 15 s of silence, PostgreSQL probes the client's machine. After three unanswered probes, it drops the connection.
_KEEPALIVE = {"tcp_keepalives_idle": "15", "tcp_keepalives_interval": "5", "tcp_keepalives_count": "3"}

# Further settings of a pool's sessions. Our own statements find their rows by an index. Without enable_seqscan = off,
# PostgreSQL reads the whole table `work` while few rows wait, and keeps that plan in the burst that follows. Operators'
# statements are planned for the given filters, since a plan for any filter would use no index. They read an index in its order:
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


async def _leave_as_is(_: Any) -> None:
    """Does nothing. asyncpg's reset on release would cost a round trip, and our own statements leave nothing to reset."""


class Database:
    """Five pools on one database, and the record of whether it answers.

    short: webhookd's own single statements.
    fold: statements that fold events into the timeline. Some wait for a row's lock; they delay neither webhooks nor handlers.
    work: one connection for each worker's transaction. A session in which users' handlers ran is reset on release.
    upkeep: one connection, open while it is needed, for retention's statements. Some of them take long.
    admin: operators' statements, which can never take a connection of the other pools.
    """

    def __init__(
        self,
        url: str,
        *,
        schema: str = SCHEMA,
        short: int,
        work: int,
        fold: int = 1,
        admin: int = 1,
        handler_timeout: float,
        pooled: bool = False,
        metrics: Metrics,
        watch: Watch,
    ) -> None:
        queries.use(schema)
        self._url = url
        self._pooled = pooled  # a pooler stands before PostgreSQL, and gives consecutive transactions different sessions
        self._sizes = {"short": short, "fold": fold, "work": work, "upkeep": 1, "admin": admin}
        # A statement's timeout reveals a connection that died silently, so our timeouts are short.
        self._timeouts = {
            "short": _STATEMENT_TIMEOUT,
            "fold": _STATEMENT_TIMEOUT,
            "work": max(handler_timeout, _STATEMENT_TIMEOUT),
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
        self._up = metrics.dependency_up.labels("postgresql")
        self._prober = Loop("postgresql prober", self._probe, watch, every=2.0)
        self.up = False
        self.problem: str | None = "not yet reached"
        # Why PostgreSQL opens no new session; None if it does. Open sessions go on working: enough to receive, not to process.
        self.refusal: str | None = None
        self.proofs: list[Callable[[Connection], Awaitable[None]]] = []
        self._refusing = False  # PostgreSQL refuses a statement that it must take
        self.instance: UUID | None = None
        self._me = uuid4()
        self._ahead = metrics.clock_ahead
        self._clock: tuple[datetime, float] | None = None  # PostgreSQL's time, and the monotonic clock at that moment
        self._refused: dict[str, float] = {}  # pool → when it last gave no connection

    async def start(self) -> None:
        """Makes the pools, which connect at first use, and probes once, so that `up` is known. Never fails."""
        if self._pools:
            return
        for name, size in self._sizes.items():
            self._pools[name] = asyncpg.create_pool(
                self._url,
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
                | _CACHES.get(name, {}),
                # Check each new session: settings of a role or database, and a failover, may show there first.
                init=self._identify,
                reset=None if name == "upkeep" and not self._pooled else _leave_as_is,
            )
            await self._pools[name]
        with contextlib.suppress(UnavailableError):
            await self._probe()
        await self._prober.start()

    async def stop(self) -> None:
        """Stops probing and closes the pools; connections that do not close within 5 s are cut."""
        await self._prober.stop()
        self.up, self.problem = False, "the daemon has stopped"
        pools, self._pools = self._pools, {}
        for pool in pools.values():
            try:
                async with asyncio.timeout(5):
                    await pool.close()
            except (TimeoutError, OSError, asyncpg.PostgresError, asyncpg.InterfaceError):
                pool.terminate()

    @property
    def workable(self) -> bool:
        """Returns whether a worker's transaction is likely to begin: PostgreSQL is up, opens sessions, has not just failed."""
        failed = max(self._refused.get(pool, -_REFUSED) for pool in ("fold", "work"))
        return self.up and self.refusal is None and time.monotonic() - failed >= _REFUSED

    def now(self) -> datetime:
        """Returns PostgreSQL's time, to a few milliseconds: one clock for all replicas, however wrong this machine's is.

        Raises UnavailableError before the first probe has succeeded.
        """
        if self._clock is None:
            raise UnavailableError("postgresql", self.problem or "away")
        at, then = self._clock
        return at + timedelta(seconds=time.monotonic() - then)

    def settled(self, connection: Connection) -> contextlib.AbstractAsyncContextManager[Any]:
        """Returns a context in which the session's settings (SESSIONS) hold. Behind a pooler, the context is a transaction."""
        return connection.transaction() if self._pooled else contextlib.nullcontext()

    @contextlib.asynccontextmanager
    async def acquire(self, pool: str = "short", *, reset: bool = False) -> AsyncIterator[Connection]:
        """Lends a connection for the block. Raises UnavailableError at once while PostgreSQL is known to be away.

        `reset`: users' code runs on the connection. So the session is reset, in a round trip, before anyone else gets it.
        """
        if not self.up:
            raise UnavailableError("postgresql", self.problem or "away")
        lent = False
        try:
            async with self._lend(pool, reset=reset) as connection:
                lent = True
                yield connection
        except UnavailableError:
            raise
        except WebhookdError as error:
            if not lent:  # the block has not begun: a new session failed its check
                self._set(up=False, problem=str(error))
                # Give up the older sessions: they began before the change, so a probe on one of them would succeed.
                await self._give_up_sessions()
                self._prober.wake()
                raise UnavailableError("postgresql", str(error)) from error
            raise
        except Exception as error:
            if not lent:
                self._refused[pool] = time.monotonic()
            await self._failed(error)
            raise

    @contextlib.asynccontextmanager
    async def _lend(self, pool: str, *, reset: bool = False) -> AsyncIterator[Connection]:
        connection = await self._acquire(pool)
        try:
            yield connection
        finally:
            await self._release(pool, connection, reset=reset)

    async def _acquire(self, pool: str) -> Connection:
        try:
            # Do not use asyncpg's own timeout: before Python 3.12, it makes a task for each statement.
            async with asyncio.timeout(_STATEMENT_TIMEOUT):
                return await self._pools[pool].acquire()
        except asyncpg.PostgresError as error:
            if problem := refusal(error):
                self._refuse(problem)
                raise UnavailableError("postgresql", problem) from error
            raise

    def _refuse(self, problem: str | None) -> None:
        if problem != self.refusal:
            self.refusal = problem
            logger.log(30 if problem else 20, "postgresql opens " + ("no session" if problem else "sessions"), problem=problem)
        self._up.set(self.up and problem is None)

    async def _release(self, pool: str, connection: Connection, *, reset: bool) -> None:
        # asyncpg shields the release: it must end even if the caller is cancelled, or the pool would lose the connection.
        try:
            if reset and not self._pooled and not connection.is_closed():  # a pooler's session is reset as its transaction ends
                await connection.reset(timeout=2.0)
            await self._pools[pool].release(connection, timeout=2.0)
        except (OSError, TimeoutError, KeyError, asyncpg.PostgresError, asyncpg.InterfaceError):
            with contextlib.suppress(asyncpg.InterfaceError):  # the pool took the connection back in spite of the error
                connection.terminate()

    async def take_duty(self, name: str, seconds: float) -> bool:
        """Takes or keeps the duty `name` for `seconds`. Returns False while another process has it. Raises UnavailableError.

        For upkeep that several replicas must not do side by side. Upkeep that is done twice in spite of it must do no harm.
        """
        with gateway():
            async with self.acquire() as connection:
                return bool(await queries.take_duty(connection, name=name, holder=self._me, seconds=seconds))

    def refused(self, error: Exception) -> None:
        """Counts PostgreSQL as away until all `proofs` succeed: it answers, and refuses a statement that it must take."""
        self._refusing = True
        self._set(up=False, problem=f"PostgreSQL refuses to store events: {where(error)}")
        self._prober.wake()

    async def _failed(self, error: Exception) -> None:
        # These errors concern the whole server: the connection itself was lost, the server takes no writes, or it has run out
        # of disk or memory. The prober finds out about the rest.
        state = getattr(error, "sqlstate", None) or ""
        lost = isinstance(error, (OSError, asyncpg.PostgresConnectionError, asyncpg.CannotConnectNowError))
        if (lost and not isinstance(error, TimeoutError)) or state == READ_ONLY or state.startswith(_EXHAUSTED):
            self._set(up=False, problem=where(error))
        if unavailable(error):
            self._prober.wake()

    def _set(self, *, up: bool, problem: str | None = None) -> None:
        if up != self.up:
            logger.log(20 if up else 30, "postgresql is up" if up else "postgresql is away", problem=problem)
        self.up = up
        self.problem = problem
        self._up.set(up and self.refusal is None)

    async def _probe(self) -> None:
        try:
            async with asyncio.timeout(CONNECT_TIMEOUT), self._lend("short") as connection:
                await self._identify(connection)
                if not self.up:
                    await queries.prove_writable(connection)
                if self._refusing:
                    for proof in self.proofs:
                        await proof(connection)
                    self._refusing = False
        except UnavailableError:
            # The probe got no session. Close no open session: open sessions go on working, and new ones could not replace them.
            if not self._pools["short"].get_size():
                self._set(up=False, problem=self.refusal)
            raise
        except WebhookdError as error:
            await self._down(str(error), error)
        except (OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError) as error:
            # The error may be a wrong password or database name. The daemon waits until somebody mends this in PostgreSQL.
            await self._down(where(error), error)
        self._set(up=True)
        if self.refusal is not None:
            await self._try_new_session()

    async def _try_new_session(self) -> None:
        """Opens a session outside the pools: open sessions prove nothing, and no message should be spent on the test."""
        try:
            async with asyncio.timeout(CONNECT_TIMEOUT):
                connection = await connect(self._url, timeout=CONNECT_TIMEOUT, statement_cache_size=0)
            await connection.close(timeout=2)
        except (OSError, TimeoutError, WebhookdError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
            self._refuse(refusal(error) or self.refusal)
        else:
            self._refuse(None)

    async def _down(self, problem: str, error: Exception) -> NoReturn:
        self._set(up=False, problem=problem)
        await self._give_up_sessions()
        raise UnavailableError("postgresql", problem) from error

    async def _give_up_sessions(self) -> None:
        # Let new sessions replace all present ones. A dead session (its server is gone, or a firewall forgot it) costs time.
        # A session that began before somebody mended a setting never sees the new value. A session that leads to a server
        # that is a replica now would stay in use, because the probes use it.
        for pool in self._pools.values():
            await pool.expire_connections()

    async def _identify(self, connection: Any) -> None:
        try:
            row = await queries.identify(connection)
        except (asyncpg.UndefinedTableError, asyncpg.InvalidSchemaNameError) as error:
            raise WebhookdError(
                f"the database has no schema {queries.schema} of webhookd yet: run `webhookd migrate`, or correct "
                "WEBHOOKD_DATABASE_SCHEMA"
            ) from error
        except STATEMENT_OF_ANOTHER_SESSION as error:
            raise WebhookdError(POOLER_NOT_DECLARED) from error
        except (asyncpg.InsufficientPrivilegeError, asyncpg.ObjectNotInPrerequisiteStateError) as error:
            raise WebhookdError(
                f"PostgreSQL refuses the first statement of webhookd ({error.sqlstate}): "
                "run `webhookd doctor`, which names the statement and the remedy"
            ) from error
        if not self._pooled and is_pooled(connection, row["backend"]):
            raise WebhookdError(POOLER_NOT_DECLARED)
        if missing := MIGRATIONS - set(row["migrations"] or ()):
            raise WebhookdError(f"the database lacks the migrations {', '.join(sorted(missing))}: run `webhookd migrate`")
        if row["synchronous_commit"] == "off":
            # Without synchronous commits, a crash of PostgreSQL would lose events that were answered 200.
            raise WebhookdError("PostgreSQL's synchronous_commit is off: set it to on for this database or role")
        self.instance = row["instance"]
        self._clock = row["now"], time.monotonic()
        self._ahead.set(time.time() - row["now"].timestamp())
