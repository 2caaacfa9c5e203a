"""A response whose status counts although its body breaks HTTP, also if head and body come in one packet."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import aiohttp
from aiohttp.http import HttpProcessingError

if TYPE_CHECKING:
    from aiohttp.client_proto import ResponseHandler
    from aiohttp.connector import Connection


class Response(aiohttp.ClientResponse):
    """A response that is there as soon as its head is. aiohttp drops the head if an error follows in the same packet."""

    async def start(self, connection: Connection) -> aiohttp.ClientResponse:
        """Waits for the head."""
        protocol = connection.protocol
        if protocol is not None:
            # No public interface gives the status then. pyproject.toml caps aiohttp's version.
            protocol._parser = _HeadFirst(protocol, protocol._parser)  # type: ignore[assignment]
        return await super().start(connection)


MOST_INTERIM = 10  # heads before the one of the answer
_BLANK_LINE = re.compile(rb"\n\r?\n")
_OVERLAP = 2  # bytes of a blank line that the packet before may end with


class InterimHeadsError(HttpProcessingError):
    """The destination sent more interim heads (1xx) than webhookd reads."""


class _HeadFirst:
    """Gives the parser one head after the other, and then the rest: no byte of a body goes before the answer's head."""

    def __init__(self, protocol: ResponseHandler, parser: Any) -> None:
        self._protocol = protocol
        self._parser = parser
        self._begun = b""  # the last bytes of a head that goes on in the next packet
        self._interim = 0  # heads before the answer's; blank lines without a head count, too
        self._body: Any = None  # of the answer, once its head is there; interim heads have none

    def __getattr__(self, name: str) -> Any:
        """Returns what else the protocol uses of its parser."""
        return getattr(self._parser, name)

    def feed_data(self, data: bytes) -> tuple[list[Any], bool, bytes]:
        """Parses bytes. Returns messages, each with its body; whether the protocol changes; and what belongs to the new one.

        Without bytes, goes on with those that the parser kept while the reading was paused.
        Raises InterimHeadsError at the eleventh head that is not the answer's.
        """
        messages: list[Any] = []
        upgraded, tail = False, b""
        at = 0
        for end in self._ends_of_heads(data):
            found, upgraded, tail = self._parser.feed_data(data[at:end])
            messages += found
            self._body = next((body for message, body in found if message.code >= 200), None)
            at = end
            if self._body is not None:
                break
        if at and at == len(data):
            return messages, upgraded, tail
        data = data[at:]
        try:
            found, upgraded, tail = self._parser.feed_data(data)
        except HttpProcessingError as error:
            if self._body is None:
                raise
            if not self._body.is_eof():
                self._body.set_exception(aiohttp.ClientPayloadError(type(error).__name__))
            if not messages:
                raise  # the protocol has the head, and ends the connection
            self._protocol.force_close()
        else:
            messages += found
        return messages, upgraded, tail

    def _ends_of_heads(self, data: bytes) -> Iterator[int]:
        """Yields the length of the data up to the end of each head, and at last that of all data, until the answer is there.

        No byte is copied or searched once for each head: a hostile answer has thousands of heads in one packet.
        """
        if self._body is not None or not data:
            return
        before = len(self._begun)
        text = self._begun + data
        at = 0
        while (found := _BLANK_LINE.search(text, at)) is not None:
            self._interim += 1
            at = found.end()
            yield at - before
            if self._interim > MOST_INTERIM:
                raise InterimHeadsError
        self._begun = text[max(at, len(text) - _OVERLAP) :]
        if at < len(text):
            yield len(data)

    def feed_eof(self) -> Any:
        """Ends the answer."""
        return self._parser.feed_eof()
