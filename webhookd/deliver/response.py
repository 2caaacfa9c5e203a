"""A response whose status counts although its body breaks HTTP, also if head and body come in one packet."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import aiohttp
from aiohttp.http import HttpProcessingError

if TYPE_CHECKING:
    from aiohttp.client_proto import ResponseHandler
    from aiohttp.connector import Connection

_END = b"\r\n\r\n"  # of a head


class Response(aiohttp.ClientResponse):
    """A response that is there as soon as its head is. aiohttp drops the head if an error follows in the same packet."""

    async def start(self, connection: Connection) -> aiohttp.ClientResponse:
        """Waits for the head."""
        protocol = connection.protocol
        if protocol is not None:
            # No public interface gives the status then. pyproject.toml caps aiohttp's version.
            protocol._parser = _HeadFirst(protocol, protocol._parser)  # type: ignore[assignment]
        return await super().start(connection)


class _HeadFirst:
    """Gives the parser the head of an answer by itself, and then the rest."""

    def __init__(self, protocol: ResponseHandler, parser: Any) -> None:
        self._protocol = protocol
        self._parser = parser
        self._answered = False  # the head of the answer is there, and not only interim ones

    def feed_data(self, data: bytes) -> tuple[list[Any], bool, bytes]:
        """Parses bytes. Returns messages, each with its body; whether the protocol changes; and what belongs to the new one."""
        messages: list[Any] = []
        upgraded, tail = False, b""
        while not self._answered and (head := data[: data.find(_END) + len(_END)]).endswith(_END):
            found, upgraded, tail = self._parser.feed_data(head)
            messages += found
            self._answered = any(message.code >= 200 for message, _ in found)
            data = data[len(head) :]
        if data:
            try:
                found, upgraded, tail = self._parser.feed_data(data)
            except HttpProcessingError as error:
                if not messages or not self._answered:
                    raise
                self._protocol.force_close()
                _, body = messages[-1]
                if not body.is_eof():
                    body.set_exception(aiohttp.ClientPayloadError(type(error).__name__))
            else:
                messages += found
        return messages, upgraded, tail

    def feed_eof(self) -> Any:
        """Ends the answer."""
        return self._parser.feed_eof()
