"""One chromium for each process of pytest-xdist, and a fresh context for each visitor. Without chromium, the tests skip."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from playwright.async_api import Browser, Error, Playwright, async_playwright, expect

from tests.conftest import NO_CHROMIUM
from tests.dashboard.browser import Visitor, chromium, running_chromium
from tests.dashboard.shop import Shop
from webhookd.daemon import Daemon

expect.set_options(timeout=15_000)

Visit = Callable[..., Awaitable[Visitor]]
_CONNECTIONS = 6  # a busy machine may leave chromium without an answer for longer than Playwright waits, which is 30 s


@pytest.fixture(scope="session", autouse=True)  # first, so that a skip starts no servers
def chromium_url() -> Iterator[str]:
    """Yields the address of the chromium that this process of pytest-xdist has started."""
    program = chromium()
    if program is None:
        pytest.skip(f"the dashboard is not tested: {NO_CHROMIUM}")
    folder = Path(tempfile.mkdtemp(prefix="webhookd-chromium-"))
    with running_chromium(program, folder) as url:
        yield url
    shutil.rmtree(folder, ignore_errors=True)


@pytest_asyncio.fixture
async def visit(chromium_url: str) -> AsyncIterator[Visit]:
    """Makes visitors of a daemon. At the end of the test, no visitor's browser may have recorded a fault."""
    visitors: list[Visitor] = []
    async with async_playwright() as playwright:
        browser = await _connected(playwright, chromium_url)

        async def arrive(daemon: Daemon, **options: Any) -> Visitor:
            visitor = await Visitor.arrive(browser, daemon.admin_url, **options)
            visitors.append(visitor)
            return visitor

        yield arrive
        for visitor in visitors:
            await visitor.context.close()
        await browser.close()
    assert [fault for visitor in visitors for fault in visitor.faults] == []


async def _connected(playwright: Playwright, url: str) -> Browser:
    for attempt in range(1, _CONNECTIONS + 1):
        try:
            return await playwright.chromium.connect_over_cdp(url)
        except Error:
            if attempt == _CONNECTIONS:
                raise
    raise AssertionError


@pytest.fixture
def shop() -> Shop:
    """Returns handlers whose outcome the test decides."""
    return Shop()
