"""The details that handlers wait for, as PostgreSQL keeps them. The SQL is in `details.sql`.

A worker notes that an event waits. The role `sync` asks the provider, stores the facts, and then wakes the event's work.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import NamedTuple
from uuid import UUID

from webhookd.authorizenet.settlement import Facts
from webhookd.store.database import Database
from webhookd.store.event_store import Claimed, storable
from webhookd.store.pools import Connection
from webhookd.store.provider_facts import stored_facts
from webhookd.store.queries import queries


class Known(NamedTuple):
    """The knowledge about an event's transaction, and about the event's wait for it.

    came: whether the wait has ended: then the facts are good enough, even if a part is missing.
    noted: whether there is a note that the event waits or has waited.
    since, waited: since when, and for how many seconds, the event waits; now and None if it does not wait.
    problem: why the details did not come at the last try.
    asks: whether a process asks the provider for the account at the moment.
    """

    facts: Facts | None
    came: bool
    noted: bool
    since: datetime
    waited: float | None
    problem: str | None
    asks: bool


class Wanted(NamedTuple):
    """An event that waits for details. waited: seconds. tries: how often the provider was asked in vain."""

    event_id: UUID
    event_type: str
    transaction_id: str
    tries: int
    waited: float


class DetailsStore:
    """The details that handlers wait for. All methods raise UnavailableError while PostgreSQL is away."""

    def __init__(self, database: Database) -> None:
        self._database = database

    # -- the worker's side

    async def look(self, claimed: Claimed, transaction_id: str, connection: Connection | None = None) -> Known:
        """Returns what is known of an event's transaction. With `connection`, reads in the transaction of an attempt."""
        parameters = {
            "id": claimed.event.id,
            "account": claimed.event.account,
            "transaction_id": transaction_id,
            "redriven_at": claimed.redriven_at,
        }
        if connection is None:
            row = await self._database.one(queries.details_of_event, **parameters)
        else:
            row = await queries.details_of_event(connection, **parameters)
        facts = None if row["transaction_id"] is None else stored_facts(row).facts
        since = row["since"].astimezone(UTC)
        return Known(facts, row["came"], row["noted"], since, row["waited"], row["problem"], row["asks"])

    async def wait(self, claimed: Claimed, transaction_id: str, *, reason: str, delay: float, first: bool) -> bool:
        """Records that an event waits for details, at most for `delay` seconds. Returns False if the work moved on meanwhile.

        first: whether the wait begins, so that the audit trail names it.
        """
        row = await self._database.one(
            queries.wait_for_details,
            id=claimed.event.id,
            account=claimed.event.account,
            transaction_id=transaction_id,
            attempts=claimed.attempts,
            redriven_at=claimed.redriven_at,
            from_status=str(claimed.status),
            reason=storable(reason),
            delay=delay,
            first=first,
        )
        return row is not None

    async def end_wait(self, connection: Connection, event_id: UUID) -> None:
        """Removes the note that an event waits, in the transaction that ends its work."""
        await queries.end_wait_for_details(connection, id=event_id)

    # -- the side of `sync`

    async def take(self, account: str, most: int) -> list[Wanted]:
        """Returns the events that wait for the details of up to `most` transactions that are to be asked for now."""
        rows = await self._database.all(queries.take_wanted_details, account=account, most=most)
        return [Wanted(row["event_id"], row["event_type"], row["transaction_id"], row["tries"], row["waited"]) for row in rows]

    async def wake(self, ids: Sequence[UUID]) -> None:
        """Has the work of events sent at once, because the facts of their transaction are stored."""
        await self._database.one(queries.wake_for_details, ids=sorted(ids))

    async def postpone(self, ids: Sequence[UUID], delay: float, problem: str) -> None:
        """Records a try in vain. The next one is in `delay` seconds."""
        await self._database.one(queries.postpone_wanted_details, ids=sorted(ids), delay=delay, problem=storable(problem))

    async def postpone_all(self, account: str, delay: float, problem: str) -> None:
        """Records that the provider cannot be asked for an account for `delay` seconds."""
        await self._database.one(queries.postpone_all_wanted_details, account=account, delay=delay, problem=storable(problem))

    async def count(self, account: str) -> tuple[int, float]:
        """Returns how many events of an account wait, and for how many seconds the oldest one has waited."""
        row = await self._database.one(queries.count_wanted_details, account=account)
        return row["events"], row["oldest"]
