"""Connections that are silent, slow, malformed or too many, and how the next webhook is then answered."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import socket
from collections.abc import AsyncIterator

import aiohttp
import asyncpg
import pytest
import uvloop
from aiohttp import web

from tests.conftest import Start
from tests.helpers.running import KEY
from tests.helpers.wait import until
from webhookd.authorizenet import sampling
from webhookd.authorizenet.notification import EVENT_TYPES
from webhookd.authorizenet.signature import sign
from webhookd.daemon import Daemon
from webhookd.dev import traffic
from webhookd.http.admission import Admission
from webhookd.http.connection import Connection
from webhookd.http.connections import ListenerSettings
from webhookd.http.listener import Listener, public_counters
from webhookd.telemetry.metrics import Metrics

PATH = "/webhooks/authorize-net"


def address(daemon: Daemon) -> tuple[str, int]:
    host, _, port = daemon.public_url.removeprefix("http://").partition(":")
    return host, int(port)


@contextlib.asynccontextmanager
async def connected(daemon: Daemon, count: int = 1) -> AsyncIterator[list[tuple[asyncio.StreamReader, asyncio.StreamWriter]]]:
    streams = [await asyncio.open_connection(*address(daemon)) for _ in range(count)]
    try:
        yield streams
    finally:
        for _, writer in streams:
            writer.close()
        await asyncio.gather(*(writer.wait_closed() for _, writer in streams), return_exceptions=True)


async def rest(reader: asyncio.StreamReader, deadline: float = 15.0) -> bytes:
    """Returns all bytes that arrive until the server closes or resets the connection."""
    came = b""
    with contextlib.suppress(ConnectionError):
        while chunk := await asyncio.wait_for(reader.read(65_536), deadline):
            came += chunk
    return came


def statuses(answers: bytes) -> list[bytes]:
    return re.findall(rb"HTTP/1\.[01] (\d{3}) ", answers)


def metric(daemon: Daemon, name: str, **labels: str) -> float:
    return daemon.metrics.registry.get_sample_value(f"webhookd_{name}", labels) or 0.0


async def open_connections(daemon: Daemon, count: int) -> None:
    await until(lambda: metric(daemon, "connections") == count, f"there are {count} connections")


def request(body: bytes, *headers: str) -> bytes:
    lines = [
        f"POST {PATH} HTTP/1.1",
        "Host: x",
        f"X-ANET-Signature: {sign(body, KEY)}",
        f"Content-Length: {len(body)}",
        *headers,
    ]
    return "\r\n".join([*lines, "", ""]).encode() + body


def body() -> bytes:
    return sampling.sample(EVENT_TYPES[0], 1).body


async def accepted(daemon: Daemon) -> None:
    """Sends a fresh webhook through a connection of its own, and asserts that it is accepted."""
    (sample,) = sampling.stream(EVENT_TYPES[:1], 1)
    async with aiohttp.ClientSession() as session:
        answer = await traffic.post(session, daemon.public_url + PATH, sample, key=KEY)
    assert (answer.status, answer.outcome) == (200, "accepted")


async def test_a_connection_that_says_nothing_and_one_whose_head_trickles_are_closed(start: Start) -> None:
    daemon = await start(roles="receive", head_timeout=2)
    async with connected(daemon, 2) as [(silent, _), (slow, writer)]:
        writer.write(b"POST / HTTP/1.1\r\nX-Header: ")

        async def trickle() -> None:
            while True:
                writer.write(b"x")
                await asyncio.sleep(0.05)

        trickling = asyncio.create_task(trickle())
        try:
            assert await rest(silent) == b""
            assert (await rest(slow)).startswith(b"HTTP/1.1 408 ")
        finally:
            trickling.cancel()
    assert metric(daemon, "connections_closed_total", reason="head_timeout") == 2
    await open_connections(daemon, 0)


async def test_a_connection_between_two_requests_is_not_closed_by_the_timeout_of_the_first_head(start: Start) -> None:
    daemon = await start(roles="receive", head_timeout=1)
    async with connected(daemon, 2) as [(reader, writer), (silent, _)]:
        writer.write(request(body()))
        assert (await reader.readuntil(b"}")).startswith(b"HTTP/1.1 200 ")
        assert await rest(silent) == b"", "a younger one's time is over"
        writer.write(request(body()))
        assert (await reader.readuntil(b"}")).startswith(b"HTTP/1.1 200 ")


async def test_an_expected_body_that_never_comes_is_408(start: Start) -> None:
    daemon = await start(roles="receive", body_timeout=0.3)
    async with connected(daemon) as [(reader, writer)]:
        writer.write(f"POST {PATH} HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\nExpect: 100-continue\r\n\r\n".encode())
        assert await reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
        assert (await rest(reader)).startswith(b"HTTP/1.1 408 ")


async def test_a_body_that_is_under_way_at_a_stop_is_answered(start: Start) -> None:
    daemon = await start(roles="receive", body_timeout=0.3)
    async with connected(daemon) as [(reader, writer)]:
        writer.write(f"POST {PATH} HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\nExpect: 100-continue\r\n\r\n".encode())
        assert await reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
        await daemon.stop()
        assert (await rest(reader)).startswith(b"HTTP/1.1 408 ")


async def test_silent_connections_beyond_the_limit_make_room_for_webhooks(start: Start) -> None:
    daemon = await start(roles="receive", max_connections=20, head_timeout=60)
    async with connected(daemon, 100) as streams:
        await accepted(daemon)
        await until(lambda: metric(daemon, "connections") <= 20, "no more connections than the limit")
        assert await rest(streams[0][0]) == b"", "the oldest goes"
        assert not streams[-1][0].at_eof(), "the youngest stays"


async def test_connections_that_have_sent_a_request_are_kept_before_silent_ones(start: Start) -> None:
    daemon = await start(roles="receive", max_connections=20, head_timeout=60)
    async with connected(daemon) as [(reader, writer)]:
        writer.write(request(body()))
        await reader.readuntil(b"}")
        assert daemon.receive is not None
        assert daemon.receive.admission.open_requests == 0, "it is answered"
        async with connected(daemon, 100):
            await until(lambda: metric(daemon, "connections") <= 20, "silent ones are closed")
            writer.write(request(body()))
            assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 200 ")


async def test_a_webhook_that_has_come_is_taken_even_where_its_connection_was_to_make_room(start: Start) -> None:
    """The connection is silent only because nothing has read the webhook yet."""
    daemon = await start(roles="receive", max_connections=20)
    with contextlib.ExitStack() as clients:
        first = clients.enter_context(socket.create_connection(address(daemon)))
        first.sendall(request(body()))
        for _ in range(60):
            clients.enter_context(socket.create_connection(address(daemon)))
        first.setblocking(False)
        answer = await asyncio.wait_for(asyncio.get_running_loop().sock_recv(first, 65_536), 15)
    assert statuses(answer) == [b"200"]


async def test_where_every_connection_is_at_work_the_newest_is_answered_503(
    start: Start, connection: asyncpg.Connection[asyncpg.Record]
) -> None:
    daemon = await start(roles="receive", max_connections=20, commit_timeout=20, shutdown_grace=30)
    await connection.execute("BEGIN; LOCK TABLE ledger IN SHARE MODE")
    async with connected(daemon, 20) as busy:
        for _, writer in busy:
            writer.write(request(body()))
        await until(lambda: metric(daemon, "open_requests") == 20, "all are at work")
        async with connected(daemon) as [(reader, writer)]:
            writer.write(request(body()))
            answer = await rest(reader)
        assert answer.startswith(b"HTTP/1.1 503 ")
        assert b"\r\nRetry-After: 5\r\n" in answer
        await connection.execute("COMMIT")
        for reader, _ in busy:
            assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 200 ")


async def test_a_client_that_reads_no_answer_is_cut(start: Start) -> None:
    daemon = await start(roles="receive", head_timeout=0.5)
    plain = socket.socket()
    plain.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    plain.setblocking(False)
    loop = asyncio.get_running_loop()
    await loop.sock_connect(plain, address(daemon))

    async def ask_for_ever() -> None:
        while True:
            await loop.sock_sendall(plain, b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n" * 1000)

    asking = asyncio.create_task(ask_for_ever())
    try:
        await until(
            lambda: metric(daemon, "connections_closed_total", reason="unread") == 1, "the connection is cut", deadline=60
        )
        await open_connections(daemon, 0)
    finally:
        asking.cancel()
        await asyncio.gather(asking, return_exceptions=True)
        plain.close()
    await accepted(daemon)


async def test_pipelined_webhooks_are_answered_in_their_order(start: Start) -> None:
    daemon = await start(roles="receive")
    bodies = [sample.body for sample in sampling.stream(EVENT_TYPES[:1], 50)]
    async with connected(daemon) as [(reader, writer)]:
        writer.write(b"".join(map(request, bodies)) + request(bodies[0], "Connection: close"))
        answers = (await rest(reader)).split(b"HTTP/1.1 ")[1:]
    assert [answer[:3] for answer in answers] == [b"200"] * 51
    ids = [json.loads(answer.partition(b"\r\n\r\n")[2])["id"] for answer in answers]
    assert len(set(ids)) == 50
    assert ids[50] == ids[0]
    await until(lambda: metric(daemon, "open_requests") == 0, "none is under way")


MALFORMED = {
    "TLS": bytes.fromhex("16030100c8010000c40303") + bytes(200),
    "a bare LF": f"POST {PATH} HTTP/1.1\nHost: x\n\n".encode() + b"\r\n\r\n",
    "no version": b"POST /\r\n\r\n",
    "a version that is none": b"GET /livez HTTP/9.9\r\n\r\n",
    "a long line": b"GET /" + b"a" * 20_000 + b" HTTP/1.1\r\n\r\n",
    "a long field": b"GET /livez HTTP/1.1\r\nHost: x\r\nA: " + b"a" * 20_000 + b"\r\n\r\n",
    "too many fields": b"GET /livez HTTP/1.1\r\nHost: x\r\n" + b"A: b\r\n" * 1000 + b"\r\n",
    "a field without a colon": b"GET /livez HTTP/1.1\r\nHost: x\r\nnothing\r\n\r\n",
    "a space before the colon": b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length : 5\r\n\r\nhello",
    "a NUL in a field": b"GET /livez HTTP/1.1\r\nHost: x\r\nA: \0\r\n\r\n",
    "a length that is negative": b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n",
    "a length with a sign": b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: +5\r\n\r\nhello",
    "two lengths": b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello!",
    "a length and chunks": b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "chunks and a length": b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n",
    "chunks that are not last": b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n",
    "an encoding in disguise": b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: \x0bchunked\r\nContent-Length: 1\r\n\r\na",
}


@pytest.mark.parametrize("sent", MALFORMED.values(), ids=MALFORMED)
async def test_malformed_http_is_400_and_closed_and_counted_and_makes_no_line_in_the_log(
    sent: bytes, start: Start, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    """A length together with chunks, or two lengths, can smuggle one request past a proxy inside another request."""
    daemon = await start(roles="receive")
    caplog.clear()
    capfd.readouterr()
    async with connected(daemon) as [(reader, writer)]:
        writer.write(sent + request(body()))
        answers = await rest(reader)
    assert statuses(answers) == [b"400"], "what follows is not taken for a request"
    assert metric(daemon, "received_total", account="unknown", outcome="malformed") == 1
    assert caplog.records == []
    logged = capfd.readouterr()
    assert not re.search("Traceback|request", logged.out + logged.err)
    await open_connections(daemon, 0)


async def test_a_malformed_chunk_is_400(start: Start) -> None:
    daemon = await start(roles="receive")
    async with connected(daemon) as [(reader, writer)]:
        writer.write(f"POST {PATH} HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n".encode())
        assert statuses(await rest(reader)) == [b"400"]


async def test_a_head_without_an_end_is_431_whatever_its_lines(start: Start) -> None:
    daemon = await start(roles="receive", head_timeout=30)
    async with connected(daemon) as [(reader, writer)]:
        with contextlib.suppress(ConnectionError):
            writer.write(b"POST / HTTP/1.1\r\nHost: x\r\n")
            for n in range(100):
                writer.write(b"X-%d: " % n + b"x" * 2000 + b"\r\n")
                await writer.drain()
                await asyncio.sleep(0.001)
        answer = await rest(reader)
    assert answer[:13] in (b"HTTP/1.1 431 ", b"")  # a reset may overtake the answer
    assert metric(daemon, "connections_closed_total", reason="head_too_large") == 1


@pytest.mark.parametrize("length", ["Content-Length: 80001\r\n\r\n", "Transfer-Encoding: chunked\r\n\r\n13881\r\n"])
async def test_large_bodies_share_a_budget_and_do_not_keep_out_notifications(length: str, start: Start) -> None:
    daemon = await start(roles="receive", max_body_bytes=100_000, max_body_memory=240_003, body_timeout=10)
    head = f"POST {PATH} HTTP/1.1\r\nHost: x\r\n{length}".encode()
    async with connected(daemon, 10) as streams:
        for _, writer in streams:
            writer.write(head + b"x" * 80_000)
        await until(lambda: metric(daemon, "received_total", account="default", outcome="overload") >= 7, "all but three")
        await accepted(daemon)
    await open_connections(daemon, 0)
    # The whole budget was given back.
    large = b" " * 80_000
    async with connected(daemon, 3) as streams:
        for _, writer in streams:
            writer.write(request(large))
        for reader, _ in streams:
            assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 200 ")  # quarantined


async def test_a_refused_webhook_whose_body_has_come_keeps_its_connection(
    start: Start, connection: asyncpg.Connection[asyncpg.Record]
) -> None:
    """Under overload, a new connection for each refusal would cost more than the refusal."""
    daemon = await start(roles="receive", max_pending=1, commit_timeout=30, shutdown_grace=40)
    await connection.execute("BEGIN; LOCK TABLE ledger IN SHARE MODE")
    async with connected(daemon, 2) as [(waiting, first), (reader, writer)]:
        first.write(request(body()))
        await until(lambda: metric(daemon, "commit_batch_size_count") == 1, "one webhook waits")
        writer.write(b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n")  # a connection that is in use
        await reader.readuntil(b"}")
        for _ in range(3):
            writer.write(request(body()))
            answer = await reader.readuntil(b"\r\n\r\n")
            assert answer.startswith(b"HTTP/1.1 503 ")
            assert b"Connection: close" not in answer
            await reader.readuntil(b"}")
        await connection.execute("COMMIT")
        assert (await waiting.readuntil(b"}")).startswith(b"HTTP/1.1 200 ")


async def test_while_new_requests_are_shed_each_is_503_before_it_is_parsed_and_liveness_is_told(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Admission, "observe", lambda self, *_, **__: setattr(self, "late", True))
    daemon = await start(roles="receive")
    await until(lambda: daemon.receive is not None and daemon.receive.admission.late, "it sheds")
    async with connected(daemon, 4) as [*streams, (live, liveness)]:
        await open_connections(daemon, 4)
        for reader, writer in streams:
            writer.write(request(body()))
            head, _, said = (await rest(reader)).partition(b"\r\n\r\n")
            assert statuses(head) == [b"503"]
            assert b"\r\nRetry-After: 5\r\n" in head
            assert json.loads(said)["status"] == 503
        liveness.write(b"GET /livez HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        assert statuses(await rest(live)) == [b"200"]
    assert metric(daemon, "received_total", account="unknown", outcome="overload") == 3


async def test_a_webhook_that_comes_with_its_connection_is_shed_on_the_bare_socket(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Admission, "observe", lambda self, *_, **__: setattr(self, "late", True))
    daemon = await start(roles="receive")
    await until(lambda: daemon.receive is not None and daemon.receive.admission.late, "it sheds")
    monkeypatch.setattr(Connection, "connection_made", lambda *_: pytest.fail("a transport was made"))
    with socket.create_connection(address(daemon)) as client:
        client.sendall(request(body()))
        client.setblocking(False)
        answer = await asyncio.wait_for(asyncio.get_running_loop().sock_recv(client, 65_536), 15)
        assert await asyncio.wait_for(asyncio.get_running_loop().sock_recv(client, 65_536), 15) == b""
    assert statuses(answer) == [b"503"]
    assert metric(daemon, "received_total", account="unknown", outcome="overload") == 1


def test_connections_that_have_come_together_are_taken_within_a_few_turns_of_the_loop() -> None:
    """uvloop's own server accepts one connection a turn: if the loop is late, webhooks wait where nothing can refuse them."""

    async def nothing(_: web.BaseRequest) -> web.StreamResponse:
        return web.Response()

    async def turns() -> int:
        metrics = Metrics()
        listener = Listener(
            web.ServerRunner(web.Server(nothing), shutdown_timeout=1),
            Admission(max_pending=1, metrics=metrics),
            ListenerSettings(connections=1000, head_timeout=10, body_timeout=5, read_timeout=10),
            public_counters(metrics),
        )
        await listener.start("127.0.0.1", 0)
        with contextlib.ExitStack() as clients:
            for _ in range(500):
                clients.enter_context(socket.create_connection(listener.addresses[0]))  # while the loop does not run
            needed = 0
            while metrics.registry.get_sample_value("webhookd_connections") != 500:
                needed += 1
                assert needed < 1000
                await asyncio.sleep(0)
        await listener.stop()
        return needed

    assert uvloop.run(turns()) < 50


@pytest.mark.parametrize("before", [1, 2, 3])
async def test_a_body_that_ends_too_early_behind_other_requests_is_refused_at_once(start: Start, before: int) -> None:
    """The client ends its half before the requests ahead are answered, so no later report says that the body ends."""
    daemon = await start(body_timeout=30)
    async with connected(daemon) as [(reader, writer)]:
        writer.write(request(b"{}") * before + request(b"{}")[:-1])
        writer.write_eof()
        assert statuses(await rest(reader)) == [b"200"] * before + [b"400"]


@pytest.mark.parametrize("size", [34_000, 100_000])
async def test_a_large_body_behind_another_request_is_read_although_the_client_sends_no_more(start: Start, size: int) -> None:
    daemon = await start()
    async with connected(daemon) as [(reader, writer)]:
        writer.write(request(b"{}") + request(b'{"a":"' + b"x" * size + b'"}'))
        writer.write_eof()
        assert statuses(await rest(reader)) == [b"200", b"200"]
