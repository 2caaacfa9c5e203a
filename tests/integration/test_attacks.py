"""Attacks on a listener: each test sends input that once blocked the listener, and checks how the next request is answered."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import re
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from urllib.parse import urlsplit

import asyncpg
import pytest
from aiohttp import StreamReader, web
from aiohttp.http_parser import DeflateBuffer

from tests.conftest import Start
from tests.helpers.running import KEY
from tests.helpers.wait import until
from tests.integration.test_connections import (
    PATH,
    accepted,
    address,
    body,
    connected,
    metric,
    open_connections,
    request,
    rest,
    statuses,
)
from tests.integration.test_requests import HOLD, bodies
from webhookd.authorizenet.signature import sign
from webhookd.daemon import _ADMIN_LISTENER, Daemon
from webhookd.http.admission import Admission
from webhookd.http.connection import Connection
from webhookd.http.connections import ListenerSettings
from webhookd.http.listener import Listener, public_counters
from webhookd.telemetry.metrics import Metrics

BOMB = gzip.compress(bytes(1 << 22))
ONE_BYTE_TO_COME = b"GET /livez HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\n\r\n"
SLOW_BODY = f"POST {PATH} HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\nx".encode()
LIVE = b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n"


@contextlib.asynccontextmanager
async def at(daemon: Daemon, listener: str) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    """Opens a connection to the listener `public` or `admin`."""
    url = urlsplit(daemon.public_url if listener == "public" else daemon.admin_url)
    reader, writer = await asyncio.open_connection(url.hostname, url.port)
    try:
        yield reader, writer
    finally:
        writer.close()


def bomb(path: str) -> bytes:
    head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Encoding: gzip\r\n"
    return f"{head}Connection: close\r\nContent-Length: {len(BOMB)}\r\n\r\n".encode() + BOMB


def chunked(count: int, size: int = 1) -> bytes:
    """Returns a signed webhook with a body of `count` chunks, `size` bytes each."""
    signature = sign(b"x" * count * size, KEY)
    head = f"POST {PATH} HTTP/1.1\r\nHost: x\r\nX-ANET-Signature: {signature}\r\nTransfer-Encoding: chunked\r\n\r\n".encode()
    return head + b"%x\r\n%b\r\n" % (size, b"x" * size) * count + b"0\r\n\r\n"


@pytest.mark.parametrize(("listener", "path"), [("public", PATH), ("admin", "/session")])
async def test_no_byte_that_comes_is_inflated(listener: str, path: str, start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    inflated = []
    monkeypatch.setattr(DeflateBuffer, "feed_data", lambda *_: inflated.append(1))
    daemon = await start(roles="receive")
    async with at(daemon, listener) as (reader, writer):
        writer.write(bomb(path))
        answers = await rest(reader)
    assert statuses(answers)[0] in (b"415", b"422", b"400")
    assert not inflated


@pytest.mark.parametrize("held", [ONE_BYTE_TO_COME, SLOW_BODY, SLOW_BODY[:40], b""], ids=["answered", "body", "head", "silent"])
async def test_connections_with_an_incomplete_request_make_room(held: bytes, start: Start) -> None:
    daemon = await start(roles="receive", max_connections=20, head_timeout=60, body_timeout=60)
    async with connected(daemon, 20) as streams:
        for _, writer in streams:
            writer.write(held)
        await asyncio.sleep(0.2)
        async with asyncio.timeout(20):
            await accepted(daemon)
            await accepted(daemon)
        if held == SLOW_BODY:
            assert statuses(await rest(streams[0][0])) == [b"503"], "the oldest goes, and is answered"
        for _, writer in streams:
            writer.write(b"x")
    await open_connections(daemon, 0)


async def test_a_request_that_is_answered_without_its_body_is_no_work(start: Start) -> None:
    daemon = await start(roles="receive")
    async with connected(daemon) as [(reader, writer)]:
        writer.write(ONE_BYTE_TO_COME)
        assert statuses(await reader.readuntil(b"}")) == [b"200"]
        assert metric(daemon, "open_requests") == 0
        assert await rest(reader) == b"", "and its connection ends"
    await open_connections(daemon, 0)


@pytest.mark.parametrize(("count", "size"), [(1_000, 1), (4_096, 256), (1_024, 1_024), (64, 16_384)])
async def test_a_body_in_chunks_as_a_proxy_makes_them_is_read(count: int, size: int, start: Start) -> None:
    daemon = await start(roles="receive")
    async with connected(daemon) as [(reader, writer)]:
        writer.write(chunked(count, size) + LIVE)
        assert b'"quarantined"' in await reader.readuntil(b"}")
        assert statuses(await asyncio.wait_for(reader.readuntil(b"}"), 10)) == [b"200"]


@pytest.mark.parametrize(("count", "size"), [(6_000, 1), (20_000, 1), (4_096, 255)])
async def test_a_body_in_too_many_small_chunks_is_refused_before_all_are_parsed(
    count: int, size: int, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A small chunk costs as much as a large chunk."""
    parsed = 0
    begin = StreamReader.begin_http_chunk_receiving

    def counted(content: StreamReader) -> None:
        nonlocal parsed
        parsed += 1
        begin(content)

    monkeypatch.setattr(StreamReader, "begin_http_chunk_receiving", counted)
    daemon = await start(roles="receive")
    async with connected(daemon) as [(reader, writer)]:
        writer.write(chunked(count, size) + LIVE)
        assert statuses(await rest(reader)) == [b"400"], "and its connection ends"
    assert parsed <= 2_500
    assert metric(daemon, "received_total", account="default", outcome="truncated") == 1
    await open_connections(daemon, 0)


@pytest.fixture
def breaking(monkeypatch: pytest.MonkeyPatch) -> None:
    """Makes aiohttp's parser fail at each chunk, as if an assertion of its own failed."""

    def fail(*_: object) -> None:
        raise AssertionError("SECRET-LOOKING")

    monkeypatch.setattr(StreamReader, "begin_http_chunk_receiving", fail)


@pytest.mark.usefixtures("breaking")
@pytest.mark.parametrize("apart", [False, True], ids=["with its head", "after its head"])
async def test_whatever_the_parser_raises_is_400_counted_and_not_logged(
    apart: bool, start: Start, capfd: pytest.CaptureFixture[str]
) -> None:
    daemon = await start(roles="receive")
    capfd.readouterr()
    async with connected(daemon) as [(reader, writer)]:
        head, end, chunks = chunked(3).partition(b"\r\n\r\n")
        writer.write(head + end)
        if apart:
            await asyncio.sleep(0.1)
        writer.write(chunks + LIVE)
        assert statuses(await rest(reader)) == [b"400"]
    logged = capfd.readouterr()
    assert not re.search("Traceback|AssertionError|Fatal", logged.out + logged.err)
    malformed = metric(daemon, "received_total", account="unknown", outcome="malformed")
    assert malformed + metric(daemon, "received_total", account="default", outcome="truncated") == 1
    await open_connections(daemon, 0)


async def test_a_request_between_two_reads_is_answered(start: Start) -> None:
    daemon = await start(roles="receive")
    async with connected(daemon) as [(reader, writer)]:
        writer.write(request(body()) + LIVE[:-4])
        assert statuses(await reader.readuntil(b"}")) == [b"200"]
        writer.write(b"\r\n\r\n")
        assert statuses(await asyncio.wait_for(reader.readuntil(b"}"), 10)) == [b"200"]


@pytest.mark.usefixtures("breaking")
@pytest.mark.parametrize("behind", [b"no HTTP\r\n\r\n", chunked(3)], ids=["no HTTP", "chunks"])
async def test_what_is_malformed_is_answered_after_the_request_before_it(
    behind: bytes, start: Start, connection: asyncpg.Connection[asyncpg.Record]
) -> None:
    daemon = await start(roles="receive", commit_timeout=9)
    await connection.execute(HOLD)
    async with connected(daemon) as [(reader, writer)]:
        writer.write(request(body()))
        await until(lambda: metric(daemon, "commit_batch_size_count") == 1, "its commit has begun")
        writer.write(behind)
        await asyncio.sleep(0.2)
        await connection.execute("COMMIT")
        assert statuses(await rest(reader)) == [b"200", b"400"]


async def test_a_refusal_for_overload_does_not_overtake_the_answer_before_it(
    start: Start, connection: asyncpg.Connection[asyncpg.Record], monkeypatch: pytest.MonkeyPatch
) -> None:
    daemon = await start(roles="receive", commit_timeout=9)
    first, second = bodies(2)
    await connection.execute(HOLD)
    async with connected(daemon) as [(reader, writer)]:
        writer.write(request(first))
        await until(lambda: metric(daemon, "commit_batch_size_count") == 1, "its commit has begun")
        monkeypatch.setattr(Admission, "full", True)
        writer.write(request(second))
        await asyncio.sleep(0.2)
        await connection.execute("COMMIT")
        assert statuses(await reader.readuntil(b"}")) == [b"200"]
        assert statuses(await asyncio.wait_for(reader.readuntil(b"}"), 10)) == [b"503"]


@pytest.mark.parametrize(
    ("sent", "expected"),
    [(request(body()), [b"200"]), (request(body()) * 3, [b"200"] * 3), (SLOW_BODY, [b"400"])],
    ids=["one", "three", "a part of one"],
)
async def test_a_client_that_ends_its_half_gets_its_answers(sent: bytes, expected: list[bytes], start: Start) -> None:
    daemon = await start(roles="receive")
    async with connected(daemon) as [(reader, writer)]:
        writer.write(sent)
        writer.write_eof()
        assert statuses(await rest(reader)) == expected
    await open_connections(daemon, 0)


@pytest.mark.parametrize("end", [b"", b"no HTTP\r\n\r\n"], ids=["open", "to be closed"])
async def test_a_client_that_reads_nothing_is_cut(end: bytes, start: Start) -> None:
    daemon = await start(roles="receive", head_timeout=0.5)
    plain = socket.socket()
    plain.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    plain.setblocking(False)
    loop = asyncio.get_running_loop()
    await loop.sock_connect(plain, address(daemon))
    asking = asyncio.create_task(loop.sock_sendall(plain, LIVE * 50_000 + end))
    try:
        await until(
            lambda: metric(daemon, "connections_closed_total", reason="unread") == 1, "the connection is cut", deadline=60
        )
        await open_connections(daemon, 0)
    finally:
        asking.cancel()
        await asyncio.gather(asking, return_exceptions=True)
        plain.close()


async def test_a_client_that_reads_nothing_is_served_no_more_than_its_buffers_hold(start: Start) -> None:
    daemon = await start(roles="receive")
    forged = f"POST {PATH} HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\nX-ANET-Signature: sha512=00\r\n\r\n{{}}".encode()

    def served() -> float:
        return metric(daemon, "received_total", account="default", outcome="signature_malformed")

    with socket.socket() as plain:
        plain.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        plain.setblocking(False)
        loop = asyncio.get_running_loop()
        await loop.sock_connect(plain, address(daemon))
        asking = asyncio.create_task(loop.sock_sendall(plain, forged * 20_000))
        try:
            await until(
                lambda: metric(daemon, "connections_closed_total", reason="unread") == 1, "the connection is cut", deadline=60
            )
        finally:
            asking.cancel()
            await asyncio.gather(asking, return_exceptions=True)
    assert served() < 1_000


def listening(
    handler: Callable[[web.BaseRequest], Awaitable[web.StreamResponse]],
    metrics: Metrics,
    admission: Admission,
    connections: int,
    head_timeout: float = 60,
) -> Listener:
    settings = ListenerSettings(connections=connections, head_timeout=head_timeout, body_timeout=60, read_timeout=60)
    runner = web.ServerRunner(web.Server(handler), shutdown_timeout=1)
    return Listener(runner, admission, settings, public_counters(metrics))


async def test_a_request_in_a_pipeline_is_no_work_before_its_turn() -> None:
    """If waiting requests of a pipeline counted as work, a few clients with endless pipelines would use up all allowed work."""
    metrics, work = Metrics(), []
    admission = Admission(max_pending=1000, metrics=metrics)

    async def handler(_: web.BaseRequest) -> web.StreamResponse:
        asyncio.get_running_loop().call_soon(lambda: work.append(admission.open_requests))
        return web.Response()

    listener = listening(handler, metrics, admission, connections=20)
    await listener.start("127.0.0.1", 0)
    reader, writer = await asyncio.open_connection(*listener.addresses[0])
    writer.write(LIVE * 19 + LIVE[:-2] + b"Connection: close\r\n\r\n")
    assert len(statuses(await rest(reader))) == 20
    writer.close()
    await listener.stop()
    assert work == [0] * 20


async def test_one_request_of_a_pipeline_is_served_at_a_turn_of_the_loop() -> None:
    """Since Python 3.12, aiohttp's tasks begin at once: without a pause, one turn would serve the whole pipeline."""
    metrics, turn, served_at = Metrics(), 0, []

    async def count_turns() -> None:
        nonlocal turn
        while True:
            turn += 1
            await asyncio.sleep(0)

    async def handler(_: web.BaseRequest) -> web.StreamResponse:
        served_at.append(turn)
        return web.Response()

    listener = listening(handler, metrics, Admission(max_pending=1000, metrics=metrics), connections=20)
    await listener.start("127.0.0.1", 0)
    counting = asyncio.create_task(count_turns())
    reader, writer = await asyncio.open_connection(*listener.addresses[0])
    writer.write(LIVE * 19 + LIVE[:-2] + b"Connection: close\r\n\r\n")
    assert len(statuses(await rest(reader))) == 20
    counting.cancel()
    writer.close()
    await listener.stop()
    assert len(set(served_at)) == 20


async def test_a_request_whose_client_left_before_its_turn_keeps_no_task() -> None:
    """The connection is lost after aiohttp took the request from its queue, and before the handler began."""
    metrics = Metrics()

    async def handler(request: web.BaseRequest) -> web.StreamResponse:
        if request.path == "/first":
            assert request.transport is not None
            asyncio.get_running_loop().call_soon(request.transport.abort)
        else:
            await request.content.wait_eof()
        return web.Response()

    def handled() -> list[str]:
        return [repr(task) for task in asyncio.all_tasks() if "_handle_request" in repr(task.get_coro())]

    listener = listening(handler, metrics, Admission(max_pending=1000, metrics=metrics), connections=20)
    await listener.start("127.0.0.1", 0)
    reader, writer = await asyncio.open_connection(*listener.addresses[0])
    writer.write(b"GET /first HTTP/1.1\r\nHost: x\r\n\r\nPOST /second HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\n{}")
    await rest(reader)
    await until(lambda: not handled(), "no task waits for the rest of the body")
    writer.close()
    await listener.stop()


async def test_an_error_of_one_connection_ends_no_time_limit_of_others(monkeypatch: pytest.MonkeyPatch) -> None:
    metrics, broken = Metrics(), asyncio.Event()
    time_out = Connection.time_out

    def breaks_once(self: Connection) -> None:
        if not broken.is_set():
            broken.set()
            raise RuntimeError("an error in a time-out")
        time_out(self)

    async def handler(_: web.BaseRequest) -> web.StreamResponse:
        return web.Response()

    monkeypatch.setattr(Connection, "time_out", breaks_once)
    asyncio.get_running_loop().set_exception_handler(lambda *_: None)
    listener = listening(handler, metrics, Admission(max_pending=1000, metrics=metrics), connections=20, head_timeout=0.2)
    await listener.start("127.0.0.1", 0)
    reader, writer = await asyncio.open_connection(*listener.addresses[0])
    await broken.wait()
    assert await asyncio.wait_for(rest(reader), 20) == b"", "the silent connection is closed by a later sweep"
    writer.close()
    await listener.stop()


async def test_a_client_that_sends_a_pipeline_makes_room() -> None:
    metrics, asked = Metrics(), []
    newest = socket.socket()

    async def handler(request: web.BaseRequest) -> web.StreamResponse:
        asked.append(request.path)
        if len(asked) == 3:
            newest.connect(listener.addresses[0])
            newest.sendall(b"GET /newest HTTP/1.1\r\nHost: x\r\n\r\n")
        return web.Response()

    with newest:
        listener = listening(handler, metrics, Admission(max_pending=1000, metrics=metrics), connections=1)
        await listener.start("127.0.0.1", 0)
        reader, writer = await asyncio.open_connection(*listener.addresses[0])
        writer.write(LIVE * 1000)
        answers = statuses(await rest(reader))
        newest.setblocking(False)
        answer = await asyncio.wait_for(asyncio.get_running_loop().sock_recv(newest, 65_536), 15)
        writer.close()
        await listener.stop()
    assert statuses(answer) == [b"200"]
    assert 3 <= len(answers) < 1000, "it has what was answered"
    assert asked.index("/newest") < 1000


async def test_the_refusal_of_a_large_body_reaches_its_sender_and_ends_the_connection(start: Start) -> None:
    daemon = await start(roles="receive", max_body_bytes=1024)
    for size in (5_000, 500_000):
        async with connected(daemon) as [(reader, writer)]:
            writer.write(f"POST {PATH} HTTP/1.1\r\nHost: x\r\nContent-Length: {size}\r\n\r\n".encode() + bytes(size // 2))
            await asyncio.sleep(0.1)
            writer.write(bytes(size // 4))
            assert statuses(await rest(reader)) == [b"413"]
    await open_connections(daemon, 0)


MALFORMED = {
    "no HTTP": b"SECRET-LOOKING\x00\x01\r\n\r\n",
    "a long line": b"GET /SECRET-LOOKING" + b"a" * 200_000 + b" HTTP/1.1\r\n\r\n",
    "a field without a colon": b"GET /livez HTTP/1.1\r\nHost: x\r\nSECRET-LOOKING\r\n\r\n",
    "chunks": chunked(3),
}


@pytest.mark.usefixtures("breaking")
@pytest.mark.parametrize("sent", MALFORMED.values(), ids=MALFORMED)
@pytest.mark.parametrize("listener", ["public", "admin"])
async def test_malformed_http_is_a_problem_that_repeats_nothing_and_names_no_library(
    listener: str, sent: bytes, start: Start, capfd: pytest.CaptureFixture[str]
) -> None:
    daemon = await start(roles="receive")
    capfd.readouterr()
    async with at(daemon, listener) as (reader, writer):
        writer.write(sent)
        answer = await rest(reader)
    assert answer.startswith((b"HTTP/1.1 400 ", b"HTTP/1.1 431 "))
    assert b"Content-Type: application/problem+json" in answer
    assert b"\r\nServer: webhookd\r\n" in answer
    assert not re.search(rb"SECRET|aiohttp|Python", answer)
    if listener == "admin":
        assert b"\r\nX-Content-Type-Options: nosniff\r\n" in answer
        assert b"\r\nContent-Security-Policy: default-src 'none'" in answer
        assert metric(daemon, "admin_refused_total", reason="malformed") == 1
    else:
        assert metric(daemon, "received_total", account="unknown", outcome="malformed") == 1
    logged = capfd.readouterr()
    assert not re.search("Traceback|Error|failed", logged.out + logged.err)


async def test_the_admin_listener_bounds_its_connections(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = replace(_ADMIN_LISTENER, connections=30, head_timeout=60, body_timeout=60)
    monkeypatch.setattr("webhookd.daemon._ADMIN_LISTENER", settings)
    daemon = await start(roles="receive")
    async with contextlib.AsyncExitStack() as stack:
        streams = [await stack.enter_async_context(at(daemon, "admin")) for _ in range(200)]
        for _, writer in streams[::2]:
            writer.write(b"POST /session HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n\r\n")
        async with at(daemon, "admin") as (reader, writer):
            writer.write(LIVE)
            assert statuses(await asyncio.wait_for(reader.readuntil(b"}"), 20)) == [b"200"]
        await until(lambda: metric(daemon, "admin_connections") <= 31, "no more than the limit")
        assert metric(daemon, "admin_connections_closed_total", reason="idle") >= 150


async def test_a_slow_head_on_the_admin_listener_ends(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = replace(_ADMIN_LISTENER, connections=30, head_timeout=0.5, body_timeout=0.5)
    monkeypatch.setattr("webhookd.daemon._ADMIN_LISTENER", settings)
    daemon = await start(roles="receive", admin_anonymous="operate")
    async with at(daemon, "admin") as (silent, _), at(daemon, "admin") as (slow, writer), at(daemon, "admin") as (body_, other):
        writer.write(b"GET /livez HTTP/1.1\r\n")
        other.write(
            b"POST /session HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 100\r\n\r\n{"
        )
        assert await rest(silent) == b""
        answer = await rest(slow)
        assert statuses(answer) == [b"408"]
        assert b"\r\nX-Content-Type-Options: nosniff\r\n" in answer
        assert statuses(await rest(body_)) == [b"408"]
