"""Webhooks go on while other sessions block `webhookd migrate`, and the command names the blocking sessions."""

from __future__ import annotations

import asyncio
import itertools
import json
import re
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, TypeAlias

import asyncpg
import pytest

from tests.conftest import Servers, Start
from tests.helpers.command import webhookd
from tests.helpers.database import connect
from tests.helpers.ledger import Ledger
from tests.helpers.wait import until
from webhookd.authorizenet import sampling
from webhookd.authorizenet.notification import EVENT_TYPES
from webhookd.errors import UnavailableError, WebhookdError
from webhookd.settings import Settings
from webhookd.store import database, migrations
from webhookd.store.migrations import FOLDER, LOCK_TIMEOUT, migrate

Connection: TypeAlias = "asyncpg.Connection[asyncpg.Record]"

COLUMN = "ALTER TABLE webhookd.ledger ADD COLUMN sample text;"
INDEX = "DROP INDEX CONCURRENTLY IF EXISTS webhookd.ledger_sample;\n"
INDEX += "CREATE INDEX CONCURRENTLY ledger_sample ON webhookd.ledger (notification_id);"


@pytest.fixture
async def other(database_url: str) -> AsyncIterator[Connection]:
    """Yields another session, in a transaction that has read the ledger: a console, say, or a backup."""
    connection = await connect(database_url, server_settings={"application_name": "somebody's console"})
    await connection.execute("BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT count(*) FROM ledger")
    yield connection
    connection.terminate()


def write(folder: Path, statements: str, *, transaction: bool = True) -> Path:
    """Writes one migration into `folder`; returns the folder."""
    mark = "" if transaction else "-- transaction: false\n"
    (folder / "0099_sample.sql").write_text(f"-- A sample.\n{mark}\n{statements}\n")
    return folder


@asynccontextmanager
async def migrating(url: str, **options: Any) -> AsyncIterator[asyncio.Task[list[str]]]:
    """Yields the task of a running migration; cancels the task if it still runs at the block's end."""
    task = asyncio.create_task(migrate(url, **options))
    try:
        yield task
    finally:
        if not task.done():
            task.cancel()
        await asyncio.wait([task])


async def has_column(connection: Connection) -> bool:
    query = "SELECT EXISTS (SELECT FROM pg_attribute WHERE attrelid = 'ledger'::regclass AND attname = 'sample')"
    return bool(await connection.fetchval(query))


async def index_is_valid(connection: Connection) -> bool | None:
    """Returns whether the index is valid; None if there is no such index."""
    valid: bool | None = await connection.fetchval(
        "SELECT indisvalid FROM pg_index WHERE indexrelid = to_regclass('ledger_sample')"
    )
    return valid


async def test_webhooks_go_on_while_a_migration_waits_for_its_lock(
    start: Start,
    servers: Servers,
    connection: Connection,
    other: Connection,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(migrations, "_PAUSE", (1.0, 1.0))
    monkeypatch.setattr(database, "CONNECT_TIMEOUT", 60.0)  # however slow the machine is, PostgreSQL does not count as away
    daemon = await start(roles="receive", commit_timeout=60, shutdown_grace=90)
    ledger = Ledger(servers.database_url)
    told: list[str] = []
    folder = write(tmp_path, COLUMN)
    over = asyncio.Event()
    samples = itertools.takewhile(lambda _: not over.is_set(), sampling.stream(EVENT_TYPES, 20_000))
    async with asyncio.TaskGroup() as group:
        sending = group.create_task(ledger.send(samples, f"{daemon.public_url}/webhooks/authorize-net", rate=60))
        async with migrating(servers.database_url, tell=told.append, lock_timeout=1.0, folder=folder) as migration:
            await until(lambda: sum("tries again" in line for line in told) == 1, "the migration has given way", deadline=60)
            before = len(ledger.acknowledged)
            await until(lambda: len(ledger.acknowledged) > before + 20, "webhooks go on before it has its lock", deadline=60)
            await until(
                lambda: sum("tries again" in line for line in told) >= 2, "the migration has given way twice", deadline=60
            )
            assert not migration.done()
            await other.execute("COMMIT")
            assert await migration == ["0099_sample"]
        over.set()
    assert set(sending.result().outcomes) == {"accepted"}
    pid = other.get_server_pid()
    assert any(f"waits for session {pid} (somebody's console, role postgres, idle in transaction" in line for line in told), (
        told
    )
    assert told[0] == "0099_sample: A sample."
    assert re.fullmatch(r"0099_sample: done in \d+\.\d s", told[-1])
    assert await has_column(connection)


def test_a_webhook_that_waits_behind_a_migration_is_committed_in_time() -> None:
    assert Settings.model_fields["commit_timeout"].default > 2 * LOCK_TIMEOUT
    assert LOCK_TIMEOUT > 1.0, "PostgreSQL looks after a second whether an autovacuum is in the way, and ends that"


async def test_who_is_in_the_way_is_named_when_it_gives_up(
    database_url: str, connection: Connection, other: Connection, tmp_path: Path
) -> None:
    folder = write(tmp_path, f"CREATE TABLE webhookd.beside (id bigint);\n{COLUMN}")
    with pytest.raises(WebhookdError) as raised:
        await migrate(database_url, lock_timeout=2.0, patience=2.0, folder=folder)
    pid = other.get_server_pid()
    assert re.search(rf"^0099_sample: gave up after \d s of waiting for session {pid} \(somebody's console,", str(raised.value))
    assert "pg_terminate_backend" in str(raised.value)
    assert "The migration changed nothing" in str(raised.value)
    assert not await has_column(connection)
    assert await connection.fetchval("SELECT to_regclass('webhookd.beside')") is None
    await other.execute("ROLLBACK")
    assert await migrate(database_url, folder=folder) == ["0099_sample"]
    assert await has_column(connection)


async def test_an_index_waits_for_old_transactions_and_keeps_nobody_from_writing(
    database_url: str, connection: Connection, other: Connection, tmp_path: Path
) -> None:
    told: list[str] = []
    folder = write(tmp_path, INDEX, transaction=False)
    async with migrating(database_url, tell=told.append, lock_timeout=0.1, folder=folder) as migration:
        await until(lambda: any("somebody's console" in line for line in told), "the log names the session that is in the way")
        await connection.execute("SET lock_timeout = '1s'; UPDATE work SET sends = 0; TRUNCATE quarantine")
        assert not migration.done(), "it is not given up after the time that others would wait"
        await other.execute("COMMIT")
        assert await migration == ["0099_sample"]
    assert await index_is_valid(connection)


@pytest.mark.parametrize("how", ["it gives up", "its session ends"])
async def test_an_index_that_broke_off_is_made_anew(
    database_url: str, connection: Connection, other: Connection, tmp_path: Path, how: str
) -> None:
    folder = write(tmp_path, INDEX, transaction=False)
    patience = 2.0 if how == "it gives up" else 60.0
    async with migrating(database_url, patience=patience, folder=folder) as migration:
        if how == "its session ends":
            query = (
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                "WHERE datname = current_database() AND query LIKE 'CREATE INDEX%' AND wait_event_type = 'Lock'"
            )
            await until(lambda: connection.fetchval(query), "the CREATE INDEX waits for a lock")
        with pytest.raises(WebhookdError) as raised:
            await migration
    if how == "it gives up":
        assert "The next run repeats the whole migration" in str(raised.value)
    else:
        assert isinstance(raised.value, UnavailableError)
    assert await index_is_valid(connection) is False, "what broke off stays behind"
    await other.execute("COMMIT")
    assert await migrate(database_url, folder=folder) == ["0099_sample"]
    assert await index_is_valid(connection) is True
    assert await migrate(database_url, folder=folder) == []


async def test_a_transaction_that_takes_long_is_ended(
    database_url: str, connection: Connection, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(migrations, "HELD", 0.2)
    folder = write(tmp_path, f"{COLUMN}\nSELECT pg_sleep(30);")
    with pytest.raises(WebhookdError, match=r"a statement may take 0\.2 s.*The migration changed nothing"):
        await migrate(database_url, folder=folder)
    assert not await has_column(connection)


async def test_a_migration_that_fails_is_named(database_url: str, connection: Connection, tmp_path: Path) -> None:
    folder = write(tmp_path, f"{COLUMN}\nSELECT nothing;")
    with pytest.raises(
        WebhookdError, match=r'^0099_sample: column "nothing" does not exist \(42703\)\. The migration changed nothing\.$'
    ):
        await migrate(database_url, folder=folder)
    assert not await has_column(connection)


async def test_a_migration_that_fails_quotes_no_row(database_url: str, connection: Connection, tmp_path: Path) -> None:
    await connection.execute("CREATE TABLE sample AS SELECT 'Jane Doe' AS customer FROM generate_series(1, 2)")
    folder = write(tmp_path, "CREATE UNIQUE INDEX one ON sample (customer);")
    with pytest.raises(WebhookdError, match=r"0099_sample: could not create unique index") as raised:
        await migrate(database_url, folder=folder)
    assert "Jane" not in str(raised.value)


async def test_another_process_that_migrates_is_waited_for(
    database_url: str, connection: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(migrations, "_QUIET", 0.1)
    told: list[str] = []
    await connection.execute("SELECT pg_advisory_lock(hashtext('webhookd.applied_migrations'))")
    async with migrating(database_url, tell=told.append) as migration:
        await until(lambda: told, "the migration reports that it waits")
        await connection.execute("SELECT pg_advisory_unlock_all()")
        assert await migration == []
    assert told == ["another process migrates this database; this process waits until the other one ends"]


async def test_check_tells_what_would_be_applied_and_changes_nothing(
    servers: Servers, connection: Connection, tmp_path: Path
) -> None:
    async def run(*options: str) -> tuple[int, str, str]:
        return await webhookd("migrate", *options, folder=servers.folder, **servers.settings)

    await connection.execute("DROP SCHEMA webhookd CASCADE")
    shutil.copytree(FOLDER, tmp_path / "first")
    (last,) = (tmp_path / "first").glob("0004_*.sql")
    about = last.read_text().partition("\n")[0].removeprefix("-- ")
    last.unlink()
    await migrate(servers.database_url, folder=tmp_path / "first")
    await connection.execute("INSERT INTO webhookd.applied_migrations VALUES ('9999_later')")
    assert await run("--check") == (3, f"0004_operator: {about}\napplied by another release: 9999_later\n", "")
    code, out, err = await run("--check", "--json")
    assert (code, json.loads(out), err) == (
        3,
        {"pending": [{"id": "0004_operator", "about": about}], "unknown": ["9999_later"], "problem": None},
        "",
    )
    code, out, err = await run("--json")
    assert (code, json.loads(out)) == (0, {"applied": ["0004_operator"]})
    assert re.fullmatch(rf"0004_operator: {re.escape(about)}\n0004_operator: done in \d+\.\d s\n", err)
    assert await run("--check") == (0, "applied by another release: 9999_later\nthe schema is up to date\n", "")
