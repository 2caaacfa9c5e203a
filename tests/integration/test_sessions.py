"""A session of the dashboard ends with its time, with its token, and by signing out, on every replica."""

from __future__ import annotations

import uuid
from typing import Any

import aiohttp
import pytest

from tests.conftest import Start
from tests.helpers.operator import Connection
from webhookd.admin.access import HEADER
from webhookd.admin.cookies import COOKIE, SESSION, Sessions
from webhookd.daemon import Daemon

OPERATE = "operate-0123456789"
TOKENS: dict[str, Any] = {"roles": "receive", "admin_tokens": {"ann": OPERATE}}
AWAY = "postgresql://nobody@127.0.0.1:1/none"


async def signed_in(daemon: Daemon) -> dict[str, str]:
    """Signs in; returns the headers of requests in the new session."""
    async with aiohttp.ClientSession(daemon.admin_url) as http, http.post("/session", json={"token": OPERATE}) as answer:
        assert answer.status == 200
        return {"Cookie": f"{COOKIE}={answer.cookies[COOKIE].value}", HEADER: "dashboard"}


async def status(daemon: Daemon, method: str, path: str, headers: dict[str, str]) -> int:
    jar = aiohttp.DummyCookieJar()
    async with (
        aiohttp.ClientSession(daemon.admin_url, cookie_jar=jar) as http,
        http.request(method, path, headers=headers) as answer,
    ):
        return answer.status


def test_a_session_ends_with_its_time_and_with_its_token(monkeypatch: pytest.MonkeyPatch) -> None:
    owner = ("ann", "operate")

    def sessions(token: str, now: float) -> Sessions:
        monkeypatch.setattr("webhookd.admin.cookies.time.time", lambda: now)
        found = Sessions(None)  # type: ignore[arg-type]  # used only without a database
        found.renew({owner: token, ("ann", "look"): "look-0123456789abcd"})
        return found

    cookie = sessions(OPERATE, 1000.0).cookie(owner)
    assert sessions(OPERATE, 1000.0 + SESSION - 1).read(cookie) is not None
    assert sessions(OPERATE, 1000.0 + SESSION).read(cookie) is None
    assert sessions(OPERATE + "new", 1001.0).read(cookie) is None


async def test_signing_out_ends_the_session_on_every_replica(start: Start) -> None:
    daemons = [await start(**TOKENS) for _ in range(2)]
    first, other = await signed_in(daemons[0]), await signed_in(daemons[0])
    assert [await status(daemon, "GET", "/webhooks/events", first) for daemon in daemons] == [200, 200]
    assert await status(daemons[0], "DELETE", "/session", first) == 204
    for daemon in daemons:
        for path in ("/webhooks/events", "/session", "/webhooks/health"):
            assert await status(daemon, "GET", path, first) == 401, path
        assert await status(daemon, "POST", f"/webhooks/events/{uuid.uuid4()}/retry", first) == 401
        assert await status(daemon, "GET", "/webhooks/events", other) == 200, "another session of the same token"
    assert await status(daemons[1], "DELETE", "/session", first) == 204, "signing out twice is no mistake"
    assert await status(daemons[1], "DELETE", "/session", {}) == 204


async def test_without_postgresql_a_session_shows_that_it_is_away_and_no_event(start: Start) -> None:
    cookie = await signed_in(await start(**TOKENS))
    away = await start(**TOKENS, database_url=AWAY)
    for path, expected in {"/webhooks/health": 200, "/session": 200, "/webhooks/events": 503, "/webhooks/stats": 503}.items():
        assert await status(away, "GET", path, cookie) == expected, path
    assert await status(away, "POST", f"/webhooks/events/{uuid.uuid4()}/retry", cookie) == 503
    assert await status(away, "DELETE", "/session", cookie) == 503, "it goes on, and nobody is to think otherwise"


async def test_ended_sessions_are_forgotten_when_their_time_is_over(start: Start, connection: Connection) -> None:
    daemon = await start(**TOKENS)
    await status(daemon, "DELETE", "/session", await signed_in(daemon))
    await connection.execute("UPDATE ended_sessions SET kept_until = now() - interval '1 second'")
    await status(daemon, "DELETE", "/session", await signed_in(daemon))
    (kept,) = await connection.fetch("SELECT kept_until - now() AS for FROM ended_sessions")
    assert kept["for"].total_seconds() > SESSION


async def test_a_session_that_nobody_can_look_up_shows_no_event(start: Start, connection: Connection) -> None:
    """The daemon could read events, but not whether the session was ended."""
    daemon = await start(**TOKENS)
    cookie = await signed_in(daemon)
    async with connection.transaction():
        await connection.execute("LOCK TABLE ended_sessions")
        assert await status(daemon, "GET", "/webhooks/events", cookie) == 503
    assert await status(daemon, "GET", "/webhooks/events", cookie) == 200
