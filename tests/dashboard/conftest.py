"""The browsers of the dashboard's tests, and a fresh context for each visitor. Without a browser, its tests skip.

Each process of pytest-xdist has one chromium. Every test also runs in a Firefox of its own, as a long case.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from playwright.async_api import Browser, Error, Playwright, async_playwright, expect

from tests.conftest import NO_CHROMIUM, NO_FIREFOX
from tests.dashboard.browser import Scheme, Visitor, chromium, running_chromium
from tests.dashboard.firefox import firefox, launch
from tests.dashboard.shop import Shop
from tests.helpers.npm import node_modules
from webhookd.daemon import Daemon

expect.set_options(timeout=15_000)

CHROMIUM, FIREFOX = "chromium", "firefox"
Visit = Callable[..., Awaitable[Visitor]]
_CONNECTIONS = 6  # a busy machine may leave chromium without an answer for longer than Playwright waits, which is 30 s


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Runs each test in both browsers, unless it is marked `one_browser`."""
    if "browser_name" in metafunc.fixturenames:
        others = [] if metafunc.definition.get_closest_marker("one_browser") else [FIREFOX]
        names = [CHROMIUM, *(pytest.param(name, marks=pytest.mark.long) for name in others)]
        metafunc.parametrize("browser_name", names, scope="session")


@pytest.fixture(scope="session", autouse=True)  # first, so that a skip starts no servers
def _installed(browser_name: str) -> None:
    if browser_name == CHROMIUM and chromium() is None:
        pytest.skip(f"the dashboard is not tested: {NO_CHROMIUM}")
    if browser_name == FIREFOX and firefox() is None:
        pytest.skip(f"the dashboard is not tested in Firefox: {NO_FIREFOX}")


@pytest.fixture(scope="session")
def chromium_url() -> Iterator[str]:
    """Yields the address of the chromium that this process of pytest-xdist has started."""
    program = chromium()
    assert program is not None
    folder = Path(tempfile.mkdtemp(prefix="webhookd-chromium-"))
    with running_chromium(program, folder) as url:
        yield url
    shutil.rmtree(folder, ignore_errors=True)


@pytest_asyncio.fixture
async def visit(browser_name: str, request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Visit]:
    """Makes visitors of a daemon. At the end of the test, no visitor's browser may have recorded a fault."""
    visitors: list[Visitor] = []
    browsers: dict[str, Browser] = {}  # by the colour scheme
    async with async_playwright() as playwright:

        async def arrive(daemon: Daemon, *, scheme: Scheme = "light", **options: Any) -> Visitor:
            if scheme not in browsers:
                if browser_name == CHROMIUM:
                    browsers[scheme] = await _connected(playwright, request.getfixturevalue("chromium_url"))
                else:
                    browsers[scheme] = await launch(playwright, str(firefox()), tmp_path, scheme)
            visitor = await Visitor.arrive(browsers[scheme], daemon.admin_url, scheme=scheme, **options)
            visitors.append(visitor)
            return visitor

        yield arrive
        for visitor in visitors:
            await visitor.context.close()
        for browser in browsers.values():
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


@pytest.fixture(scope="session")
def axe() -> str:
    """Returns the source of axe-core."""
    if shutil.which("npm") is None:
        pytest.skip("no axe-core; apt install npm")
    return (node_modules(Path(__file__).parent / "npm") / "axe-core/axe.min.js").read_text()


@pytest.fixture
def shop() -> Shop:
    """Returns handlers whose outcome the test decides."""
    return Shop()
