"""The simulator's faults are those of the provider, its control is for this machine only, and tests can run it fast."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from datetime import UTC, date, datetime, timedelta
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from tests.helpers.receivers import Receiver, receiving
from webhookd.authorizenet.api.client import ProviderClient
from webhookd.authorizenet.api.errors import ProviderUnavailableError
from webhookd.authorizenet.notification import EVENT_TYPES, parse
from webhookd.authorizenet.signature import sign
from webhookd.simulate import Clock, Faults, Simulator

START = datetime(2026, 3, 6, 17, 0, 0, 123_456, tzinfo=UTC)
SALE = "net.authorize.payment.authcapture.created"
ELSEWHERE = "https://shop.example.com/hooks"


@asynccontextmanager
async def simulating(**faults: Any) -> AsyncIterator[tuple[Simulator, ProviderClient]]:
    """Runs a simulator whose clock stands still, and a client that does not wait out failures."""
    simulator = Simulator(faults=Faults(**faults), clock=Clock(START, speed=0))
    async with simulator, ProviderClient(simulator.access(), patience=0.0) as client:
        yield simulator, client


@pytest.fixture
async def receiver() -> AsyncIterator[Receiver]:
    async with receiving() as one:
        one.answer = lambda _: web.Response(status=200)
        yield one


def span() -> tuple[date, date]:
    return START.date() - timedelta(days=1), START.date() + timedelta(days=1)


# Faults


@pytest.mark.parametrize("faults", [{"lost": 1.0}, {"hang": 1.0, "hang_seconds": 0.01}], ids=str)
async def test_a_call_can_be_carried_out_though_its_answer_never_comes(faults: dict[str, Any]) -> None:
    async with simulating(**faults) as (simulator, client):
        with pytest.raises(ProviderUnavailableError):
            await client.create_webhook(ELSEWHERE, [SALE])
        assert [one.url for one in simulator.account().webhooks.values()] == [ELSEWHERE]
        assert [call.name for call in simulator.calls] == ["POST webhooks"]


async def test_the_history_can_have_ids_in_upper_case_and_dates_without_a_fraction() -> None:
    async with simulating(upper_ids=True, short_dates=True) as (simulator, client):
        simulator.register(ELSEWHERE)
        (made,) = simulator.make(withheld=True)
        assert made.listed(simulator.faults)["notificationId"] == made.id.upper() != made.id
        (row,) = (await client.history(*span())).rows
        assert (row.notification_id, row.event_date) == (made.id, START.replace(microsecond=0))
        past = await client.notification(made.id)
        assert parse(past.body, "").notification_id == made.id


async def test_the_history_can_lack_dates_types_and_payloads() -> None:
    for fault in ("undated", "garbled", "no_payload"):
        async with simulating(**{fault: 1.0}) as (simulator, client):
            simulator.register(ELSEWHERE)
            (made,) = simulator.make(withheld=True)
            history = await client.history(*span())
            if fault == "garbled":
                assert (history.rows, history.unreadable) == ((), 1)
                continue
            (row,) = history.rows
            assert (row.event_date is None) is (fault == "undated")
            past = await client.notification(made.id)
            assert past.has_payload is (fault != "no_payload")
            assert past.row.event_date is not None
            async with aiohttp.ClientSession() as person, person.get(f"{simulator.url}/_sim/notifications") as answer:
                assert {"eventType", "eventDate"} <= (await answer.json())[0].keys(), "a person sees all"


async def test_a_history_that_ignores_the_offset_is_not_complete() -> None:
    async with simulating(offset_ignored=True, clamp=10) as (simulator, client):
        simulator.register(ELSEWHERE)
        for _ in range(25):
            simulator.make(withheld=True)
        history = await client.history(*span())
        assert (len(history.rows), history.complete) == (10, False)


@pytest.mark.parametrize("apart", [-300.0, 300.0])
async def test_the_providers_dates_can_be_apart_from_the_clock(receiver: Receiver, apart: float) -> None:
    async with simulating(apart=apart) as (simulator, client):
        simulator.register(receiver.url)
        (made,) = simulator.make()
        await simulator.idle()
        assert made.attempts == [(START, 200)], "the delivery comes at once"
        sent = parse(receiver.got[0].body, "")
        assert sent.event_date is not None
        assert abs(sent.event_date - START - timedelta(seconds=apart)) < timedelta(seconds=0.001)
        assert len((await client.history(*span())).rows) == 1


async def test_after_a_rotation_both_signature_keys_work_for_a_day(receiver: Receiver) -> None:
    for old_key_signs in (False, True):
        receiver.got.clear()
        async with simulating(old_key_signs=old_key_signs) as (simulator, _):
            simulator.register(receiver.url)
            account = simulator.account()
            old = account.signature_key
            new = account.rotate_signature_key(simulator.clock.now())
            assert account.signature_key == new != old
            for seconds in (86_399.0, 1.0, 0.0):
                simulator.make()
                await simulator.idle()
                simulator.clock.advance(seconds)
            signers = [
                next(key for key in (old, new) if sign(got.body, key) == got.headers["X-ANET-Signature"])
                for got in receiver.got
            ]
        assert signers == ([old, old, new] if old_key_signs else [new] * 3)


async def test_a_webhook_that_is_deleted_gets_no_retry(receiver: Receiver) -> None:
    receiver.answer = lambda _: web.Response(status=503)
    async with simulating(resend=True) as (simulator, client):
        webhook = simulator.register(receiver.url)
        (made,) = simulator.make()
        await simulator.idle()
        await client.delete_webhook(webhook.id)
        for _ in range(20):
            simulator.clock.advance(172_800)
            await simulator.idle()
        assert (len(receiver.got), made.status) == (1, "Failed")


def test_the_seeds_draw_each_fault_and_none_that_lasts_unless_it_is_wanted() -> None:
    default = dataclasses.asdict(Faults())
    for lasting in (False, True):
        drawn = [dataclasses.asdict(Faults.drawn(seed, lasting=lasting)) for seed in range(200)]
        changed = {name for one in drawn for name, value in one.items() if value != default[name]}
        never = {"reports_off"} | (set() if lasting else {"garbled", "no_payload", "offset_ignored"})
        assert changed == default.keys() - never
        assert {one["clamp"] for one in drawn} == {0, 3, 10, 25, 100}


# The JSON API


@pytest.mark.parametrize(
    ("name", "fields"),
    [
        (
            "getSettledBatchListRequest",
            {"firstSettlementDate": "2026-03-01T00:00:00", "lastSettlementDate": "2026-03-02T00:00:00Z"},
        ),
        ("getSettledBatchListRequest", {"firstSettlementDate": "today", "lastSettlementDate": "2026-03-02T00:00:00Z"}),
        ("getSettledBatchListRequest", {"firstSettlementDate": 1, "lastSettlementDate": []}),
        ("getUnsettledTransactionListRequest", {"paging": []}),
        ("getUnsettledTransactionListRequest", {"paging": {"limit": "x", "offset": 1}}),
        ("getUnsettledTransactionListRequest", {"sorting": 1}),
        ("authenticateTestRequest", {"merchantAuthentication": "me"}),
    ],
)
async def test_a_value_of_another_type_is_an_error_of_the_schema(name: str, fields: Mapping[str, Any]) -> None:
    async with simulating() as (simulator, _), aiohttp.ClientSession() as session:
        account = simulator.account()
        credentials = {"name": account.login_id, "transactionKey": account.transaction_key}
        body = json.dumps({name: {"merchantAuthentication": credentials, **fields}})
        async with session.post(f"{simulator.url}/xml/v1/request.api", data=body) as answer:
            found = json.loads((await answer.read()).decode("utf-8-sig"))
        assert (answer.status, found["messages"]["message"][0]["code"]) == (200, "E00003")


# Keys of the user's


@pytest.mark.parametrize("headers", [{"Host": "evil.example"}, {"Sec-Fetch-Site": "cross-site"}, {"Origin": "null"}], ids=str)
async def test_no_web_page_controls_the_simulator_whatever_name_it_gives_to_this_machine(headers: dict[str, str]) -> None:
    async with simulating() as (simulator, _), aiohttp.ClientSession() as session:
        for path in ("/_sim/notifications", "/_sim/calls", "/rest/v1/webhooks"):
            async with session.get(f"{simulator.url}{path}", headers=headers) as answer:
                assert answer.status == 403
        port = simulator.url.rpartition(":")[2]
        async with session.get(f"{simulator.url}/_sim/calls", headers={"Host": f"localhost:{port}"}) as answer:
            assert answer.status == 200


async def test_what_a_key_of_the_users_signs_goes_to_one_address_only(receiver: Receiver) -> None:
    async with simulating() as (simulator, client):
        simulator.account().only_to = f"{receiver.url}/mine"
        with pytest.raises(Exception, match="the url can only be"):
            await client.create_webhook(f"{receiver.url}/other", [SALE])
        other = simulator.register(f"{receiver.url}/other")
        simulator.register(f"{receiver.url}/mine")
        simulator.make()
        await simulator.idle()
        other.status = "inactive"
        assert not await client.ping(other.id)
        assert [got.path for got in receiver.got] == ["/hooks/mine"]


# Tests with many seeds


async def test_many_events_over_days_are_made_fast_and_all_are_known() -> None:
    got: list[bytes] = []

    async def post(_: str, body: bytes, __: Mapping[str, str]) -> int:
        got.append(body)
        return 200

    clock = Clock(START, speed=0)
    async with Simulator(faults=Faults(), clock=clock, post=post) as simulator:
        simulator.register(ELSEWHERE)
        await simulator.make_over(3, 90, withheld=0.2)
        assert clock.now() - START == timedelta(days=3)
        withheld = [one for one in simulator.made if not one.attempts]
        assert 0 < len(withheld) < 45
        assert {parse(body, "").notification_id for body in got} == {one.id for one in simulator.made if one.attempts}
        assert {one.event_type for one in simulator.made} == set(EVENT_TYPES)
        assert len(simulator.made) == len(simulator.account().notifications) == 90


async def test_the_calls_of_each_hour_are_counted_also_those_that_did_not_get_through() -> None:
    async with simulating(too_many=1.0) as (simulator, _), aiohttp.ClientSession() as session:
        account = simulator.account()
        login = aiohttp.encode_basic_auth(account.login_id, account.transaction_key)
        for _ in range(5):
            async with session.get(f"{simulator.url}/rest/v1/webhooks", headers={"Authorization": login}) as answer:
                assert answer.status == 429
            simulator.clock.advance(1200)
        hour = START.replace(minute=0, second=0, microsecond=0)
        assert simulator.calls_by_hour() == {hour: 3, hour + timedelta(hours=1): 2}
