"""The statements about deliveries to destinations. The SQL is in `deliveries.sql`."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING, NamedTuple
from uuid import UUID

import asyncpg

from webhookd.store.database import Database
from webhookd.store.event_store import storable
from webhookd.store.queries import queries

if TYPE_CHECKING:
    from datetime import datetime

# Claims at a time, and records of failures at a time, for all destinations together: the receiver needs the same connections.
_CLAIMS, _FAILURES = 2, 2
_FIRST_PROBE, _LONGEST_PROBE = 5.0, 300.0  # seconds from the opening of a circuit to the first probe, and most between two
MOST = 100_000  # deliveries of one status that are counted


class Delivery(NamedTuple):
    """A delivery that a sender took: all that its request needs. `due` is the version of its row."""

    event_id: UUID
    attempts: int
    due: datetime
    since: datetime
    repeated: bool  # an earlier send has no recorded result, so the destination may have the event already
    probe: bool  # the circuit is open, and this delivery shows whether the destination works again
    account: str
    event_type: str
    received_at: datetime
    traceparent: str | None
    body: bytes | None  # None if the body is no longer kept
    key_fingerprint: str | None = None
    due_before: datetime | None = None  # when a retry was due that is a probe now


class Failure(NamedTuple):
    """A failed attempt: the reason, and the answer if there was one."""

    error: str
    status: int | None
    answer: str | None
    seconds: float
    down: bool | None = None  # the destination itself failed. False: it answered about this event. None: nobody knows
    asked: float = 0.0  # seconds for which the destination wants to get nothing


class Circuit(NamedTuple):
    """The state of a destination that fails. `opened_at` is None while the circuit is closed.

    probe_at: when the next probe may begin. A probe under way moves this time ahead.
    failures: different events that failed in a row, and failed probes.
    """

    opened_at: datetime | None
    probe_at: datetime | None
    failures: int


WELL = Circuit(None, None, 0)


class Counts(NamedTuple):
    """How many deliveries of a destination wait, are retried and are dead; each counted up to MOST."""

    waiting: int = 0
    retrying: int = 0
    dead: int = 0


class Deliveries:
    """The statements of the senders. All raise UnavailableError while PostgreSQL is away."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._claiming = asyncio.Semaphore(_CLAIMS)
        self._failing = asyncio.Semaphore(_FAILURES)

    async def due(self, names: Collection[str]) -> dict[str, bool]:
        """Returns those of the destinations that have a delivery that is due, and are not paused.

        If the circuit is open, each delivery that is not dead counts as due.
        The value is True if the circuit is open and no probe may begin yet.
        """
        rows = await self._database.all(queries.due_destinations, names=list(names))
        return {row["name"]: bool(row["held"]) for row in rows}

    async def claim(self, destination: str, most: int, *, lease: float) -> list[Delivery] | None:
        """Takes up to `most` deliveries that are due, if the circuit lets them pass.

        Nobody else takes them for `lease` seconds. Returns None if another statement held the circuit's row: claim again soon.
        """
        async with self._claiming:
            rows = await self._database.all(queries.claim_deliveries, destination=destination, most=most, lease=lease)
        if rows[0]["busy"]:
            return None
        # The columns before `busy` have the fields' order. Without a delivery, they are empty.
        return [Delivery(*tuple(row)[:-1]) for row in rows if row["event_id"] is not None]

    async def end(self, accepted: Sequence[tuple[UUID, str]]) -> list[float | None]:
        """Ends deliveries (event, destination) that the destination accepted. Returns for each the seconds since its receipt.

        None stands for a delivery that was no longer there, or that had died.
        """
        rows = await self._database.all(
            queries.end_deliveries,
            ids=[event_id for event_id, _ in accepted],
            destinations=[destination for _, destination in accepted],
        )
        seconds = {(row["event_id"], row["destination"]): float(row["seconds"]) for row in rows}
        return [seconds.get(pair) for pair in accepted]

    async def fail(self, destination: str, delivery: Delivery, failure: Failure, *, delay: float | None) -> bool | None:
        """Records a failed attempt; the next one follows in `delay` seconds, or none if it is None: the delivery is dead.

        A failed probe counts no attempt, unless the destination answered about the event, or the delivery is dead. If it counts
        none, `delay` does not matter: the delivery is due when it was before, or now if that time has come.
        Returns whether this failure opened the circuit, or left it open as a probe. Returns None, and changes nothing, if
        another attempt or an operator has taken over.
        """
        async with self._failing:
            row = await self._database.one(
                queries.fail_delivery,
                id=delivery.event_id,
                destination=destination,
                due=delivery.due,
                due_before=delivery.due_before,
                dead=delay is None,
                delay=delay or 0.0,
                error=storable(failure.error),
                answer=None if failure.answer is None else storable(failure.answer),
                status=failure.status,
                seconds=failure.seconds,
                down=failure.down,
                probe=delivery.probe,
                asked=failure.asked,
                first=_FIRST_PROBE,
                longest=_LONGEST_PROBE,
            )
        return None if row is None else bool(row["opened"])

    async def put_back(self, destination: str, delivery: Delivery) -> None:
        """Puts back a delivery that was taken and not sent. It is due at once, and no attempt is counted."""
        async with self._failing:
            await self._database.one(
                queries.put_back_delivery,
                id=delivery.event_id,
                destination=destination,
                due=delivery.due,
                probe=delivery.probe,
            )

    async def circuits(self) -> dict[str, Circuit]:
        """Returns the circuit of each destination that failed last, is not paused, and has deliveries that are not dead."""
        return circuits_of(await self._database.all(queries.circuits))

    async def counts(self) -> dict[str, Counts]:
        """Returns the counts of each destination that has deliveries, whether it is set or not."""
        rows: list[asyncpg.Record] = await self._database.all(queries.destination_counts, most=MOST)
        return {row["destination"]: Counts(row["waiting"], row["retrying"], row["dead"]) for row in rows}


def circuits_of(rows: Sequence[asyncpg.Record]) -> dict[str, Circuit]:
    """Returns circuits by destination, from the rows of the query `circuits`."""
    return {row["destination"]: Circuit(row["opened_at"], row["probe_at"], row["failures"]) for row in rows}
