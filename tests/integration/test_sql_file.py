"""A user's file of SQL runs as a whole, or the message names its line, and nothing changes."""

from __future__ import annotations

import subprocess
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from tests.helpers.database import Connection, connect
from webhookd.dev.postgres import PostgresServer
from webhookd.errors import WebhookdError
from webhookd.store.sql_file import run_file, run_once

GOOD = """-- The shop's own tables.
CREATE TABLE orders (id text PRIMARY KEY, paid numeric);
CREATE FUNCTION paid(id text) RETURNS numeric LANGUAGE plpgsql AS $$
BEGIN
    RETURN (SELECT o.paid FROM orders o WHERE o.id = paid.id);
END
$$;
INSERT INTO orders VALUES ('; not an end', 1);
"""


async def tables(url: str) -> int:
    connection = await connect(url)
    try:
        return int(await connection.fetchval("SELECT count(*) FROM pg_tables WHERE schemaname = 'public'"))
    finally:
        await connection.close()


async def test_a_file_with_functions_runs(empty_url: str) -> None:
    await run_file(empty_url, GOOD, "orders.sql")
    assert await tables(empty_url) == 1


async def test_a_dump_of_pg_dump_runs(empty_url: str, database_url: str) -> None:
    await run_file(database_url, GOOD, "orders.sql")
    command = [str(PostgresServer.binaries() / "pg_dump"), "--schema-only", "--schema=public", database_url]
    dump = subprocess.run(command, capture_output=True, check=True, text=True).stdout  # noqa: ASYNC221
    assert urlsplit(empty_url).path not in dump
    dump = dump.replace("CREATE SCHEMA public;", "")
    await run_file(empty_url, f"\\restrict key\n{dump}\\unrestrict key\n", "dump.sql")
    assert await tables(empty_url) == 1


@pytest.mark.parametrize(
    ("added", "told"),
    [
        (
            "CREATE TABLE_ more (id text);",
            'orders.sql:9:8: PostgresSyntaxError: syntax error at or near "TABLE_"; correct the file',
        ),
        ("\n\nSELECT nothing\nFROM orders;", 'orders.sql:11:8: UndefinedColumnError: column "nothing" does not exist; correct'),
        (
            "\nCREATE TABLE orders (id text);",
            'orders.sql:10: DuplicateTableError: relation "orders" already exists; an earlier',
        ),
        ("-- now\nCommit; SELECT 1 / 0;", "orders.sql: the statement COMMIT cannot stand in this file"),
        ("END; SELECT 1 / 0;", "orders.sql: the statement END cannot stand in this file"),
        ("INSERT INTO orders VALUES ('; not an end', 2);", "orders.sql:9: UniqueViolationError: duplicate key"),
    ],
)
async def test_a_mistake_is_named_with_its_line_and_changes_nothing(empty_url: str, added: str, told: str) -> None:
    with pytest.raises(WebhookdError) as raised:
        await run_file(empty_url, GOOD + added, "orders.sql")
    assert str(raised.value).startswith(told)
    assert await tables(empty_url) == 0


async def test_a_text_runs_once_in_each_database_also_after_another_text(
    connection: Connection, database_url: str, tmp_path: Path
) -> None:
    done, first, second = tmp_path / "schema.done", "CREATE TABLE one ()", "CREATE TABLE two ()"
    ran = [await run_once(database_url, "webhookd", text, "orders.sql", done) for text in (first, second, first, second)]
    assert ran == [True, True, False, False]
    # As after DROP DATABASE and CREATE DATABASE: the tables are gone, and `webhookd migrate` gave another id.
    await connection.execute("DROP TABLE one; UPDATE webhookd.instance SET id = gen_random_uuid()")
    assert await run_once(database_url, "webhookd", first, "orders.sql", done)
