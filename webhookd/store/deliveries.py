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
MOST = 100_000  # deliveries of one status that are counted


class Delivery(NamedTuple):
    """A delivery that a sender took: all that its request needs. `due` is the version of its row."""

    event_id: UUID
    attempts: int
    due: datetime
    since: datetime
    repeated: bool  # an earlier send has no recorded result, so the destination may have the event already
    account: str
    event_type: str
    received_at: datetime
    traceparent: str | None
    body: bytes | None  # None if the body is no longer kept


class Failure(NamedTuple):
    """A failed attempt: the reason, and the answer if there was one."""

    error: str
    status: int | None
    answer: str | None
    seconds: float


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

    async def due(self, names: Collection[str]) -> list[str]:
        """Returns those of the destinations that have a delivery that is due, and are not paused."""
        rows = await self._database.all(queries.due_destinations, names=list(names))
        return [row["name"] for row in rows]

    async def claim(self, destination: str, most: int, *, lease: float) -> list[Delivery]:
        """Takes up to `most` deliveries that are due. Nobody else takes them for `lease` seconds."""
        async with self._claiming:
            rows = await self._database.all(queries.claim_deliveries, destination=destination, most=most, lease=lease)
        return [Delivery(**dict(row)) for row in rows]

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

    async def fail(self, destination: str, delivery: Delivery, failure: Failure, *, delay: float | None) -> bool:
        """Records a failed attempt; the next one follows in `delay` seconds, or none if it is None: the delivery is dead.

        Returns False, and changes nothing, if another attempt or an operator has taken over.
        """
        async with self._failing:
            row = await self._database.one(
                queries.fail_delivery,
                id=delivery.event_id,
                destination=destination,
                due=delivery.due,
                dead=delay is None,
                delay=delay or 0.0,
                error=storable(failure.error),
                answer=None if failure.answer is None else storable(failure.answer),
                status=failure.status,
                seconds=failure.seconds,
            )
        return row is not None

    async def counts(self) -> dict[str, Counts]:
        """Returns the counts of each destination that has deliveries, whether it is set or not."""
        rows: list[asyncpg.Record] = await self._database.all(queries.destination_counts, most=MOST)
        return {row["destination"]: Counts(row["waiting"], row["retrying"], row["dead"]) for row in rows}
