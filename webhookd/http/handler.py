"""aiohttp's protocol with our own answers to errors, and the ways in which a connection ends."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from aiohttp import web
from aiohttp.http import HttpProcessingError

from webhookd.http.reply import Rendered, Reply
from webhookd.telemetry.logs import logger, where

if TYPE_CHECKING:
    from webhookd.http.connections import Connections

MALFORMED = 400, "the request is not valid HTTP/1.1"
REST_SECONDS = 1.0
_REST_BYTES = 1_048_576


def wants_another_protocol(request: web.BaseRequest) -> bool:
    """Returns whether the bytes after the request may be no HTTP."""
    return request.method == "CONNECT" or "Upgrade" in request.headers


class Handler(web.RequestHandler):
    """aiohttp's handler. Its answers to malformed HTTP and to our errors repeat no input. Malformed HTTP is not logged.

    `_socket` is the transport while the connection is open. A subclass sets it, and defines `enter_closing`.
    """

    def __init__(self, connections: Connections, server: web.Server, **options: Any) -> None:
        super().__init__(server, loop=connections.loop, **options)
        self._connections = connections
        self._socket: asyncio.Transport | None = None
        self._rest = Rest(connections.loop)
        self.leaves_http = False  # whether the latest request asks for another protocol

    def handle_error(
        self, request: web.BaseRequest, status: int = 500, exc: BaseException | None = None, message: str | None = None
    ) -> web.StreamResponse:
        """Returns the answer to malformed HTTP or to an error that leaves the application. The answer ends the connection."""
        if isinstance(exc, ConnectionError):
            raise exc
        self.enter_closing()
        if isinstance(exc, HttpProcessingError):
            self._connections.counters.malformed.inc()
            exc.__traceback__ = None  # a frame in it refers to the error: this cycle would keep the connection in memory
            return Reply(self._connections.render(*MALFORMED), close=True)
        logger.error("a request failed", error=where(exc) if isinstance(exc, BaseException) else f"status {status}")
        self._connections.counters.error.inc()
        return Reply(self._connections.broken, close=True)

    def log_exception(self, *args: Any, **kw: Any) -> None:
        """Logs an error in aiohttp. Counts it as malformed instead if its bytes follow a request for another protocol."""
        error = kw.get("exc_info")
        if self.leaves_http:
            self._connections.counters.malformed.inc()
        else:
            logger.error("a request failed", error=where(error) if isinstance(error, BaseException) else "in aiohttp")

    def enter_closing(self) -> None:
        """Enters the phase in which the client's bytes are thrown away."""
        raise NotImplementedError

    def end_with(self, reply: Rendered) -> None:
        """Writes `reply` as the last answer, and ends our half."""
        if self._socket is not None:
            self._socket.write(reply.wire(close=True))
            self.finish()

    def finish(self) -> None:
        """Ends our half, and throws away further bytes for a moment: closing with unread bytes makes the kernel send RST."""
        if self._socket is None:
            return
        self.enter_closing()
        if self._socket.can_write_eof():
            with suppress(OSError):
                self._socket.write_eof()
        self._connections.loop.call_later(REST_SECONDS, self.shut)

    def shut(self) -> None:
        """Closes once all written bytes have been sent."""
        self._rest.end()
        if self._socket is not None:
            self.enter_closing()
            self._socket.close()

    def abort(self) -> None:
        """Closes at once: does not wait for the client to read the written bytes."""
        self._rest.end()
        if self._socket is not None:
            self._socket.abort()

    def force_close(self) -> None:
        """Closes as aiohttp does."""
        super().force_close()
        if self._socket is not None:
            self.enter_closing()


class Rest:
    """The bytes that arrive after the last answer, which are thrown away for a moment.

    Closing with unread bytes makes the kernel send RST, and the client never sees the answer.
    """

    __slots__ = ("_bytes", "_end", "_loop", "_over")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._bytes = 0
        self._over = False
        self._end: asyncio.Future[None] | None = None

    def throw_away(self, size: int) -> bool:
        """Counts `size` bytes; returns whether more may arrive."""
        self._bytes += size
        return self._bytes <= _REST_BYTES

    def end(self) -> None:
        """Records that no more bytes arrive, and ends the wait for them."""
        self._over = True
        if self._end is not None and not self._end.done():
            self._end.set_result(None)

    async def ended(self) -> None:
        """Waits for the end of the bytes, for REST_SECONDS at most."""
        if not self._over:
            self._end = self._loop.create_future()
            with suppress(TimeoutError):
                async with asyncio.timeout(REST_SECONDS):
                    await self._end
