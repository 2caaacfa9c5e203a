"""A flood of webhooks: more than the receiver can take, from a process of its own, with the time of each answer.

`python -m tests.helpers.flood URL --rate 2000 --seconds 5` prints the result as JSON. The load is an open loop: each webhook is
sent at its time, even if earlier webhooks have no answer yet, until all `--connections` wait for an answer. Bodies are made and
signed in advance, and answers are read without an HTTP library, so that the receiver is the slower side.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import sys
import time
from collections import Counter, deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import IO, Any, cast
from urllib.parse import urlsplit

import uvloop

from tests.helpers.running import KEY
from tests.helpers.wait import until
from webhookd.authorizenet import sampling
from webhookd.authorizenet.notification import EVENT_TYPES
from webhookd.authorizenet.signature import sign
from webhookd.dev import traffic

_FORGED = "sha512=" + "0" * 128


@dataclass(slots=True)
class Report:
    """The result of a flood."""

    sent: int = 0
    held_back: int = 0  # webhooks that were due while every connection waited for an answer
    statuses: dict[str, int] = field(default_factory=dict)  # by HTTP status; "reset": the connection ended without an answer
    seconds: float = 0.0
    accepted_per_second: float = 0.0
    p50: float | None = None  # seconds to an answer 200
    p99: float | None = None
    refused_p99: float | None = None  # seconds to any other answer
    retry_after: int = 0  # number of the 503 answers with a Retry-After


class _Client(asyncio.Protocol):
    """One connection, which reports each answer, and its own end if an answer is outstanding."""

    def __init__(self, answered: Callable[[_Client, int, bytes, bytes], None]) -> None:
        self._answered = answered
        self._buffer = b""
        self.transport: asyncio.Transport | None = None
        self.waits: tuple[float, Any] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)

    def connection_lost(self, _: Exception | None) -> None:
        self.transport = None
        if self.waits is not None:
            self._answered(self, 0, b"", b"")

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        head, end, rest = self._buffer.partition(b"\r\n\r\n")
        if not end:
            return
        _, _, length = head.partition(b"Content-Length: ")
        size = int(length.split(b"\r\n", 1)[0])
        if len(rest) >= size:
            self._buffer = rest[size:]
            self._answered(self, int(head[9:12]), head, rest[:size])


class Flood:
    """Sends requests. `record` receives (sample, status, body of the answer, seconds) for each answer."""

    def __init__(self, url: str, connections: int, record: Callable[..., None], *, all_: bool = False) -> None:
        parts = urlsplit(url)
        self._address = parts.hostname or "", parts.port or 80
        self._path = parts.path
        self._limit = connections
        self._record = record
        self._all = all_
        self._free: deque[_Client] = deque()
        self._clients: set[_Client] = set()
        self._opening = 0
        self._tasks: set[asyncio.Task[None]] = set()
        self.report = Report()
        self._statuses: Counter[str] = Counter()
        self._times: dict[bool, list[float]] = {True: [], False: []}

    def request(self, body: bytes, signature: str) -> bytes:
        """Returns the bytes of a request."""
        head = (
            f"POST {self._path} HTTP/1.1\r\nHost: flood\r\nContent-Type: application/json\r\n"
            f"X-ANET-Signature: {signature}\r\nContent-Length: {len(body)}\r\n\r\n"
        )
        return head.encode() + body

    async def run(self, requests: list[tuple[Any, bytes]], rate: float) -> Report:
        """Sends `requests`, `rate` a second. Each request is a pair: the sample for `record`, and the bytes to send."""
        started = time.perf_counter()
        queue = iter(requests)
        due = 0
        while due < len(requests):
            now = min(int((time.perf_counter() - started) * rate), len(requests))
            for sample, request in itertools.islice(queue, now - due):
                if not self._send(sample, request) and self._all:
                    await until(partial(self._send, sample, request), "a free connection", deadline=60, every=0.001)
            due = now
            await asyncio.sleep(0.002)
        seconds = time.perf_counter() - started
        await until(lambda: not self._tasks and not any(client.waits for client in self._clients), "all answers", deadline=30)
        self._finish(seconds)
        return self.report

    def _send(self, sample: Any, request: bytes) -> bool:
        while self._free:
            client = self._free.popleft()
            if client.transport is not None and not client.transport.is_closing():
                self._write(client, sample, request)
                return True
        if len(self._clients) + self._opening >= self._limit:
            self.report.held_back += not self._all
            return False
        self._opening += 1
        task = asyncio.create_task(self._open(sample, request))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return True

    async def _open(self, sample: Any, request: bytes) -> None:
        started = time.perf_counter()
        try:
            _, client = await asyncio.get_running_loop().create_connection(lambda: _Client(self._on_answer), *self._address)
        except OSError:
            self.report.sent += 1
            self._statuses["refused"] += 1
            return
        finally:
            self._opening -= 1
        self._clients.add(client)
        self._write(client, sample, request, started)

    def _write(self, client: _Client, sample: Any, request: bytes, started: float | None = None) -> None:
        self.report.sent += 1
        client.waits = (started or time.perf_counter(), sample)
        if client.transport is None:
            self._on_answer(client, 0, b"", b"")
        else:
            client.transport.write(request)

    def _on_answer(self, client: _Client, status: int, head: bytes, body: bytes) -> None:
        if client.waits is None:
            return
        (started, sample), client.waits = client.waits, None
        seconds = time.perf_counter() - started
        self._statuses[str(status) if status else "reset"] += 1
        if status:
            self._times[status == 200].append(seconds)
        if status == 503 and b"\r\nRetry-After: " in head:
            self.report.retry_after += 1
        self._record(sample, status, body, seconds)
        if not status or b"\r\nConnection: close" in head:
            self._clients.discard(client)
            if client.transport is not None:
                client.transport.close()
        else:
            self._free.append(client)

    def _finish(self, seconds: float) -> None:
        report = self.report
        report.statuses = dict(self._statuses)
        report.seconds = round(seconds, 2)
        report.accepted_per_second = round(len(self._times[True]) / seconds, 1)
        report.p50, report.p99 = _part(self._times[True], 0.5), _part(self._times[True], 0.99)
        report.refused_p99 = _part(self._times[False], 0.99)
        for client in self._clients:
            if client.transport is not None:
                client.transport.abort()


def _part(times: list[float], part: float) -> float | None:
    ordered = sorted(times)
    return round(ordered[min(int(len(ordered) * part), len(ordered) - 1)], 4) if ordered else None


def _recorder(file: IO[str] | None) -> Callable[..., None]:
    def record(sample: sampling.Sample | None, status: int, body: bytes, seconds: float) -> None:
        if file is not None and sample is not None:
            line = {
                **asdict(sample),
                "body": sample.body.decode(),
                "status": status,
                "answer": body.decode(),
                "seconds": seconds,
            }
            file.write(json.dumps(line) + "\n")

    return record


def _requests(flood: Flood, count: int, *, forged: bool, size: int) -> list[tuple[sampling.Sample | None, bytes]]:
    if forged:
        body = b"x" * size if size else sampling.sample(EVENT_TYPES[0], 1).body
        return [(None, flood.request(body, _FORGED))] * count
    first = time.time_ns() % 10_000_000
    samples = (sampling.sample(kind, first + n) for n, kind in zip(range(count), itertools.cycle(EVENT_TYPES), strict=False))
    return [(sample, flood.request(sample.body, sign(sample.body, KEY))) for sample in samples]


async def _main(arguments: argparse.Namespace) -> None:
    file = arguments.record.open("w") if arguments.record else None
    flood = Flood(arguments.url, arguments.connections, _recorder(file), all_=arguments.all)
    count = int(arguments.rate * arguments.seconds)
    report = await flood.run(_requests(flood, count, forged=arguments.forged, size=arguments.size), arguments.rate)
    if file is not None:
        file.close()
    sys.stdout.write(json.dumps(asdict(report)) + "\n")


def read(record: Path) -> list[traffic.Answer]:
    """Returns the answers that a flood recorded."""
    answers = []
    with record.open() as lines:
        for line in map(json.loads, lines):
            said = json.loads(line["answer"] or "{}")
            sample = sampling.Sample(line["event_type"], line["notification_id"], line["entity_id"], line["body"].encode())
            outcome = said.get("status") if line["status"] == 200 else said.get("detail", "")
            answers.append(traffic.Answer(sample, line["status"], str(outcome), said.get("id"), line["seconds"]))
    return answers


@asynccontextmanager
async def flooding(url: str, *options: str) -> AsyncIterator[asyncio.Task[Report]]:
    """Runs a flood in a process of its own throughout the block. The result of the task is the flood's report."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "tests.helpers.flood", url, *options, stdout=asyncio.subprocess.PIPE
    )

    async def ended() -> Report:
        output, _ = await process.communicate()
        assert process.returncode == 0, "the flood failed"
        return Report(**json.loads(output))

    task = asyncio.create_task(ended())
    try:
        yield task
        await task
    finally:
        if process.returncode is None:
            process.kill()
        await asyncio.gather(task, return_exceptions=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("url")
    parser.add_argument("--rate", type=float, default=500.0, help="webhooks a second")
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--connections", type=int, default=2000)
    parser.add_argument("--forged", action="store_true", help="with a signature that does not verify")
    parser.add_argument("--size", type=int, default=0, help="bytes of a forged body; as a notification when 0")
    parser.add_argument("--all", action="store_true", help="send every one, later where none of the connections is free")
    parser.add_argument("--record", type=Path, help="file for every answer, one JSON object a line")
    uvloop.run(_main(parser.parse_args()))
