"""A listener: aiohttp behind bounded connections."""

from __future__ import annotations

import asyncio
import errno
import resource
import socket
from typing import Any, cast

from aiohttp import web

from webhookd.errors import SettingsError
from webhookd.http.admission import Admission, Unlimited
from webhookd.http.certificate import Certificate
from webhookd.http.connections import Connections, Counters, ListenerSettings
from webhookd.telemetry.logs import logger, where
from webhookd.telemetry.metrics import Metrics

_BACKLOG = 2048  # connections that the system keeps while the loop is late
_SEND_BYTES = 65_536  # bytes of answers that the system buffers for a client that does not read; Linux doubles it
_ACCEPTS = 128  # most connections that one turn of the loop accepts
_AGAIN = 1.0  # seconds from a failed accept to the next one
_HANDSHAKES = 1.0  # seconds that a stop waits for handshakes
_TLS_ENDS = 2.0  # seconds that the end of a TLS session may take
_SPARE_FILES = 256  # open files for all else than connections of the listeners and of the workers to PostgreSQL
_REASONS = ("head_timeout", "head_too_large", "idle", "full", "unread", "tls")


class Listener:
    """A listener on one address: answers its requests within limits.

    runner: the application's runner, without sites; its server answers the requests.
    certificate: if there is one, the listener speaks TLS only.
    """

    def __init__(
        self,
        runner: web.BaseRunner,
        admission: Admission | Unlimited,
        settings: ListenerSettings,
        counters: Counters,
        *,
        certificate: Certificate | None = None,
    ) -> None:
        self._runner = runner
        self._admission = admission
        self._settings = settings
        self._counters = counters
        self._certificate = certificate
        self._connections: Connections | None = None
        self._sockets: list[socket.socket] = []
        self._accepting: dict[asyncio.Task[object], None] = {}  # oldest first

    async def start(self, host: str, port: int) -> None:
        """Starts to listen. Raises OSError if the address is not available."""
        await self._runner.setup()
        server = cast(web.Server, self._runner.server)  # `setup` has set the server
        try:
            await self._bind(host, port)
        except BaseException:
            await self._runner.cleanup()
            raise
        self._connections = Connections(server, self._admission, self._settings, self._counters)
        self._connections.start()
        for listening in self._sockets:
            asyncio.get_running_loop().add_reader(listening, self._accept, listening)

    async def _bind(self, host: str, port: int) -> None:
        infos = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        try:
            for family, address in dict.fromkeys((info[0], info[4]) for info in infos):
                self._sockets.append(socket.create_server(address, family=family, backlog=_BACKLOG))
                self._sockets[-1].setblocking(False)
                # Accepted connections inherit this limit. Otherwise Linux would buffer megabytes of answers for a client that
                # reads none, and to make them takes half a second of CPU for each connection.
                self._sockets[-1].setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SEND_BYTES)
        except BaseException:
            self._close()
            raise

    def _accept(self, listening: socket.socket) -> None:
        """Accepts waiting connections. Not the loop's own server: uvloop's accepts one connection for each turn of the loop.

        When the loop is late, that is a few a second. Then webhooks wait in the system's queue, where nobody can refuse them.
        """
        loop = asyncio.get_running_loop()
        for _ in range(_ACCEPTS):
            try:
                connection, _address = listening.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError as error:
                # If files or memory run out, connections stay in the system's queue. After any error, wait before the next try.
                logger.error("cannot take connections", error=where(error), reason=error.strerror)
                loop.remove_reader(listening)
                loop.call_later(_AGAIN, self._accept_again, listening)
                return
            connection.setblocking(False)
            if self._certificate is None:
                if self._connections is not None and self._connections.turns_away(connection):
                    continue
            elif len(self._accepting) >= min(self._settings.connections, _BACKLOG):
                # Clients that only connect must not keep out clients that go on to speak.
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
                ssl_handshake_timeout=self._settings.head_timeout if tls else None,
                ssl_shutdown_timeout=_TLS_ENDS if tls else None,
            )
        except (OSError, asyncio.CancelledError):  # the client has left, speaks no TLS, or made room for another
            if tls:
                self._counters.closed["tls"].inc()
            connection.close()

    def _accept_again(self, listening: socket.socket) -> None:
        if listening in self._sockets:
            asyncio.get_running_loop().add_reader(listening, self._accept, listening)

    def _close(self) -> None:
        for listening in self._sockets:
            asyncio.get_running_loop().remove_reader(listening)
            listening.close()
        self._sockets = []

    @property
    def addresses(self) -> list[Any]:
        """The addresses of the listening sockets, as bound."""
        return [listening.getsockname() for listening in self._sockets]

    async def stop(self) -> None:
        """Accepts no more connections, closes idle ones, and returns once the requests under way are answered."""
        self._close()
        if self._accepting and (late := (await asyncio.wait(self._accepting, timeout=_HANDSHAKES))[1]):
            for task in late:
                task.cancel()
            await asyncio.wait(late)
        if self._connections is not None:
            self._connections.stop()
        await self._runner.cleanup()
        if self._connections is not None:
            self._connections.abort()


async def listen(listener: Listener, setting: str, address: tuple[str, int]) -> None:
    """Starts `listener`. Raises SettingsError, which names `setting`, if the address is not available."""
    host, port = address
    try:
        await listener.start(host, port)
    except OSError as error:
        raise SettingsError(f"{setting}: cannot listen on {host}:{port}: {_remedy(error, setting, port)}") from error


def _remedy(error: OSError, setting: str, port: int) -> str:
    if error.errno == errno.EADDRINUSE:
        return (
            f"another process has the port; stop it (`ss -ltnp 'sport = :{port}'` names it; perhaps a webhookd still runs), or "
            f"set {setting} to another port"
        )
    if error.errno == errno.EACCES:
        return f"ports below 1024 are for root; set {setting} to a higher port, or give the service CAP_NET_BIND_SERVICE"
    if error.errno == errno.EADDRNOTAVAIL or isinstance(error, socket.gaierror):
        return f"this machine has no such address; set {setting} to one of its own, or to 0.0.0.0 for all"
    return f"{error.strerror or 'the system refuses it'}; set {setting} to another address"


def url_of(listener: Listener | None, scheme: str = "http") -> str:
    """Returns the URL of a listener, with the port as bound; empty if it does not listen."""
    if listener is None or not listener.addresses:
        return ""
    host, port = listener.addresses[0][:2]
    return f"{scheme}://[{host}]:{port}" if ":" in host else f"{scheme}://{host}:{port}"


def public_counters(metrics: Metrics) -> Counters:
    """Returns the counters of the public listener."""
    return Counters(
        connections=metrics.connections,
        closed={reason: metrics.connections_closed.labels(reason) for reason in _REASONS},
        overload=metrics.received.labels("unknown", "overload"),
        malformed=metrics.received.labels("unknown", "malformed"),
        error=metrics.received.labels("unknown", "error"),
    )


def admin_counters(metrics: Metrics) -> Counters:
    """Returns the counters of the admin listener."""
    return Counters(
        connections=metrics.admin_connections,
        closed={reason: metrics.admin_connections_closed.labels(reason) for reason in _REASONS},
        overload=metrics.admin_refused.labels("overload"),
        malformed=metrics.admin_refused.labels("malformed"),
        error=metrics.admin_refused.labels("error"),
    )


def raise_file_limit(connections: int, others: int) -> int:
    """Lets this process open files for `connections` and `others` more; returns how many connections it can then serve.

    Only the soft limit can be raised. If the hard limit is too low, a warning names the remedy.
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
