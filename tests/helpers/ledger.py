"""The ledger compares the webhooks that a client sent, and their answers, with PostgreSQL's final state."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import asyncpg

from tests.helpers.database import connect
from tests.helpers.running import KEY
from tests.helpers.timeline import decode
from tests.helpers.wait import until_ended
from webhookd.authorizenet import sampling
from webhookd.authorizenet.facts import Facts, fold
from webhookd.authorizenet.timeline import facts_of
from webhookd.dev import traffic
from webhookd.event import Event

# A handler whose effect can be counted: one row for each run whose transaction was committed. The handler takes only payments,
# so that the other events share transactions. For the other events, the audit trail shows how often each became processed.
COUNTING = """
from webhookd import on


@on("net.authorize.payment.*")
async def count(event, connection):
    await connection.execute("INSERT INTO effects (event_id, attempt) VALUES ($1, $2)", event.id, event.attempt)
"""

_EFFECTS = """
SELECT event_id FROM effects
UNION ALL
SELECT a.event_id FROM audit a JOIN events e ON e.id = a.event_id
WHERE a.to_status = 'processed' AND e.event_type NOT LIKE 'net.authorize.payment.%'
"""


@dataclass(slots=True, frozen=True)
class Totals:
    """The counts of a ledger check. `lost` and `doubled` are 0, since the check fails otherwise."""

    sent: int  # distinct notifications
    acknowledged: int
    lost: int
    doubled: int


class Ledger:
    """Everything that was sent to the daemons of a database, over any number of rounds."""

    def __init__(self, database_url: str) -> None:
        self._database_url = database_url
        self._connection: asyncpg.Connection[asyncpg.Record] | None = None
        self.samples: dict[str, sampling.Sample] = {}  # by notification id
        self.acknowledged: dict[str, str] = {}  # notification id → event id, of a 200 with accepted or duplicate
        self.quarantined: dict[str, str] = {}  # notification id → quarantine id
        self.answers: Counter[int] = Counter()  # by HTTP status; 0: no answer
        self.latencies: list[float] = []  # seconds until each 200
        self.contradictions: list[str] = []  # one notification, answered with two event ids

    async def open(self) -> None:
        """Connects directly, not through a proxy, and creates the table of the counting handler's effects."""
        await self.connection.execute("CREATE TABLE IF NOT EXISTS effects (event_id uuid NOT NULL, attempt integer NOT NULL)")

    async def connect(self) -> None:
        """Connects again, after PostgreSQL was away."""
        await self.close()
        self._connection = await connect(self._database_url, timeout=5)

    async def close(self) -> None:
        """Closes the connection."""
        if self._connection is not None:
            self._connection.terminate()
            self._connection = None

    @property
    def connection(self) -> asyncpg.Connection[asyncpg.Record]:
        """Returns the direct connection to PostgreSQL."""
        assert self._connection is not None, "the ledger is not connected"
        return self._connection

    @property
    def unanswered(self) -> list[sampling.Sample]:
        """Returns the notifications that were sent and never answered 200. Each may be committed or not."""
        return [sample for id_, sample in self.samples.items() if id_ not in self.acknowledged and id_ not in self.quarantined]

    def record(self, answer: traffic.Answer) -> None:
        """Stores one answer."""
        id_ = answer.sample.notification_id
        self.answers[answer.status] += 1
        if answer.status != 200 or answer.id is None:
            return
        self.latencies.append(answer.seconds)
        kept = self.quarantined if answer.outcome == "quarantined" else self.acknowledged
        if kept.setdefault(id_, answer.id) != answer.id:
            self.contradictions.append(f"{id_} was answered with {kept[id_]} and with {answer.id}")

    async def send(
        self,
        samples: Iterable[sampling.Sample],
        urls: str | Sequence[str],
        *,
        rate: float | None = None,
        connections: int = 16,
    ) -> traffic.Summary:
        """Sends `samples`, to several daemons in turn, and stores the answers. No behavior of a daemon makes it raise."""
        targets = [urls] if isinstance(urls, str) else list(urls)
        shared = map(self._kept, samples)
        summary = traffic.Summary()

        def answered(answer: traffic.Answer) -> None:
            self.record(answer)
            summary.add(answer)

        share = len(targets)
        await asyncio.gather(
            *(
                traffic.send(
                    shared,
                    url,
                    KEY,
                    rate=rate / share if rate else None,
                    connections=max(connections // share, 1),
                    answered=answered,
                )
                for url in targets
            )
        )
        return summary

    def _kept(self, sample: sampling.Sample) -> sampling.Sample:
        self.samples[sample.notification_id] = sample
        return sample

    async def settle(self, urls: str | Sequence[str], *, deadline: float = 60.0) -> None:
        """Resends webhooks without a 200, as the provider does, until all have one; then waits until every event has ended.

        Either step fails after `deadline` seconds without progress.
        """
        clock = asyncio.get_running_loop().time
        least, end = float("inf"), 0.0
        while left := self.unanswered:
            if len(left) < least:
                least, end = len(left), clock() + deadline
            assert clock() < end, f"{len(left)} webhooks are still refused: {dict(self.answers)}"
            summary = await self.send(left, urls)
            if summary.failed:
                await asyncio.sleep(0.2)  # a real sender waits, too, before it tries again
        try:
            await until_ended(self._unended, "every event ends", patience=deadline)
        except AssertionError as error:
            rows = await self.connection.fetch(
                "SELECT status, count(*), min(send_after) - now() AS due FROM events GROUP BY status ORDER BY status"
            )
            raise AssertionError(f"{error}; there are {[tuple(row) for row in rows]}") from None

    async def _unended(self) -> float:
        """Returns the number of events that have not ended, or infinity while PostgreSQL does not answer."""
        if self._connection is None or self._connection.is_closed():
            try:
                await self.connect()
            except (OSError, TimeoutError, asyncpg.PostgresError):
                return float("inf")
        query = "SELECT count(*) FROM events WHERE status NOT IN ('processed', 'dead')"
        return float(await self.connection.fetchval(query))

    async def check(self, *, dead_effects: bool = False, releases: int = 1) -> Totals:
        """Compares both sides; raises AssertionError if anything was lost or doubled, or was never sent.

        Each webhook that was answered 200 is exactly one event, which ended. Each processed event has exactly one effect in the
        counting handler; an event of another type became processed exactly once. A dead event has no effect, unless
        `dead_effects`. The timeline is the fold of the events that were tried. If two `releases` folded, only the facts that
        both know are compared.
        """
        await self.connect()
        events = await self.connection.fetch(
            "SELECT id, notification_id, status, attempts, event_date, received_at FROM events"
        )
        aliases = await self.connection.fetch("SELECT notification_id, event_id FROM notification_aliases")
        by_notification = {row["notification_id"]: str(row["id"]) for row in events}
        by_notification |= {row["notification_id"]: str(row["event_id"]) for row in aliases}
        ids = {str(row["id"]) for row in events}
        lost = [
            id_ for id_, event_id in self.acknowledged.items() if by_notification.get(id_) != event_id or event_id not in ids
        ]
        quarantine = {str(row["id"]) for row in await self.connection.fetch("SELECT id FROM quarantine")}
        lost += [id_ for id_, kept in self.quarantined.items() if kept not in quarantine]
        strangers = [row["notification_id"] for row in events if row["notification_id"] not in self.samples]
        unfinished = [str(row["id"]) for row in events if row["status"] not in ("processed", "dead")]

        counted = Counter(str(row["event_id"]) for row in await self.connection.fetch(_EFFECTS))
        processed = {str(row["id"]) for row in events if row["status"] == "processed"}
        without = [id_ for id_ in processed if counted[id_] == 0]
        doubled = [id_ for id_, times in counted.items() if times > 1]
        unfounded = [] if dead_effects else [id_ for id_ in counted if id_ not in processed]
        found = {
            "answered 200 and not there": lost,
            "answered with two ids": self.contradictions,
            "never sent": strangers,
            "never ended": unfinished,
            "processed without an effect": without,
            "with two effects": doubled,
            "with an effect and not processed": unfounded,
        }
        wrong = {what: (len(of), of[:5]) for what, of in found.items() if of}
        assert not wrong, f"of {len(self.samples)} sent and {len(self.acknowledged)} acknowledged: {wrong}"
        await self._check_timeline(events, releases)
        answered = len(self.acknowledged) + len(self.quarantined)
        return Totals(len(self.samples), answered, len(lost) + len(without), len(doubled))

    async def _check_timeline(self, events: list[asyncpg.Record], releases: int) -> None:
        expected: dict[tuple[str, str], Facts] = {}
        perhaps: dict[tuple[str, str], Facts] = {}
        for row in events:
            event = _event(row, self.samples[row["notification_id"]])
            if (entry := facts_of(event)) is None:
                continue
            # A worker that was killed may have died before the fold or after it.
            uncertain = row["status"] == "dead" and not row["attempts"]
            kept = perhaps if uncertain else expected
            key = (entry.name, entry.id)
            kept[key] = fold(kept.get(key, {}), entry.facts)
        found: dict[tuple[str, str], Facts] = {}
        await self.connection.set_type_codec("jsonb", encoder=str, decoder=decode, schema="pg_catalog")
        for row in await self.connection.fetch("SELECT entity_name, entity_id, facts FROM timeline"):
            found[row["entity_name"], row["entity_id"]] = row["facts"]
        for key in perhaps.keys() & (found.keys() | expected.keys()):
            for timeline in (found, expected):
                timeline[key] = fold(timeline.get(key, {}), perhaps[key])
        if releases > 1:
            assert _of_any_release(found) == _of_any_release(expected), "the timeline has not what was tried"
            return
        assert found == expected, "the timeline is not the fold of what was tried"


def _of_any_release(timeline: dict[tuple[str, str], Facts]) -> dict[tuple[str, str], list[Any]]:
    """Returns the times of each entity's first and last events. Releases may read different other facts from an event."""
    return {key: [facts[name][2] for name in ("first_event_at", "last_event_at")] for key, facts in timeline.items()}


def _event(row: asyncpg.Record, sent: sampling.Sample) -> Event:
    return Event(
        id=row["id"],
        account="default",
        notification_id=sent.notification_id,
        event_type=sent.event_type,
        event_date=row["event_date"],
        received_at=row["received_at"],
        attempt=1,
        raw=sent.body,
    )
