"""A response whose status counts although its body breaks HTTP, also if head and body come in one packet."""

from __future__ import annotations

import re
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


_BLANK_LINE = re.compile(rb"\n\r?\n")


class _HeadFirst:
    """Gives the parser the head of an answer, whole or line by line, and then the rest: no byte of a body goes before."""

    def __init__(self, protocol: ResponseHandler, parser: Any) -> None:
        self._protocol = protocol
        self._parser = parser
        self._cut = False  # the bytes so far end within a head
        self._body: Any = None  # of the answer, once its head is there; interim heads have none

    def __getattr__(self, name: str) -> Any:
        """Returns what else the protocol uses of its parser."""
        return getattr(self._parser, name)

    def feed_data(self, data: bytes) -> tuple[list[Any], bool, bytes]:
        """Parses bytes. Returns messages, each with its body; whether the protocol changes; and what belongs to the new one.

        Without bytes, goes on with those that the parser kept while the reading was paused.
        """
        messages: list[Any] = []
        upgraded, tail = False, b""
        while self._body is None and data:
            end = self._end_of_head(data)
            found, upgraded, tail = self._parser.feed_data(data[:end])
            messages += found
            self._body = next((body for message, body in found if message.code >= 200), None)
            data = data[end:]
            if not data:
                return messages, upgraded, tail
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

    def _end_of_head(self, data: bytes) -> int:
        """Returns the length of a head that is there as a whole, else that of its next line."""
        line = data.find(b"\n") + 1 or len(data)
        whole = None if self._cut else _BLANK_LINE.search(data)
        end = line if whole is None else whole.end()
        self._cut = whole is None
        return end

    def feed_eof(self) -> Any:
        """Ends the answer."""
        return self._parser.feed_eof()
