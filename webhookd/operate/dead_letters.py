"""What an operator does with dead events: looks at them, redrives them, lets them go.

All of it is in PostgreSQL: a redriven event goes the way of every event, through the outbox; its copy in the dead-letter
queue is taken away by the daemons, as is that of a discarded one.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any
from uuid import UUID

import asyncpg

from webhookd.lifecycle import shielded
from webhookd.store.database import Database, gateway
from webhookd.store.queries import queries

_PAGE = 1000
_TURN = 0.25  # seconds between two batches of a redrive
_DISCARDED_AT_ONCE = 500
_STATEMENT = 15.0  # seconds
_WAITED = 5.0  # seconds after which a fresh event counts as waiting
_BACKLOG = 100  # waiting events from which on a redrive holds back
_AHEAD = 10.0  # seconds of a redrive's rate that may be under way
_HOLD = 1.0  # seconds between two looks while it holds back


@dataclass(slots=True, frozen=True)
class Selection:
    """Which dead events; None stands for any.

    `event_types`: names, where `*` stands for any text and `net.authorize.` may be left out. `reason`: a part of the reason
    or of the last error. `since`, `until`: of the death. `discarded`: only those that were, or were not, let go.
    """

    ids: tuple[UUID, ...] | None = None
    event_types: tuple[str, ...] | None = None
    account: str | None = None
    reason: str | None = None
    since: datetime | None = None
    until: datetime | None = None
    discarded: bool | None = False

    @property
    def is_everything(self) -> bool:
        """Whether nothing narrows it."""
        return not any((self.ids, self.event_types, self.account, self.reason, self.since, self.until))

    def parameters(self) -> dict[str, Any]:
        """As `webhookd_dead` takes it."""
        return {
            "ids": self.ids,
            "event_types": None if self.event_types is None else [_pattern(name) for name in self.event_types],
            "account": self.account,
            "reason": self.reason,
            "since": self.since,
            "until": self.until,
            "discarded": self.discarded,
        }


def _pattern(name: str) -> str:
    whole = name if name.startswith(("net.", "*")) else f"net.authorize.{name}"
    return whole.replace("\\", "\\\\").replace("%", "\\%").replace("_", "\\_").replace("*", "%")


class Action(StrEnum):
    """What is done with a selection."""

    REDRIVE = "redrive"
    DISCARD = "discard"


@dataclass(slots=True)
class Count:
    """How many events a selection holds, by type and by reason."""

    total: int = 0
    event_types: Counter[str] = field(default_factory=Counter)
    reasons: Counter[str] = field(default_factory=Counter)


@dataclass(slots=True)
class Progress:
    """How far an action has come."""

    done: int = 0
    skipped: int = 0  # no longer dead, or dead anew, when their turn came
    held_by: str = ""  # what it waits for now
    held_seconds: float = 0.0


class DeadLetters:
    """The operator's side of dead events. All raise UnavailableError where PostgreSQL does not answer."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def _one(self, query: Any, **parameters: Any) -> Any:
        with gateway():
            async with self._database.acquire() as connection:
                return await query(connection, **parameters)

    async def _all(self, query: Any, **parameters: Any) -> list[asyncpg.Record]:
        with gateway():
            async with self._database.acquire() as connection:
                return [row async for row in query(connection, **parameters)]

    async def newest(self, selection: Selection, limit: int) -> list[asyncpg.Record]:
        """The events that died last (sql: list_dead), at most `limit`."""
        return await self._all(queries.list_dead, **selection.parameters(), limit=limit)

    async def event(self, event_id: UUID) -> tuple[asyncpg.Record, list[asyncpg.Record]] | None:
        """An event with its body (sql: event_in_full), whatever its status, and its audit trail; None where there is none."""
        row = await self._one(queries.event_in_full, id=event_id)
        return None if row is None else (row, await self._all(queries.audit_trail, id=event_id))

    async def now(self) -> datetime:
        """PostgreSQL's clock, which says what has died before an action began."""
        result: datetime = await self._one(queries.clock)
        return result

    async def count(self, selection: Selection, limit: int | None) -> Count:
        """What an action on the first `limit` events of `selection` would do."""
        count = Count()
        async for page in self._pages(selection, _PAGE, limit):
            for row in page:
                count.total += 1
                count.event_types[row["event_type"]] += 1
                count.reasons[row["dead_reason"] or "dead"] += 1
        return count

    async def _pages(self, selection: Selection, size: int, limit: int | None) -> AsyncIterator[list[asyncpg.Record]]:
        place: tuple[datetime, UUID] = datetime.min.replace(tzinfo=UTC), UUID(int=0)
        left = limit
        while left is None or left > 0:
            page = await self._all(
                queries.choose_dead,
                **selection.parameters(),
                after_death=place[0],
                after_id=place[1],
                limit=size if left is None else min(size, left),
            )
            if not page:
                return
            place = page[-1]["finished_at"], page[-1]["id"]
            left = None if left is None else left - len(page)
            yield page

    async def redrive(
        self, selection: Selection, progress: Progress, *, actor: str, note: str, rate: float, limit: int | None, told: Told
    ) -> None:
        """Puts the first `limit` events of `selection`, the oldest death first, into the outbox, `rate` a second.

        Fresh events go first: while 100 of them have waited for more than 5 s, or what was redriven before is not yet tried,
        it holds back. An event that dies again meanwhile is not redriven twice: `selection.until` bounds it. Cancelled, it ends
        between two batches, and `progress` says how far it came.
        """
        size = max(1, round(rate * _TURN))
        due = time.monotonic()
        async for page in self._pages(selection, size, limit):
            await self._give_way(progress, rate, told)
            await self._change(Action.REDRIVE, page, selection, progress, actor=actor, note=note)
            told(progress)
            due = max(due + len(page) / rate, time.monotonic() - _TURN)
            await asyncio.sleep(max(due - time.monotonic(), 0))

    async def discard(
        self, selection: Selection, progress: Progress, *, actor: str, note: str, limit: int | None, told: Told
    ) -> None:
        """Lets the first `limit` events of `selection` go: they stay dead, without a copy, and retention may remove them."""
        async for page in self._pages(selection, _DISCARDED_AT_ONCE, limit):
            await self._change(Action.DISCARD, page, selection, progress, actor=actor, note=note)
            told(progress)
            await asyncio.sleep(0)

    async def _change(
        self, action: Action, page: list[asyncpg.Record], selection: Selection, progress: Progress, *, actor: str, note: str
    ) -> None:
        query = queries.redrive_events if action is Action.REDRIVE else queries.discard_events
        ids = [row["id"] for row in page]
        until = selection.until or page[-1]["finished_at"]

        async def change() -> None:
            changed = int(await self._one(query, ids=ids, until=until, actor=actor, reason=note))
            progress.done += changed
            progress.skipped += len(ids) - changed

        await shielded(change(), _STATEMENT)

    async def _give_way(self, progress: Progress, rate: float, told: Told) -> None:
        ahead = max(round(rate * _AHEAD), 1)
        began = time.monotonic()
        while True:
            row = await self._one(queries.traffic, settled=_WAITED, fresh_limit=_BACKLOG, redriven_limit=ahead)
            if row["fresh"] >= _BACKLOG:
                progress.held_by = "fresh events go first"
            elif row["redriven"] >= ahead:
                progress.held_by = "events redriven before are still to be tried"
            else:
                progress.held_by = ""
                return
            told(progress)
            await asyncio.sleep(_HOLD)
            progress.held_seconds += time.monotonic() - began
            began = time.monotonic()


Told = Callable[[Progress], object]
