"""The calls of the provider's API that a quiet account costs in an hour, with all jobs of the role `sync` together."""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Sequence
from datetime import UTC, datetime, time, timedelta
from decimal import Decimal
from typing import Any

import asyncpg
import pytest

from tests.conftest import Start
from tests.helpers.running import KEY
from webhookd.authorizenet.gaps import LAST_LOOK
from webhookd.dev.servers import free_port
from webhookd.simulate import Clock, Simulator
from webhookd.simulate.records import Subscription
from webhookd.store.database import Database
from webhookd.sync import role
from webhookd.sync.account_sync import Job
from webhookd.sync.lease import Lease

_HOURS = 40  # so that a day ends, and is proven by thorough looks
_AN_HOUR = 13  # events after the first hour, one an hour
_SELDOM = 300.0  # seconds: the jobs of shorter periods ask the provider nothing, and need not run as often by the fast clock


class Jobs:
    """Takes the place of AccountSync: takes the lease, keeps the jobs, and runs none."""

    held = True
    jobs: Sequence[Job] = ()

    def __init__(self, state: object, lease: Lease, jobs: Sequence[Job], *_: object) -> None:
        self._lease = lease
        Jobs.jobs = jobs

    async def start(self) -> None:
        """Takes the lease, so that the jobs may write."""
        assert await self._lease.renew()

    async def stop(self) -> None:
        """Does nothing."""


# A page of the history with 20 rows or more is no proof without a second pass, so that the hours that prove a day cost more.
@pytest.mark.parametrize(("at_first", "most"), [(1, 20), (30, 24)])
async def test_a_quiet_account_costs_at_most_20_calls_in_each_hour_and_24_if_its_history_is_long(
    start: Start, connection: asyncpg.Connection[asyncpg.Record], monkeypatch: pytest.MonkeyPatch, at_first: int, most: int
) -> None:
    began = datetime.combine(datetime.now(UTC).date() - timedelta(days=3), time(9, 31), UTC)
    clock = Clock(began, speed=0)
    monkeypatch.setattr(role, "AccountSync", Jobs)
    await connection.execute(
        "INSERT INTO webhookd.provider_accounts (account, compared_from, compared_to) VALUES ('default', $1, $2)",
        began - timedelta(days=20),
        began.date() - timedelta(days=1),
    )
    await connection.execute(  # days that are whole, and get their last look meanwhile
        "INSERT INTO webhookd.provider_days (account, day, completeness, looks, looked_at)"
        " SELECT 'default', $1::date - age, 'whole', 2, $1::date - age + 1 FROM generate_series(1, 9) AS age",
        began.date(),
    )
    async with Simulator(2, clock=clock) as provider:
        own, address = provider.account(signature_key=KEY), f"127.0.0.1:{free_port(0)}"
        url = f"http://{address}/webhooks/authorize-net"
        provider.register(url)
        given: dict[str, Any] = {"api_login_id": own.login_id, "transaction_key": own.transaction_key, "provider_rate": 100}
        own.subscriptions["4415001"] = Subscription("4415001", Decimal("9.99"), began - timedelta(days=9))
        monkeypatch.setattr(Database, "now", lambda _: clock.now())  # before the start, at which the jobs take it
        await start(listen=address, public_url=url, provider=provider.url, **given)
        await _let_pass(clock, provider, at_first)
        days = await connection.fetch(
            "SELECT day, completeness, listed, ours, looked_at FROM webhookd.provider_days ORDER BY day"
        )
        state = await connection.fetchval("SELECT webhook_state FROM webhookd.provider_accounts")
    ends = {row["day"]: datetime.combine(row["day"], time(), UTC) + timedelta(days=1) for row in days}
    last = [row["day"] for row in days if row["looked_at"] and row["looked_at"] >= ends[row["day"]] + LAST_LOOK]
    assert len(last) == 4, "days got their last look"
    kinds = Counter(call.name.partition("?")[0] for call in provider.calls)
    asked = {"GET webhooks", "GET notifications", "getMerchantDetailsRequest", "getSettledBatchListRequest"}
    asked |= {"getTransactionListRequest", "getUnsettledTransactionListRequest"}
    asked |= {"ARBGetSubscriptionListRequest", "ARBGetSubscriptionRequest"}
    assert asked <= set(kinds), "all jobs asked"
    assert state == "ok"
    count = at_first + _AN_HOUR
    assert ("whole", count, count) in [(row["completeness"], row["listed"], row["ours"]) for row in days], "a day was proven"
    names = [(call.at, call.name.partition("?")[0]) for call in provider.calls]
    hours = [Counter(name for other, name in names if at <= other < at + timedelta(hours=1)) for at, _ in names]
    busiest = max(hours, key=Counter.total)
    assert busiest.total() <= most, busiest


async def _let_pass(clock: Clock, provider: Simulator, at_first: int) -> None:
    """Runs each job at its times. The provider delivers some events in the first hour, and then one every hour."""
    began = clock.now()
    plan = [(0.0, number, job) for number, job in enumerate(Jobs.jobs)]
    events = [1800.0 + number for number in range(at_first)] + [hour * 3600.0 + 1800 for hour in range(1, _AN_HOUR + 1)]
    plan += [(at, -1, Job("event", 0, _nothing)) for at in events]
    heapq.heapify(plan)
    while plan and plan[0][0] < _HOURS * 3600:
        seconds, number, job = heapq.heappop(plan)
        clock.advance(max(0.0, (began + timedelta(seconds=seconds) - clock.now()).total_seconds()))
        if number < 0:
            provider.make()
            await provider.idle()
            continue
        while await job.run() is True:
            pass
        heapq.heappush(plan, (seconds + max(job.every, _SELDOM), number, job))


async def _nothing() -> None:
    """Does nothing."""
