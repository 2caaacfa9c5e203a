"""A destination that breaks HTTP costs bounded time and memory, and its answer is never taken for a success."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
import time
import tracemalloc
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import pytest
from aiohttp import web

from tests.conftest import Start
from tests.helpers.authority import Authority
from tests.helpers.receivers import SECRET, Behaviour, raw, receiving
from tests.integration.test_destinations import CUSTOMER, Connection, delivery, quick, send, until_none_is_left
from webhookd.authorizenet import sampling
from webhookd.deliver import response
from webhookd.deliver.client import Answer, HttpClient
from webhookd.deliver.destination import Destination
from webhookd.settings.destinations import DestinationSettings

if TYPE_CHECKING:
    from aiohttp.client_proto import ResponseHandler

__all__ = ["quick"]

_HEAD = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n"
_MIB = 1_048_576


async def answer_of(url: str, **settings: Any) -> Answer:
    given = {"url": url, "allow_private": True, "timeout": 2, **settings}
    client = HttpClient(Destination("shop", DestinationSettings.model_validate(given)))
    try:
        return await client.send(b"{}", {"webhook-id": "1"})
    finally:
        await client.close()


async def reset(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.transport.abort()


async def close(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.close()


async def half_a_head(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\nContent-Le")
    await writer.drain()


async def no_http(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(b"220 mail.example.com ESMTP\r\n")
    await writer.drain()


async def a_huge_head(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\nX-A: " + b"a" * _MIB + b"\r\n\r\n")
    await writer.drain()


async def stall(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await asyncio.sleep(60)


async def drip_a_head(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\n")
    while True:
        writer.write(b"X-A: a\r\n")
        await writer.drain()
        await asyncio.sleep(0.2)


async def interim_answers(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while True:
        writer.write(b"HTTP/1.1 102 Processing\r\n\r\n")
        await writer.drain()
        await asyncio.sleep(0.2)


@pytest.mark.parametrize("behaviour", [reset, close, half_a_head, no_http, a_huge_head], ids=lambda one: one.__name__)
async def test_without_a_whole_head_there_is_no_answer(behaviour: Behaviour) -> None:
    async with raw(behaviour) as url:
        answer = await answer_of(url)
    assert answer.status is None
    assert answer.error
    assert "hooks" not in answer.error, "no part of the URL's path is shown"


@pytest.mark.parametrize("behaviour", [stall, drip_a_head, interim_answers], ids=lambda one: one.__name__)
async def test_a_slow_head_ends_with_the_timeout(behaviour: Behaviour) -> None:
    async with raw(behaviour) as url:
        answer = await answer_of(url, timeout=0.7)
    assert (answer.status, answer.error) == (None, "no answer within 0.7 s")


async def test_the_first_byte_has_a_limit_of_its_own() -> None:
    async with raw(stall) as url:
        answer = await answer_of(url, timeout=60, first_byte_timeout=0.3)
    assert (answer.status, answer.error) == (None, "no further byte within 0.3 s")

    async def slow_body(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(_HEAD % 1000 + b"half")
        await writer.drain()
        await asyncio.sleep(60)

    async with raw(slow_body) as url:
        assert (await answer_of(url, timeout=60, first_byte_timeout=0.3)).status == 200


async def test_a_connection_has_a_limit_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """A listener whose queue is full answers no further connection."""
    monkeypatch.setattr("webhookd.deliver.client._CONNECT", 0.3)
    with socket.socket() as listener, contextlib.ExitStack() as stack:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        for _ in range(4):
            filler = stack.enter_context(socket.socket())
            filler.setblocking(False)
            filler.connect_ex(listener.getsockname())
        answer = await answer_of(f"http://127.0.0.1:{listener.getsockname()[1]}/", timeout=10)
    assert (answer.status, answer.error) == (None, "no connection within 0.3 s")


async def test_a_name_with_two_private_addresses_is_told_the_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    def look_up(*_: Any, **__: Any) -> list[Any]:
        six, four = (socket.AF_INET6, ("fd00::1", 443, 0, 0)), (socket.AF_INET, ("10.0.0.1", 443))
        return [(family, socket.SOCK_STREAM, 6, "", place) for family, place in (six, four)]

    monkeypatch.setattr("socket.getaddrinfo", look_up)
    answer = await answer_of("https://shop.example.com/hooks", allow_private=False)
    assert answer.error is not None
    assert "leads to a private address" in answer.error
    assert "__ALLOW_PRIVATE=true" in answer.error


async def test_of_a_gigabyte_64_kib_are_read_and_2_kib_kept() -> None:
    sent = 0

    async def flood(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal sent
        writer.write(_HEAD % (1024 * _MIB))
        while sent < 1024 * _MIB:
            writer.write(b"x" * _MIB)
            sent += _MIB
            await writer.drain()

    async with raw(flood) as url:
        tracemalloc.start()
        try:
            answer = await answer_of(url)
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
    assert answer.status == 200
    assert answer.text == "x" * 2048
    assert sent < 64 * _MIB, "the connection is closed early"
    assert peak < 64 * _MIB


async def test_a_small_answer_is_not_inflated() -> None:
    import gzip

    async with receiving() as shop:
        packed = gzip.compress(b"\0" * 50 * _MIB)
        shop.answer = lambda _: web.Response(status=500, body=packed, headers={"Content-Encoding": "gzip"})
        answer = await answer_of(shop.url)
    assert answer.status == 500
    assert answer.text is not None
    assert answer.text.startswith("\x1f"), "the bytes as they came"
    assert len(answer.text) <= 2048


async def test_the_status_counts_though_its_body_drips_or_is_cut_off() -> None:
    async def drip(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(_HEAD % 1000)
        while True:
            writer.write(b"x")
            await writer.drain()
            await asyncio.sleep(0.1)

    async def cut(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(_HEAD % 1000 + b"half")
        await writer.drain()

    async with raw(drip) as url:
        began = time.monotonic()
        answer = await answer_of(url, timeout=0.7)
        assert answer.status == 200
        assert time.monotonic() - began < 30, "the timeout ends the reading"
    async with raw(cut) as url:
        answer = await answer_of(url)
        assert (answer.status, answer.text) == (200, "half")


@pytest.mark.parametrize(
    ("answer", "status"),
    [
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nno chunk\r\n", 200),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\nno chunk\r\n", 200),
        (b"HTTP/1.1 204 No Content\r\nContent-Length: 5\r\n\r\nhello", 204),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok and more", 200),
        (b"HTTP/1.1 102 Processing\r\n\r\nHTTP/1.1 204 No Content\r\n\r\nhello", 204),
        (b"HTTP/1.1 410 Gone\r\nTransfer-Encoding: chunked\r\n\r\nno chunk\r\n", 410),
        (b"HTTP/1.1 102 Processing\r\n\r\nno answer\r\n\r\n", None),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello", None),
    ],
)
async def test_the_status_counts_though_a_body_that_breaks_http_comes_in_the_same_packet(
    answer: bytes, status: int | None
) -> None:
    connections = 0

    async def serve(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal connections
        connections += 1
        writer.write(answer)
        await writer.drain()
        await asyncio.sleep(60)

    async with raw(serve) as url:
        client = HttpClient(Destination("shop", DestinationSettings.model_validate({"url": url, "allow_private": True})))
        try:
            found = [(await client.send(b"{}", {"webhook-id": "1"})).status for _ in range(2)]
        finally:
            await client.close()
    assert found == [status] * 2
    assert connections == 2, "the next request goes over another connection"


@pytest.mark.parametrize(
    ("packets", "status"),
    [
        ((b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", b"no chunk\r\n"), 200),
        ((b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n", b"no chunk\r\n"), 200),
        ((b"HTTP/1.1 200 OK\nTransfer-Encoding: chunked\n\nno chunk\n",), 200),
        ((b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r", b"\nno chunk\r\n"), 200),
        ((b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n", b"\r\nno chunk\r\n"), 200),
        ((b"HTTP/1.1 102 Processing\r\n\r", b"\nHTTP/1.1 410 Gone\r\nTransfer-Encoding: chunked\r\n\r\nno chunk\r\n"), 410),
    ],
)
async def test_the_status_counts_at_once_however_the_packets_of_a_broken_answer_are_cut(
    packets: tuple[bytes, ...], status: int
) -> None:
    async def serve(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for packet in packets:
            writer.write(packet)
            await writer.drain()
            await asyncio.sleep(0.1)
        await asyncio.sleep(60)

    async with raw(serve) as url:
        answer = await answer_of(url, timeout=20)
    assert answer.status == status
    assert answer.seconds < 15, "a broken body holds no place until the timeout"


@pytest.mark.parametrize("head", [b"HTTP/1.1 102 P\r\n\r\n", b"HTTP/1.1 102 P\n\n", b"\r\n\r\n"])
async def test_an_answer_has_ten_interim_heads_at_most(head: bytes) -> None:
    heads = 10

    async def serve(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(head * heads + _HEAD % 0)
        await writer.drain()

    async with raw(serve) as url:
        assert (await answer_of(url)).status == 200
        heads = 13_000
        answer = await answer_of(url, timeout=60)
    assert (answer.status, answer.error) == (None, "more than 10 interim heads (1xx) came before the answer")


@pytest.mark.parametrize("rest", [b"\r\n\r\n", b"\n", b"A: b\n"])
async def test_the_parser_gets_each_byte_of_many_interim_heads_once(rest: bytes) -> None:
    """The rest of the packet was copied after each head and each line, which held the process for seconds."""
    fed = 0

    class Parser:
        def feed_data(self, data: bytes) -> tuple[list[object], bool, bytes]:
            nonlocal fed
            fed += 1
            return [], False, b""

    first = response._HeadFirst(cast("ResponseHandler", None), Parser())
    with contextlib.suppress(response.InterimHeadsError):
        first.feed_data(b"HTTP/1.1 102 P\r\n" + rest * 50_000)
    assert fed <= 11


async def test_the_parser_that_waits_for_the_reader_goes_on() -> None:
    fed: list[bytes] = []

    class Parser:
        paused = 0

        def feed_data(self, data: bytes) -> tuple[list[object], bool, bytes]:
            fed.append(data)
            return [], False, b""

        def pause_reading(self) -> None:
            self.paused += 1

    parser = Parser()
    first = response._HeadFirst(cast("ResponseHandler", None), parser)
    first.pause_reading()
    first.feed_data(b"")
    assert (parser.paused, fed) == (1, [b""])


async def test_nobody_listens_or_the_name_is_unknown() -> None:
    async with raw(close) as url:
        pass
    assert str((await answer_of(url)).error).startswith("no connection to 127.0.0.1: ")
    assert (await answer_of("http://no-such-host.invalid/")).error == "the name no-such-host.invalid cannot be resolved"


async def test_the_certificate_is_verified_also_after_it_changes(tmp_path: Path) -> None:
    good, other = Authority(tmp_path / "good"), Authority(tmp_path / "other")
    pairs = {"good": good.issue("localhost"), "other": other.issue("localhost"), "name": good.issue("elsewhere.example.com")}

    async def serve(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(_HEAD % 0)
        await writer.drain()

    for name, (certificate, key) in pairs.items():
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(certificate, key)
        async with raw(serve, tls=context) as url:
            address = url.replace("http://127.0.0.1", "https://localhost")
            answer = await answer_of(address, ca_file=good.ca)
            untrusted = await answer_of(address)
        assert (answer.status == 200) is (name == "good"), answer
        if name != "good":
            assert (answer.error or "").startswith("the certificate of localhost is not accepted: "), answer.error
        assert untrusted.status is None


async def test_a_certificate_that_changes_while_the_sender_runs_is_verified_anew(tmp_path: Path) -> None:
    good, other = Authority(tmp_path / "good"), Authority(tmp_path / "other")
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(*good.issue("localhost"))

    async def serve(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(_HEAD % 0)
        await writer.drain()

    async with raw(serve, tls=context) as url:
        given = {"url": url.replace("http://127.0.0.1", "https://localhost"), "allow_private": True, "ca_file": good.ca}
        client = HttpClient(Destination("shop", DestinationSettings.model_validate(given)))
        try:
            statuses = [(await client.send(b"{}", {})).status]
            for authority in (other, good):
                context.load_cert_chain(*authority.issue("localhost"))
                statuses.append((await client.send(b"{}", {})).status)
        finally:
            await client.close()
    assert statuses == [200, None, 200]


@pytest.mark.parametrize(
    "behaviour", [reset, half_a_head, no_http, a_huge_head, stall, drip_a_head], ids=lambda one: one.__name__
)
async def test_after_each_fault_the_event_arrives_with_its_id(
    start: Start, connection: Connection, quick: None, behaviour: Behaviour
) -> None:
    async with raw(behaviour) as url:
        daemon = await start(destinations={"shop": {"url": url, "allow_private": True, "timeout": 1}})
        await send(daemon, sampling.sample(CUSTOMER, 1))
        await delivery(connection, "status = 'retrying'")
    async with receiving(int(url.removesuffix("/hooks").rpartition(":")[2])) as shop:
        await until_none_is_left(connection)
    assert shop.ids == [str(await connection.fetchval("SELECT id FROM webhookd.ledger"))]
    assert int(shop.got[0].headers["webhookd-attempt"]) > 1


async def test_a_client_certificate_is_shown(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    certificate, key = authority.issue("localhost")
    own, own_key = authority.issue("webhookd.example.com")
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=authority.ca)
    context.load_cert_chain(certificate, key)
    context.verify_mode = ssl.CERT_REQUIRED

    async def serve(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(_HEAD % 0)
        await writer.drain()

    async with raw(serve, tls=context) as url:
        address = url.replace("http://127.0.0.1", "https://localhost")
        assert (await answer_of(address, ca_file=authority.ca, client_cert=own, client_key=own_key)).status == 200
        assert (await answer_of(address, ca_file=authority.ca)).status is None


async def test_an_answer_that_repeats_a_secret_does_not_show_the_secret() -> None:
    async with receiving() as shop:
        shop.answer = lambda got: web.Response(status=500, text=f"wrong: {got.headers['Authorization']}")
        answer = await answer_of(shop.url, headers="Authorization: Bearer t0ps3cret", secrets=SECRET)
    assert answer.text == "wrong: ***"


async def test_nobody_looks_for_secrets_in_an_accepted_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    hide, lengths = Destination.hide, []

    def watched(self: Destination, text: str, most: int) -> str:
        lengths.append(len(text))
        return hide(self, text, most)

    monkeypatch.setattr(Destination, "hide", watched)
    async with receiving() as shop:
        shop.answer = lambda _: web.Response(text="\N{GRINNING FACE}" * 16_000)
        answer = await answer_of(shop.url)
        assert (answer.status, lengths) == (200, []), "a successful delivery shows no text"
        assert answer.text == "\N{GRINNING FACE}" * 2048
    assert len(lengths) == 1
    assert lengths[0] < 3000, "what is not kept is not read"
