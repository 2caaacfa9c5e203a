"""The details of a transaction beside its event, with a daemon and a simulated provider."""

from __future__ import annotations

import asyncio
import re
import socket
import sys
from collections.abc import AsyncIterator, Callable, Coroutine
from dataclasses import dataclass, field
from decimal import Decimal
from functools import partial
from types import ModuleType
from typing import Any, TypeAlias
from uuid import UUID

import asyncpg
import pytest

from tests.conftest import Start
from tests.helpers.guide import GUIDE, blocks
from tests.helpers.operator import ANN, Operator
from tests.helpers.wait import until
from webhookd.authorizenet.api import limits
from webhookd.authorizenet.api.client import clients_of
from webhookd.authorizenet.details import Details
from webhookd.daemon import Daemon
from webhookd.errors import DetailsNotYetError, Retryable
from webhookd.event import Event
from webhookd.process import details as waits
from webhookd.process import handlers as handlers_module
from webhookd.process import records
from webhookd.process.handlers import Registry
from webhookd.simulate import Faults, Simulator
from webhookd.store.details import DetailsStore
from webhookd.sync import details as asking
from webhookd.sync import role
from webhookd.testing import DeliveryError, Status, event, trial

Connection: TypeAlias = "asyncpg.Connection[asyncpg.Record]"
Handle: TypeAlias = Callable[[Event, Any], Coroutine[Any, Any, None]]


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
        return port


@dataclass(slots=True)
class Shop:
    """A daemon with handlers, beside a simulated provider whose webhooks it gets."""

    start: Start
    connection: Connection
    provider: Simulator
    registry: Registry = field(default_factory=Registry)
    got: list[tuple[Event, Details]] = field(default_factory=list)

    async def open(self, **settings: Any) -> Daemon:
        own = self.provider.account()
        given = {
            "signature_keys": own.signature_key,
            "provider": self.provider.url,
            "api_login_id": own.login_id,
            "transaction_key": own.transaction_key,
            "provider_rate": 100,
            "admin_tokens": ANN,
        }
        daemon = await self.start(self.registry, **given | settings)
        self.provider.register(f"{daemon.public_url}/webhooks/authorize-net")
        return daemon

    async def keep(self, event: Event, connection: Any) -> None:
        """A handler: writes one effect, and keeps the details."""
        details = event.details()
        await connection.execute("INSERT INTO effects VALUES ($1, $2)", event.id, event.attempt)
        self.got.append((event, details))

    def keeps(self, pattern: str = "payment.*") -> None:
        self.registry.add(pattern, self.keep, details=True)

    async def processed(self, number: int = 1) -> bool:
        query = "SELECT count(*) FROM webhookd.events WHERE status = 'processed'"
        return bool(await self.connection.fetchval(query) == number)

    async def effects(self) -> list[int]:
        return [row["attempt"] for row in await self.connection.fetch("SELECT attempt FROM effects ORDER BY event_id, attempt")]

    async def waiting(self) -> asyncpg.Record | None:
        return await self.connection.fetchrow(
            "SELECT w.*, d.problem, d.tries, d.came_at FROM webhookd.work w JOIN webhookd.details_wanted d USING (event_id) "
            "WHERE w.status = 'retrying' AND d.came_at IS NULL"
        )

    def asked(self) -> list[str]:
        return [call.name for call in self.provider.calls if call.name == "getTransactionDetailsRequest"]

    async def only_details(self) -> Details:
        await until(self.processed, "the event is processed", deadline=60)
        assert await self.effects() == [1]
        ((_, details),) = self.got
        return details


@pytest.fixture
async def make_shop(start: Start, connection: Connection) -> AsyncIterator[Callable[..., Coroutine[Any, Any, Shop]]]:
    await connection.execute("CREATE TABLE effects (event_id uuid, attempt integer)")
    simulators = []

    async def make(**faults: Any) -> Shop:
        # A busy machine may answer the first deliveries 503.
        simulator = Simulator(seed=5, faults=Faults(**faults), port=free_port(), retries=(1.0,) * 60)
        simulators.append(simulator)
        await simulator.start()
        return Shop(start, connection, simulator)

    yield make
    for simulator in simulators:
        await simulator.stop()


Make: TypeAlias = Callable[..., Coroutine[Any, Any, Shop]]


def counted(daemon: Daemon, name: str, **labels: str) -> float:
    return sum(
        sample.value
        for metric in daemon.metrics.registry.collect()
        for sample in metric.samples
        if sample.name == name and labels.items() <= sample.labels.items()
    )


async def test_a_renewal_waits_for_its_subscription_and_its_number_and_the_wait_costs_no_attempt(make_shop: Make) -> None:
    shop = await make_shop(unlinked_seconds=4)
    shop.keeps()
    daemon = await shop.open()
    own = shop.provider.till().subscribe(Decimal("19.90"))
    sale = shop.provider.till().renew(own)
    assert sale is not None
    await until(lambda: shop.processed(2), "the renewal and the subscription's own event are processed", deadline=60)
    assert await shop.effects() == [1]
    ((_, details),) = shop.got
    assert (details.transaction_id, details.subscription_id, details.payment_number) == (sale.id, own.id, 1)
    assert details.amount == Decimal("19.90")
    assert (details.type, details.state) == ("authCaptureTransaction", "pending")
    assert counted(daemon, "webhookd_processed_total", outcome="waiting") >= 1
    assert counted(daemon, "webhookd_processed_total", outcome="retrying") == 0
    assert counted(daemon, "webhookd_retries_total") == 0
    assert await shop.connection.fetchval("SELECT count(*) FROM webhookd.details_wanted") == 0


async def test_a_recurring_charge_without_a_subscription_is_not_waited_for_without_end(
    make_shop: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(asking, "PATIENCE", 1.0)
    shop = await make_shop(unlinked_seconds=10_000)
    shop.keeps("payment.*")
    await shop.open()
    till = shop.provider.till()
    till.renew(till.subscribe(Decimal(5)))
    await until(lambda: shop.got, "the handler runs", deadline=60)
    assert shop.got[0][1].subscription_id is None


async def test_a_refund_names_its_sale(make_shop: Make) -> None:
    shop = await make_shop()
    shop.keeps("payment.refund.created")
    await shop.open()
    till = shop.provider.till()
    sale = till.sale(Decimal("30.00"))
    sale.status = "settledSuccessfully"
    till.refund(sale, Decimal("7.10"))
    await until(lambda: shop.got, "the refund's handler runs", deadline=60)
    ((_, details),) = shop.got
    assert (details.ref_transaction_id, details.amount, details.type) == (sale.id, Decimal("7.10"), "refundTransaction")
    assert details.state == "refund pending"


async def test_a_partial_capture_gets_its_own_amount_though_older_details_are_stored(make_shop: Make) -> None:
    shop = await make_shop()
    shop.keeps()
    await shop.open()
    till = shop.provider.till()
    sale = till.sale(Decimal("50.00"), capture=False)
    await until(lambda: shop.got, "the authorization's handler runs", deadline=60)
    till.capture(sale, Decimal("20.00"))
    await until(lambda: len(shop.got) == 2, "the capture's handler runs", deadline=60)
    assert [details.amount for _, details in shop.got] == [Decimal("50.00"), Decimal("20.00")]
    assert shop.got[1][0].payload["authAmount"] == Decimal("50.00"), "the event itself does not have the amount"


async def test_a_transaction_that_the_provider_does_not_know_for_5_seconds_is_asked_for_again(make_shop: Make) -> None:
    shop = await make_shop(unknown_seconds=5)
    shop.keeps()
    daemon = await shop.open()
    query = "SELECT count(*) FROM webhookd.provider_accounts WHERE held_until > now()"
    await until(lambda: shop.connection.fetchval(query), "the account is held")
    shop.provider.till().sale(Decimal("12.00"))
    row = await until(shop.waiting, "the event waits")
    assert (row["attempts"], row["status"]) == (0, "retrying")
    transaction_id = shop.provider.made[0].payload["id"]
    told = rf"waits for Authorize\.Net's details of transaction {transaction_id} since [-0-9]+ [:0-9]+ UTC"
    assert re.fullmatch(told, row["last_error"]), row["last_error"]
    _, shown = await Operator(daemon.admin_url).get(f"events/{row['event_id']}")
    assert (shown["status"], shown["attempts"], shown["last_error"]) == ("retrying", 0, row["last_error"])
    assert [(one["to_status"], one["attempt"]) for one in shown["audit"]] == [("received", None), ("retrying", None)]
    assert (await shop.only_details()).amount == Decimal("12.00")
    names = [call.name for call in shop.provider.calls]
    assert 2 <= names.count("getTransactionDetailsRequest") <= 4


async def test_the_details_come_when_the_provider_is_back(make_shop: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(asking, "_ACCOUNT_SECONDS", 0.5)
    monkeypatch.setattr(records, "AGAIN", 1.0)  # the event's page then shows the latest problem
    monkeypatch.setattr(role, "clients_of", partial(clients_of, patience=0))
    monkeypatch.setattr(limits, "_CAP", 1.0)
    shop = await make_shop()
    shop.keeps()
    daemon = await shop.open()
    await until(lambda: daemon.sync.held, "the account is held")
    query = "SELECT credentials = 'good' FROM webhookd.provider_accounts"
    await until(lambda: shop.connection.fetchval(query), "the credentials are checked")
    shop.provider.till().sale(Decimal("3.00"))
    await shop.provider.idle()
    await shop.provider.stop()

    async def has_problem() -> bool:
        row = await shop.waiting()
        return row is not None and row["problem"] is not None and row["problem"] in row["last_error"]

    try:
        await until(has_problem, "the event's error names the problem", deadline=60)
        row = await shop.waiting()
        assert row is not None
        assert (row["attempts"], row["tries"]) == (0, 0), "the provider's absence is no try for this transaction"
    finally:
        await shop.provider.start()
    assert (await shop.only_details()).amount == Decimal("3.00")


async def test_two_events_of_a_transaction_share_one_call(make_shop: Make) -> None:
    shop = await make_shop(unknown_seconds=6)
    shop.keeps()
    await shop.open()
    till = shop.provider.till()
    held = till.sale(Decimal("8.00"), outcome="held")
    till.approve(held)
    await until(lambda: shop.processed(2), "both events are processed", deadline=60)
    assert await shop.effects() == [1, 1]
    assert {details.status for _, details in shop.got} == {"capturedPendingSettlement"}
    names = [call.name for call in shop.provider.calls]
    assert names.count("getTransactionDetailsRequest") <= 6


async def test_a_handler_that_asks_without_details_true_runs_again_without_effects_of_its_first_run(make_shop: Make) -> None:
    shop = await make_shop()
    runs: list[int] = []

    async def asks(event: Event, connection: Any) -> None:
        runs.append(event.attempt)
        await connection.execute("INSERT INTO effects VALUES ($1, $2)", event.id, event.attempt)
        shop.got.append((event, event.details()))

    shop.registry.add("payment.*", asks)
    daemon = await shop.open()
    shop.provider.till().sale(Decimal("4.00"))
    assert (await shop.only_details()).amount == Decimal("4.00")
    assert runs == [1, 1]
    assert counted(daemon, "webhookd_retries_total") == 0


@pytest.mark.parametrize("raises", [None, Retryable("another reason")])
async def test_a_handler_that_swallows_the_lack_waits_all_the_same(make_shop: Make, raises: Exception | None) -> None:
    shop = await make_shop()

    async def swallows(event: Event, connection: Any) -> None:
        await connection.execute("INSERT INTO effects VALUES ($1, $2)", event.id, event.attempt)
        try:
            shop.got.append((event, event.details()))
        except Exception:
            if raises is not None:
                raise raises from None

    shop.registry.add("payment.*", swallows)
    await shop.open()
    shop.provider.till().sale(Decimal("4.00"))
    assert (await shop.only_details()).amount == Decimal("4.00")


async def test_two_handlers_run_together_when_the_details_are_there(make_shop: Make) -> None:
    shop = await make_shop(unknown_seconds=3)
    runs = []

    async def first(event: Event, connection: Any) -> None:
        runs.append(event.attempt)
        await connection.execute("INSERT INTO effects VALUES ($1, $2)", event.id, event.attempt)

    shop.registry.add("payment.*", first)
    shop.keeps()
    await shop.open()
    shop.provider.till().sale(Decimal("4.00"))
    await until(shop.processed, "the event is processed", deadline=60)
    assert (runs, await shop.effects()) == ([1], [1, 1])


async def test_a_wake_that_is_lost_delays_the_event_and_does_not_lose_it(
    make_shop: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(records, "AGAIN", 3.0)

    async def lost(*_: Any) -> None:
        pass

    monkeypatch.setattr(DetailsStore, "wake", lost)
    shop = await make_shop()
    shop.keeps()
    await shop.open()
    shop.provider.till().sale(Decimal("4.00"))
    assert (await shop.only_details()).amount == Decimal("4.00")


async def test_an_event_that_a_worker_holds_at_the_wake_stays_wanted(make_shop: Make) -> None:
    shop = await make_shop(unknown_seconds=4)
    shop.keeps()
    await shop.open()
    shop.provider.till().sale(Decimal("4.00"))
    row = await until(shop.waiting, "the event waits")
    transaction = shop.connection.transaction()
    await transaction.start()
    await shop.connection.execute("SELECT FROM webhookd.work WHERE event_id = $1 FOR UPDATE", row["event_id"])
    answered = "SELECT count(*) FROM webhookd.provider_transactions"
    await until(lambda: shop.connection.fetchval(answered), "the facts are stored", deadline=30)
    asked = len(shop.asked())
    await asyncio.sleep(5)  # time in which a wake could hide the event, and the provider be asked twice more
    assert await shop.waiting() is not None
    assert len(shop.asked()) == asked, "the provider is not asked again at once"
    await transaction.commit()
    await shop.only_details()


async def test_details_that_do_not_come_in_time_make_the_event_dead_and_a_redrive_begins_anew(
    make_shop: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(records, "AGAIN", 0.5)
    monkeypatch.setattr(waits, "LIMIT", 4.0)
    shop = await make_shop()
    shop.keeps()
    daemon = await shop.open()
    shop.provider.make(in_books=False)
    query = "SELECT dead_reason FROM webhookd.work WHERE status = 'dead'"
    reason = await until(lambda: shop.connection.fetchval(query), "the event is dead", deadline=60)
    transaction_id = shop.provider.made[0].payload["id"]
    assert reason.startswith(f"the details of transaction {transaction_id} did not come within 0.00111111 h: ")
    assert reason.endswith(": Authorize.Net does not know the transaction")
    assert await shop.connection.fetchval("SELECT attempts FROM webhookd.work") == 0
    monkeypatch.setattr(waits, "LIMIT", 3600.0)
    event_id: UUID = await shop.connection.fetchval("SELECT event_id FROM webhookd.work")
    status, answer = await Operator(daemon.admin_url).post(f"events/{event_id}/retry")
    assert status == 202, answer
    row = await until(shop.waiting, "the event waits anew", deadline=30)
    since = (
        "SELECT d.since > w.redriven_at - interval '1 s' FROM webhookd.details_wanted d JOIN webhookd.work w USING (event_id)"
    )
    assert row["event_id"] == event_id
    assert await shop.connection.fetchval(since)
    own = shop.provider.account()
    shop.provider.make(changes={"id": transaction_id})  # the provider knows the transaction from now on
    assert transaction_id in own.transactions
    await until(lambda: shop.processed(2), "both events are processed", deadline=60)


async def test_without_credentials_the_error_names_the_remedy_at_once(start: Start, make_shop: Make) -> None:
    shop = await make_shop()
    shop.keeps()
    await shop.open(roles="receive,relay,work,deliver")
    shop.provider.till().sale(Decimal("4.00"))
    error = "SELECT last_error FROM webhookd.work WHERE status = 'retrying'"
    found = await until(lambda: shop.connection.fetchval(error), "the event waits")
    assert "no process asks Authorize.Net for the account default: give its API Login ID and its Transaction Key" in found


async def test_refused_credentials_are_the_problem_that_an_event_shows(
    make_shop: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(records, "AGAIN", 1.0)
    shop = await make_shop()
    shop.keeps()
    await shop.open(transaction_key="Wr0ngKey12345678")
    shop.provider.till().sale(Decimal("4.00"))

    async def told() -> bool:
        row = await shop.waiting()
        return row is not None and "check the API Login ID and the Transaction Key" in row["last_error"]

    await until(told, "the event's error has the remedy", deadline=60)


async def test_the_guides_handlers_get_their_details(make_shop: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    shop = await make_shop()
    monkeypatch.setattr(handlers_module, "registered", shop.registry)
    code, _ = blocks((GUIDE / "details.md").read_text(), "python")
    exec(compile(code, "details.md", "exec"), {})
    await shop.connection.execute(
        "CREATE TABLE renewals (subscription text, number integer, amount numeric, UNIQUE (subscription, number))"
    )
    await shop.connection.execute("CREATE TABLE refunds (id text, sale text); CREATE TABLE known_refunds (id text, sale text)")
    await shop.open()
    till = shop.provider.till()
    own = till.subscribe(Decimal("19.90"))
    till.renew(own)
    sale = till.sale(Decimal("30.00"))
    sale.status = "settledSuccessfully"
    till.refund(sale, Decimal("7.10"))
    await until(lambda: shop.processed(4), "all events are processed", deadline=60)
    assert [tuple(row) for row in await shop.connection.fetch("SELECT * FROM renewals")] == [(own.id, 1, Decimal("19.90"))]
    assert [row["sale"] for row in await shop.connection.fetch("SELECT sale FROM refunds")] == [sale.id]


async def test_the_guides_tests_pass(database_url: str, connection: Connection, monkeypatch: pytest.MonkeyPatch) -> None:
    shop = ModuleType("shop_of_the_details")
    monkeypatch.setitem(sys.modules, shop.__name__, shop)
    monkeypatch.setattr(handlers_module, "registered", Registry())
    code, tests = blocks((GUIDE / "details.md").read_text(), "python")
    exec(compile(code, "details.md", "exec"), vars(shop))
    await connection.execute(
        "CREATE TABLE renewals (subscription text, number integer, amount numeric, UNIQUE (subscription, number))"
    )
    found: dict[str, Any] = {}
    exec(compile(tests, "details.md", "exec"), found)
    run = [test for name, test in found.items() if name.startswith("test_")]
    assert len(run) == 2
    for test in run:
        async with trial(database_url, [shop]) as begun:
            await test(begun)


async def test_a_trial_says_how_to_give_details_that_are_missing(
    database_url: str, connection: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(handlers_module, "registered", registry := Registry())

    async def asks(event: Event, connection: Any) -> None:
        event.details()

    async def waits_for_them(event: Event, connection: Any) -> None:
        event.details()

    registry.add("payment.void.created", asks)
    registry.add("payment.refund.created", waits_for_them, details=True)
    async with trial(database_url, [asks, waits_for_them]) as begun:
        for event_type, error in (("payment.void.created", DetailsNotYetError), ("payment.refund.created", DeliveryError)):
            one = event(event_type)
            with pytest.raises(error, match="have not come yet") as raised:
                await begun.deliver(one)
            (note,) = raised.value.__notes__
            assert "give them to this test, event(…, details={…})" in note
            assert await begun.status(one) is Status.RETRYING
