"""Debian's chromium for the dashboard's tests, and a visitor who records every fault in a browser."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

from playwright.async_api import (
    APIResponse,
    Browser,
    BrowserContext,
    ConsoleMessage,
    Error,
    Page,
    Request,
    Response,
    expect,
)
from playwright.async_api import TimeoutError as Timeout

COOKIE = "webhookd_session"
Scheme = Literal["light", "dark"]
_START = 30.0  # seconds that the start of chromium may take
_VIOLATIONS = """document.addEventListener("securitypolicyviolation",
    (event) => console.error("policy violation", event.violatedDirective, event.blockedURI));"""
# The browser writes this about an answer without success. The tests check the answers themselves.
_OF_AN_ANSWER = "Failed to load resource:"
# Firefox reports a request that a view aborts when it is left, although app.js handles the rejection. Chromium does not.
_OF_A_LEFT_VIEW = "The operation was aborted."


def chromium() -> str | None:
    """Returns the path of chromium, if it is installed."""
    return os.environ.get("CHROMIUM") or shutil.which("chromium")


@contextmanager
def running_chromium(program: str, folder: Path) -> Iterator[str]:
    """Runs a chromium with `folder` as its profile; yields the address for Playwright.

    The chromium is a process beside the tests, not a child of Playwright's driver. A driver belongs to an event loop, and each
    test has its own loop.
    """
    root = os.geteuid() == 0
    process = subprocess.Popen(
        [
            program,
            "--headless=new",
            "--remote-debugging-port=0",
            f"--user-data-dir={folder}",
            "--no-first-run",
            "--disable-background-networking",
            "--disable-component-update",
            "--disable-dev-shm-usage",
            "--disable-background-timer-throttling",
            "--disable-backgrounding-occluded-windows",
            "--disable-renderer-backgrounding",
            *(["--no-sandbox"] if root else []),
        ],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        yield f"http://127.0.0.1:{_port(process, folder / 'DevToolsActivePort')}"
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait(30)


def _port(process: subprocess.Popen[bytes], file: Path) -> str:
    end = time.monotonic() + _START
    while True:
        if file.exists() and (lines := file.read_text().split()):
            return lines[0]
        assert process.poll() is None, f"chromium ended with {process.returncode}"
        assert time.monotonic() < end, f"chromium did not start within {_START:g} s"
        time.sleep(0.02)


class Visitor:
    """A browser context on one daemon, with one page.

    `faults` are console errors, uncaught errors, breaches of the content security policy, requests to other hosts, requests
    that fail, and answers without success, unless they are `expected`. The fixture checks that there are none.
    """

    def __init__(self, context: BrowserContext, page: Page, url: str) -> None:
        self.context = context
        self.page = page
        self.url = url
        self.faults: list[str] = []
        self.expected: set[tuple[int, str]] = {(401, "/session")}  # (status, path as a pattern): nobody is signed in at first
        self.daemon_is_away = False

    @classmethod
    async def arrive(
        cls, browser: Browser, url: str, *, width: int = 1440, height: int = 900, scheme: Scheme = "light"
    ) -> Visitor:
        """Makes a visitor who has not opened any page yet."""
        context = await browser.new_context(
            viewport={"width": width, "height": height}, color_scheme=scheme, locale="en-GB", timezone_id="UTC"
        )
        await context.add_init_script(_VIOLATIONS)
        visitor = cls(context, await context.new_page(), url)
        page = visitor.page
        page.on("console", visitor._console)
        page.on("pageerror", visitor._error)
        page.on("request", visitor._request)
        page.on("requestfailed", visitor._failed)
        page.on("response", visitor._response)
        return visitor

    def _console(self, message: ConsoleMessage) -> None:
        if message.type == "error" and not message.text.startswith(_OF_AN_ANSWER):
            self.faults.append(f"console: {message.text}")

    def _error(self, error: Error) -> None:
        if error.message.strip() != _OF_A_LEFT_VIEW:
            self.faults.append(f"uncaught: {error}")

    def _request(self, request: Request) -> None:
        if request.url.startswith(("data:", "blob:")):
            return
        if urlsplit(request.url).netloc != urlsplit(self.url).netloc:
            self.faults.append(f"a request to another host: {request.url}")

    def _failed(self, request: Request) -> None:
        # The browser aborts open requests when it leaves their view.
        if request.failure not in ("net::ERR_ABORTED", "NS_BINDING_ABORTED") and not self.daemon_is_away:
            self.faults.append(f"{request.method} {request.url}: {request.failure}")

    def _response(self, response: Response) -> None:
        path = urlsplit(response.url).path
        if response.status >= 400 and not any(
            response.status == status and re.fullmatch(pattern, path) for status, pattern in self.expected
        ):
            self.faults.append(f"{response.request.method} {path}: {response.status}")

    async def sign_in(self, token: str, place: str = "#/") -> Page:
        """Creates a session, without the form, and opens a view."""
        answer: APIResponse = await self.context.request.post(f"{self.url}/session", data={"token": token})
        assert answer.ok
        await self.go(place)
        return self.page

    async def go(self, place: str = "") -> None:
        """Opens a view by its address: the first call loads the whole page, and later calls act as links."""
        try:
            await self.page.goto(f"{self.url}/{place}")
        except Timeout:
            # Playwright's driver of Firefox does not report each load. Then the page itself says that it is complete.
            if await self.page.evaluate("[document.readyState, location.href]") != ["complete", f"{self.url}/{place}"]:
                raise

    async def open(self, place: str, text: str) -> None:
        """Opens another view, and waits until it shows `text`. Marks the previous view, which may show the same text."""
        await self.page.evaluate("document.querySelector('.view')?.classList.add('left')")
        await self.go(place)
        await expect(self.page.locator(".view:not(.left)")).to_contain_text(text)

    async def fetch(self, method: str, path: str, headers: dict[str, str] | None = None) -> int:
        """Makes a request by a script of the page; returns its status."""
        script = "async ([path, options]) => (await fetch(path, options)).status"
        status: int = await self.page.evaluate(script, [path, {"method": method, "headers": headers or {}}])
        return status

    async def cookie(self) -> dict[str, Any]:
        """Returns the session's cookie, as the browser keeps it."""
        (found,) = [dict(cookie) for cookie in await self.context.cookies() if cookie["name"] == COOKIE]
        return found
