"""After the last sweep of a merchant's story, the report names exactly the differences that the seed planted."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from tests.conftest import Start
from tests.helpers import settlement_story
from tests.helpers.operator import Connection
from tests.helpers.settled_books import keep_days, keep_events
from tests.helpers.settlement_story import SettlementStory
from tests.integration.test_reconciling import found, wanted
from webhookd.authorizenet.findings import Kind
from webhookd.daemon import Daemon
from webhookd.operate.reconciling import Reconciler
from webhookd.process.handlers import Registry
from webhookd.simulate import DIFFERENCES, story
from webhookd.simulate.story import Planted

_SEEDS = 1_000
_AT_ONCE = 5  # seeds of a long case
_CASES = [
    pytest.param(range(1), id="0"),
    *(
        pytest.param(range(first, first + _AT_ONCE), id=f"{first}-{first + _AT_ONCE - 1}", marks=pytest.mark.long)
        for first in range(0, _SEEDS, _AT_ONCE)
    ),
]


@pytest.mark.parametrize("seeds", _CASES)
async def test_after_the_last_sweep_the_report_names_exactly_what_the_seed_planted(
    seeds: range, start: Start, connection: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    daemon = await start(Registry(), roles="receive")
    for seed in seeds:
        with monkeypatch.context() as patch:
            await _check(seed, daemon, connection, patch)


async def _check(seed: int, daemon: Daemon, connection: Connection, patch: pytest.MonkeyPatch) -> None:
    told = SettlementStory(seed, daemon, connection)
    simulator, planted = told.simulator, list[Planted]()

    async def post(_: str, __: bytes, ___: Mapping[str, str]) -> int:
        return 200

    async def with_differences(*given: Any, **more: Any) -> None:
        planted.extend(await story(*given, **more, plant=dict.fromkeys(DIFFERENCES, 1)))

    # The story's simulator again, with deliveries that arrive.
    told.simulator = type(simulator)(seed, faults=simulator.faults, clock=told.clock, post=post)
    told.simulator.register("https://shop.example.com/hooks", account=told.account)
    own, told.own = told.own, told.simulator.account(told.account)
    told.own.rules = own.rules
    patch.setattr(settlement_story, "story", with_differences)
    patch.setattr(daemon.database, "now", told.clock.now)
    await told.run()
    days = {one.made_at.astimezone(UTC).date() for one in told.own.transactions.values()}
    await keep_days(connection, days, told.account)
    await keep_events(connection, told.simulator, told.account)
    zone = ZoneInfo(told.own.rules.zone)
    first = min(one.made_at for one in told.own.transactions.values()).astimezone(zone).date()
    reports = [
        one async for one in Reconciler(daemon.database, lambda _: None).days(told.account, first, first + timedelta(days=30))
    ]
    assert {one.zone for one in reports} == {told.own.rules.zone}
    assert [one.report.reasons for one in reports[1:] if one.report.reasons] == [], seed
    assert all("settled since" in reason for reason in reports[0].report.reasons)
    # The sweep has just begun, so a refund may be for a sale from before it.
    named = [one for one in planted if one.kind != "stray refund"]
    expected = wanted(told.own, named, told=True)
    # A sale that expired before the daily list of unsettled transactions was in no list.
    text = "SELECT transaction_id FROM provider_transactions WHERE account = $1"
    listed = {row["transaction_id"] for row in await connection.fetch(text, told.account)}
    for kind, subject in [*expected]:
        if kind is Kind.NOT_SETTLED and subject not in listed:
            expected ^= {(kind, subject), (Kind.NOT_AT_PROVIDER, subject)}
    assert found(reports) == expected, seed
    assert sum(one.report.agreed for one in reports) > 0
