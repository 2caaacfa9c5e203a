"""An import: old webhooks of another program become events, as processed history or as work."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import date, timedelta
from typing import Any, NamedTuple
from uuid import UUID

from webhookd.authorizenet.notification import Notification, check_age, parse
from webhookd.authorizenet.signature import Verifier
from webhookd.authorizenet.timeline import fold_all
from webhookd.errors import BusyError, SignatureError, UnavailableError, UnusableError
from webhookd.event import Event
from webhookd.operate.import_lines import As, BadLineError, Line
from webhookd.store.database import Database
from webhookd.store.event_store import EventStore, storable
from webhookd.store.failures import gateway
from webhookd.store.keys import hash_of_body, id_at, notification_key
from webhookd.store.partitions import make_past_partitions
from webhookd.store.queries import queries
from webhookd.store.receipts import Accepted, Arrival, Receipts, Router, why_not_stored

ACTOR = "import"
_BATCH = 256  # webhooks in a commit
_BATCH_BYTES = 4 << 20  # bytes of their bodies together
_MOST_PROBLEMS = 1000  # bad lines that a report lists
_FOLD_TRIES = 20
_PAUSE_SECONDS = 0.2
_DAY = 86_400
_CLOCKS_SECONDS = 300.0  # by which the clocks of two receivers may differ
_EARLY_SECONDS = 3600.0  # by which a receipt may lie before its eventDate; a wrong time zone differs by an hour or more


@dataclass(slots=True, frozen=True)
class Limits:
    """The bounds of the settings, in seconds: how long events and bodies are kept, and how far a date may lie in the future."""

    events: float
    bodies: float
    skew: float


@dataclass(slots=True)
class Report:
    """The counts of an import, and its bad lines. In a dry run, `imported` and `ended` count what an import would do."""

    lines: int = 0
    imported: int = 0
    duplicates: int = 0
    other_body: int = 0  # duplicates whose body has other bytes than the body that webhookd has
    ended: int = 0  # duplicates whose work another program has done, so that it ended
    without_body: int = 0  # imported, but older than the retention of bodies
    bad: int = 0
    signatures: dict[str, int] = field(default_factory=lambda: {"verified": 0, "wrong": 0, "none": 0})
    problems: list[dict[str, Any]] = field(default_factory=list)

    def refuse(self, number: int, reason: str) -> None:
        """Counts a bad line, and lists the line if the list has room."""
        self.bad += 1
        if len(self.problems) < _MOST_PROBLEMS:
            self.problems.append({"line": number, "reason": reason})

    def as_dict(self) -> dict[str, Any]:
        """Returns the report for `--json`."""
        return asdict(self)


class _Checked(NamedTuple):
    """A good line on its way into the database."""

    number: int
    arrival: Arrival
    event: Event  # with the whole body, which the arrival may lack


class Importer:
    """An import of one file. Each batch is one commit, and a second run finds what the first one has stored.

    keys: the Signature Keys of each account. account: the account of lines that name none.
    end_waiting: also ends the work of events that webhookd has, and has not begun to process.
    unsigned: also takes lines without a signature as work, and lets them end work. History needs no signature.
    rate: the new events that become work in a second, at most. Their first attempts share a lane with the first retries of
    live events, and would hold these up. History has no rate.
    router: chooses the destinations of work. History goes to no destination.
    tell: is called with the number and the reason of each bad line. source: the file's name, for the audit trail.
    """

    def __init__(
        self,
        database: Database,
        limits: Limits,
        keys: Mapping[str, Sequence[str]],
        *,
        account: str,
        way: As,
        source: str,
        router: Router | None = None,
        end_waiting: bool = False,
        unsigned: bool = False,
        rate: float = 20.0,
        dry_run: bool = False,
        tell: Callable[[int, str], None] = lambda *_: None,
    ) -> None:
        self.report = Report()
        self._database = database
        self._receipts = Receipts(database, router, insert="import_events")
        self._store = EventStore(database)
        self._limits = limits
        self._verifiers = {name: Verifier(own) for name, own in keys.items()}
        self._account = account
        self._way = way
        self._end_waiting = end_waiting
        self._needs_signature = (way is As.WORK or end_waiting) and not unsigned
        self._rate = rate if way is As.WORK and not dry_run else None
        self._most = _BATCH if self._rate is None else max(1, min(_BATCH, round(self._rate)))  # webhooks in a batch
        self._dry_run = dry_run
        self._tell = tell
        self._reason = storable(f"imported as {way} from {source}")
        self._days: set[tuple[str, date]] = set()  # days that have their partition

    async def run(self, lines: Iterable[Line | tuple[int, str]]) -> Report:
        """Imports the lines. Raises UnavailableError if PostgreSQL goes away; then another run goes on."""
        if not self._database.up:
            raise UnavailableError("postgresql", self._database.problem or "away")
        due = 0.0
        for batch in self._batches(lines):
            await asyncio.sleep(due - time.monotonic())
            before = self.report.imported
            await (self._look(batch) if self._dry_run else self._take(batch))
            if self._rate is not None:
                due = time.monotonic() + (self.report.imported - before) / self._rate
        return self.report

    def _batches(self, lines: Iterable[Line | tuple[int, str]]) -> Iterator[list[_Checked]]:
        batch: list[_Checked] = []
        size = 0
        for line in lines:
            self.report.lines += 1
            if not isinstance(line, Line):
                self._refuse(*line)
                continue
            try:
                batch.append(self._checked(line))
            except (BadLineError, UnusableError) as error:
                self._refuse(line.number, str(error))
                continue
            size += len(line.body)
            if len(batch) >= self._most or size >= _BATCH_BYTES:
                yield batch
                batch, size = [], 0
        if batch:
            yield batch

    def _checked(self, line: Line) -> _Checked:
        account = (line.account or self._account).lower()
        verifier = self._verifiers.get(account)
        if verifier is None:
            raise BadLineError("no setting has keys of the account that the line names")
        key = self._key(verifier, line)
        notification = parse(line.body, account)
        self._check_times(line, notification)
        event_id = id_at(line.received_at)
        # The ledger has the milliseconds of the id: the timeline must get the same time as from the ledger.
        received_at = line.received_at.replace(microsecond=line.received_at.microsecond // 1000 * 1000)
        event = Event(event_id, account, *notification[:3], received_at, 1, line.body)
        too_old = self._database.now() - line.received_at > timedelta(seconds=self._limits.bodies)
        body = None if self._way is As.HISTORY and too_old else line.body
        return _Checked(line.number, Arrival(event_id, account, notification, key, body, hash_of_body(line.body)), event)

    def _key(self, verifier: Verifier, line: Line) -> str:
        """Returns the fingerprint of the key that signed the body; an empty text if the line has no signature."""
        if line.signature is None:
            self.report.signatures["none"] += 1
            if self._needs_signature:
                raise BadLineError(
                    "the line has no `signature`: give --unsigned if nobody else could write to the file's source"
                )
            return ""
        try:
            key = verifier.verify(line.body, line.signature)
        except SignatureError as error:
            self.report.signatures["wrong"] += 1
            raise BadLineError(f"{error}: add the key of that time to the account's keys, or omit the signature") from error
        self.report.signatures["verified"] += 1
        return key

    def _check_times(self, line: Line, notification: Notification) -> None:
        now, limits = self._database.now(), self._limits
        # Retention removed an event only if its date is this old. So an event that was removed is never taken for a new one.
        oldest = min(line.received_at, notification.event_date or line.received_at)
        if (now - oldest).total_seconds() > limits.events:
            raise BadLineError(
                f"the webhook is older than WEBHOOKD_EVENT_RETENTION ({limits.events / _DAY:g} days): retention would remove it"
            )
        if (line.received_at - now).total_seconds() > _CLOCKS_SECONDS:
            raise BadLineError("`received_at` lies in the future: a time that names no zone is UTC")
        if notification.event_date and (notification.event_date - line.received_at).total_seconds() > _EARLY_SECONDS:
            raise BadLineError(
                "`received_at` lies before the webhook's eventDate: name its zone; a time that names none is UTC"
            )
        check_age(notification.event_date, now, limits.events, limits.skew)

    def _refuse(self, number: int, reason: str) -> None:
        self.report.refuse(number, reason)
        self._tell(number, reason)

    async def _take(self, batch: list[_Checked]) -> None:
        """Stores a batch. Folds history into the timeline, duplicates too: an earlier run may have ended before its fold."""
        await self._make_partitions(batch)
        history = self._way is As.HISTORY
        results = await self._receipts.accept(
            [one.arrival for one in batch], send_after=None if history else 0.0, actor=ACTOR, reason=self._reason
        )
        told: list[Event] = []
        known: list[UUID] = []
        others: list[UUID] = []
        for one, result in zip(batch, results, strict=True):
            if not isinstance(result, Accepted):
                self._refuse(one.number, why_not_stored(result))
                continue
            if result.layer is None:
                self.report.imported += 1
                self.report.without_body += one.arrival.body is None
            else:
                self._count_duplicate(same_body=result.same_body)
                known.append(result.id)
            if result.layer is None or (result.same_body and one.event.event_date is not None):
                told.append(one.event)
            else:
                others.append(result.id)
        if history:
            await self._fold(told, others)
            if self._end_waiting and known:
                ended = await self._database.one(queries.end_waiting, ids=known, actor=ACTOR, reason=self._reason)
                self.report.ended += int(ended)

    def _count_duplicate(self, *, same_body: bool) -> None:
        self.report.duplicates += 1
        self.report.other_body += not same_body

    async def _fold(self, events: list[Event], stored: list[UUID]) -> None:
        """Folds events, and the events `stored` as webhookd has them, into the timeline."""
        for last in (*[False] * _FOLD_TRIES, True):
            try:
                with gateway():
                    async with self._database.acquire("fold") as connection:
                        read = [claimed.event for claimed in await self._store.read(connection, stored)] if stored else []
                        await self._store.process(connection, [], fold_all([*events, *read]))
            except BusyError:
                if last:
                    raise
                await asyncio.sleep(_PAUSE_SECONDS)
            else:
                return

    async def _look(self, batch: list[_Checked]) -> None:
        """Counts what an import of the batch would do, and stores nothing."""
        arrivals = [one.arrival for one in batch]
        rows = await self._database.all(
            queries.find_known,
            notification_keys=[notification_key(a.account, a.notification.notification_id) for a in arrivals],
            content_keys=[a.notification.content_key and a.notification.content_key.hex() for a in arrivals],
            body_hashes=[a.body_hash.hex() for a in arrivals],
        )
        for row in rows:
            self._count_duplicate(same_body=row["same_body"])
        if self._end_waiting:
            self.report.ended += len({row["event_id"] for row in rows if row["waits"]})
        known = {row["position"] - 1 for row in rows}
        new = [arrival for position, arrival in enumerate(arrivals) if position not in known]
        self.report.imported += len(new)
        self.report.without_body += sum(arrival.body is None for arrival in new)

    async def _make_partitions(self, batch: list[_Checked]) -> None:
        for parent, needs in (("audit", batch), ("bodies", [one for one in batch if one.arrival.body is not None])):
            instants = [one.event.received_at for one in needs if (parent, one.event.received_at.date()) not in self._days]
            if instants:
                await make_past_partitions(self._database, parent, instants)
                self._days |= {(parent, instant.date()) for instant in instants}
