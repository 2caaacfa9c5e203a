"""The connections of a listener: their number, how long each may wait for its client, and which one makes room.

aiohttp bounds neither connections, nor a slow body, nor a client that reads no answer. It bounds a first head only by its
keep-alive timeout.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import cast

from aiohttp import web
from prometheus_client import Counter, Gauge

from webhookd.errors import OverloadedError
from webhookd.http.admission import Admission, Unlimited
from webhookd.http.connection import LIVENESS, MAX_HEAD, Connection, Phase
from webhookd.http.problem import render_problem
from webhookd.http.reply import Rendered

_NEVER = 1e9  # seconds; switches off aiohttp's keep-alive timer, because `keepalive_timeout` here replaces it
_SWEEP_SECONDS = 1.0
_EVICTION_SECONDS = 0.1
_READ_BYTES = 16_384  # bytes of a body; when they are read, aiohttp goes on parsing, and also at each 1,024 chunks


@dataclass(slots=True, frozen=True)
class ListenerSettings:
    """The settings of a listener: its number of connections, the seconds that each may wait for its client, and its answers.

    connections: most open connections; beyond it, one connection makes room, or the new one is refused.
    head_timeout: from a new connection to its first head; for each further head, from its first byte.
    body_timeout: from a head to the end of its body.
    read_timeout: until the client has read the written bytes.
    keepalive_timeout: between two requests; longer than a proxy's timeout, so that the proxy closes first.
    retry_after: seconds in the field Retry-After of answers that refuse.
    fields: the header fields of answers that do not come from the application.
    longest_line: bytes of a line of a head; the default is aiohttp's.
    """

    connections: int
    head_timeout: float
    body_timeout: float
    read_timeout: float
    keepalive_timeout: float = 75.0
    retry_after: int = 5
    fields: Mapping[str, str] = field(default_factory=dict)
    longest_line: int = 8190


@dataclass(slots=True, frozen=True)
class Counters:
    """The counters of a listener. `closed`: by reason head_timeout, head_too_large, idle, full, unread, tls."""

    connections: Gauge
    closed: Mapping[str, Counter]
    overload: Counter  # requests that were refused before parsing
    malformed: Counter
    error: Counter  # errors of webhookd itself


class Connections:
    """All connections of a listener, each in its phase. A call of the object makes the protocol of a new connection.

    Beyond the limit, one connection makes room. The first choice is a connection that is closing. The next choices are, in this
    order: the connection whose request has been incomplete for longest, a connection whose client does not read, a connection
    whose client sent further requests before it had its answers, and the connection that has been idle for longest. If all
    connections are at work, the newest is refused.
    """

    def __init__(
        self,
        server: web.Server,
        admission: Admission | Unlimited,
        settings: ListenerSettings,
        counters: Counters,
    ) -> None:
        self._server = server
        self.handle: Callable[[web.BaseRequest], Awaitable[web.StreamResponse]] = server.request_handler
        server.request_handler = _answer
        self.admission = admission
        self._settings = settings
        self.counters = counters
        self._fields = tuple(settings.fields.items())
        later = ("Retry-After", str(settings.retry_after))
        self.overloaded = self.render(503, "too many requests at once", later)
        self.broken = self.render(503, "webhookd made a mistake; its log says where", later)
        self._all: set[Connection] = set()
        self.leaving: set[Connection] = set()  # connections that make room
        # Each connection with the loop's time when its wait began, oldest first. A request's head and its body are one wait.
        incomplete: OrderedDict[Connection, float] = OrderedDict()
        self._in = {phase: OrderedDict[Connection, float]() for phase in Phase}
        self._in[Phase.HEAD] = self._in[Phase.BODY] = incomplete
        self._work = self._in[Phase.WORK]
        self.loop = asyncio.get_running_loop()  # stored here, because a look-up at each request costs a system call
        self._timer: asyncio.TimerHandle | None = None

    def __call__(self) -> Connection:
        return Connection(
            self,
            self._server,
            access_log=None,  # no access log: a line for each request costs more than the request
            auto_decompress=False,  # do not decompress: a small body could inflate for seconds, in the loop
            keepalive_timeout=_NEVER,
            lingering_time=0.0,
            read_bufsize=_READ_BYTES,
            max_line_size=self._settings.longest_line,
        )

    def render(self, status: int, detail: str, *fields: tuple[str, str]) -> Rendered:
        """Renders a problem with this listener's header fields."""
        return render_problem(status, detail, self._fields + fields)

    def admit(self, *, itself: bool = False) -> bool:
        """Returns whether one more request is accepted. `itself`: the request counts as work already."""
        return not self.admission.full and len(self._work) - itself < self._settings.connections

    def turns_away(self, client: socket.socket) -> bool:
        """Answers 503 on the bare socket and closes it, if there are too many requests and the client has sent bytes of one.

        This costs a tenth of an accepted request. With a transport and a task, it would cost half of an accepted request.
        """
        if self.admit():
            return False
        try:
            begin = client.recv(len(LIVENESS), socket.MSG_PEEK)
        except OSError:  # no bytes have arrived so far
            return False
        if not begin or begin == LIVENESS:
            return False
        self.counters.overload.inc()
        with contextlib.suppress(OSError), client:
            client.recv(MAX_HEAD)  # closing with unread bytes makes the kernel send RST
            client.send(self.overloaded.wire(close=True))
        return True

    def start(self) -> None:
        """Starts to look for connections that have timed out."""
        shortest = min(self._settings.head_timeout, self._settings.body_timeout)
        self._timer = self.loop.call_later(min(shortest / 4, _SWEEP_SECONDS), self._sweep)

    def stop(self) -> None:
        """Closes the connections on which no request is under way. Other requests still time out, until `abort`."""
        for connection in [*self._in[Phase.HEAD], *self._in[Phase.IDLE], *self._in[Phase.CLOSING]]:
            if connection.phase is not Phase.BODY:
                connection.shut()

    def abort(self) -> None:
        """Closes all remaining connections at once."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        for connection in list(self._all):
            connection.abort()

    def move(self, connection: Connection, phase: Phase) -> None:
        """Moves a connection into a phase."""
        if connection not in self._all:  # the connection is lost already, and only its handler still runs
            return
        before, after = self._in[connection.phase], self._in[phase]
        if phase is Phase.BODY and connection.phase is not Phase.BODY:
            connection.body_since = self.loop.time()
        connection.phase = phase
        if before is not after:
            before.pop(connection, None)
            after[connection] = self.loop.time()
            self.admission.open_requests = len(self._work)

    def opened(self, connection: Connection) -> None:
        """Registers a new connection. If there are too many, makes room for it or refuses it."""
        self._all.add(connection)
        self.counters.connections.set(len(self._all))
        self._in[Phase.HEAD][connection] = self.loop.time()
        if len(self._all) - len(self.leaving) > self._settings.connections:
            for phase in (Phase.CLOSING, Phase.HEAD, Phase.UNREAD, Phase.NEXT, Phase.IDLE):
                oldest = next(iter(self._in[phase]), connection)
                if oldest is not connection:
                    break
            self.counters.closed["full" if oldest is connection else "idle"].inc()
            self._in[oldest.phase].pop(oldest, None)
            self.leaving.add(oldest)
            self._evict(oldest)

    def _evict(self, connection: Connection) -> None:
        """Ends a connection. In HEAD, BODY and IDLE, waits a moment: a request that has arrived but is not read is answered."""
        if connection.phase in (Phase.CLOSING, Phase.UNREAD):
            connection.abort()
        elif connection.phase is Phase.NEXT:
            connection.force_close()
        else:
            self.loop.call_later(_EVICTION_SECONDS, self._evict_late, connection)

    def _evict_late(self, connection: Connection) -> None:
        if connection not in self.leaving:
            return
        if connection.phase is Phase.BODY:
            self.leaving.discard(connection)
            connection.fail_body(OverloadedError("the request was incomplete for longest, and others need its place"))
        elif connection.phase in (Phase.HEAD, Phase.IDLE):
            connection.abort()

    def lost(self, connection: Connection) -> None:
        """Forgets a connection."""
        self._all.discard(connection)
        self.leaving.discard(connection)
        self._in[connection.phase].pop(connection, None)
        self.counters.connections.set(len(self._all))
        self.admission.open_requests = len(self._work)

    def _sweep(self) -> None:
        self.start()  # first, so that no error below ends all time limits
        now, limits = self.loop.time(), self._settings
        # One timer for all bodies: a timer for each would cost 4 µs a webhook.
        for connection, since in list(self._in[Phase.HEAD].items()):
            if now - since < min(limits.head_timeout, limits.body_timeout):
                break
            if connection.phase is Phase.BODY:
                if now - connection.body_since >= limits.body_timeout:
                    connection.fail_body(TimeoutError())
            elif now - since >= limits.head_timeout:
                self.counters.closed["head_timeout"].inc()
                connection.time_out()
        for connection, since in list(self._in[Phase.IDLE].items()):
            if now - since < limits.keepalive_timeout:
                break
            connection.shut()
        for phase in (Phase.UNREAD, Phase.CLOSING):
            for connection, since in list(self._in[phase].items()):
                if now - since < limits.read_timeout:
                    break
                self.counters.closed["unread"].inc()
                connection.abort()


async def _answer(request: web.BaseRequest) -> web.StreamResponse:
    return await cast(Connection, request.protocol).answer(request)
