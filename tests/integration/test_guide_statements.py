"""The guide's SQL, its backup and restore, and its uninstall, each exactly as written there, against a real PostgreSQL."""

from __future__ import annotations

from typing import Any
from urllib.parse import urlsplit

import aiohttp
import pytest

from tests.conftest import Servers, Start
from tests.helpers.command import shell, webhookd
from tests.helpers.database import Connection, connect
from tests.helpers.guide import GUIDE, PAGES, blocks, shell_lines
from tests.helpers.running import KEY
from tests.helpers.wait import until
from webhookd.authorizenet import sampling
from webhookd.daemon import Daemon
from webhookd.dev import traffic
from webhookd.dev.servers import Stack
from webhookd.event import Event
from webhookd.process.handlers import Registry

PAYMENT = "net.authorize.payment.authcapture.created"
(UNINSTALL,) = blocks((GUIDE / "upgrade.md").read_text(), "sql")
(SHOP,) = blocks((GUIDE / "reconcile.md").read_text(), "sql")  # tests/integration/test_reconcile_command.py runs this query
STATEMENTS = [block for page in PAGES for block in blocks(page.read_text(), "sql") if block not in (UNINSTALL, SHOP)]


def line_of(program: str) -> str:
    (line,) = [line for line in shell_lines() if line.startswith(f"{program} ")]
    return line


def booking() -> Registry:
    registry = Registry()

    async def book(event: Event, connection: Any) -> None:
        await connection.execute("INSERT INTO booked VALUES ($1)", event.payload["id"])

    registry.add("*", book)
    return registry


async def answers(daemon: Daemon, *samples: sampling.Sample) -> list[str]:
    url = f"{daemon.public_url}/webhooks/authorize-net"
    async with aiohttp.ClientSession() as http:
        return [(await traffic.post(http, url, sample, key=KEY)).outcome for sample in samples]


async def all_processed(url: str, count: int) -> None:
    connection = await connect(url)

    async def done() -> bool:
        return bool(await connection.fetchval("SELECT count(*) = $1 FROM events WHERE status = 'processed'", count))

    await until(done, f"{count} events are processed")
    assert await connection.fetchval("SELECT count(*) FROM booked") == count
    await connection.close()


@pytest.mark.parametrize("statement", STATEMENTS)
async def test_a_statement_of_the_guide_is_one_that_postgresql_runs(connection: Connection, statement: str) -> None:
    if statement.startswith("CALL"):  # a procedure that commits cannot run as a prepared statement
        await connection.execute(statement)
    else:
        await connection.fetch(statement)


async def test_a_restored_backup_has_all_that_it_had_and_takes_what_it_lacks_as_new(
    start: Start, servers: Servers, stack: Stack, database_url: str
) -> None:
    name = urlsplit(database_url).path[1:]
    connection = await connect(database_url)
    await connection.execute("CREATE TABLE public.booked (id text)")
    await connection.execute(f"ALTER ROLE CURRENT_USER IN DATABASE {name} SET search_path = public")
    await connection.close()
    before, after = sampling.sample(PAYMENT, 1), sampling.sample(PAYMENT, 2)
    first = await start(booking())
    assert await answers(first, before) == ["accepted"]
    await all_processed(database_url, 1)
    await shell(line_of("pg_dump"), servers.folder, WEBHOOKD_DATABASE_URL=database_url)
    assert await answers(first, after) == ["accepted"]
    await all_processed(database_url, 2)
    await first.stop()

    server = await connect(stack.database_url)
    await server.execute(f"ALTER DATABASE {name} RENAME TO {name}_old")
    await shell(line_of("pg_restore"), servers.folder, ADMIN_URL=stack.database_url)
    code, out, _ = await webhookd("migrate", folder=servers.folder, WEBHOOKD_DATABASE_URL=database_url)
    assert (code, out) == (0, "the schema is up to date\n")
    code, out, _ = await webhookd("doctor", folder=servers.folder, **servers.settings)
    assert code == 0, out
    path = "SELECT setconfig FROM pg_db_role_setting JOIN pg_database d ON d.oid = setdatabase WHERE datname = $1"
    assert await server.fetchval(path, name) == ["search_path=public"], "--create brings the role's setting back"

    second = await start(booking())
    assert await answers(second, before, after) == ["duplicate", "accepted"]
    await all_processed(database_url, 2)
    await second.stop()
    await server.execute(f"DROP DATABASE {name}_old WITH (FORCE)")
    await server.close()


# All objects of a database, by their catalogs, but for the objects of PostgreSQL itself.
_CATALOG = """
SELECT format('%s %s', c.relname, pg_describe_object(o.classid, o.objid, 0))
FROM (
    SELECT 'pg_class'::regclass AS classid, oid AS objid FROM pg_class
    UNION ALL SELECT 'pg_proc'::regclass, oid FROM pg_proc
    UNION ALL SELECT 'pg_type'::regclass, oid FROM pg_type
    UNION ALL SELECT 'pg_namespace'::regclass, oid FROM pg_namespace WHERE nspname !~ '^pg_(toast_)?temp_'
    UNION ALL SELECT 'pg_extension'::regclass, oid FROM pg_extension
    UNION ALL SELECT 'pg_event_trigger'::regclass, oid FROM pg_event_trigger
    UNION ALL SELECT 'pg_publication'::regclass, oid FROM pg_publication
    UNION ALL SELECT 'pg_default_acl'::regclass, oid FROM pg_default_acl
    UNION ALL SELECT 'pg_largeobject_metadata'::regclass, oid FROM pg_largeobject_metadata
) AS o JOIN pg_class c ON c.oid = o.classid
UNION ALL SELECT format('setting %s %s', setrole, setconfig) FROM pg_db_role_setting
    WHERE setdatabase IN (0, (SELECT oid FROM pg_database WHERE datname = current_database()))
"""


async def test_uninstalling_leaves_the_database_as_it_was_before_webhookd(
    servers: Servers, empty_url: str, start: Start
) -> None:
    connection = await connect(empty_url)

    async def objects() -> set[str]:
        return {row[0] for row in await connection.fetch(_CATALOG)}

    before = await objects()
    await shell("webhookd migrate", servers.folder, WEBHOOKD_DATABASE_URL=empty_url)
    daemon = await start(database_url=empty_url)
    assert await answers(daemon, sampling.sample(PAYMENT, 1)) == ["accepted"]
    await daemon.stop()
    assert len(await objects() - before) > 100
    await connection.execute(UNINSTALL)
    assert await objects() == before
    await connection.close()


async def test_uninstalling_removes_webhookds_tables_and_leaves_the_shops(
    servers: Servers, connection: Connection, database_url: str
) -> None:
    await connection.execute("CREATE TABLE public.orders AS SELECT 1 AS id")
    await connection.execute("CREATE VIEW public.paid AS SELECT * FROM webhookd.transactions")
    await connection.execute(UNINSTALL)
    assert await connection.fetchval("SELECT to_regnamespace('webhookd')") is None
    assert await connection.fetchval("SELECT to_regclass('public.paid')") is None
    assert await connection.fetchval("SELECT count(*) FROM public.orders") == 1
    code, out, _ = await webhookd("migrate", folder=servers.folder, WEBHOOKD_DATABASE_URL=database_url)
    assert code == 0
    assert out.startswith("applied 0001_ledger")
