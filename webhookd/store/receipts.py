"""The statements that receive: they commit each authentic body, as an event or in quarantine, before it is answered."""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from datetime import datetime
from functools import partial
from typing import Any, Literal, NamedTuple, Protocol, TypeVar
from uuid import UUID

import asyncpg

from webhookd.authorizenet.notification import EVENT_TYPES, Notification, label
from webhookd.errors import RefusedError, UnavailableError
from webhookd.store.database import Database
from webhookd.store.failures import gateway
from webhookd.store.keys import kind_id, new_id, notification_key
from webhookd.store.pools import Connection
from webhookd.store.postgresql_problem import problem_of
from webhookd.store.queries import queries
from webhookd.telemetry.metrics import Metrics

T = TypeVar("T")
R = TypeVar("R")

_SEPARATOR = "\x1f"  # U+001F, which no text in a column has
# Errors for a row that PostgreSQL does not take: odd data, too much for an index, a constraint, a trigger's refusal.
_OF_ONE_ROW = (
    asyncpg.DataError,
    asyncpg.ProgramLimitExceededError,
    asyncpg.IntegrityConstraintViolationError,
    asyncpg.WithCheckOptionViolationError,
    asyncpg.PLPGSQLError,
    ValueError,
)


class Arrival(NamedTuple):
    """A verified notification on its way into the database."""

    id: UUID
    account: str
    notification: Notification
    key_fingerprint: str
    body: bytes | None  # None if an import does not store the body
    body_hash: bytes
    traceparent: str | None = None  # names the span of the receipt; None if it is not traced


class Accepted(NamedTuple):
    """The outcome of an arrival. `layer` is None for a new event, else the layer that found the duplicate."""

    id: UUID
    layer: str | None = None
    same_body: bool = True
    due: datetime | None = None  # when the sweeper sends a new event that the hot path did not send; None for others


class Quarantined(NamedTuple):
    """An authentic body that cannot become an event, on its way into quarantine."""

    id: UUID
    account: str
    reason: str
    detail: str
    key_fingerprint: str
    body: bytes
    body_hash: bytes


class Router(Protocol):
    """Chooses the destinations of new events, and hears of the events that were committed for them."""

    def choose(self, account: str, event_type: str, body: bytes) -> Sequence[str]:
        """Returns the names of the destinations that get an event."""

    def wake(self, destinations: Collection[str]) -> None:
        """Hears that deliveries to these destinations are committed."""


class Receipts:
    """The commits of received bodies, many at a time, on the database's `short` pool. `router` chooses destinations, if any.

    They raise UnavailableError while PostgreSQL is away. If PostgreSQL answers and refuses the statement itself (a missing
    right, a corrupted index), they raise RefusedError, and PostgreSQL counts as away until `prove` succeeds.
    """

    def __init__(
        self,
        database: Database,
        router: Router | None = None,
        *,
        insert: Literal["insert_events", "import_events"] = "insert_events",
        metrics: Metrics | None = None,
    ) -> None:
        """Makes the commits.

        insert: the statement that stores arrivals. `import_events` takes the time of the receipt from the arrival's id.
        metrics: count new events, however these came. None in commands, which nobody scrapes.
        """
        self._database = database
        self._router = router
        self._insert_query = insert
        self._account = "default"  # then the account of the last arrival
        # Make these series at the start: if a series began at 1, Prometheus would see no increase.
        self._accepted = {} if metrics is None else {name: metrics.accepted.labels(name) for name in (*EVENT_TYPES, "other")}

    async def accept(
        self, arrivals: Sequence[Arrival], *, send_after: float | None, actor: str | None = None, reason: str | None = None
    ) -> list[Accepted | BaseException]:
        """Commits arrivals in one statement. Returns a result for each, in order: an exception if PostgreSQL does not take it.

        send_after: seconds until the sweeper takes an event that the hot path did not send. None: another program processed it.
        actor, reason: for the audit trail, if somebody else than the provider caused the events.
        """
        self._account = arrivals[0].account
        results = await _by_halves(arrivals, lambda some: self._accept(some, send_after, actor, reason))
        if self._accepted:
            pairs = zip(arrivals, results, strict=True)
            new = [a.notification.event_type for a, result in pairs if isinstance(result, Accepted) and result.layer is None]
            for event_type, count in Counter(new).items():
                self._accepted[label(event_type)].inc(count)
        return results

    async def quarantine(self, bodies: Sequence[Quarantined]) -> list[UUID | BaseException]:
        """Commits bodies to quarantine. Returns the id of each (an earlier id of the same bytes), or an exception, in order."""
        return await _by_halves(bodies, self._quarantine)

    async def prove(self, connection: Connection) -> None:
        """Inserts an event and rolls it back. Raises PostgreSQL's error if PostgreSQL refuses the statement."""
        event_id = new_id()
        notification = Notification(f"webhookd:probe:{event_id}", "webhookd.probe", *[None] * 6)
        transaction = connection.transaction()
        await transaction.start()
        try:
            arrival = Arrival(event_id, self._account, notification, "", b"", bytes(16))
            columns = _columns([arrival], 0.0, None, None) | _pairs([arrival], {})
            await queries.insert_kinds(connection, kind_ids=columns["kind_ids"], kind_texts=columns["kind_texts"])
            await queries.insert_events(connection, **columns)
        except _OF_ONE_ROW:
            pass  # a user's constraint refuses this row, which is no real event
        finally:
            await transaction.rollback()

    async def _run(self, query: Callable[[Connection], Awaitable[R]]) -> R:
        try:
            with gateway():
                async with self._database.acquire() as connection:
                    return await query(connection)
        except _OF_ONE_ROW:
            raise
        except asyncpg.PostgresError as error:
            self._database.refused(error)
            raise RefusedError("postgresql", problem_of(error)) from error

    async def _all(self, query: Any, **parameters: Any) -> list[asyncpg.Record]:
        async def rows(connection: Connection) -> list[asyncpg.Record]:
            return [row async for row in query(connection, **parameters)]

        return await self._run(rows)

    async def _accept(
        self, arrivals: Sequence[Arrival], send_after: float | None, actor: str | None, reason: str | None
    ) -> list[Accepted]:
        results: dict[UUID, Accepted] = {}
        # One order for every batch on every replica: two batches that hold the same events cannot deadlock.
        waiting = sorted(arrivals, key=lambda a: (a.notification.content_key or b"", a.account, a.notification.notification_id))
        routes = {} if send_after is None else self._routes(waiting)  # no destination gets what another program processed
        for _ in range(3):
            row = await self._insert(_columns(waiting, send_after, actor, reason) | _pairs(waiting, routes))
            due, new_ids = row["due"], row["new_ids"]
            results |= {id_: Accepted(id_, due=due) for id_ in ([a.id for a in waiting] if new_ids is None else new_ids)}
            if routes and self._router is not None:
                self._router.wake({name for a in waiting if a.id in results for name in routes.get(a.id, ())})
            waiting = [a for a in waiting if a.id not in results]
            if waiting:
                waiting = await self._resolve_duplicates(waiting, results)
            if not waiting:
                return [results[a.id] for a in arrivals]
        # In each try, the row that was in the way vanished between the insert and the look-up.
        raise UnavailableError("postgresql", "a duplicate's first event could not be found")

    def _routes(self, arrivals: Sequence[Arrival]) -> dict[UUID, Sequence[str]]:
        if self._router is None:
            return {}
        chosen = ((a.id, self._router.choose(a.account, a.notification.event_type, a.body or b"")) for a in arrivals)
        return {event_id: names for event_id, names in chosen if names}

    async def _insert(self, columns: dict[str, Any]) -> asyncpg.Record:
        insert = partial(getattr(queries, self._insert_query), **columns)
        row: asyncpg.Record = await self._run(insert)
        if not row["known"]:
            kinds = {name: columns[name] for name in ("kind_ids", "kind_texts")}
            await self._run(partial(queries.insert_kinds, **kinds))
            row = await self._run(insert)
        return row

    async def _resolve_duplicates(self, waiting: list[Arrival], results: dict[UUID, Accepted]) -> list[Arrival]:
        rows = await self._all(
            queries.find_duplicates,
            accounts=[a.account for a in waiting],
            notification_ids=[a.notification.notification_id for a in waiting],
            notification_keys=[notification_key(a.account, a.notification.notification_id) for a in waiting],
            content_keys=_hexadecimal([a.notification.content_key for a in waiting]),
            body_hashes=_hexadecimal([a.body_hash for a in waiting]),
        )
        for row in rows:
            arrival = waiting[row["position"] - 1]
            # A batch that failed at another row may have committed this arrival before: it is no duplicate of itself.
            own = row["event_id"] == arrival.id
            results[arrival.id] = Accepted(arrival.id) if own else Accepted(row["event_id"], row["layer"], row["same_body"])
        return [a for a in waiting if a.id not in results]

    async def _quarantine(self, bodies: Sequence[Quarantined]) -> list[UUID]:
        rows = await self._all(
            queries.insert_quarantine,
            ids=[b.id for b in bodies],
            accounts=[b.account for b in bodies],
            reasons=[b.reason for b in bodies],
            details=[b.detail for b in bodies],
            key_fingerprints=[b.key_fingerprint for b in bodies],
            bodies=[b.body for b in bodies],
            body_hashes=[b.body_hash for b in bodies],
        )
        return [row["id"] for row in rows]


def why_not_stored(error: BaseException) -> str:
    """Returns why PostgreSQL did not take a row. Quotes nothing that stands in the row."""
    constraint = getattr(error, "constraint_name", None)
    state = getattr(error, "sqlstate", None)
    if constraint:
        return f"the constraint {constraint} of the table {getattr(error, 'table_name', None)} does not allow the row"
    return f"PostgreSQL does not accept the row: {type(error).__name__}{f' ({state})' if state else ''}"


async def _by_halves(rows: Sequence[T], commit: Callable[[Sequence[T]], Awaitable[list[R]]]) -> list[R | BaseException]:
    """Commits rows in one statement. A row that PostgreSQL does not take fails alone, without its neighbours."""
    try:
        return list(await commit(rows))
    except _OF_ONE_ROW as error:
        if len(rows) == 1:
            return [error]
        # By halves: one such row among 256 costs 16 more statements, not 256.
        half = len(rows) // 2
        return await _by_halves(rows[:half], commit) + await _by_halves(rows[half:], commit)


def _columns(arrivals: Sequence[Arrival], send_after: float | None, actor: str | None, reason: str | None) -> dict[str, Any]:
    # zip makes columns out of rows in C: thirteen comprehensions take as long as sending the columns.
    ids, accounts, notifications, key_fingerprints, bodies, body_hashes, traceparents = zip(*arrivals, strict=True)
    said = zip(*notifications, strict=True)
    notification_ids, event_types, event_dates, entity_names, entity_ids, invoices, references, contents = said
    return {
        "ids": ids,
        "notification_keys": [notification_key(*pair) for pair in zip(accounts, notification_ids, strict=True)],
        "content_keys": _hexadecimal(contents),
        "body_hashes": _hexadecimal(body_hashes),
        "notification_ids": _joined(notification_ids),
        "event_dates": event_dates,
        "entity_ids": _joined(entity_ids),
        "invoice_numbers": _joined(invoices),
        "merchant_references": _joined(references),
        "bodies": bodies,
        "traceparents": _joined(traceparents) if any(traceparents) else None,
        "send_after": send_after,
        "actor": actor,
        "reason": reason,
        **_kinds(list(zip(accounts, event_types, entity_names, key_fingerprints, strict=True))),
    }


def _pairs(arrivals: Sequence[Arrival], routes: Mapping[UUID, Sequence[str]]) -> dict[str, Any]:
    """Returns the pairs of an event and a destination that gets the event, in one order for every batch."""
    pairs = sorted((a.id, name) for a in arrivals for name in routes.get(a.id, ())) if routes else []
    if not pairs:
        return {"delivery_ids": None, "destinations": None}
    return {"delivery_ids": [event_id for event_id, _ in pairs], "destinations": [name for _, name in pairs]}


def _kinds(kinds: Sequence[tuple[str, str, str | None, str]]) -> dict[str, Any]:
    """Returns the id of each arrival's kind, and the id and text of each kind once.

    Raises ValueError if two kinds have the same id. The caller then commits them apart, and PostgreSQL refuses the second one.
    """
    texts = {kind: _joined(kind) for kind in dict.fromkeys(kinds)}
    ids = {kind: kind_id(text) for kind, text in texts.items()}
    if len(set(ids.values())) < len(ids):
        raise ValueError("two kinds of event have one id")
    return {"kinds": [ids[kind] for kind in kinds], "kind_ids": list(ids.values()), "kind_texts": list(texts.values())}


def _hexadecimal(keys: Sequence[bytes | None]) -> list[str | None]:
    """Returns keys of 16 bytes in the form in which asyncpg takes a uuid fastest."""
    return [None if key is None else key.hex() for key in keys]


def _joined(texts: Sequence[str | None]) -> str:
    """Joins a column of texts, with None as an empty text, into one: asyncpg writes an array ten times as slowly.

    Raises ValueError if a text holds the separator: the other texts would go to the wrong rows.
    """
    joined = _SEPARATOR.join([text or "" for text in texts])
    if joined.count(_SEPARATOR) != len(texts) - 1:
        raise ValueError("a text holds U+001F")
    return joined
