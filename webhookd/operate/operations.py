"""Operations: bulk work on events that an operator ordered. PostgreSQL keeps each from the first event to the last."""

from __future__ import annotations

import json
from dataclasses import dataclass
from enum import StrEnum
from typing import Any
from uuid import UUID

import asyncpg

from webhookd.errors import ConflictError, NotFoundError
from webhookd.operate.cursor import Cursor
from webhookd.operate.operator_queries import OperatorQueries
from webhookd.runtime.loops import Loop
from webhookd.store.event_store import storable
from webhookd.store.keys import new_id
from webhookd.store.queries import queries


class Kind(StrEnum):
    """The kind of work: a replay runs ended events again, a redrive dead events; a discard gives dead events to retention."""

    REPLAY = "replay"
    REDRIVE = "redrive"
    DISCARD = "discard"


@dataclass(slots=True, frozen=True)
class Order:
    """An operator's order. `rate`: events a second. `limit`: only so many events, those that come first; None for all."""

    kind: Kind
    selection: dict[str, Any]  # the choice of events, in the form of the API's JSON
    actor: str
    reason: str
    dry_run: bool
    rate: float
    limit: int | None


class Operations:
    """The list of operations: takes orders and reports progress. `runner` does the work; every process has one."""

    def __init__(self, statements: OperatorQueries, runner: Loop) -> None:
        self._statements = statements
        self._runner = runner

    async def order(self, order: Order) -> asyncpg.Record:
        """Stores an order, and returns the operation's row. Some process begins the operation within two seconds.

        Raises ConflictError if another replay to the destination of this one has not ended: each would leave out the events
        that the other has in hand. A dry run is always possible.
        """
        destination = None if order.dry_run else order.selection.get("destination")
        async with self._statements.connection() as connection, connection.transaction(isolation="read_committed"):
            if destination is not None:
                await queries.lock_replay_orders(connection)
                if (other := await queries.unfinished_replay(connection, destination=destination)) is not None:
                    raise ConflictError(
                        f"another replay to {destination} has not ended: wait for the operation {other}, or cancel it "
                        f"(`webhookd operations cancel {other}`)"
                    )
            row: asyncpg.Record = await queries.add_operation(
                connection,
                id=new_id(),
                kind=order.kind,
                dry_run=order.dry_run,
                actor=order.actor,
                reason=storable(order.reason),
                selection=json.dumps(order.selection),
                rate=order.rate,
                max_events=order.limit,
            )
        self._runner.wake()
        return row

    async def get(self, operation_id: UUID) -> asyncpg.Record:
        """Returns the operation's row. Raises NotFoundError."""
        row: asyncpg.Record | None = await self._statements.one(queries.operation, id=operation_id)
        if row is None:
            raise NotFoundError(f"there is no operation {operation_id}")
        return row

    async def newest(self, cursor: Cursor, limit: int) -> list[asyncpg.Record]:
        """Returns at most `limit` operations before `cursor`, newest first."""
        return await self._statements.all(queries.list_operations, below=cursor.id, limit=limit)

    async def cancel(self, operation_id: UUID) -> asyncpg.Record:
        """Ends an operation after its present batch; finished work stays done. Raises NotFoundError, ConflictError."""
        row: asyncpg.Record | None = await self._statements.one(queries.cancel_operation, id=operation_id)
        if row is None:
            ended = await self.get(operation_id)
            raise ConflictError(f"the operation has already ended: {ended['state']}")
        return row
