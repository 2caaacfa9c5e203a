"""The way to PostgreSQL: lends connections while PostgreSQL is up, and finds out whether it is."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import datetime, timedelta
from typing import Any, NoReturn
from uuid import UUID, uuid4

import asyncpg

from webhookd.errors import SettingsError, UnavailableError, WebhookdError
from webhookd.runtime.loops import Loop, Watch
from webhookd.store.failures import ASYNCPG_ERRORS, READ_ONLY, gateway, unavailable
from webhookd.store.pools import CONNECT_TIMEOUT, Connection, Pools, PoolSettings
from webhookd.store.postgresql_problem import problem_of, refusal
from webhookd.store.queries import MIGRATIONS, SCHEMA, queries
from webhookd.store.session import POOLER_NOT_DECLARED, STATEMENT_OF_ANOTHER_SESSION, NoPasswordError, Server, is_pooled
from webhookd.telemetry.logs import logger
from webhookd.telemetry.metrics import Metrics

_EXHAUSTED = ("53100", "53200")  # disk full, out of memory. "Too many connections" stops no open session
_REFUSED = 2.0  # seconds for which a pool that gave no connection counts as not workable


class Database:
    """The connections to PostgreSQL, and whether PostgreSQL answers. `Pools` lists the pools."""

    def __init__(self, settings: PoolSettings, *, schema: str = SCHEMA, metrics: Metrics, watch: Watch) -> None:
        queries.use(schema)
        self._server = Server(settings.url, settings.password)
        self._pooled = settings.pooled
        self._pools = Pools(settings, self._server)
        self._pools.report(metrics)
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
        # Check each new session: settings of a role or database, and a failover, may show there first.
        await self._pools.open(self._identify)
        with contextlib.suppress(UnavailableError):
            await self._probe()
        await self._prober.start()

    async def stop(self) -> None:
        """Stops probing and closes the pools; connections that do not close within 5 s are cut."""
        await self._prober.stop()
        self.up, self.problem = False, "the daemon has stopped"
        await self._pools.close()

    async def renew(self, url: str) -> None:
        """Uses a URL with another user or password from now on. New sessions replace the present ones one by one.

        A new session is proved first. Raises SettingsError, and changes nothing, if it cannot be used: the present sessions are
        better than none. While PostgreSQL is away, the URL is taken unproved, and the prober tries it from then on.
        """
        try:
            async with asyncio.timeout(CONNECT_TIMEOUT):
                connection = await self._server.with_url(url).connect(timeout=CONNECT_TIMEOUT, statement_cache_size=0)
                try:
                    await self._identify(connection)
                finally:
                    connection.terminate()
        except (OSError, TimeoutError, WebhookdError, *ASYNCPG_ERRORS) as error:
            if self.up or isinstance(error, WebhookdError) or refusal(error, url):
                raise SettingsError(f"WEBHOOKD_DATABASE_URL is not taken: {problem_of(error, url)}") from error
        self._server.url = url
        await self._pools.renew_sessions()
        self._prober.wake()

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
                await self._pools.renew_sessions()
                self._prober.wake()
                raise UnavailableError("postgresql", str(error)) from error
            raise
        except Exception as error:
            if not lent:
                self._refused[pool] = time.monotonic()
            await self._failed(error)
            raise

    async def one(self, query: Any, **parameters: Any) -> Any:
        """Returns the row or the value of a named query that has one result. Raises UnavailableError."""
        with gateway():
            async with self.acquire() as connection:
                return await query(connection, **parameters)

    async def all(self, query: Any, **parameters: Any) -> list[asyncpg.Record]:
        """Returns the rows of a named query. Raises UnavailableError."""
        with gateway():
            async with self.acquire() as connection:
                return [row async for row in query(connection, **parameters)]

    @contextlib.asynccontextmanager
    async def _lend(self, pool: str, *, reset: bool = False) -> AsyncIterator[Connection]:
        try:
            connection = await self._pools.acquire(pool)
        except NoPasswordError as error:
            self._refuse(f"no new session: {error}")
            raise UnavailableError("postgresql", str(error)) from error
        except asyncpg.PostgresError as error:
            if problem := refusal(error, self._server.url):
                self._refuse(problem)
                raise UnavailableError("postgresql", problem) from error
            raise
        try:
            yield connection
        finally:
            await self._pools.release(pool, connection, reset=reset)

    def _refuse(self, problem: str | None) -> None:
        if problem != self.refusal:
            self.refusal = problem
            logger.log(30 if problem else 20, "postgresql opens " + ("no session" if problem else "sessions"), problem=problem)
        self._up.set(self.up and problem is None)

    async def take_duty(self, name: str, seconds: float) -> bool:
        """Takes or keeps the duty `name` for `seconds`. Returns False while another process has it. Raises UnavailableError.

        For upkeep that several replicas must not do side by side. Upkeep that is done twice in spite of it must do no harm.
        """
        return bool(await self.one(queries.take_duty, name=name, holder=self._me, seconds=seconds))

    def refused(self, error: Exception) -> None:
        """Counts PostgreSQL as away until all `proofs` succeed: it answers, and refuses a statement that it must take."""
        self._refusing = True
        self._set(up=False, problem=f"PostgreSQL refuses to store events: {problem_of(error, self._server.url)}")
        self._prober.wake()

    async def _failed(self, error: Exception) -> None:
        # These errors concern the whole server: the connection itself was lost, the server takes no writes, or it has run out
        # of disk or memory. The prober finds out about the rest.
        state = getattr(error, "sqlstate", None) or ""
        lost = isinstance(error, (OSError, asyncpg.PostgresConnectionError, asyncpg.CannotConnectNowError))
        if (lost and not isinstance(error, TimeoutError)) or state == READ_ONLY or state.startswith(_EXHAUSTED):
            self._set(up=False, problem=problem_of(error, self._server.url))
        if unavailable(error):
            self._prober.wake()

    def _set(self, *, up: bool, problem: str | None = None) -> None:
        if up != self.up or (not up and problem not in (self.problem, self.refusal)):
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
        except (OSError, TimeoutError, *ASYNCPG_ERRORS) as error:
            # The error may be a wrong password or database name. The daemon waits until somebody mends this in PostgreSQL.
            await self._down(problem_of(error, self._server.url), error)
        self._set(up=True)
        if self.refusal is not None:
            await self._try_new_session()

    async def _try_new_session(self) -> None:
        """Opens a session outside the pools: open sessions prove nothing, and no message should be spent on the test."""
        try:
            async with asyncio.timeout(CONNECT_TIMEOUT):
                connection = await self._server.connect(timeout=CONNECT_TIMEOUT, statement_cache_size=0)
            await connection.close(timeout=2)
        except (OSError, TimeoutError, WebhookdError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
            self._refuse(refusal(error, self._server.url) or self.refusal)
        else:
            self._refuse(None)

    async def _down(self, problem: str, error: Exception) -> NoReturn:
        self._set(up=False, problem=problem)
        await self._pools.renew_sessions()
        raise UnavailableError("postgresql", problem) from error

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
