"""Strangers without a key attack while the provider sends: each webhook is answered, and none is lost or doubled."""

from __future__ import annotations

import asyncio
import gzip
import random
import socket
from collections.abc import Awaitable, Callable
from urllib.parse import urlsplit

import pytest

from tests.faults.test_overload import MIB, accepted, watched
from tests.helpers.rig import Rig

PATH = b"/webhooks/authorize-net"
ATTACKERS = 60  # more than CONNECTIONS, the limit of the listener
CONNECTIONS = 40
Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]

_BOMB = gzip.compress(bytes(64 * MIB))
_CHUNKS = b"POST " + PATH + b" HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n" + b"1\r\nx\r\n" * 6_000 + b"0\r\n\r\n"
_FORGED = b"POST " + PATH + b" HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\nX-ANET-Signature: sha512=00\r\n\r\n{}"
_LIVE = b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n"


async def bomb(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Sends a small body that inflates to a large one."""
    head = b"POST " + PATH + b" HTTP/1.1\r\nHost: x\r\nContent-Encoding: gzip\r\nContent-Length: %d\r\n\r\n" % len(_BOMB)
    writer.write(head + _BOMB)
    await reader.read()


async def unevictable(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Sends a request that is answered at once, and then its body byte by byte."""
    writer.write(_LIVE[:-2] + b"Content-Length: 100\r\n\r\n")
    while not reader.at_eof():
        writer.write(b"x")
        await asyncio.sleep(0.2)


async def slow_bodies(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Sends a webhook, and its body byte by byte."""
    writer.write(b"POST " + PATH + b" HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n")
    while not writer.transport.is_closing():
        writer.write(b"x")
        await asyncio.sleep(0.2)


async def chunks(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Sends a body in thousands of chunks, in one read."""
    writer.write(_CHUNKS)
    answer = await reader.readuntil(b"}")
    assert answer[9:12] in (b"400", b"503"), answer


async def pipelines(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Sends many requests at once, cut anywhere, with malformed bytes at their end."""
    stream = _FORGED * 20 + _LIVE + b"no HTTP\r\n\r\n"
    at = 0
    while at < len(stream):
        end = at + random.randint(1, 1000)
        writer.write(stream[at:end])
        await asyncio.sleep(0)
        at = end
    found = [line[9:12] for line in (await reader.read()).split(b"\r\n") if line.startswith(b"HTTP/1.1 ")]
    # Requests that arrive in one read with the malformed bytes may stay unanswered.
    assert set(found) <= {b"401", b"503", b"200", b"400"}, found
    assert b"400" not in found[:-1], found


async def half_close(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Sends a request, and closes the client's half of the connection."""
    writer.write(_FORGED)
    writer.write_eof()
    answer = await reader.read()
    assert not answer or answer[9:12] in (b"401", b"503"), answer


async def unread(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Sends requests without end, and reads no answer."""
    writer.transport.pause_reading()  # type: ignore[attr-defined]
    while not writer.transport.is_closing():
        writer.write(_LIVE * 200)
        await writer.drain()


KINDS: list[Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]] = [
    bomb,
    unevictable,
    slow_bodies,
    chunks,
    pipelines,
    half_close,
    unread,
]


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__.replace("_", "-"))
async def test_while_strangers_attack_the_providers_webhooks_are_taken(
    kind: Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]], rig: Rig
) -> None:
    daemon = await rig.daemon(max_connections=str(CONNECTIONS), head_timeout="2", body_timeout="2")
    url = urlsplit(daemon.public_url)
    wrong: list[AssertionError] = []

    async def attack() -> None:
        while True:
            await asyncio.sleep(0.2)
            client = socket.socket()
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            client.setblocking(False)
            try:
                await asyncio.get_running_loop().sock_connect(client, (url.hostname, url.port))
                reader, writer = await asyncio.open_connection(sock=client)
            except OSError:
                client.close()
                continue
            try:
                async with asyncio.timeout(10):
                    await kind(reader, writer)
            except AssertionError as error:
                wrong.append(error)
            except (OSError, TimeoutError, asyncio.IncompleteReadError):
                pass
            finally:
                writer.transport.abort()

    attackers = [asyncio.create_task(attack()) for _ in range(ATTACKERS)]
    try:
        async with watched(daemon) as vigil:
            for _ in range(rig.rounds(5, 40)):
                await accepted(rig, within=20)
                summary = await rig.send(10, connections=5)
                assert set(summary.statuses) <= {0, 200, 503}, summary
        vigil.check(grown=100 * MIB)
    finally:
        for attacker in attackers:
            attacker.cancel()
        await asyncio.gather(*attackers, return_exceptions=True)
    assert not wrong, wrong[0]
    assert await daemon.metric("webhookd_connections") <= CONNECTIONS * 2
    log = daemon.log.read_text()
    assert "Traceback" not in log
    assert "a request failed" not in log, "an attack makes no line"
    rig.recovered()
    await rig.finish()
