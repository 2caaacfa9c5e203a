"""The facts of transactions in PostgreSQL: nothing is changed on the way, and two replicas never overwrite each other."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable, Mapping
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from functools import reduce

import pytest_asyncio

from webhookd.authorizenet.api.results import ReturnedItem
from webhookd.authorizenet.settlement import Facts, State, merge, state_of
from webhookd.runtime.loops import Watch
from webhookd.store.database import Database
from webhookd.store.pools import PoolSettings
from webhookd.store.provider_facts import FactStore, StoredFacts, with_look
from webhookd.telemetry.metrics import Metrics

NOW = datetime(2026, 11, 26, 12, tzinfo=UTC)


@pytest_asyncio.fixture
async def database(database_url: str) -> AsyncIterator[Database]:
    database = Database(PoolSettings(database_url, short=3, work=1, handler_timeout=5), metrics=Metrics(), watch=Watch())
    await database.start()
    yield database
    await database.stop()


async def write(store: FactStore, *rows: StoredFacts) -> None:
    async def decide(_: Mapping[str, StoredFacts]) -> Iterable[StoredFacts]:
        return rows

    await store.change([one.facts.id for one in rows], decide)


async def look(store: FactStore, seen: Facts) -> None:
    async def decide(known: Mapping[str, StoredFacts]) -> Iterable[StoredFacts]:
        before = known.get(seen.id)
        await asyncio.sleep(0.01)  # others come between
        return [with_look(before, merge(before.facts, seen) if before else seen, seen, in_list=True)]

    await store.change([seen.id], decide)


async def test_what_is_written_is_read_unchanged(database: Database) -> None:
    store = FactStore(database, "default")
    full = Facts(
        "1",
        "settledSuccessfully",
        NOW.replace(microsecond=123456),
        amount=Decimal("1018.8800"),
        batch_id="b1",
        settled_at=NOW - timedelta(hours=1),
        submitted_at=NOW - timedelta(days=1),
        type="refundTransaction",
        ref_transaction_id="0007",
        account_type="eCheck",
        invoice_number="00 12\n\"'\\",
        subscription_id="s1",
        payment_number=3,
        echeck=True,
        detailed=True,
        lists_returns=True,
        returned_items=(ReturnedItem("r1", NOW, "R03"), ReturnedItem("r2", None, None)),
        failed_batches=frozenset({"b0", "b-1"}),
    )
    rows = [StoredFacts(full, 0, frozenset({"b1", "b2"}), NOW + timedelta(hours=1)), StoredFacts(Facts("2", "new text", NOW))]
    await write(store, *rows)
    found = await store.read(["1", "2", "3", "1"])
    assert {name: one.facts for name, one in found.items()} == {"1": full, "2": rows[1].facts}
    assert (found["1"].listed_in, found["1"].next_look_at) == (rows[0].listed_in, rows[0].next_look_at)
    assert (found["2"].listed_in, found["2"].next_look_at) == (frozenset(), None)
    assert str(found["1"].facts.amount) == "1018.8800"
    assert await FactStore(database, "other").read(["1"]) == {}


async def test_what_has_not_changed_is_not_written(database: Database) -> None:
    store = FactStore(database, "default")
    await write(store, StoredFacts(Facts("1", "declined", NOW)))
    for _ in range(2):
        await look(store, Facts("1", "declined", NOW))
    assert (await store.read(["1"]))["1"].version == 1


async def test_looks_of_two_replicas_at_once_are_all_kept(database: Database) -> None:
    looks = [
        Facts("1", status, NOW + timedelta(seconds=number), batch_id=batch, detailed=number == 2)
        for number, (status, batch) in enumerate(
            [("settledSuccessfully", "b2"), ("settlementError", "b1"), ("capturedPendingSettlement", None), ("voided", None)]
        )
    ]
    await asyncio.gather(*(look(FactStore(database, "default"), one) for one in looks))
    found = (await FactStore(database, "default").read(["1"]))["1"]
    assert found.facts == reduce(merge, looks)
    assert found.facts.state is State.SETTLED
    assert found.listed_in == {one.batch_id for one in looks if one.batch_id and state_of(one.status) is State.SETTLED}
