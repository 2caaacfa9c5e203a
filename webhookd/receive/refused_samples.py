"""Samples of refused webhooks, for an operator who finds that signatures do not verify.

Strangers decide which webhooks are refused, and how often. So a refusal beyond the pace costs two look-ups and nothing else. A
background task writes to PostgreSQL. Each text of a stranger is cut, escaped and masked before it is stored.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import Counter, deque
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from webhookd.authorizenet.diagnosis import Diagnosis, Finding, diagnose, header_shape, not_examined
from webhookd.receive.redact import first_bytes, printable
from webhookd.receive.refusal import Rejection
from webhookd.runtime.loops import Loop, Watch
from webhookd.store.database import Database
from webhookd.store.failures import STATEMENT_ERRORS, gateway
from webhookd.store.keys import new_id
from webhookd.store.queries import queries
from webhookd.telemetry.metrics import Metrics

_WINDOW_SECONDS = 10.0
_GROUP_PACE = 10  # most samples of an account and outcome in a window
_PEER_PACE = 5  # most of these samples from one address
_PENDING = 200  # most samples that wait for PostgreSQL
_BATCH = 32
_EVERY = 1.0  # seconds
_CLEANED = 600.0  # seconds
_KEPT = 14 * 86_400.0  # seconds: longer than the provider's schedule of retries
_STOP = 2.0  # seconds
EXAMINED = 8_192  # bytes: a longer body is not examined; a notification has about one thousand
_PATH = 200  # characters
_HEADER = 100  # characters
_LIKELY = {
    Rejection.UNKNOWN_ACCOUNT: "The path names no account that is set. Set WEBHOOKD_ACCOUNTS__<NAME>__SIGNATURE_KEYS, or "
    "correct the webhook's URL in the Merchant Interface.",
    Rejection.UNKNOWN_PATH: "A signed request came to a path that webhookd does not serve. Correct the webhook's URL in the "
    "Merchant Interface, or the path that a proxy passes on.",
    Rejection.CONTENT_ENCODING: "Something on the way compressed the body. Compressed bytes are not those that were signed: "
    "turn compression of requests off.",
    Rejection.TOO_LARGE: "The body is larger than WEBHOOKD_MAX_BODY_BYTES. A notification has about one thousand bytes, so the "
    "sender is likely another one.",
    Rejection.BAD_EXPECT: "The Expect header is none that webhookd knows. The sender is likely another one.",
    Rejection.TOO_SLOW: "The body did not arrive within WEBHOOKD_BODY_TIMEOUT. The network, a proxy or the sender is slow.",
    Rejection.TRUNCATED: "The connection ended before the body did, or the body's encoding is malformed.",
}
FINDINGS = (*Finding, *_LIKELY)  # all possible findings of a sample


class Sample(NamedTuple):
    """A refused webhook, as it arrived."""

    account: str  # "unknown" if the path is of no account
    outcome: Rejection
    status: int
    path: str
    peer: str
    header: str | None  # X-ANET-Signature; kept in memory until the diagnosis, and nowhere else
    forwarded_for: str | None
    content_type: str | None
    length: int | None  # bytes of the body
    body: bytes  # the body's first bytes, or all of them
    whole: bool  # whether `body` is all of it
    at: float  # time.monotonic()


class Samples:
    """The samples in PostgreSQL: keeps up to `keep` of them for each account and outcome; none if `keep` is 0.

    `takes` decides at once whether a refused webhook becomes a sample, and `add` queues the sample. A background task writes.
    While PostgreSQL is away, samples are dropped and counted.
    """

    def __init__(
        self, database: Database, *, keep: int, keys: Mapping[str, Sequence[str]], metrics: Metrics, watch: Watch
    ) -> None:
        self._database = database
        self._keep = keep
        self._keys = keys
        self._outcomes = metrics.refused_samples
        self._pending: deque[Sample] = deque()
        self._window = 0.0
        self._groups: Counter[tuple[str, str]] = Counter()
        self._peers: Counter[tuple[str, str, str]] = Counter()
        self._cleaned = float("-inf")
        self._loop = Loop("refused samples", self._write, watch, every=_EVERY)

    async def start(self) -> None:
        """Starts writing."""
        await self._loop.start()

    async def stop(self) -> None:
        """Writes the waiting samples, for two seconds at most, and returns."""
        await self._loop.stop()
        with contextlib.suppress(*STATEMENT_ERRORS):
            async with asyncio.timeout(_STOP):
                while self._pending:
                    await self._write()

    def renew(self, keys: Mapping[str, Sequence[str]]) -> None:
        """Uses these keys for diagnoses from now on."""
        self._keys = keys

    def takes(self, account: str, outcome: str, peer: str) -> bool:
        """Returns whether a webhook that is refused now becomes a sample, and if so, counts it."""
        if not self._keep:
            return False
        now = time.monotonic()
        if now - self._window >= _WINDOW_SECONDS:
            self._window = now
            self._groups.clear()
            self._peers.clear()
        group, source = (account, outcome), (account, outcome, peer)
        # Only a sample makes an entry, so the pace bounds the size of both counters.
        if self._groups.get(group, 0) >= _GROUP_PACE or self._peers.get(source, 0) >= _PEER_PACE:
            return False
        if len(self._pending) >= _PENDING:
            self._outcomes.labels("dropped").inc()
            return False
        self._groups[group] += 1
        self._peers[source] += 1
        return True

    def add(self, sample: Sample) -> None:
        """Queues a sample that `takes` has accepted."""
        self._pending.append(sample)

    async def _write(self) -> None:
        batch = [self._pending.popleft() for _ in range(min(len(self._pending), _BATCH))]
        due = time.monotonic() - self._cleaned > _CLEANED
        if not batch and not (due and self._database.up):
            return
        try:
            rows = []
            for sample in batch:
                rows.append(self._row(sample))
                await asyncio.sleep(0)  # let the loop turn: a diagnosis takes up to some milliseconds
            with gateway():
                async with self._database.acquire("admin") as connection:
                    if rows:
                        await queries.add_refused(connection, **_columns(rows))
                        groups = {(sample.account, sample.outcome) for sample in batch}
                        accounts, outcomes = zip(*groups, strict=True)
                        await queries.trim_refused(
                            connection, accounts=list(set(accounts)), outcomes=list(set(outcomes)), keep=self._keep
                        )
                    if due:
                        await queries.expire_refused(connection, age=_KEPT if self._keep else 0.0)
                        self._cleaned = time.monotonic()
        except BaseException:
            self._outcomes.labels("dropped").inc(len(batch))
            raise
        self._outcomes.labels("kept").inc(len(batch))

    def _row(self, sample: Sample) -> dict[str, Any]:
        diagnosis = self._diagnose(sample)
        return {
            "ids": new_id(),
            "ages": max(time.monotonic() - sample.at, 0.0),
            "accounts": sample.account,
            "outcomes": sample.outcome,
            "statuses": sample.status,
            "paths": printable(sample.path, _PATH),
            "peers": sample.peer,
            "forwarded": None if sample.forwarded_for is None else printable(sample.forwarded_for, _HEADER),
            "shapes": header_shape(sample.header),
            "content_types": None if sample.content_type is None else printable(sample.content_type, _HEADER),
            "lengths": sample.length,
            "first_bytes": first_bytes(sample.body),
            "findings": diagnosis.finding,
            "likely": diagnosis.likely,
        }

    def _diagnose(self, sample: Sample) -> Diagnosis:
        account = sample.account if sample.account in self._keys else None
        if sample.whole and sample.header is not None and sample.outcome is Rejection.UNKNOWN_ACCOUNT:
            found = diagnose(sample.body, sample.header, account, self._keys)
            if found.finding == "other_account":
                return found
        if (likely := _LIKELY.get(sample.outcome)) is not None:
            return Diagnosis(sample.outcome, likely)
        if not sample.whole:
            return not_examined()
        return diagnose(sample.body, sample.header, account, self._keys)


def _columns(rows: Iterable[dict[str, Any]]) -> dict[str, list[Any]]:
    columns: dict[str, list[Any]] = {}
    for row in rows:
        for name, value in row.items():
            columns.setdefault(name, []).append(value)
    return columns
