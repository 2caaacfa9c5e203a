"""The client of Authorize.Net's API against a provider that answers wrongly, and with credentials that are refused."""

from __future__ import annotations

import asyncio
import gzip
import json
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import date
from importlib.metadata import version
from typing import Any

import pytest
from aiohttp import web
from pydantic import SecretStr

from tests.contract.test_provider import SALE, asking, keys, names, simulating
from tests.helpers.receivers import Got, receiving
from webhookd.authorizenet.api.client import ProviderClient, clients_of
from webhookd.authorizenet.api.errors import (
    CredentialsRefusedError,
    ListMovedError,
    ProviderError,
    ProviderUnavailableError,
    RecordNotFoundError,
    UnreadableAnswerError,
)
from webhookd.authorizenet.api.refusals import MemoryRefusals
from webhookd.errors import UnavailableError
from webhookd.settings.provider import ProviderAccess

LOGIN, OLD, NEW = "5KP3u95bQpv7", "346HZ32z3fP4hTG2", "94nFq6J7b2K8cW3d"
OK = {"messages": {"resultCode": "Ok", "message": [{"code": "I00001", "text": "Successful."}]}}
ID = "0a1b2c3d-0000-4000-8000-00000000000a"
WEBHOOK = {"webhookId": ID, "url": "https://shop.example.com/", "status": "active", "eventTypes": [SALE]}
HTML = "<html><title>403 Forbidden</title></html>"
Answering = Callable[[Got], Awaitable[web.StreamResponse] | web.StreamResponse]


def refused(status: int = 200) -> web.Response:
    said = {"messages": {"resultCode": "Error", "message": [{"code": "E00007", "text": "User authentication failed."}]}}
    return web.json_response(said, status=status)


@asynccontextmanager
async def provider(answer: Answering, *given: str, **options: Any) -> AsyncIterator[tuple[ProviderClient, list[Got]]]:
    """Runs a provider that answers as `answer`. Yields a client that has the keys `given`, and the requests."""
    async with receiving() as one:
        one.answer = answer
        access = ProviderAccess(
            "default", one.url.removesuffix("/hooks"), SecretStr(LOGIN), keys(*(given or (NEW,))), timeout=10.0, rate=100.0
        )
        async with ProviderClient(access, **({"patience": 0.0} | options)) as client:
            yield client, one.got


def key_of(got: Got) -> str:
    (fields,) = json.loads(got.body).values()
    return str(fields["merchantAuthentication"]["transactionKey"])


# Keys and refusals


async def test_of_two_keys_the_one_that_worked_stays_first_whatever_is_in_flight() -> None:
    both = asyncio.Event()
    gone: list[str] = []

    async def answer(got: Got) -> web.Response:
        key = key_of(got)
        if OLD in gone and not both.is_set():
            if sum(key_of(one) == OLD for one in requests) == before[OLD] + 2:
                both.set()
            await both.wait()  # both calls are in flight with the old key
        return refused() if key in gone else web.json_response(OK)

    async with provider(answer, OLD, NEW) as (client, requests):
        await client.check_credentials()  # with the old key
        before = Counter(map(key_of, requests))
        gone.append(OLD)
        await asyncio.gather(client.check_credentials(), client.check_credentials())
        requests.clear()
        for _ in range(3):
            await client.check_credentials()
        assert [*map(key_of, requests)] == [NEW] * 3, "the key that is gone is not tried again"


async def test_a_key_that_met_no_success_does_not_become_the_first() -> None:
    answers = iter([refused(), web.Response(status=502), *(web.json_response(OK) for _ in range(2))])
    at = 0.0

    async def sleep(seconds: float) -> None:
        nonlocal at
        at += seconds

    async with provider(lambda _: next(answers), OLD, NEW, patience=60.0, sleep=sleep, now=lambda: at) as (client, got):
        await client.check_credentials()
        await client.check_credentials()
        assert [*map(key_of, got)] == [OLD, NEW, OLD, OLD]


async def test_until_the_first_success_one_call_is_in_flight() -> None:
    at_once, most = 0, 0

    async def answer(_: Got) -> web.Response:
        nonlocal at_once, most
        at_once += 1
        most = max(most, at_once)
        await asyncio.sleep(0.02)
        at_once -= 1
        return refused()

    async with provider(answer) as (client, got):
        found = await asyncio.gather(*(client.check_credentials() for _ in range(20)), return_exceptions=True)
        assert {type(one) for one in found} == {CredentialsRefusedError}
        assert (most, len(got)) == (1, 1)


async def test_calls_that_wait_while_good_credentials_are_refused_are_not_sent() -> None:
    good = True
    async with provider(lambda _: web.json_response(OK) if good else refused()) as (client, got):
        await client.check_credentials()
        good = False
        found = await asyncio.gather(*(client.check_credentials() for _ in range(50)), return_exceptions=True)
        assert {type(one) for one in found} == {CredentialsRefusedError}
        assert len(got) <= 3, "the good one, and two that were in flight"


@pytest.mark.parametrize("status", [200, 400, 500])
async def test_a_refusal_stops_the_calls_with_whatever_status_it_comes(status: int) -> None:
    for api in ("check_credentials", "webhooks"):
        async with provider(lambda _: refused(status)) as (client, got):
            for _ in range(5):
                with pytest.raises(CredentialsRefusedError, match="E00007"):
                    await getattr(client, api)()
            assert len(got) == 1
            assert client.state.refused_code == "E00007"


async def test_an_error_of_the_rest_api_with_status_200_is_an_error() -> None:
    said = {"status": 401, "reason": "AUTHENTICATION_FAILED", "message": "User authentication failed."}
    for call in ("webhooks", "event_types"):
        async with provider(lambda _: web.json_response(said)) as (client, got):
            for _ in range(2):
                with pytest.raises(CredentialsRefusedError):
                    await getattr(client, call)()
            assert len(got) == 1
    async with provider(lambda _: refused()) as (client, got):
        with pytest.raises(CredentialsRefusedError):
            await client.delete_webhook(ID)


async def test_a_firewalls_page_is_no_refusal_of_the_credentials() -> None:
    async with provider(lambda _: web.Response(status=403, text=HTML, content_type="text/html"), OLD, NEW) as (client, got):
        for call in (client.check_credentials, client.webhooks):
            with pytest.raises(ProviderUnavailableError, match="firewall"):
                await call()
        assert len(got) == 1, "neither the other key nor another call is tried at once"
        assert client.state.refused_for is None
        assert client.state.failing_for is not None


async def test_a_page_is_no_proof_that_a_webhook_is_gone() -> None:
    async with provider(lambda _: web.Response(status=404, text=HTML, content_type="text/html")) as (client, _):
        with pytest.raises(ProviderUnavailableError):
            await client.delete_webhook(ID)
    async with provider(lambda _: web.Response(status=200, text=HTML, content_type="text/html")) as (client, _):
        with pytest.raises(ProviderUnavailableError):
            await client.delete_webhook(ID)


async def test_accounts_with_one_login_share_their_rate_and_their_refusals() -> None:
    async with simulating() as simulator:
        wrong = replace(simulator.access(), keys=keys("wrongkey00000001"))
        accesses = {
            "default": wrong,
            "eu": replace(wrong, account="eu"),
            "us": replace(simulator.access(), account="us"),
            "far": replace(wrong, account="far", url="http://127.0.0.1:9"),
        }
        clients = clients_of(accesses, patience=0.0)
        assert clients["eu"] is clients["default"]
        assert len({id(one) for one in clients.values()}) == 3
        try:
            for name in ("default", "eu", "default"):
                with pytest.raises(CredentialsRefusedError):
                    await clients[name].webhooks()
            assert len(simulator.calls) == 1
            await clients["us"].webhooks()  # other keys are other credentials
            began = time.monotonic()
            await asyncio.gather(*(clients[name].is_alive() for name in ("default", "us") for _ in range(4)))
            assert time.monotonic() - began > 1, "the accounts have one burst of five calls, and then two calls a second"
            with pytest.raises(ProviderUnavailableError, match="no connection"):
                await clients["far"].is_alive()
        finally:
            await close(clients)


async def test_a_pause_after_a_failure_is_for_all_accounts_of_a_login() -> None:
    async with receiving() as one:
        one.answer = lambda _: web.Response(status=502)
        first = ProviderAccess("default", one.url.removesuffix("/hooks"), SecretStr(LOGIN), keys(NEW))
        clients = clients_of({"default": first, "us": replace(first, account="us", keys=keys(OLD))}, patience=0.0)
        try:
            for client in clients.values():
                with pytest.raises(ProviderUnavailableError):
                    await client.webhooks()
            assert len(one.got) == 1
        finally:
            await close(clients)


async def close(clients: dict[str, ProviderClient]) -> None:
    for client in clients.values():
        await client.close()


async def test_another_process_and_a_restart_know_the_refusal_and_other_keys_are_tried_at_once() -> None:
    async with simulating() as simulator:
        memory = MemoryRefusals(lambda: simulator.clock.now().timestamp())
        wrong = replace(simulator.access(), keys=keys("wrongkey00000001"))
        for seconds, sent in ((0, 1), (0, 1), (899, 1), (2, 2), (0, 2)):
            simulator.clock.advance(seconds)
            async with asking(simulator, access=wrong, refusals=memory) as restarted:
                with pytest.raises(CredentialsRefusedError):
                    await restarted.webhooks()
                assert restarted.state.refused_for is not None
            assert len(simulator.calls) == sent
        async with asking(simulator, refusals=memory) as mended:
            await mended.webhooks()


async def test_of_two_processes_one_tries_credentials_that_were_refused() -> None:
    at = 0.0
    memory = MemoryRefusals(lambda: at)
    met = asyncio.Barrier(2)

    async def sleep(_: float) -> None:
        if at:
            await met.wait()  # both have seen that a try is due

    async with receiving() as one:
        one.answer = lambda _: refused()
        access = ProviderAccess("default", one.url.removesuffix("/hooks"), SecretStr(LOGIN), keys(NEW))
        two = (ProviderClient(access, refusals=memory, sleep=sleep) for _ in range(2))
        async with next(two) as first, next(two) as second:
            with pytest.raises(CredentialsRefusedError):
                await first.webhooks()
            at = 900.0
            found = await asyncio.gather(first.webhooks(), second.webhooks(), return_exceptions=True)
        assert {type(error) for error in found} == {CredentialsRefusedError}
        assert len(one.got) == 2


async def test_without_the_memory_of_refusals_only_credentials_that_are_known_to_be_good_are_used() -> None:
    class Away(MemoryRefusals):
        away = True

        async def read(self, fingerprint: str) -> Any:
            if self.away:
                raise UnavailableError("postgresql", "away")
            return await super().read(fingerprint)

    memory = Away(lambda: 0.0)
    async with simulating() as simulator, asking(simulator, refusals=memory) as client:
        with pytest.raises(ProviderUnavailableError, match="no call is sent"):
            await client.webhooks()
        assert not simulator.calls
        await client.is_alive()  # needs no credentials
        memory.away = False
        await client.webhooks()
        memory.away = True
        await client.webhooks()
        assert names(simulator) == ["isAliveRequest", "GET webhooks", "GET webhooks"]


async def test_the_hook_gets_each_request_that_was_sent() -> None:
    calls: list[tuple[str, str]] = []

    def on_call(name: str, seconds: float, error: ProviderError | None) -> None:
        assert 0 <= seconds < 10
        calls.append((name, type(error).__name__))

    answers = iter([refused(), web.json_response(OK), web.json_response({}), refused(), refused()])
    async with provider(lambda _: next(answers), OLD, NEW, on_call=on_call) as (client, _):
        await client.check_credentials()
        with pytest.raises(UnreadableAnswerError):
            await client.check_credentials()
        for _ in range(3):
            with pytest.raises(CredentialsRefusedError):
                await client.check_credentials()
    kinds = ["CredentialsRefusedError", "NoneType", "UnreadableAnswerError", *["CredentialsRefusedError"] * 2]
    assert calls == [("authenticateTestRequest", kind) for kind in kinds]


async def test_a_hook_that_fails_spoils_no_call_and_loses_no_refusal() -> None:
    answers = iter([web.json_response(OK), refused()])
    async with provider(lambda _: next(answers), on_call=lambda *_: 1 / 0) as (client, got):
        await client.check_credentials()
        for _ in range(2):
            with pytest.raises(CredentialsRefusedError):
                await client.check_credentials()
        assert len(got) == 2


# Answers


async def test_a_request_says_who_asks_and_takes_no_compressed_answer() -> None:
    async with provider(lambda _: web.json_response([])) as (client, got):
        await client.webhooks()
        assert got[0].headers["User-Agent"] == f"webhookd/{version('webhookd')}"
        assert got[0].headers["Accept-Encoding"] == "identity"
    bomb = gzip.compress(b"[" + b" " * 10_000_000 + b"]")
    async with provider(lambda _: web.Response(body=bomb, headers={"Content-Encoding": "gzip"})) as (client, _):
        with pytest.raises(ProviderUnavailableError, match="compressed"):
            await client.webhooks()


OTHER_ID = ID.replace("0a1b", "ffff")
SENT = {"notificationId": OTHER_ID, "eventType": SALE, "webhookId": ID, "payload": {}}
TRANSACTION = {"transId": "2", "transactionStatus": "voided"}


@pytest.mark.parametrize(
    ("call", "asked", "right", "answer"),
    [
        ("webhook", OTHER_ID, ID, WEBHOOK),
        ("change_webhook", OTHER_ID, ID, WEBHOOK),
        ("notification", ID, OTHER_ID, SENT),
        ("transaction", "1", "2", {"transaction": TRANSACTION, **OK}),
        ("transaction_summary", "1", "2", {"transaction": TRANSACTION, **OK}),
        ("subscription", "1", "2", {"subscription": {"id": 2, "status": "active"}, **OK}),
        ("batch", "1", "2", {"batch": {"batchId": "2", "settlementState": "settledSuccessfully"}, **OK}),
    ],
)
async def test_an_answer_about_another_id_is_no_answer(call: str, asked: str, right: str, answer: Any) -> None:
    async with provider(lambda _: web.json_response(answer)) as (client, _):
        with pytest.raises(UnreadableAnswerError, match="another id"):
            await getattr(client, call)(asked)
        await getattr(client, call)(right.upper())


async def test_rows_of_the_history_that_cannot_be_read_are_counted() -> None:
    rows = [{"notificationId": ID, "eventType": SALE}, {"notificationId": OTHER_ID}]
    pages = iter([rows])
    async with provider(lambda _: web.json_response({"notifications": next(pages, [])})) as (client, _):
        history = await client.history(date(2026, 3, 6), date(2026, 3, 7))
        assert [row.notification_id for row in history.rows] == [ID]
        assert (history.complete, history.unreadable) == (True, 1)


Page = tuple[list[int], int | None]  # ids, total


@pytest.mark.parametrize(
    ("pages", "wanted"),
    [
        ([([1, 2], None), ([3], None), ([], None)], [1, 2, 3]),
        ([([1, 2], 3), ([3], 3)], [1, 2, 3]),
        ([([1, 2], 3), ([3], 4), ([4], 4)], [1, 2, 3, 4]),  # a new row comes last
        ([([1, 2], 0), ([3], 0), ([], 0)], [1, 2, 3]),  # a total that cannot be
        ([([], 0)], []),
        ([([1, 2], 4), ([], 4)], ListMovedError),
        ([([1, 2], 4), ([], None)], ListMovedError),
        ([([1, 2], 4), ([3], 3)], ListMovedError),  # a row left, so that another may have slipped to page 1
        ([([1, 2], 4), ([1, 2], 4)], UnreadableAnswerError),
        ([([1, 2], None), ([1, 2], None)], UnreadableAnswerError),
        ([([1, 2], 0), ([1, 2], 0)], UnreadableAnswerError),
        ([([], 4)], ListMovedError),
    ],
)
async def test_a_list_of_pages_is_whole_or_an_error(pages: list[Page], wanted: Any) -> None:
    def answer(got: Got) -> web.Response:
        (fields,) = json.loads(got.body).values()
        ids, total = pages[fields["paging"]["offset"] - 1]
        listed = [{"transId": str(one), "transactionStatus": "voided"} for one in ids]
        return web.json_response({"transactions": listed, **({} if total is None else {"totalNumInResultSet": total}), **OK})

    async with provider(answer) as (client, got):
        if isinstance(wanted, list):
            assert [int(row.id) async for row in client.unsettled()] == wanted
        else:
            with pytest.raises(wanted):
                _ = [row async for row in client.unsettled()]
        assert len(got) == len(pages)


async def test_a_ping_that_the_provider_refuses_is_no_ping_that_nobody_answered() -> None:
    async with provider(lambda _: refused(500)) as (client, _):
        with pytest.raises(CredentialsRefusedError):
            await client.ping(ID)


async def test_an_unknown_record_shows_that_the_credentials_are_good() -> None:
    memory = MemoryRefusals(lambda: 0.0)
    reads = 0
    read = memory.read

    async def counted(fingerprint: str) -> Any:
        nonlocal reads
        reads += 1
        return await read(fingerprint)

    memory.read = counted  # type: ignore[method-assign]
    async with simulating() as simulator, asking(simulator, refusals=memory) as client:
        for _ in range(2):
            with pytest.raises(RecordNotFoundError):
                await client.transaction("1")
        assert reads == 1
