"""The public listener: aiohttp behind bounded connections."""

from __future__ import annotations

import asyncio
import logging
import resource
import socket
from collections.abc import Awaitable, Callable
from typing import Any

from aiohttp import web
from aiohttp.http import HttpProcessingError

from webhookd.logs import logger, where
from webhookd.metrics import Metrics
from webhookd.receive.admission import Admission
from webhookd.receive.certificate import Certificate
from webhookd.receive.connections import Connections

_BACKLOG = 2048  # connections that the system keeps while the loop is late
_ACCEPTS = 128  # connections taken at a turn of the loop
_AGAIN = 1.0  # seconds
_KEEPALIVE = 75.0  # longer than a proxy's idle timeout, so that the proxy is the one who closes
_LINGER = 2.0  # seconds that a refused body is read on, so that its sender sees the answer rather than a reset
_HANDSHAKES = 1.0  # seconds that a stop waits for handshakes
_SPARE_FILES = 256  # for everything but this listener's connections and the workers' to PostgreSQL


class Listener:
    """Answers the requests on an address; `limit` connections at most."""

    def __init__(
        self,
        handle: Callable[[web.BaseRequest], Awaitable[web.StreamResponse]],
        admission: Admission,
        *,
        limit: int,
        head_timeout: float,
        retry_after: int,
        shutdown_timeout: float,
        certificate: Certificate | None = None,
        metrics: Metrics,
    ) -> None:
        self._certificate = certificate
        self._no_handshake = metrics.connections_closed.labels("tls")
        self._handle = handle
        self._shutdown_timeout = shutdown_timeout
        self._runner: web.ServerRunner | None = None
        self._admission = admission
        self._limit = limit
        self._head_timeout = head_timeout
        self._retry_after = retry_after
        self._metrics = metrics
        self._connections: Connections | None = None
        self._sockets: list[socket.socket] = []
        self._accepting: dict[asyncio.Task[object], None] = {}  # oldest first

    async def start(self, host: str, port: int) -> None:
        """Listens. Raises OSError where the address cannot be had."""
        # access_log: a line for each request costs more than the request.
        server = web.Server(
            self._handle,
            access_log=None,
            keepalive_timeout=_KEEPALIVE,
            lingering_time=_LINGER,
            auto_decompress=False,  # a small body could inflate for seconds, in the loop
            logger=_Malformed(self._metrics),
        )
        self._runner = runner = web.ServerRunner(server, shutdown_timeout=self._shutdown_timeout)
        await runner.setup()
        connections = Connections(
            server,
            self._admission,
            limit=self._limit,
            head_timeout=self._head_timeout,
            keepalive_timeout=_KEEPALIVE,
            retry_after=self._retry_after,
            metrics=self._metrics,
        )
        try:
            await self._bind(host, port)
        except BaseException:
            await runner.cleanup()
            raise
        self._connections = connections
        connections.start()
        for of in self._sockets:
            asyncio.get_running_loop().add_reader(of, self._accept, of)

    async def _bind(self, host: str, port: int) -> None:
        found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        try:
            for family, address in dict.fromkeys((of[0], of[4]) for of in found):
                self._sockets.append(socket.create_server(address, family=family, backlog=_BACKLOG))
                self._sockets[-1].setblocking(False)
        except BaseException:
            self._close()
            raise

    def _accept(self, of: socket.socket) -> None:
        """Takes what has connected. Not the loop's own server: uvloop's takes one connection for each turn of the loop.

        When the loop is late that is a few a second, and webhooks wait in the system's queue, where nobody can refuse them.
        """
        loop = asyncio.get_running_loop()
        for _ in range(_ACCEPTS):
            try:
                connection, _address = of.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError as error:
                # Out of files or memory: the queue keeps them. Whatever it is, the next try must not be at once.
                logger.error("cannot take connections", error=where(error), reason=error.strerror)
                loop.remove_reader(of)
                loop.call_later(_AGAIN, self._accept_again, of)
                return
            connection.setblocking(False)
            if self._certificate is None:
                if self._connections is not None and self._connections.turns_away(connection):
                    continue
            elif len(self._accepting) >= min(self._limit, _BACKLOG):
                # Those that only connect must not keep out those that go on to speak.
                oldest = next(iter(self._accepting))
                del self._accepting[oldest]
                oldest.cancel()
            task = loop.create_task(self._serve(connection))
            self._accepting[task] = None
            task.add_done_callback(self._accepted)

    def _accepted(self, task: asyncio.Task[object]) -> None:
        self._accepting.pop(task, None)

    async def _serve(self, connection: socket.socket) -> None:
        if self._connections is None:
            connection.close()
            return
        tls = self._certificate is not None
        try:
            await asyncio.get_running_loop().connect_accepted_socket(
                self._connections,
                connection,
                ssl=self._certificate.context if self._certificate is not None else None,
                ssl_handshake_timeout=self._head_timeout if tls else None,
                ssl_shutdown_timeout=_LINGER if tls else None,
            )
        except (OSError, asyncio.CancelledError):  # it has gone meanwhile, speaks no TLS, or made way for another
            if tls:
                self._no_handshake.inc()
            connection.close()

    def _accept_again(self, of: socket.socket) -> None:
        if of in self._sockets:
            asyncio.get_running_loop().add_reader(of, self._accept, of)

    def _close(self) -> None:
        for of in self._sockets:
            asyncio.get_running_loop().remove_reader(of)
            of.close()
        self._sockets = []

    @property
    def addresses(self) -> list[Any]:
        """Where it listens, as bound."""
        return [of.getsockname() for of in self._sockets]

    async def stop(self) -> None:
        """Takes no more connections, ends the idle ones, and returns when the requests under way are answered."""
        self._close()
        if self._accepting and (late := (await asyncio.wait(self._accepting, timeout=_HANDSHAKES))[1]):
            for task in late:
                task.cancel()
            await asyncio.wait(late)
        if self._connections is not None:
            self._connections.stop()
        if self._runner is not None:
            await self._runner.cleanup()


class _Malformed(logging.LoggerAdapter[logging.Logger]):
    """aiohttp's log: what a client sent wrong is counted, and no line; anyone can send a million of those."""

    def __init__(self, metrics: Metrics) -> None:
        super().__init__(logging.getLogger("aiohttp.server"), {})
        self._malformed = metrics.received.labels("unknown", "malformed")

    def debug(self, msg: object, *args: object, **kwargs: Any) -> None:
        """A first request that is not HTTP."""
        self._count(kwargs.get("exc_info"))

    def exception(self, msg: object, *args: object, **kwargs: Any) -> None:
        """Malformed HTTP, or an error in a handler; the message would quote what the client sent."""
        error = kwargs.get("exc_info")
        if not self._count(error):
            logger.error("a request failed", error=where(error) if isinstance(error, BaseException) else str(msg))

    def _count(self, error: object) -> bool:
        if isinstance(error, HttpProcessingError):
            self._malformed.inc()
            return True
        return False


def raise_file_limit(connections: int, others: int) -> int:
    """Lets this process open files for `connections` and `others` more; returns how many connections it then can have.

    Only the soft limit can be raised; where the hard one is too low, a warning says what to do.
    """
    spare = _SPARE_FILES + others + _BACKLOG
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = connections + spare
    if hard != resource.RLIM_INFINITY and hard < needed:
        possible = max(hard - spare, hard // 2)
        logger.warning(
            f"WEBHOOKD_MAX_CONNECTIONS is {connections}, and the system lets this process open {hard} files: serving at most "
            f"{possible} connections; raise the limit (systemd: LimitNOFILE={needed}; a container: --ulimit nofile={needed}), "
            "or lower the setting"
        )
        connections, needed = possible, hard
    if soft != resource.RLIM_INFINITY and soft < needed:
        resource.setrlimit(resource.RLIMIT_NOFILE, (needed, hard))
    return connections
