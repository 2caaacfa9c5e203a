"""A load of signed webhooks from a process of its own: `python -m tests.bench.load URL --connections 64 --seconds 10`.

Each webhook has ids of its own, the present as its date, and a valid signature. So each webhook is a new event, unless
`--duplicates` asks for repetitions. `--sender provider` (the default) sends as Authorize.Net does: `Expect: 100-continue`,
the body after the receiver's `100 Continue`, and a tenth of the webhooks on a new connection. `--sender proxy` sends as a
reverse proxy does: head and body together, on connections that are kept.

Without `--rate` the loop is closed: each connection sends its next webhook when the last one is answered. With `--rate` the
loop is open: each webhook is due at its own time, whatever happened to earlier webhooks, and its latency counts from then. So
a receiver that stalls cannot hide the stall. The load uses bare epoll and sockets, because an HTTP library would take processor
time from the receiver under measurement.
"""

from __future__ import annotations

import argparse
import hashlib
import hmac
import json
import math
import random
import re
import select
import socket
import time
import uuid
from collections import Counter, deque
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from typing import NamedTuple
from urllib.parse import urlsplit

from webhookd.authorizenet import sampling

AUTHCAPTURE = "net.authorize.payment.authcapture.created"
NOT_ON_TIMELINE = "net.authorize.bench.created"
_REMEMBERED = 2_000  # number of acknowledged webhooks that a repetition is chosen from
_PATIENCE = 10.0  # seconds to wait for the last answers
# The provider's connections per webhook are not published. Its webhooks are rare for one merchant, and come from several
# hosts, so a receiver meets more new connections than this part; the figure for a proxy shows the other extreme.
_NEW_CONNECTIONS = 0.1

PROVIDER, PROXY = "provider", "proxy"
SENDERS = (PROVIDER, PROXY)


@dataclass(slots=True)
class Report:
    """The result of a load. Latencies are in seconds, of every answer."""

    sent: int = 0
    statuses: dict[str, int] = field(default_factory=dict)
    outcomes: dict[str, int] = field(default_factory=dict)
    seconds: float = 0.0
    answered_per_second: float = 0.0
    p50: float = 0.0
    p90: float = 0.0
    p99: float = 0.0
    p999: float = 0.0
    worst: float = 0.0
    late: int = 0  # webhooks that were due while every connection waited for an answer
    connections: int = 0  # connections made
    processor_seconds: float = 0.0  # CPU time of the load's own process


class Request(NamedTuple):
    """The bytes of one webhook."""

    head: bytes
    body: bytes


class Requests:
    """A source of requests. A part `duplicates` of them repeats earlier requests; each other request is a new event."""

    def __init__(
        self, url: str, key: str, *, sender: str = PROVIDER, duplicates: float = 0.0, event_type: str = AUTHCAPTURE
    ) -> None:
        path = urlsplit(url).path
        expect = "Expect: 100-continue\r\n" if sender == PROVIDER else ""
        self._head = (
            f"POST {path} HTTP/1.1\r\nHost: bench\r\nContent-Type: application/json\r\n{expect}X-ANET-Signature: sha512="
        )
        sample = sampling.sample(AUTHCAPTURE, 1)
        body = sample.body.decode().replace(AUTHCAPTURE, event_type)
        first, self._last = body.split(f'"{sample.entity_id}"')
        first, _, after_date = re.split(r'(?<="eventDate":)("[^"]+")', first)
        self._after_date: str = after_date
        self._first, self._middle = str(first).split(sample.notification_id)
        self._mac = hmac.new(key.encode(), digestmod=hashlib.sha512)
        self._duplicates = duplicates
        self._sent: deque[Request] = deque(maxlen=_REMEMBERED)
        self._random = random.Random(time.time_ns())
        self._number: int = self._random.randrange(10**15)
        self._ready: list[Request] = []

    def prepare(self, count: int) -> None:
        """Makes `count` requests in advance, so that their making costs the measured process nothing."""
        self._ready = [self._make() for _ in range(count)]

    def make(self) -> Request:
        """Returns the next request."""
        if self._duplicates and self._sent and self._random.random() < self._duplicates:
            return self._random.choice(self._sent)
        return self._ready.pop() if self._ready else self._make()

    def _make(self) -> Request:
        self._number += 1
        notification = uuid.UUID(int=self._random.getrandbits(128))
        date = f'"{datetime.now(UTC):%Y-%m-%dT%H:%M:%S.%f}1Z"'
        body = f'{self._first}{notification}{self._middle}{date}{self._after_date}"{self._number}"{self._last}'.encode()
        mac = self._mac.copy()
        mac.update(body)
        return Request(f"{self._head}{mac.hexdigest()}\r\nContent-Length: {len(body)}\r\n\r\n".encode(), body)

    def answered(self, request: Request) -> None:
        """Stores an acknowledged `request`, which may be repeated from now on."""
        if self._duplicates:
            self._sent.append(request)


class Load:
    """A load for `seconds`, at most `count` webhooks, over `connections`, at `rate` a second or as fast as answers arrive."""

    def __init__(
        self,
        url: str,
        requests: Requests,
        *,
        sender: str,
        connections: int,
        seconds: float,
        rate: float | None,
        count: float = math.inf,
    ) -> None:
        parts = urlsplit(url)
        self._address = parts.hostname or "", parts.port or 80
        self._requests = requests
        self._expect = sender == PROVIDER
        self._seconds = seconds
        self._rate = rate
        self._count = count
        self._random = random.Random(time.time_ns())
        self._poll = select.epoll()
        self._sockets: dict[int, socket.socket] = {}
        self._waits: dict[int, tuple[float, Request]] = {}  # connection → its webhook's due time, and the webhook
        self._expecting: set[int] = set()  # connections whose webhook's body waits for `100 Continue`
        self._parts: dict[int, bytes] = {}
        self._free: deque[int] = deque()
        self._latencies: list[float] = []
        self._statuses: Counter[bytes] = Counter()
        self._outcomes: Counter[bytes] = Counter()
        self._late = 0
        self._connected = 0
        for _ in range(connections):
            self._free.append(self._connect())

    def _connect(self) -> int:
        made = socket.create_connection(self._address, timeout=30)
        made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._sockets[made.fileno()] = made
        self._poll.register(made.fileno(), select.EPOLLIN)
        self._connected += 1
        return made.fileno()

    def run(self) -> Report:
        """Sends, waits for the last answers, and returns the report."""
        processor = time.process_time()
        started = time.perf_counter()
        end = started + self._seconds
        sent = 0
        while (now := time.perf_counter()) < end and sent < self._count:
            if self._rate is None:
                while self._free and sent < self._count:
                    self._send(self._free.popleft(), time.perf_counter())
                    sent += 1
                timeout = 0.1
            else:
                due = int((now - started) * self._rate) + 1
                while sent < due and self._free:
                    self._send(self._free.popleft(), started + sent / self._rate)
                    sent += 1
                self._late += sent < due
                timeout = max(started + sent / self._rate - time.perf_counter(), 0.0) if sent >= due else 0.1
            self._read(min(timeout, max(end - now, 0.0)))
        seconds = time.perf_counter() - started
        answered = len(self._latencies)
        last = time.perf_counter() + _PATIENCE
        while self._waits and time.perf_counter() < last:
            self._read(0.1)
        return self._report(sent, seconds, answered, time.process_time() - processor)

    def _send(self, connection: int, due: float) -> None:
        request = self._requests.make()
        self._waits[connection] = due, request
        if self._expect:
            self._expecting.add(connection)
            self._write(connection, request.head)
        else:
            self._write(connection, request.head + request.body)

    def _write(self, connection: int, data: bytes) -> None:
        try:
            count = self._sockets[connection].send(data)
        except OSError:
            self._lost(connection)
            return
        if count != len(data):  # requests are smaller than any socket's buffer
            raise RuntimeError("a request was sent in part")

    def _lost(self, connection: int) -> None:
        """Counts a reset and replaces `connection`: the receiver closed it without an answer to its webhook."""
        del self._waits[connection]
        self._statuses[b"reset"] += 1
        self._free.append(self._replace(connection))

    def _replace(self, connection: int) -> int:
        """Closes `connection`; returns a new connection."""
        self._poll.unregister(connection)
        self._sockets.pop(connection).close()
        self._parts.pop(connection, None)
        self._expecting.discard(connection)
        return self._connect()

    def _read(self, timeout: float) -> None:
        for connection, _ in self._poll.poll(timeout):
            try:
                data = self._sockets[connection].recv(65_536)
            except OSError:
                data = b""
            if connection in self._waits:
                if data:
                    self._received(connection, data)
                else:
                    self._lost(connection)
            elif data:
                raise RuntimeError("an answer that nobody asked for")
            else:  # the receiver closed an idle connection
                self._free.remove(connection)
                self._free.append(self._replace(connection))

    def _received(self, connection: int, data: bytes) -> None:
        if connection in self._parts:
            data = self._parts.pop(connection) + data
        head, end, body = data.partition(b"\r\n\r\n")
        if connection in self._expecting and end and head.startswith(b"HTTP/1.1 100"):
            self._expecting.discard(connection)
            self._write(connection, self._waits[connection][1].body)
            if connection not in self._waits:  # the write found that the connection is lost
                return
            data = body
            head, end, body = data.partition(b"\r\n\r\n")
        if not end or len(body) < int(head.partition(b"Content-Length: ")[2].partition(b"\r\n")[0]):
            if data:
                self._parts[connection] = data
            return
        due, request = self._waits.pop(connection)
        self._latencies.append(time.perf_counter() - due)
        status = head[9:12]
        self._statuses[status] += 1
        if status == b"200":
            self._outcomes[body[11 : body.index(b'"', 11)]] += 1
            self._requests.answered(request)
        # A refusal instead of `100 Continue` leaves the body unsent, so this connection cannot carry another request.
        if self._expect and (connection in self._expecting or self._random.random() < _NEW_CONNECTIONS):
            connection = self._replace(connection)
        self._free.append(connection)

    def _report(self, sent: int, seconds: float, answered: int, processor: float) -> Report:
        ordered = sorted(self._latencies) or [0.0]

        def quantile(part: float) -> float:
            return ordered[min(int(len(ordered) * part), len(ordered) - 1)]

        return Report(
            sent=sent,
            statuses={status.decode(): count for status, count in sorted(self._statuses.items())},
            outcomes={outcome.decode(): count for outcome, count in sorted(self._outcomes.items())},
            seconds=seconds,
            answered_per_second=answered / seconds,
            p50=quantile(0.5),
            p90=quantile(0.9),
            p99=quantile(0.99),
            p999=quantile(0.999),
            worst=ordered[-1],
            late=self._late,
            connections=self._connected,
            processor_seconds=processor,
        )


def _main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.load", description="Load a receiver with signed webhooks.")
    parser.add_argument("url")
    parser.add_argument("--key", required=True, help="the signature key")
    parser.add_argument("--sender", choices=SENDERS, default=PROVIDER, help="the sender to imitate (default: the provider)")
    parser.add_argument("--connections", type=int, default=64)
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--rate", type=float, help="webhooks a second (default: the next as soon as an answer came)")
    parser.add_argument("--count", type=float, default=math.inf, help="the most webhooks to send (default: no limit)")
    parser.add_argument("--duplicates", type=float, default=0.0, help="fraction of repeated webhooks, 0 to 1 (default: 0)")
    parser.add_argument("--event-type", default=AUTHCAPTURE, help=f"event type of each webhook (default: {AUTHCAPTURE})")
    parser.add_argument("--prepare", type=int, default=0, help="number of webhooks to make and sign before the load")
    given = parser.parse_args()
    requests = Requests(given.url, given.key, sender=given.sender, duplicates=given.duplicates, event_type=given.event_type)
    requests.prepare(given.prepare)
    load = Load(
        given.url,
        requests,
        sender=given.sender,
        connections=given.connections,
        seconds=given.seconds,
        rate=given.rate,
        count=given.count,
    )
    print(json.dumps(asdict(load.run())))


if __name__ == "__main__":
    _main()
