"""webhookd's tables have their own schema, whatever else the database holds and whatever its search_path is."""

from __future__ import annotations

import secrets
from typing import Any, TypeAlias

import asyncpg
import pytest

from tests.conftest import Servers, Start, settings_of
from tests.helpers.command import webhookd
from tests.helpers.database import connect
from tests.helpers.running import KEY
from tests.helpers.wait import until
from webhookd.authorizenet import sampling
from webhookd.dev import traffic
from webhookd.doctor import Verdict, examine
from webhookd.errors import WebhookdError
from webhookd.event import Event
from webhookd.process.handlers import Registry
from webhookd.store import queries as module
from webhookd.store.migrations import migrate, state
from webhookd.store.queries import MIGRATIONS, SQL, in_schema, queries

Connection: TypeAlias = "asyncpg.Connection[asyncpg.Record]"

AUTHCAPTURE = "net.authorize.payment.authcapture.created"
CUSTOMER = "net.authorize.customer.created"
# A shop's own tables, with the names of webhookd's tables.
SHOP = """
CREATE TABLE public.customers (id integer PRIMARY KEY, name text NOT NULL);
CREATE TABLE public.events (name text);
INSERT INTO public.customers VALUES (1, 'Ann');
"""


@pytest.fixture
def another_schema() -> Any:
    """Yields the name of a schema for this process; afterwards sets the default schema again."""
    yield "shop_hooks"
    queries.use(module.SCHEMA)


async def test_a_shops_tables_stand_beside_ours_and_a_handler_finds_the_shops(
    start: Start, servers: Servers, connection: Connection
) -> None:
    await connection.execute(SHOP)
    seen: list[Any] = []

    async def handler(event: Event, session: Any) -> None:
        await session.execute("UPDATE customers SET name = 'Bob'")
        await session.execute("SET search_path = ''")  # a handler's change of its session harms no statement of webhookd
        seen.append(await session.fetchval("SELECT count(*) FROM webhookd.transactions"))

    registry = Registry()
    registry.add("net.authorize.payment.*", handler)
    daemon = await start(registry)
    samples = [sampling.sample(AUTHCAPTURE, 1), sampling.sample(CUSTOMER, 2)]
    summary = await traffic.send(samples, f"{daemon.public_url}/webhooks/authorize-net", KEY)
    assert summary.failed == 0
    ended = "SELECT count(*) = 2 FROM webhookd.events WHERE status = 'processed'"
    await until(lambda: connection.fetchval(ended), "both are processed")
    assert [tuple(row) for row in await connection.fetch("SELECT * FROM public.customers")] == [(1, "Bob")]
    assert await connection.fetchval("SELECT count(*) FROM public.events") == 0
    assert await connection.fetchval("SELECT count(*) FROM webhookd.customers") == 1
    assert seen == [1], "the fold of the event is there before its handler runs"


async def test_a_role_without_a_search_path_works(start: Start, database_url: str, connection: Connection) -> None:
    await connection.execute(f"ALTER DATABASE {database_url.rpartition('/')[2].partition('?')[0]} SET search_path = ''")
    daemon = await start()
    summary = await traffic.send([sampling.sample(CUSTOMER, 1)], f"{daemon.public_url}/webhooks/authorize-net", KEY)
    assert summary.failed == 0
    ended = "SELECT count(*) = 1 FROM webhookd.events WHERE status = 'processed'"
    await until(lambda: connection.fetchval(ended), "it is processed")
    await daemon.retention.keep_partitions()
    assert not daemon.metrics.registry.get_sample_value("webhookd_retention_failures_total", {"kind": "partitions"})


async def test_two_installations_share_a_database(
    start: Start, database_url: str, connection: Connection, another_schema: str
) -> None:
    assert set(await migrate(database_url, schema=another_schema)) == MIGRATIONS
    assert not await connection.fetchval(
        "SELECT count(*) FROM pg_proc WHERE pronamespace = $1::text::regnamespace AND prosrc LIKE '%webhookd.%'", another_schema
    )
    daemon = await start(database_schema=another_schema)
    summary = await traffic.send([sampling.sample(AUTHCAPTURE, 1)], f"{daemon.public_url}/webhooks/authorize-net", KEY)
    assert summary.failed == 0
    ended = f"SELECT count(*) = 1 FROM {another_schema}.events WHERE status = 'processed'"
    await until(lambda: connection.fetchval(ended), "it is processed")
    await daemon.retention.keep_partitions()
    assert await connection.fetchval("SELECT count(*) FROM webhookd.events") == 0
    assert (await state(database_url)).pending == []


def test_no_statement_names_another_schema() -> None:
    text = "\n".join(path.read_text() for path in SQL.rglob("*.sql"))
    assert "public." not in text
    assert "webhookd." not in in_schema(text, "other").replace('"other".', "")


async def _check(servers: Servers, url: str, **settings: str) -> tuple[int, str]:
    code, out, err = await webhookd(
        "migrate", "--check", folder=servers.folder, **servers.settings | {"WEBHOOKD_DATABASE_URL": url} | settings
    )
    assert err == ""
    return code, out


@pytest.mark.parametrize(
    ("before", "setting", "said"),
    [
        (SHOP, "public", "public already has customers, events, which webhookd did not make"),
        ("", "hooks", 'CREATE SCHEMA hooks AUTHORIZATION "shopkeeper"'),
        ("CREATE SCHEMA hooks", "hooks", 'GRANT USAGE, CREATE ON SCHEMA hooks TO "shopkeeper"'),
    ],
    ids=["a collision", "no right to make a schema", "no right to make tables"],
)
async def test_what_hinders_a_migration_is_foreseen(
    servers: Servers, connection: Connection, another_schema: str, before: str, setting: str, said: str
) -> None:
    role = "shopkeeper"
    await connection.execute(f"DROP SCHEMA webhookd CASCADE; {before}")
    await connection.execute(
        f"DO $$ BEGIN CREATE ROLE {role} LOGIN PASSWORD 'a-password'; EXCEPTION WHEN duplicate_object THEN NULL; END $$"
    )
    await connection.execute(f"GRANT USAGE, CREATE ON SCHEMA public TO {role}")
    host = servers.database_url.partition("@")[2]
    url = f"postgresql://{role}:a-password@{host}"
    code, out = await _check(servers, url, WEBHOOKD_DATABASE_SCHEMA=setting)
    assert code == 1
    assert f"WEBHOOKD_DATABASE_SCHEMA: {said}" in out or (said in out and "WEBHOOKD_DATABASE_SCHEMA" in out)
    with pytest.raises(WebhookdError, match="WEBHOOKD_DATABASE_SCHEMA") as raised:
        await migrate(url, schema=setting)
    assert said in str(raised.value)
    found = [one async for one in examine(settings_of(servers.settings, database_url=url, database_schema=setting))]
    (schema,) = [one for one in found if one.check == "schema"]
    assert schema.verdict is Verdict.FAILED
    assert said in schema.detail
    made = await connection.fetchval("SELECT count(*) FROM pg_class WHERE relname = 'bodies'")
    assert made == 0, "nothing was made"


async def test_a_role_that_is_named_as_the_schema_keeps_finding_its_own_tables(
    start: Start, servers: Servers, empty_url: str, another_schema: str
) -> None:
    """PostgreSQL's default search_path begins with the schema that has the role's name."""
    admin = await connect(empty_url)
    name = f"hooks_{secrets.token_hex(4)}"
    database = await admin.fetchval("SELECT current_database()")
    await admin.execute(
        f"CREATE ROLE {name} LOGIN PASSWORD 'a-password'; GRANT CREATE ON DATABASE {database} TO {name}; {SHOP}"
        f"GRANT ALL ON SCHEMA public TO {name}; GRANT ALL ON ALL TABLES IN SCHEMA public TO {name}"
    )
    url = f"postgresql://{name}:a-password@{empty_url.partition('@')[2]}"
    told: list[str] = []
    await migrate(url, schema=name, tell=told.append)
    assert any("search_path" in line for line in told)

    async def handler(event: Event, session: Any) -> None:
        await session.execute("UPDATE customers SET name = 'Bob'")

    registry = Registry()
    registry.add("*", handler)
    daemon = await start(registry, database_url=url, database_schema=name)
    await traffic.send([sampling.sample(AUTHCAPTURE, 1)], f"{daemon.public_url}/webhooks/authorize-net", KEY)
    await until(lambda: admin.fetchval("SELECT name = 'Bob' FROM public.customers"), "the shop's table is changed")
    schema = {one.check: one async for one in examine(settings_of(servers.settings, database_url=url, database_schema=name))}
    assert schema["schema"].verdict is Verdict.OK
    await admin.execute(f'ALTER ROLE {name} IN DATABASE {database} SET search_path = "$user", public')
    schema = {one.check: one async for one in examine(settings_of(servers.settings, database_url=url, database_schema=name))}
    assert schema["schema"].verdict is Verdict.WARNING
    assert "search_path" in schema["schema"].detail
    await daemon.stop()
    await admin.execute(f"DROP OWNED BY {name}; DROP ROLE {name}")
    await admin.close()
    assert another_schema


async def test_a_schema_may_have_a_name_that_sql_reserves(start: Start, database_url: str, another_schema: str) -> None:
    assert set(await migrate(database_url, schema="order")) == MIGRATIONS
    daemon = await start(database_schema="order")
    await traffic.send([sampling.sample(AUTHCAPTURE, 1)], f"{daemon.public_url}/webhooks/authorize-net", KEY)
    ended = "SELECT count(*) = 1 FROM \"order\".events WHERE status = 'processed'"
    admin = await connect(database_url)
    await until(lambda: admin.fetchval(ended), "it is processed")
    await daemon.retention.remove("bodies")
    assert not daemon.metrics.registry.get_sample_value("webhookd_retention_failures_total", {"kind": "bodies"})
    await admin.close()
    assert another_schema


async def test_tables_of_release_0_2_are_mentioned_and_left_alone(empty_url: str) -> None:
    old = await connect(empty_url)
    await old.execute("CREATE TABLE public.events (id uuid); CREATE VIEW public.webhookd_partitions AS SELECT 1")
    told: list[str] = []
    assert set(await migrate(empty_url, tell=told.append)) == MIGRATIONS
    assert "webhookd 0.2" in told[0]
    assert await old.fetchval("SELECT count(*) FROM public.events") == 0
    await old.close()


async def test_a_daemon_without_its_schema_names_the_setting(start: Start, another_schema: str) -> None:
    daemon = await start(database_schema="nowhere_at_all")
    assert not daemon.health.ready
    assert "WEBHOOKD_DATABASE_SCHEMA" in str(daemon.database.problem)
    assert another_schema
