"""Connections of the public listener: how many, how long they may say nothing, and who goes first when there are too many.

aiohttp has no bound on connections, none on a first request's head but its keep-alive timeout, and none on a client that reads
no answer. So each connection is first met by a small protocol of ours, which asks for aiohttp's when the first bytes come: an
idle connection costs a kilobyte, and a request that is refused for overload costs no parsing.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections import OrderedDict
from collections.abc import Callable
from http import HTTPStatus
from typing import cast

from webhookd.metrics import Metrics
from webhookd.receive.admission import Admission
from webhookd.receive.refusal import HEAD_END, raw

_LIVENESS = b"GET /livez "
_MAX_HEAD = 65_536  # bytes; aiohttp bounds each line and their number, which together is far more
_EVICTION = 0.1  # seconds


_TOO_LARGE = raw(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, f"the head has more than {_MAX_HEAD} bytes")
_TOO_SLOW = raw(HTTPStatus.REQUEST_TIMEOUT, "the head took too long")


class Connections:
    """All connections of a listener. Called, it makes the protocol of a new one.

    `http` makes aiohttp's protocol. `head_timeout` (seconds) bounds the coming of a first head, and of answers' being read;
    `keepalive_timeout` the time between two requests.
    Beyond `limit` connections, the one goes that has been silent longest without having sent a request, then the one that
    has been idle longest between two; where all are at work, the newest.
    """

    def __init__(
        self,
        http: Callable[[], asyncio.Protocol],
        admission: Admission,
        *,
        limit: int,
        head_timeout: float,
        keepalive_timeout: float,
        retry_after: int,
        metrics: Metrics,
    ) -> None:
        self.http = http
        self.admission = admission
        self._limit = limit
        self._head_timeout = head_timeout
        self._keepalive_timeout = keepalive_timeout
        self.overloaded = raw(HTTPStatus.SERVICE_UNAVAILABLE, "too many webhooks at once", retry_after)
        self._gauge = metrics.connections
        self._closed = {
            reason: metrics.connections_closed.labels(reason)
            for reason in ("head_timeout", "head_too_large", "idle", "full", "unread")
        }
        self.refused = metrics.received.labels("unknown", "overload")
        self._all: set[Connection] = set()
        # Each with the loop's time since when, oldest first.
        self.silent: OrderedDict[Connection, float] = OrderedDict()  # no head so far
        self.idle: OrderedDict[Connection, float] = OrderedDict()  # between two requests
        self.unread: OrderedDict[Connection, float] = OrderedDict()  # the client does not read what is written
        self.loop = asyncio.get_running_loop()  # to ask for it at each request costs a system call
        self._timer: asyncio.TimerHandle | None = None

    def __call__(self) -> Connection:
        return Connection(self)

    def turns_away(self, client: socket.socket) -> bool:
        """Answers 503 on the bare socket, and closes it, where there are too many requests and one has come already.

        That costs a tenth of a request that is taken; to make a transport and a task first would cost half of one.
        """
        if not self.admission.full:
            return False
        try:
            begin = client.recv(len(_LIVENESS), socket.MSG_PEEK)
        except OSError:  # nothing is there so far
            return False
        if not begin or begin == _LIVENESS:
            return False
        self.refused.inc()
        with contextlib.suppress(OSError), client:
            client.recv(_MAX_HEAD)  # what is left unread at the end would be answered with a reset
            client.send(self.overloaded)
        return True

    def start(self) -> None:
        """Starts to look for what has timed out."""
        self._timer = self.loop.call_later(min(self._head_timeout / 4, 1.0), self._sweep, self.loop)

    def stop(self) -> None:
        """Closes the connections on which no request is under way."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        for connection in [*self.silent, *self.idle]:
            connection.close()

    def opened(self, connection: Connection) -> None:
        """Makes room for a new connection, or refuses it."""
        self._all.add(connection)
        self._gauge.set(len(self._all))
        if len(self._all) > self._limit:
            oldest = next(iter(self.silent), None) or next(iter(self.idle), None)
            self._closed["full" if oldest is None else "idle"].inc()
            if oldest is None:
                connection.evict()
                return
            oldest.evict()
        self.silent[connection] = self.loop.time()

    @property
    def at_work(self) -> bool:
        """Whether there are as many requests under way as there may be connections."""
        return self.admission.open_requests >= self._limit

    def lost(self, connection: Connection) -> None:
        """Forgets a connection."""
        self._all.discard(connection)
        self._gauge.set(len(self._all))
        for of in (self.silent, self.idle, self.unread):
            of.pop(connection, None)

    def close(self, connection: Connection, reason: str, answer: bytes = b"") -> None:
        """Closes a connection for `reason`, with an answer or without one."""
        self._closed[reason].inc()
        connection.close(answer)

    def _sweep(self, loop: asyncio.AbstractEventLoop) -> None:
        now = loop.time()
        for connection, since in list(self.silent.items()):
            if now - since < self._head_timeout:
                break
            self.close(connection, "head_timeout", _TOO_SLOW if connection.begun else b"")
        for connection, since in list(self.idle.items()):
            if now - since < self._keepalive_timeout:
                break
            connection.close()
        for connection, since in list(self.unread.items()):
            if now - since < self._head_timeout:
                break
            self._closed["unread"].inc()
            connection.abort()
        self.start()


class Connection(asyncio.Protocol):
    """One connection: watches for heads, and passes everything on."""

    __slots__ = ("_coming", "_evicted", "_head", "_http", "_of", "_open", "_tail", "_transport")

    def __init__(self, of: Connections) -> None:
        self._of = of
        self._transport: asyncio.Transport | None = None
        self._http: asyncio.Protocol | None = None
        self._evicted = False  # its place is given to another
        self._coming = False  # a request was read, and its handler has not begun
        self._open = False  # a request's head is complete, and its answer has not begun
        self._head = 0  # bytes of an incomplete head
        self._tail = b""  # its last bytes

    @property
    def begun(self) -> bool:
        """Whether a head has begun, and is not complete."""
        return self._head > 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Asks for room."""
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is none by inheritance
        self._of.opened(self)

    def connection_lost(self, exc: Exception | None) -> None:
        """Gives the room back."""
        self._of.lost(self)
        self._transport = None
        self._ended()
        if self._http is not None:
            self._http.connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Passes on what belongs to a request that is taken."""
        if self._transport is None or self._transport.is_closing():
            return
        if not self._open and not self._admitted(data):
            return
        if self._http is None:
            self._http = self._of.http()
            self._http.connection_made(self._transport)
        self._http.data_received(data)

    def _admitted(self, data: bytes) -> bool:
        of = self._of
        if (
            not self._head
            and ((of.admission.full and self._http is None) or (self._evicted and of.at_work))
            and not data.startswith(_LIVENESS)  # always answered
        ):
            # Without a look at the rest: a refusal must cost less than the work that it saves. On a connection that a proxy
            # keeps, the request is parsed and refused by its handler: to connect anew would cost more.
            of.refused.inc()
            self.close(of.overloaded)
            return False
        if HEAD_END in self._tail + data:
            self._coming = True
            of.admission.coming += 1
            self._begin()
            return True
        self._head += len(data)
        self._tail = (self._tail + data)[-3:]
        if self._head > _MAX_HEAD:
            of.close(self, "head_too_large", _TOO_LARGE)
            return False
        return True

    def began(self) -> None:
        """A request's handler begins."""
        self._come()
        self._begin()  # a pipelined one has not done so

    def _come(self) -> None:
        if self._coming:
            self._coming = False
            self._of.admission.coming -= 1

    def _begin(self) -> None:
        if not self._open:
            self._open = True
            self._evicted = False
            self._head, self._tail = 0, b""
            self._of.admission.open_requests += 1
            self._of.silent.pop(self, None)
            self._of.idle.pop(self, None)

    def answered(self) -> None:
        """The answer to a request whose body has been read begins: the connection is idle when it has been written."""
        if self._transport is not None:
            self._ended()
            self._of.idle[self] = self._of.loop.time()

    def _ended(self) -> None:
        self._come()
        if self._open:
            self._open = False
            self._of.admission.open_requests -= 1

    def eof_received(self) -> bool | None:
        """The client sends no more."""
        return None if self._http is None else self._http.eof_received()

    def pause_writing(self) -> None:
        """The client does not read its answers."""
        self._of.unread[self] = self._of.loop.time()
        if self._http is not None:
            self._http.pause_writing()

    def resume_writing(self) -> None:
        """It does."""
        self._of.unread.pop(self, None)
        if self._http is not None:
            self._http.resume_writing()

    def evict(self) -> None:
        """Closes for want of room, in a moment: a request that has come already, and was not read yet, is answered."""
        self._evicted = True
        self._of.silent.pop(self, None)
        self._of.idle.pop(self, None)
        self._of.loop.call_later(_EVICTION, self._leave)

    def _leave(self) -> None:
        if self._evicted and not self._open:
            self.close()

    def close(self, answer: bytes = b"") -> None:
        """Closes, after `answer`."""
        self._of.silent.pop(self, None)
        self._of.idle.pop(self, None)
        if self._transport is not None and not self._transport.is_closing():
            if answer:
                self._transport.write(answer)
            self._transport.close()

    def abort(self) -> None:
        """Closes without a wait for what is written and unread."""
        if self._transport is not None:
            self._transport.abort()
