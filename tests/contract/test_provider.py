"""The client of Authorize.Net's API against the simulator: each trap and each fault, and many faults together."""

from __future__ import annotations

import asyncio
import copy
import math
import pickle
import random
import traceback
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
from aiohttp import web
from pydantic import SecretStr

from tests.helpers.receivers import Receiver, raw, receiving
from tests.helpers.secrets import note
from webhookd.authorizenet.api.client import ProviderClient
from webhookd.authorizenet.api.errors import (
    CallRejectedError,
    CredentialsRefusedError,
    FeatureOffError,
    ProviderError,
    ProviderUnavailableError,
    RecordNotFoundError,
)
from webhookd.authorizenet.api.operations import REPORTS, Feature
from webhookd.authorizenet.notification import EVENT_TYPES, parse
from webhookd.authorizenet.signature import Verifier
from webhookd.settings.provider import ProviderAccess
from webhookd.simulate import Clock, Faults, Simulator
from webhookd.simulate.delivery import RETRIES
from webhookd.simulate.records import Attempt, Batch, Statistic, Subscription
from webhookd.simulate.reports import SEQUENCES
from webhookd.simulate.settlement import ENDED

START = datetime(2026, 3, 6, 17, 0, tzinfo=UTC)  # daylight saving begins in America on 8 March
DAY = timedelta(days=1)
HELD = "net.authorize.payment.fraud.held"
SALE = "net.authorize.payment.authcapture.created"


@asynccontextmanager
async def simulating(seed: int = 0, **faults: Any) -> AsyncIterator[Simulator]:
    """Runs a simulator whose clock stands still until the test moves it."""
    async with Simulator(seed, faults=Faults(**faults), clock=Clock(START, speed=0)) as simulator:
        simulator.account()
        yield simulator


@asynccontextmanager
async def asking(
    simulator: Simulator, *, access: ProviderAccess | None = None, patience: float = 60.0, **options: Any
) -> AsyncIterator[ProviderClient]:
    """Makes a client whose waits put the simulator's clock forward."""
    access = access or simulator.access()
    note([access.login_id.get_secret_value(), *(key.get_secret_value() for key in access.keys)])

    async def sleep(seconds: float) -> None:
        simulator.clock.advance(math.ceil(seconds * 1_000_000) / 1_000_000)  # the clock has microseconds
        await asyncio.sleep(0)

    def now() -> float:
        return (simulator.clock.now() - START).total_seconds()

    async with ProviderClient(access, patience=patience, now=now, sleep=sleep, **options) as client:
        yield client


@pytest.fixture
async def simulator() -> AsyncIterator[Simulator]:
    async with simulating() as one:
        yield one


@pytest.fixture
async def client(simulator: Simulator) -> AsyncIterator[ProviderClient]:
    async with asking(simulator) as one:
        yield one


@pytest.fixture
async def receiver() -> AsyncIterator[Receiver]:
    async with receiving() as one:
        one.answer = lambda _: web.Response(status=200)
        yield one


def names(simulator: Simulator) -> list[str]:
    return [call.name for call in simulator.calls]


def keys(*texts: str) -> tuple[SecretStr, ...]:
    return tuple(map(SecretStr, texts))


# The calls


def test_the_client_and_the_simulator_have_the_same_calls_in_the_same_order() -> None:
    assert SEQUENCES.keys() == REPORTS.keys()
    for name, report in REPORTS.items():
        first = ("merchantAuthentication",) if report.credentials else ()
        assert tuple(field for field in SEQUENCES[name] if field != "refId") == (*first, *report.fields)


async def test_every_call_is_understood_and_none_but_those_on_the_list_was_sent(
    simulator: Simulator, client: ProviderClient
) -> None:
    account = simulator.account()
    simulator.register("https://shop.example.com/hooks")
    (made,) = simulator.make(withheld=True)
    identifier = made.payload["id"]
    created = datetime(2026, 1, 2, 3, 4, 5, 123_000, tzinfo=UTC)
    failed = Attempt(created, 3, 1, None, "The credit card has expired.")
    account.subscriptions["4415473"] = Subscription("4415473", Decimal(11), created, attempts=[failed])
    assert SALE in await client.event_types()
    assert len(await client.webhooks()) == 1
    assert len((await client.history(START.date() - DAY, START.date() + DAY)).rows) == 1
    assert (await client.notification(made.id)).webhook_id == made.webhook_id
    await client.is_alive()
    await client.check_credentials()
    assert (await client.merchant()).currencies == ("USD",)
    assert (await client.transaction(identifier)).id == identifier
    assert (await client.transaction_summary(identifier)).status == "capturedPendingSettlement"
    assert [row.id async for row in client.unsettled()] == [identifier]
    assert [row.id async for row in client.unsettled(held=True)] == []
    assert [row.id async for row in client.batch_transactions("1")] == []
    assert await client.batches(START - 40 * DAY, START) == ()
    account.batches["7"] = Batch("7", "creditCard", START.date(), START, [])
    assert (await client.batch("7")).id == "7"
    (listed,) = [row async for row in client.subscriptions("subscriptionActive")]
    assert (listed.id, listed.created_at) == ("4415473", created)
    assert (await client.subscription("4415473")).attempts[0].attempt_number == 1
    assert {name for name in names(simulator) if "Request" in name} == REPORTS.keys() - {"ARBGetSubscriptionStatusRequest"}
    assert all(call.status == 200 for call in simulator.calls)


async def test_amounts_keep_their_digits_and_no_person_is_in_the_results(simulator: Simulator, client: ProviderClient) -> None:
    simulator.make(number=6, changes={"authAmount": Decimal(50_000)})
    simulator.make(number=7)
    (big, small) = [row async for row in client.unsettled()]
    assert (big.settle_amount, small.settle_amount) == (Decimal(50_000), Decimal("8.10"))
    assert str(small.settle_amount) == "8.10"
    details = await client.transaction(small.id)
    assert not [name for name in ("Ann", "Example", "4444") if name in repr(details) or name in repr(small)]


async def test_the_steps_of_a_registration(simulator: Simulator, client: ProviderClient, receiver: Receiver) -> None:
    created = await client.create_webhook(receiver.url, [SALE], name="webhookd")
    assert (created.status, created.name, created.event_types) == ("inactive", "webhookd", (SALE,))
    assert await client.ping(created.id)
    body = receiver.got[0].body
    assert Verifier([simulator.account().signature_key]).verify(body, receiver.got[0].headers["X-ANET-Signature"])
    assert (await client.change_webhook(created.id, active=True)).status == "active"
    assert (await client.webhook(created.id)).event_types == (SALE,), "the other fields stay"
    with pytest.raises(CallRejectedError, match="inactive"):
        await client.ping(created.id)
    simulator.make()
    simulator.make(HELD)
    await simulator.idle()
    assert len(receiver.got) == 2
    await client.delete_webhook(created.id)
    await client.delete_webhook(created.id)
    assert await client.webhooks() == ()
    with pytest.raises(RecordNotFoundError):
        await client.webhook(created.id)


async def test_a_ping_that_nobody_answers_is_no_failure_of_the_provider(simulator: Simulator, client: ProviderClient) -> None:
    created = await client.create_webhook("http://127.0.0.1:9/hooks", [SALE])
    assert not await client.ping(created.id)
    assert client.state.failing_for is None


async def test_an_invalid_webhook_is_rejected_with_the_providers_reason(client: ProviderClient) -> None:
    with pytest.raises(CallRejectedError, match=r"INVALID_DATA.*must begin with https.*Unknown event types: x"):
        await client.create_webhook("http://shop.example.com/", ["x"])


# Lists


@pytest.mark.parametrize("collapsed", [True, False])
@pytest.mark.parametrize("count", [0, 1, 1000, 2500])
async def test_all_pages_of_a_report_are_read_by_their_number(count: int, collapsed: bool) -> None:
    async with simulating(collapsed=collapsed) as simulator, asking(simulator) as client:
        for _ in range(count):
            simulator.make()
        found = [row.id async for row in client.unsettled()]
        assert found == sorted(simulator.account().transactions)
        assert len(simulator.calls) == max(1, -(-count // 1000)), "the total ends the list"


async def test_batches_are_asked_for_in_spans_that_the_provider_allows(simulator: Simulator, client: ProviderClient) -> None:
    for day in range(95):
        at = START - day * DAY
        batch = Batch(str(day), "creditCard", at.date(), at, [], "settledSuccessfully", at)
        batch.statistics = (Statistic("Visa", Decimal("98.00"), 2),)
        simulator.account().batches[batch.id] = batch
    found = await client.batches(START - 94 * DAY, START)
    assert {batch.id for batch in found} == set(map(str, range(95)))
    assert found[0].statistics[0].charge_amount == Decimal("98.00")
    assert len(simulator.calls) == 4
    with pytest.raises(ValueError, match="zone"):
        await client.batches(START.replace(tzinfo=None), START)


@pytest.mark.parametrize("faults", [{}, {"clamp": 100}, {"reverse": True, "clamp": 25}, {"insert": 0.3, "clamp": 100}], ids=str)
@pytest.mark.parametrize("zone", ["UTC", "America/Los_Angeles", "Asia/Kolkata"])
async def test_the_history_is_whole_whatever_the_page_size_the_order_and_the_zone(faults: dict[str, Any], zone: str) -> None:
    async with simulating(3, day_zone=zone, exclusive=True, **faults) as simulator, asking(simulator) as client:
        simulator.register("https://shop.example.com/hooks")
        for _ in range(430):
            simulator.make(withheld=True)
            simulator.clock.advance(900)  # four and a half days, over the change of daylight saving
        before = {*simulator.account().notifications}
        history = await client.history((START - DAY).date(), (simulator.clock.now() + 2 * DAY).date())
        assert before <= {row.notification_id for row in history.rows}
        dates = {row.notification_id: row.event_date for row in history.rows}
        for one in simulator.account().notifications.values():
            if one.id in before:
                assert dates[one.id] == one.made_at.replace(microsecond=one.made_at.microsecond // 1000 * 1000)


async def test_a_look_at_the_history_of_a_quiet_account_costs_one_call_and_proof_two(
    simulator: Simulator, client: ProviderClient
) -> None:
    simulator.register("https://shop.example.com/hooks")
    for _ in range(12):
        simulator.make(withheld=True)
    assert (await client.history(START.date(), START.date())).complete
    assert len(simulator.calls) == 2
    assert len((await client.history(START.date(), START.date(), thorough=False)).rows) == 12
    assert len(simulator.calls) == 3


async def test_a_notification_of_the_history_can_be_taken_in(simulator: Simulator, client: ProviderClient) -> None:
    simulator.register("https://shop.example.com/hooks")
    for event_type in EVENT_TYPES:
        (made,) = simulator.make(event_type, withheld=True)
        past = await client.notification(made.id.upper())
        read, sent = parse(past.body, "default"), parse(made.body, "default")
        assert read._replace(event_date=None, content_key=None) == sent._replace(event_date=None, content_key=None)
        assert past.has_payload
        amount = b'"authAmount":'
        assert past.body.partition(amount)[2][:4] == made.body.partition(amount)[2][:4], "amounts keep their zeros"


# Failures


@pytest.mark.parametrize("fault", ["too_many", "gateway", "busy", "cut", "truncated"])
async def test_a_failure_that_passes_is_waited_out(fault: str) -> None:
    async with simulating(1, **{fault: 0.5}) as simulator, asking(simulator, patience=7200) as client:
        simulator.register("https://shop.example.com/hooks")
        (made,) = simulator.make(withheld=True)
        for _ in range(12):
            assert [row.id async for row in client.unsettled()] == [made.payload["id"]]
            assert (await client.history(START.date(), (START + 2 * DAY).date())).rows[0].notification_id == made.id
        assert len(simulator.calls) > 30, "the fault was met"
        gaps = [later.at - earlier.at for earlier, later in zip(list(simulator.calls), list(simulator.calls)[1:], strict=False)]
        assert max(gaps) >= timedelta(seconds=4)


@pytest.mark.parametrize("fault", ["too_many", "gateway", "cut", "truncated"])
async def test_while_the_provider_is_away_calls_become_rare(fault: str) -> None:
    async with simulating(1, **{fault: 1.0}) as simulator, asking(simulator) as client:
        until = START + DAY
        while simulator.clock.now() < until:
            with pytest.raises(ProviderUnavailableError):
                await client.webhooks()
            simulator.clock.advance(60)
        assert 90 < len(simulator.calls) < 150, "about one in 15 minutes"
        assert client.state.failing_for == pytest.approx(86_400, rel=0.1)


async def test_a_request_to_wait_is_honoured(simulator: Simulator) -> None:
    async def busy(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 429 x\r\nRetry-After: 1200\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
        await writer.drain()

    async with raw(busy) as url, asking(simulator, access=replace(simulator.access(), url=url.rstrip("/"))) as client:
        with pytest.raises(ProviderUnavailableError):
            await client.is_alive()
        assert client.state.next_call_in == pytest.approx(1200)


async def test_a_webhook_is_not_created_twice_if_the_answer_is_lost() -> None:
    async with simulating(cut=1.0) as simulator, asking(simulator, patience=3600) as client:
        with pytest.raises(ProviderUnavailableError, match="before the whole answer"):
            await client.create_webhook("https://shop.example.com/hooks", [SALE])
        assert len(simulator.account().webhooks) == 1
        assert names(simulator) == ["POST webhooks"]


async def test_credentials_that_are_refused_stop_the_accounts_calls(simulator: Simulator) -> None:
    access = replace(simulator.access(), keys=keys("wrong-key-000001", "wrong-key-000002"))
    async with asking(simulator, access=access) as client:
        until = START + timedelta(hours=2)
        while simulator.clock.now() < until:
            for call in (client.webhooks, client.merchant, client.check_credentials):
                with pytest.raises(CredentialsRefusedError):
                    await call()
            simulator.clock.advance(10)
        assert len(simulator.calls) == 2 * 8, "both keys, each 15 minutes"
        assert client.state.refused_for == pytest.approx(7200, rel=0.05)
        assert client.state.refused_code in ("E00007", "AUTHENTICATION_FAILED")
        await client.is_alive()
        simulator.account().transaction_keys.append(("wrong-key-000002", None))
        simulator.clock.advance(900)
        await client.webhooks()
        assert client.state.refused_for is None


async def test_calls_that_wait_for_their_turn_are_stopped_too(simulator: Simulator) -> None:
    async with asking(simulator, access=replace(simulator.access(), keys=keys("wrong-key-000001"))) as client:
        found = await asyncio.gather(*(client.merchant() for _ in range(50)), return_exceptions=True)
        assert {type(one) for one in found} == {CredentialsRefusedError}
        assert len(simulator.calls) <= 2


async def test_during_a_rotation_the_key_that_works_is_used(simulator: Simulator) -> None:
    account = simulator.account()
    old = account.transaction_key
    new = account.rotate_transaction_key(simulator.clock.now())
    async with asking(simulator, access=replace(simulator.access(), keys=keys(old, new))) as client:
        await client.merchant()
        assert len(simulator.calls) == 1, "the old key works for a day"
        simulator.clock.advance(90_000)
        await client.merchant()
        await client.webhooks()
        await client.merchant()
        assert len(simulator.calls) == 5, "only one call was refused"
        assert client.state.refused_for is None


async def test_reports_that_are_switched_off_leave_the_webhooks_alone() -> None:
    async with simulating(reports_off=True) as simulator, asking(simulator) as client:
        for _ in range(5):
            with pytest.raises(FeatureOffError, match="Transaction Details API"):
                await client.transaction("1")
            await client.webhooks()
        assert Counter(names(simulator)) == {"getTransactionDetailsRequest": 1, "GET webhooks": 5}
        assert client.state.features_off == (Feature.REPORTS,)


async def test_a_host_without_summaries_is_asked_for_one_a_day() -> None:
    async with simulating(no_summaries=True) as simulator, asking(simulator) as client:
        simulator.make()
        (identifier,) = simulator.account().transactions
        for _ in range(3):
            assert (await client.transaction_summary(identifier)).id == identifier
        assert Counter(names(simulator)) == {"getTransactionSummaryRequest": 1, "getTransactionDetailsRequest": 3}


async def test_a_new_transaction_may_be_unknown_for_some_seconds() -> None:
    async with simulating(unknown_seconds=5.0) as simulator, asking(simulator) as client:
        simulator.make()
        (identifier,) = simulator.account().transactions
        with pytest.raises(RecordNotFoundError):
            await client.transaction(identifier)
        simulator.clock.advance(6)
        assert (await client.transaction(identifier)).id == identifier
        assert client.state.next_call_in == 0


async def test_the_rate_holds(simulator: Simulator, client: ProviderClient) -> None:
    for _ in range(25):
        await client.is_alive()
    assert simulator.clock.now() - START == timedelta(seconds=(25 - 5) / 2)


# Secrets


async def test_no_secret_is_in_an_error_a_log_or_a_repr(simulator: Simulator, caplog: pytest.LogCaptureFixture) -> None:
    long_key = "a-key-that-is-too-long-for-the-schema"
    account = simulator.account()
    account.transaction_keys.append((long_key, None))
    access = replace(simulator.access(), keys=keys(long_key))
    errors: list[ProviderError] = []
    async with asking(simulator, access=access) as client:
        with pytest.raises(CallRejectedError, match=r"\*\*\*") as echoed:
            await client.merchant()  # the provider's text quotes the key
        errors.append(echoed.value)
        shown = f"{client!r} {client.state!r} {access!r} {access.redacted()}"
        for copied in (copy.copy, pickle.dumps):
            with pytest.raises(TypeError, match="credentials"):
                copied(client)
    async with asking(simulator, access=replace(access, url="http://127.0.0.1:9")) as client:
        with pytest.raises(ProviderUnavailableError, match="no connection") as away:
            await client.webhooks()
        errors.append(away.value)
    for error in errors:
        shown += "".join(traceback.format_exception(error)) + str(error.__context__) + repr(error.__cause__)
    for secret in (long_key, account.login_id, account.transaction_keys[0][0]):
        assert secret not in shown + caplog.text


# Deliveries


async def test_a_delivery_is_signed_and_written_as_the_provider_does(simulator: Simulator, receiver: Receiver) -> None:
    simulator.register(receiver.url)
    (made,) = simulator.make(number=7)
    await simulator.idle()
    (got,) = receiver.got
    assert got.body == made.body
    assert b'"authAmount":8.10' in got.body
    assert got.headers["X-ANET-Signature"].startswith("sha512=")
    assert got.headers["X-ANET-Signature"][7:].isupper()
    assert got.headers["Expect"] == "100-continue"
    assert got.headers["Content-Type"] == "application/json"
    assert Verifier([simulator.account().signature_key]).verify(got.body, got.headers["X-ANET-Signature"])


async def test_a_failed_delivery_is_retried_on_the_schedule_and_then_the_webhook_is_inactive(
    simulator: Simulator, receiver: Receiver
) -> None:
    receiver.answer = lambda _: web.Response(status=503)
    webhook = simulator.register(receiver.url)
    (made,) = simulator.make()
    await simulator.idle()
    times = [0.0]
    for number, seconds in enumerate(RETRIES, 1):
        assert (len(receiver.got), webhook.status) == (number, "active")
        simulator.clock.advance(seconds - 1)
        await simulator.idle()
        assert len(receiver.got) == number, "not before its time"
        simulator.clock.advance(1)
        await simulator.idle()
        times.append(times[-1] + seconds)
    assert [(at - START).total_seconds() for at, _ in made.attempts] == times
    assert (made.status, webhook.status) == ("Failed", "inactive")
    assert len({got.body for got in receiver.got}) == 1
    (later,) = simulator.make()
    await simulator.idle()
    assert (later.status, later.attempts) == ("Failed", [])


@pytest.mark.parametrize("resend", [True, False])
async def test_after_a_reactivation_failed_notifications_may_come_or_not(receiver: Receiver, resend: bool) -> None:
    async with simulating(resend=resend) as simulator, asking(simulator) as client:
        webhook = simulator.register(receiver.url)
        webhook.status = "inactive"
        (missed,) = simulator.make()
        await simulator.idle()
        await client.change_webhook(webhook.id, active=True)
        simulator.clock.advance(120)
        await simulator.idle()
        (made,) = simulator.make()
        await simulator.idle()
        wanted = {missed.id, made.id} if resend else {made.id}
        assert {parse(got.body, "").notification_id for got in receiver.got} == wanted


# Seeds


async def _seed(seed: int) -> None:
    """Runs a week with the faults of a seed; compares what came, and what the history has, with the simulator's books."""
    async with AsyncExitStack() as stack:
        receiver = await stack.enter_async_context(receiving())
        dice = random.Random(seed)
        receiver.answer = lambda _: web.Response(status=dice.choice((200, 200, 200, 503)))
        faults = Faults.drawn(seed)
        simulator = Simulator(seed, faults=faults, clock=Clock(START, speed=0))
        await stack.enter_async_context(simulator)
        simulator.register(receiver.url)
        client = await stack.enter_async_context(asking(simulator, patience=86_400))
        for _ in range(60):
            simulator.make(dice.choice(EVENT_TYPES))
            simulator.clock.advance(dice.choice((0.1, 60, 3600, 7200)))
            await simulator.idle()
        for _ in range(12):
            simulator.clock.advance(172_800)
            await simulator.idle()
        account = simulator.account()
        got = {parse(one.body, "").notification_id for one in receiver.got}
        accepted = {one.id for one in account.notifications.values() if (200 in [status for _, status in one.attempts])}
        assert accepted <= got <= account.notifications.keys()
        assert {one.id for one in account.notifications.values() if one.attempts} == got
        before = {one.id for one in account.notifications.values() if one.listed_from <= simulator.clock.now()}
        found: set[str] = set()
        complete = 0
        for _ in range(40):
            now = simulator.clock.now()
            history = await client.history((START - DAY).date(), (now + 2 * DAY).date(), young_from=now - DAY)
            found |= {row.notification_id for row in history.rows}
            complete += history.complete
            if complete == 2:  # one answer may be empty by mistake
                break
        assert complete == 2, "a list that rests is read whole"
        assert before <= found <= account.notifications.keys() | {one.id for one in simulator.made}
        for identifier in sorted(before - got)[:5]:
            past = await client.notification(identifier)
            assert parse(past.body, "").entity_id == parse(account.notifications[identifier].body, "").entity_id
        simulator.clock.advance(faults.unknown_seconds)
        transactions = {row.id async for row in client.unsettled()}
        for identifier in account.batches:
            transactions |= {row.id async for row in client.batch_transactions(identifier)}
        unlisted = ("expired", *ENDED) if faults.ended_unlisted else ("expired",)
        transactions |= {one.id for one in account.transactions.values() if one.status in unlisted}
        assert transactions == account.transactions.keys()
        assert client.state.refused_for is None
        assert {call.name for call in simulator.calls if "Request" in call.name} <= REPORTS.keys()


@pytest.mark.parametrize("seed", range(8))
async def test_with_the_faults_of_a_seed_nothing_is_missing(seed: int) -> None:
    await _seed(seed)


@pytest.mark.long
@pytest.mark.parametrize("start", range(8, 208, 20))
async def test_with_the_faults_of_200_seeds_nothing_is_missing(start: int) -> None:
    for seed in range(start, start + 20):
        await _seed(seed)
