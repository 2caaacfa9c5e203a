"""Whatever an operator asks for, PostgreSQL reads by an index, and reads a bounded number of events.

Each call runs as the code makes it, and each of its statements is explained with its real values.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import uuid
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import urlsplit

import asyncpg
import pytest
import pytest_asyncio

from tests.bench import events as loader
from tests.helpers.database import connect
from tests.helpers.stored import store_kind
from webhookd.dev.servers import Stack
from webhookd.operate import search as module
from webhookd.operate.cursor import START, Cursor
from webhookd.operate.dead_letters import choose_dead, search_dead
from webhookd.operate.events import Events
from webhookd.operate.filter import DeadEventFilter, Filter, QuarantineFilter, filters_of
from webhookd.operate.operator_queries import OperatorQueries
from webhookd.operate.quarantine import Quarantine
from webhookd.operate.statistics import read_statistics
from webhookd.store.pools import SESSIONS
from webhookd.store.queries import SQL, queries

COUNT = 20_000
FEW = 200  # dead events, if few are dead: then PostgreSQL may read all of them and sort
LOOKED = 2_060  # events that a search's statement reads at most: to look at them, to find the look's end, and for the page
NOW = datetime.now(UTC)
# One process makes the databases of this module, since each database takes seconds.
pytestmark = pytest.mark.xdist_group("search plans")
CALM = "statistics of a time when all was well"
OLD = "statistics of an empty table"
# PostgreSQL rightly reads small tables without an index, so these tables need more rows.
_MORE = """
INSERT INTO notification_aliases (notification_key, event_id, body_hash, account, notification_id)
SELECT gen_random_uuid(), gen_random_uuid(), gen_random_uuid(), 'default', gen_random_uuid() FROM generate_series(1, 3000);
INSERT INTO quarantine (id, account, reason, detail, key_fingerprint, body, body_hash, handled_at, handled_by, outcome)
SELECT gen_random_uuid(), 'default', 'not_json', '', '', repeat('x', 200)::bytea, n::text::bytea,
    CASE WHEN n % 5 > 0 THEN now() END, 'operator (ann)', CASE WHEN n % 5 > 0 THEN 'released' END
FROM generate_series(1, 5000) AS n;
"""
# These statements add many dead events and many waiting events.
_WORSE = """
INSERT INTO work (event_id, consumer, status, due, since, last_error, dead_reason)
SELECT id, 'handlers', 'dead', received_at + interval '1 hour', received_at, 'at a loss', 'tired'
FROM ledger WHERE hashtext(id::text) % 4 = 0
ON CONFLICT DO NOTHING;
INSERT INTO work (event_id, consumer, status, fresh, due, since)
SELECT id, 'handlers', 'retrying', false, now(), received_at FROM ledger WHERE hashtext(id::text) % 4 = 1
ON CONFLICT DO NOTHING;
"""
BY_ID = {"ledger_pkey", "work_pkey"}
BY_KEY = BY_ID | {"ledger_notification_key", "notification_aliases_pkey"}
BY_KEYS = BY_KEY | {"ledger_entity", "ledger_invoice", "ledger_reference"}
STANDING = {"work_fresh", "work_rest", "work_later", "work_sent", "work_dead"}
BY_DEATH = BY_ID | {"work_dead", "work_discarded"}
BY_WAIT = BY_ID | {"work_waiting"}


@dataclass(slots=True)
class Explaining(OperatorQueries):
    """OperatorQueries that run on one connection and keep the plan of each statement."""

    session: Any
    plans: list[dict[str, Any]] = field(default_factory=list)

    @contextlib.asynccontextmanager
    async def connection(self) -> AsyncIterator[Any]:
        yield self

    def settled(self, connection: Any) -> Any:
        return contextlib.nullcontext()

    def transaction(self) -> Any:
        return self.session.transaction()

    async def execute(self, sql: str, *arguments: Any) -> Any:
        return await self.session.execute(sql, *arguments)

    async def _explain(self, sql: str, arguments: tuple[Any, ...]) -> None:
        explained = await self.session.fetchval(f"EXPLAIN (ANALYZE, TIMING OFF, FORMAT JSON) {sql}", *arguments)
        self.plans.append(json.loads(explained)[0]["Plan"])

    async def fetch(self, sql: str, *arguments: Any) -> Any:
        await self._explain(sql, arguments)
        return await self.session.fetch(sql, *arguments)

    async def fetchrow(self, sql: str, *arguments: Any) -> Any:
        await self._explain(sql, arguments)
        return await self.session.fetchrow(sql, *arguments)

    async def fetchval(self, sql: str, *arguments: Any) -> Any:
        await self._explain(sql, arguments)
        return await self.session.fetchval(sql, *arguments)


def nodes(plan: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Yields all nodes of a plan that were executed."""
    if plan["Actual Loops"]:
        yield plan
        for below in plan.get("Plans", ()):
            yield from nodes(below)


def read(plans: list[dict[str, Any]], table: str) -> set[str]:
    """Returns the indexes by which a table or its partitions were read; "no index" stands for a read without an index."""
    found = set()
    for node in (node for plan in plans for node in nodes(plan)):
        if node.get("Index Name", "").startswith(table):
            found.add(node["Index Name"])
        elif node["Node Type"] == "Seq Scan" and node["Relation Name"].startswith(table):
            found.add("no index")
    return found


def rows_read(plan: dict[str, Any]) -> int:
    """Returns the most rows that a statement read of the ledger, the work or quarantine, with the rows it filtered out."""
    totals = {"ledger": 0.0, "work": 0.0, "quarantine": 0.0}
    for node in nodes(plan):
        table = node.get("Relation Name") or node.get("Index Name", "").split("_")[0]
        if table in totals:
            unwanted = node.get("Rows Removed by Filter", 0) + node.get("Rows Removed by Index Recheck", 0)
            totals[table] += (node["Actual Rows"] + unwanted) * node["Actual Loops"]
    return round(max(totals.values()))


@pytest.fixture(scope="module", params=["analyzed", pytest.param(CALM, marks=pytest.mark.long), OLD])
def stored(request: pytest.FixtureRequest, stack: Stack, template: str) -> Iterator[str]:
    """Yields the URL of a database with many events."""
    name = f"webhookd_{uuid.uuid4().hex[:12]}"
    url = urlsplit(stack.database_url)._replace(path=f"/{name}").geturl()

    async def make() -> None:
        server = await connect(stack.database_url)
        await server.execute(f"CREATE DATABASE {name} TEMPLATE {template}")
        await server.close()
        connection = await connect(url)
        await connection.execute("ALTER TABLE ledger SET (autovacuum_enabled = false)")
        await connection.execute("ALTER TABLE work SET (autovacuum_enabled = false)")
        await connection.execute("ANALYZE ledger, work")
        await loader.store(connection, COUNT, NOW)
        await loader.record(connection, NOW)
        await connection.execute(_MORE)
        others = "quarantine, operations, notification_aliases, statistics, statistics_gauges, timeline"
        await connection.execute(f"ANALYZE {others}")
        if request.param != OLD:
            await connection.execute("ANALYZE ledger, work")
        if request.param == CALM:
            await connection.execute(_WORSE)
        await connection.close()

    async def drop() -> None:
        server = await connect(stack.database_url)
        await server.execute(f"DROP DATABASE {name} WITH (FORCE)")
        await server.close()

    asyncio.run(make())
    yield url
    asyncio.run(drop())


@pytest_asyncio.fixture
async def statements(stored: str) -> AsyncIterator[Explaining]:
    """Yields statements like the daemon's, in a session like the daemon's."""
    connection = await connect(stored, server_settings={"jit": "off", **SESSIONS["admin"]})
    yield Explaining(connection)
    await connection.close()


@pytest_asyncio.fixture
async def one(statements: Explaining) -> Any:
    """Returns an event that has every key."""
    return await statements.session.fetchrow(
        "SELECT * FROM events WHERE merchant_reference IS NOT NULL AND invoice_number IS NOT NULL "
        "AND id >= webhookd.first_id(now() - interval '20 days') ORDER BY id LIMIT 1"
    )


async def _store_work(connection: asyncpg.Connection[Any], count: int, status: str, since: str) -> None:
    """Stores `count` events that have not ended; `status` and `since` (of that status) are SQL expressions."""
    kind = await store_kind(connection, event_type="net.authorize.payment.void.created")
    await connection.execute(
        f"""WITH stored AS (
            INSERT INTO ledger (id, notification_key, kind, notification_id, body_hash)
            SELECT gen_random_uuid(), gen_random_uuid(), {kind}, n, gen_random_uuid()
            FROM generate_series(1, {count}) AS n
            RETURNING id, notification_id::integer AS n
        )
        INSERT INTO work (event_id, consumer, status, since, due, dead_reason, fresh)
        SELECT id, 'handlers', {status}, {since}, now(), 'the shop is closed', false FROM stored"""
    )


def middle() -> Cursor:
    """Returns a cursor in the middle of all events."""
    at = NOW - timedelta(days=30)
    return Cursor(at, uuid.UUID(int=int(at.timestamp() * 1000) << 80))


@dataclass(slots=True, frozen=True)
class Case:
    """A search, the indexes of events that it may read, and how many events each of its statements may read."""

    indexes: set[str]
    filter: Callable[[Any], dict[str, Any]] = lambda _: {}
    options: Callable[[Any], dict[str, Any]] = lambda _: {}
    most: int = LOOKED


RANGE = {"received_from": NOW - timedelta(days=40), "received_to": NOW - timedelta(days=20)}
CASES = {
    "nothing": Case(BY_ID, most=2 * 51),
    "a type that nobody has": Case(BY_ID, lambda _: {"event_type": ("payment.nothing.*",)}),
    "an account that nobody has": Case(BY_ID, lambda _: {"account": "nobody"}),
    "a range": Case(BY_ID, lambda _: RANGE),
    "processed": Case(BY_ID, lambda _: {"status": ("processed",)}),
    "processed or dead": Case(BY_ID, lambda _: {"status": ("processed", "dead"), "event_type": ("*.expired",)}),
    "dead, of a range": Case(BY_DEATH, lambda _: {"status": ("dead",), **RANGE}),
    "dead": Case(BY_DEATH, lambda _: {"status": ("dead",)}, most=3 * 52),
    "retrying": Case(BY_WAIT, lambda _: {"status": ("retrying",)}, most=2 * 252),
    "received": Case(BY_WAIT, lambda _: {"status": ("received",)}),
    "retrying, of nobody": Case(BY_WAIT, lambda _: {"status": ("retrying",), "account": "nobody"}),
    "not processed": Case(
        BY_WAIT | BY_DEATH,
        lambda _: {"status": ("received", "queued", "retrying", "dead"), "event_type": ("*.nothing",)},
        most=3 * LOOKED,
    ),
    "entity, dead": Case(BY_ID | {"ledger_entity"}, lambda one: {"entity_id": one["entity_id"], "status": ("dead",)}, most=100),
    "entity and range": Case(BY_ID | {"ledger_entity"}, lambda one: {"entity_id": one["entity_id"], **RANGE}, most=200),
    "unknown invoice": Case(BY_ID | {"ledger_invoice"}, lambda _: {"invoice_number": "nothing"}, most=0),
    "notification id": Case(BY_KEY, options=lambda one: {"notification_id": one["notification_id"].upper()}, most=20),
    "anything, an entity": Case(
        BY_KEYS,
        options=lambda one: {"anything": one["entity_id"]},
        most=100,
    ),
    "anything, unknown": Case(BY_KEYS, options=lambda _: {"anything": "nothing"}, most=20),
    "anything, an id of ours": Case(
        BY_KEYS,
        options=lambda one: {"anything": str(one["id"])},
        most=20,
    ),
    # Each filter of the table that names an index.
    **{
        line.name: Case(BY_ID | {line.about.index}, lambda one, name=line.name: {name: one[name]}, most=200)  # type: ignore[misc]
        for line in filters_of(Filter)
        if line.about.index
    },
}


@pytest.mark.parametrize("name", CASES)
async def test_a_search_reads_by_its_index_and_no_more_than_it_says(
    statements: Explaining, one: Any, name: str, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    case = CASES[name]
    # Each look is made, however slow this machine is. But with old statistics, PostgreSQL does not know that ids are in the
    # table's order; then a tenth of so small a table costs more than the whole table.
    monkeypatch.setattr(module, "_BUDGET", 60.0)
    if OLD in request.node.name:
        monkeypatch.setattr(module, "_LOOKED", (250,))
    for cursor in (START, middle()):
        statements.plans.clear()
        await Events(statements).search(Filter(**case.filter(one)), cursor, 50, **case.options(one))
        assert statements.plans
        tables = set().union(*(read(statements.plans, table) for table in ("ledger", "work", "notification_aliases")))
        # PostgreSQL does not execute a branch that its predecessor leaves empty.
        assert tables <= case.indexes, name
        assert tables & (case.indexes - BY_KEY or case.indexes), name
        # Otherwise PostgreSQL calls a function for each event, and one of these functions reads all kinds.
        assert not re.search(r"\b(chosen|kinds_of)\(", json.dumps(statements.plans)), name
        most = max(case.most, FEW if case.indexes & (BY_DEATH | BY_WAIT) - BY_ID else 0)
        assert max(rows_read(plan) for plan in statements.plans) <= most, name


async def test_a_page_of_what_waits_reads_a_page_where_statistics_know_of_nothing_that_waits(
    database_url: str, connection: asyncpg.Connection[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_BUDGET", 60.0)
    await connection.execute("ALTER TABLE work SET (autovacuum_enabled = false); ANALYZE ledger, work")
    await _store_work(
        connection, 10_000, "(ARRAY['received', 'queued', 'retrying'])[1 + n % 3]", "now() - n * interval '1 second'"
    )
    session = await connect(database_url, server_settings={"jit": "off", **SESSIONS["admin"]})
    statements = Explaining(session)
    page = await Events(statements).search(Filter(status=("received", "queued", "retrying")), START, 50)
    await session.close()
    assert len(page.rows) == 50
    assert max(rows_read(plan) for plan in statements.plans) <= 2 * 52


async def test_an_event_and_what_belongs_to_it_are_read_by_indexes(statements: Explaining, one: Any) -> None:
    await Events(statements).show(one["id"])
    assert read(statements.plans, "ledger") == {"ledger_pkey", "ledger_entity"}
    assert read(statements.plans, "work") == {"work_pkey"}
    assert {index.split("_")[0] for index in read(statements.plans, "notification_aliases")} == {"notification"}
    assert "no index" not in read(statements.plans, "bodies") | read(statements.plans, "audit")
    assert max(rows_read(plan) for plan in statements.plans) <= 100


DEAD = {
    "all": (DeadEventFilter(), 60),
    "a reason": (DeadEventFilter(reason="at a LOSS"), 60),
    "a type": (DeadEventFilter(event_type=("payment.*",)), 250),
    "nothing": (DeadEventFilter(reason="nothing"), LOOKED),
    "discarded": (DeadEventFilter(), LOOKED),
    "a range": (
        DeadEventFilter(died_from=NOW - timedelta(days=40), died_to=NOW - timedelta(days=20), reason="none"),
        LOOKED,
    ),
}


@pytest.mark.parametrize("name", DEAD)
async def test_dead_letters_are_read_by_their_death(
    statements: Explaining, name: str, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_BUDGET", 60.0)
    dead, most = DEAD[name]
    if CALM in request.node.name and name == "a reason":
        most = 250  # a whole look: with old statistics, PostgreSQL sorts all events of the look
    for cursor in (START, middle()):
        await search_dead(statements, dead, cursor, 50, discarded=name == "discarded")
    assert read(statements.plans, "work") <= {"work_pkey", "work_discarded" if name == "discarded" else "work_dead"}
    assert read(statements.plans, "ledger") <= {"ledger_pkey"}
    assert max(rows_read(plan) for plan in statements.plans) <= 2 * max(most, FEW)


async def test_however_many_died_at_one_instant_a_statement_looks_at_some_of_them(
    database_url: str, connection: asyncpg.Connection[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """After an outage, with statistics of a time when nothing was dead, this holds for lists and an operation's batches."""
    monkeypatch.setattr(module, "_BUDGET", 60.0)
    await connection.execute("ALTER TABLE work SET (autovacuum_enabled = false); ANALYZE ledger, work")
    await _store_work(connection, 15_000, "'dead'", "now()")
    session = await connect(database_url, server_settings={"jit": "off", **SESSIONS["admin"]})
    statements = Explaining(session)
    for dead, discarded in (
        (DeadEventFilter(), False),
        (DeadEventFilter(reason="nothing"), False),
        (DeadEventFilter(), True),
        (DeadEventFilter(event_type=("payment.void.*",)), False),
    ):
        page = await search_dead(statements, dead, START, 50, discarded=discarded)
        assert len(page.rows) == (0 if dead.reason or discarded else 50)
        assert (page.next is None) == discarded, "the discarded, of which there are none, are apart"
    until = datetime.now(UTC) + timedelta(days=1)
    for dead in (DeadEventFilter(reason="closed"), DeadEventFilter(reason="nothing")):
        cursor: Cursor | None = Cursor(datetime(1970, 1, 1, tzinfo=UTC), uuid.UUID(int=0))
        chosen = batches = 0
        while cursor is not None:
            async with session.transaction():
                rows, cursor = await choose_dead(statements, dead, until, cursor, 4000, 4000)  # type: ignore[arg-type]
            chosen, batches = chosen + len(rows), batches + 1
        assert (chosen, batches) == (15_000 if dead.reason == "closed" else 0, 4)
    assert max(rows_read(plan) for plan in statements.plans) <= 4001

    # The statements of the dead-letter queue's reader.
    statements.plans.clear()
    await session.execute("UPDATE work SET copy_sent_at = now() - interval '1 hour' WHERE event_id::text < '8'")
    assert await statements.one(queries.count_dead, limit=4000) is None
    assert max(rows_read(plan) for plan in statements.plans) <= 4001
    steps, cursor = 0, Cursor(datetime(1970, 1, 1, tzinfo=UTC), uuid.UUID(int=0))
    while cursor is not None:
        async with session.transaction():
            await queries.forbid_bitmaps(statements)
            row = await statements.one(
                queries.owe_dead_letters, ids=[], settled=60.0, after_death=cursor.at, after_id=cursor.id, looked=4000
            )
        steps += 1
        cursor = None if row["last_id"] is None else Cursor(row["last_at"], row["last_id"])
    assert steps == 4
    # Four reads: the page; then its owed events to lock them, to change them, and after the change.
    assert max(rows_read(plan) for plan in statements.plans) <= 4 * 4000
    assert await statements.one(queries.count_dead, limit=15_000) == 0, "each copy is owed"
    await session.close()


async def test_a_transaction_is_read_by_its_keys(statements: Explaining, one: Any) -> None:
    of = {"account": one["account"], "entity_id": one["entity_id"]}
    await statements.one(queries.transaction, account=one["account"], id=one["entity_id"])
    await statements.one(queries.subscription, account=one["account"], id=one["entity_id"])
    await statements.one(queries.customer, account=one["account"], id=one["entity_id"])
    await statements.one(queries.payment_profile, account=one["account"], id=one["entity_id"])
    found = await statements.all(queries.events_of_entity, **of, entity_name="transaction", limit=200)
    assert found
    named = ["transaction", "subscription", "customerProfile", "customerPaymentProfile"] * 25
    ids = [str(number) for number in range(99)]
    known = await statements.all(queries.known_entities, account=one["account"], names=named, ids=[one["entity_id"], *ids])
    assert [(row["entity_name"], row["entity_id"]) for row in known] == [("transaction", one["entity_id"])]
    assert read(statements.plans, "timeline") == {"timeline_pkey"}
    assert read(statements.plans, "ledger") == {"ledger_entity"}


@pytest.mark.parametrize(("state", "index"), [("waiting", "quarantine_waiting"), ("released", "quarantine_pkey")])
async def test_quarantine_is_read_in_its_order_and_no_further_than_a_search_says(
    statements: Explaining, state: str, index: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_BUDGET", 60.0)
    quarantine = Quarantine(statements, Any)  # type: ignore[arg-type]
    page = await quarantine.newest(QuarantineFilter(), START, 5, state=state, reason=None)
    assert len(page.rows) == 5
    assert max(rows_read(plan) for plan in statements.plans) <= 2 * FEW
    page = await quarantine.newest(QuarantineFilter(account="nobody"), START, 5, state=state, reason=None)
    assert (page.rows, page.next) == ([], None)
    assert max(rows_read(plan) for plan in statements.plans) <= LOOKED
    assert read(statements.plans, "quarantine") == {index, "quarantine_pkey"}


async def test_operations_are_read_in_their_order(statements: Explaining) -> None:
    await statements.all(queries.list_operations, below=START.id, limit=51)
    assert read(statements.plans, "operations") == {"operations_pkey"}


@pytest.mark.parametrize("window", [900, 3600, 86_400, 604_800, 7_776_000])
async def test_statistics_read_their_steps_and_count_what_stands_by_its_indexes(statements: Explaining, window: int) -> None:
    # The events were stored when the module began, perhaps longer ago than the shortest window.
    await statements.session.execute(
        "INSERT INTO statistics SELECT step, webhookd.step(step, now()), measure, event_type, counts FROM statistics "
        "WHERE (step, at) IN (SELECT step, max(at) FROM statistics GROUP BY step) ON CONFLICT DO NOTHING"
    )
    found = await read_statistics(statements, window)
    assert found.totals["received"] > 0
    assert read(statements.plans, "statistics") == {"statistics_pkey", "statistics_gauges_pkey"}
    assert read(statements.plans, "work") == STANDING
    assert read(statements.plans, "quarantine") == {"quarantine_waiting"}
    rows = [node["Actual Rows"] for plan in statements.plans for node in nodes(plan)]
    # 90 days of 24 types with four measures are the maximum.
    assert max(rows) <= 10_000


def bounded(text: str) -> bool:
    """Returns whether each count(*) of a query is over a subselect that has a LIMIT."""
    for counted in re.finditer(r"count\(\*\)", text):
        over = re.match(r"\s*(AS \w+\s+)?FROM\s*\(", text[counted.end() :])
        if over is None:
            return False
        depth, begin = 1, counted.end() + over.end()
        for end in range(begin, len(text)):
            depth += {"(": 1, ")": -1}.get(text[end], 0)
            if not depth:
                break
        branches = re.split(r"\bUNION ALL\b", text[begin:end])
        if not all("LIMIT" in branch for branch in branches):
            return False
    return True


def test_nothing_is_counted_without_a_bound() -> None:
    names = re.findall(r"-- name: (\w+)\(", (SQL / "queries" / "operator.sql").read_text())
    assert {"search_events", "search_open", "search_key", "statistics"} <= set(names)
    for name in [*names, "search_dead", "choose_dead", "choose_dead_by_id", "traffic"]:
        assert bounded(getattr(queries, name).sql), name
    assert not bounded("SELECT count(*) FROM events")
    assert not bounded("SELECT count(*) FROM (SELECT FROM events UNION ALL (SELECT FROM events LIMIT 1)) AS c LIMIT 1")
