"""The kinds of events: account, type, entity's name and key are stored once for all events that share them."""

from __future__ import annotations

import asyncio
import contextlib
import random
import uuid
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Any, TypeAlias

import asyncpg
import pytest
import pytest_asyncio

from tests.helpers.database import connect
from tests.helpers.stored import KIND, store
from tests.helpers.wait import until
from webhookd.authorizenet.notification import Notification
from webhookd.runtime.loops import Watch
from webhookd.store import receipts as module
from webhookd.store.database import Database
from webhookd.store.keys import kind_id
from webhookd.store.pools import PoolSettings
from webhookd.store.queries import queries
from webhookd.store.receipts import Accepted, Arrival, Receipts
from webhookd.telemetry.metrics import Metrics

Connection: TypeAlias = "asyncpg.Connection[asyncpg.Record]"
CAPTURE = "net.authorize.payment.authcapture.created"
VOID = "net.authorize.payment.void.created"
TEXTS = "default\x1ft\x1f\x1fk1"
WAITS = "SELECT count(*) > 0 FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"


@pytest_asyncio.fixture
async def receipts(database_url: str) -> AsyncIterator[Receipts]:
    database = Database(PoolSettings(database_url, short=2, work=1, handler_timeout=5), metrics=Metrics(), watch=Watch())
    await database.start()
    yield Receipts(database)
    await database.stop()


def arrival(
    event_type: str = CAPTURE, account: str = "default", entity_name: str | None = "transaction", key: str = "k1"
) -> Arrival:
    id_ = uuid.uuid4()
    notification = Notification(str(id_), event_type, None, entity_name, None, None, None, None)
    return Arrival(id_, account, notification, key, b"{}", random.randbytes(16))


async def accept(receipts: Receipts, *arrivals: Arrival) -> list[Accepted | BaseException]:
    return await receipts.accept(arrivals, send_after=5.0)


async def labels(connection: Connection) -> dict[uuid.UUID, tuple[Any, ...]]:
    """Returns the kind of each event, as the view shows it."""
    rows = await connection.fetch("SELECT id, account, event_type, entity_name, key_fingerprint FROM events")
    return {row["id"]: tuple(row)[1:] for row in rows}


async def test_events_of_one_kind_share_a_row_and_each_reads_as_it_came(receipts: Receipts, connection: Connection) -> None:
    kinds = [
        (CAPTURE, "default", "transaction", "k1"),
        (CAPTURE, "shop", "transaction", "k1"),
        (CAPTURE, "default", None, "k1"),
        (CAPTURE, "default", "transaction", "k2"),
        ("of.a.release.to.come", "default", "transaction", "k1"),
    ]
    arrivals = [arrival(*kind) for kind in kinds * 3]
    await accept(receipts, *arrivals[:7])
    for one in arrivals[7:]:
        await accept(receipts, one)
    of = {a.id: (a.account, a.notification.event_type, a.notification.entity_name, a.key_fingerprint) for a in arrivals}
    assert await labels(connection) == of
    assert await connection.fetchval("SELECT count(*) FROM kinds") == len(kinds)
    read = [row async for row in queries.read_events(connection, ids=list(of))]
    assert {row["id"]: (row["account"], row["event_type"]) for row in read} == {id_: text[:2] for id_, text in of.items()}


async def test_a_kind_that_is_there_is_neither_written_nor_locked(receipts: Receipts, connection: Connection) -> None:
    await accept(receipts, arrival())
    async with asyncio.timeout(20), connection.transaction():
        await connection.execute("LOCK TABLE kinds IN EXCLUSIVE MODE")  # others can read the table, but cannot lock a row
        [result] = await accept(receipts, arrival())
        assert isinstance(result, Accepted)
    row = await connection.fetchrow("SELECT * FROM kinds")
    assert row is not None
    texts = "\x1f".join((row["account"], row["event_type"], row["entity_name"], row["key_fingerprint"]))
    async with connection.transaction():
        await queries.insert_kinds(connection, kind_ids=[row["id"]], kind_texts=[texts])
        assert await connection.fetchval("SELECT pg_current_xact_id_if_assigned()") is None, "nothing was written"


@pytest.mark.parametrize("known", [False, True])
async def test_of_two_kinds_with_one_id_the_second_is_refused(
    receipts: Receipts, connection: Connection, monkeypatch: pytest.MonkeyPatch, known: bool
) -> None:
    """The second kind is refused in the same batch, and also if the first kind has been stored for long."""
    monkeypatch.setattr(module, "kind_id", lambda _: 7)
    if known:
        await accept(receipts, arrival(CAPTURE))
    first, second, third = arrival(CAPTURE), arrival(VOID), arrival(CAPTURE)
    results = await receipts.accept([first, third, second], send_after=5.0)
    assert [isinstance(result, Accepted) for result in results] == [True, True, False]
    assert isinstance(results[2], asyncpg.CheckViolationError)
    assert "kinds_one_kind_an_id" in module.why_not_stored(results[2])
    assert {label[1] for label in (await labels(connection)).values()} == {CAPTURE}


@pytest.mark.parametrize("same", [True, False])
async def test_a_kind_that_another_transaction_commits_meanwhile_is_compared_too(
    database_url: str, connection: Connection, same: bool
) -> None:
    other = await connect(database_url)
    transaction = other.transaction()
    await transaction.start()
    await other.execute("INSERT INTO kinds VALUES (7, 'default', $1, NULL, 'k1')", "t" if same else "u")
    inserting = asyncio.create_task(queries.insert_kinds(connection, kind_ids=[7], kind_texts=[TEXTS]))
    await until(lambda: other.fetchval(WAITS), "it waits for the other one")
    await transaction.commit()
    with contextlib.nullcontext() if same else pytest.raises(asyncpg.CheckViolationError):
        await inserting
    assert await other.fetchval("SELECT event_type FROM kinds") == ("t" if same else "u")
    await other.close()


async def test_two_batches_with_the_same_new_kinds_in_another_order_do_not_deadlock(
    database_url: str, connection: Connection
) -> None:
    """The first batch stops between its two rows: the second batch waits for the first row, and holds no row."""
    ids, texts = [1, 2], [TEXTS, "shop\x1ft\x1f\x1fk1"]
    held, other = await connect(database_url), await connect(database_url)
    async with held.transaction():
        await queries.insert_kinds(held, kind_ids=ids[:1], kind_texts=texts[:1])
        waiting = asyncio.create_task(queries.insert_kinds(other, kind_ids=ids[::-1], kind_texts=texts[::-1]))
        await until(lambda: connection.fetchval(WAITS), "the other one waits for the first row")
        await queries.insert_kinds(held, kind_ids=ids[1:], kind_texts=texts[1:])
    await waiting
    assert await connection.fetchval("SELECT count(*) FROM kinds") == 2
    await held.close()
    await other.close()


async def test_a_kind_that_a_restore_lost_comes_back_with_the_next_event(receipts: Receipts, connection: Connection) -> None:
    await accept(receipts, arrival())
    await connection.execute("DELETE FROM kinds")
    assert len(await labels(connection)) == 1, "no event is hidden"
    await accept(receipts, arrival())
    assert {label[1] for label in (await labels(connection)).values()} == {CAPTURE}


async def test_sql_makes_the_ids_that_the_receiver_makes(connection: Connection) -> None:
    made = KIND.format(account="'default'", event_type="'Ünï'", entity_name="''", key_fingerprint="'k1'")
    assert await connection.fetchval(f"SELECT {made}") == kind_id("default\x1fÜnï\x1f\x1fk1")


async def test_an_entity_is_known_by_its_account_and_name(connection: Connection) -> None:
    at = datetime.now(UTC)
    event = {"status": "received", "received_at": at, "event_type": "t", "entity_id": "7"}
    kinds = [("default", "transaction"), ("shop", "transaction"), ("default", "subscription"), ("default", None)]
    events = [
        {"id": uuid.uuid4(), "notification_id": str(n), "account": account, "entity_name": name, **event}
        for n, (account, name) in enumerate(kinds)
    ]
    await store(connection, events)

    async def found(account: str, name: str | None) -> set[int]:
        of = {"account": account, "entity_name": name, "entity_id": "7", "limit": 10}
        return {int(row["notification_id"]) async for row in queries.events_of_entity(connection, **of)}

    assert await found("default", "transaction") == {0}
    assert await found("default", None) == {0, 2, 3}
    assert await found("shop", None) == {1}
    names = ["transaction", "subscription", "customerProfile"]
    for account, known in (("default", names[:2]), ("shop", names[:1]), ("nobody", [])):
        rows = queries.known_entities(connection, account=account, names=names, ids=["7"] * 3)
        assert [row["entity_name"] async for row in rows] == known
