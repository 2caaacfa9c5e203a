"""A database whose statements all run in one transaction, which ends with a rollback: for users' tests of their handlers."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import AsyncIterator
from typing import Final, NamedTuple

from webhookd.errors import SettingsError, WebhookdError
from webhookd.runtime.loops import Watch
from webhookd.store import migrations
from webhookd.store.database import Database
from webhookd.store.pools import Connection, PoolSettings, is_lost, roll_back
from webhookd.store.postgresql_problem import explained
from webhookd.store.queries import queries
from webhookd.telemetry.metrics import Metrics

# Every savepoint has the isolation of the transaction around it, and an operator's statements ask for this one.
_ISOLATION: Final = "read_committed"
_OTHERS = 60.0  # seconds that a trial waits for the end of another one


@functools.cache
def _own_tables() -> list[str]:
    return sorted(frozenset().union(*(one.makes for one in migrations.read())) | {"applied_migrations"})


class Content(NamedTuple):
    """The content of a table: its number of rows, and a hash of all of them."""

    rows: int
    hash: int


class RolledBack(Database):
    """The database of a test. Whoever asks for a connection gets the same one, in a savepoint of the one transaction."""

    def __init__(self, url: str, *, schema: str, handler_timeout: float, metrics: Metrics, watch: Watch) -> None:
        pools = PoolSettings(url=url, short=1, work=1, handler_timeout=handler_timeout)
        super().__init__(pools, schema=schema, metrics=metrics, watch=watch)
        self._url = url
        self._connection: Connection | None = None

    @property
    def connection(self) -> Connection:
        """Returns the connection that all share."""
        if self._connection is None:
            raise SettingsError("the transaction of this trial has ended: use its connection inside of `async with`")
        return self._connection

    @contextlib.asynccontextmanager
    async def begin(self) -> AsyncIterator[None]:
        """Connects as a worker does, and begins the transaction; rolls it back at the end.

        Raises SettingsError, with the remedy, if the database cannot be used.
        """
        try:
            with explained(self._url):
                await self._pools.open(self._identify)
                connection = await self._pools.acquire("work")
        except WebhookdError as error:
            await self._pools.close()
            raise SettingsError(f"the database of the tests: {error}") from error
        transaction = connection.transaction(isolation=_ISOLATION)
        await transaction.start()
        self._connection = connection
        try:
            await queries.wait_for_people(connection)
            await self._wait_for_others()
            yield
        finally:
            self._connection = None
            if not is_lost(connection):
                await roll_back(transaction)
            await self._pools.release("work", connection, reset=True)
            await self._pools.close()

    async def _wait_for_others(self) -> None:
        # The role's own limits would end the wait too early.
        own = await queries.limits(self.connection)
        await queries.limit_session(self.connection, lock="0", statement="0", local=True)
        try:
            await self.connection.execute(queries.lock_trials.sql, timeout=_OTHERS)
        except TimeoutError as error:
            raise SettingsError(
                f"the database of the tests: another test has used it for {_OTHERS:g} s, and tests use it one after the other; "
                "give each process of pytest a database of its own, and begin no trial inside of another one"
            ) from error
        await queries.limit_session(self.connection, lock=own["lock"], statement=own["statement"], local=True)

    @contextlib.asynccontextmanager
    async def acquire(self, pool: str = "short", *, reset: bool = False) -> AsyncIterator[Connection]:
        """Lends the connection for the block, in a savepoint: an error in the block undoes what the block did."""
        connection = self.connection
        async with connection.transaction():
            timeout = await queries.lock_timeout(connection)
            yield connection
            if pool == "fold":
                await queries.restore_lock_timeout(connection, value=timeout)

    @contextlib.asynccontextmanager
    async def undone(self) -> AsyncIterator[None]:
        """Undoes at the end what the block did."""
        savepoint = self.connection.transaction()
        await savepoint.start()
        try:
            yield
        finally:
            await savepoint.rollback()

    async def check_constraints(self) -> None:
        """Raises PostgreSQL's error if the present rows break a deferred constraint, as a commit does."""
        async with self.undone():
            await queries.check_constraints(self.connection)

    async def contents(self) -> dict[str, Content]:
        """Returns the content of each table that is not webhookd's, by the table's name."""
        found: dict[str, Content] = {}
        async with self.acquire() as connection:
            found_tables = queries.users_tables(connection, schema=queries.schema, own=_own_tables())
            tables = [row["name"] async for row in found_tables]
            for table in tables:
                # No parameter can name a table. PostgreSQL has quoted the name.
                rows = f"SELECT count(*), coalesce(sum(hashtextextended((t.*)::text, 0)::numeric), 0) FROM {table} AS t"  # noqa: S608
                row = await connection.fetchrow(rows)
                if row is not None:
                    found[table] = Content(int(row[0]), int(row[1]))
        return found
