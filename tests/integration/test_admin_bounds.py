"""What a stranger may cost the admin listener: bodies, queries and answers have bounds, and guessing a token is slow."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import pytest

from tests.conftest import Start
from webhookd.daemon import Daemon

OPERATE = "operate-0123456789"
AUTHORIZED = {"Authorization": f"Bearer {OPERATE}"}
LARGEST_ANSWER = 4096  # bytes of a refusal


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
