"""Sends one request to the provider, and reads a bounded answer. aiohttp's exceptions end here.

No exception of aiohttp goes further, also not as a cause: its text can hold the header with the credentials.
"""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Mapping
from importlib.metadata import version
from typing import NamedTuple
from urllib.parse import urlsplit

import aiohttp

_MOST_READ = 33_554_432  # bytes of an answer: a page of 1000 rows has about one million
_CONNECT = 10.0  # seconds for a connection


class Answer(NamedTuple):
    """The result of one request. If there was no whole answer, `status` is 0, and `problem` is the reason."""

    status: int
    body: bytes = b""
    retry_after: str | None = None
    problem: str = ""


class Transport:
    """Connections to the provider's host. `timeout`: seconds of a whole request. `close` ends the connections."""

    def __init__(self, url: str, timeout: float, most_at_once: int) -> None:
        self._url = url
        self._host = urlsplit(url).hostname or ""
        self._timeout = timeout
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=most_at_once),  # Python's own TLS context: TLS 1.2 or newer, verified
            timeout=aiohttp.ClientTimeout(total=timeout, sock_connect=min(_CONNECT, timeout)),
            auto_decompress=False,  # a small answer could become a large one
            headers={"Accept-Encoding": "identity", "User-Agent": _agent()},
            cookie_jar=aiohttp.DummyCookieJar(),
            trust_env=False,  # neither a proxy of the environment nor a password of ~/.netrc
        )

    async def send(self, method: str, path: str, headers: Mapping[str, str], body: bytes | None = None) -> Answer:
        """Sends a request. Never raises an error of the network or of the provider: these are part of the answer."""
        try:
            async with self._session.request(
                method, f"{self._url}{path}", data=body, headers=headers, allow_redirects=False
            ) as response:
                encoding = response.headers.get("Content-Encoding", "").strip().lower()
                if response.status < 300 and encoding not in ("", "identity"):
                    response.close()
                    return Answer(0, problem="the answer is compressed, and webhookd asked for one that is not")
                whole = bytearray()
                async for chunk in response.content.iter_any():
                    whole += chunk
                    if len(whole) > _MOST_READ:
                        response.close()
                        return Answer(0, problem=f"the answer has more than {_MOST_READ} bytes")
                return Answer(response.status, bytes(whole), response.headers.get("Retry-After"))
        except (aiohttp.ClientError, OSError, ValueError) as error:  # OSError includes TimeoutError
            return Answer(0, problem=self._explain(error))

    async def close(self) -> None:
        """Closes the connections."""
        await self._session.close()

    def _explain(self, error: Exception) -> str:
        if isinstance(error, asyncio.TimeoutError):
            return f"no answer within {self._timeout:g} s"
        if isinstance(error, aiohttp.ClientConnectorDNSError):
            return f"the name {self._host} cannot be resolved"
        if isinstance(error, aiohttp.ClientConnectorCertificateError | aiohttp.ClientSSLError):
            return f"TLS with {self._host} failed ({type(error).__name__})"
        if isinstance(error, aiohttp.ClientConnectorError):
            return f"no connection to {self._host}: {error.os_error.strerror or type(error.os_error).__name__}"
        if isinstance(error, aiohttp.ClientPayloadError | aiohttp.ServerDisconnectedError | ConnectionError):
            return "the connection ended before the whole answer"
        return f"the answer is not HTTP that can be read ({type(error).__name__})"


@functools.cache
def _agent() -> str:
    return f"webhookd/{version('webhookd')}"  # slow, because `version` reads a file
