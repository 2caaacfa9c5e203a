"""An operator's work with bodies in quarantine: list and show them, release them as events, discard them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any
from uuid import UUID

import asyncpg

from webhookd.authorizenet.notification import parse_mended
from webhookd.errors import ConflictError, NotFoundError, UnusableError
from webhookd.operate.cursor import Cursor, ids_between
from webhookd.operate.filter import QuarantineFilter
from webhookd.operate.operator_queries import OperatorQueries
from webhookd.operate.search import Page, Rows, ask, page_of
from webhookd.store.event_store import storable
from webhookd.store.keys import new_id
from webhookd.store.queries import queries
from webhookd.store.receipts import Accepted, Arrival, Receipts, why_not_stored

_MISSING = "there is no body {} in quarantine; retention may have removed it"


@dataclass(slots=True, frozen=True)
class Released:
    """The result of a release: the event that the body became, or the event that the body repeats."""

    event_id: UUID
    duplicate: bool
    mended: tuple[str, ...]  # what in the body had to be mended before the body could be read


class Quarantine:
    """The operator's side of quarantine. Each method raises UnavailableError if PostgreSQL does not answer."""

    def __init__(self, statements: OperatorQueries, receipts: Receipts) -> None:
        self._statements = statements
        self._receipts = receipts

    async def newest(self, wanted: QuarantineFilter, cursor: Cursor, limit: int, *, state: str, reason: str | None) -> Page:
        """Returns a page of at most `limit` bodies from `cursor` on, newest first. `state`: waiting, released or discarded."""
        low, high = ids_between(wanted.received_from, wanted.received_to)

        async def search(cursor: Cursor, looked: int, limit: int) -> Rows:
            return await ask(
                self._statements.all_in_order,
                queries.list_quarantine,
                below=min(cursor.id, high),
                from_id=low,
                looked=looked,
                limit=limit,
                state=state,
                reason=reason,
                wanted=wanted,
            )

        return await page_of(search, lambda row: Cursor(row["received_at"], row["id"]), cursor, limit)

    async def show(self, body_id: UUID) -> asyncpg.Record:
        """Returns a body with all that is known about the body. Raises NotFoundError."""
        row: asyncpg.Record | None = await self._statements.one(queries.quarantined, id=body_id)
        if row is None:
            raise NotFoundError(_MISSING.format(body_id))
        return row

    async def release(self, body_id: UUID, *, actor: str, note: str) -> Released:
        """Makes an event of a body, however old the body's date is.

        The event keeps the exact bytes that were received. If the bytes had to be mended, the audit trail says how.
        If the process crashes after the event's commit and before the release is recorded, the body still waits. A second
        release then finds the body to be a duplicate of that event.
        Raises NotFoundError, and ConflictError if the body cannot become an event.
        """
        async with self._statements.connection() as connection, connection.transaction():
            row = await queries.lock_quarantined(connection, id=body_id)
            if row is None:
                raise NotFoundError(_MISSING.format(body_id))
            if (refused := release_refused(row)) is not None:
                raise ConflictError(refused)
            arrival, mended = _arrival(row)
            how = "".join(f"; {what}" for what in mended)
            reason = storable(f"released from quarantine {body_id}{how}" + (f": {note}" if note else ""))
            [accepted] = await self._receipts.accept([arrival], send_after=0.0, actor=actor, reason=reason)
            if not isinstance(accepted, Accepted):
                raise ConflictError(f"the body cannot become an event: {why_not_stored(accepted)}")
            await queries.handle_quarantine(connection, id=body_id, **_handling("released", actor, note, accepted.id))
        return Released(accepted.id, accepted.layer is not None, mended)

    async def discard(self, body_id: UUID, *, actor: str, note: str) -> None:
        """Discards a body; retention removes it later. Raises NotFoundError, and ConflictError if it was handled before."""
        row = await self.show(body_id)
        if row["handled_at"] is not None:
            raise ConflictError(_handled(row))
        handling = _handling("discarded", actor, note, None)
        if await self._statements.one(queries.handle_quarantine, id=body_id, **handling) is None:
            raise ConflictError(_handled(await self.show(body_id)))


def _arrival(row: asyncpg.Record) -> tuple[Arrival, tuple[str, ...]]:
    body = bytes(row["body"])
    event_id = new_id()
    notification, mended = parse_mended(body, row["account"])
    return Arrival(event_id, row["account"], notification, row["key_fingerprint"], body, row["body_hash"]), mended


def _handling(outcome: str, actor: str, note: str, event_id: UUID | None) -> dict[str, Any]:
    return {"outcome": outcome, "actor": actor, "note": storable(note) or None, "event_id": event_id}


def release_refused(row: asyncpg.Record) -> str | None:
    """Returns why a body cannot become an event, or None if it can."""
    if row["handled_at"] is not None:
        return _handled(row)
    try:
        parse_mended(bytes(row["body"]), row["account"])
    except UnusableError as error:
        return f"the body cannot become an event: {error.detail}"
    return None


def _handled(row: asyncpg.Record) -> str:
    return f"{row['handled_by']} has already {row['outcome']} the body"
