"""Sample traffic has the provider's shape and signature and the requested order and number, and is counted honestly."""

from __future__ import annotations

import asyncio
import json
import re
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from tests.helpers.running import KEY
from webhookd.authorizenet import sampling
from webhookd.authorizenet.notification import EVENT_TYPES, parse
from webhookd.authorizenet.signature import Verifier
from webhookd.dev import traffic
from webhookd.errors import SettingsError

Receiver = Callable[[Callable[[web.Request], Awaitable[web.Response]]], Awaitable[str]]


@pytest.fixture
async def receiver() -> AsyncIterator[Receiver]:
    """Yields a function that starts an HTTP server with the given answer, and returns the server's address."""
    servers = []

    async def start(answer: Callable[[web.Request], Awaitable[web.Response]]) -> str:
        app = web.Application()
        app.router.add_post("/", answer)
        servers.append(server := TestServer(app))
        await server.start_server()
        return str(server.make_url("/"))

    yield start
    for server in servers:
        await server.close()


async def _accept(_: web.Request) -> web.Response:
    return web.json_response({"status": "accepted", "id": "1"})


@pytest.mark.parametrize("event_type", EVENT_TYPES)
def test_a_sample_is_a_notification_with_money_as_the_provider_writes_it(event_type: str) -> None:
    sent = sampling.sample(event_type, 4211)
    notification = parse(sent.body, "default")
    assert (notification.event_type, notification.notification_id) == (event_type, sent.notification_id)
    assert isinstance(json.loads(sent.body)["payload"]["id"], str)
    amounts = re.findall(rb'"(?:authAmount|amount)":([^,}]+)', sent.body)
    assert all(re.fullmatch(rb"\d+\.\d\d", amount) for amount in amounts)
    assert bool(amounts) == (".payment." in event_type or ".subscription." in event_type)


@pytest.mark.parametrize(
    ("pattern", "count"),
    [
        ("all", 23),
        ("payment.*", 9),
        ("*.fraud.*", 3),
        ("net*", 23),
        ("net.authorize.payment.void.created", 1),
        ("customer.updated", 1),
    ],
)
def test_a_pattern_names_event_types(pattern: str, count: int) -> None:
    assert len(sampling.matching_types(pattern)) == count


def test_a_complete_type_that_nobody_knows_is_sent_as_it_stands() -> None:
    assert sampling.matching_types("net.authorize.payment.new.thing") == ["net.authorize.payment.new.thing"]


def test_a_type_that_matches_nothing_is_refused_with_those_that_are_known() -> None:
    with pytest.raises(SettingsError, match=r"payment\.void\.created"):
        sampling.matching_types("payment.voided")


@pytest.mark.parametrize("count", [1, 2, 100])
@pytest.mark.parametrize("duplicates", [0.0, 0.2, 1.0])
@pytest.mark.parametrize("out_of_order", [False, True])
def test_a_stream_has_its_count_and_each_repeat_follows_what_it_repeats(
    count: int, duplicates: float, out_of_order: bool
) -> None:
    samples = sampling.stream(EVENT_TYPES, count, duplicates=duplicates, out_of_order=out_of_order)
    firsts = list(dict.fromkeys(samples))
    assert len(samples) == count
    assert len(samples) - len(firsts) == min(round(count * duplicates), count - 1)
    dates = [json.loads(one.body)["eventDate"] for one in firsts]
    if len(firsts) > 10:
        assert (dates == sorted(dates)) != out_of_order


def test_repeats_are_spread_over_the_stream() -> None:
    samples = sampling.stream(EVENT_TYPES, 1000, duplicates=0.5)
    repeats_in_first_half = 500 - len(set(samples[:500]))
    assert 50 < repeats_in_first_half < 250


async def test_each_request_is_signed_over_its_exact_bytes(receiver: Receiver) -> None:
    verified = []

    async def verify(request: web.Request) -> web.Response:
        verified.append(Verifier([KEY]).verify(await request.read(), request.headers["X-ANET-Signature"]))
        return await _accept(request)

    summary = await traffic.send(sampling.stream(EVENT_TYPES, 23), await receiver(verify), KEY)
    assert len(verified) == 23
    assert summary.outcomes == {"accepted": 23}


async def test_one_connection_keeps_the_order(receiver: Receiver) -> None:
    arrived = []

    async def note(request: web.Request) -> web.Response:
        arrived.append(await request.read())
        return await _accept(request)

    samples = sampling.stream(EVENT_TYPES, 40, duplicates=0.3, out_of_order=True)
    await traffic.send(samples, await receiver(note), KEY, connections=1)
    assert arrived == [one.body for one in samples]


async def test_a_repeat_waits_until_the_first_was_answered(receiver: Receiver) -> None:
    at_once: Counter[bytes] = Counter()
    most = 0
    side_by_side = asyncio.Event()

    async def hold(request: web.Request) -> web.Response:
        nonlocal most
        body = await request.read()
        at_once[body] += 1
        most = max(most, at_once[body])
        if sum(at_once.values()) == 2:
            side_by_side.set()
        async with asyncio.timeout(10):
            await side_by_side.wait()  # the two different bodies are in flight together
        at_once[body] -= 1
        return await _accept(request)

    one, other = sampling.stream(EVENT_TYPES, 2)
    summary = await traffic.send([one, one, one, other, one], await receiver(hold), KEY, connections=8)
    assert summary.outcomes == {"accepted": 5}
    assert most == 1


async def test_a_rate_is_kept(receiver: Receiver) -> None:
    started = time.perf_counter()
    summary = await traffic.send(sampling.stream(EVENT_TYPES, 11), await receiver(_accept), KEY, rate=50)
    assert time.perf_counter() - started >= 0.2
    assert summary.as_dict()["per_second"] <= 55


async def test_what_is_not_answered_200_is_counted_as_failed(receiver: Receiver) -> None:
    answers = iter(
        [
            web.json_response({"status": "duplicate", "id": "1"}),
            web.json_response({"detail": "try later"}, status=503),
            web.Response(text="<html>Bad Gateway</html>", status=502),
            web.json_response(["no object"], status=500),
            web.Response(status=302, headers={"Location": "/elsewhere"}),
        ]
    )

    async def answer(_: web.Request) -> web.Response:
        return next(answers)

    summary = await traffic.send(sampling.stream(EVENT_TYPES, 5), await receiver(answer), KEY, connections=1)
    foreign = "with a body that is not webhookd's"
    assert summary.outcomes == {
        "duplicate": 1,
        "503 try later": 1,
        f"502 {foreign}": 1,
        f"500 {foreign}": 1,
        f"302 {foreign}": 1,
    }
    assert (summary.failed, summary.as_dict()["failed"], summary.as_dict()["sent"]) == (4, 4, 5)


async def test_no_connection_is_counted_and_no_error() -> None:
    summary = await traffic.send(sampling.stream(EVENT_TYPES, 3), "http://127.0.0.1:1/", KEY)
    assert summary.outcomes == {"no answer ClientConnectorError": 3}
    assert summary.failed == 3


def test_a_changed_field_keeps_its_digits_and_its_kind() -> None:
    made = sampling.sample("net.authorize.payment.fraud.held", 7)
    fields = {"payload.authAmount": "7.10", "payload.invoiceNumber": "4711", "payload.new.deep": "true", "note": "so {far"}
    changed = sampling.with_fields(made, fields | {"payload.id": "0042", "notificationId": "abc"})
    assert b'"authAmount":7.10,' in changed.body
    value = json.loads(changed.body)
    assert value["payload"]["invoiceNumber"] == "4711"
    assert value["payload"]["new"] == {"deep": True}
    assert value["note"] == "so {far"
    assert (changed.entity_id, changed.notification_id, changed.event_type) == ("0042", "abc", made.event_type)
    untouched = sampling.with_fields(made, {"payload.responseCode": "1"})
    assert untouched.body.replace(b'"responseCode":1,', b'"responseCode":4,') == made.body  # nothing else has changed


@pytest.mark.parametrize("body", [b"", b"\xff", b"[1]", b'{"payload": 3}', b"{"])
def test_any_bytes_can_be_sent(body: bytes) -> None:
    assert sampling.sample_of(body).body == body


@pytest.mark.parametrize("name", sampling.SCENARIOS)
def test_a_scenario_has_types_that_the_provider_has(name: str) -> None:
    assert set(sampling.SCENARIOS[name]) <= set(EVENT_TYPES)
