"""Compares all that the client reads of a merchant's days with the simulator's own books, to the cent."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from typing import Any

import aiohttp
import orjson
import pytest

from tests.helpers.guide import GUIDE, blocks
from webhookd.authorizenet.api.client import ProviderClient
from webhookd.authorizenet.api.results import Batch as BatchRead
from webhookd.authorizenet.api.results import Transaction as TransactionRead
from webhookd.authorizenet.api.results import TransactionRow
from webhookd.authorizenet.notification import parse
from webhookd.simulate import (
    DIFFERENCES,
    PERSONAL,
    Account,
    Clock,
    Faults,
    Return,
    Rules,
    Simulator,
    Transaction,
    story,
)
from webhookd.simulate.settlement import ENDED

START = datetime(2026, 6, 1, 17, tzinfo=UTC)  # 10:00 in Los Angeles
DAY, HOUR = timedelta(days=1), timedelta(hours=1)
TEN = Decimal("10.00")


@asynccontextmanager
async def simulating(
    start: datetime = START, seed: int = 0, rules: Rules | None = None, **faults: Any
) -> AsyncIterator[tuple[Simulator, ProviderClient]]:
    """Runs a simulator whose clock stands still, and a client of it without a limit of its rate."""

    async def post(_: str, __: bytes, ___: Mapping[str, str]) -> int:
        return 200

    simulator = Simulator(seed, faults=Faults(**faults), clock=Clock(start, speed=0), post=post)
    simulator.account().rules = rules or Rules()
    async with simulator:
        access = replace(simulator.access(), rate=1_000_000.0)
        async with ProviderClient(access, patience=0.0) as client:
            yield simulator, client


def pass_to(simulator: Simulator, at: datetime) -> Account:
    simulator.clock.advance((at - simulator.clock.now()).total_seconds())
    return simulator.account()


async def ask(simulator: Simulator, name: str, **fields: Any) -> Any:
    """Returns the answer to a report, as it is on the wire."""
    account = simulator.account()
    login = {"name": account.login_id, "transactionKey": account.transaction_key}
    body = orjson.dumps({name: {"merchantAuthentication": login, **fields}})
    async with (
        aiohttp.ClientSession() as session,
        session.post(f"{simulator.url}/xml/v1/request.api", data=body) as answer,
    ):
        raw = await answer.read()
    assert raw.startswith(b"\xef\xbb\xbf")
    return orjson.loads(raw.removeprefix(b"\xef\xbb\xbf"))


def own_row(one: Transaction) -> TransactionRow:
    """Returns the row that a list must have for a transaction of the books."""
    return TransactionRow(
        one.id,
        one.status,
        one.made_at,
        one.settle_amount,
        one.account_type,
        one.invoice,
        None if one.payment is None else (one.payment.subscription, one.payment.number),  # type: ignore[arg-type]
        bool(one.returned),
    )


def check_details(found: TransactionRead, one: Transaction) -> None:
    """Compares what the client read of a transaction with the books."""
    assert (found.id, found.status, found.submitted_at) == (one.id, one.status, one.made_at)
    assert (found.type, found.ref_transaction_id) == (one.type, one.ref_id)
    assert (found.auth_amount, found.settle_amount) == (one.auth_amount, one.settle_amount)
    assert (found.invoice_number, found.subscription_payment) == (one.invoice, one.payment)
    assert found.payment_method == ("bankAccount" if one.account_type == "eCheck" else "creditCard")
    batch = None if found.batch is None else (found.batch.id, found.batch.settlement_state, found.batch.settled_at)
    assert batch == (None if one.batch is None else (one.batch.id, one.batch.state, one.batch.settled_at))
    assert [(item.id, item.returned_at, item.code) for item in found.returned_items] == [
        (item.id, item.at, item.code) for item in one.returned
    ]


def check_statistics(batch: BatchRead, rows: list[TransactionRow]) -> None:
    """Compares the statistics of a batch with the sums of its rows."""

    def amount(status: str, kind: str | None) -> Decimal:
        found = [row.settle_amount or Decimal(0) for row in rows if (row.status, row.account_type) == (status, kind)]
        return sum(found, Decimal(0))

    settled = {True: "settledSuccessfully", False: "capturedPendingSettlement"}[batch.settlement_state != "pendingSettlement"]
    if batch.payment_method == "eCheck" and batch.settlement_state == "pendingSettlement":
        settled = "pendingSettlement"
    refund = "refundPendingSettlement" if batch.settlement_state == "pendingSettlement" else "refundSettledSuccessfully"
    counts = Counter((row.status, row.account_type) for row in rows)
    assert {one.account_type for one in batch.statistics} == {row.account_type for row in rows}
    for one in batch.statistics:
        kind = one.account_type
        assert (one.charge_amount, one.charge_count) == (amount(settled, kind), counts[settled, kind])
        assert (one.refund_amount, one.refund_count) == (amount(refund, kind), counts[refund, kind])
        assert one.void_count == counts["voided", kind]
        assert one.decline_count == counts["declined", kind]
        assert one.error_count == counts["settlementError", kind] + counts["generalError", kind]


async def check_all(simulator: Simulator, client: ProviderClient) -> None:
    """Reads all that the client can read, and compares it with the books."""
    account = simulator.account()
    now = simulator.clock.now()
    batches = {one.id: one for one in await client.batches(START - 2 * DAY, now)}
    unlisted = {one.id for one in account.batches.values() if one.settled_at is None and simulator.faults.pending_unlisted}
    assert batches.keys() == account.batches.keys() - unlisted
    for identifier in unlisted:
        batches[identifier] = await client.batch(identifier)
    read: dict[str, TransactionRow] = {}
    for batch in batches.values():
        own = account.batches[batch.id]
        assert (batch.settlement_state, batch.settled_at, batch.payment_method) == (own.state, own.settled_at, own.method)
        rows = [row async for row in client.batch_transactions(batch.id)]
        assert not read.keys() & {row.id for row in rows}, "a transaction is in one batch"
        read |= {row.id: row for row in rows}
        assert [row.id for row in rows] == sorted(one.id for one in own.transactions)
        check_statistics(batch, rows)
        assert await client.batch(batch.id) == batch
    open_rows = {row.id: row async for row in client.unsettled()}
    for identifier in open_rows.keys() & read.keys():
        batch_of_it = account.transactions[identifier].batch
        assert batch_of_it is not None
        assert batch_of_it.state == "pendingSettlement"
    read |= open_rows
    expired = {one.id for one in account.transactions.values() if one.status == "expired"}
    ended = {one.id for one in account.transactions.values() if one.status in ENDED and one.batch is None}
    assert read.keys() == account.transactions.keys() - expired - (ended if simulator.faults.ended_unlisted else set())
    for identifier, row in read.items():
        assert row == own_row(account.transactions[identifier])
    held = {row.id async for row in client.unsettled(held=True)}
    assert held == {one.id for one in account.transactions.values() if "PendingReview" in one.status}
    for one in account.transactions.values():
        check_details(await client.transaction(one.id), one)
    listed = [row async for row in client.subscriptions("subscriptionActive")]
    listed += [row async for row in client.subscriptions("subscriptionInactive")]
    assert {row.id for row in listed} == account.subscriptions.keys()
    for listing in listed:
        subscription = account.subscriptions[listing.id]
        assert (listing.status, listing.amount, listing.created_at, listing.past_occurrences) == (
            subscription.status,
            subscription.amount,
            subscription.created_at,
            subscription.paid,
        )
        attempts = (await client.subscription(listing.id)).attempts
        assert list(attempts) == [
            (one.transaction_id, one.at, one.number, one.attempt, one.response) for one in subscription.attempts[-20:]
        ]


def lists(seed: int) -> dict[str, Any]:
    """Returns how the lists of a seed are: what is not known of the provider, in each combination."""
    return {"collapsed": seed % 2 == 0, "pending_unlisted": seed % 4 < 2, "ended_unlisted": seed % 3 == 0}


@pytest.mark.parametrize("seed", range(4))
async def test_what_the_client_reads_equals_the_books(seed: int) -> None:
    async with simulating(seed=seed, **lists(seed)) as (simulator, client):
        await story(simulator, 9, sales=12)
        await check_all(simulator, client)


@pytest.mark.long
@pytest.mark.parametrize("start", range(4, 104, 10))
async def test_what_the_client_reads_equals_the_books_of_100_seeds(start: int) -> None:
    for seed in range(start, start + 10):
        async with simulating(seed=seed, **lists(seed)) as (simulator, client):
            await story(simulator, 40, sales=8)
            await check_all(simulator, client)


async def test_the_seeds_tell_every_state_and_a_seed_tells_the_same_days_again() -> None:
    states: set[str] = set()
    returned = partial = repeated = renewed = tried = 0
    for seed in range(6):
        books = []
        for _ in range(2):
            async with simulating(seed=seed) as (simulator, _):
                await story(simulator, 40, sales=10)
                books.append(list(map(repr, simulator.account().transactions.values())))
        assert books[0] == books[1]
        account = simulator.account()
        found = account.transactions.values()
        states |= {one.status for one in found}
        returned += sum(bool(one.returned) for one in found)
        partial += sum(one.settle_amount < one.auth_amount for one in found)
        refunds = Counter(one.ref_id for one in found if one.is_refund)
        repeated += sum(count > 1 for count in refunds.values())
        renewed += sum(one.payment is not None and one.invoice is None for one in found)
        attempts = [one for each in account.subscriptions.values() for one in each.attempts]
        tried += sum(one.attempt > 1 for one in attempts)
        for sale in found:
            refunded = sum(
                (one.settle_amount for one in found if one.ref_id == sale.id and one.is_refund and one.status != "voided"),
                Decimal(0),
            )
            assert refunded == sale.refunded <= sale.settle_amount
    assert states == {
        "authorizedPendingCapture",
        "capturedPendingSettlement",
        "settledSuccessfully",
        "refundPendingSettlement",
        "refundSettledSuccessfully",
        "pendingSettlement",
        "FDSPendingReview",
        "FDSAuthorizedPendingReview",
        "declined",
        "voided",
        "expired",
        "generalError",
        "settlementError",
        "returnedItem",
    }
    assert min(returned, partial, repeated, renewed, tried) > 0


# Cut-off and settlement


@pytest.mark.parametrize(
    ("day", "hours", "before", "local"),
    [
        (date(2026, 3, 7), 23, "2026-03-08T00:00:00", "2026-03-08T09:20:00"),  # the clocks go forward in the night
        (date(2026, 10, 31), 25, "2026-10-31T23:00:00", "2026-11-01T07:20:00"),  # the clocks go back in the night
        (date(2026, 6, 2), 24, "2026-06-02T23:00:00", "2026-06-03T08:20:00"),
    ],
)
async def test_the_cut_off_is_at_16_00_of_the_zone_also_when_the_clocks_change(
    day: date, hours: int, before: str, local: str
) -> None:
    cut_off = datetime.fromisoformat(before).replace(tzinfo=UTC)
    async with simulating(cut_off - HOUR) as (simulator, client):
        till = simulator.till()
        last = till.sale(TEN)
        pass_to(simulator, cut_off)
        next_day = till.sale(TEN + 1)
        pass_to(simulator, cut_off + timedelta(hours=hours) - timedelta(seconds=1))
        also = till.sale(TEN + 2)
        pass_to(simulator, cut_off + timedelta(hours=hours))
        later = till.sale(TEN + 3)
        pass_to(simulator, cut_off + 4 * DAY)
        days = [one.batch.day - day for one in (last, next_day, also, later) if one.batch is not None]
        assert days == [timedelta(), DAY, DAY, 2 * DAY]
        first = min(await client.batches(cut_off, cut_off + 4 * DAY), key=lambda one: int(one.id))
        assert first.settled_at == cut_off + timedelta(hours=16, minutes=20)
        (wire, *_) = ((await ask(simulator, "getTransactionDetailsRequest", transId=last.id))["transaction"]["batch"],)
        assert wire["settlementTimeLocal"] == local
        assert wire["settlementTimeUTCSpecified"] is True


async def test_a_settlement_in_the_hour_that_comes_twice_is_told_apart_in_utc_only() -> None:
    start = datetime(2026, 10, 31, 20, tzinfo=UTC)
    rules = Rules(card_settles=timedelta(hours=9, minutes=30), check_settles=timedelta(hours=10, minutes=30))
    async with simulating(start, rules=rules) as (simulator, client):
        card, check = simulator.till().sale(TEN), simulator.till().sale(TEN, "eCheck")
        pass_to(simulator, start + 2 * DAY)
        wires = [
            (await ask(simulator, "getTransactionDetailsRequest", transId=one.id))["transaction"]["batch"]
            for one in (card, check)
        ]
        assert {one["settlementTimeLocal"] for one in wires} == {"2026-11-01T01:30:00"}
        read = {one.payment_method: one.settled_at for one in await client.batches(start, start + 2 * DAY)}
        assert read == {
            "creditCard": datetime(2026, 11, 1, 8, 30, tzinfo=UTC),
            "eCheck": datetime(2026, 11, 1, 9, 30, tzinfo=UTC),
        }


async def test_the_zone_and_the_cut_off_are_settings_of_the_account() -> None:
    async with simulating(rules=Rules("Asia/Kolkata", time(23, 30))) as (simulator, client):
        one = simulator.till().sale(TEN)
        account = pass_to(simulator, datetime(2026, 6, 1, 17, 59, 59, tzinfo=UTC))
        assert not account.batches
        pass_to(simulator, datetime(2026, 6, 1, 18, tzinfo=UTC))
        assert [batch.transactions for batch in account.batches.values()] == [[one]]
        row = (await ask(simulator, "getUnsettledTransactionListRequest"))["transactions"][0]
        assert (row["submitTimeUTC"], row["submitTimeLocal"]) == ("2026-06-01T17:00:00Z", "2026-06-01T22:30:00")
        assert (await client.merchant()).time_zone == "Asia/Kolkata"


async def test_a_batch_is_pending_for_hours_and_echeck_for_days() -> None:
    async with simulating() as (simulator, client):
        till = simulator.till()
        card, check, void = till.sale(TEN), till.sale(TEN, "eCheck"), till.sale(TEN)
        refused, failed = till.sale(TEN, outcome="declined"), till.sale(TEN, outcome="error")
        till.void(void)
        account = pass_to(simulator, START + 7 * HOUR)
        assert [row.id async for row in client.unsettled()] == [card.id, check.id], "what ended is in the batch alone"
        cards = [row.id async for row in client.batch_transactions(card.batch.id)] if card.batch else []
        assert cards == [card.id, void.id, refused.id, failed.id]
        pending = await client.batches(START, START + 7 * HOUR)
        assert {(one.settlement_state, one.settled_at) for one in pending} == {("pendingSettlement", None)}
        assert (card.status, check.status) == ("capturedPendingSettlement", "pendingSettlement")
        with pytest.raises(ValueError, match="refuse"):
            till.void(card)
        with pytest.raises(ValueError, match="refuse"):
            till.refund(card, TEN)
        pass_to(simulator, START + 2 * DAY)
        assert (card.status, check.status) == ("settledSuccessfully", "pendingSettlement")
        pass_to(simulator, START + 5 * DAY)
        assert check.status == "settledSuccessfully"
        assert not account.open
        (late,) = await client.batches(START + 2 * DAY, START + 5 * DAY)
        assert late.payment_method == "eCheck", "it is listed by its settlement, and not by its cut-off"
        refund = till.refund(check, TEN)
        pass_to(simulator, START + 7 * DAY)
        assert refund.status == "refundPendingSettlement"
        assert len(account.batches) == 3, "it stays in its batch at the next cut-off"
        pass_to(simulator, START + 9 * DAY)
        assert refund.status == "refundSettledSuccessfully"
        await check_all(simulator, client)


async def test_a_batch_that_fails_leaves_no_money() -> None:
    async with simulating() as (simulator, client):
        simulator.account().failing.add((date(2026, 6, 1), "creditCard"))
        sale, void = simulator.till().sale(TEN), simulator.till().sale(TEN)
        simulator.till().void(void)
        pass_to(simulator, START + 2 * DAY)
        assert (sale.status, void.status) == ("settlementError", "voided")
        (batch,) = await client.batches(START, START + 2 * DAY)
        (sums,) = batch.statistics
        assert batch.settlement_state == "settlementError"
        assert sums.charge_amount == 0
        assert (sums.charge_count, sums.error_count, sums.void_count) == (0, 1, 1)
        with pytest.raises(ValueError, match="refuse"):
            simulator.till().refund(sale, TEN)


async def test_without_dates_the_batches_of_the_last_24_hours_are_listed() -> None:
    async with simulating() as (simulator, _):
        simulator.till().sale(TEN)
        pass_to(simulator, START + DAY)
        simulator.till().sale(TEN)
        pass_to(simulator, START + 2 * DAY)
        (batch,) = (await ask(simulator, "getSettledBatchListRequest"))["batchList"]
        assert batch["settlementTimeUTC"] == "2026-06-03T15:20:00Z"
        assert "statistics" not in batch
        one_date = await ask(simulator, "getSettledBatchListRequest", firstSettlementDate="2026-06-01T00:00:00Z")
        span = {"firstSettlementDate": "2026-06-01T00:00:00Z", "lastSettlementDate": "2026-07-02T00:00:00Z"}
        too_long = await ask(simulator, "getSettledBatchListRequest", **span)
        for answer in (one_date, too_long):
            assert answer["messages"]["message"][0]["code"] == "E00003"


# After a sale


async def test_an_echeck_that_is_returned_keeps_its_status_and_the_return_is_listed_later() -> None:
    async with simulating() as (simulator, client):
        check = simulator.till().sale(Decimal("12.10"), "eCheck", returns=Return(2 * DAY, "R03", "No account"))
        pass_to(simulator, START + 4 * DAY)
        assert check.batch is not None
        before = await client.batch(check.batch.id)
        assert not (await client.transaction(check.id)).returned_items
        pass_to(simulator, START + 7 * DAY)
        (item,) = (await client.transaction(check.id)).returned_items
        assert (check.status, item.code) == ("settledSuccessfully", "R03")
        assert await client.batch(check.batch.id) == before
        (listed,) = [row async for row in client.batch_transactions(check.batch.id)]
        assert listed.has_returned_items
        own = await client.transaction(item.id)
        assert (own.status, own.ref_transaction_id, own.settle_amount) == ("returnedItem", check.id, Decimal("12.10"))
        assert own.batch is not None
        assert own.batch.id != check.batch.id
        wire = (await ask(simulator, "getBatchStatisticsRequest", batchId=own.batch.id))["batch"]["statistics"][0]
        assert (wire["returnedItemAmount"], wire["returnedItemCount"], wire["chargeCount"]) == (12.10, 1, 0)


async def test_what_is_held_or_only_authorized_expires_after_days() -> None:
    async with simulating() as (simulator, client):
        till = simulator.till()
        held, authorized_held = till.sale(TEN, outcome="held"), till.sale(TEN, outcome="authorized and held")
        authorized = till.sale(TEN, capture=False)
        approved, refused = till.sale(TEN, outcome="held"), till.sale(TEN, outcome="held")
        later, declined = till.sale(TEN, outcome="held", capture=False), till.sale(TEN, outcome="authorized and held")
        simulator.clock.advance(3600)
        till.approve(approved)
        till.approve(later)
        till.approve(refused, bank_declines=True)
        till.decline(declined)
        assert {row.id async for row in client.unsettled(held=True)} == {held.id, authorized_held.id}
        pass_to(simulator, START + 6 * DAY)
        assert (held.status, authorized_held.status) == ("expired", "FDSAuthorizedPendingReview")
        assert (approved.status, refused.status, declined.status) == ("settledSuccessfully", "declined", "voided")
        with pytest.raises(ValueError, match="refuse"):
            till.approve(held)
        pass_to(simulator, START + 31 * DAY)
        assert {one.status for one in (authorized_held, authorized, later)} == {"expired"}
        assert [row.id async for row in client.unsettled()] == []
        assert held.batch is None
        assert (await client.transaction(held.id)).status == "expired"


async def test_captures_and_refunds_can_be_partial_and_never_more_than_there_is() -> None:
    async with simulating() as (simulator, client):
        till = simulator.till()
        sale = till.sale(TEN, capture=False)
        with pytest.raises(ValueError, match="refuse"):
            till.capture(sale, TEN + 1)
        till.capture(sale, Decimal("7.25"))
        pass_to(simulator, START + 2 * DAY)
        first, second = till.refund(sale, Decimal("3.00")), till.refund(sale, Decimal("4.25"))
        with pytest.raises(ValueError, match="refuse"):
            till.refund(sale, Decimal("0.01"))
        till.void(second)
        third = till.refund(sale, Decimal("0.01"))
        pass_to(simulator, START + 4 * DAY)
        details = await client.transaction(sale.id)
        assert (details.type, details.auth_amount, details.settle_amount) == (
            "priorAuthCaptureTransaction",
            TEN,
            Decimal("7.25"),
        )
        for refund, status in ((first, "refundSettledSuccessfully"), (second, "voided"), (third, "refundSettledSuccessfully")):
            read = await client.transaction(refund.id)
            assert (read.ref_transaction_id, read.status, read.settle_amount) == (sale.id, status, refund.settle_amount)
        await check_all(simulator, client)


async def test_renewals_have_no_invoice_and_a_payment_that_is_tried_again_keeps_its_number() -> None:
    async with simulating() as (simulator, client):
        till = simulator.till()
        own = till.subscribe(TEN, occurrences=2, interval_days=7, card_ends=date(2026, 6, 1))
        till.renew(own)
        declined = till.renew(own, "declined")
        assert own.status == "suspended"
        assert till.renew(own, "card expired") is None
        expiring = [row.id async for row in client.subscriptions("subscriptionExpiringThisMonth")]
        assert expiring == [], "it is suspended"
        paid = till.renew(own)
        assert declined is not None
        assert paid is not None
        attempts = (await client.subscription(own.id)).attempts
        assert [(one.payment_number, one.attempt_number) for one in attempts] == [(1, 1), (2, 1), (2, 2), (2, 3)]
        assert [one.transaction_id for one in attempts][1:] == [None, None, paid.id]
        for one in (declined, paid):
            read = await client.transaction(one.id)
            assert (read.subscription_payment, read.invoice_number) == ((own.id, 2), None)
        assert own.status == "expired"
        with pytest.raises(ValueError, match="refuse"):
            till.renew(own)
        other = till.subscribe(TEN, occurrences=2, interval_days=7, card_ends=date(2026, 6, 1))
        for search in ("cardExpiringThisMonth", "subscriptionExpiringThisMonth", "subscriptionActive"):
            assert [row.id async for row in client.subscriptions(search)] == [other.id]
        assert "arbTransactions" not in (await ask(simulator, "ARBGetSubscriptionRequest", subscriptionId=own.id))


async def test_each_action_of_the_till_makes_the_event_of_its_transaction() -> None:
    async with simulating() as (simulator, _):
        simulator.register("https://shop.example.com/hooks")
        till = simulator.till()
        authorization, held = till.sale(TEN, capture=False), till.sale(TEN, outcome="held")
        till.capture(authorization, Decimal("4.00"))
        till.approve(held)
        till.void(held)
        other = till.sale(TEN, outcome="held")
        till.decline(other)
        pass_to(simulator, START + 2 * DAY)
        refund = till.refund(authorization, Decimal("4.00"))
        own = till.subscribe(TEN)
        failed = till.renew(own, "declined")
        till.cancel(own)
        assert failed is not None
        found = [parse(one.body, "") for one in simulator.made]
        assert [(event.event_type.removeprefix("net.authorize."), event.entity_id) for event in found] == [
            ("payment.authorization.created", authorization.id),
            ("payment.fraud.held", held.id),
            ("payment.priorAuthCapture.created", authorization.id),
            ("payment.fraud.approved", held.id),
            ("payment.void.created", held.id),
            ("payment.fraud.held", other.id),
            ("payment.fraud.declined", other.id),
            ("payment.refund.created", refund.id),
            ("customer.subscription.created", own.id),
            ("payment.authcapture.created", failed.id),
            ("customer.subscription.failed", own.id),
            ("customer.subscription.suspended", own.id),
            ("customer.subscription.cancelled", own.id),
        ]
        payloads = [one.payload for one in simulator.made]
        assert [payload.get("responseCode") for payload in payloads[:7]] == [1, 4, 1, 1, 1, 4, 2]
        assert payloads[2]["authAmount"] == TEN, "a partial capture reports the amount that was authorized"
        assert payloads[7]["authAmount"] == Decimal("4.00")
        assert "invoiceNumber" not in payloads[9], "a renewal has none"
        assert payloads[10]["transactionDetails"]["transId"] == int(failed.id)
        assert [payload["status"] for payload in payloads[10:]] == ["suspended", "suspended", "canceled"]


# Planted differences


async def test_a_story_plants_the_differences_that_are_wanted_and_no_others() -> None:
    async with simulating(seed=3) as (simulator, _):
        simulator.register("https://shop.example.com/hooks")
        wanted = dict.fromkeys(DIFFERENCES, 2)
        planted = await story(simulator, 5, plant=wanted)
        assert Counter(one.kind for one in planted) == wanted
        ids = {kind: {each for one in planted if one.kind == kind for each in one.ids} for kind in DIFFERENCES}
        books = simulator.account().transactions
        told = [(parse(one.body, ""), bool(one.attempts)) for one in simulator.made]
        got = {(event.event_type.rpartition("payment.")[2], event.entity_id) for event, arrived in told if arrived}
        lost = {event.entity_id for event, arrived in told if not arrived}
        assert lost == ids["missing"] | ids["voided"]
        sales = {identifier for kind, identifier in got if kind == "authcapture.created"}
        assert sales - books.keys() == ids["unknown"]
        amounts = {
            one.payload["id"]: one.payload["authAmount"]
            for one in simulator.made
            if one.payload.get("entityName") == "transaction"
        }
        assert {each for each in amounts if each in books and amounts[each] != books[each].auth_amount} == ids["amount"]
        invoices = Counter(one.invoice for one in books.values())
        assert {one.id for one in books.values() if one.invoice and invoices[one.invoice] > 1} == ids["doubled"]
        assert {one.id for one in books.values() if one.is_refund and one.ref_id is None} == ids["lone refund"]
        strays = {one.id for one in books.values() if one.is_refund and one.ref_id and one.ref_id not in books}
        assert strays == ids["stray refund"]
        assert {one.id for one in books.values() if not one.batched} == ids["unsettled"]
        assert {one.batch for one in books.values() if one.id in ids["unsettled"]} == {None}
        assert {one.id for one in books.values() if one.id in ids["voided"] and one.status == "voided"} == ids["voided"]
        with pytest.raises(ValueError, match="cannot be planted"):
            await story(simulator, 1, plant={"flood": 1})


# The wire


async def test_the_wire_has_people_and_cards_and_the_clients_results_have_none_of_them() -> None:
    async with simulating() as (simulator, client):
        card, check = simulator.till().sale(TEN), simulator.till().sale(TEN, "eCheck")
        wires = [await ask(simulator, "getTransactionDetailsRequest", transId=one.id) for one in (card, check)]
        lists = await ask(simulator, "getUnsettledTransactionListRequest")
        shown = repr([*wires, lists])
        read = repr([await client.transaction(card.id), await client.transaction(check.id)])
        read += repr([row async for row in client.unsettled()])
        assert {text for text in PERSONAL if text in shown} >= {"Annabella", "17 Simulation Street", "XXXX1111", "XXXX2152"}
        assert not [text for text in PERSONAL if text in read]


async def test_a_page_is_named_by_its_number_and_a_list_can_be_sorted_by_time() -> None:
    async with simulating() as (simulator, _):
        for number in range(5):
            simulator.till().sale(TEN + number)
            simulator.clock.advance(0.25)
        pages = [
            await ask(
                simulator,
                "getUnsettledTransactionListRequest",
                sorting={"orderBy": "submitTimeUTC", "orderDescending": True},
                paging={"limit": 2, "offset": page},
            )
            for page in (1, 2, 3, 4)
        ]
        assert [[row["settleAmount"] for row in page.get("transactions", [])] for page in pages] == [
            [14.0, 13.0],
            [12.0, 11.0],
            [10.0],
            [],
        ]
        assert [row["submitTimeUTC"] for row in pages[1]["transactions"]] == [
            "2026-06-01T17:00:00.5Z",
            "2026-06-01T17:00:00.25Z",
        ]
        assert pages[3]["messages"]["message"][0]["code"] == "I00004"
        assert pages[0]["totalNumInResultSet"] == 5


async def test_the_guides_settlement_is_as_the_guide_says() -> None:
    names: dict[str, Any] = {}
    (code,) = blocks((GUIDE / "simulate.md").read_text(), "python")
    exec(code, names)
    await names["settles"]()
