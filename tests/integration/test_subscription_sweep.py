"""The sweep of subscriptions: each fact that no webhook reported becomes one event, with few calls, also after a cut."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack
from dataclasses import replace
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from functools import partial
from typing import Any
from uuid import UUID
from zoneinfo import ZoneInfo

import pytest
import pytest_asyncio

from tests.conftest import Start
from tests.helpers.database import Connection
from tests.helpers.running import KEY
from webhookd.authorizenet.api.client import ProviderClient
from webhookd.authorizenet.api.errors import ProviderUnavailableError, RecordNotFoundError
from webhookd.authorizenet.body import load
from webhookd.authorizenet.synthetic import SyntheticEvent, event_id
from webhookd.daemon import Daemon
from webhookd.dev.servers import free_port
from webhookd.errors import UnavailableError
from webhookd.settings.synthetic_types import SyntheticType
from webhookd.simulate import Clock, Simulator
from webhookd.simulate.records import Subscription
from webhookd.simulate.wire import PERSONAL
from webhookd.store.provider_subscriptions import SubscriptionStore
from webhookd.sync.subscription_sweep import SubscriptionSweep
from webhookd.sync.synthetic_intake import SyntheticIntake
from webhookd.sync.takeover import oldest

DAY = 86_400.0
FAILED, CARD, MISSED = SyntheticType.PAYMENT_FAILED, SyntheticType.CARD_EXPIRING, SyntheticType.MISSED_PAYMENT
DETAILS, LIST = "ARBGetSubscriptionRequest", "ARBGetSubscriptionListRequest"
_AGO = timedelta(days=120)
_EVENTS = """
SELECT l.notification_id, k.event_type, k.key_fingerprint, k.entity_name, l.entity_id, l.event_date, b.body
FROM webhookd.ledger l JOIN webhookd.kinds k ON k.id = l.kind LEFT JOIN webhookd.bodies b ON b.event_id = l.id
WHERE k.event_type LIKE 'webhookd.subscription.%'
"""


class Merchant:
    """A simulated merchant whose webhooks a daemon receives, and the sweep of its subscriptions."""

    def __init__(self, simulator: Simulator, daemon: Daemon, client: ProviderClient, connection: Connection) -> None:
        self.simulator, self.till, self.clock = simulator, simulator.till(), simulator.clock
        self.own = simulator.account()
        self._daemon, self._client, self._connection = daemon, client, connection
        self.anew()

    def anew(self, *wanted: SyntheticType) -> None:
        """Begins with a sweep that remembers nothing, as another replica does."""
        daemon = self._daemon
        intake = SyntheticIntake("default", daemon.receipts, wanted or tuple(SyntheticType), daemon.metrics.provider)
        until, zone = partial(oldest, timedelta(days=400)), lambda: ZoneInfo(self.own.rules.zone)
        self.sweep = SubscriptionSweep("default", self._client, daemon.database, intake, until, zone)

    async def swept(self) -> None:
        """Sweeps until nothing is left to do."""
        await self.simulator.idle()
        for _ in range(4):  # three lists, and what follows from them
            while await self.sweep.run():
                pass

    async def passes(self, days: float) -> None:
        """Lets days pass, with a sweep at the end of each day."""
        for _ in range(int(days)):
            self.clock.advance(DAY)
            await self.swept()

    async def events(self) -> list[dict[str, Any]]:
        """Returns the synthetic events of subscriptions."""
        rows = [dict(row) for row in await self._connection.fetch(_EVENTS)]
        return [row | {"payload": load(bytes(row["body"]).decode())["payload"]} for row in rows]

    async def kinds(self) -> Counter[str]:
        """Counts the synthetic events of subscriptions by their types."""
        return Counter(row["event_type"] for row in await self.events())

    def calls(self) -> Counter[str]:
        """Counts the calls since this was asked before."""
        found = Counter(call.name for call in self.simulator.calls)
        self.simulator.calls.clear()
        return found


@pytest_asyncio.fixture
async def merchant(start: Start, connection: Connection, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Merchant]:
    tenth = (datetime.now(UTC) - _AGO).date().replace(day=10)
    clock = Clock(datetime.combine(tenth, time(12), UTC), speed=0)
    await connection.execute(
        "INSERT INTO webhookd.provider_accounts (account, compared_from) VALUES ('default', $1)",
        clock.now() - timedelta(hours=1),
    )
    await connection.execute(  # the lists begin an hour later
        "INSERT INTO webhookd.provider_sweeps (account, swept_from, begun_at) VALUES ('default', $1, $1)",
        clock.now() - timedelta(hours=1),
    )
    async with AsyncExitStack() as stack:
        simulator = await stack.enter_async_context(Simulator(3, clock=clock))
        simulator.account(signature_key=KEY)
        address = f"127.0.0.1:{free_port(0)}"
        simulator.register(f"http://{address}/webhooks/authorize-net")
        daemon = await start(listen=address, max_event_age=300 * DAY)
        monkeypatch.setattr(daemon.database, "now", clock.now)
        client = await stack.enter_async_context(ProviderClient(replace(simulator.access(), rate=1_000_000.0)))
        yield Merchant(simulator, daemon, client, connection)


async def test_a_failure_that_no_webhook_reported_becomes_one_event(merchant: Merchant) -> None:
    own, other = merchant.till.subscribe(Decimal("9.99")), merchant.till.subscribe(Decimal("5.00"))
    await merchant.swept()
    merchant.till.renew(own, "declined", withheld=True)
    merchant.till.renew(other, "declined")
    at = merchant.clock.now()
    await merchant.passes(3)
    (event,) = await merchant.events()
    key = event_id("default", FAILED, own.id, "1.1")
    assert (event["event_type"], event["notification_id"], event["entity_id"]) == (FAILED, str(key), own.id)
    assert (event["key_fingerprint"], event["entity_name"], event["event_date"]) == ("synthetic", "subscription", at)
    assert event["payload"] == {
        "id": own.id,
        "entityName": "subscription",
        "amount": Decimal("9.99"),
        "paymentNumber": 1,
        "attemptNumber": 1,
        "error": "This transaction has been declined.",
    }
    merchant.till.renew(own, "card expired", withheld=True)  # tried again while it is suspended: its row stays the same
    await merchant.passes(3)
    merchant.anew()
    await merchant.passes(2)
    assert [event["payload"]["attemptNumber"] for event in await merchant.events()] == [1, 2]


async def test_a_failure_from_before_webhookd_had_the_credentials_makes_no_event(
    merchant: Merchant, connection: Connection
) -> None:
    own = merchant.till.subscribe(Decimal("9.99"))
    merchant.till.renew(own, "declined", withheld=True)
    used_from = merchant.clock.now() + timedelta(hours=1)
    await connection.execute("UPDATE webhookd.provider_accounts SET compared_from = $1", used_from)
    await connection.execute("UPDATE webhookd.provider_sweeps SET swept_from = $1", used_from)
    await merchant.passes(4)
    assert await merchant.kinds() == {}
    shown = await connection.fetchrow("SELECT * FROM webhookd.renewals")
    assert shown is not None
    assert (shown["state"], shown["last_failure"]) == ("failed", "This transaction has been declined.")


async def test_a_card_that_expires_this_month_makes_one_event(merchant: Merchant) -> None:
    today = merchant.clock.now().date()
    own = merchant.till.subscribe(Decimal("9.99"), card_ends=date(today.year, today.month, 1))
    merchant.till.subscribe(Decimal("9.99"))
    await merchant.passes(3)
    merchant.anew()
    await merchant.passes(25)
    (event,) = await merchant.events()
    assert event["notification_id"] == str(event_id("default", CARD, own.id, f"{today:%Y-%m}"))
    assert event["payload"] == {"id": own.id, "entityName": "subscription", "cardExpires": f"{today:%Y-%m}"}


async def test_a_renewal_that_does_not_come_makes_one_event_and_is_named_until_it_comes(
    merchant: Merchant, connection: Connection
) -> None:
    own = merchant.till.subscribe(Decimal("9.99"), interval_days=14)
    merchant.till.renew(own)
    on_time = merchant.till.subscribe(Decimal("5.00"), interval_days=14)
    merchant.till.renew(on_time)
    await merchant.passes(14)
    merchant.till.renew(on_time)
    await merchant.passes(2)
    assert await merchant.kinds() == {}, "its margin has not passed"
    await merchant.passes(4)
    (event,) = await merchant.events()
    day = own.created_at.date() + timedelta(days=14)
    assert event["notification_id"] == str(event_id("default", MISSED, own.id, day.isoformat()))
    assert event["payload"]["expectedOn"] == day.isoformat()
    listed = "SELECT subscription_id, expected_on, amount, status FROM webhookd.missed_renewals WHERE came_at IS NULL"
    assert [tuple(row) for row in await connection.fetch(listed)] == [(own.id, day, Decimal("9.99"), "active")]
    merchant.till.renew(own)
    late = merchant.clock.now()
    merchant.anew()
    await merchant.passes(2)
    assert await connection.fetch(listed) == []
    assert await connection.fetchval("SELECT came_at FROM webhookd.missed_renewals") == late
    assert await merchant.kinds() == {MISSED: 1}


async def test_a_monthly_renewal_on_the_31st_is_not_missed_in_shorter_months(merchant: Merchant) -> None:
    start = merchant.clock.now().date().replace(day=1)
    start = next(
        start.replace(month=month, day=31) for month in (start.month, start.month % 12 + 1) if month in (1, 3, 5, 7, 8, 10, 12)
    )
    own = merchant.till.subscribe(Decimal("9.99"), interval_months=1, starts_on=start)
    await merchant.swept()
    for _ in range(100):
        today = merchant.clock.now().date()
        if today >= start and (today + timedelta(days=1)).day == 1:
            merchant.till.renew(own)
        await merchant.passes(1)
    assert own.paid >= 2
    assert await merchant.kinds() == {}


async def test_while_nothing_happens_a_day_costs_three_calls(merchant: Merchant) -> None:
    for number in range(30):
        merchant.till.renew(merchant.till.subscribe(Decimal(number + 1), interval_months=1))
    await merchant.swept()
    assert merchant.calls() == {LIST: 3, DETAILS: 30}
    for _ in range(24 * 4):
        merchant.clock.advance(3600)
        before = len(merchant.simulator.calls)
        assert not await merchant.sweep.run()
        assert len(merchant.simulator.calls) <= before + 1, "in each hour"
    assert merchant.calls() == {LIST: 12}


async def test_details_are_read_when_a_row_changes_and_once_when_a_renewal_is_due(merchant: Merchant) -> None:
    paying, silent = (merchant.till.subscribe(Decimal("9.99"), interval_days=14) for _ in range(2))
    for own in (paying, silent):
        merchant.till.renew(own)
    await merchant.swept()
    merchant.calls()
    await merchant.passes(14)
    merchant.till.renew(paying)
    await merchant.passes(12)
    calls = merchant.calls()
    assert calls[DETAILS] == 2, "one for the row that changed, one for the renewal that did not come"


async def test_types_that_no_setting_names_make_no_event_and_are_still_shown(
    merchant: Merchant, connection: Connection
) -> None:
    merchant.anew(CARD)
    own = merchant.till.subscribe(Decimal("9.99"), interval_days=7)
    await merchant.swept()
    merchant.till.renew(own, "declined", withheld=True)
    await merchant.passes(2)
    assert await merchant.kinds() == {}
    assert await connection.fetchval("SELECT state FROM webhookd.renewals WHERE subscription_id = $1", own.id) == "failed"


_WRITES = ("write", "write_attempts", "note_missed", "note_late", "note_list")


@pytest.mark.parametrize("cut", range(1, 12))
async def test_a_sweep_that_is_cut_off_goes_on_and_makes_each_event_once(
    merchant: Merchant, monkeypatch: pytest.MonkeyPatch, cut: int
) -> None:
    today = merchant.clock.now().date()
    failing = merchant.till.subscribe(Decimal("9.99"))
    silent = merchant.till.subscribe(Decimal("5.00"), interval_days=7, card_ends=date(today.year, today.month, 1))
    merchant.till.renew(silent)
    count = 0

    async def cut_off(method: Any, self: SubscriptionStore, *given: Any) -> Any:
        nonlocal count
        count += 1
        if count % cut == 0 and count < 40:
            raise UnavailableError("postgresql", "killed here")
        return await method(self, *given)

    for name in _WRITES:
        method = getattr(SubscriptionStore, name)
        monkeypatch.setattr(SubscriptionStore, name, lambda self, *given, method=method: cut_off(method, self, *given))
    for hour in range(24 * 12):
        if hour == 30:
            merchant.till.renew(failing, "declined", withheld=True)
        try:
            await merchant.swept()
        except UnavailableError:
            merchant.anew()
        merchant.clock.advance(3600)
    assert await merchant.kinds() == {FAILED: 1, CARD: 1, MISSED: 1}


async def test_an_event_that_was_not_committed_is_made_again(merchant: Merchant, monkeypatch: pytest.MonkeyPatch) -> None:
    """The decision is stored after the event: otherwise a crash between them would lose the event."""
    today = merchant.clock.now().date()
    failing = merchant.till.subscribe(Decimal("9.99"))
    silent = merchant.till.subscribe(Decimal("5.00"), interval_days=7, card_ends=date(today.year, today.month, 1))
    merchant.till.renew(silent)
    refused: set[UUID] = set()
    take = SyntheticIntake.take

    async def refuse_once(self: SyntheticIntake, events: Sequence[SyntheticEvent]) -> int:
        if new := {one.id for one in events} - refused:
            refused.update(new)
            raise UnavailableError("postgresql", "killed here")
        return await take(self, events)

    monkeypatch.setattr(SyntheticIntake, "take", refuse_once)
    for hour in range(24 * 12):
        if hour == 30:
            merchant.till.renew(failing, "declined", withheld=True)
        try:
            await merchant.swept()
        except UnavailableError:
            merchant.anew()
        merchant.clock.advance(3600)
    assert len(refused) == 3
    assert await merchant.kinds() == {FAILED: 1, CARD: 1, MISSED: 1}


async def test_what_was_decided_stays_decided_after_retention_removed_the_event(
    merchant: Merchant, connection: Connection
) -> None:
    own = merchant.till.subscribe(Decimal("9.99"))
    await merchant.swept()
    merchant.till.renew(own, "declined", withheld=True)
    await merchant.passes(2)
    assert await merchant.kinds() == {FAILED: 1}
    await connection.execute("TRUNCATE webhookd.ledger")
    merchant.till.renew(own)
    merchant.anew()
    await merchant.passes(3)
    assert await merchant.kinds() == {}


async def test_when_the_provider_does_not_answer_nothing_is_judged(merchant: Merchant, monkeypatch: pytest.MonkeyPatch) -> None:
    own = merchant.till.subscribe(Decimal("9.99"), interval_days=7)
    merchant.till.renew(own)
    await merchant.swept()
    merchant.clock.advance(7 * DAY)
    merchant.till.renew(own)
    merchant.clock.advance(4 * DAY)

    async def unavailable(*_: object) -> None:
        raise ProviderUnavailableError("E00053", "the provider is busy")

    with monkeypatch.context() as away:
        away.setattr(ProviderClient, "subscription", unavailable)
        with pytest.raises(ProviderUnavailableError):
            await merchant.swept()
    assert await merchant.kinds() == {}
    await merchant.passes(2)
    assert await merchant.kinds() == {}, "the payment came in time"


async def test_a_subscription_that_the_provider_does_not_know_is_asked_for_once_a_day_in_a_week(
    merchant: Merchant, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = merchant.till.subscribe(Decimal("9.99"))
    await merchant.swept()
    merchant.till.renew(own)
    calls = 0

    async def unknown(*_: object) -> None:
        nonlocal calls
        calls += 1
        raise RecordNotFoundError("E00035", "The subscription cannot be found.")

    monkeypatch.setattr(ProviderClient, "subscription", unknown)
    await merchant.passes(3)
    assert calls == 3
    await merchant.passes(12)
    assert calls == 8
    assert await merchant.kinds() == {}


@pytest.mark.parametrize("seed", range(4))
async def test_after_any_story_the_events_are_those_of_the_books(merchant: Merchant, connection: Connection, seed: int) -> None:
    dice = random.Random(seed)
    till, clock = merchant.till, merchant.clock
    plan: dict[int, list[Subscription]] = {}
    expected: Counter[UUID] = Counter()
    for _ in range(6):
        own = till.subscribe(Decimal(dice.randint(100, 9_999)) / 100, interval_days=dice.choice((7, 14, 30)))
        plan.setdefault(0, []).append(own)
    for day in range(50):
        for own in plan.pop(day, []):
            if own.status not in ("active", "suspended"):
                continue
            fate = dice.choice(("paid", "paid", "paid", "failed", "unreported", "missed", "cancelled"))
            if day == 0 or (fate == "cancelled" and dice.random() < 0.7):
                fate = "paid"
            if fate == "missed" and own.status == "active":
                due = own.created_at.date() + timedelta(days=day)
                expected[event_id("default", MISSED, own.id, due.isoformat())] += day <= 47
            elif fate == "cancelled":
                till.cancel(own)
                continue
            else:
                fails = dice.choice(("declined", "card expired")) if fate in ("failed", "unreported") else None
                till.renew(own, fails, withheld=fate == "unreported")
                if fate == "unreported":
                    last = own.attempts[-1]
                    expected[event_id("default", FAILED, own.id, f"{last.number}.{last.attempt}")] += 1
                    till.renew(own)  # the provider tries again
            if own.status == "suspended":
                till.renew(own)
            plan.setdefault(day + own.interval_days, []).append(own)
        clock.advance(DAY)
        await merchant.swept()
        if dice.random() < 0.3:
            merchant.anew()
    found = Counter(UUID(row["notification_id"]) for row in await merchant.events())
    assert found == +expected
    held = " ".join([str(row) for table in _TABLES for row in await connection.fetch(f"SELECT * FROM webhookd.{table}")])
    for word in PERSONAL:
        assert word not in held


_TABLES = ("provider_subscriptions", "provider_attempts", "provider_missed_renewals", "ledger")
