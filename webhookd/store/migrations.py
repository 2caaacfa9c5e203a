"""Brings the schema up to date, while daemons of this release and of the release before work on it."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import asyncpg
import sqlparse

from webhookd.errors import UnavailableError, WebhookdError
from webhookd.runtime.backoff import ceiling
from webhookd.store.blockers import Blockers
from webhookd.store.failures import gateway, unavailable
from webhookd.store.pools import CONNECT_TIMEOUT
from webhookd.store.postgresql_problem import problem_of, refusal
from webhookd.store.queries import SCHEMA, SQL, in_schema, queries
from webhookd.store.session import Password, Server, is_pooled

FOLDER = SQL / "migrations"
# While a lock waits for a table, all who write to the table queue behind it, webhooks too. Longer than PostgreSQL's
# deadlock_timeout (1 s unless set), at which it ends an autovacuum in the way; shorter than WEBHOOKD_COMMIT_TIMEOUT.
LOCK_TIMEOUT = 2.0
PATIENCE = 300.0
HELD = 10.0  # seconds that one statement of a transaction may take, since others wait for what the transaction has locked
_TURN = 0.2  # seconds between two tries to take the lock that lets one process migrate
_QUIET = 5.0  # seconds of waiting for another process until a message reports it
_PAUSE = (2.0, 10.0)  # seconds between two tries for a lock, at first and at most: the queue behind it is served meanwhile
# Such a statement keeps nobody from writing, however long it waits. So it may wait for all of `patience`.
_CONCURRENTLY = re.compile(r"\bCONCURRENTLY\b", re.IGNORECASE)
_NOT_AT_ONCE = "-- transaction: false"
_RELATION = re.compile(r'^CREATE (?:TABLE|VIEW) "?\w+"?\.(\w+)', re.MULTILINE)
_POOLED = (
    "a connection pooler, such as PgBouncer, stands before PostgreSQL. It could give this command's session to another client, "
    "and with the session the lock that lets only one process migrate. For this command, name PostgreSQL itself in "
    "WEBHOOKD_DATABASE_URL. If it is no pooler, but a proxy that leaves each session to its client, pass --direct"
)
_FORMER = (
    "the schema public holds tables of webhookd 0.2. This release neither reads nor changes them. Let 0.2 finish its work "
    "first, and drop the tables when nobody needs them any more"
)
_NO_LOCK = (asyncpg.LockNotAvailableError, asyncpg.DeadlockDetectedError)

Tell = Callable[[str], None]


@dataclass(slots=True, frozen=True)
class Migration:
    """A file of `sql/migrations`: its name without `.sql`, its first line, and its statements.

    If `transaction` is false, each statement commits by itself, and all of them run again if one failed.
    """

    id: str
    about: str
    transaction: bool
    statements: tuple[str, ...]

    @property
    def makes(self) -> frozenset[str]:
        """Returns the names of the tables and views that the migration makes, without the schema's name."""
        return frozenset(name for statement in self.statements for name in _RELATION.findall(statement))


@dataclass(slots=True, frozen=True)
class State:
    """The state of a database's schema: the migrations that it lacks, in order, and those that it has from another release.

    `problem` hinders a migration, and names the remedy. `note` is worth knowing, and hinders nothing.
    """

    pending: list[Migration]
    unknown: list[str]
    problem: str | None = None
    note: str | None = None
    is_on_path: bool = False  # the role finds the schema's tables without the schema's name


async def migrate(
    url: str,
    *,
    schema: str = SCHEMA,
    tell: Tell = lambda _: None,
    lock_timeout: float = LOCK_TIMEOUT,
    patience: float = PATIENCE,
    direct: bool = False,
    folder: Path = FOLDER,
    password: Password | None = None,
) -> list[str]:
    """Brings the schema `schema` at `url` up to date. Returns the ids of the migrations that were applied.

    Safe if several replicas start at once: an advisory lock lets one migrate, and the others find the work done.
    tell: gets a line when a migration begins, waits and ends.
    lock_timeout: seconds after which it gives up waiting for a lock, so that nobody waits behind it for longer.
    patience: seconds for which it tries again to get a lock.
    direct: the server at `url` is no pooler, whatever it looks like.
    password: makes the password of each connection, if it does not stand in `url`.
    Raises UnavailableError if PostgreSQL does not answer; WebhookdError, with the remedy, if a migration cannot be done.
    """
    queries.use(schema)
    server = Server(url, password)
    with gateway():
        # UTC: in a time zone with summer time, a week is not always 168 hours, and partitions would overlap.
        connection = await _connect(server, server_settings={"timezone": "UTC"})
        try:
            if not direct and is_pooled(connection, await queries.backend(connection)):
                raise WebhookdError(_POOLED)
            await _take_turn(connection, tell)
            found = await _state(connection, folder)
            if not found.pending:
                return []
            if found.problem:
                raise WebhookdError(found.problem)
            if found.note:
                tell(found.note)
            await _make_schema(connection, schema, tell)
            pending = found.pending
            async with Blockers(server, connection.get_server_pid(), tell) as blockers:
                session = _Session(connection, blockers, tell, lock_timeout, patience)
                for migration in pending:
                    await session.apply(migration)
            return [migration.id for migration in pending]
        finally:
            await connection.close(timeout=5)  # closing releases the lock, whatever happened


async def state(url: str, *, schema: str = SCHEMA, folder: Path = FOLDER, password: Password | None = None) -> State:
    """Returns the state of the schema `schema` at `url`. Changes nothing. Raises UnavailableError."""
    queries.use(schema)
    with gateway():
        connection = await _connect(Server(url, password))
        try:
            return await _state(connection, folder)
        finally:
            await connection.close(timeout=5)


def read(folder: Path = FOLDER) -> list[Migration]:
    """Returns the migrations in `folder`, in the order of their names, for the schema in use."""
    return [_read(path) for path in sorted(folder.glob("*.sql"))]


def _read(path: Path) -> Migration:
    head, _, rest = path.read_text().partition("\n\n")
    about, *marks = head.splitlines()
    # Comments before a statement are left out: PostgreSQL shows others the text of a statement that runs for long.
    bare = (
        re.sub(r"\A(?:\s*--[^\n]*\n)+", "", statement).strip() for statement in sqlparse.split(in_schema(rest, queries.schema))
    )
    return Migration(path.stem, about.removeprefix("-- "), _NOT_AT_ONCE not in marks, tuple(filter(None, bare)))


async def _connect(server: Server, **options: Any) -> Any:
    # Prepares nothing ahead, so that the connection works behind a pooler until `is_pooled` recognises the pooler.
    try:
        return await server.connect(timeout=CONNECT_TIMEOUT, statement_cache_size=0, **options)
    except asyncpg.PostgresError as error:
        if problem := refusal(error, server.url):
            raise WebhookdError(f"PostgreSQL opens {problem}") from error
        raise
    except (OSError, asyncpg.InterfaceError) as error:
        raise UnavailableError("postgresql", problem_of(error, server.url)) from error


async def _take_turn(connection: Any, tell: Tell) -> None:
    began, told = time.monotonic(), False
    while not await queries.lock_migrations(connection):  # another process has the lock
        if not told and time.monotonic() - began > _QUIET:
            tell("another process migrates this database; this process waits until the other one ends")
            told = True
        await asyncio.sleep(_TURN)


async def _state(connection: Any, folder: Path) -> State:
    return await state_of(connection, read(folder))


async def state_of(connection: Any, known: list[Migration]) -> State:
    """Returns the state of the schema in use, as `state` does."""
    made = frozenset[str]().union(*(one.makes for one in known))
    row = await queries.schema_state(connection, schema=queries.schema, names=sorted(made))
    if row["migrated"] and not row["may_read"]:
        return State(known, [], _unreadable(row))
    applied = set(await queries.applied_migrations(connection) or ()) if row["migrated"] else set()
    pending = [one for one in known if one.id not in applied]
    taken = set(row["taken"]) & frozenset[str]().union(*(one.makes for one in pending))
    note = _FORMER if row["former"] and not row["migrated"] else None
    return State(
        pending, sorted(applied - {one.id for one in known}), _problem(row, taken) if pending else None, note, row["is_on_path"]
    )


def _problem(row: Any, taken: set[str]) -> str | None:
    """Returns what hinders a migration, before it begins; None if nothing does."""
    schema = queries.schema
    if not row["exists"] and not row["may_make_schema"]:
        return (
            f"WEBHOOKD_DATABASE_SCHEMA: the schema {schema} does not exist, and the role {row['role']} may not make it. As an "
            f'administrator of the database, run: CREATE SCHEMA {schema} AUTHORIZATION "{row["role"]}"'
        )
    if row["exists"] and not row["may_make_tables"]:
        return (
            f"WEBHOOKD_DATABASE_SCHEMA: the role {row['role']} may not make tables in the schema {schema}. As its owner, "
            f'run: GRANT USAGE, CREATE ON SCHEMA {schema} TO "{row["role"]}"'
        )
    if taken:
        return (
            f"WEBHOOKD_DATABASE_SCHEMA: {schema} already has {', '.join(sorted(taken))}, which webhookd did not make: "
            "name a schema that only webhookd uses"
        )
    return None


def _unreadable(row: Any) -> str:
    schema, role = queries.schema, f'"{row["role"]}"'
    return (
        f"WEBHOOKD_DATABASE_SCHEMA: the role {role} may not read the schema {schema}. As its owner, run: "
        f"GRANT USAGE ON SCHEMA {schema} TO {role}; "
        f"GRANT SELECT, INSERT, UPDATE, DELETE, TRUNCATE ON ALL TABLES IN SCHEMA {schema} TO {role}"
    )


async def _make_schema(connection: Any, schema: str, tell: Tell) -> None:
    async with connection.transaction():
        row = await queries.schema_state(connection, schema=schema, names=[])
        if not row["exists"]:
            await connection.execute(f'CREATE SCHEMA "{schema}"')
        if row["role"] == schema and not row["migrated"] and row["default_path"]:
            # With PostgreSQL's default path ("$user", public), the role's unqualified names would find our tables from now on.
            await connection.execute(f'ALTER ROLE CURRENT_USER IN DATABASE "{row["database"]}" SET search_path = public')
            tell(f"the role {schema} still finds its own tables in public: its search_path in this database is now public")
        if not row["migrated"]:
            await queries.make_migrations_table(connection)


class _Session:
    """The session that migrates."""

    def __init__(self, connection: Any, blockers: Blockers, tell: Tell, lock_timeout: float, patience: float) -> None:
        self._connection = connection
        self._blockers = blockers
        self._tell = tell
        self._lock_timeout = lock_timeout
        self._patience = patience
        self._migration = ""
        self._began = 0.0

    async def apply(self, migration: Migration) -> None:
        """Applies one migration, and reports its beginning and its end."""
        self._began = time.monotonic()
        self._migration = migration.id
        self._blockers.begin(migration.id)
        self._tell(f"{migration.id}: {migration.about}")
        try:
            if migration.transaction:
                await self._patiently(partial(self._at_once, migration))
            else:
                await self._one_by_one(migration)
        except asyncpg.PostgresError as error:
            if problem := self._problem(error, migration):
                undone = (
                    "The migration changed nothing" if migration.transaction else "The next run repeats the whole migration"
                )
                raise WebhookdError(f"{migration.id}: {problem}. {undone}.") from error
            raise
        self._tell(f"{migration.id}: done in {self._took():.1f} s")

    def _took(self) -> float:
        return time.monotonic() - self._began

    def _problem(self, error: asyncpg.PostgresError, migration: Migration) -> str | None:
        """Returns what to report; None if PostgreSQL went away."""
        if isinstance(error, _NO_LOCK):
            return (
                f"gave up after {self._took():.0f} s of waiting for {self._blockers.last or 'other sessions'}. Let their "
                "transactions end, or end them (SELECT pg_terminate_backend(…)), and run `webhookd migrate` again. If your "
                "handlers always take so long, pass a longer --lock-timeout; webhooks that then wait too long are answered 503"
            )
        if isinstance(error, asyncpg.QueryCanceledError) and migration.transaction:
            return (
                f"{error}: a statement may take {HELD:g} s, since other sessions wait for the locks of the migration. Run "
                "`webhookd migrate` again when PostgreSQL has less to do"
            )
        # Leave out the detail of PostgreSQL's message, because the detail quotes rows.
        return None if unavailable(error) else f"{error.args[0]} ({error.sqlstate})"

    async def _patiently(self, work: Callable[[], Awaitable[None]]) -> None:
        """Does `work`, and tries again while `work` fails because a lock is not free."""
        attempt = 0
        began = time.monotonic()
        while True:
            try:
                return await work()
            except _NO_LOCK:
                attempt += 1
                pause = ceiling(attempt, *_PAUSE)
                if time.monotonic() - began + pause > self._patience:
                    raise
            self._tell(f"{self._migration}: got no lock; tries again in {pause:g} s")
            await asyncio.sleep(pause)

    async def _at_once(self, migration: Migration) -> None:
        async with self._connection.transaction():
            await queries.limit_session(self._connection, lock=_ms(self._lock_timeout), statement=_ms(HELD), local=True)
            for statement in migration.statements:
                await self._execute(statement)
            await self._note(migration)

    async def _one_by_one(self, migration: Migration) -> None:
        for statement in migration.statements:
            waits = bool(_CONCURRENTLY.search(statement))
            lock_timeout = self._patience if waits else self._lock_timeout
            await queries.limit_session(self._connection, lock=_ms(lock_timeout), statement=_ms(0), local=False)
            if waits:
                # Do not try this statement again alone: the statement before it must remove what a failed try left behind.
                await self._execute(statement)
            else:
                await self._patiently(partial(self._execute, statement))
        await self._note(migration)

    async def _execute(self, statement: str) -> None:
        with self._blockers.watching():
            await self._connection.execute(statement)

    async def _note(self, migration: Migration) -> None:
        await queries.note_migration(self._connection, id=migration.id)


def _ms(seconds: float) -> str:
    return f"{round(seconds * 1000)}ms"
