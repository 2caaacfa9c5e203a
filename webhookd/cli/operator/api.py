"""A client of the admin API. aiohttp's exceptions end here: callers see ApiError only."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from pathlib import Path
from time import monotonic
from types import TracebackType
from typing import Any, TypeVar
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

from webhookd.cli.operator.failures import ApiError, Exit
from webhookd.cli.operator.screen import plain
from webhookd.cli.operator.target import ApiTarget, find
from webhookd.runtime.console import run
from webhookd.settings.sources import is_loopback

T = TypeVar("T")
Json = dict[str, Any]

PAGE = 200  # rows; the API's largest page
ENDED = ("done", "cancelled", "failed")
# Seconds between two looks at an operation: short at first, since small operations end at once.
FIRST_LOOK, LAST_LOOK = 0.1, 1.0
PATIENCE = 60.0  # seconds without an answer for which an operation is still followed: a restart of the daemon takes less
_LONGEST = 2000  # characters of the API's own words that an error quotes


class Api:
    """A client of the admin API at `target`. Use it as an async context manager, which opens and closes the HTTP session."""

    def __init__(self, target: ApiTarget, timeout: float = 60.0) -> None:
        self._target = target
        self._timeout = timeout  # seconds for an answer
        self.clock = datetime.now(UTC)  # the time of the last answer, by the server's clock, in whole seconds

    async def __aenter__(self) -> Api:
        # Import aiohttp for a call only: it takes a fifth of a second, for which `--help` and `webhookd health` need not wait.
        import aiohttp

        headers = {"Authorization": f"Bearer {self._target.token}"} if self._target.token else {}
        timeout = aiohttp.ClientTimeout(total=self._timeout, sock_connect=10)
        self._session = aiohttp.ClientSession(headers=headers, timeout=timeout)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._session.close()

    async def get(self, *path: str, **query: Any) -> Json:
        """Sends a GET, and returns the answer's object. None and empty lists are left out, lists repeat. Raises ApiError."""
        return await self._call("GET", path, query, None)

    async def post(self, *path: str, body: Json, **query: Any) -> Json:
        """Sends a POST with the JSON `body`. Query, result and errors are those of `get`."""
        return await self._call("POST", path, query, body)

    async def pages(
        self, *path: str, key: str, limit: int | None = None, told: Callable[[Json], object] = lambda _: None, **query: Any
    ) -> AsyncIterator[tuple[list[Json], bool]]:
        """Yields each page's rows under `key`, up to `limit`, and whether there may be more. Calls `told` with each page.

        A page may be empty although more rows follow: the API bounds its own work, not the client's.
        """
        left, cursor = limit, None
        while True:
            page = await self.get(*path, limit=PAGE if left is None else min(left, PAGE), cursor=cursor, **query)
            rows, cursor = page[key], page["next"]
            told(page)
            yield rows, cursor is not None
            if left is not None:
                left -= len(rows)
            if cursor is None or left == 0:
                return

    async def follow(self, operation: Json) -> AsyncIterator[Json]:
        """Yields the operation as given and at each look, until it has ended. Goes on through a restart of the daemon."""
        pause, heard = FIRST_LOOK, monotonic()
        yield operation
        while operation["state"] not in ENDED:
            await asyncio.sleep(pause)
            pause = min(pause * 1.5, LAST_LOOK)
            try:
                operation = await self.get("operations", operation["id"])
            except ApiError as error:
                if error.exit_code is not Exit.UNAVAILABLE or monotonic() - heard > PATIENCE:
                    raise
                continue
            heard = monotonic()
            yield operation

    async def _call(self, method: str, path: Iterable[str], query: Json, body: Json | None) -> Json:
        import aiohttp

        url = "/".join((self._target.url, "webhooks", *path))
        proxy = _proxy(self._target.url)
        try:
            # Follow no redirect: the token would go to the address in the answer, and a POST would become a GET.
            async with self._session.request(
                method, url, params=_flat(query), json=body, allow_redirects=False, proxy=proxy
            ) as answer:
                self._tell_time(answer.headers.get("Date"))
                text = await answer.text("utf-8", "replace")
        except (aiohttp.ClientError, OSError, ValueError) as error:  # OSError includes TimeoutError
            reason = (
                "it did not answer in time" if isinstance(error, TimeoutError) else _reason(error, proxied=proxy is not None)
            )
            raise ApiError(
                f"the admin API at {self._target.url} cannot be reached: {reason}; "
                "check that webhookd runs there, and that the address is right (--url, WEBHOOKD_API_URL)",
                Exit.UNAVAILABLE,
            ) from None
        if answer.ok and answer.status < 300 and isinstance(found := _parsed(text), dict):
            return found
        raise self._error(answer.status, answer.content_type, text)

    def _tell_time(self, date: str | None) -> None:
        try:
            self.clock = parsedate_to_datetime(date) if date else datetime.now(UTC)
        except ValueError:
            self.clock = datetime.now(UTC)

    def _error(self, status: int, content_type: str, text: str) -> ApiError:
        url = self._target.url
        problem = _parsed(text) if content_type == "application/problem+json" else None
        said = _said(problem) if isinstance(problem, dict) else None
        match status:
            case 401:
                what = "refused the token" if self._target.token else "needs a token"
                return ApiError(f"the admin API at {url} {what}: set WEBHOOKD_API_TOKEN to one of its tokens", Exit.NOT_ALLOWED)
            case 403:
                return ApiError(
                    f"not allowed: {said or 'the token may only look'} (one of WEBHOOKD_ADMIN_TOKENS may operate)",
                    Exit.NOT_ALLOWED,
                )
            case 421:
                return ApiError(f"the admin API at {url} does not answer to this host name: {said or status}", Exit.NOT_ALLOWED)
            case 429 | 502 | 503 | 504:
                return ApiError(f"the admin API at {url} is unavailable: {said or status}; try again later", Exit.UNAVAILABLE)
        if said is None:
            # A 404 of another server must not read as "there is no such event".
            return ApiError(
                f"{url} answers {status}, but not as webhookd's admin API: check the address (--url, WEBHOOKD_API_URL)",
                Exit.UNAVAILABLE,
            )
        match status:
            case 404:
                return ApiError(f"not found: {said}", Exit.NOT_FOUND)
            case 409:
                return ApiError(f"refused: {said}", Exit.FAILED)
            case 400 | 413 | 422:
                return ApiError(f"the admin API rejects the request: {said}", Exit.USAGE)
        return ApiError(f"the admin API failed ({status}): {said}", Exit.FAILED)


def _proxy(url: str) -> str | None:
    """Returns the proxy that the environment (never `.env`) names for `url`; None for this machine.

    aiohttp's `trust_env` is not used, since it would also send passwords of ~/.netrc.
    """
    parts = urlsplit(url)
    if is_loopback(url) or proxy_bypass(parts.netloc):
        return None
    return getproxies().get(parts.scheme)


def _reason(error: Exception, *, proxied: bool) -> str:
    import aiohttp

    certificate = isinstance(error, aiohttp.ClientConnectorCertificateError)
    # The `strerror` of aiohttp's certificate error describes aiohttp's TLS settings, and not the fault.
    strerror = None if certificate else getattr(error, "strerror", None)
    if proxied and not strerror:  # the error's text may quote the proxy's address with its password
        return f"the environment's proxy cannot reach it ({getattr(error, 'status', None) or type(error).__name__})"
    return plain(strerror or error) or type(error).__name__


def _flat(query: Json) -> list[tuple[str, str]]:
    listed = {name: value if isinstance(value, (list, tuple)) else (value,) for name, value in query.items()}
    return [
        (name, str(one).lower() if isinstance(one, bool) else str(one))
        for name, values in listed.items()
        for one in values
        if one is not None
    ]


def _parsed(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return None


def _said(problem: Json) -> str:
    detail = str(problem.get("detail") or problem.get("title") or "no reason was given")
    errors = problem.get("errors")
    listed = [error for error in errors if isinstance(error, dict)] if isinstance(errors, list) else []
    mistakes = [(error.get("in"), f"{error.get('name')}: {error.get('message')}") for error in listed]
    # The API's detail repeats the first mistake.
    parts = [detail, *(f"{place} {mistake}" for place, mistake in mistakes if not detail.startswith(mistake))]
    return plain("; ".join(parts)[:_LONGEST])


def with_api(url: str | None, folder: Path, work: Callable[[Api], Coroutine[Any, Any, T]], *, timeout: float = 60.0) -> T:
    """Runs `work` with the API that the options and settings lead to. Raises SettingsError and ApiError."""
    target = find(url, folder)

    async def connected() -> T:
        async with Api(target, timeout) as api:
            return await work(api)

    return run(connected())
