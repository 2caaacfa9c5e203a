"""One connection: aiohttp's protocol with a phase, and with a limit for each way in which a client can keep it open."""

from __future__ import annotations

import asyncio
from enum import Enum, auto
from typing import TYPE_CHECKING, Any, cast

from aiohttp import HttpVersion10, StreamReader, web, web_protocol
from aiohttp.http_exceptions import BadHttpMessage

from webhookd.http.handler import MALFORMED, Handler, wants_another_protocol
from webhookd.http.reply import Rendered

if TYPE_CHECKING:
    from webhookd.http.connections import Connections

LIVENESS = b"GET /livez "
MAX_HEAD = 65_536  # bytes; aiohttp bounds each line and the number of lines, which together allow far more
_UNREAD_BYTES = 16_384  # bytes of answers, beside the system's buffer; with more, a client counts as not reading

# If a malformed request follows whole ones in one read, aiohttp's parser drops the whole ones too. So the parser stops after
# each request, and `Connection.answer` makes it go on.
web_protocol.MAX_MSG_QUEUE_SIZE = 1

_TOO_LARGE = 431, f"the head has more than {MAX_HEAD} bytes"
_TOO_SLOW = 408, "the head took too long"


class Phase(Enum):
    """The phase of a connection, named for what the connection waits for."""

    HEAD = auto()  # the rest of a request's head, or its first byte on a new connection
    BODY = auto()  # the rest of a request's body
    WORK = auto()  # our answer to a whole request
    NEXT = auto()  # the turn of a whole request that arrived before the request ahead of it was answered
    IDLE = auto()  # the first byte of a further request
    UNREAD = auto()  # the client, which does not read its answers
    CLOSING = auto()  # the end; the last answer is written, and further bytes are thrown away


class Connection(Handler):
    """The connection of one client: serves its requests one after the other. `connections` bounds their number and their times.

    aiohttp's own set-up begins with the first byte. So a silent connection costs a kilobyte, and a request that is refused for
    overload costs no parsing. `_messages` belongs to aiohttp: requests whose head has arrived and whose handler has not begun.
    """

    def __init__(self, connections: Connections, server: web.Server, **options: Any) -> None:
        super().__init__(connections, server, **options)
        self._max_msg_queue_size = 2  # at this number of requests, aiohttp stops reading; a stop at each request costs 10 µs
        self.phase = Phase.HEAD  # only Connections.move changes the phase
        self.body_since = 0.0  # the loop's time when the phase BODY began
        self._started = False  # True from the first accepted byte: aiohttp's protocol is set up and parses this connection
        self._admission_asked = False  # admission was asked for the request that is arriving
        self._handler_pending = False  # a request's head has arrived, and its handler has not begun
        self._handling = False  # the application is answering a request
        self._client_ended = False  # the client has ended its half, and sends no more
        self._head = 0  # number of bytes of an incomplete head
        self._last_answer: Rendered | None = None  # the last answer; it follows the answers to earlier requests
        self._payload: StreamReader | None = None  # body of the request that is arriving or being answered

    # Reports of the transport.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Asks `Connections` for room."""
        self._socket = cast(asyncio.Transport, transport)  # uvloop's transport does not inherit from asyncio's
        self._socket.set_write_buffer_limits(high=_UNREAD_BYTES)
        self._connections.opened(self)

    def connection_lost(self, exc: BaseException | None) -> None:
        """Gives the connection's room back."""
        self._connections.lost(self)
        self._socket = None
        self._payload = None  # breaks a cycle, which the garbage collector would free only after thousands of them
        self._handler_begins()
        self._rest.end()
        if self._started:
            super().connection_lost(exc)
        # Requests that nobody answers any more. Their bodies and errors refer to the connection, and so are cycles, too.
        for message, _ in self._messages:
            if (error := getattr(message, "exc", None)) is not None:
                error.__traceback__ = None
        self._messages.clear()

    def data_received(self, data: bytes) -> None:
        """Passes the bytes of accepted requests to aiohttp. aiohttp calls this too, with no bytes, to go on parsing."""
        if self._socket is None or self._last_answer is not None:
            return
        if self.phase is Phase.CLOSING:
            if not self._rest.throw_away(len(data)):
                self.shut()
            return
        if not self._started and not self._start(data, self._socket):
            return
        try:
            super().data_received(data)
        except Exception:  # noqa: BLE001  aiohttp's parser raises its own errors, and any that it runs into
            self._malformed()
            return
        if data and self.phase in (Phase.HEAD, Phase.IDLE):
            self._follow(len(data))
        elif self._incomplete() and self._messages and self._messages[-1][1] is not self._payload:
            # Only aiohttp's report that the body is malformed can be queued behind an incomplete body. The request itself is
            # queued until its handler begins.
            self._malformed()

    def eof_received(self) -> bool | None:  # type: ignore[override]
        """Notes that the client sends no more; its requests are answered first. A TLS connection cannot stay half open."""
        self._client_ended = True
        if self.phase is Phase.BODY and self._payload is not None:
            self._payload.set_exception(web.RequestPayloadError("the body ends too early"))
        elif self.phase not in (Phase.WORK, Phase.NEXT, Phase.UNREAD) and not self._messages:
            self._rest.end()
            self._connections.move(self, Phase.CLOSING)
            return None
        return self.ssl_context is None

    def pause_writing(self) -> None:
        """Notes that the client does not read its answers."""
        super().pause_writing()
        if not self._handling and self.phase is not Phase.CLOSING:
            self._connections.move(self, Phase.UNREAD)

    def resume_writing(self) -> None:
        """Goes on with the next request, since the client reads again."""
        super().resume_writing()
        if self.phase is Phase.UNREAD:
            self._next()

    # A request's way through the phases.

    def _start(self, data: bytes, transport: asyncio.Transport) -> bool:
        """Begins aiohttp's part, unless admission refuses the first request."""
        if not data.startswith(LIVENESS):  # a liveness check is always answered
            if not self._connections.admit():
                self._connections.counters.overload.inc()
                self.refuse(self._connections.overloaded)
                return False
            self._admission_asked = True
        self._started = True
        super().connection_made(transport)
        return True

    def _follow(self, size: int) -> None:
        """Handles `size` bytes of a head: begins the request if its head is now whole, else bounds the size of the head."""
        if self._messages:
            self._handler_pending = True
            self._connections.admission.handlers_pending += 1
            self._next(Phase.WORK)
            return
        self._head += size
        if self.phase is Phase.IDLE:
            self._connections.move(self, Phase.HEAD)
        if self._head > MAX_HEAD:
            self._connections.counters.closed["head_too_large"].inc()
            self.refuse(self._connections.render(*_TOO_LARGE))

    def _next(self, whole: Phase = Phase.NEXT) -> None:
        """Enters the phase of the next request: `whole` if the request has arrived entirely."""
        if self.writing_paused:
            self._connections.move(self, Phase.UNREAD)
        elif self._messages:
            self._payload = self._messages[0][1]
            if (
                self._client_ended and not self._payload.is_eof() and not self._reading_paused
            ):  # if reading is paused, more bytes wait
                self._payload.set_exception(web.RequestPayloadError("the body ends too early"))
            self._connections.move(self, whole if self._payload.is_eof() else Phase.BODY)
        else:
            self._connections.move(self, Phase.IDLE)

    def _handler_begins(self) -> None:
        if self._handler_pending:
            self._handler_pending = False
            self._connections.admission.handlers_pending -= 1

    def admitted(self) -> bool:
        """Returns whether admission accepts the current request. It is asked once: for a first request, before the parsing."""
        asked, self._admission_asked = self._admission_asked, False
        return asked or self._connections.admit(itself=self.phase is Phase.WORK)

    async def answer(self, request: web.BaseRequest) -> web.StreamResponse:
        """Has a request answered. Ends the connection if the client or the answer asks for it, or if the body is unread."""
        if self.phase is Phase.NEXT:
            await asyncio.sleep(0)  # else, from Python 3.12 on, aiohttp serves all requests of a read in one turn of the loop
        self._handler_begins()
        if self._socket is None and not request.content.is_eof():
            raise ConnectionResetError  # the client has left, and nobody would end a wait for the rest of the body
        if request.version < HttpVersion10:
            raise BadHttpMessage("no version")
        self._head = 0
        self.leaves_http = wants_another_protocol(request)
        self._payload = None if self._socket is None else request.content
        if request.content.is_eof():
            self._complete()
        else:
            self._connections.move(self, Phase.BODY)
            request.content.on_eof(self._complete)
        self._handling = True
        response = await self._connections.handle(request)
        self._handling = False  # cleared now, since the response is written at once
        if (error := request.content.exception()) is not None:
            error.__traceback__ = None  # a frame in it has the request, which has the error: this cycle would stay in memory
        if self.leaves_http:
            response.force_close()  # aiohttp's parser drops the bytes that follow the request
        elif not self._messages and request.content.is_eof():
            self.data_received(b"")  # the parser has stopped after this request; make it go on
        if self._messages:
            # Read no further bytes while a whole request is left, or the client would fill our memory.
            self._max_msg_queue_size = 1
        last = not self._messages
        if not request.content.is_eof():
            response.force_close()
            self._connections.move(self, Phase.CLOSING)
            await _write(response, request)
            self.finish()
            await self._rest.ended()
        elif self._last_answer is not None and last:
            self._connections.move(self, Phase.CLOSING)
            await _write(response, request)
            self.end_with(self._last_answer)
        elif (self._client_ended and last) or not (request.keep_alive if response.keep_alive is None else response.keep_alive):
            response.force_close()
            self._connections.move(self, Phase.CLOSING)
        else:
            self._next()
        return response

    def _complete(self) -> None:
        """Moves the connection to the phase WORK: the whole request has arrived."""
        self._connections.leaving.discard(self)
        if self.phase is not Phase.CLOSING:
            self._connections.move(self, Phase.WORK)

    # Ways in which a request does not arrive.

    def refuse(self, reply: Rendered) -> None:
        """Answers with `reply` once all earlier requests are answered, and closes."""
        if self._socket is None or self._socket.is_closing():
            return
        if self.phase in (Phase.BODY, Phase.WORK, Phase.NEXT) or self._messages:
            self._last_answer = reply
            return
        self.end_with(reply)

    def _incomplete(self) -> bool:
        """Returns whether the body of the request that is arriving or being answered is incomplete."""
        return self.phase is Phase.BODY and self._payload is not None and not self._payload.is_eof()

    def _malformed(self) -> None:
        if self._incomplete() and self._payload is not None:
            self._payload.set_exception(web.RequestPayloadError("the body is malformed"))
            return
        self._connections.counters.malformed.inc()
        self.refuse(self._connections.render(*MALFORMED))

    def time_out(self) -> None:
        """Ends a connection whose head did not arrive in time: with 408 if a part of the head has arrived."""
        if self._head:
            self.refuse(self._connections.render(*_TOO_SLOW))
        else:
            self.shut()

    def fail_body(self, error: Exception) -> None:
        """Ends the wait for a body: the handler that reads the body gets `error`, and answers."""
        if self._payload is not None:
            self._payload.set_exception(error)

    def enter_closing(self) -> None:
        """Enters CLOSING."""
        self._connections.move(self, Phase.CLOSING)


async def _write(response: web.StreamResponse, request: web.BaseRequest) -> None:
    await response.prepare(request)
    await response.write_eof()
