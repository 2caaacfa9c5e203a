"""The lists that a sweep reads in its runs: restarts and odd answers neither keep it from a list, nor make it ask too often."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any, TypeAlias

import asyncpg
import pytest
import pytest_asyncio

from webhookd.authorizenet.api.client import ProviderClient
from webhookd.authorizenet.api.errors import RecordNotFoundError
from webhookd.authorizenet.api.results import Batch
from webhookd.runtime.loops import Watch
from webhookd.settings.synthetic_types import SyntheticType
from webhookd.simulate import Clock, Simulator
from webhookd.store.database import Database
from webhookd.store.pools import PoolSettings
from webhookd.store.provider_facts import FactStore
from webhookd.store.receipts import Receipts
from webhookd.sync.fact_recorder import FactRecorder
from webhookd.sync.settlement_sweep import SettlementSweep
from webhookd.sync.synthetic_intake import SyntheticIntake
from webhookd.telemetry.metrics import Metrics

Connection: TypeAlias = "asyncpg.Connection[asyncpg.Record]"
LISTS = ("getSettledBatchListRequest", "getUnsettledTransactionListRequest", "merchant")
HOUR = timedelta(hours=1)


class Account:
    """An account with sweeps by a stopped clock. Each run is of a new process, which remembers nothing."""

    def __init__(self, provider: Simulator, client: ProviderClient, database: Database, connection: Connection) -> None:
        self.provider, self.client, self._database, self.connection = provider, client, database, connection
        self._metrics = Metrics().provider

    async def run(self) -> list[str]:
        """Lets a new process make a run. Returns the lists that it asked for."""
        intake = SyntheticIntake("default", Receipts(self._database), tuple(SyntheticType), self._metrics)
        now = self.provider.clock.now
        recorder = FactRecorder("default", FactStore(self._database, "default"), intake, now)
        self._asked: list[str] = []
        before = len(self.provider.calls)

        async def zone() -> str:
            self._asked.append("merchant")
            return "UTC"

        oldest = self.provider.clock.now() - timedelta(days=300)
        sweep = SettlementSweep("default", self.client, self._database, recorder, lambda _: oldest, zone, self._metrics)
        await sweep.run()
        return [call.name for call in list(self.provider.calls)[before:] if call.name in LISTS] + self._asked

    def wait(self, time: timedelta) -> None:
        """Lets time pass."""
        self.provider.clock.advance(time.total_seconds())

    async def sweep(self) -> asyncpg.Record:
        """Returns how far the sweep has come."""
        row = await self.connection.fetchrow("SELECT * FROM webhookd.provider_sweeps")
        assert row is not None
        return row


@pytest_asyncio.fixture
async def account(database_url: str, connection: Connection, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Account]:
    clock = Clock(datetime.now(UTC) - timedelta(days=30), speed=0)
    database = Database(PoolSettings(database_url, short=3, work=1, handler_timeout=5), metrics=Metrics(), watch=Watch())
    monkeypatch.setattr(database, "now", clock.now)
    await connection.execute(
        "INSERT INTO webhookd.provider_accounts (account, compared_from) VALUES ('default', $1)", clock.now() - HOUR
    )
    await database.start()
    async with AsyncExitStack() as stack:
        provider = await stack.enter_async_context(Simulator(seed=4, clock=clock))
        access = replace(provider.access(), rate=1_000_000.0)
        client = await stack.enter_async_context(ProviderClient(access))
        yield Account(provider, client, database, connection)
    await database.stop()


async def test_a_process_that_starts_anew_each_hour_reads_each_list_of_the_day(account: Account) -> None:
    began = account.provider.clock.now()
    lists: list[list[str]] = []
    for _ in range(24):
        lists.append(await account.run())
        account.wait(HOUR)
    counted = Counter(name for some in lists for name in some)
    assert (counted["getUnsettledTransactionListRequest"], counted["merchant"]) == (2, 1), "unsettled, held, and the account"
    assert {len(some) for some in lists} == {0, 1}, "no run costs two calls; the first run only begins"
    row = await account.sweep()
    assert (row["time_zone"], row["asked"]) == ("UTC", 0)
    assert row["unsettled_at"] < began + 4 * HOUR


async def test_after_a_pause_a_run_reads_all_lists_that_are_due(account: Account) -> None:
    for _ in range(2):
        await account.run()
        account.wait(6 * HOUR)
    assert await account.run() == [*(LISTS[0], LISTS[1], LISTS[1]), LISTS[2]]
    account.wait(HOUR)
    assert await account.run() == [LISTS[0]]


async def test_a_question_that_fails_is_asked_again_and_the_batches_do_not_wait(
    account: Account, monkeypatch: pytest.MonkeyPatch
) -> None:
    await account.run()
    await account.run()
    with monkeypatch.context() as patch:
        patch.setattr(account.client, "unsettled", _missing)
        with pytest.raises(RecordNotFoundError):
            await account.run()
        account.wait(HOUR)
        assert await account.run() == [LISTS[0]]
    account.wait(HOUR)
    assert await account.run() == [LISTS[1]]


async def test_a_clock_that_was_ahead_for_a_while_stops_no_list(account: Account) -> None:
    await account.run()
    await account.run()
    later = account.provider.clock.now() + timedelta(days=400)
    await account.connection.execute(
        "UPDATE webhookd.provider_sweeps SET asked = 1, asked_at = $1, batches_listed_at = $1, unsettled_at = $1", later
    )
    found = []
    for _ in range(6):
        found += await account.run()
        account.wait(HOUR)
    assert found == [LISTS[0], LISTS[1], LISTS[0], LISTS[2], LISTS[0], LISTS[1]]


def _without_statistics(account: Account, monkeypatch: pytest.MonkeyPatch) -> None:
    own = account.client.batches

    async def batches(first: datetime, last: datetime) -> tuple[Batch, ...]:
        return tuple(one._replace(statistics=(), settled_at=None) for one in await own(first, last))

    monkeypatch.setattr(account.client, "batches", batches)


def _in_turns(account: Account, monkeypatch: pytest.MonkeyPatch) -> None:
    own, step = account.client.batches, 1

    async def batches(first: datetime, last: datetime) -> tuple[Batch, ...]:
        nonlocal step
        step = -step
        return tuple(one._replace(statistics=one.statistics[::step]) for one in await own(first, last))

    monkeypatch.setattr(account.client, "batches", batches)


@pytest.mark.parametrize("odd", [_without_statistics, _in_turns])
async def test_a_list_of_batches_that_lacks_or_shuffles_the_statistics_makes_no_batch_new_each_hour(
    odd: Callable[[Account, pytest.MonkeyPatch], None], account: Account, monkeypatch: pytest.MonkeyPatch
) -> None:
    odd(account, monkeypatch)
    await account.run()
    till = account.provider.till()
    for kind in ("Visa", "MasterCard", "Discover"):
        till.sale(Decimal("5.00"), kind)
    account.wait(timedelta(days=2))
    before = len(account.provider.calls)
    for _ in range(12):
        await account.run()
        account.wait(HOUR)
    read = [call for call in list(account.provider.calls)[before:] if call.name == "getTransactionListRequest"]
    assert len(read) == len([one for one in account.provider.account().batches.values() if one.settled_at])
    rows = await account.connection.fetch("SELECT reasons, settled_at, statistics FROM webhookd.provider_batches")
    assert [row["reasons"] for row in rows] == [[]]
    assert rows[0]["settled_at"] is not None


async def test_a_batch_that_the_provider_does_not_know_any_more_holds_up_no_other(
    account: Account, monkeypatch: pytest.MonkeyPatch
) -> None:
    await account.run()
    account.provider.till().sale(Decimal("5.00"))
    account.wait(timedelta(days=2))
    await account.connection.execute(
        "INSERT INTO webhookd.provider_batches (account, batch_id, settlement_state, settled_at, reasons)"
        " VALUES ('default', '1', 'settledSuccessfully', '2020-01-01', '{not read}')"
    )
    own = account.client.batch_transactions
    monkeypatch.setattr(account.client, "batch_transactions", lambda batch: _missing() if batch == "1" else own(batch))
    await account.run()
    rows = await account.connection.fetch("SELECT batch_id, reasons FROM webhookd.provider_batches ORDER BY length(batch_id)")
    assert [bool(row["reasons"]) for row in rows] == [True, False]


async def _missing(**_: Any) -> AsyncIterator[Any]:
    rows: list[Any] = []
    for row in rows:
        yield row
    raise RecordNotFoundError("not found", "E00040")
