"""Sample traffic: sends notifications over HTTP, signed as the provider signs them, and counts the answers."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import aiohttp
import orjson

from webhookd.authorizenet.sampling import Sample
from webhookd.authorizenet.signature import sign


@dataclass(slots=True, frozen=True)
class Answer:
    """The receiver's answer. `status`: 0 if there was no answer; `outcome` and `id`: from the answer's body."""

    sample: Sample
    status: int
    outcome: str
    id: str | None
    seconds: float


@dataclass(slots=True)
class Summary:
    """Counts and times of the requests that were sent."""

    seconds: float = 0.0
    outcomes: Counter[str] = field(default_factory=Counter)
    statuses: Counter[int] = field(default_factory=Counter)  # the number of answers with each HTTP status; status 0: no answer
    latencies: list[float] = field(default_factory=list)

    def add(self, answer: Answer) -> None:
        """Counts one answer."""
        self.outcomes[answer.outcome if answer.status == 200 else f"{answer.status or 'no answer'} {answer.outcome}"] += 1
        self.statuses[answer.status] += 1
        if answer.status:
            self.latencies.append(answer.seconds)

    @property
    def failed(self) -> int:
        """The number of requests that were not answered 200."""
        return self.statuses.total() - self.statuses[200]

    def as_dict(self) -> dict[str, Any]:
        """Returns the counts and times for `--json`, with latencies in milliseconds."""
        ordered = sorted(self.latencies)
        return {
            "sent": self.outcomes.total(),
            "failed": self.failed,
            "seconds": round(self.seconds, 3),
            "per_second": round(self.outcomes.total() / self.seconds, 1) if self.seconds else None,
            "outcomes": dict(self.outcomes),
            "latency_ms": {
                name: round(ordered[min(int(len(ordered) * part), len(ordered) - 1)] * 1000, 2)
                for name, part in (("p50", 0.5), ("p90", 0.9), ("p99", 0.99), ("max", 1.0))
                if ordered
            },
        }


async def post(
    session: aiohttp.ClientSession, url: str, sent: Sample, *, key: str | None = None, signature: str | None = None
) -> Answer:
    """Sends one notification as the provider does, signed with `key`, or with `signature` as it is."""
    headers = {"Content-Type": "application/json", "X-ANET-Signature": signature or sign(sent.body, key or "")}
    started = time.perf_counter()
    try:
        async with session.post(url, data=sent.body, headers=headers, expect100=True, allow_redirects=False) as response:
            fields = _fields(await response.read())
            outcome = fields.get("status") if response.status == 200 else fields.get("detail")
            outcome = str(outcome or "with a body that is not webhookd's")
            return Answer(sent, response.status, outcome, fields.get("id"), time.perf_counter() - started)
    except (aiohttp.ClientError, TimeoutError) as error:
        return Answer(sent, 0, type(error).__name__, None, time.perf_counter() - started)


def _fields(body: bytes) -> dict[str, Any]:
    """Returns an answer's JSON object; {} if something on the way, such as a proxy, answered in its own words."""
    try:
        fields = orjson.loads(body)
    except ValueError:
        return {}
    return fields if isinstance(fields, dict) else {}


async def send(
    samples: Iterable[Sample],
    url: str,
    key: str,
    *,
    rate: float | None = None,
    connections: int = 16,
    answered: Callable[[Answer], None] | None = None,
) -> Summary:
    """Sends `samples` over `connections`, at most `rate` a second; calls `answered` for each answer.

    Samples leave in order, but samples in flight at once may overtake each other. A repeat waits until its original was
    answered, since the provider sends again only a notification for which it has no 200.
    """
    summary = Summary()
    queue = _paced(samples, rate)
    in_flight: dict[str, asyncio.Event] = {}
    started = time.perf_counter()

    async def sender(session: aiohttp.ClientSession) -> None:
        while True:
            async with turn:
                following = await anext(queue, None)
            if following is None:
                return
            while (earlier := in_flight.get(following.notification_id)) is not None:
                await earlier.wait()
            in_flight[following.notification_id] = done = asyncio.Event()
            try:
                answer = await post(session, url, following, key=key)
            finally:
                del in_flight[following.notification_id]
                done.set()
            summary.add(answer)
            if answered is not None:
                answered(answer)

    turn = asyncio.Lock()
    connector = aiohttp.TCPConnector(limit=connections)
    async with aiohttp.ClientSession(connector=connector, timeout=aiohttp.ClientTimeout(total=30)) as session:
        await asyncio.gather(*(sender(session) for _ in range(connections)))
    summary.seconds = time.perf_counter() - started
    return summary


async def _paced(samples: Iterable[Sample], rate: float | None) -> AsyncIterator[Sample]:
    started = time.perf_counter()
    for number, following in enumerate(samples):
        if rate:
            await asyncio.sleep(max(0.0, started + number / rate - time.perf_counter()))
        yield following
