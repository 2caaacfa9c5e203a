"""The replay of stored events to a destination: the choice of events, and their deliveries. No handler runs."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import NamedTuple
from uuid import UUID

import asyncpg

from webhookd.deliver.destination import Destination, Payload
from webhookd.operate.filter import Filter
from webhookd.store.pools import Connection
from webhookd.store.queries import queries

_ROWS = 1000  # events that one statement returns
_STATEMENTS = 4  # statements of one page
_BODIES = 4_194_304  # bytes of the bodies of a page; the last body may go beyond
IMPORTED = "left out: imported as history"
_NO_BODY = "left out: the body is no longer kept"
_UNDER_WAY = "left out: a delivery is under way"
_NOT_ASKED_FOR = "left out: the destination's settings do not ask for the type or the account"
_FILTERED = "left out: the destination's filter does not choose the event"
_REASONS = {"delivered": "delivered before", "dropped": "dropped by an operator before"}


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
        imported: bool,
        looked: int,
        size: int,
    ) -> tuple[list[Choice], UUID | None] | None:
        """Returns a page of events with ids between `ids`, and the id after which the next page begins.

        The page has at most `size` events that are sent, and those before them that are left out. It ends early after some
        thousand events, or some MiB of bodies. Returns None if the destination is no longer set in this process: a reload
        has removed it.

        name: the destination.
        until: events that were received after this time are not chosen.
        imported: also chooses events that another program has processed, and that an import took as history.
        looked: the number of events that one statement looks at.
        """
        destination = self._destinations().get(name)
        if destination is None:
            return None
        given = {"below": ids[1], "wanted": wanted, "destination": name, "until": until, "looked": looked}
        page: list[Choice] = []
        last: UUID | None = ids[0]
        taken, room, limit = 0, _BODIES, min(size, _ROWS)
        for _ in range(_STATEMENTS):
            found = [row async for row in queries.choose_stored(connection, after_id=last, limit=limit, **given)]
            rows = [row for row in found if row["id"] is not None]
            full = len(rows) == limit
            judged, room = await _judge(connection, destination, rows, imported=imported, room=room)
            for choice in judged:
                page.append(choice)
                taken += choice.left_out is None
                if taken == size:
                    return page, choice.id
            if len(judged) < len(rows):
                return page, page[-1].id
            last = rows[-1]["id"] if full else found[0]["last_id"]
            if not full:
                break
            limit = _ROWS
        return page, last

    async def held_by(self, connection: Connection, name: str, most: int) -> str | None:
        """Returns why a replay waits, None if it goes on. It waits while `most` deliveries of the destination are due."""
        gate = await queries.replay_gate(connection, destination=name, most=most)
        if gate["due"] < most:
            return None
        if gate["paused"]:
            return "the destination is paused"
        return "the destination fails, and gets only probes" if gate["open"] else "deliveries that are due go first"

    async def start(self, connection: Connection, name: str, ids: list[UUID], *, actor: str, reason: str) -> int:
        """Has events delivered again, in the caller's transaction. Returns the number of deliveries that this started."""
        return int(await queries.replay_deliveries(connection, destination=name, ids=ids, actor=actor, reason=reason))


async def _judge(
    connection: Connection, destination: Destination, rows: Sequence[asyncpg.Record], *, imported: bool, room: int
) -> tuple[list[Choice], int]:
    """Returns the choices of the first rows, and how many bytes of bodies there is still room for.

    Only a filter needs bodies. Without room for the bodies of all rows, returns fewer choices than rows, but one at least.
    """
    choices = [_choice(row, destination, imported=imported) for row in rows]
    if destination.settings.filter is None:
        return choices, room
    open_ = [choice.id for choice in choices if choice.left_out is None]
    bodies: dict[UUID, bytes | None] = {}
    if open_ and room > 0:
        bodies = {row["id"]: row["body"] async for row in queries.stored_bodies(connection, ids=open_, most=room)}
    judged = []
    for row, choice in zip(rows, choices, strict=True):
        left_out = choice.left_out
        if left_out is None:
            if choice.id not in bodies:
                break
            body = bodies[choice.id]
            room -= len(body or b"")
            if body is None:
                left_out = _NO_BODY
            elif not destination.takes(row["account"] or "", choice.event_type, Payload(bytes(body))):
                left_out = _FILTERED
            await asyncio.sleep(0)  # a body may be large, and the filter slow
        judged.append(choice._replace(left_out=left_out))
    return judged, room


def _choice(row: asyncpg.Record, destination: Destination, *, imported: bool) -> Choice:
    """Returns the choice of all that decides, except the destination's filter."""
    event_type = row["event_type"] or ""
    left_out = None
    if not row["has_body"]:
        left_out = _NO_BODY
    elif row["delivery"] in ("waiting", "retrying"):
        left_out = _UNDER_WAY
    elif not destination.asks_for(row["account"] or "", event_type):
        left_out = _NOT_ASKED_FOR
    elif row["imported"] and not imported:
        left_out = IMPORTED
    reason = "the delivery is dead" if row["delivery"] == "dead" else _REASONS.get(row["ended"] or "", "never sent")
    return Choice(row["id"], event_type, reason, left_out)
