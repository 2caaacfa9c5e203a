"""The replay of stored events to a destination: the choice of events, and their deliveries. No handler runs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime
from typing import NamedTuple
from uuid import UUID

import asyncpg

from webhookd.deliver.destination import Destination, Payload
from webhookd.operate.filter import Filter
from webhookd.store.pools import Connection
from webhookd.store.queries import queries

_BODIES = 250  # events that one statement chooses if it returns their bodies, each of up to 1 MiB
_NO_BODY = "left out: the body is no longer kept"
_UNDER_WAY = "left out: a delivery is under way"
_NOT_ASKED_FOR = "left out: the destination's settings do not ask for the event"


class Choice(NamedTuple):
    """An event that an operation chose.

    reason: the state of the event or of its delivery, for the counts by reason.
    left_out: why the operation leaves the event alone; None if it changes the event.
    ended: when the event ended, if the operation changes the event's own work.
    """

    id: UUID
    event_type: str
    reason: str
    left_out: str | None = None
    ended: datetime | None = None


class DestinationReplays:
    """The part of replays to destinations. `destinations` returns those that are set in this process now, by name."""

    def __init__(self, destinations: Callable[[], Mapping[str, Destination]]) -> None:
        self._destinations = destinations

    def names(self) -> list[str]:
        """Returns the names of the destinations to which this process can replay events."""
        return list(self._destinations())

    async def choose(
        self,
        connection: Connection,
        name: str,
        wanted: Filter,
        *,
        ids: tuple[UUID, UUID],
        until: datetime,
        looked: int,
        size: int,
    ) -> tuple[list[Choice], UUID | None] | None:
        """Returns a page of at most `size` events with ids between `ids`, and the id after which the next page begins.

        Returns None if the destination is no longer set in this process: a reload has removed it.

        name: the destination.
        until: events that were received after this time are not chosen.
        looked: the number of events that the statement looks at.
        """
        destination = self._destinations().get(name)
        if destination is None:
            return None
        with_bodies = destination.settings.filter is not None
        size = min(size, _BODIES) if with_bodies else size
        found = [
            row
            async for row in queries.choose_stored(
                connection,
                after_id=ids[0],
                below=ids[1],
                wanted=wanted,
                destination=name,
                until=until,
                with_bodies=with_bodies,
                looked=looked,
                limit=size,
            )
        ]
        rows = [row for row in found if row["id"] is not None]
        last = rows[-1]["id"] if len(rows) == size else found[0]["last_id"]
        return [_choice(row, destination) for row in rows], last

    async def held_by(self, connection: Connection, name: str, most: int) -> str | None:
        """Returns why a replay waits, None if it goes on. It waits while `most` deliveries of the destination are due."""
        waiting = await queries.waiting_deliveries(connection, destination=name, most=most)
        return "deliveries that are due go first" if waiting >= most else None

    async def start(self, connection: Connection, name: str, ids: list[UUID], *, actor: str, reason: str) -> int:
        """Has events delivered again, in the caller's transaction. Returns the number of deliveries that this started."""
        return int(await queries.replay_deliveries(connection, destination=name, ids=ids, actor=actor, reason=reason))


def _choice(row: asyncpg.Record, destination: Destination) -> Choice:
    left_out = None
    if not row["has_body"]:
        left_out = _NO_BODY
    elif row["delivery"] in ("waiting", "retrying"):
        left_out = _UNDER_WAY
    elif not destination.takes(row["account"] or "", row["event_type"] or "", Payload(bytes(row["body"] or b""))):
        left_out = _NOT_ASKED_FOR
    reason = "the delivery is dead" if row["delivery"] == "dead" else "delivered, dropped, or never sent"
    return Choice(row["id"], row["event_type"] or "", reason, left_out)
