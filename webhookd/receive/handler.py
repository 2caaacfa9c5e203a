"""aiohttp's protocol with our answers to what goes wrong, and an end for what comes after the last answer."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from aiohttp import web
from aiohttp.http import HttpProcessingError

from webhookd.logs import logger, where
from webhookd.receive.reply import Reply

if TYPE_CHECKING:
    from webhookd.receive.connections import Connections

MALFORMED = 400, "the request is not valid HTTP/1.1"
REST_SECONDS = 1.0
_REST_BYTES = 1_048_576


def wants_another_protocol(request: web.BaseRequest) -> bool:
    """Whether what follows the request may be no HTTP."""
    return request.method == "CONNECT" or "Upgrade" in request.headers


class Handler(web.RequestHandler):
    """Answers malformed HTTP, and our mistakes, with problems that repeat no input. Malformed HTTP makes no line in the log."""

    def __init__(self, of: Connections, server: web.Server, **options: Any) -> None:
        super().__init__(server, loop=of.loop, **options)
        self._of = of
        self.foreign = False  # the latest request wants another protocol

    def handle_error(
        self, request: web.BaseRequest, status: int = 500, exc: BaseException | None = None, message: str | None = None
    ) -> web.StreamResponse:
        """Makes the answer to malformed HTTP, and to an error that leaves the application. It ends the connection."""
        if isinstance(exc, ConnectionError):
            raise exc
        if isinstance(exc, HttpProcessingError):
            self._of.counters.malformed.inc()
            exc.__traceback__ = None  # its frame in aiohttp refers to it: a cycle that would keep the connection in memory
            return Reply(self._of.render(*MALFORMED), close=True)
        logger.error("a request failed", error=where(exc) if isinstance(exc, BaseException) else f"status {status}")
        self._of.counters.error.inc()
        return Reply(self._of.broken, close=True)

    def log_exception(self, *args: Any, **kw: Any) -> None:
        """Reports an error outside of the application: in aiohttp, or in what follows a request for another protocol."""
        error = kw.get("exc_info")
        if self.foreign:
            self._of.counters.malformed.inc()
        else:
            logger.error("a request failed", error=where(error) if isinstance(error, BaseException) else "in aiohttp")


class Rest:
    """What comes after the last answer, thrown away for a moment.

    Closing with unread bytes makes the kernel send RST, and the client never sees the answer.
    """

    __slots__ = ("_bytes", "_end", "_loop", "_over")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._bytes = 0
        self._over = False
        self._end: asyncio.Future[None] | None = None

    def throw_away(self, size: int) -> bool:
        """Counts `size` bytes; returns whether more may come."""
        self._bytes += size
        return self._bytes <= _REST_BYTES

    def end(self) -> None:
        """Nothing more comes."""
        self._over = True
        if self._end is not None and not self._end.done():
            self._end.set_result(None)

    async def ended(self) -> None:
        """Waits for the end, for a moment."""
        if not self._over:
            self._end = self._loop.create_future()
            with suppress(TimeoutError):
                async with asyncio.timeout(REST_SECONDS):
                    await self._end
