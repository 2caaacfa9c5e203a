"""The sweep beside a simulated provider: what no webhook reports becomes facts, and events if a setting names their types."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any, TypeAlias

import asyncpg
import pytest

from tests.conftest import Start
from tests.helpers.receivers import SECRET, receiving
from tests.helpers.settlement_story import due_events
from tests.helpers.wait import until
from webhookd.daemon import Daemon
from webhookd.event import Event
from webhookd.process.handlers import Registry
from webhookd.simulate import Clock, Faults, Simulator, story
from webhookd.store.provider_gaps import ProviderGaps

Connection: TypeAlias = "asyncpg.Connection[asyncpg.Record]"
REPORTS = ("getSettled", "getTransaction", "getUnsettled", "getBatch")


@pytest.fixture
async def provider() -> AsyncIterator[Simulator]:
    async with Simulator(seed=3, clock=Clock(datetime.now(UTC) - timedelta(days=8), speed=0)) as simulator:
        yield simulator


class Shop:
    """A daemon beside the provider, with a handler that keeps the events."""

    def __init__(self, start: Start, provider: Simulator, connection: Connection) -> None:
        self._start = start
        self.provider = provider
        self.connection = connection
        self.events: list[Event] = []

    async def open(self, **settings: Any) -> Daemon:
        """Starts a daemon whose credentials have been used for ten days."""
        own = self.provider.account()
        registry = Registry()

        async def keep(event: Event, connection: Any) -> None:
            self.events.append(event)

        registry.add("webhookd.*", keep)
        await self.connection.execute(
            "INSERT INTO webhookd.provider_accounts (account, compared_from) VALUES ('default', now() - interval '10 days')"
        )
        self.provider.clock.advance((datetime.now(UTC) - self.provider.clock.now()).total_seconds())
        given = {
            "signature_keys": own.signature_key,
            "provider": self.provider.url,
            "api_login_id": own.login_id,
            "transaction_key": own.transaction_key,
            "provider_rate": 100,
            "settlement_every": 1,
            "synthetic_events": "*",
        }
        return await self._start(registry, **given | settings)

    async def until_swept(self, times: int = 1) -> None:
        """Waits until sweeps have ended."""
        for _ in range(times):
            before = await self.connection.fetchval("SELECT max(swept_at) FROM webhookd.provider_sweeps")

            async def swept(before: datetime | None = before) -> bool:
                now: datetime | None = await self.connection.fetchval("SELECT max(swept_at) FROM webhookd.provider_sweeps")
                return now != before

            await until(swept, "a sweep ends", deadline=60)

    async def rows(self, query: str) -> list[asyncpg.Record]:
        return list(await self.connection.fetch(query))


@pytest.fixture
async def shop(start: Start, provider: Simulator, connection: Connection) -> Shop:
    return Shop(start, provider, connection)


async def test_a_settlement_reaches_the_handler_and_the_destination_once_and_without_the_providers_signature(
    shop: Shop, provider: Simulator
) -> None:
    sale = provider.till().sale(Decimal("19.90"), invoice="INV-7")
    async with receiving() as receiver:
        destination = {"url": receiver.url, "allow_private": True, "secrets": SECRET}
        daemon = await shop.open(destinations={"shop": destination})
        await until(lambda: shop.events, "the handler gets the event", deadline=60)
        await until(lambda: receiver.got, "the destination gets the event", deadline=60)
        await shop.until_swept(3)
        old = datetime.now(UTC) - timedelta(days=30)
        compared = [one async for one in ProviderGaps(daemon.database, "default").events(old, old)]
        assert compared == [], "no history of notifications has a synthetic event, so none is compared with it"
    (event,), (got,) = shop.events, receiver.got
    assert (event.event_type, event.origin, event.verified) == ("webhookd.transaction.settled", "synthetic", False)
    assert sale.batch is not None
    assert event.event_date == sale.batch.settled_at
    assert event.payload == {
        "id": sale.id,
        "entityName": "transaction",
        "status": "settledSuccessfully",
        "settleAmount": Decimal("19.90"),
        "batchId": sale.batch.id,
        "invoiceNumber": "INV-7",
    }
    assert str(event.payload["settleAmount"]) == "19.90"
    assert got.body == event.raw
    assert got.headers["webhookd-origin"] == "synthetic"
    assert "webhook-signature" in got.headers
    assert "X-ANET-Signature" not in got.headers
    (row,) = await shop.rows("SELECT status, event_type FROM webhookd.events")
    assert tuple(row) == ("processed", "webhookd.transaction.settled")
    assert await shop.rows("SELECT FROM webhookd.timeline") == [], "a synthetic event alone makes no row of the timeline"
    audit = await shop.rows("SELECT DISTINCT actor FROM webhookd.audit WHERE actor = 'settlement sweep'")
    assert audit, "the audit trail names who made the event"


async def test_without_the_setting_the_facts_are_there_and_no_event_is(shop: Shop, provider: Simulator) -> None:
    sale = provider.till().sale(Decimal("5.00"))
    daemon = await shop.open(synthetic_events="")
    await shop.until_swept(6)
    (row,) = await shop.rows("SELECT transaction_id, state, amount, batch_id FROM webhookd.provider_transactions")
    assert sale.batch is not None
    assert tuple(row) == (sale.id, "settled", Decimal("5.00"), sale.batch.id)
    assert await shop.rows("SELECT FROM webhookd.ledger") == []
    assert daemon.metrics.registry.get_sample_value("webhookd_provider_batches_open", {"account": "default"}) == 0
    (swept,) = await shop.rows("SELECT time_zone, unsettled_at, batches_listed_at FROM webhookd.provider_sweeps")
    assert swept["time_zone"] == "America/Los_Angeles"
    assert swept["unsettled_at"] is not None


async def test_the_whole_week_of_a_merchant_comes_once_whatever_a_first_sweep_must_read(
    shop: Shop, provider: Simulator
) -> None:
    await story(provider, 7, sales=15)
    await shop.open()
    due = due_events(provider.account())
    assert len(due) > 50

    async def all_there() -> bool:
        return len(shop.events) >= len(due)

    await until(all_there, "all events are processed", deadline=90)
    await shop.until_swept(3)
    found = [event.notification_id for event in shop.events if event.event_type != "webhookd.transaction.held_too_long"]
    assert sorted(found) == sorted(map(str, due_events(provider.account())))


async def test_without_the_reports_the_sweep_says_so_once_and_asks_no_more(shop: Shop) -> None:
    async with Simulator(seed=3, faults=Faults(reports_off=True)) as provider:
        shop.provider = provider
        daemon = await shop.open()
        value = daemon.metrics.registry.get_sample_value
        labels = {"account": "default"}
        await until(lambda: value("webhookd_provider_reports_off", labels) == 1, "the metric says so", deadline=60)
        await asyncio.sleep(3)
        asked = [call.name for call in provider.calls if call.name.startswith(REPORTS)]
    assert len(asked) == 1, asked


async def test_a_batch_that_does_not_add_up_stays_open_and_is_read_again(shop: Shop, provider: Simulator) -> None:
    provider.till().sale(Decimal("5.00"))
    provider.clock.advance(2 * 86_400)
    (batch,) = provider.account().batches.values()
    batch.statistics[0].charge_amount += 1
    daemon = await shop.open()
    await shop.until_swept(2)
    (row,) = await shop.rows("SELECT reasons, looked_at FROM webhookd.provider_batches")
    assert row["reasons"] == [
        f"batch {batch.id}: visa, charge amount: the statistics have 6.00, the transactions add up to 5.00"
    ]
    value = daemon.metrics.registry.get_sample_value
    assert value("webhookd_provider_batches_open", {"account": "default"}) == 1
    await shop.connection.execute("UPDATE webhookd.provider_batches SET looked_at = looked_at - interval '2 hours'")
    batch.statistics[0].charge_amount -= 1

    async def closed() -> bool:
        return not (await shop.rows("SELECT reasons FROM webhookd.provider_batches"))[0]["reasons"]

    await until(closed, "the batch is read again, and adds up", deadline=60)
