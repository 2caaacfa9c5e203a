"""The client of one destination. The client for HTTP sends a request, and reads a bounded part of the answer.

aiohttp's exceptions end in this module.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from typing import NamedTuple, Protocol
from urllib.parse import urlsplit

import aiohttp
from yarl import URL

from webhookd.deliver.addresses import RefusedAddressError, public_socket
from webhookd.deliver.destination import Destination
from webhookd.deliver.response import MOST_INTERIM, InterimHeadsError, Response
from webhookd.errors import causes_of

_MOST_READ = 65_536  # bytes of an answer
_KEPT = 2048  # characters of an answer
_CONNECT = 5.0  # seconds for a connection, if the whole attempt may take longer


class Answer(NamedTuple):
    """The result of one request. Either `status` is set, or `error` is the reason why there was no answer.

    An answer of a cloud service may have both. `final`: no later attempt can succeed.
    sent: False if no request had the event, so that this was no attempt.
    """

    seconds: float
    status: int | None = None
    error: str | None = None
    read: Callable[[], str] | None = None  # returns `text`; most answers are accepted, and nobody asks for their text
    retry_after: str | None = None
    final: bool = False
    sent: bool = True

    @property
    def text(self) -> str | None:
        """Returns the beginning of the answer's body, without the destination's secrets. Each call looks for them anew."""
        return None if self.read is None else self.read()


class Client(Protocol):
    """The client of one destination."""

    async def send(self, content: bytes, headers: Mapping[str, str]) -> Answer:
        """Sends one event. Never raises an error of the destination or the network: these are part of the answer."""

    async def close(self) -> None:
        """Closes the connections. What is not answered by then counts as not sent."""


class HttpClient:
    """The client of an HTTP endpoint, with connections of its own."""

    def __init__(self, destination: Destination) -> None:
        settings = destination.settings
        self._destination = destination
        url = settings.url.get_secret_value()
        self._url = URL(url)
        self._host = urlsplit(url).hostname or ""
        self._timeout = settings.timeout
        self._connect = min(_CONNECT, settings.timeout)
        self._first_byte = settings.first_byte_timeout
        connector = aiohttp.TCPConnector(
            limit=settings.concurrency,
            ssl=destination.tls,
            socket_factory=None if settings.allow_private else public_socket,
        )
        self._session = aiohttp.ClientSession(
            connector=connector,
            timeout=aiohttp.ClientTimeout(total=settings.timeout, sock_connect=self._connect, sock_read=self._first_byte),
            response_class=Response,
            auto_decompress=False,  # a small answer could become a large one
            cookie_jar=aiohttp.DummyCookieJar(),
            trust_env=False,  # neither a proxy of the environment nor a password of ~/.netrc
        )

    async def send(self, content: bytes, headers: Mapping[str, str]) -> Answer:
        """Posts `content`."""
        began = time.monotonic()
        try:
            async with self._session.post(
                self._url, data=content, headers={**self._destination.headers, **headers}, allow_redirects=False
            ) as response:
                body = await self._read(response)
                asked = response.headers.get("Retry-After")
                return Answer(time.monotonic() - began, response.status, read=lambda: self._text(body), retry_after=asked)
        except (aiohttp.ClientError, OSError, ValueError) as error:  # OSError includes TimeoutError
            return Answer(time.monotonic() - began, error=self._explain(error))

    async def close(self) -> None:
        """Closes the connections."""
        await self._session.close()

    async def _read(self, response: aiohttp.ClientResponse) -> bytes:
        """Returns the beginning of the body. The status counts, also if the body is slow, cut off or without end."""
        body = bytearray()
        try:
            while len(body) < _MOST_READ and (chunk := await response.content.read(_MOST_READ - len(body))):
                body += chunk
        except (aiohttp.ClientError, OSError):
            response.close()
        else:
            if not response.content.at_eof():
                response.close()  # otherwise the rest of the body would be read at the end of the block
        return bytes(body[: 4 * self._destination.needed_to_hide(_KEPT)])  # UTF-8 has up to four bytes for a character

    def _text(self, body: bytes) -> str:
        return self._destination.hide(body.decode("utf-8", "replace"), _KEPT)

    def _explain(self, error: Exception) -> str:
        """Returns one sentence about an error. No library's text is quoted that may hold the URL."""
        causes = causes_of(error)
        if any(isinstance(cause, RefusedAddressError) for cause in causes):
            return (
                f"{self._host} leads to a private address, to which webhookd sends nothing: correct the URL, or set "
                f"WEBHOOKD_DESTINATIONS__{self._destination.name.upper()}__ALLOW_PRIVATE=true"
            )
        if any(isinstance(cause, InterimHeadsError) for cause in causes):
            return f"more than {MOST_INTERIM} interim heads (1xx) came before the answer"
        if isinstance(error, aiohttp.ConnectionTimeoutError):
            return f"no connection within {self._connect:g} s"
        if isinstance(error, aiohttp.SocketTimeoutError):
            return f"no further byte within {self._first_byte:g} s"
        if isinstance(error, asyncio.TimeoutError):
            return f"no answer within {self._timeout:g} s"
        if isinstance(error, aiohttp.ClientConnectorDNSError):
            return f"the name {self._host} cannot be resolved"
        if isinstance(error, aiohttp.ClientConnectorCertificateError):
            why = getattr(error.certificate_error, "verify_message", "") or "it cannot be verified"
            return f"the certificate of {self._host} is not accepted: {why}"
        if isinstance(error, aiohttp.ClientSSLError):
            return f"TLS with {self._host} failed ({getattr(error.os_error, 'reason', None) or type(error).__name__})"
        if isinstance(error, aiohttp.ClientConnectorError):
            return f"no connection to {self._host}: {error.os_error.strerror or type(error.os_error).__name__}"
        if isinstance(error, aiohttp.ServerDisconnectedError | aiohttp.ClientOSError | ConnectionError):
            return "the connection ended before the answer"
        return f"the answer is not HTTP that can be read ({type(error).__name__})"
