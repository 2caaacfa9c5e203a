"""Writes a simulated merchant into webhookd's tables: the provider's books as a sweep keeps them, and the events."""

from __future__ import annotations

import uuid
from collections.abc import Iterable
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any, cast

import orjson

from tests.helpers.operator import Connection
from tests.helpers.provider_rows import store_account
from tests.helpers.stored import store
from webhookd.authorizenet.api.results import Batch, BatchStatistic, ReturnedItem, SubscriptionPayment, TransactionRow
from webhookd.authorizenet.batches import check
from webhookd.authorizenet.notification import parse
from webhookd.authorizenet.settlement import Facts, merge, of_row
from webhookd.authorizenet.timeline import fold_all
from webhookd.event import Event
from webhookd.simulate import Account, Simulator, Transaction, records
from webhookd.store.database import Database
from webhookd.store.event_store import EventStore
from webhookd.store.provider_facts import FactStore, StoredFacts, with_look

SEEN = datetime(2026, 11, 26, 12, tzinfo=UTC)


async def keep(
    connection: Connection, database: Database, simulator: Simulator, *, zone: str | None = "America/Los_Angeles"
) -> dict[str, uuid.UUID]:
    """Writes all; returns an event's id for each transaction that has one. Each day is whole, and all lists are new."""
    account = simulator.account()
    await keep_books(connection, database, account)
    await keep_sweep(connection, zone=zone)
    days = {one.made_at.astimezone(UTC).date() for one in account.transactions.values()}
    await keep_days(connection, days)
    return await keep_events(connection, simulator)


async def keep_sweep(connection: Connection, *, zone: str | None = "America/Los_Angeles") -> None:
    """Writes that everything was listed just now, from 2020 on."""
    await store_account(connection)
    await connection.execute(
        """INSERT INTO provider_sweeps (account, swept_from, batches_listed_at, unsettled_at, time_zone)
           VALUES ('default', '2020-01-01', now(), now(), $1)""",
        zone,
    )


async def keep_days(connection: Connection, days: Iterable[date], account: str = "default") -> None:
    """Writes that the history of days is whole."""
    await connection.executemany(
        "INSERT INTO provider_days (account, day, completeness) VALUES ($1, $2, 'whole') ON CONFLICT DO NOTHING",
        [(account, day) for day in days],
    )


async def keep_books(connection: Connection, database: Database, account: Account) -> None:
    """Writes the batches and the facts of transactions, as looks at the lists and at the details make them."""
    found: dict[str, StoredFacts] = {}
    for batch in account.batches.values():
        own, looks = batch_of(batch), []
        for one in batch.transactions:
            seen = look(one, own)
            looks.append(seen)
            found[one.id] = with_look(found.get(one.id), seen, seen, in_list=True)
        await keep_batch(connection, own, looks)
    for one in account.transactions.values():
        found.setdefault(one.id, StoredFacts(look(one)))
    await keep_facts(database, found.values())


async def keep_batch(connection: Connection, batch: Batch, looks: Iterable[Facts]) -> None:
    """Writes a batch with the result of its comparison."""
    looks = list(looks)
    result = check(batch, looks, complete=True)
    totals = {name: {line.value: str(value) for line, value in lines.items()} for name, lines in result.totals.items()}
    await connection.execute(
        """INSERT INTO provider_batches
               (account, batch_id, settlement_state, settled_at, payment_method, totals, reasons, transactions, looked_at)
           VALUES ('default', $1, $2, $3, $4, $5, $6, $7, now())""",
        batch.id,
        batch.settlement_state,
        batch.settled_at,
        batch.payment_method,
        orjson.dumps(totals).decode(),
        list(result.reasons),
        len(looks),
    )


async def keep_facts(database: Database, rows: Iterable[StoredFacts]) -> None:
    """Writes facts."""
    rows = list(rows)

    async def decide(_: Any) -> list[StoredFacts]:
        return rows

    await FactStore(database, "default").change([one.facts.id for one in rows], decide)


def look(one: Transaction, batch: Batch | None = None) -> Facts:
    """Returns the facts after a look at the list and at the details of a transaction."""
    payment = one.payment and SubscriptionPayment(one.payment.subscription, one.payment.number)
    row = TransactionRow(
        one.id, one.status, one.made_at, one.settle_amount, one.account_type, one.invoice, payment, bool(one.returned)
    )
    facts = of_row(row, SEEN, batch)
    items = tuple(ReturnedItem(item.id, item.at, item.code) for item in one.returned)
    return merge(facts, replace(facts, type=one.type, ref_transaction_id=one.ref_id, detailed=True, returned_items=items))


def batch_of(batch: records.Batch) -> Batch:
    """Returns a batch of the simulator's books as the client reads it."""
    statistics = [
        BatchStatistic(
            one.account_type,
            one.charge_amount,
            one.charge_count,
            one.refund_amount,
            one.refund_count,
            one.void_count,
            one.decline_count,
            one.error_count,
        )
        for one in batch.statistics
    ]
    return Batch(batch.id, batch.state, batch.settled_at, batch.method, tuple(statistics))


async def keep_events(connection: Connection, simulator: Simulator, account: str = "default") -> dict[str, uuid.UUID]:
    """Writes the events that arrived, processed and folded. Returns an event's id for each transaction."""
    events, rows, ids = [], [], {}
    for one in simulator.made:
        if not one.attempts:
            continue
        note = parse(one.body, account)
        number = uuid.UUID(int=int(one.made_at.timestamp() * 1000) << 80 | uuid.uuid4().int % 2**80)
        events.append(Event(number, account, note.notification_id, note.event_type, note.event_date, one.made_at, 1, one.body))
        rows.append(
            {
                "id": number,
                "account": account,
                "notification_id": note.notification_id,
                "event_type": note.event_type,
                "status": "processed",
                "received_at": one.made_at,
                "finished_at": one.made_at + timedelta(seconds=1),
                "event_date": note.event_date,
                "entity_name": note.entity_name,
                "entity_id": note.entity_id,
            }
        )
        if note.entity_id:
            ids[note.entity_id] = number
    await store(connection, rows)
    await EventStore(cast("Any", None)).process(cast("Any", connection), [], fold_all(events))
    return ids


async def kill(connection: Connection, event_id: uuid.UUID, *, destination: str | None = None) -> None:
    """Makes the work of an event dead; with `destination`, its delivery there."""
    if destination is None:
        text = "INSERT INTO work (event_id, consumer, due, status, dead_reason) VALUES ($1, 'handlers', now(), 'dead', 'test')"
        await connection.execute(text, event_id)
    else:
        text = "INSERT INTO deliveries (event_id, destination, status) VALUES ($1, $2, 'dead')"
        await connection.execute(text, event_id, destination)


def statistic(sales: Iterable[Facts]) -> BatchStatistic:
    """Returns the statistics of settled sales of one type of card."""
    sales = list(sales)
    amount = sum((one.amount or Decimal(0) for one in sales), Decimal(0))
    return BatchStatistic(sales[0].account_type, amount, len(sales), Decimal(0), 0, 0, 0, 0)
