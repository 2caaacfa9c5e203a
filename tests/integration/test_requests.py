"""Each request has its answer, in every shape: whole, in pieces, alone and in a pipeline."""

from __future__ import annotations

import asyncio
import itertools
import json
import random
import re

import asyncpg
import pytest
from aiohttp import web

from tests.conftest import Start
from tests.helpers.wait import until
from tests.integration.test_connections import PATH, connected, metric, request, rest, statuses
from webhookd.authorizenet import sampling
from webhookd.authorizenet.notification import EVENT_TYPES
from webhookd.http.connection import Connection, Phase
from webhookd.http.connections import ListenerSettings

HOLD = "BEGIN; LOCK TABLE ledger IN SHARE MODE"  # no commit ends before COMMIT


def bodies(count: int) -> list[bytes]:
    """Returns `count` bodies of new events."""
    return [sample.body for sample in sampling.stream(EVENT_TYPES[:1], count)]


async def answer(reader: asyncio.StreamReader) -> tuple[int, dict[str, str]]:
    """Reads the next answer; returns its status and its JSON body."""
    head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 10)
    length = re.search(rb"(?i)content-length: (\d+)", head)
    assert length is not None
    body = await asyncio.wait_for(reader.readexactly(int(length[1])), 10)
    return int(head[9:12]), json.loads(body)


async def test_a_webhook_is_answered_alike_whole_and_in_pieces(start: Start) -> None:
    daemon = await start(roles="receive")
    one, other = bodies(2)
    async with connected(daemon, 2) as [(reader, writer), (slow_reader, slow_writer)]:
        writer.write(b"\r\n" + request(one))  # empty lines before a request must be ignored
        status, said = await answer(reader)
        assert (status, said["status"]) == (200, "accepted")
        writer.write(request(one))
        assert await answer(reader) == (200, {"status": "duplicate", "id": said["id"]})
        for part in (request(other)[:-10], request(other)[-10:]):
            slow_writer.write(part)
            await asyncio.sleep(0.05)
        status, said = await answer(slow_reader)
        assert (status, said["status"]) == (200, "accepted")
        slow_writer.write(request(one))
        assert (await answer(slow_reader))[0] == 200
    assert metric(daemon, "ack_seconds_count") == 4
    assert metric(daemon, "received_total", account="default", outcome="duplicate") == 2


def _line(sent: bytes, old: bytes, new: bytes) -> bytes:
    assert old in sent
    return sent.replace(old, new, 1)


[BODY] = bodies(1)
PLAIN = request(BODY)
LENGTH = f"Content-Length: {len(BODY)}\r\n".encode()
SHAPES = {
    "plain": (PLAIN, [200]),
    "an end of the connection": (request(BODY, "Connection: close"), [200]),
    "HTTP/1.0": (_line(PLAIN, b"HTTP/1.1", b"HTTP/1.0"), [200]),
    "an expectation": (request(BODY, "Expect: 100-continue"), [100, 200]),
    "an expectation that is not known": (request(BODY, "Expect: luck"), [417]),
    "chunks": (
        _line(PLAIN, LENGTH, b"Transfer-Encoding: chunked\r\n").replace(BODY, b"%x\r\n%s\r\n0\r\n\r\n" % (len(BODY), BODY)),
        [200],
    ),
    "an encoding that is none": (request(BODY, "Content-Encoding: identity"), [200]),
    "an encoding that is empty": (request(BODY, "Content-Encoding:"), [200]),
    "an encoding": (request(BODY, "Content-Encoding: gzip"), [415]),
    "a length with zeros before it": (_line(PLAIN, b"Length: ", b"Length: 000"), [200]),
    "two in one piece": (PLAIN + PLAIN, [200, 200]),
    "a part of the next": (PLAIN + PLAIN[:20], [200]),
    "another account": (_line(PLAIN, b" HTTP", b"/nobody HTTP"), [404]),
    "another spelling of the path": (_line(PLAIN, PATH.encode(), b"/%77ebhooks/authorize-net"), [200]),
    "another method": (_line(PLAIN, b"POST", b"PUT"), [405]),
    "a large body": (request(b" " * 20_000), [200]),
    "two lengths": (_line(PLAIN, LENGTH, LENGTH + b"Content-Length: 1\r\n"), [400]),
}


@pytest.mark.parametrize(("sent", "expected"), SHAPES.values(), ids=SHAPES)
async def test_each_shape_of_a_request_has_its_answers(sent: bytes, expected: list[int], start: Start) -> None:
    daemon = await start(roles="receive")
    async with connected(daemon) as [(reader, writer)]:
        writer.write(sent)
        answers = b""
        while len(statuses(answers)) < len(expected):
            answers += await asyncio.wait_for(reader.read(65_536), 10)
    assert statuses(answers) == [str(status).encode() for status in expected]


async def test_a_refused_webhook_keeps_its_connection(start: Start) -> None:
    daemon = await start(roles="receive", retry_after=7)
    first, second = bodies(2)
    async with connected(daemon) as [(reader, writer)]:
        for changed, outcome in (
            (re.sub(rb"sha512=....", b"sha512=0000", request(first)), "signature_mismatch"),
            (re.sub(rb"sha512=....", b"sha512=x", request(first)), "signature_malformed"),
            (re.sub(rb"X-ANET-Signature", b"X-Nothing", request(first)), "signature_missing"),
        ):
            writer.write(changed)
            status, said = await answer(reader)
            assert (status, said["detail"]) == (401, "the signature does not verify")
            assert metric(daemon, "received_total", account="default", outcome=outcome) == 1
        daemon.database.up = False
        writer.write(request(first))
        head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 10)
        assert head.startswith(b"HTTP/1.1 503 ")
        assert b"\r\nRetry-After: 7\r\n" in head
        await reader.readuntil(b"}")
        assert metric(daemon, "received_total", account="default", outcome="postgresql_away") == 1
        daemon.database.up = True
        writer.write(request(second))
        assert (await answer(reader))[1]["status"] == "accepted"


async def test_what_cannot_be_used_is_quarantined(start: Start, connection: asyncpg.Connection[asyncpg.Record]) -> None:
    """The parser refuses the first body, and only PostgreSQL refuses the second body."""
    daemon = await start(roles="receive")
    await connection.execute(
        "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN "
        "IF NEW.event_type = 'net.authorize.poison' THEN RAISE SQLSTATE '22000'; END IF; RETURN NEW; END $$;"
        "CREATE TRIGGER refuse BEFORE INSERT ON kinds FOR EACH ROW EXECUTE FUNCTION refuse()"
    )
    async with connected(daemon) as [(reader, writer)]:
        for body in (b"[]", sampling.sample("net.authorize.poison", 1).body):
            writer.write(request(body))
            assert (await answer(reader))[1]["status"] == "quarantined"
    reasons = [row["reason"] for row in await connection.fetch("SELECT reason FROM quarantine ORDER BY received_at")]
    assert reasons == ["not_object", "unstorable"]


async def test_while_quarantine_cannot_be_written_it_is_503(
    start: Start, connection: asyncpg.Connection[asyncpg.Record]
) -> None:
    daemon = await start(roles="receive", commit_timeout=0.3)
    await connection.execute("BEGIN; LOCK TABLE quarantine IN SHARE MODE")
    async with connected(daemon) as [(reader, writer)]:
        writer.write(request(b"[]"))
        assert (await answer(reader))[0] == 503
        await connection.execute("COMMIT")


@pytest.mark.parametrize("part", ["receipts", "database"])  # `receipts` fails in the commit, and `database` before it
async def test_a_mistake_of_ours_is_503_and_the_end_of_its_connection(
    part: str, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    daemon = await start(roles="receive")

    def broken(*_: object, **__: object) -> None:
        raise KeyError("a mistake")

    monkeypatch.setattr(getattr(daemon, part), {"receipts": "accept", "database": "now"}[part], broken)
    async with connected(daemon) as [(reader, writer)]:
        writer.write(request(BODY))
        answer = await rest(reader)
        assert answer.startswith(b"HTTP/1.1 503 "), "the sender has made no mistake, and is to send it again"
        assert b"\r\nRetry-After: " in answer
    assert metric(daemon, "received_total", account="default", outcome="error") == 1
    await until(lambda: metric(daemon, "open_requests") == 0, "none is under way")


async def test_what_comes_while_a_webhook_waits_is_answered_after_it_and_is_not_read_without_bounds(
    start: Start, connection: asyncpg.Connection[asyncpg.Record]
) -> None:
    daemon = await start(roles="receive", commit_timeout=30, shutdown_grace=40)
    first, second, third = bodies(3)
    await connection.execute(HOLD)
    async with connected(daemon) as [(reader, writer)]:
        writer.write(request(first))
        await until(lambda: metric(daemon, "commit_batch_size_count") == 1, "its commit has begun")
        writer.write(request(second) + request(third)[:30])
        await asyncio.sleep(0.1)
        [other] = bodies(1)
        flood = request(other, f"X-Pad: {'x' * 6_000}") * 3_000  # more than the sockets' buffers hold
        writer.write(request(third)[30:] + flood)
        await asyncio.sleep(0.5)
        assert writer.transport.get_write_buffer_size() > 0, "the rest stays with the client"
        await connection.execute("COMMIT")
        answers = [await answer(reader) for _ in range(3 + 3_000)]
    assert [said["status"] for _, said in answers[:4]] == ["accepted"] * 4
    assert {said["status"] for _, said in answers[4:]} == {"duplicate"}
    ids = await connection.fetch("SELECT id FROM events ORDER BY id")
    assert [said["id"] for _, said in answers[:4]] == [str(row["id"]) for row in ids]


@pytest.mark.parametrize("seed", range(8))
async def test_however_a_stream_of_requests_is_cut_its_answers_are_the_same(seed: int, start: Start) -> None:
    daemon = await start(roles="receive")
    cuts = random.Random(seed)
    sent, expected = [], []
    for body in bodies(12):
        kind = cuts.choice(["plain", "forged", "more", "alive", "chunked", "unusable"])
        match kind:
            case "plain":
                sent.append(request(body))
            case "forged":
                sent.append(re.sub(rb"sha512=....", b"sha512=0000", request(body)))
            case "more":
                sent.append(request(body, "X-More: 1"))
            case "alive":
                sent.append(b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n")
            case "chunked":
                chunks = b"%x\r\n%s\r\n0\r\n\r\n" % (len(body), body)
                head = request(body).partition(b"\r\n\r\n")[0]
                sent.append(re.sub(rb"Content-Length: \d+", b"Transfer-Encoding: chunked", head) + b"\r\n\r\n" + chunks)
            case "unusable":
                sent.append(request(b"[%d]" % len(sent)))
        expected.append({"forged": "401", "alive": "alive", "unusable": "quarantined"}.get(kind, "accepted"))
    stream = b"".join(sent)
    places = [0, *sorted(cuts.sample(range(1, len(stream)), 15)), len(stream)]
    if seed % 2:  # cuts at the requests' ends, so that plain requests arrive whole
        ends = [sum(map(len, sent[:n])) for n in range(len(sent) + 1)]
        places = ends if seed == 1 else sorted({*ends, *places[:seed]})
    async with connected(daemon) as [(reader, writer)]:
        for start_at, end in itertools.pairwise(places):
            writer.write(stream[start_at:end])
            await writer.drain()
            await asyncio.sleep(cuts.choice([0, 0.002, 0.02]))
        answers = [await answer(reader) for _ in sent]
    assert [said["status"] if status == 200 else str(status) for status, said in answers] == expected


async def test_a_stop_answers_what_waits_for_its_commit_and_closes(
    start: Start, connection: asyncpg.Connection[asyncpg.Record]
) -> None:
    daemon = await start(roles="receive", commit_timeout=30, shutdown_grace=40)
    await connection.execute(HOLD)
    async with connected(daemon, 2) as [(reader, writer), (idle, _)]:
        writer.write(request(BODY))
        await until(lambda: metric(daemon, "commit_batch_size_count") == 1, "its commit has begun")
        assert daemon.receive is not None
        stopping = asyncio.create_task(daemon.receive.stop_listening())
        assert await rest(idle) == b""
        await asyncio.sleep(0.1)
        assert not stopping.done()
        await connection.execute("COMMIT")
        answered = await rest(reader)
        await stopping
    assert statuses(answered) == [b"200"]
    assert await connection.fetchval("SELECT count(*) FROM events") == 1


async def test_a_client_that_leaves_while_its_webhook_waits_does_not_hold_up_a_stop(
    start: Start, connection: asyncpg.Connection[asyncpg.Record]
) -> None:
    daemon = await start(roles="receive", commit_timeout=30, shutdown_grace=40)
    await connection.execute(HOLD)
    async with connected(daemon) as [(_, writer)]:
        writer.write(request(BODY))
        await until(lambda: metric(daemon, "commit_batch_size_count") == 1, "its commit has begun")
    await connection.execute("COMMIT")
    async with asyncio.timeout(10):
        await daemon.stop()
    assert await connection.fetchval("SELECT count(*) FROM events") == 1


async def test_a_connection_that_stays_idle_after_a_webhook_is_closed(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    _, *others = ListenerSettings.__init__.__defaults__ or ()
    monkeypatch.setattr(ListenerSettings.__init__, "__defaults__", (0.5, *others))
    daemon = await start(roles="receive")
    async with connected(daemon) as [(reader, writer)]:
        writer.write(request(BODY))
        assert (await answer(reader))[0] == 200
        assert await rest(reader) == b""


LIVE = b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n"
LONG = b"GET / HTTP/1.1\r\nHost: x\r\nA: " + b"a" * 70_000 + b"\r\n\r\n"


@pytest.mark.parametrize(
    ("sent", "expected"),
    [
        (PLAIN + b"\x00garbage\r\n\r\n", [b"200", b"400"]),
        (PLAIN + LONG, [b"200", b"400"]),
        (request(BODY, "Connection: close") + LIVE, [b"200"]),
    ],
    ids=["no HTTP", "a long head", "more after the last"],
)
async def test_a_webhook_is_taken_whatever_comes_behind_it_in_the_same_read(
    sent: bytes, expected: list[bytes], start: Start
) -> None:
    daemon = await start(roles="receive")
    async with connected(daemon) as [(reader, writer)]:
        writer.write(sent)
        assert statuses(await rest(reader)) == expected


async def test_a_pipeline_behind_a_body_in_pieces_is_answered(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    began = asyncio.Event()
    answer_request = Connection.answer

    async def answer_now(connection: Connection, asked: web.BaseRequest) -> web.StreamResponse:
        began.set()
        return await answer_request(connection, asked)

    monkeypatch.setattr(Connection, "answer", answer_now)
    daemon = await start(roles="receive")
    async with connected(daemon) as [(reader, writer)]:
        writer.write(PLAIN[:-2])
        await asyncio.wait_for(began.wait(), 60)  # the parser has stopped behind the head
        writer.write(PLAIN[-2:] + LIVE * 100)
        assert [(await answer(reader))[0] for _ in range(101)] == [200] * 101


async def test_the_last_of_a_pipeline_is_answered_when_the_client_ends_its_half_before_its_turn(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    ended = asyncio.Event()
    eof_received, answer_request = Connection.eof_received, Connection.answer

    async def answer_late(connection: Connection, asked: web.BaseRequest) -> web.StreamResponse:
        if connection.phase is Phase.NEXT:
            writer.write_eof()
            await asyncio.wait_for(ended.wait(), 10)
        return await answer_request(connection, asked)

    def end(connection: Connection) -> bool | None:
        ended.set()
        return eof_received(connection)

    monkeypatch.setattr(Connection, "answer", answer_late)
    monkeypatch.setattr(Connection, "eof_received", end)
    daemon = await start(roles="receive")
    async with connected(daemon) as [(reader, writer)]:
        writer.write(LIVE * 2)
        assert statuses(await rest(reader)) == [b"200", b"200"]


async def test_whole_requests_behind_a_body_whose_handler_has_not_begun_are_no_error(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    reads = asyncio.Queue[int]()
    begin = asyncio.Event()
    data_received, answer_request = Connection.data_received, Connection.answer

    async def answer_late(connection: Connection, asked: web.BaseRequest) -> web.StreamResponse:
        await asyncio.wait_for(begin.wait(), 10)
        return await answer_request(connection, asked)

    def count(connection: Connection, data: bytes) -> None:
        data_received(connection, data)
        reads.put_nowait(len(data))

    monkeypatch.setattr(Connection, "answer", answer_late)
    monkeypatch.setattr(Connection, "data_received", count)
    daemon = await start(roles="receive")
    async with connected(daemon) as [(reader, writer)]:
        for piece in (PLAIN[:-1], PLAIN[-1:] + LIVE, LIVE, LIVE):
            writer.write(piece)
            left = len(piece)
            while left:
                left -= await asyncio.wait_for(reads.get(), 10)
        begin.set()
        assert [(await answer(reader))[0] for _ in range(4)] == [200] * 4


@pytest.mark.parametrize("protocol", ["h2c", "websocket"])
async def test_a_client_that_asks_for_another_protocol_is_told_that_what_follows_is_not_read(
    protocol: str, start: Start
) -> None:
    daemon = await start(roles="receive")
    async with connected(daemon) as [(reader, writer)]:
        writer.write(request(BODY, "Connection: upgrade", f"Upgrade: {protocol}") + PLAIN)
        answers = await rest(reader)
    assert statuses(answers) == [b"200"]
    assert b"\r\nConnection: close\r\n" in answers


async def test_a_pipeline_is_read_no_faster_than_it_is_answered(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    read, ahead, answered = 0, 0, 0
    data_received, answer_request = Connection.data_received, Connection.answer

    async def count_answers(connection: Connection, asked: web.BaseRequest) -> web.StreamResponse:
        nonlocal answered
        answered += 1
        await asyncio.sleep(0.001)  # the client writes meanwhile
        return await answer_request(connection, asked)

    def count(connection: Connection, data: bytes) -> None:
        nonlocal read, ahead
        read += len(data)
        ahead = max(ahead, read - answered * len(LIVE))
        data_received(connection, data)

    monkeypatch.setattr(Connection, "answer", count_answers)
    monkeypatch.setattr(Connection, "data_received", count)
    daemon = await start(roles="receive")
    async with connected(daemon) as [(reader, writer)]:
        writer.write(LIVE * 300_000)
        for _ in range(200):
            assert (await answer(reader))[0] == 200
        writer.transport.abort()
    assert ahead < 2_000_000
