"""The admin listener serves the guide to everyone who reaches the listener, and nothing else of the disk."""

from __future__ import annotations

from collections.abc import AsyncIterator

import aiohttp
import pytest
from yarl import URL

from tests.conftest import Start
from webhookd.admin.guide import build
from webhookd.daemon import Daemon

SEARCH = "/guide/search.json"


@pytest.fixture
async def daemon(start: Start) -> Daemon:
    return await start(admin_tokens={"ann": "operate-0123456789"})


@pytest.fixture
async def http(daemon: Daemon) -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession(daemon.admin_url) as session:
        yield session


async def test_every_page_needs_no_token_and_loads_nothing_from_outside(http: aiohttp.ClientSession) -> None:
    pages = build().keys() - {SEARCH}
    assert "/guide" in pages
    for path in pages:
        async with http.get(path) as answer:
            assert (answer.status, answer.headers["Content-Type"]) == (200, "text/html; charset=utf-8"), path
            policy = answer.headers["Content-Security-Policy"]
            assert "default-src 'none'" in policy
            assert "unsafe" not in policy
            assert answer.headers["X-Content-Type-Options"] == "nosniff"
            assert '<link rel="stylesheet" href="/assets/guide.css" />' in await answer.text()
    for asset in ("/assets/guide.css", "/assets/guide.js", "/assets/guide-search.js"):
        async with http.get(asset) as answer:
            assert answer.status == 200, asset


async def test_a_browser_asks_whether_its_copy_is_still_the_same(http: aiohttp.ClientSession) -> None:
    for path in ("/guide", SEARCH):
        async with http.get(path) as answer:
            assert answer.headers["Cache-Control"] == "no-cache"
            etag = answer.headers["ETag"]
        async with http.get(path, headers={"If-None-Match": etag}) as answer:
            assert (answer.status, await answer.read()) == (304, b""), path
        async with http.head(path) as answer:
            assert (answer.status, answer.headers["ETag"]) == (200, etag), path


async def test_the_search_gets_every_section_with_its_address(http: aiohttp.ClientSession) -> None:
    async with http.get(SEARCH) as answer:
        assert answer.content_type == "application/json"
        sections = await answer.json()
    assert {section["address"].partition("#")[0] for section in sections} == build().keys() - {SEARCH}
    assert all(set(section) == {"page", "heading", "address", "text"} for section in sections)


@pytest.mark.parametrize(
    "path",
    [
        "/guide/nothing",
        "/guide/index.md",
        "/guide/..%2fadmin%2fapp.py",
        "/guide/%2e%2e%2fREADME",
        "/guide/..%5cREADME",
        "/guide/%2Fetc%2Fpasswd",
        "/guide/a/b",
        "/guide/",
    ],
)
async def test_what_is_no_page_is_a_problem(daemon: Daemon, http: aiohttp.ClientSession, path: str) -> None:
    async with http.get(URL(f"{daemon.admin_url}{path}", encoded=True)) as answer:
        assert (answer.status, answer.content_type) == (404, "application/problem+json")
