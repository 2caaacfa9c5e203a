"""An operator's work with destinations: list and show them, redrive and drop deliveries, pause and resume."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

import asyncpg

from webhookd.errors import ConflictError, NotFoundError
from webhookd.operate.destination_figures import Figures, read_figures
from webhookd.operate.operator_queries import OperatorQueries
from webhookd.store.deliveries import MOST, WELL, Circuit, Counts, circuits_of
from webhookd.store.event_store import storable
from webhookd.store.queries import queries

_SHOWN = 20  # deliveries of each status that are shown
_BATCH = 1000
_MOST_HASTENED = 10_000


@dataclass(slots=True, frozen=True)
class DestinationState:
    """A destination with its counts. `is_set` is False for one that only its deliveries, or a pause, still name."""

    name: str
    is_set: bool
    counts: Counts
    paused_at: datetime | None
    paused_by: str | None
    circuit: Circuit

    @property
    def state(self) -> str:
        """Returns active, failing (the circuit is open, so only probes are sent), paused or removed."""
        if not self.is_set or self.paused_at is not None:
            return "paused" if self.is_set else "removed"
        return "active" if self.circuit.opened_at is None else "failing"


class Destinations:
    """The operator's side of destinations. `names` returns those that are set. Raises UnavailableError without PostgreSQL."""

    def __init__(self, statements: OperatorQueries, names: Callable[[], Collection[str]]) -> None:
        self._statements = statements
        self._names = names

    async def all(self) -> list[DestinationState]:
        """Returns every destination that is set, or has deliveries, or is paused."""
        rows = await self._statements.all(queries.destination_counts, most=MOST)
        counts = {row["destination"]: Counts(row["waiting"], row["retrying"], row["dead"]) for row in rows}
        return await self._states(counts)

    async def one(self, name: str) -> DestinationState:
        """Returns one destination. Raises NotFoundError."""
        counts = Counts(*await self._statements.one(queries.destination_count, destination=name, most=MOST))
        for found in await self._states({name: counts} if any(counts) else {}):
            if found.name == name:
                return found
        raise _unknown(name)

    async def _states(self, counts: Mapping[str, Counts]) -> list[DestinationState]:
        paused = {row["destination"]: row for row in await self._statements.all(queries.paused_destinations)}
        circuits = circuits_of(await self._statements.all(queries.circuits))
        names = self._names()
        return [
            DestinationState(
                name,
                name in names,
                counts.get(name, Counts()),
                paused[name]["paused_at"] if name in paused else None,
                paused[name]["paused_by"] if name in paused else None,
                circuits.get(name, WELL) if name in names else WELL,
            )
            for name in sorted({*names, *counts, *paused})
        ]

    async def _require(self, name: str) -> None:
        """Raises NotFoundError if a destination is not set, has no deliveries and is not paused. Counts nothing."""
        if name not in self._names() and not await self._statements.one(queries.destination_is_known, destination=name):
            raise _unknown(name)

    async def figures(self, names: Collection[str]) -> dict[str, Figures]:
        """Returns the ages of the oldest deliveries of destinations, and what was sent in the last hour."""
        return await read_figures(self._statements, names)

    async def failing(self) -> dict[str, datetime]:
        """Returns the destinations that are set and whose circuits are open, each with the time from which it is open."""
        circuits, names = circuits_of(await self._statements.all(queries.circuits)), self._names()
        return {name: one.opened_at for name, one in circuits.items() if one.opened_at is not None and name in names}

    async def must_be_set(self, name: str, consequence: str) -> None:
        """Raises ConflictError with the consequence if the destination is no longer set, and NotFoundError if it is unknown."""
        await self._require(name)
        if name not in self._names():
            raise ConflictError(f"the destination {name} is no longer set, {consequence}")

    async def newest(self, name: str, status: str) -> list[asyncpg.Record]:
        """Returns the first deliveries in one status: the next due, or the newest deaths."""
        return await self._statements.all(queries.list_deliveries, destination=name, status=status, limit=_SHOWN)

    async def redrive(self, name: str, ids: Sequence[UUID] | None, *, actor: str, note: str) -> tuple[int, bool]:
        """Has dead deliveries tried again, up to a thousand. Returns their number, and whether more may be dead."""
        await self.must_be_set(name, "so nobody would send: set it again, or drop what is left")
        done = await self._statements.one(
            queries.redrive_deliveries, destination=name, ids=_ids(ids), most=_BATCH, actor=actor, reason=storable(note) or None
        )
        return done, done == _BATCH

    async def drop(self, name: str, ids: Sequence[UUID] | None, *, unfinished: bool, actor: str, note: str) -> tuple[int, bool]:
        """Drops dead deliveries, up to a thousand, with `unfinished` also those that wait. Returns as `redrive`.

        If all are dropped, also those that wait, first cancels the replay to the destination, which would make more.
        """
        await self._require(name)
        if unfinished and ids is None:
            why = f"{actor} dropped all deliveries of {name}"
            await self._statements.all(queries.cancel_replays, destination=name, error=why)
        done = await self._statements.one(
            queries.drop_deliveries,
            destination=name,
            unfinished=unfinished,
            ids=_ids(ids),
            most=_BATCH,
            actor=actor,
            reason=storable(note) or None,
        )
        return done, done >= _BATCH

    async def pause(self, name: str, *, actor: str) -> None:
        """Has every replica take no more deliveries of a destination. Attempts under way end."""
        await self._require(name)
        await self._statements.one(queries.pause_destination, destination=name, actor=actor)

    async def resume(self, name: str) -> tuple[int, bool]:
        """Ends a pause, has an open circuit probe at once, and has up to ten thousand retries due now.

        Returns the number of these retries, and whether there may be more. No caller may go on by itself: a destination that
        still refuses would soon have spent all attempts.
        """
        await self._require(name)
        await self._statements.one(queries.resume_destination, destination=name)
        done = await self._statements.one(queries.hasten_retries, destination=name, most=_MOST_HASTENED)
        return done, done == _MOST_HASTENED


def _ids(ids: Sequence[UUID] | None) -> list[UUID] | None:
    return None if ids is None else list(ids)


def _unknown(name: str) -> NotFoundError:
    return NotFoundError(f"there is no destination {name}: `webhookd destinations list` names them")
