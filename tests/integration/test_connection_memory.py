"""A connection that has ended leaves no memory to Python's collector of cycles, which runs seldom in the daemon."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Iterator

import pytest

from tests.conftest import Start
from tests.helpers.wait import until
from tests.integration.test_connections import PATH, address, open_connections, request
from webhookd.http.connection import Connection

_HEAD = f"POST {PATH} HTTP/1.1\r\nHost: x\r\n".encode()
STREAMS = {
    "answered": request(b"{}"),
    "forged": _HEAD + b"X-ANET-Signature: sha512=00\r\nContent-Length: 2\r\n\r\n{}",
    "chunks": _HEAD + b"Transfer-Encoding: chunked\r\n\r\n" + b"1\r\nx\r\n" * 6_000 + b"0\r\n\r\n",
    "body-cut-off": request(b"{}")[:-1],
    "head-cut-off": _HEAD,
    "malformed": b"no HTTP\r\n\r\n",
    "pipelined": request(b"{}") * 5,
    "malformed-behind": request(b"{}") * 2 + b"no HTTP\r\n\r\n",
    "upgrade": request(b"{}", "Upgrade: websocket", "Connection: Upgrade") + request(b"{}"),
    "upgrade-malformed": request(b"{}", "Upgrade: websocket", "Connection: Upgrade") + b"no HTTP\r\n\r\n",
    "compressed": _HEAD + b"Content-Encoding: gzip\r\nContent-Length: 100000\r\n\r\n" + bytes(20_000),
}


@pytest.fixture
def no_collector() -> Iterator[None]:
    """Stops the collector of cycles during the test."""
    gc.collect()
    gc.disable()
    yield
    gc.enable()


@pytest.mark.parametrize("stream", STREAMS.values(), ids=STREAMS)
@pytest.mark.usefixtures("no_collector")
async def test_a_connection_that_has_ended_is_freed_without_the_collector(stream: bytes, start: Start) -> None:
    daemon = await start()
    for ends in ("read", "at once", "later"):
        reader, writer = await asyncio.open_connection(*address(daemon))
        writer.write(stream)
        if ends == "read":
            writer.write_eof()
            await reader.read()
        else:
            await open_connections(daemon, 1)
            await asyncio.sleep(0.1 if ends == "later" else 0)  # later: the handler waits for the body that does not come
        writer.transport.abort()
        await open_connections(daemon, 0)

    await until(lambda: not any(isinstance(one, Connection) for one in gc.get_objects()), "the connections are freed")
