"""The checks after a recovery of PostgreSQL, SQS or Redis: which events are missing, what remembers them, what is left to do.

PostgreSQL is the truth. After it has gone back in time, Redis and SQS may remember events that were answered 200 and that
PostgreSQL lacks. These are evidence of what is missing.
"""

from __future__ import annotations

import shlex
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Any, NamedTuple
from uuid import UUID

from webhookd.errors import MessageGoneError, UnavailableError
from webhookd.queue.contract import Queue
from webhookd.queue.message import Message
from webhookd.runtime.loops import Watch
from webhookd.settings import Settings
from webhookd.sqs.gateway import Sqs
from webhookd.sqs.rds import RdsTokens
from webhookd.store.keys import notification_key
from webhookd.store.migrations import read, state_of
from webhookd.store.postgresql_problem import explained
from webhookd.store.queries import queries
from webhookd.store.redis_memory import RedisMemory, Remembered
from webhookd.store.session import Server
from webhookd.telemetry.metrics import Metrics

_READ_SECONDS = 30.0  # most time to read a queue
_HIDDEN_SECONDS = 60  # for so long, messages that were read stay hidden if this process dies
_LISTED = 10_000  # missing events that a report lists at most
_COUNTED = 100_000  # the statements count no further
_TIME = "%Y-%m-%dT%H:%M:%SZ"
_HISTORY = "https://api.authorize.net/rest/v1/notifications"


class State(StrEnum):
    """The state of one check. Only `left` makes the command fail."""

    FINE = "fine"
    LOOK = "look"  # a person must compare something that webhookd cannot see
    LEFT = "left"


@dataclass(slots=True, frozen=True)
class Step:
    """The result of one check: what was found, what this means, and the next command, if there is one."""

    check: str
    state: State
    found: str
    meaning: str
    command: str | None = None


class MissingEvent(NamedTuple):
    """An event that was answered 200, and that PostgreSQL lacks. A field is None if the source does not know it."""

    event_id: UUID
    account: str
    received_at: datetime
    notification_id: str | None
    event_type: str | None


@dataclass(slots=True)
class Evidence:
    """The events that Redis or SQS remembers, and that PostgreSQL lacks."""

    missing: dict[UUID, MissingEvent] = field(default_factory=dict)
    ids: set[UUID] = field(default_factory=set)  # all missing events, also those that are not listed
    again: set[UUID] = field(default_factory=set)  # events whose notification PostgreSQL has under another id

    @property
    def count(self) -> int:
        """Returns the number of missing events."""
        return len(self.ids)

    def add(self, event_id: UUID, account: str, *, notification_id: str | None = None, event_type: str | None = None) -> None:
        """Adds a missing event, or what another source knows of it."""
        known = self.missing.get(event_id)
        self.ids.add(event_id)
        if known is None:
            if len(self.missing) >= _LISTED:
                return
            self.missing[event_id] = MissingEvent(event_id, account, _time_of(event_id), notification_id, event_type)
        else:
            self.missing[event_id] = known._replace(event_type=known.event_type or event_type)


async def examine(settings: Settings, *, apply: bool, before: datetime | None, evidence: Evidence) -> AsyncIterator[Step]:
    """Yields the result of each check as it ends, and fills `evidence`. Raises WebhookdError if PostgreSQL does not answer.

    apply: removes stale keys in Redis, and messages of missing events in SQS. Else, nothing is changed.
    before: the last event of each account is looked for before this time; None for now.
    """
    url = settings.database_url.get_secret_value()
    with explained(url):
        queries.use(settings.database_schema)
        async with RdsTokens.password(settings.database_auth, settings.sqs_region) as password:
            # A standby, or the primary from before a failover, would give a false list.
            connection = await Server(url, password).connect(
                timeout=5, statement_cache_size=0, target_session_attrs="read-write"
            )
        try:
            async for step in _examine(connection, settings, evidence, apply=apply, before=before):
                yield step
        finally:
            await connection.close(timeout=5)


async def _examine(
    connection: Any, settings: Settings, evidence: Evidence, *, apply: bool, before: datetime | None
) -> AsyncIterator[Step]:
    schema = await state_of(connection, read())
    if schema.problem or schema.pending:
        missing = schema.problem or f"lacks the migrations {', '.join(one.id for one in schema.pending)}"
        yield Step("schema", State.LEFT, missing, "webhookd waits for the schema of its release", "webhookd migrate")
        return
    yield Step("schema", State.FINE, f"{queries.schema} is up to date", "webhookd can start")
    state = await queries.recovery_state(connection)
    yield await _redis(connection, settings, evidence, apply=apply)
    yield await _queues(connection, settings, evidence, apply=apply, replicas=state["replicas"])
    yield _missing(evidence)
    yield Step(
        "unfinished events",
        State.FINE,
        _events(state["unfinished"]),
        "webhookd sends and processes them by itself. Those that had ended before the recovery repeat their calls to other "
        "systems, with the event's id as idempotency key",
    )
    yield Step(
        "dead events",
        State.FINE,
        _events(state["dead"]),
        "webhookd makes the dead-letter queue agree by itself, within a minute of its start",
    )
    async for step in _gaps(connection, settings, before=before, replicas=state["replicas"]):
        yield step


async def _redis(connection: Any, settings: Settings, evidence: Evidence, *, apply: bool) -> Step:
    check = "redis"
    memory = RedisMemory(settings.redis_url.get_secret_value())
    oldest = datetime.now(UTC) - timedelta(seconds=settings.event_retention)  # retention may have removed older events
    known = stale = 0
    try:
        await memory.connect()
        present = (await queries.identify(connection))["instance"]
        async for remembered in memory.of_installation(present):
            some = [one for one in remembered if _time_of(one.event_id) > oldest]
            known += len(some)
            lacking = await _lacking(connection, some, evidence)
            for one in lacking:
                evidence.add(one.event_id, one.account, notification_id=one.notification_id)
            believed = [one.key for one in lacking if one.instance == present]
            stale += len(believed)
            if apply:
                await memory.remove(believed)
    except UnavailableError as error:
        return Step(check, State.LOOK, str(error), "webhookd works without Redis; only this evidence of missing events is lost")
    finally:
        await memory.close()
    found = f"{known} notifications remembered, {stale} of them believed now and missing in PostgreSQL"
    if not stale:
        return Step(check, State.FINE, found, "if the provider sends a missing event again, webhookd takes it as new")
    meaning = "if the provider sends these events again, webhookd would refuse them as duplicates"
    if apply:
        return Step(check, State.FINE, f"{found}; their keys are removed", "webhookd takes these events as new")
    return Step(check, State.LEFT, found, meaning, "webhookd recover --apply")


async def _lacking(connection: Any, some: Sequence[Remembered], evidence: Evidence) -> list[Remembered]:
    """Returns the notifications that PostgreSQL lacks, and notes those that PostgreSQL has under another event's id."""
    keys = [notification_key(one.account, one.notification_id) for one in some]
    lacking = []
    async for row in queries.missing_events(connection, ids=[one.event_id for one in some], notification_keys=keys):
        one = some[row["position"] - 1]
        if row["again"]:
            evidence.again.add(one.event_id)
        else:
            lacking.append(one)
    return lacking


async def _queues(connection: Any, settings: Settings, evidence: Evidence, *, apply: bool, replicas: bool) -> Step:
    check = "sqs"
    if replicas:
        return Step(
            check,
            State.LOOK,
            "not read, since replicas of webhookd run, or ran within the last minute",
            "SQS moves messages of missing events to the dead-letter queue, and WebhookdUnknownMessages fires. To list them, "
            "stop all replicas for a minute, and run this command again",
        )
    sqs = Sqs(settings, metrics=Metrics(), watch=Watch())
    try:
        await sqs.start()
        try:
            read = [await read_queue(connection, one, evidence, apply=apply) for one in (sqs.queue, sqs.dead_letter_queue)]
        finally:
            await sqs.stop()
    except UnavailableError as error:
        meaning = "webhookd stores webhooks meanwhile, and sends all unfinished events once SQS answers"
        return Step(check, State.LEFT, str(error), meaning, "webhookd doctor")
    messages, useless, removed = (sum(counts) for counts in zip(*(one[:3] for one in read), strict=True))
    found = f"{messages} messages, {useless} of them only of events that PostgreSQL lacks, {removed} of these removed"
    if useless > removed:
        meaning = "workers cannot use these messages. They end in the dead-letter queue, and stay there"
        return Step(check, State.LEFT, found, meaning, "webhookd recover --json > missing.json && webhookd recover --apply")
    if not all(one.whole for one in read):
        meaning = "the messages that were not read may name missing events, too"
        return Step(check, State.LEFT, f"{found}; not read to the end", meaning, "webhookd recover")
    return Step(check, State.FINE, found, "webhookd sends every unfinished event again, whatever the queues have lost")


class QueueRead(NamedTuple):
    """The counts of one reading of a queue."""

    messages: int
    useless: int  # messages that name only events that PostgreSQL lacks
    removed: int  # of the useless ones
    whole: bool  # whether the queue was read to the end


async def read_queue(
    connection: Any, queue: Queue, evidence: Evidence, *, apply: bool, seconds: float = _READ_SECONDS
) -> QueueRead:
    """Reads a queue for some `seconds` at most, and makes its messages visible again. Removes the useless ones if `apply`."""
    kept: dict[str, Message] = {}
    useless: dict[str, Message] = {}
    removed = 0
    whole = False
    end = time.monotonic() + seconds
    try:
        while time.monotonic() < end:
            some = await queue.receive(queue.limits.batch, wait=1, visibility=_HIDDEN_SECONDS)
            if not some:
                whole = True
                break
            kept |= {message.id: message for message in some}
            references = [reference for message in some for reference in message.references]
            unknown = [None] * len(references)
            rows = queries.missing_events(connection, ids=[one.event_id for one in references], notification_keys=unknown)
            lacking = {references[row["position"] - 1] async for row in rows}
            for one in lacking:
                if one.event_id not in evidence.again:
                    evidence.add(one.event_id, one.account, event_type=one.event_type)
            useless |= {
                message.id: message for message in some if message.references and lacking.issuperset(message.references)
            }
        count = len(kept)
        if apply and useless:
            results = await queue.delete(list(useless.values()))
            for message, failure in zip(useless.values(), results, strict=True):
                if failure is None or isinstance(failure, MessageGoneError):
                    removed += 1
                    del kept[message.id]
        return QueueRead(count, len(useless), removed, whole)
    finally:
        if kept:
            await queue.change_visibility([(message, 0) for message in kept.values()])


def _missing(evidence: Evidence) -> Step:
    check = "missing events"
    if not evidence.count:
        return Step(check, State.FINE, "0 events", "neither Redis nor SQS remembers an event that PostgreSQL lacks")
    first, last = (choose(one.received_at for one in evidence.missing.values()) for choose in (min, max))
    found = f"{_events(evidence.count)}, received from {first:{_TIME}} to {last:{_TIME}}"
    meaning = (
        "these events were answered 200, so the provider does not send them again. Fetch each one from the provider's history, "
        "and send it to webhookd"
    )
    one = next((one for one in evidence.missing.values() if one.notification_id), None)
    if one is None or one.notification_id is None:
        return Step(check, State.LEFT, found, meaning, _list_history(first))
    command = (
        f"curl --fail --netrc {shlex.quote(f'{_HISTORY}/{one.notification_id}')} > body.json && "
        f"webhookd trigger --body - --account {one.account} < body.json"
    )
    return Step(check, State.LEFT, found, meaning, command)


async def _gaps(connection: Any, settings: Settings, *, before: datetime | None, replicas: bool) -> AsyncIterator[Step]:
    rows = queries.latest_events(connection, before=before or datetime.now(UTC))
    latest = {row["account"]: row["received_at"] async for row in rows}
    for account in sorted({*settings.keys_by_account, *latest}):
        check = f"gap of {account}"
        if (last := latest.get(account)) is None:
            yield Step(
                check, State.LOOK, "no event among the last 100,000", "compare the provider's history with webhookd's events"
            )
            continue
        found = f"the last event came at {last:{_TIME}}"
        if replicas and before is None:
            found += ", perhaps after the recovery: give the time of the recovery as --before"
        meaning = "events from then until the recovery may be missing. Compare the provider's history with webhookd's events"
        yield Step(check, State.LOOK, found, meaning, _list_history(last))


def _list_history(first: datetime) -> str:
    return f"curl --fail --netrc '{_HISTORY}?from_date={first:%Y-%m-%d}&to_date={datetime.now(UTC):%Y-%m-%d}'"


def _events(number: int) -> str:
    return f"{number}{' or more' if number >= _COUNTED else ''} {'event' if number == 1 else 'events'}"


def _time_of(event_id: UUID) -> datetime:
    return datetime.fromtimestamp((event_id.int >> 80) / 1000, UTC)  # a UUID of version 7 begins with its time
