"""The admin API as a whole: its OpenAPI document, the rights of each caller, and the answers to bad input."""

from __future__ import annotations

import asyncio
import io
import json
import os
import re
import sys
import uuid
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import asyncpg
import pytest
from openapi_spec_validator import OpenAPIV31SpecValidator

from tests.conftest import Servers, Start
from tests.helpers.running import KEY
from webhookd.admin.access import HEADER, AccessLevel
from webhookd.admin.app import ROLES, add_open
from webhookd.admin.cookies import COOKIE
from webhookd.authorizenet import sampling
from webhookd.daemon import Daemon
from webhookd.dev import traffic

OPERATE = "operate-0123456789"
READ = "look-0123456789abcd"
TOKENS: dict[str, Any] = {"admin_tokens": {"ann": OPERATE}, "read_tokens": {"bob": READ}}
UNSAFE = ("POST", "PUT", "PATCH", "DELETE")

# The routes that need no token. Every other route must refuse a request without a token.
OPEN = {
    *(("GET", path) for path in ("/livez", "/readyz", "/metrics", "/openapi.json", "/docs", "/guide", "/")),
    ("POST", "/session"),
    ("DELETE", "/session"),
}


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


@pytest.fixture
async def daemon(start: Start) -> Daemon:
    return await start(**TOKENS)


@pytest.fixture
async def http(daemon: Daemon) -> AsyncIterator[aiohttp.ClientSession]:
    # Store no cookies: a request must send only the cookies that the test gives.
    async with aiohttp.ClientSession(daemon.admin_url, cookie_jar=aiohttp.DummyCookieJar()) as session:
        yield session


def routes(daemon: Daemon) -> list[tuple[str, str]]:
    """Returns the method and the path of every route of the admin application."""
    assert daemon.admin is not None
    return [
        (route.method, route.resource.canonical)
        for route in daemon.admin.router.routes()
        if route.resource is not None and route.method != "HEAD"
    ]


def concrete(path: str) -> str:
    return re.sub(r"\{\w+\}", "1", path.replace("{id}", str(uuid.uuid4())))


async def test_every_route_has_a_role_and_only_those_that_are_named_are_open(daemon: Daemon) -> None:
    assert daemon.admin is not None
    roles = daemon.admin[ROLES]
    assert len(routes(daemon)) > 30
    for route in routes(daemon):
        assert route in roles, f"{route} has no role"
        files = route[0] == "GET" and route[1].startswith(("/assets/", "/docs/", "/guide/"))
        assert (roles[route] is AccessLevel.OPEN) == (route in OPEN or files), route
        if route[0] in UNSAFE and roles[route] is not AccessLevel.OPEN:
            assert roles[route] is AccessLevel.OPERATE, f"{route} changes something, and needs only to look"


async def test_each_route_refuses_who_may_not_use_it(daemon: Daemon, http: aiohttp.ClientSession) -> None:
    assert daemon.admin is not None
    for method, path in routes(daemon):
        needed = daemon.admin[ROLES][method, path]
        url = concrete(path)
        for headers, role in (
            ({}, None),
            (bearer("x" * 20), None),
            (bearer(READ), AccessLevel.READ),
            (bearer(OPERATE), AccessLevel.OPERATE),
        ):
            async with http.request(method, url, headers=headers) as answer:
                refused = answer.status in (401, 403)
                assert refused == (needed is not AccessLevel.OPEN and (role is None or not role.allows(needed))), (
                    method,
                    path,
                    role,
                )
                if refused:
                    assert answer.status == (401 if role is None else 403), (method, path, role)
                    assert answer.content_type == "application/problem+json"
                    assert ("WWW-Authenticate" in answer.headers) == (role is None)


async def test_a_route_without_a_role_lets_nobody_pass(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    daemon = await start(**TOKENS)
    assert daemon.admin is not None
    del daemon.admin[ROLES]["GET", "/livez"]
    async with aiohttp.ClientSession() as http, http.get(f"{daemon.admin_url}/livez", headers=bearer(OPERATE)) as answer:
        assert answer.status == 403
    assert add_open.__doc__


@pytest.mark.parametrize(("anonymous", "look", "operate"), [("nothing", 401, 401), ("look", 200, 403), ("operate", 200, 404)])
async def test_without_a_token_only_what_the_setting_names_is_allowed(
    start: Start, anonymous: str, look: int, operate: int
) -> None:
    daemon = await start(admin_anonymous=anonymous)
    retry = f"/webhooks/events/{uuid.uuid4()}/retry"
    async with aiohttp.ClientSession(daemon.admin_url) as http:
        async with http.get("/webhooks/events") as answer:
            assert answer.status == look
        async with http.post(retry, headers={HEADER: "dashboard"}) as answer:
            assert answer.status == operate
        async with http.post(retry) as answer:  # any web page in a browser could send this request
            assert answer.status == (403 if anonymous == "operate" else operate)


async def test_a_session_is_a_cookie_without_the_token_and_changes_nothing_without_the_header(
    http: aiohttp.ClientSession,
) -> None:
    async with http.post("/session", json={"token": "wrong-0123456789ab"}) as answer:
        assert answer.status == 401
        assert COOKIE not in answer.cookies
    async with http.post("/session", json={"token": OPERATE}, headers={"X-Forwarded-Proto": "https"}) as answer:
        assert await answer.json() == {"name": "ann", "role": "operate"}
        morsel = answer.cookies[COOKIE]
        assert morsel["httponly"]
        assert morsel["secure"]
        assert morsel["samesite"] == "Strict"
        assert OPERATE not in morsel.value
    signed_in = {"Cookie": f"{COOKIE}={morsel.value}"}
    async with http.get("/session", headers=signed_in) as answer:
        assert await answer.json() == {"name": "ann", "role": "operate"}
    async with http.post(f"/webhooks/events/{uuid.uuid4()}/retry", headers=signed_in) as answer:
        assert answer.status == 403
    async with http.post(f"/webhooks/events/{uuid.uuid4()}/retry", headers=signed_in | {HEADER: "dashboard"}) as answer:
        assert answer.status == 404
    async with http.post("/session", json={"token": OPERATE}) as answer:
        assert not answer.cookies[COOKIE]["secure"]  # a browser would not send a secure cookie over plain HTTP
    for forged in (
        f"{morsel.value[:-1]}{'0' if morsel.value[-1] != '0' else '1'}",
        "x",
        "e30.00",
        f"W10.{'0' * 64}",
        "\u00ff.a",
    ):
        async with http.get("/session", headers={"Cookie": f"{COOKIE}={forged}"}) as answer:
            assert answer.status == 401, forged


async def test_refusals_are_counted(daemon: Daemon, http: aiohttp.ClientSession) -> None:
    event = f"/webhooks/events/{uuid.uuid4()}/retry"
    await http.get("/webhooks/events")
    await http.get("/webhooks/events", headers=bearer("y" * 20))
    await http.get("/webhooks/events", headers={"Authorization": "Basic eDp5"})
    await http.post(event, headers=bearer(READ))
    async with http.get("/metrics") as answer:
        text = await answer.text()
    for reason, count in {"no_token": 1, "wrong_token": 2, "not_allowed": 1}.items():
        assert f'webhookd_admin_refused_total{{reason="{reason}"}} {count}.0' in text


QUESTIONS = [
    ("/webhooks/events?limit=0", 422, "limit: input should be greater than or equal to 1"),
    ("/webhooks/events?limit=1e1", 422, "limit: must be a whole number"),
    ("/webhooks/events?limit=5&limit=6", 422, "limit: given more than once"),
    ("/webhooks/events?statsu=dead", 422, "statsu: there is no such parameter"),
    ("/webhooks/events?status=lost", 422, "input should be 'received', 'queued'"),
    ("/webhooks/events?received_from=yesterday", 422, "received_from: must be a time with its zone, such as 2026-01-31"),
    ("/webhooks/events?received_from=2026-01-31T12:00:00", 422, "with its zone"),
    ("/webhooks/events?cursor=abc", 422, "cursor: "),
    ("/webhooks/events?account=a%00b", 422, "account: "),
    ("/webhooks/events/nonsense", 404, "Not Found"),
    (f"/webhooks/events/{'-' * 36}", 422, "id: "),
    (f"/webhooks/events/{uuid.UUID(int=7)}", 404, "there is no event"),
    (f"/webhooks/quarantine/{uuid.UUID(int=7)}", 404, "there is no body"),
    (f"/webhooks/operations/{uuid.UUID(int=7)}", 404, "there is no operation"),
    ("/webhooks/transactions/1?account=acme", 404, "no event of the account 'acme' names the transaction '1'"),
    ("/webhooks/stats?window=59", 422, "window: "),
    ("/nowhere", 404, "Not Found"),
]


async def test_a_question_that_is_long_is_answered_by_us(http: aiohttp.ClientSession) -> None:
    """aiohttp itself would refuse a query beyond 8190 bytes, in plain text."""
    many = "&".join(f"event_type=net.authorize.{'x' * 50}{number}" for number in range(200))
    async with http.get(f"/webhooks/events?{many}", headers=bearer(OPERATE)) as answer:
        assert (answer.status, answer.content_type) in ((200, "application/json"), (422, "application/problem+json"))


async def test_bad_questions_are_told_what_is_wrong(http: aiohttp.ClientSession) -> None:
    for path, status, told in QUESTIONS:
        async with http.get(path, headers=bearer(OPERATE)) as answer:
            problem = json.loads(await answer.text())
            assert (answer.status, answer.content_type) == (status, "application/problem+json"), path
            assert problem["status"] == status, path
            assert told in problem["detail"], path


@pytest.mark.parametrize(
    ("body", "content_type", "status", "told"),
    [
        ("{", "application/json", 422, "invalid JSON"),
        ("{}", "text/plain", 415, "must be JSON"),
        ("{}", "application/json", 422, "give exactly one of them"),
        ('{"all": true, "ids": []}', "application/json", 422, "ids: "),
        ('{"all": true, "rate": 0}', "application/json", 422, "rate: "),
        ('{"all": true, "raet": 1}', "application/json", 422, "raet: there is no such parameter"),
        (f'{{"all": true, "reason": "{"x" * 2_000_000}"}}', "application/json", 413, ""),
    ],
)
async def test_bad_orders_are_told_what_is_wrong(
    http: aiohttp.ClientSession, body: str, content_type: str, status: int, told: str
) -> None:
    headers = bearer(OPERATE) | {"Content-Type": content_type}
    async with http.post("/webhooks/dead-letters/redrive", data=io.BytesIO(body.encode()), headers=headers) as answer:
        assert (answer.status, answer.content_type) == (status, "application/problem+json")
        assert told in json.loads(await answer.text())["detail"]


async def test_with_postgresql_away_the_api_says_so_and_when_to_try_again(start: Start, servers: Servers) -> None:
    daemon = await start(**TOKENS, database_url="postgresql://nobody@127.0.0.1:1/none")
    async with aiohttp.ClientSession(daemon.admin_url, headers=bearer(OPERATE)) as http:
        for path in (
            "/webhooks/events",
            "/webhooks/stats",
            "/webhooks/dead-letters",
            "/webhooks/quarantine",
            "/webhooks/refused",
        ):
            async with http.get(path) as answer:
                assert answer.status == 503, path
                assert answer.headers["Retry-After"] == "2"
                assert "postgresql is unavailable" in json.loads(await answer.text())["detail"]
        async with http.get("/webhooks/health") as answer:
            assert (await answer.json())["status"] == "unavailable"


async def test_the_document_is_openapi_and_describes_every_route(daemon: Daemon, http: aiohttp.ClientSession) -> None:
    async with http.get("/openapi.json") as answer:
        document = await answer.json()
    assert document["openapi"].startswith("3.1")
    OpenAPIV31SpecValidator(document).validate()
    described = {(method.upper(), path) for path, of in document["paths"].items() for method in of}
    api = {route for route in routes(daemon) if route[1].startswith(("/webhooks/", "/session"))}
    assert described == api
    for path, of in document["paths"].items():
        for method, operation in of.items():
            assert operation["summary"], (method, path)
            assert ("security" in operation) == (daemon.admin is not None and (method.upper(), path) not in OPEN)


async def test_nothing_that_is_answered_may_be_kept_or_framed(http: aiohttp.ClientSession) -> None:
    for path in ("/webhooks/events", "/webhooks/health", "/nowhere"):
        async with http.get(path, headers=bearer(READ)) as answer:
            assert answer.headers["Cache-Control"] == "no-store"
            assert "frame-ancestors 'none'" in answer.headers["Content-Security-Policy"]
            assert answer.headers["X-Content-Type-Options"] == "nosniff"
    async with http.get("/") as answer:
        policy = answer.headers["Content-Security-Policy"]
        assert "unsafe" not in policy
        assert "default-src 'none'" in policy
        etag = answer.headers["ETag"]
    async with http.get("/", headers={"If-None-Match": etag}) as answer:
        assert answer.status == 304


async def test_schemathesis_finds_nothing(daemon: Daemon, connection: asyncpg.Connection[Any], tmp_path: Path) -> None:
    """Schemathesis makes good and bad requests from the document, also in sequences. Each answer is as the document says."""
    sent = await traffic.send(
        sampling.stream(["net.authorize.payment.authcapture.created"], 20), f"{daemon.public_url}/webhooks/authorize-net", KEY
    )
    assert sent.failed == 0
    # 413 is a refusal, too, but schemathesis does not count it by default.
    refusals = '["400", "401", "403", "404", "405", "406", "409", "413", "415", "422", "428", "429"]'
    config = tmp_path / "schemathesis.toml"
    config.write_text(f"[checks.negative_data_rejection]\nexpected-statuses = {refusals}\n")
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "schemathesis.cli", "--config-file", str(config), "run", f"{daemon.admin_url}/openapi.json"),
        *("--header", f"Authorization: Bearer {OPERATE}", "--checks", "all", "--max-examples", "8", "--no-color"),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        env={**os.environ, "COLUMNS": "160"},
        cwd="/tmp",
    )
    out, _ = await process.communicate()
    assert process.returncode == 0, out.decode()
    described = sum(path.startswith(("/webhooks/", "/session")) for _, path in routes(daemon))
    assert f"{described} selected / {described} total" in out.decode(), out.decode()


async def test_a_mistake_of_ours_is_a_problem_and_its_log_line_quotes_nothing(
    http: aiohttp.ClientSession, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    async def fails(*_: object, **__: object) -> None:
        raise ValueError("4111111111111111")

    monkeypatch.setattr("webhookd.operate.events.Events.show", fails)
    async with http.get(f"/webhooks/events/{uuid.uuid4()}", headers=bearer(READ)) as answer:
        assert (answer.status, answer.content_type) == (500, "application/problem+json")
        assert "4111" not in await answer.text()
    out, err = capfd.readouterr()
    assert "an admin request failed" in out + err
    assert "4111" not in out + err
