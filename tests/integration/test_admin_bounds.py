"""The admin listener bounds the cost of strangers: bodies, queries and answers have limits, and guessing a token is slow."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator

import aiohttp
import pytest

from tests.conftest import Start
from tests.helpers.wait import until
from webhookd.daemon import Daemon

OPERATE = "operate-0123456789"
AUTHORIZED = {"Authorization": f"Bearer {OPERATE}"}
LARGEST_ANSWER = 4096  # bytes: every refusal is smaller


@pytest.fixture
async def daemon(start: Start) -> Daemon:
    return await start(roles="receive", admin_tokens={"ann": OPERATE})


@pytest.fixture
async def http(daemon: Daemon) -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession(daemon.admin_url) as session:
        yield session


async def posted(http: aiohttp.ClientSession, path: str, body: str, **headers: str) -> tuple[int, bytes]:
    headers |= {"Content-Type": "application/json"}
    async with http.post(path, data=body.encode(), headers=headers) as answer:
        return answer.status, await answer.read()


def unknown_names(count: int) -> str:
    return "{" + ",".join(f'"{number:x}":0' for number in range(count)) + "}"


async def test_a_megabyte_of_unknown_names_is_refused_unread_and_in_few_bytes(http: aiohttp.ClientSession) -> None:
    body = unknown_names(110_000)
    assert len(body) > 1_000_000
    status, answer = await posted(http, "/session", body)
    assert status == 413
    assert len(answer) < LARGEST_ANSWER


async def test_a_body_without_a_length_is_read_no_further_than_its_bound(http: aiohttp.ClientSession) -> None:
    async def spaces() -> AsyncIterator[bytes]:
        for _ in range(9):
            yield b" " * 1024

    async with http.post("/session", data=spaces(), headers={"Content-Type": "application/json"}) as answer:
        assert answer.status == 413
        assert len(await answer.read()) < LARGEST_ANSWER


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/session", unknown_names(500)),
        ("/session", json.dumps({"x" * 3000: 1})),
        ("/webhooks/dead-letters/redrive", unknown_names(6000)),
        ("/webhooks/dead-letters/redrive", json.dumps({"ids": ["x"] * 1000})),
        ("/webhooks/dead-letters/redrive", json.dumps({"filter": {"event_type": ["\0"] * 50}})),
        ("/webhooks/events/replay", json.dumps({"filter": json.loads(unknown_names(5000)), "reason": "x" * 9000})),
    ],
)
async def test_however_much_is_wrong_a_refusal_lists_a_few_short_mistakes(
    http: aiohttp.ClientSession, path: str, body: str
) -> None:
    status, answer = await posted(http, path, body, **AUTHORIZED)
    assert status == 422
    assert len(answer) < LARGEST_ANSWER
    errors = json.loads(answer)["errors"]
    assert 1 <= len(errors) <= 10
    assert "x" * 200 not in answer.decode()


@pytest.mark.parametrize("path", ["/session", "/webhooks/events"])
async def test_a_query_of_many_names_is_refused_in_few_bytes(http: aiohttp.ClientSession, path: str) -> None:
    query = "&".join(f"{number:x}=0" for number in range(8000))
    async with http.request("DELETE" if path == "/session" else "GET", f"{path}?{query}", headers=AUTHORIZED) as answer:
        assert answer.status == 422
        assert len(await answer.read()) < LARGEST_ANSWER


async def test_ids_of_a_thousand_events_and_the_longest_filter_fit_in_a_body(http: aiohttp.ClientSession) -> None:
    ids = {"ids": [f"01890a5d-ac96-774b-bcce-{number:012d}" for number in range(1000)], "reason": "é" * 500}
    filters = {"filter": {"event_type": ["net.authorize." + "é" * 180] * 50, "reason": "é" * 200}}
    for body in (ids, filters):
        status, answer = await posted(http, "/webhooks/dead-letters/redrive", json.dumps(body), **AUTHORIZED)
        assert status == 202, answer


async def test_a_guesser_is_slowed_down_and_a_right_token_always_works(daemon: Daemon) -> None:
    """The guesser uses 32 connections at once. A right token from the guesser's address works, too, though not at once."""
    answered: list[int] = []
    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(daemon.admin_url, connector=connector) as http:

        async def guess(path: str) -> None:
            while True:
                if path == "/session":
                    status, _ = await posted(http, path, json.dumps({"token": f"guess-{len(answered):020}"}))
                else:
                    async with http.get(path, headers={"Authorization": f"Bearer guess-{len(answered):020}"}) as answer:
                        status = answer.status
                answered.append(status)

        async def asks() -> int:
            async with http.get("/webhooks/health", headers=AUTHORIZED) as answer:
                return answer.status

        began = time.monotonic()
        guessers = [asyncio.ensure_future(guess(path)) for path in ("/session", "/webhooks/events") for _ in range(16)]
        await asyncio.sleep(2)
        right = [await asks(), *await asyncio.gather(*(asks() for _ in range(4)))]
        took = time.monotonic() - began
        for guesser in guessers:
            guesser.cancel()
        await asyncio.gather(*guessers, return_exceptions=True)
        async with http.get("/metrics") as answer:
            metrics = await answer.text()
    assert right == [200] * 5
    assert set(answered) == {401}
    # Twenty guesses are answered at once, then one a second; and no guess waits longer than five seconds.
    assert len(answered) <= 20 + took + 32 * took / 5
    assert 'webhookd_admin_refused_total{reason="wrong_token"}' in metrics
    assert "webhookd_admin_delayed_total 0.0" not in metrics


async def test_a_peer_that_hangs_up_leaves_nothing_waiting(daemon: Daemon) -> None:
    async with aiohttp.ClientSession(daemon.admin_url) as http:
        for _ in range(20):
            await http.get("/webhooks/events", headers={"Authorization": "Bearer guess-guess-guess"})
        before = len(asyncio.all_tasks())
        with pytest.raises(TimeoutError):
            await http.get(
                "/webhooks/events",
                headers={"Authorization": f"Bearer {OPERATE[:-1]}x"},
                timeout=aiohttp.ClientTimeout(total=0.2),
            )
    await until(lambda: len(asyncio.all_tasks()) <= before, "the request has ended", deadline=10)
