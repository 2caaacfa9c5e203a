"""A user's file of SQL, run as a whole, and the line of its mistake."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

import asyncpg
import sqlparse

from webhookd.errors import WebhookdError
from webhookd.store.queries import in_schema
from webhookd.store.session import connect

# Lines of psql that pg_dump writes around its SQL.
_PSQL = re.compile(r"^\\(?:un)?restrict\b.*$", re.MULTILINE)
# A statement that begins or ends a transaction. A part of the file would stay if a later part failed.
_TRANSACTION = re.compile(
    r"(?:\s|--[^\n]*\n|/\*.*?\*/)*(BEGIN|START\s+TRANSACTION|COMMIT|END|ROLLBACK|ABORT|PREPARE\s+TRANSACTION)\b",
    re.IGNORECASE | re.DOTALL,
)


async def run_file(url: str, text: str, name: str) -> None:
    """Runs the SQL of a file in one transaction, in the database at `url`.

    Raises WebhookdError, which names the file, the line and the column, PostgreSQL's message and the remedy.
    """
    sql = _PSQL.sub("", text)
    for statement in sqlparse.split(sql):
        if found := _TRANSACTION.match(statement):
            raise WebhookdError(
                f"{name}: the statement {found[1].upper()} cannot stand in this file, which runs in one transaction; remove it"
            )
    connection = await connect(url, timeout=5, statement_cache_size=0)
    try:
        try:
            await connection.execute(sql)  # PostgreSQL runs one text of several statements in one transaction
        except asyncpg.PostgresError as error:
            place = _place(sql, error) or await _place_of_statement(connection, sql)
            raise WebhookdError(f"{name}{place}: {_told(error)}; {_remedy(error)}") from error
    finally:
        await connection.close(timeout=2)


async def run_once(url: str, schema: str, text: str, name: str, done: Path) -> bool:
    """Runs the SQL of a file, as `run_file` does, unless the file `done` says that this text has run in this database.

    `done` has a hash for each text and database. The random id in webhookd's schema stands for the database: a database that
    was made anew at the same URL has another id. Returns whether the SQL ran.
    """
    connection = await connect(url, timeout=5, statement_cache_size=0)
    try:
        database = await connection.fetchval(in_schema("SELECT id FROM webhookd.instance", schema))
    finally:
        await connection.close(timeout=2)
    mark = hashlib.sha256(f"{database}\n{text}".encode()).hexdigest()
    if mark in _marks(done):
        return False
    await run_file(url, text, name)
    with done.open("a") as file:
        file.write(f"{mark}\n")
    return True


def _marks(done: Path) -> list[str]:
    return done.read_text().split() if done.exists() else []


def _place(sql: str, error: asyncpg.PostgresError) -> str:
    """Returns the line and the column that PostgreSQL names, if it names a place."""
    position = getattr(error, "position", None)
    if position is None:
        return ""
    before = sql[: int(position) - 1]
    return f":{before.count(chr(10)) + 1}:{len(before) - before.rfind(chr(10))}"


async def _place_of_statement(connection: asyncpg.Connection[asyncpg.Record], sql: str) -> str:
    """Returns the line of the statement that fails, if the statements one by one fail at all. Leaves nothing behind."""
    transaction = connection.transaction()
    await transaction.start()
    offset = 0
    try:
        for statement in sqlparse.split(sql):
            offset = sql.index(statement, offset)
            try:
                await connection.execute(statement)
            except asyncpg.PostgresError:
                return f":{sql.count(chr(10), 0, offset) + 1}"
            offset += len(statement)
    except ValueError:  # sqlparse has changed the text
        pass
    finally:
        await transaction.rollback()
    return ""


def _told(error: asyncpg.PostgresError) -> str:
    parts = (str(error), getattr(error, "detail", None), getattr(error, "hint", None))
    return f"{type(error).__name__}: {' '.join(part for part in parts if part)}"


def _remedy(error: asyncpg.PostgresError) -> str:
    if isinstance(error, (asyncpg.DuplicateTableError, asyncpg.DuplicateObjectError, asyncpg.DuplicateFunctionError)):
        return (
            "an earlier session has made it: write IF NOT EXISTS, drop it first, or remove the session's folder to begin anew"
        )
    return "correct the file; the session has changed nothing in the database"
